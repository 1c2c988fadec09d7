//! Word of changes, as they happen: RESP3 client tracking in broadcast mode, on a connection of its own.
//!
//! Redis tells of every key of ours that is written, removed, evicted, or expires. What it tells comes in order with its replies, so an
//! answered `PING` proves that all word from before it was sent has come. A connection that breaks, or does not answer, is made anew.
//!
//! In a Cluster there is a connection to each server that may have a key, and what is proven is what all of them have proven. A server that
//! answers may have been replaced without knowing: in the place of a `PING` it is asked whether it still serves, and which slots it has. When
//! those are not the ones it is known to have, or keys go to a server to which there is no connection yet, nothing is proven until there is.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{Either, join_all, select};
use redis::{AsyncConnectionConfig, Pipeline, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    Redis,
    cluster::{self, Known, Map, Node},
    endpoint::Endpoint,
    names::Names,
    servers::Servers,
};
use crate::key::Key;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Change {
    /// What is under a key.
    Key(Key),
    /// Who makes what is under a key.
    Lease(Key),
    /// Who wants to follow the making of what is under a key.
    Wanted(Key),
    /// What is said while it is made.
    Live(Key),
    /// The epoch of all keys that begin with this byte.
    Bucket(u8),
    /// Everything.
    All,
}

/// Who wants to know. Called on the way of the connection: none of it may take long.
pub(in crate::store) trait Listener: Send + Sync + 'static {
    /// Something changed.
    fn changed(&self, change: Change);
    /// From now on every change is told of.
    fn begun(&self);
    /// All changes from before this instant were told of.
    fn proven(&self, at: Instant);
    /// Changes may go untold from now on.
    fn lost(&self);
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Redis {
    /// Tells the listener of changes, in a task that ends with the store's link. The connection is asked for a sign of life that often,
    /// and has as long to give one.
    pub(in crate::store) fn track(&self, listener: Arc<dyn Listener>, heartbeat: Duration) {
        let inner = &self.inner;
        // Those who wait want to know, too.
        inner.hears.store(true, Ordering::SeqCst);
        let listener = Arc::new(Both { first: Arc::clone(&inner.waiters) as _, second: listener });
        let (names, dial) = (inner.names.clone(), inner.deadlines.connect);
        match &inner.servers {
            Servers::One(link) => {
                let server = Server { endpoint: link.endpoint().clone().in_resp3(), proof: Proof::Answer };
                inner.servers.spawn(async move { follow(&server, &names, dial, heartbeat, &(listener as _)).await });
            }
            Servers::Cluster(cluster) => {
                let cluster = Arc::clone(cluster.shared());
                inner.servers.spawn(async move { follow_all(&cluster, &names, dial, heartbeat, &(listener as _)).await });
            }
        }
    }
}

/// Two who want to know.
struct Both {
    first: Arc<dyn Listener>,
    second: Arc<dyn Listener>,
}

impl Listener for Both {
    fn changed(&self, change: Change) {
        self.first.changed(change);
        self.second.changed(change);
    }

    fn begun(&self) {
        self.first.begun();
        self.second.begun();
    }

    fn proven(&self, at: Instant) {
        self.first.proven(at);
        self.second.proven(at);
    }

    fn lost(&self) {
        self.first.lost();
        self.second.lost();
    }
}

/// Whoever tells of changes.
struct Server {
    endpoint: Endpoint,
    proof: Proof,
}

/// What proves that all word has come.
enum Proof {
    /// That the server answers.
    Answer,
    /// That it serves, and has the slots that it is known to have.
    Claim(Arc<cluster::Shared>, Arc<Node>),
}

