//! Single flight: identical requests that are under way at the same time share one upstream call.
//!
//! A flight is the call for one key. The first to [join](Flights::join) leads it, the others follow, until it lands or is given up.
//! Keys whose answers turned out not to be storable, or to fail, are remembered for a short while: requests for them do not queue behind
//! one another but go upstream in parallel ("hit-for-miss").

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, StatusCode, Version};
use tokio::{
    sync::{Notify, watch},
    time,
};

use crate::{
    body::tape::Tape,
    entry::{Entry, Lifetime},
    key::Key,
    observe::Tab,
    store::{Generation, Token},
};

const SHARDS: usize = 64;

/// How long a request waits for an answer that has been read to its end to be stored. The deadlines of stores are shorter; an upstream can take
/// its time to end a body that has all its bytes.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// For how long the word of another process is good for those who come.
const GOOD_FOR: Duration = Duration::from_millis(100);

/// How many declined keys a shard remembers.
const DECLINED: usize = 256;

/// How long a key counts as declined.
const DECLINED_FOR: Duration = Duration::from_secs(5);

/// All flights of a cache.
pub(crate) struct Flights {
    shards: [Mutex<Shard>; SHARDS],
    /// How many flights ended with something stored.
    landed: [AtomicU64; SHARDS],
}

#[derive(Default)]
struct Shard {
    flights: HashMap<Key, Arc<Flight>>,
    /// Closed when the answer of a call that nobody could join is stored, or is not going to be.
    settling: HashMap<Key, watch::Receiver<()>>,
    declined: HashMap<Key, Instant>,
}

/// How many flights had landed before a look-up. See [`Flights::join`].
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    shard: usize,
    landed: u64,
}

/// What a request is to do about its miss.
pub(crate) enum Role {
    /// Make the call, for all.
    Lead(Lead),
    /// Wait for the call that is being made.
    Follow(Ticket),
    /// Make a call of one's own.
    Alone,
    /// Look up again: an answer was stored since.
    LookAgain,
}

