//! A language for cases. A case is a few lines:
//!
//! ```text
//! > GET /path | field: value | @content      the client asks (path and the rest may be left out)
//! < 200 | field: value | @content            what the origin answers; without this line it must not be asked, with two it must be asked twice
//! & 200 | field: value                       what the origin answers to a request in the background
//! ~ field: value | !field | GET              what the origin must have been asked with, and without
//! = 200 | field: value | !field | @content   what the client must get
//! + 10                                       so many seconds go by
//! ```
//!
//! `{date+10}` is the date in ten seconds. The origin's answers have a date and a content-length unless they say otherwise: `#chunked`, `#close` (ends with
//! the connection), `#short` (breaks off), `#hangup` (no answer at all), `#junk` (no HTTP), `#nodate`, `#interim` (a 103 goes before it), `#http10`. A client's answer comes `#fresh` (from the cache), or
//! `#origin`; `#kept` says that an answer to an unsafe request is stored. `^field: value` is
//! in an interim response. A field value of `*` is any; one that begins with `~` has to contain the rest.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::service::service_fn;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Clock, HttpPolicy,
    observe::Event,
    store::{BoxStore, Memory},
};

use crate::{
    listener::Listeners,
    origin::Origin,
    proxy::{self, Proxy},
    wire::{self, Message},
};

/// A guard against hanging, not a measurement.
const LONG: Duration = Duration::from_secs(20);

/// Makes the store that a rig keeps responses in.
pub type MakeStore = Arc<dyn Fn(&Clock) -> BoxStore + Send + Sync>;

/// A proxy in front of a scripted origin.
pub struct Rig {
    pub clock: Clock,
    pub proxy: SocketAddr,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<VecDeque<Message>>>,
    fills: Arc<AtomicUsize>,
}

/// What the origin answers.
#[derive(Clone, Debug, Default)]
struct Reply {
    status: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    marks: Vec<String>,
}

impl Rig {
    pub async fn new(policy: HttpPolicy) -> Self {
        Self::with(policy, &memory()).await
    }

    pub async fn with(policy: HttpPolicy, store: &MakeStore) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Self::in_front_of(policy, store, listener.local_addr().unwrap()).await;
        tokio::spawn(play(listener, Arc::clone(&rig.replies), Arc::clone(&rig.seen)));
        rig
    }

    /// A proxy in front of an origin that is not scripted.
    pub async fn in_front_of(policy: HttpPolicy, store: &MakeStore, at: SocketAddr) -> Self {
        Self::in_front_of_at(policy, store, at, UNIX_EPOCH + Duration::from_secs(1_800_000_000)).await
    }

    /// At a time of its own.
    pub async fn in_front_of_at(policy: HttpPolicy, store: &MakeStore, at: SocketAddr, now: SystemTime) -> Self {
        // Dates have whole seconds, and cases are to see none go by.
        let clock = Clock::stopped(now);
        let fills = Arc::new(AtomicUsize::new(0));
        let ended = Arc::clone(&fills);
        let layer = CacheLayer::new(store(&clock), policy).clock(clock.clone()).observer(move |event: &Event<'_>| {
            if let Event::Fill(_) = event {
                ended.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (replies, seen) = (Arc::default(), Arc::default());
        let origin = Origin::new(&format!("http://{at}").parse().unwrap(), false, Duration::from_secs(30)).unwrap();
        let service = Proxy::new(layer.layer(origin), "proxy", true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        proxy::serve(&Listeners::new(Duration::from_secs(30), CancellationToken::new()), listener, move |peer| {
            let service = service.clone();
            service_fn(move |request| {
                let (service, peer) = (service.clone(), peer.clone());
                async move { service.answer(request, peer).await }
            })
        });
        Self { clock, proxy, replies, seen, fills }
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, method: &str, path: &str, fields: &[(String, String)], body: &[u8]) -> Option<Message> {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        let mut all = vec![("Host".to_owned(), "www.example".to_owned()), ("Connection".to_owned(), "close".to_owned())];
        all.extend(fields.iter().cloned());
        if !body.is_empty() {
            all.push(("Content-Length".to_owned(), body.len().to_string()));
        }
        wire::write(&mut stream, &format!("{method} {path} HTTP/1.1"), &all, body).await;
        timeout(LONG, wire::read(&mut stream, false, method == "HEAD")).await.expect("an answer")
    }

    /// Tells the origin what to answer next.
    pub fn expect_reply(&self, parts: &[&str]) {
        let reply = self.reply(parts);
        self.replies.lock().unwrap().push_back(reply);
    }

    /// How often the origin was asked since the last step.
    pub fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what} did not happen"));
    }
}

/// Answers requests with the replies in their order.
async fn play(listener: TcpListener, replies: Arc<Mutex<VecDeque<Reply>>>, seen: Arc<Mutex<VecDeque<Message>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (replies, seen) = (Arc::clone(&replies), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Some(request) = wire::read(&mut stream, true, false).await {
                let head = request.start.starts_with("HEAD ");
                seen.lock().unwrap().push_back(request);
                let reply = replies.lock().unwrap().pop_front().unwrap_or_default();
                if !answer(&mut stream, reply, head).await {
                    break;
                }
            }
        });
    }
}

