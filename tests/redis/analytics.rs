//! Sums of several processes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, CacheOptions, Clock, NanoUsd, Sharing,
    cost::Call,
    observe::{
        Ending, Event, Observer as _, RequestRecord,
        analytics::{Analytics, Group, Period},
    },
    status::{Miss, Outcome},
    store::{Memory, Redis},
};

use crate::{
    log::Log,
    origin::{Origin, streamed, text},
    patient,
    server::Server,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// One that adds up with others, as another process would: it has connections of its own.
fn analytics(url: &str) -> Analytics {
    Analytics::builder().redis(patient(url).build().unwrap(), 100, DAY).spawn()
}

fn cache(analytics: &Analytics) -> Cache<Origin, Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared))
        .cost(|call: &Call<'_>| Some(NanoUsd(if call.status.is_success() { 100 } else { 0 })))
        .observer(analytics.clone())
        .layer(Origin::signed())
}

async fn ask(cache: &Cache<Origin, Memory, ApiPolicy>, question: &str, model: &str) {
    let mut request = Request::post("http://origin/").body(Full::new(Bytes::from(question.to_owned()))).unwrap();
    request.extensions_mut().insert(CacheOptions::new().request_id(question).label("model", model).label("route", "r"));
    cache.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    // What was asked is stored before it is asked again: there is one thread.
    tokio::task::yield_now().await;
}

fn values(period: &Period, dimension: &str) -> Vec<(String, u64)> {
    let of = period.groups.iter().filter(|group| group.dimension == dimension);
    of.map(|group| (group.value.clone(), group.totals.requests)).collect()
}

fn group<'a>(period: &'a Period, dimension: &str, value: &str) -> &'a Group {
    period.groups.iter().find(|group| (group.dimension.as_str(), group.value.as_str()) == (dimension, value)).unwrap()
}

/// One record, as observers get it.
async fn record() -> RequestRecord {
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let observer = move |event: &Event<'_>| {
        if let Event::Request(record) = event {
            *keep.lock().unwrap() = Some((*record).clone());
        }
    };
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).observer(observer);
    ask(&layer.layer(Origin::signed()), "a", "m").await;
    crate::until(async || kept.lock().unwrap().is_some()).await;
    kept.lock().unwrap().take().unwrap()
}

#[tokio::test]
async fn all_who_share_a_redis_tell_the_same_sums_and_records() {
    let server = Server::start();
    all_tell_the_same(&server.url()).await;
    // Nothing stays for ever, and the store's own keys are not among it.
    for key in server.keys() {
        let key = String::from_utf8(key).unwrap();
        assert!(key.starts_with("t:{sums}:"), "{key}");
        assert!(server.run::<i64>(&["PTTL", &key]) > 0, "{key}");
    }
}

pub async fn all_tell_the_same(url: &str) {
    let both = [analytics(url), analytics(url)];
    for (place, analytics) in both.iter().enumerate() {
        let cache = cache(analytics);
        for question in ["a", "b", "a", "a"] {
            ask(&cache, question, ["m0", "m\0é"][place]).await;
        }
        // What a server did not take at once is sent again: the records of the one are to be there before the other's.
        crate::until(async || {
            let all = analytics.last(HOUR).await;
            all.shared && all.totals.requests == 4 * (place as u64 + 1)
        })
        .await;
    }
    let [one, other] = [both[0].last(HOUR).await, both[1].last(HOUR).await];
    for period in [&one, &other] {
        assert!(period.shared);
        let totals = &period.totals;
        assert_eq!((totals.requests, totals.hits, totals.misses), (8, 4, 4));
        assert_eq!((totals.billed(), totals.saved()), (NanoUsd(400), NanoUsd(400)));
        assert_eq!((period.hit_latency.count(), period.miss_latency.count()), (4, 4));
        assert_eq!(values(period, "model"), [("m\0é".to_owned(), 4), ("m0".to_owned(), 4)]);
        assert_eq!(values(period, "route"), [("r".to_owned(), 8)]);
        assert_eq!(period.by_outcome, [("hit".to_owned(), 4), ("miss".to_owned(), 4), ("miss/absent".to_owned(), 4)]);
    }
    assert_eq!((one.totals, &one.hit_latency, &one.groups), (other.totals, &other.hit_latency, &other.groups));
    for group in &one.groups {
        let (hits, misses) = (group.hit_latency.count(), group.miss_latency.count());
        assert_eq!((hits, misses), (group.totals.hits, group.totals.misses), "{group:?}");
    }
    let recent = both[0].recent(100).await;
    assert_eq!((recent.len(), &recent), (8, &both[1].recent(100).await));
    // The other's are the newest four. A miss is recorded when its call has ended, which may be after a hit that came later.
    let hit = recent[..4].iter().find(|record| record.outcome == "hit").unwrap();
    assert_eq!((hit.request_id.as_deref(), hit.model.as_deref()), (Some("a"), Some("m\0é")));
    assert_eq!((hit.saved, hit.billed, hit.status), (Some(NanoUsd(100)), Some(NanoUsd::ZERO), Some(200)));
    assert!(recent[..4].iter().all(|record| record.model.as_deref() == Some("m\0é")), "{recent:?}");
    assert_eq!(both[0].recent(3).await, recent[..3]);
    let now = SystemTime::now();
    let series = both[0].series(now - HOUR..now, Duration::from_secs(60)).await;
    assert_eq!(series.iter().map(|(_, slice)| slice.totals.requests).sum::<u64>(), 8);
    assert_eq!(both[0].last(7 * DAY).await.totals.requests, 8, "by the hour as well");
}