impl Flights {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), landed: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// To be taken before a look-up, and shown to [`join`](Self::join) after it.
    pub(crate) fn mark(&self, key: &Key) -> Mark {
        let shard = index(key);
        Mark { shard, landed: self.landed[shard].load(Ordering::SeqCst) }
    }

    /// Joins the flight for a key, or starts it. If an answer was stored between the look-up that missed and now, there may be
    /// no flight any more and yet no reason for another: with `mark`, the caller is then told to look again.
    ///
    /// Who has `seen` another generation of the store than one that is part of a fleet comes after an invalidation, or after another answer: it parts that from
    /// those who come later, and starts anew. So does one who comes when the process that is followed has said nothing for a moment: it may be dead. If it is
    /// not, the flight is [reopened](Lead::reopen). Where it is not known yet who makes the answer, they are aboard, which is [remembered](Lead::is_by_another).
    pub(crate) fn join(self: &Arc<Self>, key: &Key, mark: Option<Mark>, despite_declined: bool, seen: Option<Generation>) -> Role {
        let mut shard = self.shard(key);
        let mut silent = Weak::new();
        if let Some(flight) = shard.flights.get(key) {
            match (flight.generation.get(), seen) {
                (Some(generation), Some(seen)) if *generation != seen => drop(shard.flights.remove(key)),
                _ if flight.is_silent() => {
                    silent = Arc::downgrade(flight);
                    shard.flights.remove(key);
                }
                (None, Some(_)) if flight.seen.is_some() && flight.seen != seen => {
                    flight.is_mixed.store(true, Ordering::SeqCst);
                    return Role::Follow(Ticket::new(flight));
                }
                _ => return Role::Follow(Ticket::new(flight)),
            }
        }
        // Landing is counted before the flight leaves the table.
        if mark.is_some_and(|mark| mark.landed != self.landed[mark.shard].load(Ordering::SeqCst)) {
            return Role::LookAgain;
        }
        if !despite_declined && let Some(until) = shard.declined.get(key) {
            if Instant::now() < *until {
                return Role::Alone;
            }
            shard.declined.remove(key);
        }
        let flight = Arc::new(Flight::new(seen));
        shard.flights.insert(*key, Arc::clone(&flight));
        Role::Lead(Lead { flights: Arc::clone(self), joinable: true, settling: OnceLock::new(), key: *key, flight, silent })
    }

    /// A flight that nobody else can join.
    pub(crate) fn alone(self: &Arc<Self>, key: &Key) -> Lead {
        let flight = Arc::new(Flight::new(None));
        Lead { flights: Arc::clone(self), joinable: false, settling: OnceLock::new(), key: *key, flight, silent: Weak::new() }
    }

    /// Whoever has read a response to its end is to find it stored. Returns what to wait for if an answer is being stored that nobody could join.
    pub(crate) fn settling(&self, key: &Key) -> Option<watch::Receiver<()>> {
        self.shard(key).settling.get(key).cloned()
    }

    /// Parts the flight for a key, if there is one, from those who come later: they start anew. Those aboard stay.
    pub(crate) fn detach(&self, key: &Key) {
        self.shard(key).flights.remove(key);
    }

    /// [Detaches](Self::detach) all flights.
    pub(crate) fn detach_all(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).flights.clear();
        }
    }

    /// Remembers that requests for a key had better not wait for one another.
    pub(crate) fn decline(&self, key: &Key) {
        let now = Instant::now();
        let mut shard = self.shard(key);
        if shard.declined.len() >= DECLINED {
            shard.declined.retain(|_, until| now < *until);
        }
        if shard.declined.len() < DECLINED {
            shard.declined.insert(*key, now + DECLINED_FOR);
        }
    }

    /// Something was stored under a key, which a look-up finds by way of `primary`.
    pub(crate) fn landed(&self, primary: &Key, key: &Key) {
        self.landed[index(primary)].fetch_add(1, Ordering::SeqCst);
        self.shard(key).declined.remove(key);
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        self.shards[index(key)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(key: &Key) -> usize {
    usize::try_from(key.shard_bits() % SHARDS as u64).unwrap_or_default()
}

/// One upstream call.
pub(crate) struct Flight {
    state: watch::Sender<State>,
    /// Who waits for it or reads from it.
    interest: AtomicUsize,
    abandoned: Notify,
    /// What its leader saw of the store.
    seen: Option<Generation>,
    /// Others who are aboard saw something else, and perhaps later: an answer that was begun elsewhere before they came may be none to them.
    is_mixed: AtomicBool,
    /// What its leader saw of a store that other processes share: they may invalidate what is under way here, and nobody here is told.
    generation: OnceLock<Generation>,
    /// The process that is followed, if another makes the answer.
    followed: OnceLock<Followed>,
}

/// Another process, as it is heard of.
struct Followed {
    token: Token,
    /// When it said something last; `None` if it is over, or all was said.
    heard: Mutex<Option<time::Instant>>,
}

/// How far a flight is.
#[derive(Clone)]
pub(crate) enum State {
    /// No response yet.
    Pending,
    /// The response is on its way.
    Streaming(Arc<Live>),
    /// The stored response still holds, as freshened.
    Freshened(Arc<Entry>),
    /// There is nothing to be had.
    Ended(Ended),
}

/// The head of a response, without what belongs to one connection.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

/// A response that is on its way to several readers.
pub(crate) struct Live {
    pub(crate) head: Head,
    pub(crate) tape: Arc<Tape>,
    /// If it answers only some of those who wait: by which request fields, and with which key.
    pub(crate) vary: Option<(Vec<HeaderName>, Key)>,
    /// How long it lives once it is stored; `None` if it is not going to be.
    pub(crate) lifetime: Option<Lifetime>,
    /// For what the call cost.
    pub(crate) tab: Arc<Tab>,
    /// Does another process make it?
    pub(crate) elsewhere: bool,
}

/// Why a flight ended with nothing for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The call failed, panicked, or was cancelled: another may succeed.
    Failed,
    /// The answer is for the one who asked: every one must ask.
    NotShared,
    /// Another process made the answer: look again.
    Elsewhere,
}

impl Flight {
    fn new(seen: Option<Generation>) -> Self {
        Self {
            seen,
            is_mixed: AtomicBool::new(false),
            state: watch::Sender::new(State::Pending),
            interest: AtomicUsize::new(0),
            abandoned: Notify::new(),
            generation: OnceLock::new(),
            followed: OnceLock::new(),
        }
    }

    /// May the process that is followed be dead?
    fn is_silent(&self) -> bool {
        let heard = self.followed.get().and_then(|followed| *followed.heard());
        heard.is_some_and(|heard| heard.elapsed() > GOOD_FOR)
    }

    /// Nothing more is expected of it.
    fn is_heard_out(&self) {
        if let Some(followed) = self.followed.get() {
            *followed.heard() = None;
        }
    }

    /// Waits until there is a response, or no hope for one.
    pub(crate) async fn outcome(&self) -> State {
        let mut state = self.state.subscribe();
        // The sender lives as long as the flight.
        state.wait_for(|state| !matches!(state, State::Pending)).await.map_or(State::Ended(Ended::Failed), |state| state.clone())
    }

    /// Does anyone wait for it or read from it?
    pub(crate) fn is_wanted(&self) -> bool {
        self.interest.load(Ordering::SeqCst) > 0
    }

    /// Returns once the last of those who wanted it has left; check [`is_wanted`](Self::is_wanted) then, for another may have come.
    pub(crate) async fn abandoned(&self) {
        self.abandoned.notified().await;
    }
}

impl Followed {
    fn heard(&self) -> MutexGuard<'_, Option<time::Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who makes the call. Dropped before it said how it ended, the flight has failed.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    joinable: bool,
    /// The flight that was parted from those who come, for it follows a process that may be dead. What it has read is not kept for this.
    silent: Weak<Flight>,
    /// Dropped with this, when all is over.
    settling: OnceLock<watch::Sender<()>>,
    key: Key,
    flight: Arc<Flight>,
}

impl Lead {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The answer is made for all processes that share a store.
    pub(crate) fn is_of(&self, generation: Generation) {
        self.flight.generation.get_or_init(|| generation);
    }

    /// The answer is made by another process. Says whether it is one to all aboard: who came while we waited for it may have come after an invalidation.
    pub(crate) fn is_by_another(&self, generation: Generation) -> bool {
        // Whoever joins does so under this lock.
        let _shard = self.flights.shard(&self.key);
        self.is_of(generation);
        !self.flight.is_mixed.load(Ordering::SeqCst)
    }

    /// The process with this token, which makes the answer, said something now. Once nothing more is expected, that stays so: what nobody can join any more is not
    /// to be [reopened](Self::reopen).
    pub(crate) fn heard(&self, token: Token) {
        let now = time::Instant::now();
        let followed = self.flight.followed.get_or_init(|| Followed { token, heard: Mutex::new(Some(now)) });
        if let Some(heard) = &mut *followed.heard() {
            *heard = now;
        }
    }

    /// It has said all there is.
    pub(crate) fn heard_all(&self) {
        self.flight.is_heard_out();
    }

    /// The process with this token lives. If the flight that was parted from those who come follows it, that takes the place of this one, and whoever is here had
    /// better join that.
    pub(crate) fn reopen(&self, token: Token) -> bool {
        let Some(silent) = self.silent.upgrade() else { return false };
        let Some(followed) = silent.followed.get().filter(|followed| followed.token == token) else { return false };
        // Under this lock it ends.
        let mut shard = self.flights.shard(&self.key);
        let mut heard = followed.heard();
        let Some(flight) = shard.flights.get_mut(&self.key).filter(|flight| Arc::ptr_eq(flight, &self.flight) && heard.is_some()) else {
            return false;
        };
        *flight = Arc::clone(&silent);
        *heard = Some(time::Instant::now());
        true
    }

    /// Can others join?
    pub(crate) fn is_joinable(&self) -> bool {
        self.joinable
    }

    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket::new(&self.flight)
    }

    /// Shows those who wait the response.
    pub(crate) fn publish(&self, state: State) {
        self.flight.state.send_replace(state);
    }

    /// Nobody may join any more; those aboard stay.
    pub(crate) fn close(&self) {
        if self.joinable {
            self.leave(&mut self.flights.shard(&self.key));
        }
    }

    /// The response is about to end, and to be stored. See [`Flights::settling`]; who can join need not wait.
    pub(crate) fn settle(&self) {
        if !self.joinable {
            self.settling.get_or_init(|| {
                let (settling, settled) = watch::channel(());
                self.flights.shard(&self.key).settling.insert(self.key, settled);
                settling
            });
        }
    }

    /// As [`close`](Self::close), and says whether it happened: it does not while anyone wants the flight.
    pub(crate) fn close_if_unwanted(&self) -> bool {
        if self.flight.is_wanted() {
            return false;
        }
        // Whoever joins does so under this lock.
        let mut shard = self.flights.shard(&self.key);
        if self.flight.is_wanted() {
            return false;
        }
        self.leave(&mut shard);
        true
    }

    /// Tells those who wait that there is nothing to be had.
    pub(crate) fn end(&self, why: Ended) {
        self.close();
        self.publish(State::Ended(why));
    }

    /// Takes the flight off the table, unless another has taken its place there.
    fn leave(&self, shard: &mut Shard) {
        self.flight.is_heard_out();
        if shard.flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            shard.flights.remove(&self.key);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.close();
        if let Some(settling) = self.settling.take() {
            let mut shard = self.flights.shard(&self.key);
            // Another may have taken its place.
            if shard.settling.get(&self.key).is_some_and(|settled| settled.same_channel(&settling.subscribe())) {
                shard.settling.remove(&self.key);
            }
        }
        self.flight.state.send_if_modified(|state| {
            let pending = matches!(state, State::Pending);
            if pending {
                *state = State::Ended(Ended::Failed);
            }
            pending
        });
    }
}

