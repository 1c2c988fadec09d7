//! What those cost who wait for one upstream call: time and memory per waiter.

use std::{convert::Infallible, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{runtime::Runtime, sync::watch};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{ApiPolicy, CacheLayer, ResponseBody, Sharing, store::Memory};

use crate::subjects::{ANSWER, runtime};

const ROUNDS: u32 = 31;

/// Prints what waiters cost, from one to a thousand.
pub fn print() {
    println!(
        "| waiters on one call, 8 KB | us in all | us per waiter | peak bytes in all | peak bytes per waiter |\n|---|---|---|---|---|"
    );
    let mut one = None;
    for waiters in [1, 10, 100, 1000_u32] {
        let runtime = runtime();
        let (open, gate) = watch::channel(0);
        let service = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::Shared).methods([Method::GET])).layer(origin(gate));
        let mut times: Vec<f64> = (0..ROUNDS).map(|round| crowd(&runtime, &service, &open, round, waiters)).collect();
        times.sort_by(f64::total_cmp);
        let us = times[times.len() / 2];
        let peak = allocation_counter::measure(|| _ = crowd(&runtime, &service, &open, ROUNDS, waiters)).bytes_max;
        let (first, alone) = *one.get_or_insert((us, peak));
        let more = f64::from(waiters - 1).max(1.0);
        let (time, bytes) = ((us - first) / more, peak.saturating_sub(alone) as f64 / more);
        println!("| {waiters} | {us:.1} | {time:.2} | {peak} | {bytes:.0} |");
    }
}

/// So many ask at once, and are answered when all have asked. Microseconds from the first request to the last byte.
fn crowd<S>(runtime: &Runtime, service: &S, open: &watch::Sender<u32>, round: u32, waiters: u32) -> f64
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResponseBody<Full<Bytes>>>, Error = Infallible> + Clone,
{
    let start = Instant::now();
    runtime.block_on(async {
        let answers = (0..waiters).map(|_| async {
            let request = Request::get(format!("http://origin/{round}")).body(Full::default()).expect("it is a request");
            let answer = service.clone().oneshot(request).await.expect("it answers");
            let body = answer.into_body().collect().await.expect("the body is whole").to_bytes();
            assert_eq!(body.len(), ANSWER);
        });
        let release = async { _ = open.send(round + 1) };
        tokio::join!(join_all(answers), release);
    });
    start.elapsed().as_secs_f64() * 1e6
}

/// Answers a request of round `n` once the gate stands above `n`.
fn origin(
    gate: watch::Receiver<u32>,
) -> impl Service<Request<tower_response_cache::RequestBody<Full<Bytes>>>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let body = Bytes::from(vec![b'x'; ANSWER]);
    service_fn(move |request: Request<_>| {
        let (mut gate, body) = (gate.clone(), body.clone());
        async move {
            let round: u32 = request.uri().path()[1..].parse().expect("it is a number");
            gate.wait_for(|open| *open > round).await.expect("the sender is there");
            Ok(Response::builder().header("content-length", ANSWER).body(Full::new(body)).expect("it is a response"))
        }
    })
}
