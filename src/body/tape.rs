//! The tape: what one upstream call says, for as many readers as there are, while it says it.
//!
//! One writer appends frames; every reader goes through them from frame 0 at its own pace. As long as the response may be stored, all
//! frames are kept. Once it is too long for that, the tape keeps only a window: the writer waits for readers, and a reader that holds up
//! others for too long is cut off with an error.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::SizeHint;

use crate::error::BoxError;

/// Frames up to this size are copied: a small frame can keep a large read buffer alive.
const COPY_BELOW: usize = 2048;

/// What a frame takes besides its bytes: its handle in the queue, and its allocation.
pub(crate) const PER_FRAME: usize = 64;

/// How many bytes a tape holds back for its slowest reader once it keeps only a window.
const WINDOW: usize = 1 << 20;

/// How many when all tapes together hold more than they may: no more than a connection buffers anyway.
const NARROW_WINDOW: usize = 64 << 10;

/// The bytes that all tapes of a cache may hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    /// Counts so many bytes as held, until they are given back. Is there room for them?
    pub(crate) fn take(&self, len: usize) -> bool {
        self.held.fetch_add(len, Ordering::Relaxed) + len <= self.limit
    }

    fn window(&self) -> usize {
        if self.held.load(Ordering::Relaxed) > self.limit { NARROW_WINDOW } else { WINDOW }
    }

    pub(crate) fn give_back(&self, len: usize) {
        self.held.fetch_sub(len, Ordering::Relaxed);
    }
}

pub(crate) struct Tape {
    state: Mutex<State>,
    /// What the framing of the upstream's response promises.
    promised: SizeHint,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct State {
    /// Frames from `base` on.
    frames: VecDeque<Bytes>,
    base: usize,
    held: usize,
    windowed: bool,
    end: Option<End>,
    readers: Vec<Option<Place>>,
    /// Places of readers that left.
    free: Vec<usize>,
    writer: Option<Waker>,
}

impl State {
    /// Where the writer is.
    fn last(&self) -> usize {
        self.base + self.frames.len()
    }

    /// Where the readers are that were not cut off.
    fn current(&self) -> impl Iterator<Item = &Place> {
        self.readers.iter().flatten().filter(|place| !place.cut)
    }

    fn slowest(&self) -> Option<usize> {
        self.current().map(|place| place.at).min()
    }
}

#[derive(Clone)]
enum End {
    Clean(Option<HeaderMap>),
    Failed(SharedError),
}

/// Where a reader is.
struct Place {
    at: usize,
    cut: bool,
    /// Cut off rather than waited for.
    yields: bool,
    waker: Option<Waker>,
}

/// The one who appends. Dropped before the end, it ends the tape with an error.
pub(crate) struct Writer {
    tape: Arc<Tape>,
}

/// One who goes through it.
pub(crate) struct Reader {
    tape: Arc<Tape>,
    slot: usize,
    read: u64,
    done: bool,
}

/// What a reader reads.
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Failed(BoxError),
}

impl Tape {
    pub(crate) fn new(promised: SizeHint, budget: Arc<Budget>) -> (Writer, Arc<Self>) {
        let tape = Arc::new(Self { state: Mutex::default(), promised, budget });
        (Writer { tape: Arc::clone(&tape) }, tape)
    }

    /// A reader from frame 0; `None` if that is gone.
    pub(crate) fn read(self: &Arc<Self>) -> Option<Reader> {
        self.read_as(false)
    }

    /// A reader from frame 0 that nobody ever waits for: once the tape keeps only a window, it is cut off.
    pub(crate) fn read_along(self: &Arc<Self>) -> Option<Reader> {
        self.read_as(true)
    }

    /// What the framing of the upstream's response promises.
    pub(crate) fn promised(&self) -> Option<u64> {
        self.promised.exact()
    }

