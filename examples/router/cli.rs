//! The command line, and the same by environment.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    CommandFactory as _, Parser, ValueEnum,
    builder::BoolishValueParser,
    error::{ContextKind, ContextValue},
};
use serde::Deserialize;
use tower_response_cache::entry::record::Compression;

use super::app::StartError;

/// An LLM router that answers from its cache.
///
/// Without options it listens on 127.0.0.1:8080, keeps answers in memory, and asks a simulated provider that is built in. What is given here goes before what stands
/// in the configuration file. The log goes to stderr, one line per request; RUST_LOG=warn turns these off.
#[derive(Debug, Parser)]
#[command(name = "router")]
pub(crate) struct Args {
    /// Where callers connect (HTTP/1.1 and HTTP/2 without TLS). Port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "ROUTER_LISTEN", value_name = "ADDR", help_heading = "Listeners")]
    pub(crate) listen: Option<SocketAddr>,

    /// Where statistics are read and answers are invalidated. Off loopback it needs a token [default: 127.0.0.1:8081]
    #[arg(long, env = "ROUTER_ADMIN_LISTEN", value_name = "ADDR", help_heading = "Listeners")]
    pub(crate) admin_listen: Option<SocketAddr>,

    /// What the admin listener asks for as `authorization: Bearer TOKEN`. Better set by environment: other processes see arguments
    #[arg(long, env = "ROUTER_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, help_heading = "Listeners")]
    pub(crate) admin_token: Option<String>,

