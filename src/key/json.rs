//! JSON in canonical form: members sorted, white space gone, strings normalised, numbers kept by their lexeme.
//!
//! The form differs from RFC 8785 where that would guess: `1` and `1.0` stay apart, and integers beyond 2^53 never collapse (two
//! seeds would meet). What is inside a string stays there, JSON or not. Two bodies have one form exactly if they are the same JSON
//! text but for the order of members, white space, and the way strings are escaped.
//!
//! One pass over the body checks the grammar (RFC 8259), strips, normalises, and notes which objects are out of order; a second
//! copies the members of these in order. Time is O(n log n), memory O(n), whatever the body; neither allocates once a thread is warm.

use std::cell::Cell;

/// How a JSON body is made canonical.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Top-level members to leave out. Never looked for deeper: recursive removal by name destroys real data.
    pub ignore: Vec<String>,
}

/// How deep arrays and objects may nest.
const MAX_DEPTH: usize = 128;

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Form {
    /// Its canonical form was appended.
    Canonical,
    /// It is JSON, but has no one canonical form: duplicate names (once unescaped, and also among ignored members) or lone surrogates.
    Ambiguous,
    /// It is not JSON, or not such as is read here: invalid JSON or UTF-8, depth over 128, anything after the value, over 4 GiB.
    Unreadable,
}

/// Appends the canonical form of `body` to `out`, or leaves `out` as it was and says why.
///
/// If the body is an object then its members are shown to `member` as they are met, ignored and duplicate ones too: the unescaped
/// name (lone surrogates as U+FFFD) and the raw, untouched bytes of the value. All of them are shown unless the body is
/// [unreadable](Form::Unreadable); then those before the fault. So what was shown is there in the body whatever is returned, and a
/// caller who looks for reasons to bypass may trust it.
pub fn canonicalize(body: &[u8], options: &Options, out: &mut Vec<u8>, member: &mut dyn FnMut(&str, &[u8])) -> Form {
    let Ok(text) = std::str::from_utf8(body) else { return Form::Unreadable };
    if u32::try_from(body.len()).is_err() {
        return Form::Unreadable;
    }
    // Taken, not borrowed, so that `member` may call this too.
    let mut scratch = SCRATCH.replace(Scratch::new());
    let mut pass = Pass { text, body, at: 0, clean: 0, ignore: &options.ignore, scratch: &mut scratch, flawed: false };
    let form = match pass.document(member) {
        None => Form::Unreadable,
        Some(()) if pass.flawed => Form::Ambiguous,
        Some(()) => {
            pass.write(out);
            Form::Canonical
        }
    };
    scratch.recycle();
    SCRATCH.set(scratch);
    form
}

/// The pass over a body.
///
/// What is canonical already is not copied byte by byte: it stays a run of `body` from `clean` to `at` until something has to be
/// left out or rewritten. The canonical text so far, still in the order of the body, is `scratch.flat` and that run.
struct Pass<'a> {
    text: &'a str,
    body: &'a [u8],
    at: usize,
    clean: usize,
    ignore: &'a [String],
    scratch: &'a mut Scratch,
    /// It is JSON, but has no canonical form.
    flawed: bool,
}

/// Room that a thread keeps from one body to the next.
struct Scratch {
    /// The text without white space and with strings normalised, members in the order of the body.
    flat: Vec<u8>,
    /// Names that had escapes, without them.
    names: String,
    /// Arrays and objects that are open, outermost first.
    frames: Vec<Frame>,
    /// Members of the objects that are open.
    open: Vec<Member>,
    /// Objects to be rewritten, in the order in which they begin, among some that are not.
    objects: Vec<Object>,
    /// The members of each object to be rewritten, in order.
    sorted: Vec<Member>,
}

/// How many entries of each kind a thread keeps: about half a megabyte in all.
const KEEP: usize = 4096;
const KEEP_BYTES: usize = 128 << 10;

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// An array or object that is open.
struct Frame {
    /// The place in `objects` and the first of its members in `open`; none in an array.
    object: Option<(usize, usize)>,
    /// Each name so far is greater than the one before it.
    ascending: bool,
}

