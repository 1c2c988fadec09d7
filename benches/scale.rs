//! What becomes of costs when there is much of everything: look-ups, removals and memory per entry, in one run.
//!
//! ```sh
//! cargo bench --all-features --bench scale
//! cargo bench --all-features --bench scale -- removals
//! ```
//!
//! With names (`entries`, `memory`, `redis`, `removals`), those parts alone.
//!
//! Not by criterion: filling a store takes longer than all measurements. Look-ups are the best tenth of many short rounds, for the machine may have others to
//! serve; removals the median of a few.

#![allow(clippy::unwrap_used, reason = "a panic is how a bench fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a bench, and it uses a part of what tests share"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use tower_response_cache::{
    entry::{Entry, Frames, Lifetime, Metadata, Record, record::Compression},
    key::Key,
    store::{Generation, Memory, Redis, Selection, Store},
};

#[path = "../tests/support/redis.rs"]
#[allow(dead_code)]
mod server;

use server::Server;

const SIZES: [u64; 4] = [10, 1000, 100_000, 1_000_000];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| named.is_empty() || named.iter().any(|named| named == name);
    // First, while what is resident says something.
    if is_wanted("entries") {
        memory_per_entry().await;
    }
    if is_wanted("memory") {
        growth_of_memory().await;
    }
    if is_wanted("redis") {
        growth_of_redis().await;
    }
    if is_wanted("removals") {
        removals().await;
    }
}

/// Spread over all buckets and shards, as digests are.
fn key(number: u64) -> Key {
    let mut bytes = [0; 32];
    let mut rng = fastrand::Rng::with_seed(number);
    rng.fill(&mut bytes);
    Key::from_bytes(bytes)
}

fn record(headers: HeaderMap, body: Frames, metadata: Metadata) -> Record {
    let lifetime = Lifetime::fresh(SystemTime::now(), Duration::from_secs(3600));
    Record::Response(Arc::new(Entry { status: StatusCode::OK, headers, body, trailers: None, lifetime, metadata }))
}

fn small() -> Record {
    record(HeaderMap::new(), Bytes::from(vec![b'x'; 64]).into(), Metadata::default())
}

fn tagged(tag: &str, model: &str) -> Record {
    let metadata =
        Metadata { tags: vec![tag.to_owned()], labels: vec![("model".to_owned(), model.to_owned())].into(), ..Metadata::default() };
    record(HeaderMap::new(), Bytes::from(vec![b'x'; 64]).into(), metadata)
}

fn store(server: &Server, compression: Compression) -> Redis {
    let long = Duration::from_secs(60);
    let builder = Redis::builder(server.url()).read_deadline(long).write_deadline(long).sweep_deadline(long * 10);
    builder.compression(compression).build().unwrap()
}

/// Stores records under the keys of these numbers. All keys of a bucket have one epoch, so each is looked up once.
async fn fill(store: &Redis, numbers: std::ops::Range<u64>, record: impl Fn(u64) -> Record) {
    let mut epochs = [0; 256];
    for (bucket, epoch) in epochs.iter_mut().enumerate() {
        let mut bytes = [0xff; 32];
        bytes[0] = u8::try_from(bucket).unwrap();
        *epoch = store.get(&Key::from_bytes(bytes)).await.unwrap().generation.0[0];
    }
    let (record, epochs) = (&record, &epochs);
    let puts = stream::iter(numbers).map(|number| async move {
        let key = key(number);
        let generation = Generation([epochs[usize::from(key.as_bytes()[0])], 0]);
        assert!(store.put(&key, record(number), generation).await.unwrap());
    });
    puts.buffer_unordered(64).collect::<Vec<()>>().await;
}

/// Makes sure of so many keys that are not the cache's, some at a time: a server that is busy for long is taken for one that hangs.
fn populate(server: &Server, count: u64) {
    const SOME: u64 = 50_000;
    for begin in (0..count).step_by(usize::try_from(SOME).unwrap()) {
        let () = server.run(&["DEBUG", "POPULATE", &SOME.min(count - begin).to_string(), &format!("other{begin}"), "100"]);
    }
}