    fn read_as(self: &Arc<Self>, yields: bool) -> Option<Reader> {
        let mut state = self.lock();
        if state.base > 0 || yields && state.windowed {
            return None;
        }
        let place = Some(Place { at: 0, cut: false, yields, waker: None });
        let slot = state.free.pop().unwrap_or(state.readers.len());
        if slot == state.readers.len() {
            state.readers.push(place);
        } else {
            state.readers[slot] = place;
        }
        Some(Reader { tape: Arc::clone(self), slot, read: 0, done: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        let held = self.lock().held;
        self.budget.give_back(held);
    }
}

impl Writer {
    /// Appends a frame. Says whether the tape still keeps all frames; if not, the response cannot be stored from it.
    pub(crate) fn push(&self, data: Bytes) -> bool {
        let data = if data.len() < COPY_BELOW { Bytes::copy_from_slice(&data) } else { data };
        let cost = data.len() + PER_FRAME;
        let within = self.tape.budget.take(cost);
        let mut state = self.tape.lock();
        state.held += cost;
        state.frames.push_back(data);
        state.windowed |= !within;
        self.trim(&mut state);
        let windowed = state.windowed;
        wake(state);
        !windowed
    }

    /// Keeps only a window from now on.
    pub(crate) fn window(&self) {
        let mut state = self.tape.lock();
        state.windowed = true;
        self.trim(&mut state);
    }

    /// Is there room for another frame without waiting?
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.tape.lock();
        self.trim(&mut state);
        !state.windowed || state.held < self.tape.budget.window()
    }

    /// Ready when there is room for another frame: always, unless only a window is kept.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.tape.lock();
        self.trim(&mut state);
        if !state.windowed || state.held < self.tape.budget.window() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// How many frames there were until now.
    pub(crate) fn count(&self) -> usize {
        self.tape.lock().last()
    }

    /// Have all readers read so many frames?
    pub(crate) fn is_read_to(&self, count: usize) -> bool {
        self.tape.lock().slowest().is_none_or(|slowest| slowest >= count)
    }

    /// Cuts off the slowest readers, if they have not read so many frames, and others have read all there is.
    pub(crate) fn cut_laggards(&self, count: usize) {
        let mut state = self.tape.lock();
        let fastest = state.current().map(|place| place.at).max();
        let Some(slowest) = state.slowest().filter(|slowest| *slowest < count && fastest == Some(state.last())) else { return };
        for place in state.readers.iter_mut().flatten().filter(|place| place.at == slowest) {
            place.cut = true;
        }
        self.trim(&mut state);
        wake(state);
    }

    /// How long the body will be, if its framing says so.
    pub(crate) fn promised(&self) -> Option<u64> {
        self.tape.promised.exact()
    }

    /// Ends the tape. Its frames are held, and count, until the writer is dropped: as long as they are written to the store.
    pub(crate) fn finish(&self, trailers: Option<HeaderMap>) {
        self.end(End::Clean(trailers));
    }

    pub(crate) fn fail(self, error: BoxError) {
        self.end(End::Failed(SharedError(Arc::from(error))));
    }

    /// All frames so far; `None` if some are gone.
    pub(crate) fn frames(&self) -> Option<Vec<Bytes>> {
        let state = self.tape.lock();
        (state.base == 0 && !state.windowed).then(|| state.frames.iter().cloned().collect())
    }

    fn end(&self, end: End) {
        let mut state = self.tape.lock();
        if state.end.is_none() {
            state.end = Some(end);
            wake(state);
        }
    }

    /// Drops what every reader has read, if only a window is kept.
    fn trim(&self, state: &mut State) {
        if !state.windowed {
            return;
        }
        for place in state.readers.iter_mut().flatten() {
            place.cut |= place.yields;
        }
        let slowest = state.slowest().unwrap_or(state.last());
        while state.base < slowest {
            let Some(frame) = state.frames.pop_front() else { break };
            state.base += 1;
            let cost = frame.len() + PER_FRAME;
            state.held -= cost;
            self.tape.budget.give_back(cost);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(End::Failed(SharedError(Arc::from(BoxError::from("the upstream call was given up before its response ended")))));
    }
}

/// Wakes all readers, outside of the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    // The common case, one reader, takes no allocation.
    let mut first = None;
    let mut others = Vec::new();
    for waker in state.readers.iter_mut().flatten().filter_map(|place| place.waker.take()) {
        match first {
            None => first = Some(waker),
            Some(_) => others.push(waker),
        }
    }
    drop(state);
    first.into_iter().chain(others).for_each(Waker::wake);
}

impl Reader {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        if self.done {
            return Poll::Ready(None);
        }
        let mut guard = self.tape.lock();
        let state = &mut *guard;
        let Some(Some(place)) = state.readers.get_mut(self.slot) else { return Poll::Ready(None) };
        if place.cut {
            self.done = true;
            return Poll::Ready(Some(Step::Failed("this reader was too slow for a response too long to keep".into())));
        }
        if let Some(frame) = state.frames.get(place.at - state.base) {
            let frame = frame.clone();
            place.at += 1;
            self.read += frame.len() as u64;
            if let Some(writer) = state.writer.take() {
                drop(guard);
                writer.wake();
            }
            return Poll::Ready(Some(Step::Data(frame)));
        }
        match &state.end {
            None => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(end) => {
                self.done = true;
                Poll::Ready(match end {
                    End::Clean(trailers) => trailers.clone().map(Step::Trailers),
                    End::Failed(error) => Some(Step::Failed(Box::new(error.clone()))),
                })
            }
        }
    }

    /// Has it read all there will ever be?
    pub(crate) fn is_end(&self) -> bool {
        if self.done {
            return true;
        }
        let state = self.tape.lock();
        let Some(Some(place)) = state.readers.get(self.slot) else { return true };
        place.at == state.last() && matches!(state.end, Some(End::Clean(None)))
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.tape.promised.exact() {
            Some(all) => SizeHint::with_exact(all.saturating_sub(self.read)),
            None => SizeHint::new(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.tape.lock();
        state.readers[self.slot] = None;
        state.free.push(self.slot);
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

/// One error of the upstream's body, for every reader.
#[derive(Clone)]
struct SharedError(Arc<dyn std::error::Error + Send + Sync>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
