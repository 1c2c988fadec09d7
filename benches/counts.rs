//! What the cache costs, in figures that do not depend on what else the machine does: instructions, allocations, bytes.
//!
//! `cargo bench --bench counts`; instructions need valgrind, which knows no SHA instructions: hashes are counted apart, for the processor takes a tenth
//! of that for them.

#![allow(clippy::unwrap_used, reason = "a panic is how a bench fails")]

mod subjects;

use std::{convert::Infallible, env, fs, hint::black_box, path::Path, process::Command, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{runtime::Runtime, sync::watch};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{ApiPolicy, CacheLayer, RequestBody, ResponseBody, Sharing, store::Memory};

use crate::subjects::{ANSWER, Subject};

/// Instructions are those of so many requests, less those of none.
const REQUESTS: u32 = 1000;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = subjects::runtime();
    if let [run, name, times] = arguments.as_slice()
        && run == "run"
    {
        return repeat(&runtime, name, times.parse().unwrap());
    }

    let subjects = subjects::all(&runtime);
    let times = times(&runtime, &subjects);
    println!("| 8 KB | us | instructions | of that, hashing | allocations | bytes allocated |\n|---|---|---|---|---|---|");
    for (subject, time) in subjects.iter().zip(times) {
        let allocated = allocation_counter::measure(|| runtime.block_on(async { (subject.once)().await }));
        let [all, hashing] = instructions(subject.name).map_or(["".into(), "".into()], |counts| counts.map(|count| count.to_string()));
        println!("| {} | {time:.2} | {all} | {hashing} | {} | {} |", subject.name, allocated.count_total, allocated.bytes_total);
    }

    println!("\n| waiters on one call | us, each | bytes at the peak, each |\n|---|---|---|");
    let measure = |waiters| {
        let (open, gate) = watch::channel(0);
        let service = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::Shared).methods([Method::GET])).layer(gated(gate));
        let mut times: Vec<f64> = (0..50).map(|round| crowd(&runtime, &service, &open, round, waiters)).collect();
        times.sort_by(f64::total_cmp);
        let peak = allocation_counter::measure(|| _ = crowd(&runtime, &service, &open, 50, waiters)).bytes_max;
        (times[times.len() / 10], peak)
    };
    let ((one, alone), (all, peak)) = (measure(1), measure(1000));
    println!("| 1000 | {:.2} | {} |", (all - one) / 999.0, (peak - alone) / 999);
    sizes(&runtime);
}

/// Microseconds per request: the best tenth of many short rounds, which take turns.
fn times(runtime: &Runtime, subjects: &[Subject]) -> Vec<f64> {
    const ROUNDS: usize = 500;
    const REQUESTS: u32 = 50;
    let mut times = vec![Vec::with_capacity(ROUNDS); subjects.len()];
    for _ in 0..ROUNDS {
        for (subject, times) in subjects.iter().zip(&mut times) {
            let start = Instant::now();
            runtime.block_on(async {
                for _ in 0..REQUESTS {
                    black_box((subject.once)()).await;
                }
            });
            times.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(REQUESTS));
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    times.iter().map(|times| times[ROUNDS / 10]).collect()
}

fn repeat(runtime: &Runtime, name: &str, times: u32) {
    let subject = subjects::all(runtime).into_iter().find(|subject| subject.name == name).unwrap();
    runtime.block_on(async {
        for _ in 0..times {
            black_box((subject.once)()).await;
        }
    });
}

/// Instructions per request, and those of them that hash; `None` without valgrind.
fn instructions(name: &str) -> Option<[u64; 2]> {
    let directory = tempfile::tempdir().unwrap();
    let count = |times: u32| {
        let file = directory.path().join(times.to_string());
        let mut command = Command::new("valgrind");
        command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", file.display()));
        let ran = command.arg(env::current_exe().unwrap()).args(["run", name, &times.to_string()]).output().ok()?;
        ran.status.success().then(|| read(&file))
    };
    let ([none, without], [all, hashing]) = (count(0)?, count(REQUESTS)?);
    Some([(all - none) / u64::from(REQUESTS), (hashing - without) / u64::from(REQUESTS)])
}

/// The sum of a profile, and the part of it in functions that compress blocks of SHA-256.
fn read(profile: &Path) -> [u64; 2] {
    let text = fs::read_to_string(profile).unwrap();
    let mut names = std::collections::HashMap::new();
    let (mut all, mut hashing, mut is_hash, mut is_call) = (0, 0, false, false);
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            let (id, name) = function.split_once(')').unwrap();
            if !name.is_empty() {
                names.insert(id, name.contains("sha2::") && name.contains("compress"));
            }
            is_hash = names[id];
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            // What a call costs in all stands behind it, and is counted where it is spent.
            if !std::mem::take(&mut is_call) {
                all += cost;
                hashing += if is_hash { cost } else { 0 };
            }
        } else if let Some(function) = line.strip_prefix("cfn=")
            && let Some((id, name)) = function.split_once(')')
            && !name.is_empty()
        {
            names.insert(id, name.contains("sha2::") && name.contains("compress"));
        }
    }
    [all, hashing]
}

/// So many ask at once, and are answered when all have asked. Microseconds from the first request to the last byte.
fn crowd<S>(runtime: &Runtime, service: &S, open: &watch::Sender<u32>, round: u32, waiters: u32) -> f64
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResponseBody<Full<Bytes>>>, Error = Infallible> + Clone,
{
    let start = Instant::now();
    runtime.block_on(async {
        let answers = (0..waiters).map(|_| async {
            let request = Request::get(format!("http://origin/{round}")).body(Full::default()).unwrap();
            let answer = service.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), ANSWER);
        });
        let release = async { _ = open.send(round + 1) };
        tokio::join!(join_all(answers), release);
    });
    start.elapsed().as_secs_f64() * 1e6
}

/// Answers a request of round `n` once the gate stands above `n`.
fn gated(
    gate: watch::Receiver<u32>,
) -> impl Service<Request<RequestBody<Full<Bytes>>>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let body = Bytes::from(vec![b'x'; ANSWER]);
    service_fn(move |request: Request<_>| {
        let (mut gate, body) = (gate.clone(), body.clone());
        async move {
            let round: u32 = request.uri().path()[1..].parse().unwrap();
            gate.wait_for(|open| *open > round).await.unwrap();
            Ok(Response::builder().header("content-length", ANSWER).body(Full::new(body)).unwrap())
        }
    })
}

/// Prints how large the futures and bodies are that callers hold.
fn sizes(runtime: &Runtime) {
    let (_, gate) = watch::channel(1);
    let mut service = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::Shared).methods([Method::GET])).layer(gated(gate));
    runtime.block_on(async {
        let mut size = 0;
        let mut request = || {
            let request = Request::get("http://origin/0").body(Full::<Bytes>::default()).unwrap();
            let future = service.call(request);
            size = size_of_val(&future);
            future
        };
        let body = request().await.unwrap().into_body();
        println!("\n| a value | bytes |\n|---|---|\n| body | {} |", size_of_val(&body));
        println!("| response future | {size} |");
    });
    let request = || Request::get("http://origin/0").body(Full::<Bytes>::default()).unwrap();
    let boxed = allocation_counter::measure(|| drop(black_box(service.call(request()))));
    let bare = allocation_counter::measure(|| drop(black_box(request())));
    println!("| boxed by a call | {} |", boxed.bytes_total - bare.bytes_total);
}
