//! A history checker: every upstream body is signed with what it answers, so that any response proves its origin.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, Mode, Sharing,
    observe::{Event, RequestRecord},
    policy::Abandoned,
    store::{Selection, Store},
};

use crate::origin::{Origin, OriginBody, data};

const KEYS: u64 = 12;
const TENANTS: u64 = 3;

/// What is known of the versions of each question.
struct Truth {
    /// The version that the upstream answers with now.
    current: HashMap<(u64, u64), AtomicU64>,
    /// The version that was there when it was last invalidated: whoever asks after that sees no older one.
    least: HashMap<(u64, u64), AtomicU64>,
}

/// What an upstream body says of itself: `key tenant version length|` and then that many bytes, which depend on all of it.
fn signed(key: u64, tenant: u64, version: u64, len: u64) -> Vec<u8> {
    let mut body = format!("{key} {tenant} {version} {len}|").into_bytes();
    body.extend((0..len).map(|i| b'a' + ((i.wrapping_mul(31) + key * 7 + tenant * 5 + version * 3) % 26) as u8));
    body
}

/// The version of a body, if the body is one that was signed for this key and tenant, whole.
fn version(body: &[u8], key: u64, tenant: u64) -> u64 {
    let head = body.iter().position(|byte| *byte == b'|').expect("a signature");
    let fields: Vec<u64> = std::str::from_utf8(&body[..head]).unwrap().split(' ').map(|field| field.parse().unwrap()).collect();
    let [k, t, version, len] = fields[..] else { panic!("a signature of four fields") };
    assert_eq!((k, t), (key, tenant), "an answer reached someone else");
    assert!(body == signed(k, t, version, len), "an answer to {key} of {tenant} is not whole, or mixed");
    version
}

fn answer(key: u64, tenant: u64, version: u64, random: u64) -> Response<OriginBody> {
    let body = signed(key, tenant, version, random % 5000);
    if random.is_multiple_of(2) {
        let len = body.len();
        let body = Full::from(body).map_err(|never| match never {}).boxed_unsync();
        return Response::builder().header("content-length", len).body(body).unwrap();
    }
    // In pieces, with pauses; now and then it breaks off.
    let breaks = random.is_multiple_of(11);
    let mut pieces: Vec<_> = body.chunks(700).map(|piece| data(piece.to_vec())).collect();
    if breaks {
        pieces.pop();
        pieces.push(Err("the upstream broke off".into()));
    }
    let frames = futures_util::stream::unfold(pieces.into_iter(), |mut pieces| async move {
        tokio::task::yield_now().await;
        pieces.next().map(|piece| (piece, pieces))
    });
    Response::builder().header("transfer-encoding", "chunked").body(StreamBody::new(Box::pin(frames)).boxed_unsync()).unwrap()
}