/// Says whether the connection goes on.
async fn answer(stream: &mut TcpStream, reply: Reply, head: bool) -> bool {
    let has = |mark: &str| reply.marks.iter().any(|m| m == mark);
    if has("#hangup") {
        return false;
    }
    if has("#junk") {
        let _ = stream.write_all(b"\x00\xff this is no HTTP\r\n\r\n").await;
        return false;
    }
    if reply.status.is_empty() {
        wire::write(stream, "HTTP/1.1 599 Unasked", &[("Content-Length".to_owned(), "0".to_owned())], b"").await;
        return true;
    }
    let mut fields = reply.fields.clone();
    let names = |fields: &[(String, String)], name: &str| fields.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let bodiless = ["204", "304"].contains(&reply.status.as_str());
    let mut rest = reply.body.clone();
    if has("#chunked") {
        fields.push(("Transfer-Encoding".into(), "chunked".into()));
        rest = format!("{:x}\r\n", reply.body.len()).into_bytes();
        rest.extend_from_slice(&reply.body);
        rest.extend_from_slice(if has("#short") { b"\r\n" } else { b"\r\n0\r\n\r\n" });
    } else if has("#short") {
        fields.push(("Content-Length".into(), (reply.body.len() + 5).to_string()));
    } else if has("#close") {
        fields.push(("Connection".into(), "close".into()));
    } else if !bodiless && !names(&fields, "content-length") {
        fields.push(("Content-Length".into(), reply.body.len().to_string()));
    }
    if bodiless || head {
        rest.clear();
    }
    if has("#interim") {
        let hint = [("Link".to_owned(), "</style.css>; rel=preload".to_owned()), ("X-Early".to_owned(), "1".to_owned())];
        wire::write(stream, "HTTP/1.1 103 Early Hints", &hint, b"").await;
    }
    let version = if has("#http10") { "1.0" } else { "1.1" };
    wire::write(stream, &format!("HTTP/{version} {} Said", reply.status), &fields, &rest).await;
    !(has("#close") || has("#short"))
}

pub fn memory() -> MakeStore {
    Arc::new(|clock| BoxStore::new(Memory::new(16 << 20).clock(clock.clone())))
}

/// Runs cases, each in a rig of its own, and says which failed and how.
pub async fn run(policy: HttpPolicy, cases: &[(&str, &str)]) {
    run_in(&memory(), policy, cases).await;
}

pub async fn run_in(store: &MakeStore, policy: HttpPolicy, cases: &[(&str, &str)]) {
    let running = cases.iter().map(|(name, case)| {
        let (name, case, policy, store) = (name.to_string(), case.to_string(), policy.clone(), Arc::clone(store));
        tokio::spawn(async move {
            let rig = Rig::with(policy, &store).await;
            rig.play(&case).await.map_err(|problem| format!("{name}: {problem}"))
        })
    });
    let mut problems = Vec::new();
    for case in running.collect::<Vec<_>>() {
        match case.await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => problems.push(problem),
            Err(panic) => problems.push(panic.to_string()),
        }
    }
    assert!(problems.is_empty(), "{} of {} failed:\n{}", problems.len(), cases.len(), problems.join("\n"));
}

#[derive(Default)]
struct Step<'a> {
    line: usize,
    ask: Vec<&'a str>,
    replies: Vec<Vec<&'a str>>,
    background: Option<Vec<&'a str>>,
    asked: Vec<&'a str>,
    expect: Vec<&'a str>,
}

impl Rig {
    pub async fn play(&self, case: &str) -> Result<(), String> {
        let mut step: Option<Step<'_>> = None;
        for (number, line) in case.lines().enumerate() {
            let line = line.trim();
            let Some(kind) = line.chars().next() else { continue };
            let parts: Vec<&str> = line[1..].split(" | ").map(str::trim).filter(|part| !part.is_empty()).collect();
            match (kind, &mut step) {
                ('>', _) => {
                    if let Some(step) = step.replace(Step { line: number, ask: parts, ..Step::default() }) {
                        self.take(step).await?;
                    }
                }
                ('+', _) => {
                    if let Some(step) = step.take() {
                        self.take(step).await?;
                    }
                    self.clock.shift((parts[0].parse::<f64>().expect("seconds") * 1000.0) as i64);
                }
                ('<', Some(step)) => step.replies.push(parts),
                ('&', Some(step)) => step.background = Some(parts),
                ('~', Some(step)) => step.asked = parts,
                ('=', Some(step)) => step.expect = parts,
                _ => panic!("this is no line of a case: {line}"),
            }
        }
        match step {
            Some(step) => self.take(step).await,
            None => Ok(()),
        }
    }

