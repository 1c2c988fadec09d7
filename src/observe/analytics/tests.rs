use super::*;
use crate::{
    entry::Usage,
    key::{Digest, Envelope},
    observe::Ending,
    policy::Bypass,
    status::{Miss, Outcome, Stale},
};

/// A time of day, on some day.
fn at(hours: u64, minutes: u64, seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

fn record(outcome: Outcome, at: SystemTime) -> RequestRecord {
    let mut record = RequestRecord::begin();
    record.outcome = outcome;
    record.ending = Ending::Complete;
    record.at = at;
    record
}

fn digest() -> Digest {
    let policy = crate::ApiPolicy::new(crate::Sharing::Shared);
    let request = http::Request::post("/").body(()).unwrap().into_parts().0;
    crate::Policy::identify(&policy, &Envelope::new(""), &request, b"", &crate::CacheOptions::new(), 0).unwrap().digest()
}

fn tell(analytics: &Analytics, record: &RequestRecord) {
    analytics.on_event(&Event::Request(record));
}

#[tokio::test]
async fn a_period_sums_up_what_happened_in_it() {
    let analytics = Analytics::builder().label("tenant").spawn();
    let usage = Some(Usage { input_uncached: 10, cache_read: 5, output: 7, ..Usage::default() });
    let mut miss = record(Outcome::Miss(Miss::Absent), at(10, 0, 0));
    miss.model = Some("m".into());
    miss.provider = Some("p".into());
    miss.labels = vec![("route".into(), "chat".into()), ("tenant".into(), "blue".into()), ("other".into(), "x".into())].into();
    miss.request_id = Some("first".into());
    (miss.billed, miss.usage, miss.bytes) = (Some(NanoUsd(300)), usage, 100);
    miss.timings.total = Duration::from_secs(2);
    tell(&analytics, &miss);
    let mut hit = RequestRecord { outcome: Outcome::Hit, at: at(10, 0, 59), request_id: Some("second".into()), ..miss.clone() };
    (hit.billed, hit.usage) = (Some(NanoUsd::ZERO), None);
    (hit.saved, hit.saved_usage, hit.saved_time) = (Some(NanoUsd(400)), usage, Some(Duration::from_secs(2)));
    hit.timings.total = Duration::from_millis(1);
    tell(&analytics, &hit);
    tell(&analytics, &record(Outcome::Bypass(Bypass::Range), at(10, 1, 0)));
    let mut refresh = FillRecord::begin(digest(), true);
    (refresh.cost, refresh.usage, refresh.model, refresh.at) = (Some(NanoUsd(50)), usage, Some("m".into()), at(10, 1, 30));
    analytics.on_event(&Event::Fill(&refresh));
    refresh.refresh = false;
    analytics.on_event(&Event::Fill(&refresh));

    let all = analytics.period(at(10, 0, 0)..at(10, 2, 0)).await;
    let expected = Totals {
        requests: 3,
        hits: 1,
        misses: 1,
        bypassed: 1,
        refreshes: 1,
        bytes: 200,
        unpriced: 1,
        billed_nanos: 350,
        saved_nanos: 400,
        saved_micros: 2_000_000,
        input_tokens: 30,
        output_tokens: 14,
        replayed_input_tokens: 15,
        replayed_output_tokens: 7,
        ..Totals::default()
    };
    assert_eq!(all.totals, expected);
    assert_eq!(all.totals.hit_rate(), 0.5);
    assert_eq!((all.hit_latency.count(), all.miss_latency.count()), (1, 1));
    let millis = |latency: &Latency| latency.quantile(0.5).unwrap().as_secs_f64() * 1e3;
    assert!((millis(&all.hit_latency) - 1.0).abs() < 0.01 && (millis(&all.miss_latency) - 2000.0).abs() < 20.0);
    let outcomes = [("bypass", 1), ("bypass/range", 1), ("hit", 1), ("miss", 1), ("miss/absent", 1)];
    assert_eq!(all.by_outcome, outcomes.map(|(outcome, count)| (outcome.to_owned(), count)));
    let groups: Vec<_> = all.groups.iter().map(|group| (group.dimension.as_str(), group.value.as_str(), group.totals.requests)).collect();
    assert_eq!(groups, [("model", "m", 2), ("provider", "p", 2), ("route", "chat", 2), ("tenant", "blue", 2)]);
    assert_eq!(all.groups[0].totals.billed(), NanoUsd(350), "calls in the background included");
    for group in &all.groups {
        assert_eq!((group.hit_latency.count(), group.miss_latency.count()), (1, 1), "{}", group.value);
        let [hit, miss] = [&group.hit_latency, &group.miss_latency].map(millis);
        assert!((hit - 1.0).abs() <= 0.0625 && (miss - 2000.0).abs() <= 125.0, "{hit} and {miss}, coarser than of all");
    }

    assert_eq!(analytics.period(at(10, 0, 0)..at(10, 1, 0)).await.totals.requests, 2);
    assert_eq!(analytics.period(at(10, 0, 30)..at(10, 0, 31)).await.totals.requests, 2, "rounded outwards");
    assert_eq!(analytics.period(at(10, 2, 0)..at(11, 0, 0)).await.totals, Totals::default());
    let series = analytics.series(at(9, 59, 0)..at(10, 2, 0), Duration::from_secs(60)).await;
    let series: Vec<_> = series.iter().map(|(start, period)| (*start, period.totals.requests)).collect();
    assert_eq!(series, [(at(9, 59, 0), 0), (at(10, 0, 0), 2), (at(10, 1, 0), 1)]);

    let recent = analytics.recent(2).await;
    assert_eq!((&*recent[0].outcome, &*recent[0].reason, recent.len()), ("bypass", "range", 2));
    assert_eq!(
        (recent[1].request_id.as_deref(), recent[1].route.as_deref(), recent[1].saved),
        (Some("second"), Some("chat"), Some(NanoUsd(400)))
    );
}

#[tokio::test]
async fn who_waited_for_a_call_of_another_is_neither_in_the_latency_of_hits_nor_in_that_of_misses() {
    let analytics = Analytics::builder().spawn();
    for (outcome, millis) in [
        (Outcome::Miss(Miss::Absent), 2000),
        (Outcome::Collapsed, 1900),
        (Outcome::CollapsedElsewhere, 1800),
        (Outcome::Stale(Stale::WhileRevalidate), 1),
        (Outcome::Hit, 1),
    ] {
        let mut record = record(outcome, at(0, 0, 0));
        record.model = Some("m".into());
        record.timings.total = Duration::from_millis(millis);
        tell(&analytics, &record);
    }
    let period = analytics.period(at(0, 0, 0)..at(0, 1, 0)).await;
    assert_eq!((period.totals.coalesced, period.totals.hit_rate()), (2, 0.8));
    let group = &period.groups[0];
    for (hits, misses) in [(&period.hit_latency, &period.miss_latency), (&group.hit_latency, &group.miss_latency)] {
        assert_eq!((hits.count(), misses.count()), (2, 1));
        assert!(hits.quantile(1.0).unwrap() < Duration::from_millis(2) && misses.quantile(0.0).unwrap() > Duration::from_millis(1950));
    }
}

#[tokio::test]
async fn quantiles_of_groups_are_those_of_their_requests_by_the_minute_and_by_the_hour() {
    let analytics = Analytics::builder().label("tenant").queue(1 << 16).spawn();
    const MINUTES: u64 = 30 * 60;
    for minute in 0..MINUTES {
        for (model, micros) in [("quick", 1 + minute), ("slow", 1_000_000 + minute * 1000)] {
            for outcome in [Outcome::Hit, Outcome::Miss(Miss::Absent), Outcome::Bypass(Bypass::Range)] {
                let mut record = record(outcome, at(0, minute, 0));
                record.model = Some(model.into());
                record.labels = vec![("tenant".into(), "blue".into())].into();
                record.timings.total = Duration::from_micros(if outcome == Outcome::Hit { micros } else { 2 * micros });
                tell(&analytics, &record);
                // These took as long as their callers stayed, or the upstream held.
                record.timings.total = Duration::ZERO;
                for ending in [Ending::Dropped, Ending::Failed] {
                    tell(&analytics, &RequestRecord { ending, ..record.clone() });
                }
            }
        }
    }
    for range in [0..MINUTES, 1700..MINUTES, 1703..1709] {
        let period = analytics.period(at(0, range.start, 0)..at(0, range.end, 0)).await;
        let requests = range.end - range.start;
        let group = |value: &str| period.groups.iter().find(|group| group.value == value).unwrap();
        let median = (range.start + range.end) / 2;
        for (value, micros) in [("quick", 1 + median), ("slow", 1_000_000 + median * 1000)] {
            let group = group(value);
            assert_eq!((group.hit_latency.count(), group.miss_latency.count()), (requests, requests), "{value} of {range:?}");
            for (latency, micros) in [(&group.hit_latency, micros), (&group.miss_latency, 2 * micros)] {
                let found = latency.quantile(0.5).unwrap().as_micros() as f64;
                assert!((found / micros as f64 - 1.0).abs() < 0.0651, "{value} of {range:?}: {found}, not {micros}");
            }
        }
        assert_eq!((group("blue").hit_latency.count(), group("blue").miss_latency.count()), (2 * requests, 2 * requests));
    }
}

#[tokio::test]
async fn errors_are_what_failed_and_answers_of_500_or_more_but_none_that_was_asked_for() {
    let analytics = Analytics::builder().spawn();
    let mut told = 0;
    for (outcome, status, ending, is_error) in [
        (Outcome::Miss(Miss::Absent), Some(200), Ending::Complete, false),
        (Outcome::Miss(Miss::Absent), Some(429), Ending::Complete, false),
        (Outcome::Miss(Miss::Absent), Some(500), Ending::Complete, true),
        (Outcome::Collapsed, Some(529), Ending::Complete, true),
        (Outcome::Bypass(Bypass::Range), Some(502), Ending::Dropped, true),
        (Outcome::Unreachable, Some(504), Ending::Complete, true),
        (Outcome::Unsatisfied, Some(504), Ending::Complete, false),
        (Outcome::Miss(Miss::Absent), Some(200), Ending::Failed, true),
        (Outcome::Miss(Miss::Absent), Some(502), Ending::Failed, true),
        (Outcome::Miss(Miss::Absent), None, Ending::Failed, true),
        (Outcome::Unanswered, None, Ending::Dropped, false),
    ] {
        let mut record = record(outcome, at(0, 0, 0));
        (record.status, record.ending) = (status.map(|status| http::StatusCode::from_u16(status).unwrap()), ending);
        tell(&analytics, &record);
        let errors = analytics.period(at(0, 0, 0)..at(0, 1, 0)).await.totals.errors;
        assert_eq!(errors - told, u64::from(is_error), "{outcome:?} {status:?} {ending:?}");
        told = errors;
    }
}

#[tokio::test]
async fn every_way_to_cut_a_period_gives_the_same_sum_and_old_ones_are_told_by_the_hour() {
    let analytics = Analytics::builder().recent(10).queue(1 << 16).spawn();
    const MINUTES: u64 = 50 * 60;
    for minute in 0..MINUTES {
        for _ in 0..=minute % 3 {
            tell(&analytics, &record(Outcome::Hit, at(0, minute, 7)));
        }
    }
    let expected = |range: Range<u64>| range.map(|minute| minute % 3 + 1).sum::<u64>();
    let asked = async |from: u64, to: u64| analytics.period(at(0, from, 0)..at(0, to, 0)).await.totals.requests;
    for (from, to) in [(0, MINUTES), (1800, 3000), (1741, 2999), (2000, 2001), (2930, 2950), (1801, 1799), (1500, 3000)] {
        assert_eq!(asked(from, to).await, expected(from..to), "{from} to {to}");
    }
    for cut in [1800, 2017, 2700] {
        assert_eq!(asked(0, cut).await + asked(cut, MINUTES).await, expected(0..MINUTES), "cut at {cut}");
    }
    assert_eq!(asked(61, 62).await, expected(60..120), "the hour of it");
    let hours = analytics.series(at(0, 0, 0)..at(50, 0, 0), Duration::from_secs(3600)).await;
    assert_eq!((hours.len(), hours.iter().map(|(_, hour)| hour.totals.requests).sum::<u64>()), (50, expected(0..MINUTES)));
    assert_eq!(analytics.recent(100).await.len(), 10);
    let state = analytics.lock();
    assert!(state.newest.len() == 10);
}

#[tokio::test]
async fn what_is_kept_is_bounded_in_time() {
    let analytics = Analytics::builder().keep(Duration::ZERO).spawn();
    for day in 0..40 {
        tell(&analytics, &record(Outcome::Hit, at(24 * day, 0, 0)));
    }
    assert_eq!(analytics.period(at(0, 0, 0)..at(24 * 40, 0, 0)).await.totals.requests, 2, "a day at least");
}

#[tokio::test]
async fn records_that_find_no_room_are_dropped_and_counted() {
    let analytics = Analytics::builder().queue(4).spawn();
    for _ in 0..10 {
        tell(&analytics, &record(Outcome::Hit, at(0, 0, 0)));
    }
    assert_eq!(analytics.dropped(), 6, "nobody has had a turn to sum up yet");
    assert_eq!(analytics.period(at(0, 0, 0)..at(0, 1, 0)).await.totals.requests, 4);
}
