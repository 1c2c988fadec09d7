//! The examples as programs.

use std::{path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// An example, which ends with the test at the latest.
///
/// Cargo builds examples before it runs tests, unless told to build one test alone.
pub fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let target: PathBuf = tests.parent().unwrap().parent().unwrap().to_owned();
    let program = target.join("examples").join(name);
    assert!(program.exists(), "{} is not there: `cargo build --example {name}` makes it", program.display());
    let mut command = Command::new(program);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Runs an example to its end, and returns the lines that it printed.
pub async fn run(name: &str, args: &[&str]) -> Vec<String> {
    let output = example(name).args(args).output().await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{name}: {error}");
    String::from_utf8(output.stdout).unwrap().lines().map(timeless).collect()
}

/// A line, with what it says of the cache independent of time. An answer is stored a moment after its end; until then, whoever asks for the same joins it.
pub fn timeless(line: &str) -> String {
    let hit = line.replace("fwd=miss; collapsed; stored", "hit; ttl=0");
    match hit.split_once("; ttl=") {
        None => hit,
        Some((before, after)) => format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit())),
    }
}

/// An example that serves until the test ends.
pub struct Server {
    _child: Child,
    _lines: Lines<BufReader<ChildStdout>>,
    pub url: String,
}

impl Server {
    /// Started on a port of its own, which it says in its first line.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, &["127.0.0.1:0"]).await
    }

    /// The same of an example that takes options; they have to say that any port will do.
    pub async fn start_with(name: &str, args: &[&str]) -> Self {
        let mut child = example(name).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("a line");
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { _child: child, _lines: lines, url }
    }
}

/// A client that talks to nobody but this machine.
pub fn http() -> reqwest::Client {
    // Plain HTTP needs no TLS, but the client wants to know whose it would use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}