    /// How long a request body may pause before its caller gets a 408, in seconds
    #[arg(
        long,
        env = "ROUTER_BODY_IDLE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Listeners"
    )]
    pub(crate) body_idle_seconds: u64,

    /// How long open responses and pending writes may take to finish after SIGTERM or SIGINT, in seconds
    #[arg(long, env = "ROUTER_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 10, help_heading = "Listeners")]
    pub(crate) drain_seconds: u64,

    /// A TOML file that names upstreams and which models go to which; `examples/router/router.toml` is a sample
    #[arg(long, env = "ROUTER_CONFIG", value_name = "FILE", help_heading = "Upstreams")]
    pub(crate) config: Option<PathBuf>,

    /// Sends everything to this base URL, whatever the file says, as in https://api.openai.com
    #[arg(long, env = "ROUTER_UPSTREAM", value_name = "URL", hide_env_values = true, help_heading = "Upstreams")]
    pub(crate) upstream: Option<String>,

    /// How long connecting to an upstream may take, TLS included, in seconds
    #[arg(
        long,
        env = "ROUTER_CONNECT_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Upstreams"
    )]
    pub(crate) connect_timeout_seconds: u64,

    /// How long an upstream may take until its answer begins, in seconds; 0 for no bound. An answer that has begun may take any time
    #[arg(long, env = "ROUTER_UPSTREAM_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 600, help_heading = "Upstreams")]
    pub(crate) upstream_timeout_seconds: u64,

    /// How fast the simulated provider speaks
    #[arg(long, env = "ROUTER_SIMULATOR_PACE", value_name = "PACE", value_enum, default_value_t = SimulatorPace::Realistic, help_heading = "Upstreams")]
    pub(crate) simulator_pace: SimulatorPace,

    /// Whose answers are shared: `per-credential`, `shared` (all callers), or `header:NAME` (by tenant, as a trusted proxy in front names it) [default: per-credential]
    #[arg(long, env = "ROUTER_SHARING", value_name = "HOW", help_heading = "Cache")]
    pub(crate) sharing: Option<String>,

    /// Heeds callers' `cache-control` (no-cache, no-store, max-age, only-if-cached) and the header of --ttl-header
    #[arg(long, env = "ROUTER_TRUST_CACHE_HEADERS", value_parser = BoolishValueParser::new(), help_heading = "Cache")]
    pub(crate) trust_cache_headers: bool,

    /// In which header trusted callers say how long their answer is to be kept, in seconds [default: x-cache-ttl]
    #[arg(long, env = "ROUTER_TTL_HEADER", value_name = "NAME", help_heading = "Cache")]
    pub(crate) ttl_header: Option<String>,

    /// How long answers are kept, in seconds
    #[arg(long, env = "CACHE_DEFAULT_TTL", value_name = "SECONDS", default_value_t = 3600, help_heading = "Cache")]
    pub(crate) default_ttl: u64,

    /// Serves what is stored and stores nothing
    #[arg(long, env = "ROUTER_READ_ONLY", value_parser = BoolishValueParser::new(), help_heading = "Cache")]
    pub(crate) read_only: bool,

    /// Shortens how long each answer is kept by up to this percentage of it, at random, so that they do not all go at once [default: 0]
    #[arg(long, env = "ROUTER_TTL_JITTER_PERCENT", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), help_heading = "Cache")]
    pub(crate) ttl_jitter_percent: Option<u8>,

    /// Takes tags for invalidation from the upstreams' `surrogate-key` and `cache-tag`
    #[arg(long, env = "ROUTER_RESPONSE_TAGS", value_parser = BoolishValueParser::new(), help_heading = "Cache")]
    pub(crate) response_tags: bool,

    /// For how long a router that makes an answer for all keeps the others on this Redis waiting without a sign of life, in seconds; 0: each makes its own [default: 10]
    #[arg(long, env = "ROUTER_LEASE_SECONDS", value_name = "SECONDS", help_heading = "Store")]
    pub(crate) lease_seconds: Option<u64>,

    /// Compresses answers in Redis: `auto`, event streams from 1 KiB and all else from 16 KiB, or `off` [default: auto]
    #[arg(long, env = "ROUTER_COMPRESSION", value_name = "WHAT", value_enum, help_heading = "Store")]
    pub(crate) compression: Option<Compressed>,

    /// For how long records of requests are kept in Redis, and their sums by the hour, a day at least; in seconds
    #[arg(long, env = "CACHE_METRICS_TTL", value_name = "SECONDS", default_value_t = 86_400, help_heading = "Cost")]
    pub(crate) metrics_ttl: u64,

    /// Tells callers what answers from the cache saved: `x-cache-cost-usd` and `x-cache-saved-usd`
    #[arg(long, env = "ROUTER_COST_HEADERS", value_parser = BoolishValueParser::new(), help_heading = "Cost")]
    pub(crate) cost_headers: bool,

    /// Prices of models, in the format of LiteLLM's model_prices_and_context_window.json; they go before those that are built in
    #[arg(long, env = "ROUTER_PRICES", value_name = "FILE", help_heading = "Cost")]
    pub(crate) prices: Option<PathBuf>,

    /// The longest request body that is cached, in bytes or with KiB, MiB, GiB; longer ones are streamed through
    #[arg(long, env = "ROUTER_MAX_REQUEST", value_name = "BYTES", default_value = "1MiB", value_parser = bytes, help_heading = "Cache")]
    pub(crate) max_request: u64,

    /// The longest response body that is cached, likewise
    #[arg(long, env = "ROUTER_MAX_RESPONSE", value_name = "BYTES", default_value = "8MiB", value_parser = bytes, help_heading = "Cache")]
    pub(crate) max_response: u64,

    /// How much memory answers may take, unless they are kept in Redis
    #[arg(long, env = "ROUTER_MEMORY", value_name = "BYTES", default_value = "256MiB", value_parser = bytes, help_heading = "Store")]
    pub(crate) memory: u64,

    /// Keeps answers in Redis, as in redis://localhost:6379/0, redis-sentinel://host,host/service or redis-cluster://host,host, instead of memory
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true, help_heading = "Store")]
    pub(crate) redis_url: Option<String>,

    /// What all names in Redis begin with: routers with different ones share nothing
    #[arg(long, env = "ROUTER_NAMESPACE", value_name = "NAME", default_value = "trc", help_heading = "Store")]
    pub(crate) namespace: String,

    /// Trusts a Redis behind TLS whose certificate the one in this file (PEM) has signed, instead of those that the system trusts
    #[arg(long, env = "REDIS_CA_FILE", value_name = "PATH", help_heading = "Store")]
    pub(crate) redis_ca: Option<PathBuf>,

    /// Shows Redis the certificate in this file (PEM)
    #[arg(long, env = "REDIS_CERT_FILE", value_name = "PATH", requires = "redis_key", help_heading = "Store")]
    pub(crate) redis_cert: Option<PathBuf>,

    /// Where the key of that certificate is (PEM)
    #[arg(long, env = "REDIS_KEY_FILE", value_name = "PATH", requires = "redis_cert", help_heading = "Store")]
    pub(crate) redis_key: Option<PathBuf>,

    /// Seals what is kept in Redis with keys as in 2:64-HEX-DIGITS,1:64-HEX-DIGITS: the first seals, all open
    #[arg(long, env = "REDIS_SEAL_KEYS", value_name = "KEYS", hide_env_values = true, help_heading = "Store")]
    pub(crate) redis_seal_keys: Option<String>,

    /// How much memory answers may take in front of Redis, where each is kept that is read, for as long as Redis tells of no change; 0 for none
    #[arg(long, env = "ROUTER_MEMORY_TIER", value_name = "BYTES", default_value = "64MiB", value_parser = bytes, help_heading = "Store")]
    pub(crate) memory_tier: u64,

    /// How many connections to Redis may be open
    #[arg(
        long,
        env = "REDIS_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Store"
    )]
    pub(crate) redis_max_connections: u32,
}

