//! A caching reverse proxy: any method on any path, HTTP/1.1 and HTTP/2, with RFC 9111 on the way.
//!
//! ```sh
//! cargo run --release --example proxy -- --listen 127.0.0.1:8080 --origin http://127.0.0.1:8000
//! ```
//!
//! It never retries, rewrites no body, and answers for an origin that does not: 504 if it is too slow, 502 for all else, stale if that is permitted.

#![allow(unreachable_pub, reason = "`pub` says what a module offers to the others")]

mod admin;
mod fields;
mod interim;
#[path = "../shared/listener.rs"]
mod listener;
mod origin;
mod proxy;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use hyper::service::service_fn;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower_response_cache::{
    BoxError, CacheLayer, HttpPolicy,
    observe::TracingObserver,
    store::{BoxStore, Memory, Redis},
};

use crate::{admin::Admin, listener::Listeners, origin::Origin, proxy::Proxy};

// No `Debug`: a URL may hold a password.
#[derive(Parser)]
#[command(about = "A caching reverse proxy")]
struct Args {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Where to forward to.
    #[arg(long)]
    origin: String,

    /// Speak HTTP/2 to the origin (with prior knowledge).
    #[arg(long)]
    origin_http2: bool,

    /// How long the origin may take to answer, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    origin_timeout: u64,

    /// How long a request body may pause before its sender gets a 408, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    body_idle: u64,

    /// How long open responses may take to finish after SIGTERM or SIGINT, in seconds.
    #[arg(long, default_value_t = 10)]
    drain: u64,

    /// Go by the letter of the standards where the defaults are more careful (see `HttpPolicy::rfc`).
    #[arg(long)]
    rfc: bool,

    /// Memory for stored responses, in MiB, if they are not in Redis.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(..=u64::MAX >> 20))]
    memory: u64,

    /// Keep responses in this Redis.
    #[arg(long)]
    redis: Option<String>,

    /// Serve what is stored, and store nothing.
    #[arg(long)]
    read_only: bool,

    /// Tell the origin who asked, in `Forwarded` (RFC 7239).
    #[arg(long)]
    forwarded: bool,

    /// The name of this proxy in `Via` and `Cache-Status`.
    #[arg(long, default_value = "tower-response-cache", value_parser = fields::pseudonym)]
    name: String,

    /// Where to serve statistics and take purges; nowhere if it is not set. Off loopback it needs a token.
    #[arg(long)]
    admin_listen: Option<SocketAddr>,

    /// Demand this bearer token on the admin listener.
    #[arg(long, env = "PROXY_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
}

/// The longest response with its head that goes into Redis, in bytes.
const MAX_RECORD: usize = 16 << 20;

#[tokio::main]
async fn main() -> ExitCode {
    let log = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr);
    // Nobody may read the log any more. That is no reason to end, and where else would it be said?
    log.log_internal_errors(false).init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), BoxError> {
    // Not by clap, which repeats what it was given: there may be a password in it.
    let origin = origin::base(&args.origin).map_err(|problem| format!("--origin is {problem}"))?;
    let origin = Origin::new(&origin, args.origin_http2, Duration::from_secs(args.origin_timeout))?;
    let admin_token = args.admin_token.filter(|token| !token.is_empty());
    if let Some(address) = args.admin_listen.filter(|address| admin_token.is_none() && !address.ip().is_loopback()) {
        return Err(format!(
            "the admin listener would be open to others on {address}: set a token (--admin-token or PROXY_ADMIN_TOKEN), or listen on a loopback address"
        )
        .into());
    }

    let policy = HttpPolicy::shared();
    let policy = if args.rfc { policy.rfc() } else { policy };
    let store = match &args.redis {
        Some(url) => BoxStore::new(Redis::builder(url).max_record(MAX_RECORD).build()?),
        None => BoxStore::new(Memory::new(args.memory << 20)),
    };
    let layer = CacheLayer::new(store, policy).name(args.name.as_str()).read_only(args.read_only).observer(TracingObserver);
    let handle = layer.handle();
    let proxy = Proxy::new(layer.layer(origin), &args.name, args.forwarded);

    // First, so that whoever reads that it serves can end it.
    let mut terminate = signal(SignalKind::terminate())?;
    let listeners = Listeners::new(Duration::from_secs(args.body_idle), CancellationToken::new());
    if let Some(address) = args.admin_listen {
        let listener = bind(address).await?;
        eprintln!("admin on http://{}", listener.local_addr()?);
        let admin = Admin::new(handle.clone(), admin_token);
        listeners.serve(listener, move |_| {
            let admin = admin.clone();
            service_fn(move |request| {
                let admin = admin.clone();
                async move { admin.answer(request).await }
            })
        });
    }

    let listener = bind(args.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    proxy::serve(&listeners, listener, move |peer| {
        let proxy = proxy.clone();
        service_fn(move |request| {
            let (proxy, peer) = (proxy.clone(), peer.clone());
            async move { proxy.answer(request, peer).await }
        })
    });
    tokio::select! {
        _ = terminate.recv() => {}
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    listeners.drain(Duration::from_secs(args.drain)).await;
    handle.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BoxError> {
    TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}").into())
}