/// How long so large a share of all rounds takes at most.
async fn at<T>(share: f64, rounds: usize, mut round: T) -> Duration
where
    T: AsyncFnMut() -> Duration,
{
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.push(round().await);
    }
    times.sort_unstable();
    times[(rounds as f64 * share) as usize]
}

async fn growth_of_memory() {
    println!("\nlook-ups of keys by chance, memory\n\n| entries | ns |\n|---|---|");
    for size in SIZES {
        let store = Memory::new(8 << 30);
        for number in 0..size {
            let key = key(number);
            let generation = store.get(&key).await.unwrap().generation;
            assert!(store.put(&key, small(), generation).await.unwrap());
        }
        let keys: Vec<Key> = (0..20_000).map(|_| key(fastrand::u64(..size))).collect();
        let time = at(0.1, 60, async || {
            let start = Instant::now();
            for key in &keys {
                assert!(store.get(key).await.unwrap().record.is_some());
            }
            start.elapsed()
        });
        println!("| {size} | {:.0} |", time.await.as_nanos() as f64 / keys.len() as f64);
    }
}

async fn growth_of_redis() {
    println!("\nlook-ups of keys by chance, Redis, one after the other\n\n| keys in Redis | us | bare `GET`, us |\n|---|---|---|");
    let server = Server::start();
    let store = store(&server, Compression::Off);
    let mut bare = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut filled = 0;
    for size in SIZES {
        // Beyond that, others will do: Redis keeps all in one table.
        let own = size.min(50_000);
        fill(&store, filled..own, |_| small()).await;
        filled = own;
        populate(&server, size - own);
        let keys: Vec<Key> = (0..500).map(|_| key(fastrand::u64(..own))).collect();
        let names: Vec<String> = keys.iter().map(name).collect();
        // Interleaved, for the machine has moods.
        let (mut ours, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..30 {
            let start = Instant::now();
            for key in &keys {
                assert!(store.get(key).await.unwrap().record.is_some());
            }
            ours.push(start.elapsed());
            let start = Instant::now();
            for name in &names {
                let value: Vec<u8> = redis::cmd("GET").arg(name).query_async(&mut bare).await.unwrap();
                assert!(value.len() > 64);
            }
            bares.push(start.elapsed());
        }
        let each = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 10].as_secs_f64() * 1e6 / keys.len() as f64
        };
        println!("| {size} | {:.1} | {:.1} |", each(&mut ours), each(&mut bares));
    }
}

/// As the store names records.
fn name(key: &Key) -> String {
    let digest = key.to_string();
    format!("trc:{{{}}}{}", &digest[..2], &digest[2..])
}

async fn removals() {
    println!(
        "\nremovals from Redis\n\n| removed | among other keys | by tag, ms | by pattern, ms | longest look-up beside it, ms | long commands, us, by tag | by pattern |\n|---|---|---|---|---|---|---|"
    );
    for others in [0, 100_000, 1_000_000] {
        let server = Server::start();
        let store = store(&server, Compression::Off);
        populate(&server, others);
        let () = server.run(&["CONFIG", "SET", "slowlog-log-slower-than", "100", "slowlog-max-len", "100000"]);
        for count in if others == 1_000_000 { &[1000, 100_000][..] } else { &[1000] } {
            let rounds = if *count > 1000 { 1 } else { 5 };
            let mut longest = Duration::ZERO;
            let mut commands = [0, 0];
            let mut remove = async |selection: Selection| {
                fill(&store, 0..*count, |_| tagged("tag", "gpt-4o")).await;
                let done = Arc::new(AtomicBool::new(false));
                let beside = tokio::spawn(beside(store.clone(), Arc::clone(&done)));
                let () = server.run(&["SLOWLOG", "RESET"]);
                let start = Instant::now();
                assert_eq!(store.remove_where(&selection).await.unwrap(), *count);
                let time = start.elapsed();
                done.store(true, Ordering::SeqCst);
                longest = longest.max(beside.await.unwrap());
                let long = &mut commands[usize::from(!matches!(selection, Selection::Tag(_)))];
                *long = long_command(&server).max(*long);
                time
            };
            let by_tag = at(0.5, rounds, async || remove(Selection::Tag("tag".to_owned())).await).await;
            let by_pattern = at(0.5, rounds, async || remove(Selection::Pattern("model=gpt-4*".to_owned())).await).await;
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let [tag, pattern] = commands;
            println!("| {count} | {others} | {:.1} | {:.1} | {:.1} | {tag} | {pattern} |", ms(by_tag), ms(by_pattern), ms(longest));
        }
    }
}