async fn follow(server: &Server, names: &Names, dial: Duration, heartbeat: Duration, listener: &Arc<dyn Listener>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let broken = Arc::new(Notify::new());
        if let Ok(Some(connection)) = timeout(dial, begin(&server.endpoint, names, listener, &broken)).await {
            pause = FIRST_PAUSE;
            select(pin!(prove(connection, &server.proof, heartbeat, &**listener)), pin!(broken.notified())).await;
            listener.lost();
        }
        sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Follows all servers of a Cluster, until there are others.
async fn follow_all(cluster: &Arc<cluster::Shared>, names: &Names, dial: Duration, heartbeat: Duration, listener: &Arc<dyn Listener>) {
    let mut known = cluster.known();
    loop {
        let Ok(Some(map)) = known.wait_for(|known| matches!(known, Known::All(_))).await.map(|known| match &*known {
            Known::All(map) => Some(Arc::clone(map)),
            _ => None,
        }) else {
            return;
        };
        let all = Arc::new(Together::new(map.nodes.len(), Arc::clone(listener)));
        let following = map.nodes.iter().enumerate().map(|(place, node)| {
            let server =
                Server { endpoint: node.link.endpoint().clone().in_resp3(), proof: Proof::Claim(Arc::clone(cluster), Arc::clone(node)) };
            let listener: Arc<dyn Listener> = Arc::new(Part { all: Arc::clone(&all), place });
            async move { follow(&server, names, dial, heartbeat, &listener).await }
        });
        let others = async {
            while known.changed().await.is_ok() {
                match &*known.borrow_and_update() {
                    Known::All(now) if now.has_nodes_of(&map) => {}
                    _ => return,
                }
                // Slots are another's by now. Whatever came of their keys since was told of, but for what was lost with a server.
                listener.changed(Change::All);
            }
        };
        if let Either::Left(_) = select(pin!(join_all(following)), pin!(others)).await {
            return;
        }
        listener.lost();
    }
}

/// Word of several servers, as one: it comes if all of it does.
struct Together {
    listener: Arc<dyn Listener>,
    parts: Mutex<Vec<Word>>,
}

/// How it is with one server's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Missing,
    Comes,
    Proven(Instant),
}

struct Part {
    all: Arc<Together>,
    place: usize,
}

