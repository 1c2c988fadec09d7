//! Gemini: `generateContent`, and `streamGenerateContent` as events or as an array.

use super::{reading::Reading, wire::Message};

impl Reading {
    pub(super) fn gemini(&mut self, message: &Message<'_>) {
        self.named(message.model_version.as_str());
        for candidate in message.candidates.as_slice() {
            let reason = Some(candidate.finish_reason.as_str()).filter(|reason| !matches!(*reason, "" | "FINISH_REASON_UNSPECIFIED"));
            self.choice(candidate.index.0, reason.is_some());
            if let Some(reason) = reason.filter(|reason| *reason != "STOP") {
                self.stopped(reason);
                // What is left are failures, and what the service may yet think of.
                if !matches!(reason, "MAX_TOKENS" | "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII") {
                    self.object(self.rules.errors, "answer broken off");
                }
            }
        }
        let blocked = message.prompt_feedback.0.as_ref().map_or("", |feedback| feedback.block_reason.as_str());
        if !matches!(blocked, "" | "BLOCK_REASON_UNSPECIFIED") {
            self.object(self.rules.refused, "prompt blocked");
        }
        if let Some(metadata) = &message.usage_metadata.0 {
            self.served(metadata.service_tier.as_str());
            self.counts.gemini(metadata);
        }
    }

    pub(super) fn end_gemini(&mut self) {
        // There is no terminal event: that every candidate is finished is all there is.
        if self.seen == 0 {
            self.object(self.rules.empty, "no candidates");
        }
        if self.seen & !self.finished != 0 {
            self.object(self.rules.incomplete, "candidate without a finish reason");
        }
    }
}