/// What the server itself took for all but a hundredth of the longer commands of late, in microseconds. The longest of all says more of what else the machine did.
fn long_command(server: &Server) -> u64 {
    let entries: Vec<Vec<redis::Value>> = server.run(&["SLOWLOG", "GET", "-1"]);
    let mut times: Vec<u64> = entries.into_iter().map(|entry| redis::from_redis_value(entry[2].clone()).unwrap()).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// Looks up until it is told to stop, and says what took longest.
async fn beside(store: Redis, done: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::SeqCst) {
        let start = Instant::now();
        store.get(&key(u64::MAX)).await.unwrap();
        longest = longest.max(start.elapsed());
    }
    longest
}

async fn memory_per_entry() {
    const COUNT: u64 = 10_000;
    println!(
        "\nmemory of {COUNT} answers\n\n| answer | body, bytes | Redis, bytes each | compressed | Memory says, bytes each | resident, bytes each |\n|---|---|---|---|---|---|"
    );
    for (name, streamed) in [("JSON", false), ("events", true)] {
        let len = length(&answer(0, streamed));
        let mut redis = Vec::new();
        for compression in [Compression::Off, Compression::default()] {
            let server = Server::start();
            let store = store(&server, compression);
            fill(&store, COUNT..COUNT + 1, |number| answer(number, streamed)).await;
            let before = used(&store).await;
            fill(&store, 0..COUNT, |number| answer(number, streamed)).await;
            redis.push((used(&store).await - before) / COUNT);
        }
        let memory = Memory::new(1 << 30);
        let before = resident();
        for number in 0..COUNT {
            let key = key(number);
            let generation = memory.get(&key).await.unwrap().generation;
            assert!(memory.put(&key, answer(number, streamed), generation).await.unwrap());
        }
        let says = memory.usage().await.unwrap().bytes.unwrap() / COUNT;
        let resident = resident().saturating_sub(before) / COUNT;
        println!("| {name} | {len} | {} | {} | {says} | {resident} |", redis[0], redis[1]);
    }
}

async fn used(store: &Redis) -> u64 {
    store.usage().await.unwrap().bytes.unwrap()
}

/// Bytes of this process; 0 where the system does not tell.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

fn length(record: &Record) -> usize {
    record.clone().response().map_or(0, |entry| entry.body.len())
}

/// An answer of 8 KB, with the fields that providers send. No two have the same words.
fn answer(number: u64, streamed: bool) -> Record {
    let words: Vec<&str> = include_str!("../CONTRIBUTING.md").split_whitespace().filter(|word| !word.contains(['"', '\\'])).collect();
    let mut rng = fastrand::Rng::with_seed(number);
    let mut word = || words[rng.usize(..words.len())];
    let body = if streamed {
        let event = |word: &str| {
            Bytes::from(format!(
                "data: {{\"id\":\"chatcmpl-{number:08x}\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word} \"}},\"finish_reason\":null}}]}}\n\n"
            ))
        };
        let mut frames = Vec::new();
        let mut len = 0;
        while len < 8 << 10 {
            let frame = event(word());
            len += frame.len();
            frames.push(frame);
        }
        Frames::compact(&frames)
    } else {
        let mut text = String::new();
        while text.len() < 8 << 10 {
            text.push_str(word());
            text.push(' ');
        }
        Bytes::from(format!("{{\"choices\":[{{\"content\":{text:?}}}]}}")).into()
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", if streamed { "text/event-stream" } else { "application/json" }),
        ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("server", "cloudflare"),
        ("openai-version", "2020-10-01"),
        ("openai-processing-ms", "812"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let metadata = Metadata { model: Some("gpt-4o-mini-2024-07-18".into()), provider: Some("openai".into()), ..Metadata::default() };
    record(headers, body, metadata)
}
