//! Bodies on their way through the router.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tower_response_cache::{BoxError, ResponseBody};

use super::{
    listener::{ArrivalError, Arriving},
    simulator::SimBody,
};

/// A request body: as it comes, or read in front because it names the model.
#[derive(Debug)]
pub(crate) enum Upload {
    Live(Arriving),
    /// All of it. The cache takes these bytes as they are.
    Whole {
        bytes: Bytes,
        trailers: Option<HeaderMap>,
        /// Held for as long as the bytes, if they are many.
        _room: Option<OwnedSemaphorePermit>,
    },
    /// More than the cache takes: what was read, and the rest.
    Rejoined {
        start: Bytes,
        rest: Arriving,
        _room: Option<OwnedSemaphorePermit>,
    },
}

impl Upload {
    /// Reads a body until it is whole, or longer than `limit` bytes; then what was read goes on in front of the rest.
    pub(crate) async fn read(mut body: Arriving, limit: usize) -> Result<Self, ArrivalError> {
        let mut start = Start::default();
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    start.push(data, &body.size_hint());
                    if start.len() > limit {
                        return Ok(Self::Rejoined { start: start.freeze(), rest: body, _room: None });
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(Self::Whole { bytes: start.freeze(), trailers, _room: None })
    }

    /// Is there more than was read?
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Self::Rejoined { .. })
    }

    /// Reads on until `enough` says so of what was read, asked each time that it has doubled, or there are `most` bytes, or no more.
    pub(crate) async fn read_on(
        self,
        most: usize,
        room: OwnedSemaphorePermit,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<Self, ArrivalError> {
        let Self::Rejoined { start, mut rest, .. } = self else { return Ok(self) };
        let room = Some(room);
        let mut read = BytesMut::from(start);
        let mut asked = read.len();
        while read.len() < most {
            let data = match rest.frame().await.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => data,
                Some(Err(frame)) => return Ok(Self::Whole { bytes: read.freeze(), trailers: frame.into_trailers().ok(), _room: room }),
                None => return Ok(Self::Whole { bytes: read.freeze(), trailers: None, _room: room }),
            };
            read.extend_from_slice(&data);
            if read.len() / 2 >= asked {
                if enough(&read) {
                    break;
                }
                asked = read.len();
            }
        }
        Ok(Self::Rejoined { start: read.freeze(), rest, _room: room })
    }

    /// What was read.
    pub(crate) fn seen(&self) -> &[u8] {
        match self {
            Self::Live(_) => &[],
            Self::Whole { bytes, .. } => bytes,
            Self::Rejoined { start, .. } => start,
        }
    }
}

/// The start of a body: one chunk as it came, or several copied together, so that a body in many small ones takes no more room than its bytes.
#[derive(Default)]
struct Start {
    one: Bytes,
    many: BytesMut,
}

impl Start {
    fn len(&self) -> usize {
        self.one.len() + self.many.len()
    }

    fn push(&mut self, chunk: Bytes, rest: &SizeHint) {
        if self.len() == 0 {
            self.one = chunk;
            return;
        }
        if self.many.is_empty() {
            // What the caller promises is not believed beyond a usual body.
            let promised = usize::try_from(rest.lower()).unwrap_or(usize::MAX).min(64 << 10);
            self.many.reserve(self.one.len() + chunk.len() + promised);
            self.many.extend_from_slice(&std::mem::take(&mut self.one));
        }
        self.many.extend_from_slice(&chunk);
    }

    fn freeze(self) -> Bytes {
        if self.many.is_empty() { self.one } else { self.many.freeze() }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = ArrivalError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ArrivalError>>> {
        match self.get_mut() {
            Self::Live(body) => Pin::new(body).poll_frame(cx),
            Self::Whole { bytes, trailers, .. } => Poll::Ready(if bytes.is_empty() {
                trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))
            } else {
                Some(Ok(Frame::data(std::mem::take(bytes))))
            }),
            Self::Rejoined { start, rest, .. } => {
                if start.is_empty() {
                    Pin::new(rest).poll_frame(cx)
                } else {
                    Poll::Ready(Some(Ok(Frame::data(std::mem::take(start)))))
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Live(body) => body.is_end_stream(),
            Self::Whole { bytes, trailers, .. } => bytes.is_empty() && trailers.is_none(),
            Self::Rejoined { start, rest, .. } => start.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Live(body) => body.size_hint(),
            Self::Whole { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Self::Rejoined { start, rest, .. } => {
                let (held, rest) = (start.len() as u64, rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(held));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(held)) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

/// A response body from upstream.
pub(crate) enum Answer {
    Http(Incoming),
    Simulated(SimBody),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Http(body) => Pin::new(body).poll_frame(cx),
            Self::Simulated(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| Ok(frame.unwrap_or_else(|never: Infallible| match never {}))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http(body) => body.is_end_stream(),
            Self::Simulated(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(body) => body.size_hint(),
            Self::Simulated(body) => body.size_hint(),
        }
    }
}

/// A response body to a caller.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and a box for it costs more than room for the other")]
pub(crate) enum Reply {
    /// From the cache, or through it.
    Cached(ResponseBody<Answer>),
    /// The router's own.
    Own(Bytes),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Cached(body) => Pin::new(body).poll_frame(cx),
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Cached(body) => body.is_end_stream(),
            Self::Own(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Cached(body) => body.size_hint(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
