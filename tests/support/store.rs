//! Stores that tests look into or break.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;
use tower_response_cache::{
    Error,
    entry::Record,
    key::Key,
    store::{Generation, Lookup, Selection, Store, StoreUsage},
};

/// A store whose operations are counted, and fail, panic or wait as a test says.
pub struct Scripted<St> {
    inner: Arc<St>,
    pub gets: Arc<AtomicUsize>,
    pub puts: Arc<AtomicUsize>,
    pub removals: Arc<AtomicUsize>,
    get: Fault,
    put: Fault,
    remove: Fault,
}

#[derive(Clone, Default)]
pub enum Fault {
    #[default]
    None,
    Fails,
    Panics,
    /// Each operation takes a permit first.
    Waits(Arc<Semaphore>),
}

impl<St> Clone for Scripted<St> {
    fn clone(&self) -> Self {
        let Self { inner, gets, puts, removals, get, put, remove } = self;
        let (inner, gets, puts, removals) = (Arc::clone(inner), Arc::clone(gets), Arc::clone(puts), Arc::clone(removals));
        Self { inner, gets, puts, removals, get: get.clone(), put: put.clone(), remove: remove.clone() }
    }
}

impl<St> Scripted<St> {
    pub fn new(inner: St) -> Self {
        let (gets, puts, removals) = Default::default();
        Self { inner: Arc::new(inner), gets, puts, removals, get: Fault::None, put: Fault::None, remove: Fault::None }
    }

    pub fn on_get(mut self, fault: Fault) -> Self {
        self.get = fault;
        self
    }

    pub fn on_put(mut self, fault: Fault) -> Self {
        self.put = fault;
        self
    }

    pub fn on_remove(mut self, fault: Fault) -> Self {
        self.remove = fault;
        self
    }
}

impl Fault {
    async fn strike(&self) -> Result<(), Error> {
        match self {
            Self::None => Ok(()),
            Self::Fails => Err(Error::unavailable("broken by a test")),
            Self::Panics => panic!("broken by a test"),
            Self::Waits(permits) => {
                permits.acquire().await.unwrap().forget();
                Ok(())
            }
        }
    }
}

impl<St> Store for Scripted<St>
where
    St: Store,
{
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.get.strike().await?;
        self.inner.get(key).await
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.put.strike().await?;
        self.inner.put(key, record, generation).await
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        self.removals.fetch_add(1, Ordering::SeqCst);
        self.remove.strike().await?;
        self.inner.remove(key).await
    }

    async fn remove_where(&self, selection: &Selection) -> Result<u64, Error> {
        self.inner.remove_where(selection).await
    }

    async fn usage(&self) -> Result<StoreUsage, Error> {
        self.inner.usage().await
    }
}
