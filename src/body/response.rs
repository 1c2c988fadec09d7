use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    request::{before_trailers, poll_bytes},
    tape::{Reader, Step},
};
use crate::{
    entry::{Entry, Frames, Lifetime, Metadata},
    error::BoxError,
    flight::Ticket,
    observe::{Ending, Recorder},
};

pin_project! {
    /// The response body as the caller receives it: the inner service's own, or from the store, or from an upstream call as it speaks.
    ///
    /// An error of the inner body is passed on; it is shared between all callers of one upstream call, so it arrives boxed.
    /// The cache adds no errors but these: the upstream call was given up (its task panicked, the cache shut down, or the process that made it is
    /// gone); the body is not as long as its `content-length` says; and this reader held up others on a response too long to keep.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
        recorder: Option<Recorder>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Pass { #[pin] body: B },
        Stored { entry: Arc<Entry>, next: usize, left: u64 },
        Reading { reader: Reader, ticket: Ticket },
        Empty,
    }
}

impl<B> ResponseBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    pub(crate) fn pass(body: B, recorder: Recorder) -> Self {
        Self::of(Kind::Pass { body }, recorder)
    }

    pub(crate) fn stored(entry: Arc<Entry>, recorder: Recorder) -> Self {
        let left = entry.body.len() as u64;
        Self::of(Kind::Stored { entry, next: 0, left }, recorder)
    }

    /// Another body than the stored one: a part of it, or none.
    pub(crate) fn part(body: Frames, lifetime: Lifetime, recorder: Recorder) -> Self {
        if body.is_empty() {
            return Self::empty(recorder);
        }
        let (status, headers, trailers) = (StatusCode::OK, HeaderMap::new(), None);
        Self::stored(Arc::new(Entry { status, headers, body, trailers, lifetime, metadata: Metadata::default() }), recorder)
    }

    pub(crate) fn reading(reader: Reader, ticket: Ticket, recorder: Recorder) -> Self {
        Self::of(Kind::Reading { reader, ticket }, recorder)
    }

    pub(crate) fn empty(recorder: Recorder) -> Self {
        Self::of(Kind::Empty, recorder)
    }

    fn of(kind: Kind<B>, recorder: Recorder) -> Self {
        let mut body = Self { kind, recorder: Some(recorder) };
        body.end_if_over();
        body
    }

    /// Whoever reads may stop polling once it is told that nothing more comes.
    fn end_if_over(&mut self) {
        if self.kind.is_over()
            && let Some(mut recorder) = self.recorder.take()
        {
            recorder.end(Ending::Complete);
        }
    }
}

impl<B> Kind<B>
where
    B: Body,
{
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pass { body } => body.is_end_stream(),
            Self::Stored { entry, next, .. } => *next >= entry.body.count() + usize::from(entry.trailers.is_some()),
            Self::Reading { reader, .. } => reader.is_end(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pass { body } => body.size_hint(),
            Self::Stored { entry, left, .. } if entry.trailers.is_some() => before_trailers(*left),
            Self::Stored { left, .. } => SizeHint::with_exact(*left),
            Self::Reading { reader, .. } => reader.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }

    fn is_over(&self) -> bool {
        self.is_end_stream() || self.size_hint().exact() == Some(0)
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let frame = match this.kind.as_mut().project() {
            KindProjection::Pass { body } => ready!(poll_bytes(body, cx)),
            KindProjection::Stored { entry, next, left } => {
                let frame = match entry.body.as_slice().get(*next) {
                    Some(chunk) => {
                        *left -= chunk.len() as u64;
                        Some(Frame::data(chunk.clone()))
                    }
                    None if *next == entry.body.count() => entry.trailers.clone().map(Frame::trailers),
                    None => None,
                };
                *next += 1;
                frame.map(Ok)
            }
            KindProjection::Reading { reader, .. } => ready!(reader.poll_next(cx)).map(|step| match step {
                Step::Data(data) => Ok(Frame::data(data)),
                Step::Trailers(trailers) => Ok(Frame::trailers(trailers)),
                Step::Failed(error) => Err(error),
            }),
            KindProjection::Empty => None,
        };
        if let Some(recorder) = this.recorder.as_mut() {
            let ending = match &frame {
                Some(Ok(frame)) => {
                    recorder.frame(frame.data_ref().map_or(&[], |data| data));
                    this.kind.is_over().then_some(Ending::Complete)
                }
                Some(Err(_)) => Some(Ending::Failed),
                None => Some(Ending::Complete),
            };
            if let Some(ending) = ending {
                recorder.end(ending);
                *this.recorder = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.kind.size_hint()
    }
}

/// Nothing: what middleware outside of the cache answers with when it refuses a request.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self { kind: Kind::Empty, recorder: None }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Pass { .. } => "ResponseBody(pass)",
            Kind::Stored { .. } => "ResponseBody(stored)",
            Kind::Reading { .. } => "ResponseBody(reading)",
            Kind::Empty => "ResponseBody(empty)",
        })
    }
}
