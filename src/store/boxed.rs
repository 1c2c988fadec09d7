use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::Stream;

use super::{
    Audience, Claim, Cursor, Generation, Health, LinkListener, Listing, LivePart, Lookup, Page, Selection, Store, StoreUsage, Token,
};
use crate::{entry::Record, error::Error, key::Key};

/// A store chosen at run time. Costs one allocation per operation; clones share the store.
#[derive(Clone)]
pub struct BoxStore(Arc<dyn DynStore>);

impl BoxStore {
    /// Hides what kind of store it is.
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }
}

impl fmt::Debug for BoxStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxStore(..)")
    }
}

impl Store for BoxStore {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        self.0.get(key).await
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        self.0.put(key, record, generation).await
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        self.0.remove(key).await
    }

    async fn put_leased(&self, key: &Key, record: Record, generation: Generation, token: Token) -> Result<bool, Error> {
        self.0.put_leased(key, record, generation, token).await
    }

    async fn claim(&self, key: &Key, generation: Generation, patience: Duration) -> Result<Claim, Error> {
        self.0.claim(key, generation, patience).await
    }

    async fn renew(&self, key: &Key, token: Token) -> Result<Option<Duration>, Error> {
        self.0.renew(key, token).await
    }

    async fn release(&self, key: &Key, token: Token, declined: bool) -> Result<(), Error> {
        self.0.release(key, token, declined).await
    }

    async fn audience(&self, key: &Key, token: Token) -> Option<Audience> {
        self.0.audience(key, token).await
    }

    async fn publish(&self, key: &Key, token: Token, from: u64, parts: &[LivePart]) -> Result<bool, Error> {
        self.0.publish(key, token, from, parts).await
    }

    fn follow(&self, key: Key, token: Token) -> impl Stream<Item = Result<Vec<LivePart>, Error>> + Send {
        self.0.follow(key, token)
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Listing>, Error> {
        self.0.metadata(key).await
    }

    async fn remove_where(&self, selection: &Selection) -> Result<u64, Error> {
        self.0.remove_where(selection).await
    }

    async fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
        self.0.list(cursor, limit).await
    }

    async fn cleanup(&self) -> Result<u64, Error> {
        self.0.cleanup().await
    }

    async fn usage(&self) -> Result<StoreUsage, Error> {
        self.0.usage().await
    }

    fn health(&self) -> Option<Health> {
        self.0.health()
    }

    fn watch(&self, listener: Weak<dyn LinkListener>) {
        self.0.watch(listener);
    }

    async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

type Operation<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

type Followed<'a> = Pin<Box<dyn Stream<Item = Result<Vec<LivePart>, Error>> + Send + 'a>>;

/// The twin of [`Store`] that trait objects can have.
trait DynStore: Send + Sync {
    fn get<'a>(&'a self, key: &'a Key) -> Operation<'a, Result<Lookup, Error>>;
    fn put<'a>(&'a self, key: &'a Key, record: Record, generation: Generation) -> Operation<'a, Result<bool, Error>>;
    fn remove<'a>(&'a self, key: &'a Key) -> Operation<'a, Result<bool, Error>>;
    fn put_leased<'a>(&'a self, key: &'a Key, record: Record, generation: Generation, token: Token) -> Operation<'a, Result<bool, Error>>;
    fn claim<'a>(&'a self, key: &'a Key, generation: Generation, patience: Duration) -> Operation<'a, Result<Claim, Error>>;
    fn renew<'a>(&'a self, key: &'a Key, token: Token) -> Operation<'a, Result<Option<Duration>, Error>>;
    fn release<'a>(&'a self, key: &'a Key, token: Token, declined: bool) -> Operation<'a, Result<(), Error>>;
    fn audience<'a>(&'a self, key: &'a Key, token: Token) -> Operation<'a, Option<Audience>>;
    fn publish<'a>(&'a self, key: &'a Key, token: Token, from: u64, parts: &'a [LivePart]) -> Operation<'a, Result<bool, Error>>;
    fn follow(&self, key: Key, token: Token) -> Followed<'_>;
    fn metadata<'a>(&'a self, key: &'a Key) -> Operation<'a, Result<Option<Listing>, Error>>;
    fn remove_where<'a>(&'a self, selection: &'a Selection) -> Operation<'a, Result<u64, Error>>;
    fn list<'a>(&'a self, cursor: Option<&'a Cursor>, limit: usize) -> Operation<'a, Result<Page, Error>>;
    fn cleanup(&self) -> Operation<'_, Result<u64, Error>>;
    fn usage(&self) -> Operation<'_, Result<StoreUsage, Error>>;
    fn health(&self) -> Option<Health>;
    fn watch(&self, listener: Weak<dyn LinkListener>);
    fn shutdown(&self) -> Operation<'_, ()>;
}

