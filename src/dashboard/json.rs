use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::{
    observe::{
        Stats,
        analytics::{Group, Latency, Period, Recent, Totals},
    },
    store::{Cursor, Listing, Page},
};

pub(super) fn period(period: &Period, dropped: u64) -> Value {
    let Period { totals, by_outcome, groups, .. } = period;
    let by = |wanted: &str| -> Map<String, Value> {
        let of = groups.iter().filter(|group| group.dimension == wanted);
        of.map(|group| (group.value.clone(), of_group(group))).collect()
    };
    let (outcomes, reasons): (Vec<_>, Vec<_>) = by_outcome.iter().partition(|(outcome, _)| !outcome.contains('/'));
    let counts = |counts: Vec<&(String, u64)>| -> Map<String, Value> {
        counts.into_iter().map(|(name, count)| (name.clone(), (*count).into())).collect()
    };
    json!({
        "requests": totals.requests,
        "by_outcome": counts(outcomes),
        "by_reason": counts(reasons),
        "hit_rate": totals.hit_rate(),
        "failed": totals.failed,
        "errors": totals.errors,
        "refreshes": totals.refreshes,
        "unpriced": totals.unpriced,
        "cost_usd": totals.billed().as_usd(),
        "saved_usd": totals.saved().as_usd(),
        "saved_seconds": totals.saved_time().as_secs_f64(),
        "tokens": tokens(totals),
        "bytes": totals.bytes,
        "latency_ms": {"hit": latency(&period.hit_latency), "miss": latency(&period.miss_latency)},
        "by_model": by("model"),
        "by_provider": by("provider"),
        "by_route": by("route"),
        "by_label": labels(groups),
        "records_dropped": dropped,
        "of_all_processes": period.shared,
    })
}

fn labels(groups: &[Group]) -> Value {
    let mut labels = Map::new();
    for group in groups.iter().filter(|group| !matches!(group.dimension.as_str(), "model" | "provider" | "route")) {
        let of = labels.entry(group.dimension.clone()).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(of) = of {
            of.insert(group.value.clone(), of_group(group));
        }
    }
    Value::Object(labels)
}

fn of_group(group: &Group) -> Value {
    let totals = &group.totals;
    json!({
        "requests": totals.requests,
        "hit_rate": totals.hit_rate(),
        "failed": totals.failed,
        "errors": totals.errors,
        "unpriced": totals.unpriced,
        "cost_usd": totals.billed().as_usd(),
        "saved_usd": totals.saved().as_usd(),
        "saved_seconds": totals.saved_time().as_secs_f64(),
        "tokens": tokens(totals),
        "latency_ms": {"hit": latency(&group.hit_latency), "miss": latency(&group.miss_latency)},
    })
}

fn tokens(totals: &Totals) -> Value {
    json!({
        "input": totals.input_tokens,
        "output": totals.output_tokens,
        "replayed_input": totals.replayed_input_tokens,
        "replayed_output": totals.replayed_output_tokens,
    })
}

fn latency(latency: &Latency) -> Value {
    let at = |share| latency.quantile(share).map(millis);
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99)})
}

pub(super) fn series(slices: &[(SystemTime, Period)]) -> Value {
    let slice = |(start, period): &(SystemTime, Period)| {
        let totals = &period.totals;
        json!({
            "at": seconds(*start),
            "requests": totals.requests,
            "hits": totals.hits,
            "stale": totals.stale,
            "coalesced": totals.coalesced,
            "misses": totals.misses,
            "bypassed": totals.bypassed,
            "unanswered": totals.unanswered,
            "failed": totals.failed,
            "errors": totals.errors,
            "hit_rate": totals.hit_rate(),
            "cost_usd": totals.billed().as_usd(),
            "saved_usd": totals.saved().as_usd(),
            "tokens": tokens(totals),
            "hit_p50_ms": period.hit_latency.quantile(0.5).map(millis),
            "miss_p50_ms": period.miss_latency.quantile(0.5).map(millis),
        })
    };
    slices.iter().map(slice).collect()
}

pub(super) fn recent(recent: &Recent) -> Value {
    json!({
        "at": seconds(recent.at),
        "request_id": recent.request_id.as_deref(),
        "provider": recent.provider.as_deref(),
        "model": recent.model.as_deref(),
        "route": recent.route.as_deref(),
        "outcome": recent.outcome,
        "reason": recent.reason,
        "status": recent.status,
        "response_time_ms": millis(recent.response_time),
        "cost_usd": recent.billed.map(|cost| cost.as_usd()),
        "saved_usd": recent.saved.map(|saved| saved.as_usd()),
        "bytes": recent.bytes,
    })
}

pub(super) fn stats(stats: &Stats) -> Value {
    let store = stats.store.unwrap_or_default();
    let bypassed: Map<String, Value> = stats.bypassed.iter().map(|(reason, count)| ((*reason).to_owned(), (*count).into())).collect();
    json!({
        "memory_human": store.memory_human(),
        "memory_bytes": store.bytes,
        "cached_responses": store.entries,
        "total_keys": store.total_keys,
        "store_answers": stats.store.is_some(),
        "hit_rate": stats.hit_rate(),
        "hits": stats.hits,
        "misses": stats.misses,
        "coalesced": stats.coalesced,
        "stale": stats.stale,
        "bypassed": bypassed,
        "unsatisfied": stats.unsatisfied,
        "unanswered": stats.unanswered,
        "stored": stats.stored,
        "not_stored": stats.not_stored,
        "store_errors": stats.store_errors,
        "corrupt": stats.corrupt,
        "panics": stats.panics,
        "bytes": stats.bytes,
        "bytes_saved": stats.bytes_saved,
        "saved_seconds": stats.saved_time.as_secs_f64(),
        "cost_usd": stats.billed.as_usd(),
        "saved_usd": stats.saved.as_usd(),
        "unpriced": stats.unpriced,
        "redis": stats.health.as_ref().map(|health| json!({
            "link": health.link,
            "last_error": health.last_error,
            "outages": health.outages,
            "dials": health.dials,
            "rejected": health.rejected,
            "refused": health.refused,
            "memory_tier": health.tier.map(|tier| json!({
                "tracked": tier.tracked,
                "hits": tier.hits,
                "flushes": tier.flushes,
                "entries": tier.entries,
                "bytes": tier.bytes,
            })),
        })),
    })
}

pub(super) fn listing(listing: &Listing, now: SystemTime) -> Value {
    let Listing { key, status, lifetime, body_len, metadata } = listing;
    let usage = metadata.usage.map(|usage| json!({"input": usage.input(), "output": usage.output}));
    json!({
        "key": key.to_string(),
        "status": status.as_u16(),
        "bytes": body_len,
        "age_seconds": lifetime.age(now).as_secs(),
        "ttl_seconds": lifetime.ttl(now).map(|ttl| ttl.as_secs()),
        "cached_at": metadata.cached_at.map(seconds),
        "request_id": metadata.request_id.as_deref(),
        "provider": metadata.provider.as_deref(),
        "model": metadata.model.as_deref(),
        "service_tier": metadata.service_tier.as_deref(),
        "upstream_ms": millis(metadata.upstream_time),
        "tokens": usage,
        "tags": metadata.tags,
        "labels": metadata.labels.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
    })
}

pub(super) fn page(page: &Page, now: SystemTime) -> Value {
    json!({
        "entries": page.entries.iter().map(|entry| listing(entry, now)).collect::<Vec<_>>(),
        "next": page.next.as_ref().map(Cursor::as_str),
    })
}

/// Since the Unix epoch.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as f64 / 1e3
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
