//! The body of a simulated answer: frames that wait for their time.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// A body whose frames come when they are due. No task feeds it: a dropped body leaves nothing behind.
pub(crate) struct SimBody {
    frames: VecDeque<(Option<Instant>, Bytes)>,
    /// Streams do not tell their length beforehand, as their real makers cannot.
    streamed: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl SimBody {
    /// A body of known length, all there.
    pub(super) fn document(data: Bytes) -> Self {
        Self { frames: VecDeque::from([(None, data)]), streamed: false, sleep: None }
    }

    /// A body of unknown length; each frame with the time at which it is due, if it has to wait.
    pub(super) fn stream(frames: impl IntoIterator<Item = (Option<Instant>, Bytes)>) -> Self {
        Self { frames: frames.into_iter().collect(), streamed: true, sleep: None }
    }
}

impl Body for SimBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some((due, _)) = this.frames.front() else { return Poll::Ready(None) };
        if let Some(due) = *due {
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(this.frames.pop_front().map(|(_, data)| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.streamed {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.frames.iter().map(|(_, data)| data.len() as u64).sum())
    }
}

impl fmt::Debug for SimBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimBody").field("frames", &self.frames.len()).field("streamed", &self.streamed).finish_non_exhaustive()
    }
}
