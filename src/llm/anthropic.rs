//! Anthropic: Messages.

use super::{
    reading::{Form, Reading},
    wire::{Message, Object, Tokens},
};

impl Reading {
    pub(super) fn anthropic(&mut self, kind: &str, message: &Message<'_>) {
        match kind {
            "message_start" => {
                self.choice(None, false);
                if let Some(start) = &message.message.0 {
                    self.named(start.model.as_str());
                    self.tokens(&start.usage);
                }
            }
            "message_delta" => {
                self.tokens(&message.usage);
                self.ended_turn(message.delta.0.as_ref().map_or("", |delta| delta.stop_reason.as_str()));
            }
            "message_stop" => self.ended = true,
            "message" => {
                self.named(message.model.as_str());
                self.tokens(&message.usage);
                self.ended_turn(message.stop_reason.as_str());
            }
            _ => {}
        }
    }

    pub(super) fn end_anthropic(&mut self) {
        if self.form == Form::Events {
            if !self.ended || self.seen == 0 {
                self.object(self.rules.incomplete, "stream ends without its last event");
            }
            if self.finished == 0 {
                self.object(self.rules.incomplete, "stream ends without a stop reason");
            }
        }
    }

    fn ended_turn(&mut self, reason: &str) {
        if !reason.is_empty() {
            self.finished = 1;
            self.stopped(reason);
        }
    }

    fn tokens(&mut self, usage: &Object<Tokens<'_>>) {
        if let Some(tokens) = &usage.0 {
            self.served(tokens.service_tier.as_str());
            self.counts.anthropic(tokens);
        }
    }
}
