use std::{fmt, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Request, Response, header, request};
use tokio::time::timeout;

use crate::{
    entry::{Entry, Frames, Metadata, Record, detached},
    error::Error,
    explain::{Explanation, explain},
    key::Key,
    lookup::look_up,
    observe::Stats,
    options::{CacheOptions, storing},
    policy::{Admission, NotStored, Policy, Reuse},
    shared::{Shared, contain},
    store::{Cursor, Listing, Page, Selection, Store},
};

/// What can be done with a cache from outside the path of requests.
///
/// It uses the same keys and records as the layer that it comes from. Clones are cheap and mean the same cache.
pub struct Handle<St, P> {
    pub(crate) shared: Shared<St, P>,
}

impl<St, P> Handle<St, P>
where
    St: Store,
    P: Policy,
{
    /// The stored answer to a request, if it may be served. Counts as no request in the statistics.
    ///
    /// # Errors
    ///
    /// If the store cannot answer; and [`unsupported`](Error::is_unsupported) for a request that the policy does not cache.
    pub async fn get<T>(&self, request: &Request<T>) -> Result<Option<Arc<Entry>>, Error>
    where
        T: AsRef<[u8]>,
    {
        let asked = self.ask(request)?;
        for key in &asked.keys {
            let (found, failures) = look_up(&self.shared, &asked.head, key).await;
            if failures > 0 && found.entry.is_none() {
                return Err(Error::unavailable("the store did not answer; observers were told why"));
            }
            if let Some(entry) = found.entry {
                let moment = self.shared.settings.moment();
                let reuse =
                    contain(&self.shared.core.counters, || self.shared.core.policy.reuse(&asked.head, &asked.options, &entry, moment));
                if matches!(reuse, Some(Reuse::Fresh { .. } | Reuse::StaleWhileRevalidate)) {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// Stores a response as the answer to a request, for `ttl` or as long as the policy says. Says why not if the policy stores no such response.
    ///
    /// # Errors
    ///
    /// If the store does not confirm; and [`unsupported`](Error::is_unsupported) for a request that the policy does not cache.
    pub async fn insert<T>(
        &self,
        request: &Request<T>,
        response: Response<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<Result<Key, NotStored>, Error>
    where
        T: AsRef<[u8]>,
    {
        let Asked { head, mut options, keys } = self.ask(request)?;
        if self.shared.settings.read_only {
            return Ok(Err(NotStored::ReadOnly));
        }
        if let Some(ttl) = ttl {
            options.wish().ttl = Some(ttl);
        }
        let (response, body) = response.into_parts();
        let key = keys[fastrand::usize(..keys.len())];
        let moment = self.shared.settings.moment();
        let policy = &self.shared.core.policy;
        let storing = contain(&self.shared.core.counters, || storing(policy, &head, &options, &response, Some(body.len() as u64), moment));
        let storing = match storing.unwrap_or(Err(NotStored::Panic)) {
            Ok(storing) if body.len() > storing.max_body => return Ok(Err(NotStored::TooLarge)),
            Ok(storing) if storing.vary.is_some() => {
                return Err(Error::unsupported("a response that varies by request fields cannot be inserted"));
            }
            Ok(storing) => storing,
            Err(reason) => return Ok(Err(reason)),
        };
        let complete = contain(&self.shared.core.counters, || policy.complete(&response, None)).unwrap_or(Err(NotStored::Panic));
        if let Err(reason) = complete {
            return Ok(Err(reason));
        }
        // What is served later would be cut off, or run into what follows on the connection.
        let promised = response.headers.get(header::CONTENT_LENGTH).map(|value| value.to_str().ok()?.parse::<usize>().ok());
        if head.method != Method::HEAD && promised.is_some_and(|promised| promised != Some(body.len())) {
            return Ok(Err(NotStored::Incomplete));
        }
        let inspected = contain(&self.shared.core.counters, || self.shared.settings.inspected(&head, &response, &body));
        let Some(findings) = inspected else { return Ok(Err(NotStored::Panic)) };
        if let Some(objection) = findings.objection {
            return Ok(Err(NotStored::Objection(objection)));
        }
        let mut metadata = Metadata {
            model: findings.model.map(Arc::from),
            usage: findings.usage,
            service_tier: findings.service_tier.map(Arc::from),
            upstream_request_id: storing.upstream_request_id.map(Arc::from),
            cached_at: Some(moment.now),
            ..Metadata::of(&options)
        };
        metadata.add_tags(storing.tags);
        let (status, headers, body) = (response.status, detached(storing.headers), Frames::compact(&[body]));
        let entry = Entry { status, headers, body, trailers: None, lifetime: self.shared.settings.jittered(storing.lifetime), metadata };
        let generation = self.shared.get_sound(&key).await?.generation;
        let stored = self.shared.core.store.put(&key, Record::Response(Arc::new(entry)), generation).await?;
        Ok(if stored { Ok(key) } else { Err(NotStored::Superseded) })
    }

    /// Stores many answers, so many at a time, as [`insert`](Self::insert) does each: a cache that is warm before the first request comes. What is
    /// to be stored is taken from `answers` as there is room for it, so that it need not be in memory all at once. What fails does not end it.
    ///
    /// ```
    /// use http::{Request, Response};
    /// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, store::Memory};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let cache = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::Shared)).handle();
    /// let answers = ["one", "two"].map(|question| {
    ///     let request = Request::post("http://api.example/ask").body(question).unwrap();
    ///     (request, Response::new("an answer".into()), None)
    /// });
    /// let warmed = cache.insert_many(answers, 16).await;
    /// assert_eq!((warmed.stored, warmed.not_stored, warmed.failed), (2, 0, 0));
    /// # }
    /// ```
    ///
    /// Dropped, it stops; what is stored by then stays.
    pub async fn insert_many<T>(
        &self,
        answers: impl IntoIterator<Item = (Request<T>, Response<Bytes>, Option<Duration>), IntoIter: Send>,
        at_a_time: usize,
    ) -> Warmed
    where
        T: AsRef<[u8]> + Send + Sync,
    {
        let inserts = stream::iter(answers).map(|(request, response, ttl)| async move { self.insert(&request, response, ttl).await });
        let mut inserts = pin!(inserts.buffer_unordered(at_a_time.max(1)));
        let mut warmed = Warmed::default();
        while let Some(inserted) = inserts.next().await {
            match inserted {
                Ok(Ok(_)) => warmed.stored += 1,
                Ok(Err(reason)) => {
                    warmed.not_stored += 1;
                    warmed.first_reason.get_or_insert(reason);
                }
                Err(error) => {
                    warmed.failed += 1;
                    warmed.first_error.get_or_insert(error);
                }
            }
        }
        warmed
    }

    /// What is known about the entry under a key, without its body.
    ///
    /// # Errors
    ///
    /// If the store cannot answer.
    pub async fn metadata(&self, key: &Key) -> Result<Option<Listing>, Error> {
        self.shared.core.store.metadata(key).await
    }

    /// A page of what is stored, without the bodies, from where the last page ended or from the start: see [`Store::list`].
    ///
    /// ```
    /// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, store::Memory};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_response_cache::Error> {
    /// let cache = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::Shared)).handle();
    /// let mut page = cache.entries(None, 100).await?;
    /// loop {
    ///     for entry in &page.entries {
    ///         println!("{} {} {} bytes", entry.key, entry.status, entry.body_len);
    ///     }
    ///     let Some(next) = page.next else { break };
    ///     page = cache.entries(Some(&next), 100).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store cannot answer, or cannot list; [config](Error::is_config), if the cursor is not one of this store's.
    pub async fn entries(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
        self.shared.core.store.list(cursor, limit).await
    }

    /// The keys under which the answers to a request are kept: one, unless the policy keeps several.
    ///
    /// # Errors
    ///
    /// [`unsupported`](Error::is_unsupported) for a request that the policy does not cache.
    pub fn keys<T>(&self, request: &Request<T>) -> Result<Vec<Key>, Error>
    where
        T: AsRef<[u8]>,
    {
        Ok(self.ask(request)?.keys)
    }

    /// Tells why a request is, or is not, answered from the cache, and whether a response to it would be stored. Changes nothing, and counts as no request in
    /// the statistics. See [`explain`](crate::explain).
    pub async fn explain<T>(&self, request: &Request<T>, response: Option<&Response<Bytes>>) -> Explanation
    where
        T: AsRef<[u8]>,
    {
        explain(&self.shared, copy_of(request), request.body().as_ref(), response).await
    }

    /// Removes what is stored under a key, and voids what is on its way there. Returns how many entries it was.
    ///
    /// # Errors
    ///
    /// If the store does not confirm.
    pub async fn invalidate_key(&self, key: &Key) -> Result<u64, Error> {
        // Those who come from now on are not to join a call that began before.
        self.shared.core.flights.detach(key);
        let removed = self.shared.core.store.remove(key).await?;
        self.shared.core.flights.detach(key);
        Ok(u64::from(removed))
    }

    /// Removes the answers to a request, as [`invalidate_key`](Self::invalidate_key) does.
    ///
    /// # Errors
    ///
    /// If the store does not confirm; and [`unsupported`](Error::is_unsupported) for a request that the policy does not cache.
    pub async fn invalidate_request<T>(&self, request: &Request<T>) -> Result<u64, Error>
    where
        T: AsRef<[u8]>,
    {
        let Asked { head, keys, .. } = self.ask(request)?;
        let mut removed = 0;
        for key in keys {
            let (found, _) = look_up(&self.shared, &head, &key).await;
            removed += self.invalidate_key(&key).await?;
            if found.key != key {
                removed += self.invalidate_key(&found.key).await?;
            }
        }
        Ok(removed)
    }

    /// Removes what the selection names, voids what is on its way, and returns how many entries it was.
    ///
    /// # Errors
    ///
    /// If the store does not confirm, or cannot select so.
    pub async fn invalidate(&self, selection: &Selection) -> Result<u64, Error> {
        self.shared.core.flights.detach_all();
        let removed = self.shared.core.store.remove_where(selection).await?;
        self.shared.core.flights.detach_all();
        Ok(removed)
    }

    /// Drops what expiry does not reach, and returns how much it was.
    ///
    /// # Errors
    ///
    /// If the store does not confirm.
    pub async fn cleanup(&self) -> Result<u64, Error> {
        self.shared.core.store.cleanup().await
    }

    /// What the cache did since it was made, and what its store holds.
    pub async fn stats(&self) -> Stats {
        let usage = self.shared.attempt("usage", self.shared.core.store.usage()).await;
        self.shared.core.counters.stats(usage, self.shared.core.store.health())
    }

    /// Ends the cache: requests from now on pass through, and so do those that have not come to their upstream call. Calls under way are finished and stored,
    /// what unsafe requests make invalid meanwhile is removed, and what is not done `within` is given up. Says whether all was done.
    pub async fn shutdown(&self, within: Duration) -> bool {
        let core = &self.shared.core;
        core.tasks.close();
        let done = timeout(within, core.tasks.wait()).await.is_ok();
        core.stop.cancel();
        core.tasks.wait().await;
        core.store.shutdown().await;
        done
    }

    fn ask<T>(&self, request: &Request<T>) -> Result<Asked, Error>
    where
        T: AsRef<[u8]>,
    {
        let (policy, counters) = (&self.shared.core.policy, &self.shared.core.counters);
        let mut head = copy_of(request);
        let mut options = head.extensions.remove::<CacheOptions>().unwrap_or_default();
        let admission = contain(counters, || policy.admit(&mut head, &mut options));
        if admission != Some(Admission::Cache) {
            return Err(Error::unsupported("the policy does not cache this request"));
        }
        let body = request.body().as_ref();
        let identify = |slot| policy.identify(&self.shared.settings.envelope, &head, body, &options, slot).ok();
        let keys = contain(counters, || (0..policy.slots().max(1)).map(identify).collect::<Option<Vec<_>>>());
        let keys = keys.flatten().ok_or_else(|| Error::unsupported("the policy does not cache this request"))?;
        Ok(Asked { keys: keys.into_iter().map(|identity| identity.key).collect(), head, options })
    }
}

fn copy_of<T>(request: &Request<T>) -> request::Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.version = request.version();
    head.headers = request.headers().clone();
    head.extensions = request.extensions().clone();
    head
}

/// What became of [many answers](Handle::insert_many) that were to be stored.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Warmed {
    /// Stored.
    pub stored: u64,
    /// Not stored, because the policy does not, or another was faster.
    pub not_stored: u64,
    /// Not stored, because the store did not confirm, or the policy does not cache such requests.
    pub failed: u64,
    /// Why the first that is not stored is not.
    pub first_reason: Option<NotStored>,
    /// What went wrong first.
    pub first_error: Option<Error>,
}

/// A request, as the policy sees it.
struct Asked {
    head: request::Parts,
    options: CacheOptions,
    keys: Vec<Key>,
}

impl<St, P> Clone for Handle<St, P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<St, P> fmt::Debug for Handle<St, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle(..)")
    }
}