#[tokio::test]
async fn a_batch_that_fails_half_way_is_gone_on_with_from_there_and_counts_once() {
    let server = Server::start();
    let permit = |rule: &str| server.run::<()>(&["ACL", "SETUSER", "u", "on", ">p", "~t:*", "+@all", rule]);
    permit("+@all");
    let analytics = analytics(&format!("redis://u:p@127.0.0.1:{}/0", server.port()));
    let cache = cache(&analytics);
    let refusals = || {
        let stats: String = server.run(&["INFO", "commandstats"]);
        let scripts = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
        scripts.map_or(0, |line| line.rsplit('=').next().unwrap().trim().parse::<u64>().unwrap())
    };
    let mut asked = 0;
    let counted = async |asked: u64| {
        let all = analytics.last(HOUR).await;
        all.shared && all.totals.requests == asked
    };
    // Each is one of those that the script calls, some after many others. All that is done before stays done.
    for denied in ["-set", "-pexpire", "-hincrby", "-hset", "-hget"] {
        permit(denied);
        let before = refusals();
        for question in ["a", "b", "a", "a"] {
            ask(&cache, &format!("{question}{denied}"), "m").await;
        }
        asked += 4;
        // It is tried more than once.
        crate::until(async || refusals() > before + 1).await;
        permit("+@all");
        crate::until(async || counted(asked).await).await;
        let (minutes, hours) = (analytics.last(HOUR).await, analytics.last(7 * DAY).await);
        for period in [&minutes, &hours] {
            let counts = (period.totals.requests, period.totals.hits, period.hit_latency.count(), period.miss_latency.count());
            assert_eq!(counts, (asked, asked / 2, asked / 2, asked / 2), "{denied}");
            assert_eq!(group(period, "model", "m").hit_latency.count(), asked / 2, "{denied}");
        }
        assert_eq!(server.run::<u64>(&["XLEN", "t:{sums}:records"]), asked, "{denied}");
    }
}

#[tokio::test]
async fn a_batch_that_something_in_its_place_stands_in_the_way_of_holds_up_no_other() {
    let server = Server::start();
    let analytics = analytics(&server.url());
    let mut record = record().await;
    record.at = SystemTime::now() - 5 * HOUR;
    let hour = record.at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 3600;
    let () = server.run(&["SET", &format!("t:{{sums}}:h:{hour}"), "a foreign hand's"]);
    analytics.on_event(&Event::Request(&record));
    analytics.flush().await;
    record.at = SystemTime::now();
    analytics.on_event(&Event::Request(&record));
    crate::until(async || {
        let all = analytics.last(HOUR).await;
        all.shared && all.totals.requests == 1
    })
    .await;
    // It is gone on with when that is gone.
    let () = server.run(&["DEL", &format!("t:{{sums}}:h:{hour}")]);
    crate::until(async || analytics.last(DAY).await.totals.requests == 2).await;
}

