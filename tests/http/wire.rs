//! HTTP/1.1 on the wire, as plainly as tests need it: what is sent and received is seen as bytes.

use std::fmt;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A request or a response.
#[derive(Clone, Default)]
pub struct Message {
    /// `GET /path HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The 1xx responses that came before it.
    pub interim: Vec<Message>,
    /// Did it end before its framing said so?
    pub broken: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, fields, body, interim, broken } = self;
        let body = String::from_utf8_lossy(&body[..body.len().min(100)]);
        f.debug_tuple("Message").field(start).field(fields).field(&body).field(interim).field(broken).finish()
    }
}

impl Message {
    /// All values of a field in one line; `None` if it is absent.
    pub fn field(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }
}

/// Latin-1, so that every byte is one character.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("latin-1")).collect()
}

/// Reads one message; `None` if the connection ends before it begins. `bodiless` is for answers to HEAD.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), is_request: bool, bodiless: bool) -> Option<Message> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = text(&head);
    let mut lines = head.trim_end().split("\r\n");
    let start = lines.next()?.to_owned();
    let fields = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let mut message = Message { start, fields, ..Message::default() };
    let status = message.status();
    if !is_request && (102..200).contains(&status) {
        let mut last = Box::pin(read(stream, is_request, bodiless)).await?;
        last.interim.insert(0, message);
        return Some(last);
    }
    if bodiless || (!is_request && (status == 204 || status == 304)) {
        return Some(message);
    }
    if message.field("transfer-encoding").is_some() {
        message.broken = read_chunks(stream, &mut message.body).await.is_none();
    } else if let Some(length) = message.field("content-length").and_then(|length| length.parse().ok()) {
        message.body = vec![0; length];
        message.broken = stream.read_exact(&mut message.body).await.is_err();
    } else if !is_request {
        message.broken = stream.read_to_end(&mut message.body).await.is_err();
    }
    Some(message)
}

async fn read_chunks(stream: &mut (impl AsyncRead + Unpin), body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.ok()?);
        }
        let len = usize::from_str_radix(text(&line).trim(), 16).ok()?;
        let mut chunk = vec![0; len + 2];
        if len == 0 {
            // Trailers, up to the empty line.
            let mut end = Vec::new();
            while end != b"\r\n" && !end.ends_with(b"\r\n\r\n") {
                end.push(stream.read_u8().await.ok()?);
            }
            return Some(());
        }
        stream.read_exact(&mut chunk).await.ok()?;
        body.extend_from_slice(&chunk[..len]);
    }
}

/// Writes a head and what follows it.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), start: &str, fields: &[(String, String)], rest: &[u8]) {
    let mut head = format!("{start}\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut all = bytes(&head);
    all.extend_from_slice(rest);
    // One who has gone away reads nothing.
    let _ = stream.write_all(&all).await;
}