/// How fast the simulated provider speaks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SimulatorPace {
    /// As a provider does: seconds per answer
    Realistic,
    /// At once
    Instant,
}

/// What is compressed in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compressed {
    /// Event streams from 1 KiB, and all else from 16 KiB
    Auto,
    /// Nothing
    Off,
}

impl From<Compressed> for Compression {
    fn from(compressed: Compressed) -> Self {
        match compressed {
            Compressed::Auto => Self::Auto,
            Compressed::Off => Self::Off,
        }
    }
}

/// The arguments of this process. Prints help and ends the process where that is asked for.
pub(crate) fn parse() -> Result<Args, StartError> {
    Args::try_parse().map_err(|error| if error.use_stderr() { StartError::usage(one_line(&error)) } else { error.exit() })
}

/// What clap has to say, without the usage that follows: an operator reads it in a log.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let said: Vec<&str> = lines.filter(|line| !line.is_empty()).map(|line| line.strip_prefix("error: ").unwrap_or(line)).collect();
    let mut line = said.join("; ").replace(":; ", ": ");
    // clap names the option alone, which whoever set the variable has not heard of.
    if let Some(variable) = variable_of(error).filter(|variable| std::env::var_os(variable).is_some()) {
        line = format!("{line}; the environment variable {variable} is set");
    }
    line
}

/// The environment variable of the option that an error is about.
fn variable_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    let long = option.split(' ').next()?.strip_prefix("--")?;
    let command = Args::command();
    let variable = command.get_arguments().find(|argument| argument.get_long() == Some(long))?.get_env()?;
    Some(variable.to_str()?.to_owned())
}

/// `4096`, `64KiB`, `256MiB`, `1GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("the unit is none of KiB, MiB, GiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a number of bytes, as in 4096 or 256MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than can be counted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, expected) in
            [("0", Some(0)), ("4096", Some(4096)), ("64KiB", Some(65_536)), ("256 MiB", Some(256 << 20)), ("1g", Some(1 << 30))]
        {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        for text in ["", "MiB", "1TB", "-1", "99999999999999GiB", "1.5MiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wrong_argument_is_one_line_with_a_hint() {
        let missing = one_line(&Args::try_parse_from(["router", "--redis-cert", "a.pem"]).unwrap_err());
        assert_eq!(missing, "the following required arguments were not provided: --redis-key <PATH>");
        let error = Args::try_parse_from(["router", "--listn", "x"]).unwrap_err();
        let line = one_line(&error);
        assert!(line.contains("'--listn'") && line.contains("--listen") && !line.contains('\n'), "{line}");
        let line = one_line(&Args::try_parse_from(["router", "--listen", "nowhere"]).unwrap_err());
        assert!(line.contains("nowhere") && line.contains("--listen") && !line.contains('\n'), "{line}");
    }
}
