//! What one process makes reaches those who wait in others while it is made, whole or not at all.
//!
//! Leaders are child processes, whose upstream says what the test puts into lists of a Redis that has nothing else to do. So the order of
//! things is the test's.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use rustix::process::Signal;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, CacheStatus, HttpPolicy, ResponseBody, Sharing,
    entry::{Lifetime, record::SealKeys},
    key::Key,
    policy::Abandoned,
    status::Outcome,
    store::{Claim, Generation, LiveEnd, LiveHead, LivePart, Redis, RedisBuilder, Selection, Store, Token},
};

use crate::{
    ask,
    fleet::{LONG, Worker, calls},
    key, layer,
    origin::{Call, Origin, OriginBody, OriginError, promised, streamed},
    patient, post,
    proxy::{Proxy, Way},
    server::Server,
    until,
};

/// An origin that says, word by word, what is put into its list, and for its later calls into `name:2` and so on: `!head` lets it answer, with further words as header fields; `!end`, `!error` and `!trailer`
/// are what they say; `*n` is that many bytes.
fn told(control: &str, name: &str) -> Origin {
    let (client, list) = (redis::Client::open(control).unwrap(), format!("say:{name}"));
    Origin::new(move |call: Call| {
        let list = if call.number == 1 { list.clone() } else { format!("{list}:{}", call.number) };
        let (client, path) = (client.clone(), call.head.uri.path().to_owned());
        async move {
            let mut connection = crate::unhurried(&client).await;
            let () = redis::cmd("HINCRBY").arg("calls").arg(&path).arg(1).query_async(&mut connection).await.unwrap();
            let mut next = async move || loop {
                match redis::cmd("LPOP").arg(&list).query_async::<Option<String>>(&mut connection).await.unwrap() {
                    Some(word) => return word,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            let head = next().await;
            let mut head = head.split(' ');
            assert_eq!(head.next(), Some("!head"));
            let (feed, mut answer) = streamed();
            *answer.status_mut() = head.next().unwrap().parse().unwrap();
            for field in head {
                let (name, value) = field.split_once('=').unwrap();
                if name == "content-length" {
                    answer = promised(answer, value.parse().unwrap());
                    continue;
                }
                answer.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            }
            tokio::spawn(async move {
                loop {
                    let word = next().await;
                    let frame = match word.as_str() {
                        "!end" => return,
                        "!error" => Err(OriginError::from("broken by a test")),
                        "!trailer" => Ok(Frame::trailers(HeaderMap::from_iter([("x-trailer".parse().unwrap(), "yes".parse().unwrap())]))),
                        word => Ok(Frame::data(match word.strip_prefix('*') {
                            Some(count) => pattern(count.parse().unwrap()),
                            None => Bytes::from(word.to_owned()),
                        })),
                    };
                    if feed.send(frame).await.is_err() {
                        return;
                    }
                }
            });
            Ok(answer)
        }
    })
}

fn pattern(count: usize) -> Bytes {
    (0..count).map(|at| (at % 251) as u8).collect()
}

fn say(control: &Server, name: &str, words: &[&str]) {
    let list = format!("say:{name}");
    let () = control.run(&[&["RPUSH", &list], words].concat());
}

type Member = Cache<Origin, Redis, ApiPolicy>;
type Answer = Response<ResponseBody<OriginBody>>;

fn member(builder: RedisBuilder, control: &Server, name: &str) -> Member {
    layer(builder.build().unwrap()).layer(told(&control.url(), name))
}

async fn begin(cache: &Member, path: &str) -> Answer {
    cache.clone().oneshot(post(path)).await.unwrap()
}

fn outcome(answer: &Answer) -> Outcome {
    answer.extensions().get::<CacheStatus>().unwrap().outcome
}

/// The next frame of data, as text; an error as such.
async fn frame(answer: &mut Answer) -> Result<String, String> {
    match answer.body_mut().frame().await {
        Some(Ok(frame)) => Ok(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("no more".into()),
    }
}

async fn rest(answer: Answer) -> Result<Bytes, String> {
    answer.into_body().collect().await.map(|body| body.to_bytes()).map_err(|error| error.to_string())
}

/// A cache whose redis and whose script are two.
struct Fleet {
    redis: Server,
    control: Server,
}

impl Fleet {
    fn start() -> Self {
        Self { redis: Server::start(), control: Server::start() }
    }

    /// A process that asks for `/`, with leases that last so long.
    async fn leader(&self, lease: Duration, more: &str) -> Worker {
        let worker = Worker::start(&format!("lead {} {} {} {more}", self.redis.url(), self.control.url(), lease.as_millis()));
        self.until_called(1).await;
        worker
    }

    async fn until_called(&self, times: u64) {
        until(async || calls(&self.control).get("/") == Some(&times)).await;
    }

    fn follower(&self) -> Member {
        member(patient(self.redis.url()).lease(Some(LONG)), &self.control, "follower")
    }

    /// Another's wish to follow is there.
    async fn until_wanted(&self) {
        until(async || !self.redis.run::<Vec<String>>(&["KEYS", "t:*:wanted"]).is_empty()).await;
    }

    fn streams(&self) -> Vec<String> {
        self.redis.run(&["KEYS", "t:*:live:*"])
    }

    /// What the leader's own caller got, once it has it.
    async fn led(&self) -> String {
        until(async || self.control.run::<bool>(&["EXISTS", "led"])).await;
        self.control.run(&["GET", "led"])
    }
}

/// In a process of its own: `lead redis control lease-ms [live-bytes]`, or `off` for those. It asks for `/` and tells what it got.
pub async fn lead(words: &[&str]) {
    let (url, control, lease) = (words[1], words[2], Duration::from_millis(words[3].parse().unwrap()));
    let mut builder = patient(url).lease(Some(lease));
    if let Some(bytes) = words.get(4).filter(|word| !word.is_empty()) {
        builder = builder.live((*bytes != "off").then(|| bytes.parse().unwrap()));
    }
    let layer = layer(builder.build().unwrap());
    let cache = layer.layer(told(control, "leader"));
    let answer = begin(&cache, "/").await;
    let was = outcome(&answer);
    let got = match rest(answer).await {
        Ok(body) => format!("{}: {}", was.label(), String::from_utf8_lossy(&body)),
        Err(error) => error,
    };
    let mut connection = crate::unhurried(&redis::Client::open(control).unwrap()).await;
    let () = redis::cmd("SET").arg("led").arg(got).query_async(&mut connection).await.unwrap();
    layer.handle().shutdown(LONG).await;
}

/// In a process of its own: `follow redis control callers`. So many ask for `/` at once; it counts what they got.
pub async fn follow(words: &[&str]) {
    let (url, control, callers): (_, _, usize) = (words[1], words[2], words[3].parse().unwrap());
    let cache = layer(patient(url).lease(Some(LONG)).build().unwrap()).layer(told(control, "nobody"));
    let asking: Vec<_> = (0..callers)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { ask(&cache, post("/")).await })
        })
        .collect();
    let mut connection = crate::unhurried(&redis::Client::open(control).unwrap()).await;
    for asking in asking {
        let (outcome, body) = asking.await.unwrap();
        let got = format!("{} {}: {body}", outcome.label(), outcome.reason());
        let () = redis::cmd("HINCRBY").arg("got").arg(got).arg(1).query_async(&mut connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_has_the_first_frame_before_the_last_is_made() {
    let fleet = Fleet::start();
    let leader = fleet.leader(LONG, "").await;
    say(&fleet.control, "leader", &["!head 200 x-said=once", "one"]);
    let cache = fleet.follower();
    let mut answer = begin(&cache, "/").await;
    assert_eq!((outcome(&answer), answer.status()), (Outcome::CollapsedElsewhere, StatusCode::OK));
    assert_eq!(answer.headers()["x-said"], "once");
    let status = answer.headers()["cache-status"].to_str().unwrap();
    assert!(status.contains("fwd=miss; collapsed; detail=elsewhere"), "{status}");
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    // The upstream has said no more until now.
    for word in ["two", "three"] {
        say(&fleet.control, "leader", &[word]);
        assert_eq!(frame(&mut answer).await.unwrap(), word);
    }
    // Whoever comes now reads from the first frame, in this process and in others.
    let mut late = begin(&cache, "/").await;
    let mut later = begin(&fleet.follower(), "/").await;
    for answer in [&mut late, &mut later] {
        assert_eq!(outcome(answer), Outcome::CollapsedElsewhere);
        for word in ["one", "two", "three"] {
            assert_eq!(frame(answer).await.unwrap(), word);
        }
    }
    say(&fleet.control, "leader", &["*3000000", "*100000", "!end"]);
    for answer in [answer, late, later] {
        assert!(rest(answer).await.unwrap() == [pattern(3_000_000), pattern(100_000)].concat());
    }
    // Whoever has read it to its end finds it, on its way still or stored.
    assert!(!matches!(outcome(&begin(&cache, "/").await), Outcome::Miss(_)));
    assert!(fleet.led().await.starts_with("miss: onetwothree"));
    leader.end().await;
    until(async || matches!(outcome(&begin(&cache, "/").await), Outcome::Hit)).await;
    assert_eq!(calls(&fleet.control)["/"], 1);
}

#[tokio::test]
async fn who_leads_and_is_gone_before_its_head_is_succeeded_by_one_who_waits() {
    for signal in [Signal::KILL, Signal::STOP] {
        let fleet = Fleet::start();
        let leader = fleet.leader(Duration::from_secs(1), "").await;
        let cache = fleet.follower();
        let waiting = tokio::spawn(async move { ask(&cache, post("/")).await });
        fleet.until_wanted().await;
        leader.signal(signal);
        say(&fleet.control, "follower", &["!head 200", "mine", "!end"]);
        let (outcome, body) = waiting.await.unwrap();
        assert!(matches!(outcome, Outcome::Miss(_)) && body == "mine", "{outcome:?}: {body}");
        assert_eq!(calls(&fleet.control)["/"], 2);
    }
}

#[tokio::test]
async fn who_leads_and_is_gone_after_its_head_leaves_bodies_with_an_error_and_nothing_stored() {
    for signal in [Signal::KILL, Signal::STOP] {
        for words in [&["!head 200"][..], &["!head 200", "one"]] {
            let fleet = Fleet::start();
            let leader = fleet.leader(Duration::from_secs(1), "").await;
            say(&fleet.control, "leader", words);
            let cache = fleet.follower();
            let mut answer = begin(&cache, "/").await;
            assert_eq!(outcome(&answer), Outcome::CollapsedElsewhere);
            for word in &words[1..] {
                assert_eq!(frame(&mut answer).await.as_deref(), Ok(*word));
            }
            leader.signal(signal);
            let error = frame(&mut answer).await.unwrap_err();
            assert!(error.contains("can no longer be followed"), "{error}");
            say(&fleet.control, "follower", &["!head 200", "whole", "!end"]);
            let (outcome, body) = ask(&cache, post("/")).await;
            assert!(matches!(outcome, Outcome::Miss(_)) && body == "whole", "{outcome:?}: {body}");
        }
    }
}

/// A lease of which a holder that gives no sign of life for a second is taken for dead.
const USUAL: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_after_the_leader_is_gone_is_shown_nothing_of_it_and_one_call_is_made_for_all_who_come() {
    for signal in [Signal::KILL, Signal::STOP] {
        let fleet = Fleet::start();
        let mut leader = fleet.leader(USUAL, "").await;
        say(&fleet.control, "leader", &["!head 200", "one"]);
        // The last of these processes follows the leader already.
        let names = ["a", "b", "c", "aboard"];
        let newcomers = names.map(|name| member(patient(fleet.redis.url()).lease(Some(USUAL)), &fleet.control, name));
        let mut answer = begin(&newcomers[3], "/").await;
        assert_eq!(frame(&mut answer).await.unwrap(), "one");
        // A lease is short until it is renewed.
        let lease = fleet.redis.run::<Vec<String>>(&["KEYS", "t:*:lease"]).remove(0);
        until(async || fleet.redis.run::<u64>(&["PTTL", &lease]) > USUAL.as_millis() as u64 / 2).await;
        leader.halt(signal).await;
        assert_eq!(fleet.streams().len(), 1, "what it said is still there");
        // Longer than what was heard is good for those who come.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let say_all = |words: &[&str]| names.map(|name| say(&fleet.control, name, words));
        say_all(&["!head 200", "my"]);
        let coming = newcomers.clone().map(|cache| {
            tokio::spawn(async move {
                let mut answer = begin(&cache, "/").await;
                assert_eq!(frame(&mut answer).await.unwrap(), "my");
                answer
            })
        });
        let mut answers = Vec::new();
        for coming in coming {
            answers.push(coming.await.unwrap());
        }
        say_all(&["own", "!end"]);
        let misses = answers.iter().filter(|answer| matches!(outcome(answer), Outcome::Miss(_))).count();
        assert_eq!((misses, calls(&fleet.control)["/"]), (1, 2));
        for answer in answers {
            assert_eq!(rest(answer).await.unwrap(), "own");
        }
        // Long before its lease would have ended.
        for name in fleet.streams() {
            let left: i64 = fleet.redis.run(&["PTTL", &name]);
            assert!(left <= USUAL.as_millis() as i64 / 2, "{left}");
        }
        frame(&mut answer).await.unwrap_err();
        if signal == Signal::STOP {
            // It goes on for its own caller, and replaces nothing.
            say(&fleet.control, "leader", &["two", "!end"]);
            leader.signal(Signal::CONT);
            assert_eq!(fleet.led().await, "miss: onetwo");
            leader.end().await;
        }
        until(async || ask(&newcomers[0], post("/")).await == (Outcome::Hit, "myown".to_owned())).await;
    }
}

#[tokio::test]
async fn who_leads_gives_a_sign_of_life_to_whoever_comes_while_there_is_nothing_to_say() {
    let fleet = Fleet::start();
    // Unasked, it gives one an hour, and has as long to give it.
    let ages = LONG * 600;
    let _leader = fleet.leader(ages, "").await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    for _ in 0..3 {
        let mut answer = begin(&member(patient(fleet.redis.url()).lease(Some(ages)), &fleet.control, "follower"), "/").await;
        assert_eq!(outcome(&answer), Outcome::CollapsedElsewhere);
        assert_eq!(frame(&mut answer).await.unwrap(), "one");
    }
    say(&fleet.control, "leader", &["!end"]);
    assert_eq!(fleet.led().await, "miss: one");
    assert_eq!(calls(&fleet.control)["/"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_and_is_gone_before_its_head_is_succeeded_long_before_its_lease_would_end() {
    let ways = [(Signal::KILL, true), (Signal::KILL, false), (Signal::STOP, true), (Signal::STOP, false)];
    futures_util::future::join_all(ways.map(|(signal, waits)| gone_before_its_head(signal, waits))).await;
}

/// By one who waits then, or by one who comes.
async fn gone_before_its_head(signal: Signal, waits: bool) {
    let fleet = Fleet::start();
    // Who waits asks ten times in that time, and a holder has a tenth of it to answer.
    let long = Duration::from_secs(30);
    let mut leader = fleet.leader(long, "").await;
    let cache = member(patient(fleet.redis.url()).lease(Some(long)), &fleet.control, "follower");
    let come = || {
        let cache = cache.clone();
        tokio::spawn(async move { ask(&cache, post("/")).await })
    };
    let waiting = waits.then(come);
    if waits {
        fleet.until_wanted().await;
    }
    let lease = fleet.redis.run::<Vec<String>>(&["KEYS", "t:*:lease"]).remove(0);
    until(async || {
        let left: u64 = fleet.redis.run(&["PTTL", &lease]);
        // As long as that would last.
        let () = fleet.redis.run(&["SET", "over", "1", "PX", &left.to_string()]);
        left > long.as_millis() as u64 / 2
    })
    .await;
    leader.halt(signal).await;
    let waiting = waiting.unwrap_or_else(come);
    say(&fleet.control, "follower", &["!head 200", "mine", "!end"]);
    let (outcome, body) = waiting.await.unwrap();
    assert!(matches!(outcome, Outcome::Miss(_)) && body == "mine", "{outcome:?}: {body}");
    assert!(fleet.redis.run::<bool>(&["EXISTS", "over"]), "the lease was waited for");
    assert_eq!(calls(&fleet.control)["/"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_answers_for_its_lease_whenever_somebody_asks_whether_it_publishes_or_not() {
    // Unasked, it renews after hours.
    let ages = LONG * 600;
    let (short, long) = ((ages / 10).as_millis(), (ages / 2).as_millis() as u64);
    for (live, head) in [("", "!head 200"), ("1000", "!head 200 content-length=2000"), ("off", "!head 200")] {
        let fleet = Fleet::start();
        let _leader = fleet.leader(ages, live).await;
        let lease = fleet.redis.run::<Vec<String>>(&["KEYS", "t:*:lease"]).remove(0);
        let mut waiting = Vec::new();
        for has_head in [false, false, true, true] {
            if has_head && waiting.len() == 2 {
                say(&fleet.control, "leader", &[head, "*2000"]);
            }
            let cache = member(patient(fleet.redis.url()).lease(Some(ages)), &fleet.control, "follower");
            // As by one who asks; another asks at once.
            let () = fleet.redis.run(&["PEXPIRE", &lease, &short.to_string()]);
            waiting.push(tokio::spawn(async move { ask_bytes(&cache).await }));
            until(async || fleet.redis.run::<u64>(&["PTTL", &lease]) > long).await;
        }
        say(&fleet.control, "leader", &["!end"]);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().1.len(), 2000);
        }
        assert_eq!(calls(&fleet.control)["/"], 1);
    }
}

#[tokio::test]
async fn a_sign_of_life_that_fails_ends_no_stream_and_displaces_nothing_that_is_said_after_it() {
    let fleet = Fleet::start();
    // It gives one every two seconds, and has a second for it.
    let builder = patient(fleet.redis.url()).lease(Some(Duration::from_secs(20))).write_deadline(Duration::from_secs(1));
    let layer = layer(builder.build().unwrap());
    let leading = tokio::spawn(layer.layer(told(&fleet.control.url(), "leader")).oneshot(post("/")));
    fleet.until_called(1).await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let mut answer = begin(&fleet.follower(), "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    // Its lease is not to be renewed meanwhile, and the sign is due in two seconds from now.
    let lease = fleet.redis.run::<Vec<String>>(&["KEYS", "t:*:lease"]).remove(0);
    until(async || fleet.redis.run::<u64>(&["PTTL", &lease]) > 10_000).await;
    say(&fleet.control, "leader", &["two"]);
    assert_eq!(frame(&mut answer).await.unwrap(), "two");
    // What is written meanwhile is done afterwards.
    let () = fleet.redis.run(&["CLIENT", "PAUSE", "4000", "WRITE"]);
    let handle = layer.handle();
    until(async || handle.stats().await.store_errors > 0).await;
    let () = fleet.redis.run(&["SET", "over", "1"]);
    say(&fleet.control, "leader", &["three", "four", "!end"]);
    assert_eq!(rest(answer).await.unwrap(), "threefour");
    assert_eq!(rest(leading.await.unwrap().unwrap()).await.unwrap(), "onetwothreefour");
    assert_eq!(calls(&fleet.control)["/"], 1);
}

#[tokio::test]
async fn signs_of_life_are_bounded_with_what_is_said() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "1000").await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let answer = begin(&fleet.follower(), "/").await;
    let wish = fleet.redis.run::<Vec<String>>(&["KEYS", "t:*:wanted"]).remove(0);
    until(async || {
        // As by one who comes.
        let () = fleet.redis.run(&["PEXPIRE", &wish, "60000"]);
        fleet.streams().is_empty()
    })
    .await;
    rest(answer).await.unwrap_err();
}

#[tokio::test]
async fn who_follows_reads_once_for_each_part() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "").await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let mut answer = begin(&fleet.follower(), "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    let before = commands(&fleet.redis, "xrange");
    for number in 0..50 {
        let word = number.to_string();
        say(&fleet.control, "leader", &[&word]);
        assert_eq!(frame(&mut answer).await.unwrap(), word);
    }
    let readings = commands(&fleet.redis, "xrange") - before;
    assert!((1..75).contains(&readings), "{readings}");
}

#[tokio::test]
async fn an_error_of_the_leaders_body_is_one_for_those_who_follow() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "").await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let layer = layer(patient(fleet.redis.url()).lease(Some(LONG)).build().unwrap());
    let (handle, cache) = (layer.handle(), layer.layer(told(&fleet.control.url(), "follower")));
    let mut answer = begin(&cache, "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    say(&fleet.control, "leader", &["!error"]);
    frame(&mut answer).await.unwrap_err();
    assert_eq!(fleet.led().await, "broken by a test");
    assert_eq!(handle.stats().await.store_errors, 0, "it is no fault of the store's");
    until(async || fleet.streams().is_empty()).await;
}

#[tokio::test]
async fn a_content_length_that_is_not_kept_is_an_error_for_those_who_follow() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "").await;
    say(&fleet.control, "leader", &["!head 200 content-length=5", "one"]);
    let cache = fleet.follower();
    let mut answer = begin(&cache, "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    say(&fleet.control, "leader", &["!end"]);
    frame(&mut answer).await.unwrap_err();
}

#[tokio::test]
async fn a_redis_that_is_frozen_or_killed_in_the_middle_costs_the_leaders_caller_nothing_and_passes_off_no_part_as_whole() {
    for killed in [false, true] {
        let mut fleet = Fleet::start();
        let _leader = fleet.leader(LONG, "").await;
        say(&fleet.control, "leader", &["!head 200", "one"]);
        let brief = patient(fleet.redis.url()).read_deadline(Duration::from_secs(1)).lease(Some(Duration::from_secs(2)));
        let cache = member(brief, &fleet.control, "follower");
        let mut answer = begin(&cache, "/").await;
        assert_eq!(frame(&mut answer).await.unwrap(), "one");
        if killed {
            fleet.redis.kill();
        } else {
            fleet.redis.freeze();
        }
        say(&fleet.control, "leader", &["two", "!end"]);
        assert_eq!(fleet.led().await, "miss: onetwo");
        frame(&mut answer).await.unwrap_err();
        // The next goes upstream on its own.
        say(&fleet.control, "follower", &["!head 200", "mine", "!end"]);
        assert_eq!(ask(&cache, post("/")).await.1, "mine");
        if !killed {
            fleet.redis.thaw();
        }
    }
}

#[tokio::test]
async fn beyond_the_bound_nothing_more_is_said_and_who_has_nothing_yet_waits_for_the_whole() {
    let fleet = Fleet::start();
    let leader = fleet.leader(LONG, "1000").await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let mut answer = begin(&fleet.follower(), "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    say(&fleet.control, "leader", &["*2000"]);
    frame(&mut answer).await.unwrap_err();
    until(async || fleet.streams().is_empty()).await;
    let cache = fleet.follower();
    let waiting = tokio::spawn(async move { ask_bytes(&cache).await });
    fleet.until_wanted().await;
    say(&fleet.control, "leader", &["!end"]);
    let (outcome, body) = waiting.await.unwrap();
    assert_eq!((outcome, body.len()), (Outcome::Hit, 2003));
    leader.end().await;
    assert_eq!(calls(&fleet.control)["/"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_answers_for_its_lease_though_the_word_that_somebody_asked_was_lost() {
    let fleet = Fleet::start();
    let proxy = Proxy::to(fleet.redis.port()).await;
    // Unasked, it renews after hours, and who waits asks again after hours.
    let ages = LONG * 600;
    let leader = member(patient(proxy.url()).lease(Some(ages)), &fleet.control, "leader");
    let leading = tokio::spawn(async move { ask_bytes(&leader).await });
    fleet.until_called(1).await;
    let lease = fleet.redis.run::<Vec<String>>(&["KEYS", "t:*:lease"]).remove(0);
    let long = async || fleet.redis.run::<u64>(&["PTTL", &lease]) > (ages / 2).as_millis() as u64;
    // It hears of changes, has renewed its lease once, and is then cut off for a moment.
    until(async || fleet.redis.run::<String>(&["CLIENT", "LIST"]).contains("cmd=ping")).await;
    until(long).await;
    proxy.set(Way::Refuse);
    proxy.reset();
    until(async || !fleet.redis.run::<String>(&["CLIENT", "LIST"]).contains("cmd=ping")).await;
    let () = fleet.redis.run(&["PEXPIRE", &lease, &(ages / 10).as_millis().to_string()]);
    let cache = member(patient(fleet.redis.url()).lease(Some(ages)), &fleet.control, "follower");
    let waiting = tokio::spawn(async move { ask_bytes(&cache).await });
    fleet.until_wanted().await;
    proxy.set(Way::Open);
    until(long).await;
    say(&fleet.control, "leader", &["!head 200", "one", "!end"]);
    for answer in [leading, waiting] {
        assert_eq!(answer.await.unwrap().1, "one");
    }
    assert_eq!(calls(&fleet.control)["/"], 1);
}

#[tokio::test]
async fn who_leads_and_hears_no_word_any_more_gives_signs_of_life_unasked() {
    let fleet = Fleet::start();
    // As long as it hears, it renews after hours.
    let ages = LONG * 600;
    let leader = member(patient(fleet.redis.url()).lease(Some(ages)), &fleet.control, "leader");
    let leading = tokio::spawn(async move { ask_bytes(&leader).await });
    fleet.until_called(1).await;
    let lease = fleet.redis.run::<Vec<String>>(&["KEYS", "t:*:lease"]).remove(0);
    let long = async || fleet.redis.run::<u64>(&["PTTL", &lease]) > (ages / 2).as_millis() as u64;
    let hearing = || {
        let clients: String = fleet.redis.run(&["CLIENT", "LIST"]);
        let client = clients.lines().find(|client| client.contains("cmd=ping"))?;
        Some(client.strip_prefix("id=")?.split(' ').next()?.to_owned())
    };
    until(async || hearing().is_some() && long().await).await;
    // As by one who asks; of this it is not told, and it renews as it was going to before it heard.
    let cut = || fleet.redis.run::<()>(&["PEXPIRE", &lease, &(ages / 10).as_millis().to_string()]);
    cut();
    until(long).await;
    let () = fleet.redis.run(&["ACL", "SETUSER", "default", "-client|tracking"]);
    let _: u64 = fleet.redis.run(&["CLIENT", "KILL", "ID", &hearing().unwrap()]);
    for _ in 0..3 {
        cut();
        until(long).await;
    }
    say(&fleet.control, "leader", &["!head 200", "one", "!end"]);
    assert_eq!(leading.await.unwrap().1, "one");
}

async fn ask_bytes(cache: &Member) -> (Outcome, Bytes) {
    let answer = begin(cache, "/").await;
    (outcome(&answer), rest(answer).await.unwrap())
}

#[tokio::test]
async fn a_length_beyond_the_bound_is_not_begun() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "1000").await;
    let cache = fleet.follower();
    let waiting = tokio::spawn(async move { ask_bytes(&cache).await });
    fleet.until_wanted().await;
    say(&fleet.control, "leader", &["!head 200 content-length=2000", "*2000", "!end"]);
    let (outcome, body) = waiting.await.unwrap();
    assert_eq!((outcome, body.len()), (Outcome::Hit, 2000));
    assert_eq!(commands(&fleet.redis, "xlen"), 0);
}

#[tokio::test]
async fn an_answer_that_is_none_to_store_is_shown_to_nobody_else_and_all_learn_at_its_head() {
    for head in ["!head 500", "!head 200 cache-control=no-store"] {
        let fleet = Fleet::start();
        let _leader = fleet.leader(LONG, "").await;
        let cache = fleet.follower();
        let waiting = tokio::spawn(async move { ask(&cache, post("/")).await });
        fleet.until_wanted().await;
        // Its body never ends.
        say(&fleet.control, "leader", &[head, "secret"]);
        say(&fleet.control, "follower", &["!head 200", "mine", "!end"]);
        let (outcome, body) = waiting.await.unwrap();
        assert!(matches!(outcome, Outcome::Miss(_)) && body == "mine", "{outcome:?}: {body}");
        assert!(fleet.streams().is_empty());
    }
}

#[tokio::test]
async fn who_is_aboard_when_it_is_invalidated_has_the_whole_and_who_comes_later_has_what_is_new() {
    for by_key in [true, false] {
        let fleet = Fleet::start();
        let _leader = fleet.leader(LONG, "").await;
        say(&fleet.control, "leader", &["!head 200", "old"]);
        let mut answer = begin(&fleet.follower(), "/").await;
        assert_eq!(frame(&mut answer).await.unwrap(), "old");

        let handle = layer(patient(fleet.redis.url()).build().unwrap()).handle();
        if by_key {
            handle.invalidate_request(&post("/").map(|_| Bytes::new())).await.unwrap();
        } else {
            handle.invalidate(&Selection::All).await.unwrap();
        }
        let newcomer = member(patient(fleet.redis.url()), &fleet.control, "newcomer");
        say(&fleet.control, "newcomer", &["!head 200", "new", "!end"]);
        let before = commands(&fleet.redis, "getrange");
        let coming = {
            let newcomer = newcomer.clone();
            tokio::spawn(async move { ask(&newcomer, post("/")).await })
        };
        // It has looked up, asked for the lease, and asked again.
        until(async || coming.is_finished() || commands(&fleet.redis, "getrange") >= before + 3).await;
        say(&fleet.control, "leader", &["er", "!end"]);
        assert_eq!(frame(&mut answer).await.unwrap(), "er");
        assert_eq!(rest(answer).await.unwrap(), "");
        let (outcome, body) = coming.await.unwrap();
        assert!(matches!(outcome, Outcome::Miss(_)) && body == "new", "{outcome:?}: {body}");
        assert_eq!(fleet.led().await, "miss: older");
        until(async || ask(&newcomer, post("/")).await == (Outcome::Hit, "new".to_owned())).await;
    }
}

#[tokio::test]
async fn who_comes_after_an_invalidation_by_another_process_joins_nothing_from_before_it() {
    for by_key in [true, false] {
        let fleet = Fleet::start();
        let [leader, follower] =
            ["leader", "follower"].map(|name| member(patient(fleet.redis.url()).lease(Some(LONG)), &fleet.control, name));
        let leading = {
            let leader = leader.clone();
            tokio::spawn(async move { begin(&leader, "/").await })
        };
        fleet.until_called(1).await;
        say(&fleet.control, "leader", &["!head 200", "old"]);
        let answers = [leading.await.unwrap(), begin(&follower, "/").await];
        let handle = layer(patient(fleet.redis.url()).build().unwrap()).handle();
        if by_key {
            handle.invalidate_request(&post("/").map(|_| Bytes::new())).await.unwrap();
        } else {
            handle.invalidate(&Selection::All).await.unwrap();
        }
        // Each in the process where the old one is still on its way; one of them makes the call for both.
        for name in ["leader:2", "follower"] {
            say(&fleet.control, name, &["!head 200", "new", "!end"]);
        }
        let coming = [leader, follower].map(|cache| tokio::spawn(async move { ask(&cache, post("/")).await.1 }));
        if by_key {
            // Nothing of the old is waited for.
            fleet.until_called(2).await;
        }
        say(&fleet.control, "leader", &["er", "!end"]);
        for answer in answers {
            assert_eq!(rest(answer).await.unwrap(), "older", "who was aboard has the whole");
        }
        for coming in coming {
            assert_eq!(coming.await.unwrap(), "new");
        }
    }
}

#[tokio::test]
async fn who_joins_those_who_wait_for_another_process_after_an_invalidation_is_shown_nothing_that_began_before_it() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "").await;
    let cache = fleet.follower();
    let come = || {
        let cache = cache.clone();
        tokio::spawn(async move { ask(&cache, post("/")).await })
    };
    let waiting = come();
    fleet.until_wanted().await;
    // Nobody in this process is told.
    layer(patient(fleet.redis.url()).build().unwrap()).handle().invalidate(&Selection::All).await.unwrap();
    let before = commands(&fleet.redis, "getrange");
    let coming: Vec<_> = (0..20).map(|_| come()).collect();
    // They have looked up, and join the one who waits.
    until(async || commands(&fleet.redis, "getrange") >= before + 20).await;
    say(&fleet.control, "follower", &["!head 200", "new", "!end"]);
    say(&fleet.control, "leader", &["!head 200", "old", "!end"]);
    for coming in coming {
        assert_eq!(coming.await.unwrap().1, "new");
    }
    waiting.await.unwrap();
    assert_eq!((fleet.led().await.as_str(), calls(&fleet.control)["/"]), ("miss: old", 2));
}

fn commands(server: &Server, name: &str) -> u64 {
    let stats: String = server.run(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls="))).unwrap_or("0,");
    line.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn trailers_reach_those_who_follow() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "").await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let mut answer = begin(&fleet.follower(), "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    say(&fleet.control, "leader", &["!trailer", "!end"]);
    let whole = answer.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-trailer"], "yes");
}

#[tokio::test]
async fn many_who_follow_in_several_processes_share_one_call_and_one_reading_in_each() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "").await;
    let followers: Vec<_> = (0..3).map(|_| Worker::start(&format!("follow {} {} 20", fleet.redis.url(), fleet.control.url()))).collect();
    // Each process looks up sixty times at most, asks for the lease once, and then follows.
    until(async || commands(&fleet.redis, "getrange") > 60).await;
    say(&fleet.control, "leader", &["!head 200", "one", "two"]);
    until(async || commands(&fleet.redis, "xrange") > 3).await;
    say(&fleet.control, "leader", &["three", "!end"]);
    for follower in followers {
        follower.end().await;
    }
    let got: std::collections::HashMap<String, u64> = fleet.control.run(&["HGETALL", "got"]);
    assert_eq!(got.values().sum::<u64>(), 60, "{got:?}");
    assert!(got.keys().all(|got| got.ends_with(": onetwothree") && !got.starts_with("miss")), "{got:?}");
    assert_eq!(calls(&fleet.control)["/"], 1);
    // Not once per caller.
    let readings = commands(&fleet.redis, "xrange");
    assert!(readings < 60, "{readings}");
}

#[tokio::test]
async fn an_answer_for_some_is_followed_by_those_alone() {
    let fleet = Fleet::start();
    let cache = |name| {
        let store = patient(fleet.redis.url()).lease(Some(LONG)).build().unwrap();
        CacheLayer::new(store, HttpPolicy::shared()).layer(told(&fleet.control.url(), name))
    };
    let get = |language| Request::get("http://origin/").header("accept-language", language).body(Full::<Bytes>::default()).unwrap();
    let (leader, same, other) = (cache("leader"), cache("same"), cache("other"));
    let leading = tokio::spawn(leader.oneshot(get("en")));
    fleet.until_called(1).await;
    say(&fleet.control, "leader", &["!head 200 vary=accept-language cache-control=max-age=60", "hello"]);
    let follow = same.oneshot(get("en")).await.unwrap();
    assert_eq!(outcome(&follow), Outcome::CollapsedElsewhere);
    say(&fleet.control, "other", &["!head 200 vary=accept-language cache-control=max-age=60", "hallo", "!end"]);
    let alone = other.oneshot(get("de")).await.unwrap();
    assert!(matches!(outcome(&alone), Outcome::Miss(_)));
    assert_eq!(rest(alone).await.unwrap(), "hallo");
    say(&fleet.control, "leader", &["!end"]);
    assert_eq!(rest(follow).await.unwrap(), "hello");
    assert_eq!(rest(leading.await.unwrap().unwrap()).await.unwrap(), "hello");
    assert_eq!(calls(&fleet.control)["/"], 2);
}

#[tokio::test]
async fn a_call_goes_on_for_those_who_follow_and_is_cancelled_when_the_last_has_left() {
    let fleet = Fleet::start();
    let brief = Duration::from_secs(1);
    let store = patient(fleet.redis.url()).lease(Some(brief)).build().unwrap();
    let policy = ApiPolicy::new(Sharing::Shared).abandoned(Abandoned::Cancel);
    let leader = CacheLayer::new(store, policy).layer(told(&fleet.control.url(), "leader"));
    let leading = tokio::spawn(leader.oneshot(post("/")));
    fleet.until_called(1).await;
    let cache = member(patient(fleet.redis.url()).lease(Some(brief)), &fleet.control, "follower");
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let mut answer = begin(&cache, "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    drop(leading.await.unwrap());
    say(&fleet.control, "leader", &["two"]);
    assert_eq!(frame(&mut answer).await.unwrap(), "two");
    drop(answer);
    // Its wish to follow expires.
    until(async || fleet.streams().is_empty()).await;
    assert_eq!(calls(&fleet.control)["/"], 1);
}

#[tokio::test]
async fn turned_off_at_either_end_others_wait_for_the_whole() {
    for (leads, follows) in [(None, Some(1 << 20)), (Some(1 << 20), None)] {
        let fleet = Fleet::start();
        let member = |live, name| member(patient(fleet.redis.url()).lease(Some(LONG)).live(live), &fleet.control, name);
        let (leader, follower) = (member(leads, "leader"), member(follows, "follower"));
        let leading = tokio::spawn(async move { ask(&leader, post("/")).await });
        fleet.until_called(1).await;
        let before = commands(&fleet.redis, "getrange");
        let waiting = tokio::spawn(async move { ask(&follower, post("/")).await });
        say(&fleet.control, "leader", &["!head 200", "one"]);
        until(async || commands(&fleet.redis, "getrange") >= before + 3).await;
        assert!(fleet.streams().is_empty());
        say(&fleet.control, "leader", &["!end"]);
        assert_eq!(waiting.await.unwrap(), (Outcome::Hit, "one".to_owned()));
        assert_eq!(leading.await.unwrap().1, "one");
    }
}

#[tokio::test]
async fn a_miss_that_nobody_follows_costs_no_command_more() {
    let fleet = Fleet::start();
    let cache = fleet.follower();
    // Scripts and epochs are there after the first, and word of changes comes.
    say(&fleet.control, "follower", &["!head 200", "one", "!end"]);
    assert_eq!(ask(&cache, post("/first")).await.1, "one");
    until(async || fleet.redis.run::<String>(&["CLIENT", "LIST"]).contains("resp=3")).await;
    let handle = layer(patient(fleet.redis.url()).build().unwrap()).handle();
    handle.get(&post("/").map(|_| Bytes::new())).await.unwrap();
    until(async || fleet.redis.records("t").iter().all(|name| !name.ends_with(":lease"))).await;
    let monitor = fleet.redis.monitor();
    say(&fleet.control, "follower:2", &["!head 200", "two", "!end"]);
    assert_eq!(ask(&cache, post("/")).await.1, "two");
    until(async || matches!(outcome(&begin(&cache, "/").await), Outcome::Hit)).await;
    until(async || fleet.redis.records("t").iter().all(|name| !name.ends_with(":lease"))).await;
    let told = monitor.finish();
    // The lease, the record, and the end of the lease.
    let asked = &handle.keys(&post("/").map(|_| Bytes::new())).unwrap()[0].to_string()[2..];
    let scripts = told.lines().filter(|line| line.contains("\"EVALSHA\"") && line.contains(asked)).count();
    assert!((2..=3).contains(&scripts), "{told}");
    for word in [":live:", "XADD", "XLEN", "XRANGE"] {
        assert!(!told.contains(word), "{word} in {told}");
    }
    assert!(fleet.streams().is_empty());
}

#[tokio::test]
async fn the_published_permissions_are_enough_and_without_word_of_changes_it_works_too() {
    for more in [&["+client|tracking", "+ping"][..], &[]] {
        let fleet = Fleet::start();
        let mut command = vec!["ACL", "SETUSER", "cache", "on", ">password", "~t:*"];
        command.extend(crate::settings::PERMISSIONS.split(' '));
        command.extend(more);
        let () = fleet.redis.run(&command);
        let url = format!("redis://cache:password@127.0.0.1:{}/0", fleet.redis.port());
        let member = |name| member(patient(&url).lease(Some(LONG)), &fleet.control, name);
        let (leader, follower) = (member("leader"), member("follower"));
        let leading = tokio::spawn(async move { ask(&leader, post("/")).await });
        fleet.until_called(1).await;
        say(&fleet.control, "leader", &["!head 200", "one"]);
        let mut answer = begin(&follower, "/").await;
        assert_eq!(frame(&mut answer).await.unwrap(), "one");
        say(&fleet.control, "leader", &["two", "!end"]);
        assert_eq!(rest(answer).await.unwrap(), "two");
        assert_eq!(leading.await.unwrap().1, "onetwo");
    }
}

#[tokio::test]
async fn a_publisher_whose_redis_does_not_answer_holds_up_nobody() {
    let fleet = Fleet::start();
    // What it publishes is not given up while the test runs.
    let store = patient(fleet.redis.url()).lease(Some(LONG)).write_deadline(LONG * 10).build().unwrap();
    let policy = ApiPolicy::new(Sharing::Shared).max_body(100_000);
    let leader = CacheLayer::new(store, policy).stall_limit(LONG).layer(told(&fleet.control.url(), "leader"));
    let leading = tokio::spawn(leader.oneshot(post("/")));
    fleet.until_called(1).await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let mut answer = begin(&fleet.follower(), "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    fleet.redis.freeze();
    // Far more than a window holds; the publisher reads none of it.
    let words = ["*100000"; 40];
    say(&fleet.control, "leader", &words);
    say(&fleet.control, "leader", &["!end"]);
    let whole = tokio::time::timeout(LONG / 2, rest(leading.await.unwrap().unwrap())).await.expect("it is held up");
    assert_eq!(whole.unwrap().len(), 3 + 4_000_000);
    fleet.redis.thaw();
}

#[tokio::test]
async fn what_a_foreign_hand_adds_to_a_stream_ends_it_with_an_error() {
    let fleet = Fleet::start();
    let _leader = fleet.leader(LONG, "").await;
    say(&fleet.control, "leader", &["!head 200", "one"]);
    let mut answer = begin(&fleet.follower(), "/").await;
    assert_eq!(frame(&mut answer).await.unwrap(), "one");
    let () = fleet.redis.run(&["XADD", &fleet.streams()[0], "9-9", "", "and they lived happily ever after"]);
    frame(&mut answer).await.unwrap_err();
    say(&fleet.control, "leader", &["two", "!end"]);
    assert_eq!(fleet.led().await, "miss: onetwo");
}

// The store alone.

fn parts() -> Vec<LivePart> {
    let head = LiveHead {
        status: StatusCode::OK,
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        lifetime: Lifetime::fresh(SystemTime::now(), LONG),
        promised: None,
        vary: None,
        generation: Generation::default(),
    };
    let frames = |text: &'static str| LivePart::Frames(vec![Bytes::from_static(text.as_bytes())]);
    vec![
        LivePart::Head(Box::new(head)),
        frames("one"),
        frames("two"),
        frames("three"),
        LivePart::End(Box::new(LiveEnd { length: 11, checksum: 1, ..LiveEnd::default() })),
    ]
}

/// Publishes parts under a lease of its own, and says under which name they are.
async fn published(store: &Redis, server: &Server, number: u64, parts: &[LivePart]) -> (Token, String) {
    let generation = store.get(&key(number)).await.unwrap().generation;
    let Claim::Granted(token, _) = store.claim(&key(number), generation, Duration::ZERO).await.unwrap() else { panic!("it is taken") };
    let before: Vec<String> = server.run(&["KEYS", "t:*:live:*"]);
    store.publish(&key(number), token, 0, parts).await.unwrap();
    let after: Vec<String> = server.run(&["KEYS", "t:*:live:*"]);
    (token, after.into_iter().find(|name| !before.contains(name)).unwrap())
}

async fn read(store: &Redis, key: &Key, token: Token, count: usize) -> Result<Vec<LivePart>, tower_response_cache::Error> {
    let (mut read, mut said) = (Vec::new(), pin!(store.follow(*key, token)));
    while read.len() < count {
        read.extend(said.next().await.expect("an end is an error")?);
    }
    Ok(read)
}

#[tokio::test]
async fn a_part_that_is_tampered_with_missing_or_out_of_its_place_is_not_read() {
    let keys = || SealKeys::new(1, [1; 32]);
    for sealed in [false, true] {
        let server = Server::start();
        let build = || {
            let builder = patient(server.url()).lease(Some(LONG));
            if sealed { builder.seal(keys()) } else { builder }.build().unwrap()
        };
        let (publisher, follower) = (build(), build());
        let foreign = {
            let (_, name) = published(&publisher, &server, 100, &parts()).await;
            values(&server, &name)
        };
        // Those who write to redis can write all of these.
        type Tamper = fn(&mut Vec<Vec<u8>>, &[Vec<u8>]);
        let tampers: [(&str, Tamper); 9] = [
            ("swapped", |values, _| values.swap(1, 2)),
            ("dropped", |values, _| drop(values.remove(2))),
            ("the head dropped", |values, _| drop(values.remove(0))),
            ("flipped", |values, _| *values[2].last_mut().unwrap() ^= 1),
            ("cut", |values, _| values[3].truncate(30)),
            ("twice", |values, _| values.insert(2, values[1].clone())),
            ("of another key", |values, foreign| values[1] = foreign[1].clone()),
            ("an end of another key", |values, foreign| values[4] = foreign[4].clone()),
            ("too long", |values, _| values[1] = vec![b'x'; 2 << 20]),
        ];
        let count = parts().len();
        for (number, (what, tamper)) in (0..).zip(tampers) {
            let (token, name) = published(&publisher, &server, number, &parts()).await;
            assert_eq!(read(&follower, &key(number), token, count).await.unwrap().len(), count);
            let mut values = values(&server, &name);
            tamper(&mut values, &foreign);
            let () = server.run(&["DEL", &name]);
            for (at, value) in (1..).zip(&values) {
                let mut command = redis::cmd("XADD");
                let () = command.arg(&name).arg(format!("1-{at}")).arg("").arg(value).query(&mut server.admin()).unwrap();
            }
            let error = read(&follower, &key(number), token, count).await.expect_err(what);
            assert!(error.is_corrupt(), "{what}: {error}");
        }
        // One stream passed off as that of another lease.
        let (token, name) = published(&publisher, &server, 50, &parts()).await;
        let other = name.replace(&name[name.len() - 32..], &"0".repeat(32));
        let () = server.run(&["RENAME", &name, &other]);
        assert!(read(&follower, &key(50), Token([0; 16]), 1).await.unwrap_err().is_corrupt());
        assert_eq!(read(&follower, &key(50), token, 1).await.unwrap(), [LivePart::Withdrawn]);
    }
}

fn values(server: &Server, name: &str) -> Vec<Vec<u8>> {
    let entries: Vec<(String, Vec<Vec<u8>>)> = server.run(&["XRANGE", name, "-", "+"]);
    entries.into_iter().map(|(_, mut fields)| fields.remove(1)).collect()
}

#[tokio::test]
async fn a_stream_is_appended_to_once_and_only_where_it_left_off() {
    let server = Server::start();
    let store = patient(server.url()).lease(Some(LONG)).build().unwrap();
    let parts = parts();
    let (token, name) = published(&store, &server, 1, &parts[..2]).await;
    // As by one who did not hear the answer.
    store.publish(&key(1), token, 0, &parts[..2]).await.unwrap();
    store.publish(&key(1), token, 1, &parts[1..4]).await.unwrap();
    assert_eq!(read(&store, &key(1), token, 4).await.unwrap().len(), 4);
    assert!(store.publish(&key(1), token, 6, &parts[4..]).await.unwrap_err().is_unavailable(), "there is a gap");
    let left: i64 = server.run(&["PTTL", &name]);
    assert!(left > 0 && left <= LONG.as_millis() as i64, "{left}");
    let () = server.run(&["UNLINK", &name]);
    assert!(store.publish(&key(1), token, 4, &[]).await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn who_follows_is_told_when_it_is_over() {
    let server = Server::start();
    let store = patient(server.url()).lease(Some(Duration::from_secs(2))).build().unwrap();
    let (token, _) = published(&store, &server, 1, &parts()[..2]).await;
    let mut said = pin!(store.follow(key(1), token));
    let mut count = 0;
    while count < 2 {
        count += said.next().await.unwrap().unwrap().len();
    }
    // From now on nothing is said.
    assert_eq!(said.next().await.unwrap().unwrap(), [LivePart::Withdrawn]);
    assert!(said.next().await.is_none());
}

#[tokio::test]
async fn of_a_giant_part_and_of_a_long_stream_little_is_read_at_a_time() {
    let server = Server::start();
    let proxy = crate::proxy::Proxy::to(server.port()).await;
    let [publisher, follower] = [server.url(), proxy.url()].map(|url| patient(url).lease(Some(LONG)).build().unwrap());
    let long: Vec<_> = parts()[..1].iter().cloned().chain((0..40).map(|_| LivePart::Frames(vec![pattern(30_000)]))).collect();
    let (token, _) = published(&publisher, &server, 1, &long).await;
    let before = proxy.received();
    let first = pin!(follower.follow(key(1), token)).next().await.unwrap().unwrap();
    let received = proxy.received() - before;
    assert!(first.len() > 1 && received < 100_000, "{} parts, {received} bytes", first.len());
    assert!(read(&follower, &key(1), token, long.len()).await.unwrap()[1..] == long[1..]);

    let (token, name) = published(&publisher, &server, 2, &parts()[..2]).await;
    let () = redis::cmd("XADD").arg(&name).arg("1-3").arg("").arg(vec![b'x'; 20 << 20]).query(&mut server.admin()).unwrap();
    let before = proxy.received();
    assert!(read(&follower, &key(2), token, 3).await.unwrap_err().is_corrupt());
    let received = proxy.received() - before;
    assert!(received < 100_000, "{received} bytes");
}
