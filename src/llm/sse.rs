//! Server-sent events, cut out of a body that comes in pieces (WHATWG HTML, "Server-sent events", section 9.2.6).
//!
//! Every byte is looked at once. An event that lies within one piece is lent out from there; only what is cut by the end of a piece is
//! copied, and of that no more is kept than a bound.

use memchr::memchr2;

/// One event, as a client would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// Its `event:` field; empty if there is none.
    pub(super) name: &'a [u8],
    /// Its `data:` lines, joined with line feeds.
    pub(super) data: &'a [u8],
}

/// Finds the events.
#[derive(Debug)]
pub(super) struct Splitter {
    limit: usize,
    /// The line that is not finished yet.
    line: Vec<u8>,
    /// What finished lines say of the event that is not.
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// A line of an event was finished, its blank line was not.
    open: bool,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
    /// No line is finished yet: a byte order mark may stand before the first.
    first: bool,
    too_long: bool,
}

impl Splitter {
    /// A splitter for events whose lines are no longer than `limit` bytes together.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            open: false,
            after_cr: false,
            first: true,
            too_long: false,
        }
    }

    /// Goes through the next piece. Says whether all events so far were within the limit; after one that was not, nothing is read any more.
    pub(super) fn feed(&mut self, mut piece: &[u8], mut see: impl FnMut(Event<'_>)) -> bool {
        if self.after_cr && !piece.is_empty() {
            self.after_cr = false;
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        let mut lent = Lent::default();
        while !self.too_long {
            let Some(end) = memchr2(b'\n', b'\r', piece) else { break };
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            if piece[end] == b'\r' {
                self.after_cr = rest.is_empty();
                piece = rest.strip_prefix(b"\n").unwrap_or(rest);
            } else {
                piece = rest;
            }
            if self.line.is_empty() {
                self.finish_line(line, &mut lent, &mut see);
            } else {
                // The first line of this piece, so that nothing is lent from it yet.
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                let mut held = Lent::default();
                self.finish_line(&whole, &mut held, &mut see);
                self.keep(&held);
                whole.clear();
                self.line = whole;
            }
        }
        if self.too_long || self.used(&lent) + self.line.len() + piece.len() > self.limit {
            self.give_up();
        } else {
            self.keep(&lent);
            self.line.extend_from_slice(piece);
        }
        !self.too_long
    }

    /// Did the body end within an event, or within a line that might have begun one?
    pub(super) fn is_cut(&self) -> bool {
        let pending = self.line.strip_prefix(BOM).filter(|_| self.first).unwrap_or(&self.line);
        self.open || !(pending.is_empty() || pending.starts_with(b":"))
    }

    fn finish_line<'p>(&mut self, line: &'p [u8], lent: &mut Lent<'p>, see: &mut impl FnMut(Event<'_>)) {
        if self.used(lent) + line.len() > self.limit {
            return self.give_up();
        }
        let line = if std::mem::take(&mut self.first) { line.strip_prefix(BOM).unwrap_or(line) } else { line };
        if line.is_empty() {
            if self.has_data || lent.data.is_some() {
                see(Event { name: lent.name.unwrap_or(&self.name), data: lent.data.unwrap_or(&self.data) });
            }
            *lent = Lent::default();
            self.name.clear();
            self.data.clear();
            self.has_data = false;
            self.open = false;
            return;
        }
        self.open |= !line.starts_with(b":");
        if let Some(value) = field(line, b"data") {
            if !self.has_data && lent.data.is_none() {
                lent.data = Some(value);
            } else {
                self.keep_data(lent.data.take());
                self.data.push(b'\n');
                self.data.extend_from_slice(value);
            }
        } else if let Some(value) = field(line, b"event") {
            lent.name = Some(value);
        }
    }

    fn used(&self, lent: &Lent<'_>) -> usize {
        lent.name.unwrap_or(&self.name).len() + lent.data.unwrap_or(&self.data).len()
    }

    /// Copies what is about to go away.
    fn keep(&mut self, lent: &Lent<'_>) {
        self.keep_data(lent.data);
        if let Some(name) = lent.name {
            self.name.clear();
            self.name.extend_from_slice(name);
        }
    }

    fn keep_data(&mut self, data: Option<&[u8]>) {
        if let Some(data) = data {
            self.has_data = true;
            self.data.extend_from_slice(data);
        }
    }

    fn give_up(&mut self) {
        self.too_long = true;
        self.has_data = false;
        self.open = false;
        self.line = Vec::new();
        self.name = Vec::new();
        self.data = Vec::new();
    }
}

