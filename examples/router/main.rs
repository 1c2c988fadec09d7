//! An LLM router that answers from its cache.
//!
//! It forwards calls in the dialects of OpenAI, Anthropic and Gemini to the upstream that its configuration names for the model, and answers what was
//! asked before from memory or Redis, streams included. Without any configuration it talks to a simulated provider of its own:
//!
//! ```text
//! cargo run --release --example router
//! curl -i http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
//!      -d '{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}'
//! ```
//!
//! The path of a request: [`listener`] accepts it, [`gateway`] reads as much as names its [`route`], its [`model`] and with them its [`upstream`], the
//! cache answers it or asks the [`client`]. `README.md` beside this file is for those who run it.

mod admin;
pub(crate) mod app;
mod body;
pub(crate) mod cli;
mod client;
pub(crate) mod config;
mod gateway;
#[path = "../shared/listener.rs"]
mod listener;
mod metrics;
mod model;
mod problem;
mod route;
pub(crate) mod simulator;
mod store;
mod upstream;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use app::{App, StartError};
use config::Settings;

pub(crate) fn main() -> ExitCode {
    match settings().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("router: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

fn settings() -> Result<Settings, StartError> {
    Settings::read(cli::parse()?)
}

fn run(settings: Settings) -> Result<(), StartError> {
    let filter = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|filter| !filter.is_empty());
    let filter =
        EnvFilter::try_new(filter.as_deref().unwrap_or("info")).map_err(|error| StartError::usage(format!("RUST_LOG: {error}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // Nobody may read the log any more. That is no reason to end, and where else would it be said?
    log.log_internal_errors(false).init();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| StartError::run(format!("cannot start: {error}")))?;
    let done = runtime.block_on(serve(settings));
    // A look-up of a host name that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

async fn serve(settings: Settings) -> Result<(), StartError> {
    // First, so that whoever reads that it serves can end it.
    let mut signals = Signals::new().map_err(|error| StartError::run(format!("cannot listen for signals: {error}")))?;
    let drain = settings.drain;
    let app = App::start(settings).await?;
    announce(&app);

    let name = signals.next().await;
    tracing::info!(signal = name, within_seconds = drain.as_secs(), "draining; a second signal ends at once");
    tokio::select! {
        whole = app.drain(drain) => {
            if whole {
                tracing::info!("drained");
            } else {
                tracing::warn!("not all was done within the bound; the rest is cut off");
            }
        }
        name = signals.next() => {
            tracing::warn!(signal = name, "ended at once");
            std::process::exit(if name == "SIGINT" { 130 } else { 143 });
        }
    }
    Ok(())
}

/// For people, and for programs that start this one. Whoever closed the other end does not want to know.
fn announce(app: &App) {
    let _ = writeln!(std::io::stdout(), "listening on http://{}\nadmin listening on http://{}", app.public, app.admin);
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
