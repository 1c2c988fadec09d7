//! The same hits through this crate and through its peers, in one run.
//!
//! ```console
//! $ cd benches/peers
//! $ cargo run --release -- oneshot    # in the process: memory
//! $ cargo run --release -- redis      # in the process: a real Redis beside it
//! $ cargo run --release -- waiters    # in the process: those who wait for one upstream call
//! $ cargo run --release -- wrk        # over sockets, the server on one core and wrk on another
//! ```

use clap::{Parser, Subcommand};

mod flight;
mod subjects;
mod table;
mod wrk;

/// The same hits through this crate and through its peers, in one run.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Hits in memory, called in the process.
    Oneshot,
    /// Hits in Redis, called in the process. Needs redis-server.
    Redis,
    /// Those who wait for one upstream call.
    Waiters,
    /// Hits in memory over sockets. Needs wrk and taskset.
    Wrk,
    /// Serves one of the subjects of `wrk`.
    #[command(hide = true)]
    Serve { subject: wrk::Subject },
}

fn main() {
    match Arguments::parse().what {
        What::Oneshot => table::print("8 KB GET, hit in memory", subjects::memory()),
        What::Redis => {
            let (_server, subjects) = subjects::redis();
            table::print("8 KB GET, hit in Redis", subjects);
        }
        What::Waiters => flight::print(),
        What::Wrk => wrk::compare(),
        What::Serve { subject } => wrk::serve(subject),
    }
}
