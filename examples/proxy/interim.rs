//! Interim responses, such as 103 (Early Hints): "a proxy MUST forward 1xx responses" (RFC 9110 section 15.2).
//!
//! hyper reads them as a client, and has no way to write them as a server. On an HTTP/1.1 connection they are bytes before those of the response, and there is a
//! moment at which nothing else can come in between: when hyper flushes, all that it had to say is said, and it says nothing more until the handler of the
//! current request has answered, who waits for this. On HTTP/2 there is no such way.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, Version, header};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

use crate::fields;

/// How many wait to be written. An origin that sends more, faster than its client takes them, sends in vain.
const WAITING: usize = 16;

/// Where the handlers of a connection leave what is to be written before their response.
#[derive(Clone, Default)]
pub struct Lane(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    bytes: BytesMut,
    handler: Option<Waker>,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once it is written.
    async fn put(&self, message: &[u8]) {
        self.lock().bytes.extend_from_slice(message);
        // The connection, which polls this, flushes when it is polled again.
        tokio::task::yield_now().await;
        poll_fn(|cx| {
            let mut waiting = self.lock();
            if waiting.bytes.is_empty() {
                return Poll::Ready(());
            }
            waiting.handler = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// What the origin says before it answers.
pub struct Hints(mpsc::Receiver<Bytes>);

impl Hints {
    /// Listens for what is said before the response to a request.
    pub fn of<B>(request: &mut Request<B>, via: &Arc<str>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let via = Arc::clone(via);
        hyper::ext::on_informational(request, move |hint| {
            // That content is wanted was settled with the client's own connection.
            if hint.status() != StatusCode::CONTINUE {
                drop(sender.try_send(message(hint.status(), hint.headers().clone(), hint.version(), &via)));
            }
        });
        Self(receiver)
    }

    /// Waits for the answer, and passes on what comes before it.
    pub async fn until<F>(mut self, answer: F, lane: &Lane) -> F::Output
    where
        F: Future,
    {
        let mut answer = pin!(answer);
        loop {
            tokio::select! {
                biased;
                Some(hint) = self.0.recv() => lane.put(&hint).await,
                answer = &mut answer => return answer,
            }
        }
    }
}

fn message(status: StatusCode, mut headers: HeaderMap, received: Version, via: &str) -> Bytes {
    fields::answer(&mut headers, received, via);
    // It has no content, and who believes a length all the same takes the response for some of it (RFC 9110 section 8.6).
    headers.remove(header::CONTENT_LENGTH);
    let mut message = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in &headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            message.extend_from_slice(part);
        }
    }
    message.extend_from_slice(b"\r\n");
    message.into()
}

/// A connection with a lane.
pub struct Wire<T> {
    inner: T,
    lane: Lane,
}

impl<T> Wire<T> {
    pub fn new(inner: T, lane: Lane) -> Self {
        Self { inner, lane }
    }
}

impl<T> AsyncRead for Wire<T>
where
    T: AsyncRead + Unpin,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T> AsyncWrite for Wire<T>
where
    T: AsyncWrite + Unpin,
{
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, lane } = &mut *self;
        let mut waiting = lane.lock();
        while !waiting.bytes.is_empty() {
            let written = ready!(Pin::new(&mut *inner).poll_write(cx, &waiting.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.bytes.advance(written);
        }
        if let Some(handler) = waiting.handler.take() {
            handler.wake();
        }
        drop(waiting);
        Pin::new(inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
