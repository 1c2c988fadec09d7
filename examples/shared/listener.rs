//! Listeners that neither a silent caller nor their own end holds up; for the router and the proxy.

use std::{
    error::Error,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version, header, request, uri::Authority};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_response_cache::BoxError;

/// How long a connection may take to send the head of its next request. It bounds idle connections of HTTP/1.1 as well; those of HTTP/2 are asked whether they live.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a request that has not all arrived may be silent once no more are taken.
const GRACE: Duration = Duration::from_secs(1);

/// What answers the requests of a connection.
pub(crate) trait Answers:
    Service<Request<Arriving>, Response = Response<Self::Body>, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static
{
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> Answers for S
where
    S: Service<Request<Arriving>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

/// All that listens, and its connections. Clones are the same.
#[derive(Clone)]
pub(crate) struct Listeners {
    body_idle: Duration,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Listeners {
    /// They take requests until `stop`. A request body that does not go on for `body_idle` ends in an [`ArrivalError`].
    pub(crate) fn new(body_idle: Duration, stop: CancellationToken) -> Self {
        Self { body_idle, stop, connections: TaskTracker::new() }
    }

    /// Serves HTTP/1.1 and HTTP/2 from now on, with a service for each connection. No response is bounded in time.
    #[allow(dead_code, reason = "the proxy alone serves over something else")]
    pub(crate) fn serve<F, S>(&self, listener: TcpListener, service: F)
    where
        F: Fn(SocketAddr) -> S + Send + 'static,
        S: Answers,
    {
        self.serve_over(listener, move |stream, peer| (stream, service(peer)));
    }

    /// The same, over what is made of each connection.
    pub(crate) fn serve_over<F, T, S>(&self, listener: TcpListener, service: F)
    where
        F: Fn(TcpStream, SocketAddr) -> (T, S) + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Answers,
    {
        // The accepting task counts as well: when all have ended, nothing listens.
        self.connections.spawn(self.clone().accept(listener, service));
    }

    /// Accepts nothing more. What has arrived is answered to its end; a request of which nothing comes for a second is not waited for. Says whether
    /// all ended within the bound.
    pub(crate) async fn drain(&self, within: Duration) -> bool {
        self.stop.cancel();
        self.connections.close();
        timeout(within, self.connections.wait()).await.is_ok()
    }

    async fn accept<F, T, S>(self, listener: TcpListener, service: F)
    where
        F: Fn(TcpStream, SocketAddr) -> (T, S),
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Answers,
    {
        let builder = builder();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // A streamed answer goes out token by token. It works without, just later.
                    let _ = stream.set_nodelay(true);
                    let (stream, service) = service(stream, peer);
                    self.connections.spawn(connection(builder.clone(), stream, service, self.body_idle, self.stop.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of descriptors, most likely: some time lets others end.
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    builder
}

async fn connection<T, S>(builder: Builder<TokioExecutor>, stream: T, service: S, body_idle: Duration, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Answers,
{
    let asked = Arc::new(AtomicBool::new(false));
    let service = Arriver { service, body_idle, stop: stop.clone(), asked: Arc::clone(&asked) };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let unasked = async |within| {
        sleep(within).await;
        if asked.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        // hyper bounds a head once it knows which HTTP is spoken, and would wait for that for ever.
        () = unasked(HEAD_TIMEOUT) => Ok(()),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // hyper waits for the rest of a head that has begun. Whoever has not asked yet is owed nothing.
            tokio::select! {
                served = connection.as_mut() => served,
                () = unasked(GRACE) => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Gives each request of a connection a body that is not waited for for ever.
struct Arriver<S> {
    service: S,
    body_idle: Duration,
    stop: CancellationToken,
    asked: Arc<AtomicBool>,
}

impl<S> Service<Request<Incoming>> for Arriver<S>
where
    S: Service<Request<Arriving>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.asked.store(true, Ordering::SeqCst);
        let patience = Patience { idle: self.body_idle, stop: self.stop.clone(), running: None };
        self.service.call(request.map(|body| Arriving { body, patience }))
    }
}

/// A request body as it arrives. It ends in an error if it breaks off, or does not go on.
pub(crate) struct Arriving {
    body: Incoming,
    patience: Patience,
}

/// How long the next piece of a body is waited for.
struct Patience {
    idle: Duration,
    stop: CancellationToken,
    /// While it is waited for.
    running: Option<Pin<Box<dyn Future<Output = ArrivalError> + Send>>>,
}

/// Why a request body did not arrive.
#[derive(Debug)]
pub(crate) enum ArrivalError {
    /// It broke off.
    Broken(hyper::Error),
    /// Nothing came for so long.
    Idle(Duration),
    /// Nothing came for a second, and no more requests are taken.
    Draining,
}

impl ArrivalError {
    /// That which a failure comes from, if it does: a client tells of a body that failed while it sent it.
    pub(crate) fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = ArrivalError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ArrivalError>>> {
        let Self { body, patience } = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            patience.renew();
            return Poll::Ready(frame.map(|frame| frame.map_err(ArrivalError::Broken)));
        }
        patience.poll_end(cx).map(|error| Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Patience {
    fn renew(&mut self) {
        self.running = None;
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<ArrivalError> {
        let running = self.running.get_or_insert_with(|| {
            let (idle, stop) = (self.idle, self.stop.clone());
            Box::pin(async move {
                let draining = async {
                    stop.cancelled().await;
                    sleep(GRACE).await;
                };
                tokio::select! {
                    () = sleep(idle) => ArrivalError::Idle(idle),
                    () = draining => ArrivalError::Draining,
                }
            })
        });
        running.as_mut().poll(cx)
    }
}

impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arriving").finish_non_exhaustive()
    }
}

impl fmt::Display for ArrivalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(_) => f.write_str("the request body broke off before it was whole"),
            Self::Idle(idle) => write!(f, "the request body did not go on for {} s", idle.as_secs_f64()),
            Self::Draining => f.write_str("the request had not arrived in whole when the server was told to end"),
        }
    }
}

impl Error for ArrivalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            Self::Idle(_) | Self::Draining => None,
        }
    }
}

/// Does a request name one host, as it has to (RFC 9112 section 3.2)? An older one, and one of HTTP/2 with its `:authority`, may name none.
pub(crate) fn names_one_host(head: &request::Parts) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    // Who asks has no place in the target either, where it is absolute (RFC 9110 section 4.2.4).
    if head.uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return false;
    }
    match (hosts.next(), hosts.next()) {
        (None, _) => head.version != Version::HTTP_11,
        (Some(host), None) => {
            // Empty, it says that the target has no authority. Who asks has no place in it.
            let host = host.as_bytes();
            host.is_empty() || !host.contains(&b'@') && Authority::try_from(host).is_ok()
        }
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use hyper::service::service_fn;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_asked_is_not_kept() {
        for said in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nhost: h"] {
            let (mut caller, stream) = tokio::io::duplex(1024);
            caller.write_all(said.as_bytes()).await.unwrap();
            let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new())) });
            let served = connection(builder(), stream, service, IDLE, CancellationToken::new());
            timeout(HEAD_TIMEOUT * 2, served).await.unwrap_or_else(|_| panic!("kept after {said:?}"));
        }
    }

    /// How patience ends within so long, if it does.
    async fn after(patience: &mut Patience, time: Duration) -> Option<ArrivalError> {
        timeout(time, poll_fn(|cx| patience.poll_end(cx))).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn patience_begins_anew_with_each_piece_and_is_short_once_no_more_is_taken() {
        let stop = CancellationToken::new();
        let mut patience = Patience { idle: IDLE, stop: stop.clone(), running: None };
        for _ in 0..3 {
            assert!(after(&mut patience, IDLE * 9 / 10).await.is_none());
            patience.renew();
        }
        assert!(matches!(after(&mut patience, IDLE * 11 / 10).await, Some(ArrivalError::Idle(IDLE))));
        stop.cancel();
        for _ in 0..3 {
            patience.renew();
            assert!(after(&mut patience, GRACE * 9 / 10).await.is_none());
        }
        assert!(matches!(after(&mut patience, GRACE).await, Some(ArrivalError::Draining)));
    }
}
