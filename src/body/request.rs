use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The request body as the inner service receives it: untouched, or buffered, or a part that was buffered and the rest.
    ///
    /// Byte for byte what the caller sent, trailers included. It fails only where the caller's body fails.
    pub struct RequestBody<B>
    where
        B: Body,
    {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B>
    where
        B: Body,
    {
        Untouched { #[pin] body: B },
        Buffered { whole: Whole },
        // Rare, and large: a request that is passed on untouched does not carry the room for it.
        Rejoined { rejoined: Box<Rejoined<B>> },
    }
}

/// A request body that was read whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    pub(crate) trailers: Option<Box<HeaderMap>>,
}

/// What was read of a body, and what comes after it.
struct Rejoined<B>
where
    B: Body,
{
    prefix: VecDeque<Bytes>,
    failure: Option<B::Error>,
    rest: Option<Pin<Box<B>>>,
}

impl<B> RequestBody<B>
where
    B: Body,
{
    /// The whole body, if it is at hand: it was read for the key, and has no trailers. A client that gets these bytes can send them again.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Buffered { whole: Whole { bytes, trailers: None } } => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn untouched(body: B) -> Self {
        Self { kind: Kind::Untouched { body } }
    }

    pub(crate) fn buffered(whole: Whole) -> Self {
        Self { kind: Kind::Buffered { whole } }
    }

    fn rejoined(prefix: VecDeque<Bytes>, failure: Option<B::Error>, rest: Option<Pin<Box<B>>>) -> Self {
        Self { kind: Kind::Rejoined { rejoined: Box::new(Rejoined { prefix, failure, rest }) } }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Untouched { body } => poll_bytes(body, cx),
            KindProjection::Buffered { whole: Whole { bytes, trailers } } => Poll::Ready(if bytes.is_empty() {
                trailers.take().map(|trailers| Ok(Frame::trailers(*trailers)))
            } else {
                Some(Ok(Frame::data(std::mem::take(bytes))))
            }),
            KindProjection::Rejoined { rejoined } => {
                let Rejoined { prefix, failure, rest } = &mut **rejoined;
                if let Some(bytes) = prefix.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                if let Some(error) = failure.take() {
                    *rest = None;
                    return Poll::Ready(Some(Err(error)));
                }
                match rest {
                    Some(rest) => poll_bytes(rest.as_mut(), cx),
                    None => Poll::Ready(None),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { body } => body.is_end_stream(),
            Kind::Buffered { whole: Whole { bytes, trailers } } => bytes.is_empty() && trailers.is_none(),
            Kind::Rejoined { rejoined } => {
                let Rejoined { prefix, failure, rest } = &**rejoined;
                prefix.is_empty() && failure.is_none() && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Buffered { whole: Whole { bytes, trailers: Some(_) } } => before_trailers(bytes.len() as u64),
            Kind::Buffered { whole } => SizeHint::with_exact(whole.bytes.len() as u64),
            Kind::Rejoined { rejoined } => {
                let Rejoined { prefix, rest, .. } = &**rejoined;
                let held: u64 = prefix.iter().map(|bytes| bytes.len() as u64).sum();
                let rest = rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
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

impl<B> fmt::Debug for RequestBody<B>
where
    B: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestBody(..)")
    }
}

/// The next frame, its data as `Bytes`, which is free for data that is `Bytes` already.
pub(crate) fn poll_bytes<B, E>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>>
where
    B: Body,
    B::Error: Into<E>,
{
    let frame = ready!(body.poll_frame(cx));
    Poll::Ready(frame.map(|frame| match frame {
        Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
        Err(error) => Err(error.into()),
    }))
}

/// A length that is not told as that of the whole: it would become a `content-length`, after which HTTP/1.1 has no room for trailers.
pub(crate) fn before_trailers(len: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(len);
    hint
}

/// A request body after the attempt to read it whole.
pub(crate) enum Buffered<B>
where
    B: Body,
{
    /// All of it.
    Whole(Whole),
    /// Longer than the limit.
    Over(RequestBody<B>),
    /// It failed on the way.
    Broken(RequestBody<B>),
}

/// Reads a body up to `limit` bytes. What was read is never lost: it stands before the rest in what is returned.
pub(crate) async fn buffer<B>(body: B, limit: usize) -> Buffered<B>
where
    B: Body,
{
    if body.is_end_stream() {
        return Buffered::Whole(Whole::default());
    }
    if usize::try_from(body.size_hint().lower()).map_or(true, |least| least > limit) {
        return Buffered::Over(RequestBody::untouched(body));
    }
    // Pinned on the heap, because it may have to move on, half read.
    let mut body = Box::pin(body);
    let mut read = Chunks::default();
    let mut len = 0;
    let mut trailers = None;
    loop {
        match poll_fn(|cx| poll_bytes::<B, B::Error>(body.as_mut(), cx)).await {
            None => return Buffered::Whole(Whole { bytes: read.concat(len), trailers }),
            Some(Err(error)) => return Buffered::Broken(RequestBody::rejoined(read.all(), Some(error), None)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    len += data.len();
                    read.push(data);
                    if len > limit {
                        return Buffered::Over(RequestBody::rejoined(read.all(), None, Some(body)));
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
            },
        }
    }
}

/// Chunks below this are joined: a body in single bytes would take many times its length.
const JOIN_BELOW: usize = 1024;

/// What was read of a body.
#[derive(Default)]
struct Chunks {
    chunks: VecDeque<Bytes>,
    /// The last one, or the first of the small ones at the end. Most bodies come in one piece: that takes no allocation.
    last: Bytes,
    /// Small ones that follow it.
    more: BytesMut,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) {
        if self.last.is_empty() {
            self.last = chunk;
        } else if self.last.len() < JOIN_BELOW && chunk.len() < JOIN_BELOW {
            self.more.extend_from_slice(&chunk);
        } else {
            self.flush();
            self.last = chunk;
        }
    }

    fn flush(&mut self) {
        let last = [std::mem::take(&mut self.last), self.more.split().freeze()];
        self.chunks.extend(last.into_iter().filter(|chunk| !chunk.is_empty()));
    }

    fn all(mut self) -> VecDeque<Bytes> {
        self.flush();
        self.chunks
    }

    /// All of it in one; copies only if there are several chunks.
    fn concat(self, len: usize) -> Bytes {
        if self.last.len() == len {
            return self.last;
        }
        let mut all = BytesMut::with_capacity(len);
        for chunk in self.all() {
            all.extend_from_slice(&chunk);
        }
        all.freeze()
    }
}
