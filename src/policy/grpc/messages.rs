//! The framing of messages: a byte that says whether the message is compressed, its length in four bytes, the message
//! (gRPC over HTTP/2, "Length-Prefixed-Message").

use http::{request, response};

use crate::inspect::{Findings, Inspect, Inspector};

const HEAD: usize = 5;

/// Is a request body one message, and whole? What a client streams is not.
pub(super) fn is_one(body: &[u8]) -> bool {
    body.split_first_chunk().is_some_and(|(head, message)| head[0] <= 1 && length(*head) == message.len() as u64)
}

/// Looks whether messages are whole.
pub(super) struct Whole;

impl Inspect for Whole {
    fn begin(&self, _: &request::Parts, response: &response::Parts) -> Option<Box<dyn Inspector>> {
        let headers = &response.headers;
        super::is_grpc(headers)
            .then(|| Box::new(Watch::new(super::is_encoded(headers), headers.contains_key(&super::STATUS))) as Box<dyn Inspector>)
    }
}

/// Watches the messages of a response go by, without a look into them.
pub(super) struct Watch {
    /// May messages be compressed?
    encoded: bool,
    /// Did the head say how the call went? Then no message follows.
    ended: bool,
    head: [u8; HEAD],
    /// How much of the head has been seen.
    seen: usize,
    /// How much of the message has not been seen.
    left: u64,
    objection: Option<&'static str>,
}

impl Watch {
    pub(super) fn new(encoded: bool, ended: bool) -> Self {
        Self { encoded, ended, head: [0; HEAD], seen: 0, left: 0, objection: None }
    }

    fn begin_message(&mut self) {
        match self.head[0] {
            0 => {}
            1 if self.encoded => {}
            1 => self.objection = Some("compressed message without a coding"),
            _ => self.objection = Some("no gRPC message"),
        }
        self.left = length(self.head);
    }
}

impl Inspector for Watch {
    fn frame(&mut self, mut data: &[u8]) {
        if self.ended && !data.is_empty() {
            self.objection = Some("message after the status");
        }
        while !data.is_empty() && self.objection.is_none() {
            if self.left > 0 {
                let skip = usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()));
                self.left -= skip as u64;
                data = &data[skip..];
            } else {
                let take = (HEAD - self.seen).min(data.len());
                self.head[self.seen..self.seen + take].copy_from_slice(&data[..take]);
                self.seen += take;
                data = &data[take..];
                if self.seen == HEAD {
                    self.seen = 0;
                    self.begin_message();
                }
            }
        }
    }

    fn end(self: Box<Self>) -> Findings {
        let cut = self.seen > 0 || self.left > 0;
        let objection = self.objection.or(cut.then_some("message cut short"));
        Findings { objection: objection.map(Into::into), ..Findings::default() }
    }
}

fn length(head: [u8; HEAD]) -> u64 {
    u64::from(u32::from_be_bytes([head[1], head[2], head[3], head[4]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(flag: u8, len: usize) -> Vec<u8> {
        let mut message = vec![flag];
        message.extend(u32::try_from(len).unwrap().to_be_bytes());
        message.extend(std::iter::repeat_n(7, len));
        message
    }

    fn objection(mut watch: Watch, frames: &[&[u8]]) -> Option<String> {
        frames.iter().for_each(|frame| watch.frame(frame));
        Box::new(watch).end().objection.map(Into::into)
    }

    #[test]
    fn a_request_body_is_one_message_or_it_is_none() {
        for (body, expected) in [
            (message(0, 0), true),
            (message(0, 3), true),
            (message(1, 3), true),
            (message(2, 3), false),
            (Vec::new(), false),
            (message(0, 3)[..7].to_vec(), false),
            (message(0, 3)[..4].to_vec(), false),
            ([message(0, 3), message(0, 0)].concat(), false),
        ] {
            assert_eq!(is_one(&body), expected, "{body:?}");
        }
    }

    #[test]
    fn what_is_no_whole_message_is_objected_to() {
        let whole = message(0, 3);
        for (encoded, ended, frames, expected) in [
            (false, false, vec![&whole[..]], None),
            (false, false, vec![], None),
            (false, true, vec![], None),
            (false, true, vec![&whole[..]], Some("message after the status")),
            (false, false, vec![&whole[..7]], Some("message cut short")),
            (false, false, vec![&whole[..2]], Some("message cut short")),
            (false, false, vec![&message(1, 1)], Some("compressed message without a coding")),
            (true, false, vec![&message(1, 1)], None),
            (true, false, vec![&message(2, 1)], Some("no gRPC message")),
        ] {
            assert_eq!(objection(Watch::new(encoded, ended), &frames).as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn messages_are_told_apart_however_they_are_cut(lengths in proptest::collection::vec(0..40_usize, 0..6), size in 1..20_usize, short: bool) {
            let mut body: Vec<u8> = lengths.iter().flat_map(|len| message(0, *len)).collect();
            let cut = short && body.pop().is_some();
            let frames: Vec<&[u8]> = body.chunks(size).collect();
            prop_assert_eq!(objection(Watch::new(false, false), &frames).is_some(), cut);
        }
    }
}
