use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use super::{Event, FillRecord, Observer, RequestRecord};

/// Hands copies of records to a consumer of one's own, who takes its time: requests never wait for it, and its panics are its own.
///
/// ```
/// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, observe::{Channel, Told}, store::Memory};
///
/// # async fn run() {
/// let (channel, mut records) = Channel::new(1024);
/// let layer = CacheLayer::new(Memory::new(64 << 20), ApiPolicy::new(Sharing::Shared)).observer(channel);
/// tokio::spawn(async move {
///     while let Some(told) = records.next().await {
///         if let Told::Request(record) = told {
///             println!("{} {:?}", record.outcome.label(), record.billed);
///         }
///     }
/// });
/// # let _ = layer;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Channel {
    sender: mpsc::Sender<Told>,
    dropped: Arc<AtomicU64>,
}

/// The other end of a [`Channel`].
#[derive(Debug)]
pub struct Records {
    receiver: mpsc::Receiver<Told>,
    dropped: Arc<AtomicU64>,
}

/// What was told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Told {
    /// A request ended.
    Request(Box<RequestRecord>),
    /// An upstream call ended.
    Fill(Box<FillRecord>),
}

impl Channel {
    /// A channel in which `capacity` records can wait, at least 1. While it is full, further ones are dropped, and counted.
    pub fn new(capacity: usize) -> (Self, Records) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let dropped = Arc::<AtomicU64>::default();
        (Self { sender, dropped: Arc::clone(&dropped) }, Records { receiver, dropped })
    }

    /// How many records were dropped, because the channel was full or its other end gone.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl Observer for Channel {
    fn on_event(&self, event: &Event<'_>) {
        if !matches!(event, Event::Request(_) | Event::Fill(_)) {
            return;
        }
        // Nothing is copied where there is no room.
        let Ok(place) = self.sender.try_reserve() else {
            self.dropped.fetch_add(1, Relaxed);
            return;
        };
        match event {
            Event::Request(record) => place.send(Told::Request(Box::new((*record).clone()))),
            Event::Fill(record) => place.send(Told::Fill(Box::new((*record).clone()))),
            Event::Trouble(_) | Event::Link(_) => {}
        }
    }
}

impl Records {
    /// The next record; `None` once the cache and all its clones are gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Told> {
        self.receiver.recv().await
    }

    /// How many records wait to be read.
    pub fn waiting(&self) -> usize {
        self.receiver.len()
    }

    /// How many records were dropped, because the channel was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}
