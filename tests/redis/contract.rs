//! The contract that every store keeps.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, TryStreamExt};
use tower_response_cache::{
    Error,
    entry::Record,
    key::Key,
    store::{
        Audience, BoxStore, Claim, Generation, LivePart, Lookup, Redis, RedisBuilder, Store, Token,
        contract::{self, Subject},
    },
};

use crate::{patient, server::Server};

/// How long leases last whose end is waited for.
pub const LEASE: Duration = Duration::from_secs(4);

/// Stores on one server, each with keys of its own.
async fn check(server: &Server, settings: impl Fn(RedisBuilder) -> Redis, url: &str) {
    let made = AtomicUsize::new(0);
    contract::run(async || {
        // Expiry is the server's, and its clock cannot be moved.
        let prefix = format!("contract-{}", made.fetch_add(1, Ordering::SeqCst));
        Subject::new(settings(patient(url).prefix(prefix).lease(Some(LEASE)))).with_live_streams()
    })
    .await;
    assert!(made.into_inner() > 10 && !server.keys().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract() {
    let server = Server::start();
    check(&server, |builder| builder.build().unwrap(), &server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract_on_one_connection_in_the_newer_protocol() {
    let server = Server::start();
    check(&server, |builder| builder.max_connections(1).build().unwrap(), &format!("{}?protocol=resp3", server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boxed_it_keeps_the_contract_too() {
    let server = Server::start();
    let subject = |prefix| {
        let store = patient(server.url()).prefix(prefix).lease(Some(LEASE)).build().unwrap();
        Subject::new(BoxStore::new(store)).with_live_streams()
    };
    contract::whole_records_come_back(&subject("a")).await;
    contract::metadata_tells_of_an_entry(&subject("b")).await;
    contract::all_can_be_removed(&subject("c")).await;
    contract::a_live_stream_is_followed_from_its_first_part_to_its_end(&subject("d")).await;
    contract::a_live_stream_ends_with_its_publisher_and_is_not_wanted_for_ever(&subject("e")).await;
}

/// Breaks a promise about live streams.
struct Broken {
    redis: Redis,
    fault: Fault,
    /// Who had a lease first.
    first: OnceLock<Token>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Whoever follows is told no head.
    Headless,
    /// Whoever has had a lease is followed for ever.
    Undead,
    /// Nobody hears of those who come.
    Deaf,
}

impl Broken {
    fn by(server: &Server, fault: Fault) -> Subject<Self> {
        let redis = patient(server.url()).lease(Some(LEASE)).build().unwrap();
        Subject::new(Self { redis, fault, first: OnceLock::new() }).with_live_streams()
    }
}

impl Store for Broken {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        self.redis.get(key).await
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        self.redis.put(key, record, generation).await
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        self.redis.remove(key).await
    }

    async fn claim(&self, key: &Key, generation: Generation, patience: Duration) -> Result<Claim, Error> {
        let claim = self.redis.claim(key, generation, patience).await?;
        match claim {
            Claim::Granted(..) if self.fault == Fault::Undead && !patience.is_zero() => Ok(Claim::Live(*self.first.get().unwrap())),
            Claim::Granted(token, _) => {
                self.first.get_or_init(|| token);
                Ok(claim)
            }
            _ => Ok(claim),
        }
    }

    async fn renew(&self, key: &Key, token: Token) -> Result<Option<Duration>, Error> {
        self.redis.renew(key, token).await
    }

    async fn audience(&self, key: &Key, token: Token) -> Option<Audience> {
        match self.fault {
            Fault::Deaf => None,
            _ => self.redis.audience(key, token).await,
        }
    }

    async fn publish(&self, key: &Key, token: Token, from: u64, parts: &[LivePart]) -> Result<bool, Error> {
        self.redis.publish(key, token, from, parts).await
    }

    fn follow(&self, key: Key, token: Token) -> impl Stream<Item = Result<Vec<LivePart>, Error>> + Send {
        let is_told = |part: &LivePart| self.fault != Fault::Headless || !matches!(part, LivePart::Head(_));
        self.redis.follow(key, token).map_ok(move |parts| parts.into_iter().filter(is_told).collect())
    }
}

#[tokio::test]
#[should_panic(expected = "one who follows from the start is told")]
async fn a_store_that_leaves_out_the_head_is_found_out() {
    contract::a_live_stream_is_followed_from_its_first_part_to_its_end(&Broken::by(&Server::start(), Fault::Headless)).await;
}

#[tokio::test]
#[should_panic(expected = "told to follow one that gives no sign of life")]
async fn a_store_that_lets_the_dead_be_followed_is_found_out() {
    contract::a_live_stream_ends_with_its_publisher_and_is_not_wanted_for_ever(&Broken::by(&Server::start(), Fault::Undead)).await;
}

#[tokio::test]
#[should_panic(expected = "does not hear of one who wants to follow")]
async fn a_store_that_tells_nobody_who_comes_is_found_out() {
    contract::a_live_stream_is_followed_from_its_first_part_to_its_end(&Broken::by(&Server::start(), Fault::Deaf)).await;
}
