//! What varies by request fields, while calls overtake one another and stores do not answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::sync::{Semaphore, mpsc};
use tower::Layer;
use tower_response_cache::{
    Cache, CacheLayer, Clock, Handle, HttpPolicy,
    status::Outcome,
    store::{Memory, Selection},
};

use crate::{
    ask, calm,
    origin::{Feed, Origin, data, streamed, text},
    outcome, read, send,
    store::{Fault, Scripted},
    until,
};

/// A cache in front of an origin that varies by the fields that a request names in `by`, and of which the test makes the bodies.
struct Rig {
    cache: Cache<Origin, Memory, HttpPolicy>,
    handle: Handle<Memory, HttpPolicy>,
    clock: Clock,
    feeds: mpsc::UnboundedReceiver<Feed>,
}

fn rig() -> Rig {
    let (feeds, fed) = mpsc::unbounded_channel();
    let origin = Origin::new(move |call| {
        let feeds = feeds.clone();
        async move {
            let (feed, mut response) = streamed();
            feeds.send(feed).unwrap();
            let headers = response.headers_mut();
            headers.insert("cache-control", http::HeaderValue::from_static("max-age=60"));
            headers.insert("vary", call.head.headers["by"].clone());
            Ok(response)
        }
    });
    let clock = Clock::movable();
    let layer = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), HttpPolicy::shared()).clock(clock.clone());
    Rig { handle: layer.handle(), cache: layer.layer(origin), clock, feeds: fed }
}

fn get(fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    fields
        .iter()
        .fold(Request::get("http://origin/"), |request, (name, value)| request.header(*name, *value))
        .body(Full::default())
        .unwrap()
}

impl Rig {
    /// A call that has begun and goes on until its body is said.
    async fn begin(&mut self, fields: &[(&str, &str)]) -> (crate::Answer, Feed) {
        let answer = send(&self.cache, get(fields)).await;
        let feed = self.feeds.recv().await.unwrap();
        self.clock.advance(Duration::from_secs(1));
        (answer, feed)
    }

    async fn end(&self, (answer, feed): (crate::Answer, Feed), body: &'static str) {
        feed.send(data(body)).await.unwrap();
        drop(feed);
        assert_eq!(read(answer).await, body);
        calm().await;
    }
}

const FOO_1: &[(&str, &str)] = &[("foo", "1"), ("by", "foo")];

#[tokio::test]
async fn a_variant_from_before_an_invalidation_finds_no_way_back_among_those_that_came_after() {
    for after in [FOO_1, &[("foo", "2"), ("by", "foo")]] {
        let mut rig = rig();
        let old = rig.begin(FOO_1).await;
        rig.handle.invalidate_request(&Request::get("http://origin/").header("foo", "1").body("").unwrap()).await.unwrap();
        let new = rig.begin(after).await;
        rig.end(new, "new").await;
        rig.end(old, "old").await;
        assert_eq!(ask(&rig.cache, get(after)).await, (Outcome::Hit, "new".to_owned()));
        if after != FOO_1 {
            let (answer, feed) = rig.begin(FOO_1).await;
            assert!(matches!(outcome(&answer), Outcome::Miss(_)), "{:?}", outcome(&answer));
            rig.end((answer, feed), "newer").await;
        }
    }
}

#[tokio::test]
async fn a_variant_that_is_late_does_not_replace_a_newer_one() {
    const NEWEST: (&str, &str) = ("cache-control", "no-cache");
    for (before, asked) in [
        // Before anything is known to vary.
        (None, &[("foo", "1"), ("by", "foo"), NEWEST][..]),
        // By other fields than those that were known.
        (Some(&[("foo", "1"), ("bar", "1"), ("by", "foo")][..]), &[("foo", "1"), ("bar", "1"), ("by", "bar"), NEWEST][..]),
    ] {
        let mut rig = rig();
        if let Some(before) = before {
            let first = rig.begin(before).await;
            rig.end(first, "first").await;
        }
        let late = rig.begin(asked).await;
        let new = rig.begin(asked).await;
        rig.end(new, "new").await;
        rig.end(late, "late").await;
        let (_, again) = asked.split_last().unwrap();
        assert_eq!(ask(&rig.cache, get(again)).await, (Outcome::Hit, "new".to_owned()));
    }
}

