//! The way to Redis: connections, deadlines, and what happens when things go wrong.
//!
//! What the `redis` crate leaves to its user is done here. Every operation has our deadline around all of it, waiting for a connection
//! included. A breaker lets operations fail at once while the server is of no use. A connection that does not answer is made anew, for
//! the kernel takes minutes to call it dead. Connections are made in tasks of their own, one at a time per connection, so that it matters
//! neither how many wait for one nor whether they leave. Reads and bulk have connections of their own, for a large value delays all that
//! is behind it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    breaker::{Breaker, LinkState},
    endpoint::Endpoint,
    fault::Fault,
    refusals::Refusals,
    scripts::Script,
};
use crate::store::{LinkChange, LinkListener};

/// See the module. Ends its tasks when it is dropped.
pub(super) struct Link {
    shared: Arc<Shared>,
}

/// Which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// What a request waits for: small both ways.
    Read,
    /// All else.
    Bulk,
}

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    One(&'a Cmd),
    /// A call of a script, which the server may have to be told first.
    Script(&'a Script, &'a Cmd),
    All(&'a Pipeline),
}

#[derive(Clone)]
pub(super) struct Limits {
    /// Failures in a row that open the breaker.
    pub(super) threshold: u32,
    /// Connections at most.
    pub(super) connections: usize,
    /// Operations at a time, per lane.
    pub(super) operations: usize,
    /// Of bytes of large values that are on their way at a time; all links share it.
    pub(super) bytes: Arc<Budget>,
    /// Who is told when a breaker opens or closes; of all links.
    pub(super) listeners: Listeners,
    /// What was refused; by all links.
    pub(super) refusals: Refusals,
    /// How long making a connection may take.
    pub(super) dial: Duration,
    /// What a probe writes to, unless [another](Link::set_probe) is named.
    pub(super) probe: String,
}

/// Permits for bytes.
pub(super) struct Budget(Semaphore);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Semaphore::new(bytes / UNIT))
    }
}

/// Those who are told when the breaker of a link opens or closes. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Listeners(Arc<Mutex<Vec<Weak<dyn LinkListener>>>>);