impl Together {
    fn new(count: usize, listener: Arc<dyn Listener>) -> Self {
        Self { listener, parts: Mutex::new(vec![Word::Missing; count]) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Word>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// The listener is told under the lock, so that what it is told last is what is true.
impl Listener for Part {
    fn changed(&self, change: Change) {
        self.all.listener.changed(change);
    }

    fn begun(&self) {
        let mut parts = self.all.lock();
        parts[self.place] = Word::Comes;
        if parts.iter().all(|word| *word != Word::Missing) {
            self.all.listener.begun();
        }
    }

    fn proven(&self, at: Instant) {
        let mut parts = self.all.lock();
        parts[self.place] = Word::Proven(at);
        let proofs = parts.iter().map(|word| match word {
            Word::Proven(at) => Some(*at),
            Word::Missing | Word::Comes => None,
        });
        if let Some(Some(oldest)) = proofs.min() {
            self.all.listener.proven(oldest);
        }
    }

    fn lost(&self) {
        let mut parts = self.all.lock();
        parts[self.place] = Word::Missing;
        self.all.listener.lost();
    }
}

/// A connection that is told of changes.
async fn begin(endpoint: &Endpoint, names: &Names, listener: &Arc<dyn Listener>, broken: &Arc<Notify>) -> Option<MultiplexedConnection> {
    let hear = {
        let (names, listener, broken) = (names.clone(), Arc::clone(listener), Arc::clone(broken));
        move |info: PushInfo| {
            match info.kind {
                PushKind::Invalidate => tell(&info.data, &names, &*listener),
                PushKind::Disconnection => broken.notify_one(),
                _ => {}
            }
            Ok::<_, std::convert::Infallible>(())
        }
    };
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None).set_push_sender(hear);
    let mut connection = endpoint.connect(&config).await.ok()?;
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(names.tracked());
    matches!(connection.send_packed_command(&command).await, Ok(Value::Okay)).then_some(connection)
}

fn tell(data: &[Value], names: &Names, listener: &dyn Listener) {
    for value in data {
        match value {
            Value::Array(changed) => {
                for name in changed {
                    let Value::BulkString(name) = name else { continue };
                    if let Some(key) = names.parse(name) {
                        listener.changed(Change::Key(key));
                    } else if let Some(key) = names.parse_lease(name) {
                        listener.changed(Change::Lease(key));
                    } else if let Some(key) = names.parse_live(name) {
                        listener.changed(Change::Live(key));
                    } else if let Some(key) = names.parse_wanted(name) {
                        listener.changed(Change::Wanted(key));
                    } else if let Some(bucket) = names.parse_epoch(name) {
                        listener.changed(Change::Bucket(bucket));
                    }
                }
            }
            // The whole database was flushed.
            _ => listener.changed(Change::All),
        }
    }
}

/// Returns when the connection gives no sign of life any more.
async fn prove(mut connection: MultiplexedConnection, proof: &Proof, heartbeat: Duration, listener: &dyn Listener) {
    let mut comes = false;
    loop {
        let sent = Instant::now();
        match timeout(heartbeat, proof.is_given(&mut connection)).await {
            Ok(Some(true)) => {
                if !comes {
                    comes = true;
                    listener.begun();
                }
                listener.proven(sent);
            }
            Ok(Some(false)) => {
                if comes {
                    comes = false;
                    listener.lost();
                }
            }
            _ => return,
        }
        sleep(heartbeat).await;
    }
}

impl Proof {
    /// `None` if there is no answer.
    async fn is_given(&self, connection: &mut MultiplexedConnection) -> Option<bool> {
        match self {
            Self::Answer => match connection.send_packed_command(&redis::cmd("PING")).await {
                Ok(Value::SimpleString(_)) => Some(true),
                _ => None,
            },
            Self::Claim(cluster, node) => {
                let mut pipeline = Pipeline::with_capacity(2);
                // One that is cut off from the others says of this that the Cluster is down.
                pipeline.cmd("GET").arg(node.link.probe()).add_command(cluster::nodes_command());
                let replies = connection.send_packed_commands(&pipeline, 0, 2).await.ok()?;
                let serves = !matches!(replies.first(), None | Some(Value::ServerError(_)));
                let agrees = |map: &Map| replies.get(1).and_then(cluster::claim_of).is_some_and(|claim| map.agrees(node, &claim));
                let is_given = serves && cluster.map_now().is_some_and(|map| agrees(&map));
                if !is_given {
                    cluster.doubt();
                }
                Some(is_given)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Heard {
        fn note(&self, word: String) {
            self.0.lock().unwrap().push(word);
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Listener for Heard {
        fn changed(&self, change: Change) {
            self.note(format!("{change:?}"));
        }

        fn begun(&self) {
            self.note("begun".into());
        }

        fn proven(&self, at: Instant) {
            self.note(format!("{at:?}"));
        }

        fn lost(&self) {
            self.note("lost".into());
        }
    }

    #[test]
    fn what_is_proven_is_what_all_servers_have_proven() {
        let heard = Arc::new(Heard::default());
        let all = Arc::new(Together::new(2, Arc::clone(&heard) as _));
        let [one, other] = [0, 1].map(|place| Part { all: Arc::clone(&all), place });
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        one.begun();
        one.proven(later);
        assert_eq!(heard.take(), [""; 0], "the other has not begun");
        other.changed(Change::Bucket(1));
        other.begun();
        assert_eq!(heard.take(), ["Bucket(1)", "begun"]);
        one.proven(later);
        assert_eq!(heard.take(), [""; 0], "the other has proven nothing");
        other.proven(now);
        assert_eq!(heard.take(), [format!("{now:?}")], "no more than both");
        one.lost();
        other.proven(later);
        assert_eq!(heard.take(), ["lost"]);
        one.begun();
        other.proven(later);
        assert_eq!(heard.take(), ["begun"], "what was proven before counts no more");
        one.proven(later);
        assert_eq!(heard.take(), [format!("{later:?}")]);
    }
}