#[tokio::test]
async fn a_variant_by_other_fields_from_before_a_removal_of_many_is_not_stored() {
    let mut rig = rig();
    let first = rig.begin(FOO_1).await;
    rig.end(first, "first").await;
    let by_bar = [("foo", "2"), ("bar", "1"), ("by", "bar")];
    let late = rig.begin(&by_bar).await;
    // It removes neither the first nor the way to it.
    rig.handle.invalidate(&Selection::Tag("none".to_owned())).await.unwrap();
    rig.end(late, "late").await;
    assert_eq!(ask(&rig.cache, get(FOO_1)).await, (Outcome::Hit, "first".to_owned()));
    let (answer, feed) = rig.begin(&by_bar).await;
    assert!(matches!(outcome(&answer), Outcome::Miss(_)), "{:?}", outcome(&answer));
    rig.end((answer, feed), "new").await;
    assert_eq!(ask(&rig.cache, get(&by_bar)).await, (Outcome::Hit, "new".to_owned()));
}

#[tokio::test]
async fn variants_that_are_made_at_the_same_time_are_all_stored_where_it_is_known_that_there_are_some() {
    let mut rig = rig();
    let first = rig.begin(&[("foo", "0"), ("by", "foo")]).await;
    rig.end(first, "0").await;
    let one = rig.begin(FOO_1).await;
    let two = rig.begin(&[("foo", "2"), ("by", "foo")]).await;
    rig.end(two, "2").await;
    rig.end(one, "1").await;
    for value in ["0", "1", "2"] {
        assert_eq!(ask(&rig.cache, get(&[("foo", value), ("by", "foo")])).await, (Outcome::Hit, value.to_owned()));
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_holds_a_request_up_for_one_look_up_however_many_variants_there_are() {
    let permits = Arc::new(Semaphore::new(100));
    let store = Scripted::new(Memory::new(1 << 20)).on_get(Fault::Waits(Arc::clone(&permits)));
    let origin = Origin::new(|call| async move {
        let mut response = text("answer");
        response.headers_mut().insert("cache-control", http::HeaderValue::from_static("max-age=60"));
        response.headers_mut().insert("vary", call.head.headers["by"].clone());
        Ok(response)
    });
    let cache = CacheLayer::new(store.clone(), HttpPolicy::shared()).layer(origin);
    for by in ["foo", "bar", "baz"] {
        ask(&cache, get(&[("cache-control", "no-cache"), ("by", by)])).await;
        calm().await;
    }
    // The primary key is found; what comes after it fails.
    permits.forget_permits(permits.available_permits() - 1);
    let before = store.gets.load(Ordering::SeqCst);
    let asking = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, get(&[("by", "foo")])).await.1 }
    });
    until(|| store.gets.load(Ordering::SeqCst) == before + 2).await;
    permits.close();
    assert_eq!(asking.await.unwrap(), "answer");
    assert_eq!(store.gets.load(Ordering::SeqCst), before + 2);
}

#[tokio::test]
async fn what_an_answer_makes_invalid_is_removed_all_at_once() {
    let permits = Arc::new(Semaphore::new(0));
    let store = Scripted::new(Memory::new(1 << 20)).on_remove(Fault::Waits(Arc::clone(&permits)));
    let origin = Origin::new(|_| async {
        let mut response = text("done");
        response.headers_mut().insert("location", http::HeaderValue::from_static("/a"));
        response.headers_mut().insert("content-location", http::HeaderValue::from_static("/b"));
        Ok(response)
    });
    let cache = CacheLayer::new(store.clone(), HttpPolicy::shared()).layer(origin);
    let request = Request::delete("http://origin/").body(Full::<Bytes>::default()).unwrap();
    let asking = tokio::spawn(async move { read(send(&cache, request).await).await });
    until(|| store.removals.load(Ordering::SeqCst) == 3).await;
    assert!(!asking.is_finished());
    permits.add_permits(3);
    assert_eq!(asking.await.unwrap(), "done");
}