impl<St> DynStore for St
where
    St: Store,
{
    fn get<'a>(&'a self, key: &'a Key) -> Operation<'a, Result<Lookup, Error>> {
        Box::pin(Store::get(self, key))
    }

    fn put<'a>(&'a self, key: &'a Key, record: Record, generation: Generation) -> Operation<'a, Result<bool, Error>> {
        Box::pin(Store::put(self, key, record, generation))
    }

    fn remove<'a>(&'a self, key: &'a Key) -> Operation<'a, Result<bool, Error>> {
        Box::pin(Store::remove(self, key))
    }

    fn put_leased<'a>(&'a self, key: &'a Key, record: Record, generation: Generation, token: Token) -> Operation<'a, Result<bool, Error>> {
        Box::pin(Store::put_leased(self, key, record, generation, token))
    }

    fn claim<'a>(&'a self, key: &'a Key, generation: Generation, patience: Duration) -> Operation<'a, Result<Claim, Error>> {
        Box::pin(Store::claim(self, key, generation, patience))
    }

    fn renew<'a>(&'a self, key: &'a Key, token: Token) -> Operation<'a, Result<Option<Duration>, Error>> {
        Box::pin(Store::renew(self, key, token))
    }

    fn release<'a>(&'a self, key: &'a Key, token: Token, declined: bool) -> Operation<'a, Result<(), Error>> {
        Box::pin(Store::release(self, key, token, declined))
    }

    fn audience<'a>(&'a self, key: &'a Key, token: Token) -> Operation<'a, Option<Audience>> {
        Box::pin(Store::audience(self, key, token))
    }

    fn publish<'a>(&'a self, key: &'a Key, token: Token, from: u64, parts: &'a [LivePart]) -> Operation<'a, Result<bool, Error>> {
        Box::pin(Store::publish(self, key, token, from, parts))
    }

    fn follow(&self, key: Key, token: Token) -> Followed<'_> {
        Box::pin(Store::follow(self, key, token))
    }

    fn metadata<'a>(&'a self, key: &'a Key) -> Operation<'a, Result<Option<Listing>, Error>> {
        Box::pin(Store::metadata(self, key))
    }

    fn remove_where<'a>(&'a self, selection: &'a Selection) -> Operation<'a, Result<u64, Error>> {
        Box::pin(Store::remove_where(self, selection))
    }

    fn list<'a>(&'a self, cursor: Option<&'a Cursor>, limit: usize) -> Operation<'a, Result<Page, Error>> {
        Box::pin(Store::list(self, cursor, limit))
    }

    fn cleanup(&self) -> Operation<'_, Result<u64, Error>> {
        Box::pin(Store::cleanup(self))
    }

    fn usage(&self) -> Operation<'_, Result<StoreUsage, Error>> {
        Box::pin(Store::usage(self))
    }

    fn health(&self) -> Option<Health> {
        Store::health(self)
    }

    fn watch(&self, listener: Weak<dyn LinkListener>) {
        Store::watch(self, listener);
    }

    fn shutdown(&self) -> Operation<'_, ()> {
        Box::pin(Store::shutdown(self))
    }
}
