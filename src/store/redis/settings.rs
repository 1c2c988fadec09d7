use std::{env, fmt, sync::Arc, time::Duration};

use super::{
    Inner, Redis,
    endpoint::Place,
    link::{Budget, COPIES, Limits, Listeners},
    names::Names,
    refusals::Refusals,
    servers::Servers,
};
#[cfg(feature = "seal")]
use crate::entry::record::SealKeys;
use crate::{
    Clock,
    entry::record::{Codec, Compression},
    error::Error,
};

/// Settings of a [`Redis`] store, each with its default.
#[derive(Clone)]
#[must_use]
pub struct RedisBuilder {
    url: String,
    #[cfg(feature = "redis-tls")]
    certificates: Option<redis::TlsCertificates>,
    prefix: String,
    deadlines: Deadlines,
    breaker_threshold: u32,
    max_connections: usize,
    max_operations: usize,
    max_in_flight: usize,
    max_record: usize,
    compression: Compression,
    #[cfg(feature = "seal")]
    seal: Option<SealKeys>,
    fill_bound: Duration,
    lease: Option<Duration>,
    live: Option<usize>,
    clock: Clock,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    pub(super) read: Duration,
    pub(super) write: Duration,
    pub(super) sweep: Duration,
    pub(super) connect: Duration,
}

