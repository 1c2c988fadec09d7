//! Word of changes, as they happen: RESP3 client tracking in broadcast mode, on a connection of its own.
//!
//! Redis tells of every key of ours that is written, removed, evicted, or expires. What it tells comes in order with its replies, so an
//! answered `PING` proves that all word from before it was sent has come. A connection that breaks, or does not answer, is made anew.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::select;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{Redis, endpoint::Endpoint, names::Names};
use crate::key::Key;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Change {
    /// What is under a key.
    Key(Key),
    /// Who makes what is under a key.
    Lease(Key),
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
        let following = follow(inner.tracking.clone(), inner.names.clone(), inner.deadlines.connect, heartbeat, listener);
        inner.servers.spawn(following);
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

async fn follow(endpoint: Endpoint, names: Names, dial: Duration, heartbeat: Duration, listener: Arc<dyn Listener>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let broken = Arc::new(Notify::new());
        if let Ok(Some(connection)) = timeout(dial, begin(&endpoint, &names, &listener, &broken)).await {
            listener.begun();
            pause = FIRST_PAUSE;
            select(pin!(prove(connection, heartbeat, &*listener)), pin!(broken.notified())).await;
            listener.lost();
        }
        sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
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
async fn prove(mut connection: MultiplexedConnection, heartbeat: Duration, listener: &dyn Listener) {
    let ping = redis::cmd("PING");
    loop {
        let sent = Instant::now();
        match timeout(heartbeat, connection.send_packed_command(&ping)).await {
            Ok(Ok(Value::SimpleString(_))) => listener.proven(sent),
            _ => return,
        }
        sleep(heartbeat).await;
    }
}