    async fn take(&self, step: Step<'_>) -> Result<(), String> {
        let fail = |problem: String| Err(format!("line {}: {problem}", step.line));
        let fills = self.fills.load(Ordering::SeqCst);
        let background = usize::from(step.background.is_some());
        let expected = step.replies.len() + background;
        for reply in step.replies.iter().chain(&step.background) {
            let reply = self.reply(reply);
            self.replies.lock().unwrap().push_back(reply);
        }

        let (mut method, mut path, mut fields, mut body) = ("GET".to_owned(), "/".to_owned(), Vec::new(), Vec::new());
        for part in &step.ask {
            match part.split_once(": ") {
                Some((name, value)) => fields.push((name.to_owned(), self.fill_in(value))),
                None if part.starts_with('@') => body = wire::bytes(&part[1..]),
                None => {
                    let mut words = part.split(' ');
                    method = words.next().unwrap_or("GET").to_owned();
                    path = words.next().unwrap_or("/").to_owned();
                }
            }
        }
        let Some(answer) = self.send(&method, &path, &fields, &body).await else { return fail("no answer".into()) };

        // What goes on off the caller's path is over before the next step.
        let cached_method =
            ["GET", "HEAD", "QUERY"].contains(&method.as_str()) && !answer.field("cache-status").is_some_and(|s| s.contains("bypass"));
        let fills_expected =
            if cached_method { step.replies.len().min(1) + background } else { usize::from(step.expect.contains(&"#kept")) };
        self.until("a request to the origin", || self.seen.lock().unwrap().len() >= expected).await;
        self.until("the end of a fill", || self.fills.load(Ordering::SeqCst) >= fills + fills_expected).await;
        let seen: Vec<Message> = self.seen.lock().unwrap().drain(..).collect();
        self.replies.lock().unwrap().clear();
        if seen.len() != expected {
            return fail(format!("the origin was asked {} times, not {expected}: {seen:?}\nanswer: {answer:?}", seen.len()));
        }
        if let Some(asked) = seen.last() {
            for part in &step.asked {
                self.check(part, asked).or_else(|problem| fail(format!("the origin was asked {problem}: {asked:?}")))?;
            }
        }
        for part in &step.expect {
            self.check(part, &answer).or_else(|problem| fail(format!("answered {problem}: {answer:?}\nasked: {seen:?}")))?;
        }
        Ok(())
    }

    fn check(&self, part: &str, message: &Message) -> Result<(), String> {
        if let Some(mark) = part.strip_prefix('#') {
            let status = message.field("cache-status").unwrap_or_default();
            let holds = match mark {
                "broken" => message.broken,
                "kept" => true,
                "fresh" => status.contains("; hit"),
                "origin" => !status.contains("; hit"),
                _ => panic!("unknown mark {mark}"),
            };
            return if holds { Ok(()) } else { Err(format!("not {part}")) };
        }
        if let Some(body) = part.strip_prefix('@') {
            let body = wire::bytes(body);
            return if message.body == body { Ok(()) } else { Err(format!("another body than {part}")) };
        }
        if let Some(name) = part.strip_prefix('!') {
            return message.field(name).map_or(Ok(()), |value| Err(format!("with {name}: {value}")));
        }
        if let Some(hint) = part.strip_prefix('^') {
            let told = message.interim.iter().any(|told| self.check(hint, told).is_ok());
            return if told { Ok(()) } else { Err(format!("without {hint} beforehand")) };
        }
        let Some((name, expected)) = part.split_once(": ") else {
            return if message.start.split(' ').any(|word| word == part) { Ok(()) } else { Err(format!("not {part}")) };
        };
        let expected = self.fill_in(expected);
        let Some(value) = message.field(name) else { return Err(format!("without {name}")) };
        let holds = match expected.as_str() {
            "*" => true,
            other => other.strip_prefix('~').map_or(value == other, |part| value.contains(part)),
        };
        if holds { Ok(()) } else { Err(format!("with {name}: {value}, not {expected}")) }
    }

    fn reply(&self, parts: &[&str]) -> Reply {
        let mut reply = Reply::default();
        for part in parts {
            match part.split_once(": ") {
                _ if part.starts_with('#') => reply.marks.push((*part).to_owned()),
                _ if part.starts_with('@') => reply.body = wire::bytes(&part[1..]),
                Some((name, value)) => reply.fields.push((name.to_owned(), self.fill_in(value))),
                None if part.ends_with(':') => reply.fields.push((part[..part.len() - 1].to_owned(), String::new())),
                None => reply.status = (*part).to_owned(),
            }
        }
        let dated = reply.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("date"));
        if !dated && !reply.marks.iter().any(|mark| mark == "#nodate") && !reply.status.is_empty() {
            reply.fields.push(("Date".to_owned(), self.fill_in("{date+0}")));
        }
        reply
    }

    /// Replaces `{date±n}`.
    fn fill_in(&self, value: &str) -> String {
        let Some((before, rest)) = value.split_once("{date") else { return value.to_owned() };
        let (by, after) = rest.split_once('}').expect("a closing brace");
        let by: i64 = by.parse().expect("seconds");
        let by_abs = Duration::from_secs(by.unsigned_abs());
        let time = if by < 0 { self.clock.now() - by_abs } else { self.clock.now() + by_abs };
        format!("{before}{}{}", httpdate::fmt_http_date(time), self.fill_in(after))
    }
}