impl RedisBuilder {
    pub(super) fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            #[cfg(feature = "redis-tls")]
            certificates: None,
            prefix: "trc".to_owned(),
            deadlines: Deadlines {
                read: Duration::from_millis(100),
                write: Duration::from_millis(250),
                sweep: Duration::from_secs(30),
                connect: Duration::from_secs(1),
            },
            breaker_threshold: 5,
            max_connections: 50,
            max_operations: 4096,
            max_in_flight: 64 << 20,
            max_record: 16 << 20,
            compression: Compression::default(),
            #[cfg(feature = "seal")]
            seal: None,
            fill_bound: Duration::from_secs(600),
            lease: Some(Duration::from_secs(10)),
            live: Some(4 << 20),
            clock: Clock::system(),
        }
    }

    /// As the environment has it: `REDIS_URL` (default `redis://localhost:6379/0`; all forms that the [module](super) knows) and `REDIS_MAX_CONNECTIONS` (default 50).
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), if a variable is set and makes no sense.
    pub fn from_env() -> Result<Self, Error> {
        let url = match env::var("REDIS_URL") {
            Ok(url) => url,
            Err(env::VarError::NotPresent) => "redis://localhost:6379/0".to_owned(),
            Err(env::VarError::NotUnicode(_)) => return Err(Error::config("REDIS_URL is not UTF-8")),
        };
        let builder = Self::new(url);
        match env::var_os("REDIS_MAX_CONNECTIONS") {
            None => Ok(builder),
            Some(text) => match text.to_str().map(str::parse) {
                Some(Ok(connections)) if connections > 0 => Ok(builder.max_connections(connections)),
                _ => Err(Error::config("REDIS_MAX_CONNECTIONS is not a number above 0")),
            },
        }
    }

    /// Trusts servers whose certificates this one has signed, in PEM, instead of those that the system trusts. For a URL that says TLS.
    #[cfg(feature = "redis-tls")]
    pub fn tls_root(mut self, certificate: impl Into<Vec<u8>>) -> Self {
        self.certificates.get_or_insert(NO_CERTIFICATES).root_cert = Some(certificate.into());
        self
    }

    /// Shows servers this certificate and proves it with the key, both in PEM: mutual TLS. Default: none.
    #[cfg(feature = "redis-tls")]
    pub fn tls_identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let identity = redis::ClientTlsConfig { client_cert: certificate.into(), client_key: key.into() };
        self.certificates.get_or_insert(NO_CERTIFICATES).client_tls = Some(identity);
        self
    }

    /// Sets what all keys in Redis begin with; caches with different prefixes share nothing. No braces. Default: `trc`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long a look-up may take, waiting for a connection included, before it is a miss. Default: 100 ms.
    ///
    /// A record of more than 64 KiB comes in a second round trip, for which there is time until the
    /// [`write_deadline`](Self::write_deadline).
    pub fn read_deadline(mut self, deadline: Duration) -> Self {
        self.deadlines.read = deadline;
        self
    }

    /// Sets how long storing or removing a record may take. Default: 250 ms.
    pub fn write_deadline(mut self, deadline: Duration) -> Self {
        self.deadlines.write = deadline;
        self
    }

    /// Sets how long a removal by tag or pattern, or of everything, may take: it walks through all keys of the database. Default: 30 s.
    pub fn sweep_deadline(mut self, deadline: Duration) -> Self {
        self.deadlines.sweep = deadline;
        self
    }

    /// Sets how long the making of a connection may take, in the background: name resolution, TLS and log-in included. Default: 1 s.
    pub fn connect_deadline(mut self, deadline: Duration) -> Self {
        self.deadlines.connect = deadline;
        self
    }

    /// Sets after how many failures in a row operations fail at once, until a probe is answered; in a Cluster, of each primary. At least 1. Default: 5.
    pub fn breaker_threshold(mut self, failures: u32) -> Self {
        self.breaker_threshold = failures;
        self
    }

    /// Sets how many connections there may be. At least 1. Default: 50, of which 4 are used: two for look-ups, two for all else. Each
    /// carries many operations at a time. Each primary of a Cluster has four, or its share of so many if that is less, and one at least.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// Sets how many look-ups, and how many other operations, may be on their way at a time, to each server of a Cluster; further ones fail at once.
    /// A look-up takes up to 64 KiB. At least 1. Default: 4096.
    pub fn max_operations(mut self, operations: usize) -> Self {
        self.max_operations = operations.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// Sets how many bytes records may take in memory on their way to Redis, and those of more than 64 KiB on their way from it; what goes
    /// beyond fails at once. The client holds three copies at a time. At least three times the [largest record](Self::max_record).
    /// Default: 64 MiB.
    pub fn max_in_flight(mut self, bytes: usize) -> Self {
        self.max_in_flight = bytes;
        self
    }

    /// Sets the size of the largest record that is stored or read, in bytes. At most 512 MiB, as Redis has it. Default: 16 MiB.
    pub fn max_record(mut self, bytes: usize) -> Self {
        self.max_record = bytes.min((512 << 20) - 1024);
        self
    }

    /// Sets which records are compressed. Default: [`Compression::Auto`] where the feature `zstd` is on.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Seals records, for a Redis that others can read or write, and takes none that are not sealed. They are bound to the
    /// [prefix](Self::prefix), unless the keys have a namespace. Default: off.
    #[cfg(feature = "seal")]
    pub fn seal(mut self, keys: SealKeys) -> Self {
        self.seal = Some(keys);
        self
    }

    /// Sets how long the making of an answer takes at most. For so long Redis remembers that a record was removed, so that an answer
    /// that was on its way then is not stored. Default: 10 minutes.
    ///
    /// This costs some 150 bytes of Redis' memory per record removed by request or key. Under `maxmemory-policy volatile-ttl`, which evicts what expires soonest, set it to
    /// more than the records' lifetimes.
    pub fn fill_bound(mut self, bound: Duration) -> Self {
        self.fill_bound = bound;
        self
    }

    /// Lets one process at a time make the answer to a request, whichever of all that share this Redis is asked first. It takes a lease, which
    /// it renews until it is done, and has for a tenth of the time at first; whoever waits asks it every tenth of the time whether it lives, and if it does not answer for another tenth (a second, if that is more), one of those goes on; after all of the time at the latest. Costs one more round trip per miss. `None` turns it
    /// off: then each process makes its own. Default: 10 s.
    pub fn lease(mut self, lasts: Option<Duration>) -> Self {
        self.lease = lasts.map(|lasts| lasts.max(Duration::from_millis(10)));
        self
    }

    /// Lets callers in other processes, who wait for an answer that is made under a [lease](Self::lease), receive it as it is made: as soon as someone waits, what
    /// comes from upstream is appended to a stream in Redis. So many bytes of a body may be there; of a longer one no more is said, and those who have a part of it
    /// are given an error. A stream expires when its maker gave no sign of life for half the time of a lease. A miss for which nobody else waits costs nothing more. `None` turns it off:
    /// then others wait for the whole answer. Default: 4 MiB.
    pub fn live(mut self, max_bytes: Option<usize>) -> Self {
        self.live = max_bytes;
        self
    }

    /// Sets the source of time. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the store. Nothing is connected until the first operation, so that a Redis that is down stops nobody.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), if the URL or the prefix makes no sense. The URL is not shown, for it may hold a password.
    pub fn build(self) -> Result<Redis, Error> {
        let Self {
            url,
            #[cfg(feature = "redis-tls")]
            certificates,
            prefix,
            deadlines,
            breaker_threshold,
            max_connections,
            max_operations,
            max_in_flight,
            max_record,
            compression,
            #[cfg(feature = "seal")]
            seal,
            fill_bound,
            lease,
            live,
            clock,
        } = self;
        let names = Names::new(&prefix)?;
        let place = Place::parse(&url)?;
        #[cfg(feature = "redis-tls")]
        let place = match certificates {
            Some(certificates) => place.with_certificates(&certificates)?,
            None => place,
        };
        let codec = Codec::new(max_record).compression(compression);
        #[cfg(feature = "seal")]
        let codec = match seal {
            Some(keys) => codec.seal(keys.or_namespace(&prefix)),
            None => codec,
        };
        let listeners = Listeners::default();
        let limits = Limits {
            threshold: breaker_threshold,
            connections: max_connections,
            operations: max_operations,
            bytes: Arc::new(Budget::new(max_in_flight.max(COPIES * (max_record + 4096)).min(u32::MAX as usize))),
            listeners: listeners.clone(),
            refusals: Refusals::default(),
            dial: deadlines.connect,
            probe: names.probe("00"),
        };
        let inner = Inner {
            listeners,
            servers: Servers::at(place, &names, limits),
            names,
            codec,
            max_record,
            deadlines,
            fill_bound,
            clock,
            writes: Default::default(),
            lease,
            live: live.filter(|_| lease.is_some()),
            waiters: Default::default(),
            hears: Default::default(),
        };
        Ok(Redis::of(inner))
    }
}

#[cfg(feature = "redis-tls")]
const NO_CERTIFICATES: redis::TlsCertificates = redis::TlsCertificates { client_tls: None, root_cert: None };

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("prefix", &self.prefix)
            .field("deadlines", &self.deadlines)
            .field("breaker_threshold", &self.breaker_threshold)
            .field("max_connections", &self.max_connections)
            .field("max_operations", &self.max_operations)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_record", &self.max_record)
            .field("compression", &self.compression)
            .field("fill_bound", &self.fill_bound)
            .finish_non_exhaustive()
    }
}
