//! What observing costs, in instructions: they are the same on a busy machine, where times are not.
//!
//! `cargo bench --all-features --bench instructions`. It runs itself under `valgrind --tool=callgrind`, which has to be installed, with few rounds and with more: the difference is what
//! a round takes.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

#[allow(unreachable_pub, missing_debug_implementations, reason = "shared by benches")]
#[path = "support/call.rs"]
mod call;

use std::{
    hint::black_box,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use call::{answer, recorder, request};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    ApiPolicy, CacheLayer, Mode, Sharing,
    inspect::Inspect,
    llm::{Dialects, LlmPrices},
    observe::{Event, FillRecord, MetricsObserver, Observer, RequestRecord},
    store::Memory,
};

const FEW: u64 = 100;
const MANY: u64 = 1100;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1..).unwrap_or_default() {
        [run, scenario, rounds] if run == "--rounds" => scenarios()[scenario.parse::<usize>().unwrap()].1(rounds.parse().unwrap()),
        _ => report(),
    }
}

fn report() {
    println!("| | instructions |\n|---|---|");
    for (number, (name, _)) in scenarios().iter().enumerate() {
        let [few, many] = [FEW, MANY].map(|rounds| counted(number, rounds));
        println!("| {name} | {} |", (many - few) / (MANY - FEW));
    }
}

/// How many instructions it takes to run a scenario for so many rounds.
fn counted(scenario: usize, rounds: u64) -> u64 {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--rounds", &scenario.to_string(), &rounds.to_string()])
        .stdout(Stdio::null())
        .output()
        .expect("valgrind is installed");
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{told}");
    told.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok()).unwrap()
}

type Scenario = (&'static str, Box<dyn Fn(u64)>);

fn scenarios() -> Vec<Scenario> {
    let mut all: Vec<Scenario> = Vec::new();
    for (kind, mode) in [("hit", Mode::ReadWrite), ("miss", Mode::WriteOnly)] {
        let looking = || layer(ApiPolicy::new(Sharing::Shared).inspector(Dialects::new()));
        let mut add = |name: &'static str, make: Box<dyn Fn() -> CacheLayer<Memory, ApiPolicy>>| {
            all.push((name, Box::new(move |rounds| requests(&make(), mode, rounds))));
        };
        let named = |what: &str| -> &'static str { format!("{kind}, {what}").leak() };
        add(named("watched by nobody"), Box::new(|| layer(ApiPolicy::new(Sharing::Shared))));
        add(named("usage"), Box::new(looking));
        add(named("usage, an observer that does nothing"), Box::new(move || looking().observer(|_: &Event<'_>| {})));
        add(named("usage, metrics"), Box::new(move || looking().observer(MetricsObserver::with_recorder(recorder()))));
        add(named("usage, prices"), Box::new(move || looking().cost(LlmPrices::embedded())));
        add(
            named("usage, prices, metrics"),
            Box::new(move || looking().cost(LlmPrices::embedded()).observer(MetricsObserver::with_recorder(recorder()))),
        );
    }
    all.push(("metrics, the record of a hit", Box::new(|rounds| tell(rounds, |(request, _)| Event::Request(request)))));
    all.push(("metrics, the record of a call", Box::new(|rounds| tell(rounds, |(_, fill)| Event::Fill(fill)))));
    all.push(("usage, a frame of a chat stream of 260 B", Box::new(frames)));
    all
}

fn layer(policy: ApiPolicy) -> CacheLayer<Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(64 << 20), policy)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn requests(layer: &CacheLayer<Memory, ApiPolicy>, mode: Mode, rounds: u64) {
    let cache = layer.layer(service_fn(answer));
    runtime().block_on(async {
        for _ in 0..=rounds {
            let answer = cache.clone().oneshot(request(mode)).await.unwrap();
            black_box(answer.into_body().collect().await.unwrap());
            // The call ends and is told of in its own task.
            tokio::task::yield_now().await;
        }
    });
}

/// Tells the adapter of metrics of a hit, or of the call that it saved, again and again.
fn tell(rounds: u64, what: impl Fn(&(RequestRecord, FillRecord)) -> Event<'_>) {
    let kept = records();
    let metrics = MetricsObserver::with_recorder(recorder());
    for _ in 0..rounds {
        metrics.on_event(black_box(&what(&kept)));
    }
}

fn records() -> (RequestRecord, FillRecord) {
    let told = Arc::new(Mutex::new((None, None)));
    let keep = Arc::clone(&told);
    let observer = move |event: &Event<'_>| match event {
        Event::Request(record) => keep.lock().unwrap().0 = Some((*record).clone()),
        Event::Fill(record) => keep.lock().unwrap().1 = Some((*record).clone()),
        _ => {}
    };
    let policy = ApiPolicy::new(Sharing::Shared).inspector(Dialects::new());
    requests(&layer(policy).cost(LlmPrices::embedded()).observer(observer), Mode::ReadWrite, 1);
    let (request, fill) = told.lock().unwrap().clone();
    let request = request.unwrap();
    assert_eq!(request.outcome.label(), "hit");
    (request, fill.unwrap())
}

fn frames(rounds: u64) {
    let frame = |word: &str| {
        let chunk = r#"{"id":"chatcmpl-CWq2uDkQZLm8vJpN4s7eT1xR0bYcH","object":"chat.completion.chunk","created":1761904321,"model":"gpt-4o-mini","system_fingerprint":"fp_560af6e559","choices":[{"index":0,"delta":{"content":"WORD"},"logprobs":null,"finish_reason":null}]}"#;
        format!("data: {}\n\n", chunk.replace("WORD", word))
    };
    let frames = [" lighthouse", " stood at", " \\\"Pharos\\\"", ", and then"].map(frame);
    assert!(frames.iter().all(|frame| (250..=270).contains(&frame.len())));
    let request = Request::post("http://origin/").body(()).unwrap().into_parts().0;
    let response = Response::builder().header("content-type", "text/event-stream").body(()).unwrap().into_parts().0;
    let mut inspector = Dialects::new().begin(&request, &response).unwrap();
    for round in 0..rounds {
        inspector.frame(black_box(frames[round as usize % frames.len()].as_bytes()));
    }
    black_box(inspector.end());
}
