//! Parts of one's own: a store, a policy, a rule for keys, a cost model, an observer.

mod store;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request, response};
use http_body_util::{BodyExt, Full};
use store::Newest;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    ApiPolicy, BoxError, CacheLayer, CacheOptions, Clock, NanoUsd, Policy, RequestBody, Sharing,
    cost::Call,
    entry::Entry,
    inspect::Inspect,
    key::{Envelope, Identity},
    observe::Event,
    policy::{Admission, Bypass, Moment, NotStored, Reuse, Storing},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // A rule for keys: what the gateway in front calls the edition is part of what is asked.
    let calls = ApiPolicy::new(Sharing::Shared).key_by(|request| match request.headers.get("x-edition") {
        Some(edition) => edition.as_bytes().into(),
        None => Vec::new(),
    });
    // An observer: a function will do. It is told when a request is over, and all is known of it.
    let outcomes = Arc::new(Mutex::new(BTreeMap::new()));
    let observer = {
        let outcomes = Arc::clone(&outcomes);
        move |event: &Event<'_>| {
            if let Event::Request(record) = event {
                *outcomes.lock().unwrap_or_else(PoisonError::into_inner).entry(record.outcome.label()).or_insert(0) += 1;
            }
        }
    };
    // A cost model: half a cent for each call.
    let cost = |_: &Call<'_>| Some(NanoUsd(5_000_000));
    let layer = CacheLayer::new(Newest::new(1 << 20, Clock::system()), Patient { calls }).observer(observer).cost(cost);
    let cached = layer.layer(service_fn(async |request: Request<RequestBody<Full<Bytes>>>| {
        let slow = request.uri().path() == "/slow";
        let question = request.into_body().collect().await?.to_bytes();
        let answer = Response::builder().header("x-seconds", if slow { "9" } else { "0" }).body(Full::new(question))?;
        Ok::<_, BoxError>(answer)
    }));

    for (path, edition) in [("/slow", "1st"), ("/slow", "1st"), ("/slow", "2nd"), ("/quick", "1st"), ("/quick", "1st"), ("/now", "1st")] {
        let request = Request::post(format!("http://example.com{path}")).header("x-edition", edition).body(Full::from("a question"))?;
        let answer = cached.clone().oneshot(request).await?;
        answer.into_body().collect().await?;
    }
    layer.handle().shutdown(Duration::from_secs(1)).await;
    println!("{:?}", outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    let stats = layer.handle().stats().await;
    println!("{} stored, {} not, {} saved", stats.stored, stats.not_stored, stats.saved);
    Ok(())
}

/// A policy: as for API calls, but only what took long is worth storing, and `/now` is never asked twice of the cache.
#[derive(Debug)]
struct Patient {
    calls: ApiPolicy,
}

impl Policy for Patient {
    fn admit(&self, request: &mut request::Parts, options: &mut CacheOptions) -> Admission {
        if request.uri.path() == "/now" {
            return Admission::Bypass(Bypass::Predicate);
        }
        self.calls.admit(request, options)
    }

    fn body_limit(&self) -> usize {
        self.calls.body_limit()
    }

    fn identify(
        &self,
        envelope: &Envelope,
        request: &request::Parts,
        body: &[u8],
        options: &CacheOptions,
        slot: u32,
    ) -> Result<Identity, Bypass> {
        self.calls.identify(envelope, request, body, options, slot)
    }

    fn reuse(&self, request: &request::Parts, options: &CacheOptions, entry: &Entry, moment: Moment) -> Reuse {
        self.calls.reuse(request, options, entry, moment)
    }

    fn store(
        &self,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
        len: Option<u64>,
        moment: Moment,
    ) -> Result<Storing, NotStored> {
        let seconds = response.headers.get("x-seconds").and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        if seconds.map(Duration::from_secs) < Some(Duration::from_secs(1)) {
            return Err(NotStored::Predicate);
        }
        self.calls.store(request, options, response, len, moment)
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        self.calls.inspect()
    }

    fn complete(&self, response: &response::Parts, trailers: Option<&HeaderMap>) -> Result<(), NotStored> {
        self.calls.complete(response, trailers)
    }
}
