//! Knows a chunk that says nothing new, without parsing it.
//!
//! The chunks of a chat stream differ in little but the piece of text that they bring. A chunk that was parsed and changed nothing is
//! kept as a template with holes where strings stand that no rule reads; whatever equals it but for the insides of those strings has the
//! same members with the same values, and changes as little. No spelling of a member can slip through, as it could through a search for
//! names.

use std::ops::Range;

use memchr::memchr;

/// Members that no rule reads, at any depth; their strings are the holes. None of them is a member of [`Message`](super::wire::Message).
const UNREAD: [&[u8]; 8] = [b"content", b"text", b"reasoning_content", b"reasoning", b"thinking", b"arguments", b"refusal", b"obfuscation"];

/// Longer chunks are not worth keeping.
const LONGEST: usize = 4096;

/// A chunk that changed nothing.
#[derive(Debug, Default)]
pub(super) struct Template {
    text: Vec<u8>,
    /// What stands around the holes; empty if there is no template.
    solid: Vec<Range<usize>>,
}

impl Template {
    /// Takes over a chunk that is valid JSON and changed nothing.
    pub(super) fn learn(&mut self, chunk: &[u8]) {
        self.text.clear();
        self.solid.clear();
        if chunk.len() > LONGEST {
            return;
        }
        self.text.extend_from_slice(chunk);
        let (mut at, mut solid_from, mut name) = (0, 0, 0..0);
        while let Some(quote) = memchr(b'"', &chunk[at..]) {
            let start = at + quote + 1;
            let Some(len) = string(&chunk[start..]) else { break };
            let end = start + len;
            at = end + 1;
            if next(chunk, at) == Some(b':') {
                name = start..end;
            } else if UNREAD.contains(&&chunk[name.clone()]) {
                self.solid.push(solid_from..start);
                solid_from = end;
            }
        }
        self.solid.push(solid_from..chunk.len());
    }

    /// Is this chunk the same but for the holes?
    pub(super) fn fits(&self, chunk: &[u8]) -> bool {
        let Some((first, others)) = self.solid.split_first() else { return false };
        let Some(mut rest) = chunk.strip_prefix(&self.text[first.clone()]) else { return false };
        for solid in others {
            let Some(len) = string(rest) else { return false };
            let Some(after) = rest[len..].strip_prefix(&self.text[solid.clone()]) else { return false };
            rest = after;
        }
        rest.is_empty()
    }
}

/// How long the rest of a string is, up to its closing quote.
fn string(rest: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let end = from + memchr(b'"', &rest[from..])?;
        let escapes = rest[..end].iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes % 2 == 0 {
            return Some(end);
        }
        from = end + 1;
    }
}

fn next(chunk: &[u8], at: usize) -> Option<u8> {
    chunk[at..].iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &str = r#"{"id":"c1","choices":[{"index":0,"delta":{"content":" \"a\\"},"finish_reason":null}],"obfuscation":"x"}"#;

    fn fits(chunk: &str) -> bool {
        let mut template = Template::default();
        template.learn(CHUNK.as_bytes());
        template.fits(chunk.as_bytes())
    }

    #[test]
    fn a_chunk_fits_that_differs_in_strings_that_nobody_reads() {
        for (content, padding) in [(r"", ""), (r"b", "yz"), (r#"\"finish_reason\":\"length\""#, "\\\\"), (r"\u00e9\\", "é")] {
            let chunk = CHUNK.replace(r#" \"a\\"#, content).replace(r#":"x""#, &format!(":\"{padding}\""));
            assert!(fits(&chunk), "{chunk}");
        }
    }

    #[test]
    fn a_chunk_does_not_fit_that_differs_in_anything_else() {
        for chunk in [
            CHUNK.replace("null", "\"length\""),
            CHUNK.replace("index\":0", "index\":1"),
            CHUNK.replace("c1", "c2"),
            CHUNK.replace(r#""x"}"#, r#""x","error":{}}"#),
            CHUNK.replace(r#""x"}"#, r#""x"}}"#),
            CHUNK.replace(r#""x"}"#, r#""x""#),
            CHUNK.replace(r#" \"a\\"#, r#"a","content":"b"#),
            CHUNK.replace(r#" \"a\\"#, r"a\"),
            CHUNK.replace(r#" \"a\\"#, r#"a"},"finish_reason":"length"#),
            CHUNK[..CHUNK.len() / 2].to_owned(),
            String::new(),
        ] {
            assert!(!fits(&chunk), "{chunk}");
        }
    }

    #[test]
    fn nothing_fits_where_nothing_is_learnt() {
        assert!(!Template::default().fits(b""));
        let mut template = Template::default();
        template.learn(CHUNK.as_bytes());
        template.learn(&[b' '; LONGEST + 1]);
        assert!(!template.fits(CHUNK.as_bytes()) && !template.fits(b""));
    }

    #[test]
    fn a_string_under_a_name_that_is_read_is_no_hole() {
        let mut template = Template::default();
        template.learn(br#"{"content":["x"],"finish_reason":"","delta":{"content":{"finish_reason":""}}}"#);
        assert!(!template.fits(br#"{"content":["x"],"finish_reason":"length","delta":{"content":{"finish_reason":""}}}"#));
    }
}