/// The interest of one caller in a flight, from the moment it joined until it has read the response or left.
pub(crate) struct Ticket {
    flight: Arc<Flight>,
}

impl Ticket {
    pub(crate) fn new(flight: &Arc<Flight>) -> Self {
        flight.interest.fetch_add(1, Ordering::SeqCst);
        Self { flight: Arc::clone(flight) }
    }

    /// Waits until there is a response, or no hope for one.
    pub(crate) async fn outcome(&self) -> State {
        self.flight.outcome().await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.flight.interest.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.flight.abandoned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token([1; 16]);

    #[tokio::test(start_paused = true)]
    async fn what_others_can_no_longer_join_is_not_reopened_whatever_is_heard_of_it() {
        for (number, is_closed) in [false, true].into_iter().enumerate() {
            let (flights, key) = (Arc::new(Flights::new()), Key::from_bytes([number as u8; 32]));
            let lead = || match flights.join(&key, None, false, None) {
                Role::Lead(lead) => lead,
                _ => panic!("there is a flight"),
            };
            let silent = lead();
            silent.heard(TOKEN);
            time::advance(2 * GOOD_FOR).await;
            let newcomer = lead();
            if is_closed {
                silent.close();
            }
            silent.heard(TOKEN);
            assert!(!newcomer.reopen(Token([2; 16])), "another is followed");
            assert_eq!(newcomer.reopen(TOKEN), !is_closed);
        }
    }
}