/// A member: where its `"name":value` is in the flat text.
#[derive(Clone, Copy)]
struct Member {
    /// The first bytes of the name, so that most comparisons need no look at the text.
    prefix: u64,
    name: Name,
    start: u32,
    end: u32,
    /// The first object that may lie inside it.
    inner: u32,
}

/// Where an unescaped name is.
#[derive(Clone, Copy)]
struct Name {
    start: u32,
    end: u32,
    /// In `names`, not in the body.
    had_escapes: bool,
}

/// An object: where it is in the flat text.
struct Object {
    start: u32,
    end: u32,
    /// The first object after its end.
    next: u32,
    /// Its members in `sorted`, if it is to be rewritten.
    members: Option<(u32, u32)>,
}

impl Pass<'_> {
    /// `None` if this is no JSON.
    fn document(&mut self, member: &mut dyn FnMut(&str, &[u8])) -> Option<()> {
        let mut shown = 0;
        loop {
            self.space();
            if self.scratch.frames.len() == 1 {
                shown = self.at;
            }
            match self.peek()? {
                b'"' => _ = self.string()?,
                b'{' => {
                    self.open_object()?;
                    if self.peek()? != b'}' {
                        self.name()?;
                        continue;
                    }
                    self.close_object()?;
                }
                b'[' => {
                    self.push(Frame { object: None, ascending: true })?;
                    if self.peek()? != b']' {
                        continue;
                    }
                    _ = self.close()?;
                }
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => self.number()?,
            }
            // A value has ended; and with it, maybe, what it is in.
            loop {
                let end = self.at;
                let Some(frame) = self.scratch.frames.last() else {
                    self.space();
                    return (self.at == self.body.len()).then_some(());
                };
                let in_object = frame.object.is_some();
                if in_object {
                    let position = self.position();
                    let last = self.scratch.open.last_mut()?;
                    last.end = position;
                    if self.scratch.frames.len() == 1 {
                        member(self.scratch.open.last()?.name.of(self.text, &self.scratch.names), &self.body[shown..end]);
                    }
                }
                self.space();
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if in_object {
                            self.space();
                            self.name()?;
                        }
                        break;
                    }
                    b'}' if in_object => self.close_object()?,
                    b']' if !in_object => _ = self.close()?,
                    _ => return None,
                }
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    /// Where the next byte will be in the flat text. Nothing grows on its way there, so 32 bits hold it as they hold the body's length.
    fn position(&self) -> u32 {
        (self.scratch.flat.len() + (self.at - self.clean)) as u32
    }

    /// Ends the clean run here.
    fn flush(&mut self) {
        self.scratch.flat.extend_from_slice(&self.body[self.clean..self.at]);
    }

    /// Leaves out white space.
    fn space(&mut self) {
        let is_space = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        if !self.peek().is_some_and(is_space) {
            return;
        }
        self.flush();
        self.at += 1;
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
        self.clean = self.at;
    }

    fn push(&mut self, frame: Frame) -> Option<()> {
        if self.scratch.frames.len() == MAX_DEPTH {
            return None;
        }
        self.scratch.frames.push(frame);
        self.at += 1;
        self.space();
        Some(())
    }

    fn close(&mut self) -> Option<Frame> {
        self.at += 1;
        self.scratch.frames.pop()
    }

    fn open_object(&mut self) -> Option<()> {
        let object = Some((self.scratch.objects.len(), self.scratch.open.len()));
        let start = self.position();
        self.scratch.objects.push(Object { start, end: start, next: 0, members: None });
        self.push(Frame { object, ascending: true })
    }

    fn close_object(&mut self) -> Option<()> {
        let frame = self.close()?;
        let end = self.position();
        let (index, first) = frame.object?;
        let outermost = self.scratch.frames.is_empty();
        let Scratch { names, open, objects, sorted, .. } = &mut *self.scratch;
        let members = &mut open[first..];
        let name = |member: &Member| member.name.of(self.text, names);
        if !frame.ascending {
            members.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| name(a).cmp(name(b))));
            self.flawed |= members.windows(2).any(|pair| pair[0].prefix == pair[1].prefix && name(&pair[0]) == name(&pair[1]));
        }
        let ignored = |member: &Member| outermost && self.ignore.iter().any(|ignored| ignored == name(member));
        if !frame.ascending || members.iter().any(ignored) {
            let start = sorted.len() as u32;
            sorted.extend(members.iter().filter(|member| !ignored(member)));
            objects[index].members = Some((start, sorted.len() as u32));
            objects[index].end = end;
            objects[index].next = objects.len() as u32;
        } else if objects.len() == index + 1 {
            objects.pop();
        }
        open.truncate(first);
        Some(())
    }

    /// The name of a member, and its colon.
    fn name(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.position();
        let from = self.at + 1;
        let had_escapes = self.string()?;
        let raw = &self.body[from..self.at - 1];
        let name = if had_escapes {
            let start = self.scratch.names.len() as u32;
            unescape(raw, &self.text[from..self.at - 1], &mut self.scratch.names);
            Name { start, end: self.scratch.names.len() as u32, had_escapes }
        } else {
            Name { start: from as u32, end: self.at as u32 - 1, had_escapes }
        };
        self.space();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;

        let Scratch { names, open, frames, objects, .. } = &mut *self.scratch;
        let this = name.of(self.text, names);
        let member = Member { prefix: prefix(this.as_bytes()), name, start, end: start, inner: objects.len() as u32 };
        let frame = frames.last_mut()?;
        if let Some(last) = open[frame.object?.1..].last() {
            frame.ascending &= last.prefix < member.prefix || last.prefix == member.prefix && last.name.of(self.text, names) < this;
        }
        open.push(member);
        Some(())
    }

    /// A string: to its closing quote, in the one form that has the fewest escapes. True if it had any.
    fn string(&mut self) -> Option<bool> {
        self.at += 1;
        let mut had_escapes = false;
        loop {
            self.at = special(self.body, self.at);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(had_escapes);
                }
                b'\\' => {
                    had_escapes = true;
                    self.escape()?;
                }
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.body.get(self.at + 1)? {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'/' => {
                self.flush();
                self.clean = self.at + 1;
                self.at += 2;
            }
            b'u' => {
                let (decoded, length) = code_point(&self.body[self.at..])?;
                self.flawed |= decoded.is_none();
                self.flush();
                self.at += length;
                self.clean = self.at;
                let flat = &mut self.scratch.flat;
                match decoded.unwrap_or(char::REPLACEMENT_CHARACTER) {
                    '"' => flat.extend_from_slice(b"\\\""),
                    '\\' => flat.extend_from_slice(b"\\\\"),
                    '\x08' => flat.extend_from_slice(b"\\b"),
                    '\x0c' => flat.extend_from_slice(b"\\f"),
                    '\n' => flat.extend_from_slice(b"\\n"),
                    '\r' => flat.extend_from_slice(b"\\r"),
                    '\t' => flat.extend_from_slice(b"\\t"),
                    control @ ..'\x20' => {
                        flat.extend_from_slice(b"\\u00");
                        flat.push(b"01"[control as usize >> 4]);
                        flat.push(b"0123456789abcdef"[control as usize & 15]);
                    }
                    other => flat.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.body[self.at..].starts_with(literal).then(|| self.at += literal.len())
    }

    /// RFC 8259 section 6. What may follow a number is the caller's business, as with any value.
    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// Writes the canonical form, once the whole body is known to have one.
    fn write(&mut self, out: &mut Vec<u8>) {
        let flat = if self.clean == 0 {
            self.body
        } else {
            self.flush();
            &self.scratch.flat
        };
        out.reserve(flat.len());
        Writer { flat, objects: &self.scratch.objects, sorted: &self.scratch.sorted, out }.range(0, flat.len(), 0);
    }
}

/// Copies the flat text, members in order.
struct Writer<'a> {
    flat: &'a [u8],
    objects: &'a [Object],
    sorted: &'a [Member],
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// Writes a range of the flat text whose first object is `next` or a later one. It recurs as deep as objects nest, [`MAX_DEPTH`] at most.
    fn range(&mut self, mut start: usize, end: usize, mut next: usize) {
        while let Some(object) = self.objects.get(next).filter(|object| (object.start as usize) < end) {
            let Some((first, last)) = object.members else {
                next += 1;
                continue;
            };
            self.out.extend_from_slice(&self.flat[start..=object.start as usize]);
            for (i, member) in self.sorted[first as usize..last as usize].iter().enumerate() {
                if i > 0 {
                    self.out.push(b',');
                }
                self.range(member.start as usize, member.end as usize, member.inner as usize);
            }
            start = object.end as usize - 1;
            next = object.next as usize;
        }
        self.out.extend_from_slice(&self.flat[start..end]);
    }
}

impl Scratch {
    const fn new() -> Self {
        Self { flat: Vec::new(), names: String::new(), frames: Vec::new(), open: Vec::new(), objects: Vec::new(), sorted: Vec::new() }
    }

    fn recycle(&mut self) {
        let Self { flat, names, frames, open, objects, sorted } = self;
        flat.clear();
        flat.shrink_to(KEEP_BYTES);
        names.clear();
        names.shrink_to(KEEP);
        frames.clear();
        open.clear();
        open.shrink_to(KEEP);
        objects.clear();
        objects.shrink_to(KEEP);
        sorted.clear();
        sorted.shrink_to(KEEP);
    }
}

impl Name {
    fn of<'a>(&self, text: &'a str, names: &'a str) -> &'a str {
        let source = if self.had_escapes { names } else { text };
        &source[self.start as usize..self.end as usize]
    }
}

/// The first eight bytes of a name as a number that sorts as they do. A shorter name and one that goes on with NUL have one prefix,
/// so equal prefixes decide nothing.
fn prefix(name: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = name.len().min(8);
    bytes[..length].copy_from_slice(&name[..length]);
    u64::from_be_bytes(bytes)
}

/// The first quote, backslash or control character at or after `at`, or the end.
fn special(body: &[u8], mut at: usize) -> usize {
    // Eight bytes at a time: a byte's high bit is set where it is one of these. A borrow may set bits above the first, never below.
    const ONES: u64 = u64::MAX / 255;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    while let Some(word) = body.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*word);
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (quote | backslash | control) & (ONES * 0x80);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while body.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | ..0x20)) {
        at += 1;
    }
    at
}