#[tokio::test]
async fn a_sum_that_is_larger_than_there_is_room_for_stays_at_that_and_costs_no_other() {
    let server = Server::start();
    let analytics = analytics(&server.url());
    let mut record = record().await;
    for _ in 0..3 {
        record.saved = Some(NanoUsd(u64::MAX));
        record.billed = Some(NanoUsd(i64::MAX as u64 - 1));
        analytics.on_event(&Event::Request(&record));
        analytics.flush().await;
    }
    let all = analytics.last(HOUR).await;
    assert!(all.shared);
    assert_eq!((all.totals.requests, all.totals.billed(), values(&all, "model")), (3, NanoUsd(i64::MAX as u64), vec![("m".to_owned(), 3)]));
}

/// For a user with what the guide to operations says, word for word, and no more.
#[tokio::test]
async fn the_permissions_that_the_guide_publishes_are_enough() {
    let server = Server::start();
    let guide = include_str!("../../docs/operations.md").replace("~trc:*", "~t:*");
    let lines = guide.lines().filter(|line| line.starts_with("ACL SETUSER cache "));
    for line in lines {
        let () = server.run(&line.split(' ').collect::<Vec<_>>());
    }
    all_tell_the_same(&format!("redis://cache:password@127.0.0.1:{}/0", server.port())).await;
}

/// Three processes add to the same minutes in batches that cross; a fourth has all records to itself.
#[tokio::test]
async fn histograms_of_several_processes_add_up_to_that_of_all_their_requests() {
    let server = Server::start();
    let processes = [analytics(&server.url()), analytics(&server.url()), analytics(&server.url())];
    let alone = Analytics::builder().recent(0).spawn();
    let sample = record().await;
    let start = sample.at - Duration::from_secs(180);
    for number in 0..3000_u64 {
        let mut record = sample.clone();
        let chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        record.at = start + Duration::from_secs(chance >> 32 & 0x7f);
        record.outcome = [Outcome::Hit, Outcome::Miss(Miss::Absent), Outcome::Collapsed][number as usize % 3];
        record.timings.total = Duration::from_micros(1 << (chance >> 40 & 0x1f));
        record.model = Some(format!("m\0{}", chance >> 48 & 3).into());
        alone.on_event(&Event::Request(&record));
        processes[number as usize % 7 % 3].on_event(&Event::Request(&record));
        if number % 250 == 249 {
            futures_util::join!(processes[0].flush(), processes[1].flush(), processes[2].flush(), alone.flush());
        }
    }
    for span in [HOUR, 7 * DAY] {
        let expected = alone.last(span).await;
        assert_eq!((expected.totals.requests, expected.groups.len()), (3000, 5));
        for process in &processes {
            let told = process.last(span).await;
            assert!(told.shared);
            assert_eq!((told.totals, &told.groups), (expected.totals, &expected.groups));
            assert_eq!((&told.hit_latency, &told.miss_latency), (&expected.hit_latency, &expected.miss_latency));
        }
        let route = group(&expected, "route", "r");
        assert_eq!((route.hit_latency.count(), route.miss_latency.count()), (1000, 1000), "coalesced ones apart");
    }
}

/// While processes are replaced one by one, some know fields that others do not.
#[tokio::test]
async fn what_other_versions_write_is_no_trouble_and_what_is_written_is_none_to_those_before() {
    let server = Server::start();
    let one = analytics(&server.url());
    ask(&cache(&one), "a", "m").await;
    one.flush().await;
    let names: Vec<String> = server.keys().into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
    let is_sum = |name: &&String| name.starts_with("t:{sums}:m:") || name.starts_with("t:{sums}:h:");
    let (histograms, sums): (Vec<&String>, Vec<&String>) = names.iter().filter(is_sum).partition(|name| name.ends_with(":l"));
    assert_eq!((histograms.len(), sums.len()), (2, 2), "{names:?}");
    for name in sums {
        // Who knows no histograms takes every value here for a number, or tells of itself alone.
        let values: Vec<String> = server.run(&["HVALS", name]);
        assert!(values.iter().all(|value| value.parse::<u64>().is_ok()), "{name}: {values:?}");
        for (field, value) in [("t\0later", "12:5"), ("later", "x"), ("g\0model\0m\0later", "7"), ("", "")] {
            let () = server.run(&["HSET", name, field, value]);
        }
    }
    for name in histograms {
        let there: String = server.run(&["HGET", name, "m\0model\0m"]);
        for (field, value) in [
            ("later\0model\0m", "12:5"),
            ("h\0model\0m", "later"),
            ("x", "12:5"),
            ("", ""),
            ("m\0model\0m", &format!("later {there} 12;5")),
        ] {
            let () = server.run(&["HSET", name, field, value]);
        }
    }
    let other = analytics(&server.url());
    let cache = cache(&other);
    for _ in 0..2 {
        ask(&cache, "a", "m").await;
    }
    other.flush().await;
    let all = analytics(&server.url()).last(HOUR).await;
    assert!(all.shared);
    let found = group(&all, "model", "m");
    assert_eq!((found.totals.requests, found.hit_latency.count(), found.miss_latency.count()), (3, 1, 2));
}

