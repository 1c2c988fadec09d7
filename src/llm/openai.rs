//! OpenAI: chat and legacy completions with the many that are compatible, embeddings, Responses, transcriptions.

use super::{
    reading::{Form, Reading},
    wire::{Details, Message, Object, Tokens},
};

impl Reading {
    pub(super) fn chat(&mut self, message: &Message<'_>) -> bool {
        self.named(message.model.as_str());
        self.served(message.service_tier.as_str());
        let mut idle = !message.error.0 && message.usage.0.is_none() && !message.choices.as_slice().is_empty();
        for choice in message.choices.as_slice() {
            let reason = choice.finish_reason.as_str();
            self.choice(choice.index.0, !reason.is_empty());
            if choice.error.0 {
                self.object(self.rules.errors, "answer broken off");
            }
            if !reason.is_empty() {
                self.stopped(reason);
            }
            idle &= reason.is_empty() && !choice.error.0;
        }
        if let Some(tokens) = &message.usage.0 {
            self.counts.chat(tokens);
        }
        idle
    }

    pub(super) fn end_chat(&mut self) {
        if self.form == Form::Events && !self.ended {
            self.object(self.rules.incomplete, "stream ends without its last event");
        }
        if self.seen == 0 {
            self.object(self.rules.empty, "no choices");
        }
        // Proxies end streams with `[DONE]` that broke off behind them.
        if self.form == Form::Events && self.seen & !self.finished != 0 {
            self.object(self.rules.incomplete, "stream ends without a finish reason");
        }
    }

    pub(super) fn embeddings(&mut self, message: &Message<'_>) {
        self.named(message.model.as_str());
        if let Some(tokens) = &message.usage.0 {
            self.counts.chat(tokens);
        }
    }

    pub(super) fn responses(&mut self, kind: &str, message: &Message<'_>) {
        match self.form {
            Form::Document => {
                self.named(message.model.as_str());
                self.served(message.service_tier.as_str());
                self.spent(&message.usage);
                self.status(message.status.as_str(), &message.incomplete_details);
            }
            Form::Events => {
                let Some(response) = &message.response.0 else { return self.closing(kind, "", &Object(None)) };
                self.named(response.model.as_str());
                self.served(response.service_tier.as_str());
                self.spent(&response.usage);
                if response.error.0 {
                    self.object(self.rules.errors, "response failed");
                }
                self.closing(kind, response.status.as_str(), &response.incomplete_details);
            }
        }
    }

    pub(super) fn transcription(&mut self, kind: &str, message: &Message<'_>) {
        self.spent(&message.usage);
        self.ended |= kind == "transcript.text.done";
    }

    /// The end of a stream that tells of it in an event of its own.
    pub(super) fn end_told(&mut self) {
        if self.form == Form::Events && !self.ended {
            self.object(self.rules.incomplete, "stream ends without its last event");
        }
    }

    /// Heeds an event that ends a stream.
    fn closing(&mut self, kind: &str, status: &str, details: &Object<Details<'_>>) {
        let told = match kind {
            "response.completed" => "completed",
            "response.incomplete" => "incomplete",
            "response.failed" => "failed",
            "response.cancelled" => "cancelled",
            _ => return,
        };
        self.ended = true;
        self.status(told, details);
        if !status.is_empty() {
            self.status(status, details);
        }
    }

    fn status(&mut self, status: &str, details: &Object<Details<'_>>) {
        match status {
            "completed" => {}
            "incomplete" => match details.0.as_ref().map(|details| details.reason.as_str()) {
                Some("content_filter") => self.stopped("content_filter"),
                _ => self.object(self.rules.truncated, "answer truncated"),
            },
            "failed" | "cancelled" => self.object(self.rules.errors, "response failed"),
            _ => self.object(self.rules.incomplete, "response not completed"),
        }
    }

    fn spent(&mut self, usage: &Object<Tokens<'_>>) {
        if let Some(tokens) = &usage.0 {
            self.counts.responses(tokens);
        }
    }
}