/// What the current event has in the current piece.
#[derive(Default)]
struct Lent<'p> {
    name: Option<&'p [u8]>,
    data: Option<&'p [u8]>,
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The value of a line, if it is this field: one space after the colon does not count, and without a colon the value is empty.
fn field<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Seen = Vec<(String, String)>;

    fn split<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, limit: usize) -> (Seen, bool, bool) {
        let mut splitter = Splitter::new(limit);
        let mut seen = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut within = true;
        for piece in pieces {
            within = splitter.feed(piece, |event| seen.push((text(event.name), text(event.data))));
        }
        (seen, within, splitter.is_cut())
    }

    fn events(of: &[(&str, &str)]) -> Seen {
        of.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect()
    }

    /// A stream, its events, and whether it ends within one.
    fn table() -> Vec<(&'static str, Seen, bool)> {
        vec![
            ("", events(&[]), false),
            ("data: a\n\n", events(&[("", "a")]), false),
            ("data: a\r\n\r\ndata: b\r\n\r\n", events(&[("", "a"), ("", "b")]), false),
            ("data: a\r\rdata: b\r\r", events(&[("", "a"), ("", "b")]), false),
            ("data: a\r\n\ndata: b\n\r", events(&[("", "a"), ("", "b")]), false),
            ("event: x\ndata: a\n\ndata: b\n\n", events(&[("x", "a"), ("", "b")]), false),
            ("data: a\ndata:b\ndata\ndata:  c\n\n", events(&[("", "a\nb\n\n c")]), false),
            ("data:\n\n", events(&[("", "")]), false),
            ("event: y\nevent: x\n\n: nothing\n\n", events(&[]), false),
            ("event: y\nevent: x\ndata: 1\nevent: z\n\n", events(&[("z", "1")]), false),
            (": hello\n\n:\ndata: a\n: b\ndata: c\n\n: keep-alive", events(&[("", "a\nc")]), false),
            ("id: 7\nretry: 10\ndatum: x\ndata : x\n\ndata: é€😀\n\n", events(&[("", "é€😀")]), false),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", events(&[("", "a")]), false),
            ("\u{feff}", events(&[]), false),
            ("data: a\n", events(&[]), true),
            ("data: a", events(&[]), true),
            ("data: a\n\nd", events(&[("", "a")]), true),
            ("data: a\n\nevent: x\n", events(&[("", "a")]), true),
            ("data: a\n\nid: 2\n", events(&[("", "a")]), true),
            ("data: a\n\n: b\n", events(&[("", "a")]), false),
        ]
    }

    #[test]
    fn events_are_what_a_client_sees_however_the_body_is_cut() {
        for (stream, expected, cut) in table() {
            let bytes = stream.as_bytes();
            let wanted = (expected, true, cut);
            assert_eq!(split([bytes], 1000), wanted, "{stream:?}");
            assert_eq!(split(bytes.chunks(1), 1000), wanted, "{stream:?} byte by byte");
            for at in 0..=bytes.len() {
                assert_eq!(split([&bytes[..at], &[], &bytes[at..]], 1000), wanted, "{stream:?} at {at}");
            }
        }
    }

    #[test]
    fn an_event_over_the_limit_ends_the_reading_however_the_body_is_cut() {
        let long = format!("data: a\n\ndata: {}\n\ndata: c\n\n", "b".repeat(100));
        for size in [1, 7, 64, 1000] {
            let (seen, within, _) = split(long.as_bytes().chunks(size), 106);
            assert!(within && seen.len() == 3, "{size}");
            let (seen, within, _) = split(long.as_bytes().chunks(size), 105);
            assert_eq!((seen, within), (events(&[("", "a")]), false), "{size}");
        }
        let many = "data: 12345678\n".repeat(20);
        for size in [1, 7, 64, 1000] {
            assert!(!split(many.as_bytes().chunks(size), 100).1, "{size}");
        }
    }

    #[test]
    fn what_is_buffered_is_bounded() {
        let mut splitter = Splitter::new(100);
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 64], |_| unreachable!("no event"));
            assert!(splitter.line.capacity() + splitter.data.capacity() + splitter.name.capacity() <= 400);
        }
        let mut splitter = Splitter::new(100);
        for _ in 0..1000 {
            assert!(splitter.feed(b": keep-alive\n", |_| unreachable!("no event")));
        }
        assert_eq!(splitter.used(&Lent::default()) + splitter.line.len(), 0);
    }

    #[test]
    fn an_event_within_one_piece_is_not_copied() {
        let piece = b"event: x\ndata: {\"a\":1}\n\n";
        let mut splitter = Splitter::new(100);
        splitter.feed(piece, |event| {
            assert!(piece.as_ptr_range().contains(&event.data.as_ptr()) && piece.as_ptr_range().contains(&event.name.as_ptr()));
        });
        assert_eq!(splitter.data.capacity() + splitter.name.capacity() + splitter.line.capacity(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_events(
            lines in proptest::collection::vec(prop_oneof!["data:? ?[a-c:]{0,4}", "event: ?[a-c]{0,2}", ":[a-z]{0,3}", "", "\u{feff}?id: 1", "[a-e:]{0,6}"], 0..12),
            ends in proptest::collection::vec(prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], 12),
            cuts in proptest::collection::vec(0_usize..200, 0..8),
            limit in 4_usize..40,
        ) {
            let stream: String = lines.iter().zip(&ends).map(|(line, end)| format!("{line}{end}")).collect();
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            prop_assert_eq!(split(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]), limit), split([bytes], limit));
        }
    }
}