#[tokio::test]
async fn that_redis_does_not_permit_sums_is_said_once() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.writer()).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let server = Server::start();
    let mut command = vec!["ACL", "SETUSER", "cache", "on", ">password", "~t:*"];
    command.extend(crate::settings::PERMISSIONS.split(' '));
    let () = server.run(&command);
    let analytics = analytics(&format!("redis://cache:password@127.0.0.1:{}/0", server.port()));
    let cache = cache(&analytics);
    for question in ["a", "b", "c"] {
        ask(&cache, question, "m").await;
        analytics.flush().await;
    }
    assert!(!analytics.last(HOUR).await.shared);
    let log = log.text();
    assert_eq!(log.matches("redis refuses sums of analytics").count(), 1, "{log}");
    assert!(!log.contains("password"), "{log}");
}

#[tokio::test]
async fn a_batch_whose_fate_is_unknown_is_tried_again_and_counts_once() {
    let server = Server::start();
    let store = patient(server.url()).write_deadline(Duration::from_millis(300)).read_deadline(Duration::from_millis(300)).build().unwrap();
    let analytics = Analytics::builder().redis(store, 100, DAY).spawn();
    let cache = cache(&analytics);
    ask(&cache, "a", "m").await;
    assert_eq!(analytics.last(HOUR).await.totals.requests, 1);
    // It will read what is sent now, but answer too late.
    server.freeze();
    ask(&cache, "a", "m").await;
    let alone = analytics.last(HOUR).await;
    assert_eq!((alone.shared, alone.totals.requests), (false, 2), "this process' own");
    server.thaw();
    let all = loop {
        let all = analytics.last(HOUR).await;
        if all.shared && all.totals.requests > 1 {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((all.totals.requests, all.totals.hits, analytics.dropped()), (2, 1, 0));
    assert_eq!((group(&all, "model", "m").hit_latency.count(), group(&all, "model", "m").miss_latency.count()), (1, 1));
    assert_eq!(analytics.last(HOUR).await.totals.requests, 2);
}

#[tokio::test]
async fn records_and_told_apart_values_are_bounded_in_redis_too() {
    let server = Server::start();
    let analytics = analytics(&server.url());
    let cache = cache(&analytics);
    let total = 1500;
    for number in 0..total {
        ask(&cache, &number.to_string(), &format!("model-{number}")).await;
        if number % 100 == 0 {
            analytics.last(HOUR).await;
        }
    }
    let period = analytics.last(HOUR).await;
    assert!(period.shared);
    let models = values(&period, "model");
    assert!(models.len() <= 33, "{}", models.len());
    assert_eq!(values(&period, "route"), [("r".to_owned(), total)], "however many models there are");
    assert_eq!(models.iter().map(|(_, requests)| requests).sum::<u64>(), total);
    let kept: u64 = server.run(&["XLEN", "t:{sums}:records"]);
    // Redis trims by whole nodes of a hundred.
    assert!((100..=300).contains(&kept), "{kept}");
    assert_eq!(analytics.recent(10).await[0].model.as_deref(), Some("model-1499"));
}

#[tokio::test]
async fn without_its_redis_it_tells_of_this_process_and_holds_nobody_up() {
    let url = format!("redis://127.0.0.1:{}/0", crate::server::free_port());
    let analytics = Analytics::builder().redis(tower_response_cache::store::Redis::connect(&url).unwrap(), 100, DAY).spawn();
    let cache = cache(&analytics);
    for _ in 0..3 {
        ask(&cache, "a", "m").await;
    }
    let period = analytics.last(HOUR).await;
    assert_eq!((period.shared, period.totals.requests), (false, 3));
    assert_eq!(analytics.recent(10).await.len(), 3);
    assert_eq!(analytics.dropped(), 0);
}

#[tokio::test]
async fn what_is_added_late_to_sums_that_were_read_before_is_told() {
    let mut server = Server::start();
    let [one, other] = [analytics(&server.url()), analytics(&server.url())];
    ask(&cache(&one), "a", "m").await;
    let ended = SystemTime::now();
    assert_eq!(one.last(HOUR).await.totals.requests, 1);
    // Read again, it is the same; and from now on known.
    assert_eq!(one.last(HOUR).await.totals.requests, 1);
    ask(&cache(&other), "b", "m").await;
    other.flush().await;
    let all = one.period(ended - HOUR..ended + Duration::from_secs(60)).await;
    assert_eq!((all.totals.requests, values(&all, "model")), (2, vec![("m".to_owned(), 2)]));

    // A server that lost its memory is believed, also when it has as much as before.
    server.kill();
    server.restart();
    crate::until(async || one.last(HOUR).await.shared).await;
    assert_eq!(one.last(HOUR).await.totals.requests, 0);
    crate::until(async || other.last(HOUR).await.shared).await;
    for question in ["c", "d"] {
        ask(&cache(&other), question, "n").await;
        other.flush().await;
    }
    let all = one.last(HOUR).await;
    assert_eq!((all.totals.requests, values(&all, "model")), (2, vec![("n".to_owned(), 2)]));
}

#[tokio::test]
async fn sums_that_have_not_changed_are_not_read_again() {
    let server = Server::start();
    let [one, other] = [analytics(&server.url()), analytics(&server.url())];
    ask(&cache(&one), "a", "m").await;
    one.last(HOUR).await;
    let monitor = server.monitor();
    assert_eq!(one.last(HOUR).await.totals.requests, 1);
    assert_eq!(monitor.finish().matches("HGETALL").count(), 0);
    ask(&cache(&other), "b", "m").await;
    other.flush().await;
    let monitor = server.monitor();
    assert_eq!(one.last(HOUR).await.totals.requests, 2);
    let read = monitor.finish().matches("HGETALL").count();
    assert!([2, 4].contains(&read), "{read}: numbers and histograms of a minute, or an hour, or two where one has just begun");
}

/// Each call costs 100; without the cache each request that was answered would have been a call.
#[tokio::test]
async fn the_books_of_two_processes_balance_over_every_outcome() {
    let server = Server::start();
    let clock = Clock::movable();
    let called = Arc::new(AtomicU64::new(0));
    let down = Arc::new(AtomicBool::new(false));
    let (frames, held) = streamed();
    let held = Mutex::new(Some(held));
    let origin = {
        let (called, down) = (Arc::clone(&called), Arc::clone(&down));
        Origin::new(move |call| {
            let path = call.head.uri.path().to_owned();
            let held = if path == "/held" { held.lock().unwrap().take() } else { None };
            let answer = if path == "/fails" || down.load(SeqCst) { Err("down".into()) } else { Ok(held.unwrap_or_else(|| text(path))) };
            called.fetch_add(u64::from(answer.is_ok()), SeqCst);
            async move { answer }
        })
    };
    let records = Arc::new(Mutex::new(Vec::<RequestRecord>::new()));
    let process = || {
        let analytics = analytics(&server.url());
        let store = patient(server.url()).clock(clock.clone()).build().unwrap();
        let minute = Duration::from_secs(60);
        let policy = ApiPolicy::new(Sharing::Shared).ttl(minute).stale_while_revalidate(minute).stale_if_error(10 * minute);
        let records = Arc::clone(&records);
        let layer = CacheLayer::new(store, policy).clock(clock.clone()).cost(|_: &Call<'_>| Some(NanoUsd(100)));
        let layer = layer.observer(analytics.clone()).observer(move |event: &Event<'_>| {
            if let Event::Request(record) = event {
                records.lock().unwrap().push((*record).clone());
            }
        });
        (layer.handle(), layer.layer(origin.clone()), analytics)
    };
    let [(one, cache, analytics), (other, elsewhere, too)] = [process(), process()];
    let head = async |cache: &Cache<Origin, Redis, ApiPolicy>, path: &str| {
        let mut request = Request::post(format!("http://origin{path}")).body(Full::new(Bytes::new())).unwrap();
        if path == "/ranged" {
            request.headers_mut().insert("range", "bytes=0-1".parse().unwrap());
        }
        request.extensions_mut().insert(CacheOptions::new().label("model", "m"));
        cache.clone().oneshot(request).await
    };
    let ask = async |cache: &Cache<Origin, Redis, ApiPolicy>, path: &str| match head(cache, path).await {
        Ok(answer) => drop(answer.into_body().collect().await.unwrap()),
        Err(error) => assert_eq!(error, "down".into()),
    };

    // One call for two in one process, who both have the head before the end; and for one in the other.
    let both = [head(&cache, "/held").await.unwrap(), head(&cache, "/held").await.unwrap()];
    drop(frames);
    let ended = both.map(|answer| answer.into_body().collect());
    futures_util::join!(futures_util::future::join_all(ended), ask(&elsewhere, "/held"));
    for path in ["/a", "/b", "/ranged", "/fails"] {
        ask(&cache, path).await;
        ask(&elsewhere, path).await;
    }
    // Stale, and refreshed in the background.
    clock.advance(Duration::from_secs(61));
    ask(&elsewhere, "/a").await;
    let calls = || called.load(SeqCst);
    crate::until(async || calls() == 6).await;
    // Stale, and the upstream is down.
    clock.advance(Duration::from_secs(61));
    down.store(true, SeqCst);
    ask(&cache, "/b").await;
    for handle in [one, other] {
        assert!(handle.shutdown(Duration::from_secs(30)).await);
    }
    too.flush().await;

    // The clock of the test is ahead.
    let now = SystemTime::now();
    let all = analytics.period(now - HOUR..now + Duration::from_secs(600)).await;
    let records = records.lock().unwrap().clone();
    let totals = all.totals;
    let count = |wanted: fn(&Outcome) -> bool| records.iter().filter(|record| wanted(&record.outcome)).count() as u64;
    assert_eq!(records.len(), 13, "one record per request");
    assert_eq!(totals.coalesced, count(|outcome| matches!(outcome, Outcome::Collapsed | Outcome::CollapsedElsewhere)));
    assert_eq!(totals.hits, count(|outcome| matches!(outcome, Outcome::Hit)));
    assert_eq!(totals.misses, count(|outcome| matches!(outcome, Outcome::Miss(_))));
    assert_eq!((totals.requests, totals.coalesced + totals.hits, totals.stale, totals.bypassed), (13, 4, 2, 2), "{all:?}");
    assert!(totals.coalesced >= 1 && totals.hits >= 2, "{all:?}");
    assert_eq!((totals.failed, totals.errors, totals.refreshes), (2, 2, 1), "{all:?}");
    // All are of one model. Its quantiles are those of the records of whole answers.
    let of_model = group(&all, "model", "m");
    let times = |wanted: fn(&Outcome) -> bool| {
        let whole = records.iter().filter(|record| wanted(&record.outcome) && record.ending == Ending::Complete);
        let mut times: Vec<Duration> = whole.map(|record| record.timings.total).collect();
        times.sort_unstable();
        times
    };
    let hits = times(|outcome| matches!(outcome, Outcome::Hit | Outcome::Stale(_)));
    let misses = times(|outcome| matches!(outcome, Outcome::Miss(_)));
    for (latency, times) in [(&of_model.hit_latency, hits), (&of_model.miss_latency, misses)] {
        assert_eq!(latency.count(), times.len() as u64, "{all:?}");
        for share in [0.5, 0.9, 0.99] {
            let exact = times[(share * times.len() as f64).ceil() as usize - 1].as_micros() as f64;
            let found = latency.quantile(share).unwrap().as_micros() as f64;
            assert!((found - exact).abs() <= exact / 16.0 + 1.0, "{share}: {found}, {exact}");
        }
    }
    let sum = |of: fn(&RequestRecord) -> Option<NanoUsd>| records.iter().filter_map(of).sum::<NanoUsd>();
    let (billed, saved) = (sum(|record| record.billed), sum(|record| record.saved));
    assert_eq!((totals.billed(), totals.saved()), (billed + NanoUsd(100), saved), "and the refresh");
    assert_eq!(totals.billed(), NanoUsd(100 * calls()));
    assert_eq!(billed + saved, NanoUsd(100 * 11), "eleven were answered");
}
