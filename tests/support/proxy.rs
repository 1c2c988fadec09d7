//! A TCP proxy that does to a link what networks do.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They go through.
    Open,
    /// They go through one at a time.
    Split,
    /// They vanish, and nobody is told.
    BlackHole,
    /// The connection is closed at once.
    Refuse,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    No,
    AfterReply,
    Now,
    Holding,
    HoldingOne,
}

/// Listens on a port of its own and forwards to another.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    target: u16,
    /// For new connections.
    way: Mutex<Way>,
    /// Connections with a lower number are half open: the other end has forgotten them.
    forgotten: watch::Sender<u64>,
    /// Connections with a lower number are reset.
    broken: watch::Sender<u64>,
    /// Bytes that may still go to the server before the connection is cut.
    cut_after: Mutex<Option<usize>>,
    hold: watch::Sender<Hold>,
    /// How many bytes one connection may send to the server before it is held.
    stall_after: AtomicUsize,
    accepted: AtomicU64,
    open: AtomicUsize,
    received: AtomicU64,
    /// How long what arrives is kept before it goes on.
    delay: Mutex<Duration>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            way: Mutex::new(Way::Open),
            forgotten: watch::Sender::new(0),
            broken: watch::Sender::new(0),
            cut_after: Mutex::new(None),
            hold: watch::Sender::new(Hold::No),
            stall_after: AtomicUsize::new(usize::MAX),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            delay: Mutex::default(),
        });
        let accepting = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(forward(Arc::clone(&shared), client, number));
                }
            }
        });
        Self { address, shared, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// How new connections are treated.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, way: Way) {
        *self.shared.way.lock().unwrap() = way;
    }

    /// Leaves all connections that are open now half open. New ones work.
    pub fn forget(&self) {
        self.shared.forgotten.send_replace(self.accepted());
    }

    /// Resets all connections that are open now.
    pub fn reset(&self) {
        self.shared.broken.send_replace(self.accepted());
    }

    /// Keeps everything for so long before it goes on, either way.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// Cuts connections when this many bytes have gone to the server from now on.
    pub fn cut_after(&self, bytes: Option<usize>) {
        *self.shared.cut_after.lock().unwrap() = bytes;
    }

    /// Lets the next reply through, and then holds what goes to the server.
    pub fn hold_after_reply(&self) {
        self.shared.hold.send_replace(Hold::AfterReply);
    }

    /// Holds any one connection that has sent so many bytes to the server.
    pub fn hold_after(&self, bytes: usize) {
        self.shared.stall_after.store(bytes, Ordering::SeqCst);
    }

    /// Waits until something is held.
    pub async fn held(&self) {
        self.shared.hold.subscribe().wait_for(|hold| matches!(hold, Hold::Holding | Hold::HoldingOne)).await.unwrap();
    }

    /// Lets go what is held.
    pub fn release(&self) {
        self.shared.stall_after.store(usize::MAX, Ordering::SeqCst);
        self.shared.hold.send_replace(Hold::No);
    }

    /// Connections that were ever accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes that came from the server.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.broken.send_replace(u64::MAX);
    }
}

async fn forward(shared: Arc<Shared>, client: TcpStream, number: u64) {
    shared.open.fetch_add(1, Ordering::SeqCst);
    let way = *shared.way.lock().unwrap();
    let mut broken = shared.broken.subscribe();
    tokio::select! {
        () = async {
            if way == Way::Refuse {
                drop(client);
            } else if way == Way::BlackHole {
                // Accepts, and hangs.
                swallow(client).await;
            } else if let Ok(server) = TcpStream::connect(("127.0.0.1", shared.target)).await {
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::select! {
                    () = copy(&shared, number, way, from_client, to_server, true) => {}
                    () = copy(&shared, number, way, from_server, to_client, false) => {}
                }
            }
        } => {}
        _ = broken.wait_for(|broken| number < *broken) => {}
    }
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

async fn copy(shared: &Shared, number: u64, way: Way, mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, upwards: bool) {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if number < *shared.forgotten.borrow() {
            continue;
        }
        let delay = *shared.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut bytes = &buffer[..read];
        let mut cut = false;
        if upwards && let Some(left) = shared.cut_after.lock().unwrap().as_mut() {
            cut = bytes.len() >= *left;
            bytes = &bytes[..bytes.len().min(*left)];
            *left -= bytes.len();
        }
        total += bytes.len();
        let is_much = upwards && total >= shared.stall_after.load(Ordering::SeqCst);
        if is_much || upwards && matches!(*shared.hold.borrow(), Hold::Now | Hold::Holding) {
            shared.hold.send_replace(if is_much { Hold::HoldingOne } else { Hold::Holding });
            shared.hold.subscribe().wait_for(|hold| *hold == Hold::No).await.unwrap();
        }
        if !upwards {
            shared.hold.send_if_modified(|hold| {
                let begins = *hold == Hold::AfterReply;
                if begins {
                    *hold = Hold::Now;
                }
                begins
            });
            shared.received.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        let written = match way {
            Way::Split => {
                let mut written = Ok(());
                for byte in bytes {
                    written = written.and(to.write_all(std::slice::from_ref(byte)).await);
                    tokio::task::yield_now().await;
                }
                written
            }
            _ => to.write_all(bytes).await,
        };
        if written.is_err() || cut {
            return;
        }
    }
    // A forgotten connection is not closed either: its end says nothing.
    if number < *shared.forgotten.borrow() {
        std::future::pending::<()>().await;
    }
}

async fn swallow(mut client: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = client.read(&mut buffer).await {}
}