impl Listeners {
    /// For as long as the listener is there.
    pub(super) fn add(&self, listener: Weak<dyn LinkListener>) {
        let mut listeners = self.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    fn tell(&self, state: LinkState, last: Option<Fault>) {
        // Whoever is told may ask for something of the link: no lock is held.
        let listeners = self.lock().clone();
        let change = LinkChange::new(state.label(), last.map(Fault::label));
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.changed(change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn LinkListener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a link went through; in a Cluster, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStatus {
    /// Do operations get through? In a Cluster, those for the primary that does worst.
    pub state: LinkState,
    /// What went wrong last, in one word: an error code of the server, `timeout`, `lost`, `garbled`. `None` if nothing did.
    pub last_error: Option<&'static str>,
    /// How often operations began to fail at once.
    pub opened: u64,
    /// Attempts at a connection, probes included.
    pub dials: u64,
    /// Operations that failed at once because too many, or too many bytes, were on their way.
    pub rejected: u64,
    /// Operations that are on their way.
    pub in_flight: usize,
}

/// Timeouts in a row after which a connection is made anew.
const TIMEOUTS: u32 = 3;

/// Operations given up by their callers without an answer on a connection since, after which it is made anew.
const UNANSWERED: u32 = 1024;

/// What a permit for bytes stands for.
const UNIT: usize = 1024;

/// How many copies of a large value there are at a time on its way through the client: the command, its packed form, the socket's buffer.
pub(super) const COPIES: usize = 3;

struct Shared {
    endpoint: Endpoint,
    limits: Limits,
    breaker: Breaker,
    reads: Connections,
    bulk: Connections,
    probe: Mutex<String>,
    dials: AtomicU64,
    rejected: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Connections {
    slots: Vec<Arc<Slot>>,
    next: AtomicUsize,
    operations: Semaphore,
}

/// The place of one connection.
struct Slot {
    state: Mutex<State>,
}

enum State {
    /// None, and never was.
    New,
    /// None any more.
    Down,
    /// Being made. The sender is dropped when that is over.
    Dialing(watch::Receiver<()>),
    Up(Live),
}

#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    health: Arc<Health>,
}

/// What is known of one connection; also its identity.
#[derive(Default)]
struct Health {
    timeouts: AtomicU32,
    unanswered: AtomicU32,
}

impl Link {
    pub(super) fn new(endpoint: Endpoint, limits: Limits) -> Self {
        // Reads and bulk on two connections each, if there may be so many. With one, they share it.
        let slots = |count: usize| -> Vec<_> { (0..count).map(|_| Arc::new(Slot { state: Mutex::new(State::New) })).collect() };
        let reads = slots(if limits.connections >= 4 { 2 } else { 1 });
        let bulk = match limits.connections.saturating_sub(reads.len()) {
            0 => reads.clone(),
            left => slots(left.min(2)),
        };
        let connections = |slots| Connections { slots, next: AtomicUsize::new(0), operations: Semaphore::new(limits.operations) };
        let shared = Shared {
            endpoint,
            breaker: Breaker::new(limits.threshold),
            reads: connections(reads),
            bulk: connections(bulk),
            probe: Mutex::new(limits.probe.clone()),
            dials: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            limits,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sends and waits for the replies, until the deadline. `bytes` is what goes there and back, if it may be much.
    ///
    /// Replies that refuse one operation are handed over as they are; what says something of the link is an error.
    pub(super) async fn call(&self, lane: Lane, until: Instant, bytes: usize, ask: Ask<'_>) -> Result<Vec<Value>, Fault> {
        let shared = &self.shared;
        if shared.stop.is_cancelled() {
            return Err(Fault::Spared("the store was shut down"));
        }
        let Some(era) = shared.breaker.admit() else {
            return Err(Fault::Spared("redis is out of reach, and not asked for the moment"));
        };
        let connections = shared.connections(lane);
        let units = u32::try_from(bytes.saturating_mul(COPIES) / UNIT).unwrap_or(u32::MAX);
        let (Ok(_operation), Ok(_bytes)) = (connections.operations.try_acquire(), shared.limits.bytes.0.try_acquire_many(units)) else {
            shared.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(Fault::Spared("too many operations on redis are on their way"));
        };
        let slot = connections.pick();
        let mut again = true;
        loop {
            let (fault, found) = match self.attempt(slot, era, until, &ask).await {
                Ok(replies) => return Ok(replies),
                Err(failed) => failed,
            };
            // Servers close connections that are idle, and restart. All that is sent here may be sent twice.
            if let (Fault::Lost, Some(Found { health, was_up: true }), true) = (fault, &found, again) {
                slot.hang_up(health);
                again = false;
                continue;
            }
            shared.struck(slot, found.map(|found| found.health).as_ref(), era, fault);
            return Err(fault);
        }
    }

    async fn attempt(&self, slot: &Arc<Slot>, era: u64, until: Instant, ask: &Ask<'_>) -> Result<Vec<Value>, (Fault, Option<Found>)> {
        let mut given_up = Unanswered::default();
        let mut found = None;
        let exchange = async {
            let (mut live, was_up) =
                Shared::live(&self.shared, slot, era).await.ok_or(Fault::Spared("a connection to redis could not be made"))?;
            found = Some(Found { health: Arc::clone(&live.health), was_up });
            given_up.health = Some(Arc::clone(&live.health));
            ask.send(&mut live.connection).await.map_err(|error| Fault::of_error(&error))
        };
        let replies = match timeout_at(until, exchange).await {
            Ok(replies) => replies,
            Err(_) => return Err((Fault::Timeout, found)),
        };
        if let Some(health) = given_up.health.take() {
            health.unanswered.store(0, Ordering::Relaxed);
        }
        let replies = match replies {
            Ok(replies) => replies,
            Err(fault) => return Err((fault, found)),
        };
        match replies.iter().filter_map(Fault::of_value).find(|fault| fault.is_of_the_link()) {
            Some(fault) => Err((fault, found)),
            None => {
                if let Some(found) = found {
                    found.health.timeouts.store(0, Ordering::Relaxed);
                }
                self.shared.breaker.succeeded();
                Ok(replies)
            }
        }
    }

    pub(super) fn refusals(&self) -> &Refusals {
        &self.shared.limits.refusals
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// What a probe writes to.
    pub(super) fn probe(&self) -> String {
        self.shared.probe().clone()
    }

    pub(super) fn set_probe(&self, name: String) {
        *self.shared.probe() = name;
    }

    /// Runs a task until the link ends.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shared.stop.clone();
        self.shared.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    pub(super) fn status(&self) -> LinkStatus {
        let shared = &self.shared;
        let in_flight = |connections: &Connections| shared.limits.operations - connections.operations.available_permits();
        LinkStatus {
            state: shared.breaker.state(),
            last_error: shared.breaker.last().map(Fault::label),
            opened: shared.breaker.opened(),
            dials: shared.dials.load(Ordering::Relaxed),
            rejected: shared.rejected.load(Ordering::Relaxed),
            in_flight: in_flight(&shared.reads) + in_flight(&shared.bulk),
        }
    }

    /// Ends all tasks and connections.
    pub(super) async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.hang_up();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// The connection that an operation was sent on.
struct Found {
    health: Arc<Health>,
    /// It was there before, and may have been closed since without anybody noticing.
    was_up: bool,
}

/// An operation that was sent and is not answered yet; dropped so, its caller has given up.
#[derive(Default)]
struct Unanswered {
    health: Option<Arc<Health>>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(health) = &self.health {
            health.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn probe(&self) -> MutexGuard<'_, String> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self, lane: Lane) -> &Connections {
        match lane {
            Lane::Read => &self.reads,
            Lane::Bulk => &self.bulk,
        }
    }

    /// The connection of a slot, and whether it was there; if not, it is made. `None` if it could not be made.
    async fn live(shared: &Arc<Self>, slot: &Arc<Slot>, era: u64) -> Option<(Live, bool)> {
        let mut dialing = {
            let mut state = slot.lock();
            match &*state {
                State::Up(live) if live.health.unanswered.load(Ordering::Relaxed) < UNANSWERED => return Some((live.clone(), true)),
                // Closed, it ended without a word, by a panic.
                State::Dialing(dialing) if dialing.has_changed().is_ok() => dialing.clone(),
                before => {
                    let again = !matches!(before, State::New);
                    let dialing = Self::dial(shared, slot, era, again);
                    *state = State::Dialing(dialing.clone());
                    dialing
                }
            }
        };
        // Nothing is ever sent: it returns when the sender is dropped.
        let _ = dialing.changed().await;
        match &*slot.lock() {
            State::Up(live) => Some((live.clone(), false)),
            _ => None,
        }
    }

    /// Makes the connection of a slot, in a task that goes on when those who wait have left.
    fn dial(shared: &Arc<Self>, slot: &Arc<Slot>, era: u64, again: bool) -> watch::Receiver<()> {
        let (over, dialing) = watch::channel(());
        let (task, slot) = (Arc::clone(shared), Arc::clone(slot));
        shared.tasks.spawn(async move {
            let _over = over;
            if again {
                // So that many processes that lost the same server do not come back in the same moment.
                sleep(Duration::from_millis(10).mul_f64(fastrand::f64())).await;
            }
            let dialed = task.connect().await;
            let mut state = slot.lock();
            match dialed {
                Ok(connection) if !task.stop.is_cancelled() => {
                    *state = State::Up(Live { connection, health: Arc::default() });
                }
                Ok(_) => *state = State::Down,
                Err(fault) => {
                    *state = State::Down;
                    drop(state);
                    task.failed(era, fault);
                }
            }
        });
        dialing
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Fault> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        // Our deadlines are around it: theirs are off.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connecting = timeout(self.limits.dial, self.endpoint.connect(&config));
        match self.stop.run_until_cancelled(connecting).await {
            Some(Ok(Ok(connection))) => Ok(connection),
            Some(Ok(Err(fault))) => Err(fault),
            Some(Err(_)) => Err(Fault::Timeout),
            None => Err(Fault::Lost),
        }
    }

    /// An operation on this connection failed.
    fn struck(self: &Arc<Self>, slot: &Slot, health: Option<&Arc<Health>>, era: u64, fault: Fault) {
        match (fault, health) {
            (Fault::Timeout, Some(health)) => {
                if health.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS {
                    slot.hang_up(health);
                }
            }
            // Whoever made the attempt has told.
            (Fault::Spared(_), _) => return,
            // A hundred operations that one broken connection carried are one failure.
            (Fault::Lost | Fault::Garbled, Some(health)) if !slot.hang_up(health) => return,
            (_, Some(health)) => {
                slot.hang_up(health);
            }
            (_, None) => {}
        }
        self.failed(era, fault);
    }

    fn failed(self: &Arc<Self>, era: u64, fault: Fault) {
        if self.breaker.failed(era, fault) {
            #[cfg(feature = "tracing")]
            tracing::warn!(target: "tower_response_cache::redis", reason = fault.label(), "redis is not asked any more, until it answers a probe");
            // Whatever hangs on these, and all memory that waits to be written to them.
            self.hang_up();
            self.limits.listeners.tell(LinkState::Open, self.breaker.last());
            self.tasks.spawn(Arc::clone(self).ask_again());
        }
    }

    /// Asks, one time after another, whether the server is of use again.
    async fn ask_again(self: Arc<Self>) {
        let stop = self.stop.clone();
        let probing = async {
            loop {
                sleep(self.breaker.pause()).await;
                self.breaker.probing();
                self.limits.listeners.tell(LinkState::Probing, self.breaker.last());
                match self.is_well().await {
                    Ok(connection) => break connection,
                    Err(fault) => self.breaker.probed(fault),
                }
                self.limits.listeners.tell(LinkState::Open, self.breaker.last());
            }
        };
        let Some(connection) = stop.run_until_cancelled(probing).await else { return };
        if let Some(slot) = self.reads.slots.first() {
            *slot.lock() = State::Up(Live { connection, health: Arc::default() });
        }
        // First this: what opens it again is told after it.
        self.limits.listeners.tell(LinkState::Closed, self.breaker.last());
        self.breaker.close();
        #[cfg(feature = "tracing")]
        tracing::info!(target: "tower_response_cache::redis", "redis answers again");
    }

    /// A new connection, on which a write was answered. A `PING` is answered by a replica, too.
    async fn is_well(&self) -> Result<MultiplexedConnection, Fault> {
        let mut connection = self.connect().await?;
        let mut command = redis::cmd("SET");
        command.arg(&*self.probe()).arg(1).arg("PX").arg(1000);
        let reply = timeout(self.limits.dial, connection.send_packed_command(&command)).await;
        match reply.map_err(|_| Fault::Timeout)?.map_err(|error| Fault::of_error(&error))? {
            Value::ServerError(error) => match Fault::of_server(&error) {
                fault if fault.is_of_the_link() => Err(fault),
                // It is a replica by now, or has lost the slot.
                Fault::Refused("MOVED") => Err(Fault::Outage("MOVED")),
                // Full, or not ours to write: reads go on.
                _ => Ok(connection),
            },
            _ => Ok(connection),
        }
    }

    /// Gives up all connections. Those being made are kept.
    fn hang_up(&self) {
        for slot in self.reads.slots.iter().chain(&self.bulk.slots) {
            let mut state = slot.lock();
            if matches!(*state, State::Up(_)) {
                *state = State::Down;
            }
        }
    }
}

impl Connections {
    fn pick(&self) -> &Arc<Slot> {
        &self.slots[self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len()]
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the connection, if it is still this one. Says whether it was.
    fn hang_up(&self, health: &Arc<Health>) -> bool {
        let mut state = self.lock();
        let same = matches!(&*state, State::Up(live) if Arc::ptr_eq(&live.health, health));
        if same {
            *state = State::Down;
        }
        same
    }
}

impl Ask<'_> {
    async fn send(&self, connection: &mut MultiplexedConnection) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::One(command) | Self::Script(_, command) => connection.send_packed_command(command).await.map(|reply| vec![reply]),
            Self::All(pipeline) => connection.send_packed_commands(pipeline, 0, pipeline.len()).await,
        }
    }
}