/// Decodes the `\u` escape that `bytes` begin with, or the two of a surrogate pair, and says how long they are. The outer `None` is
/// no escape at all, the inner one a lone surrogate (RFC 8259 section 8.2).
fn code_point(bytes: &[u8]) -> Option<(Option<char>, usize)> {
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        digits[2..].iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    };
    let first = unit(0)?;
    if let (0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) = (first, unit(6)) {
        return Some((char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)), 12));
    }
    Some((char::from_u32(first), 6))
}

/// Appends what a string, whose escapes are known to be right, stands for.
fn unescape(raw: &[u8], text: &str, names: &mut String) {
    let mut done = 0;
    while let Some(skip) = memchr::memchr(b'\\', &raw[done..]) {
        let at = done + skip;
        names.push_str(&text[done..at]);
        let (decoded, length) = match raw.get(at + 1) {
            Some(b'b') => ('\x08', 2),
            Some(b'f') => ('\x0c', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => code_point(&raw[at..])
                .map_or((char::REPLACEMENT_CHARACTER, 6), |(decoded, length)| (decoded.unwrap_or(char::REPLACEMENT_CHARACTER), length)),
            Some(other) => (char::from(*other), 2),
            None => break,
        };
        names.push(decoded);
        done = at + length;
    }
    names.push_str(&text[done.min(text.len())..]);
}

#[cfg(test)]
mod tests;