/// Puts a cache on this store under a random load of questions, from several tenants, some of whom leave, some invalidate; with an upstream
/// that fails, refuses and breaks off. Checks every answer, and at the end that nothing is left.
pub async fn check<St>(store: St, seed: u64, requests: u64)
where
    St: Store,
{
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    let dice = {
        let random = Arc::clone(&random);
        move |n: u64| random.lock().unwrap().u64(..n)
    };
    let all = || (0..KEYS).flat_map(|key| (0..TENANTS).map(move |tenant| (key, tenant)));
    let unasked = || all().map(|question| (question, AtomicU64::new(0))).collect();
    let truth = Arc::new(Truth { current: unasked(), least: unasked() });
    let origin = Origin::new({
        let (truth, dice) = (Arc::clone(&truth), dice.clone());
        move |call| {
            let (truth, dice) = (Arc::clone(&truth), dice.clone());
            async move {
                let key: u64 = call.head.uri.path()[1..].parse().unwrap();
                let tenant: u64 = call.head.headers["authorization"].to_str().unwrap().parse().unwrap();
                assert_eq!(call.body, format!("question {key}"), "the upstream was asked for something else");
                for _ in 0..dice(6) {
                    tokio::task::yield_now().await;
                }
                let version = truth.current[&(key, tenant)].load(Ordering::SeqCst);
                match dice(20) {
                    0 => Err("the upstream is down".into()),
                    1 => {
                        let mut response = answer(key, tenant, version, 2);
                        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                        Ok(response)
                    }
                    2 => {
                        let mut response = answer(key, tenant, version, dice(10_000) * 2);
                        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
                        Ok(response)
                    }
                    _ => Ok(answer(key, tenant, version, dice(10_000))),
                }
            }
        }
    });
    let records = Arc::new(Mutex::new(HashMap::<Arc<str>, u64>::new()));
    let troubles = Arc::new(Mutex::new(Vec::<String>::new()));
    let fills = Arc::new(AtomicU64::new(0));
    let policy = ApiPolicy::new(Sharing::PerCredential).abandoned(if seed.is_multiple_of(2) {
        Abandoned::Cancel
    } else {
        Abandoned::Finish { within: Duration::from_secs(60) }
    });
    let layer = CacheLayer::new(store, policy).observer({
        let (records, troubles, fills) = (Arc::clone(&records), Arc::clone(&troubles), Arc::clone(&fills));
        move |event: &Event<'_>| match event {
            Event::Request(RequestRecord { request_id: Some(id), .. }) => *records.lock().unwrap().entry(id.clone()).or_default() += 1,
            Event::Trouble(trouble) => troubles.lock().unwrap().push(format!("{}: {}", trouble.operation, trouble.error)),
            Event::Fill(_) => drop(fills.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
    });
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());

    let turns = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let (cache, handle, truth, dice, turns) = (cache.clone(), handle.clone(), Arc::clone(&truth), dice.clone(), Arc::clone(&turns));
            tokio::spawn(async move {
                loop {
                    let turn = turns.fetch_add(1, Ordering::SeqCst);
                    if turn >= requests {
                        return;
                    }
                    let (key, tenant) = (dice(KEYS), dice(TENANTS));
                    let current = &truth.current[&(key, tenant)];
                    let question = || {
                        let options = CacheOptions::new().request_id(turn.to_string()).tag(format!("key-{key}"));
                        let options = options.mode([Mode::ReadWrite, Mode::ReadWrite, Mode::ReadOnly, Mode::WriteOnly][dice(4) as usize]);
                        Request::post(format!("http://origin/{key}"))
                            .header("authorization", tenant.to_string())
                            .extension(options)
                            .body(Bytes::from(format!("question {key}")))
                            .unwrap()
                    };
                    if dice(25) == 0 {
                        // The truth changes; what is older is not to be seen by whoever asks after the invalidation.
                        let newer = current.fetch_add(1, Ordering::SeqCst) + 1;
                        match dice(3) {
                            0 => drop(handle.invalidate_request(&question()).await.unwrap()),
                            1 => drop(handle.invalidate(&Selection::Tag(format!("key-{key}"))).await.unwrap()),
                            _ => drop(handle.invalidate(&Selection::All).await.unwrap()),
                        }
                        truth.least[&(key, tenant)].fetch_max(newer, Ordering::SeqCst);
                    }
                    let least = truth.least[&(key, tenant)].load(Ordering::SeqCst);
                    let asked = cache.clone().oneshot(question().map(Full::new));
                    let answer = match dice(12) {
                        // Leaves before the head.
                        0 => {
                            let mut asked = Box::pin(asked);
                            for _ in 0..=dice(4) {
                                if futures_util::poll!(asked.as_mut()).is_ready() {
                                    break;
                                }
                                tokio::task::yield_now().await;
                            }
                            continue;
                        }
                        _ => asked.await,
                    };
                    let Ok(answer) = answer else { continue };
                    let mut body = answer.into_body();
                    if dice(12) == 0 {
                        // Leaves in the middle.
                        drop(body.frame().await);
                        continue;
                    }
                    if let Ok(whole) = body.collect().await {
                        let version = version(&whole.to_bytes(), key, tenant);
                        assert!(version >= least, "an answer of version {version} was seen after {least} was there");
                        assert!(version <= current.load(Ordering::SeqCst));
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }

    // No flight is left without a leader: every question is still answered.
    let mut again = 0;
    for (key, tenant) in all() {
        loop {
            again += 1;
            let question = Request::post(format!("http://origin/{key}")).header("authorization", tenant.to_string());
            let Ok(answer) = cache.clone().oneshot(question.body(Full::new(Bytes::from(format!("question {key}")))).unwrap()).await else {
                continue;
            };
            if let Ok(whole) = answer.into_body().collect().await {
                assert!(version(&whole.to_bytes(), key, tenant) >= truth.least[&(key, tenant)].load(Ordering::SeqCst));
                break;
            }
        }
    }

    let stats = handle.stats().await;
    assert_eq!((stats.panics, stats.corrupt), (0, 0));
    assert_eq!(*troubles.lock().unwrap(), [""; 0]);

    // Nothing is left under way, and every request was told of once.
    assert!(handle.shutdown(Duration::from_secs(60)).await, "tasks are left");
    {
        let records = records.lock().unwrap();
        assert_eq!(records.len() as u64, requests);
        assert!(records.values().all(|told| *told == 1), "a request was told of twice");
    }
    let stats = handle.stats().await;
    let told = stats.hits + stats.misses + stats.coalesced + stats.stale + stats.unanswered + stats.unsatisfied;
    assert_eq!(told, requests + again);
    assert_eq!(stats.stored + stats.not_stored, fills.load(Ordering::SeqCst));
    assert!(
        stats.hits > requests / 20 && stats.coalesced > 0 && stats.stored > 0 && stats.not_stored > 0,
        "the load was too plain: {stats:?}"
    );
}
