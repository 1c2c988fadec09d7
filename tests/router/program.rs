//! The real program: what it prints, how it ends.

use std::{
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::mpsc,
};

use crate::harness::{Answer, Feed, Upstream, chat, client, events, get, next, with};

/// Cargo builds examples before it runs tests, unless told to build one test alone.
pub(crate) fn program() -> Command {
    let tests = std::env::current_exe().unwrap();
    let target: PathBuf = tests.parent().unwrap().parent().unwrap().to_owned();
    let program = target.join("examples").join("router");
    assert!(program.exists(), "{} is not there: `cargo build --example router` makes it", program.display());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["ROUTER_", "REDIS_", "CACHE_", "RUST_LOG"].iter().any(|start| text.starts_with(start)) {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true);
    command
}

/// The program, serving.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) public: String,
    pub(crate) admin: String,
    log: tempfile::NamedTempFile,
}

impl Running {
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[]).await
    }

    /// With these variables in its environment.
    pub(crate) async fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = program()
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(args)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = async |start: &str| {
            let line = lines.next_line().await.unwrap().expect("a line");
            line.strip_prefix(start).unwrap_or_else(|| panic!("{line:?}")).to_owned()
        };
        let (public, admin) = (address("listening on ").await, address("admin listening on ").await);
        Self { child, lines, public, admin, log }
    }

    pub(crate) async fn ask(&self, mut request: http::Request<crate::harness::Body>) -> Answer {
        *request.uri_mut() = format!("{}{}", self.public, request.uri()).parse().unwrap();
        Answer::of(client().request(request).await.unwrap()).await
    }

    pub(crate) async fn stats(&self) -> serde_json::Value {
        self.told("/cache/stats").await
    }

    /// What the admin listener says.
    pub(crate) async fn told(&self, path: &str) -> serde_json::Value {
        let told = client().request(get(&format!("{}{path}", self.admin))).await.unwrap();
        Answer::of(told).await.json()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended, and all of its log.
    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().await.unwrap();
        assert_eq!(self.lines.next_line().await.unwrap(), None, "nothing else is printed");
        (status, std::fs::read_to_string(self.log.path()).unwrap())
    }

    /// Waits until the log says so.
    pub(crate) async fn logged(&self, text: &str) {
        while !std::fs::read_to_string(self.log.path()).unwrap().contains(text) {
            tokio::task::yield_now().await;
        }
    }
}

async fn refused(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, stdout } = program().args(args).output().await.unwrap();
    assert!(stdout.is_empty(), "{args:?}");
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn it_says_where_it_listens_serves_and_ends_when_told_to() {
    for signal in ["TERM", "INT"] {
        let router = Running::start(&["--simulator-pace", "instant"]).await;
        assert_eq!(router.ask(get("/healthz")).await.status, 200);
        let canary = "canary-credential";
        let answer = router.ask(with(chat("canary-question"), "authorization", &format!("Bearer {canary}"))).await;
        assert_eq!((answer.status, answer.cache()), (200, "fwd=miss"));
        assert_eq!(router.stats().await["misses"], 1);
        router.signal(signal);
        let (status, log) = router.end().await;
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(
            log.lines().any(|line| line.contains("routing") && line.contains("memory, 256.0 MiB") && line.contains("simulator")),
            "{log}"
        );
        assert_eq!(log.lines().filter(|line| line.contains("outcome=")).count(), 1, "one line per request: {log}");
        assert!(!log.contains("canary"), "{log}");
    }
}

#[tokio::test]
async fn it_serves_and_drains_when_nobody_reads_its_log_any_more() {
    let mut child = program()
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--simulator-pace", "instant"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("a line");
    drop(child.stderr.take());
    let mut request = chat("hello");
    *request.uri_mut() = format!("{}{}", line.strip_prefix("listening on ").unwrap(), request.uri()).parse().unwrap();
    assert_eq!(client().request(request).await.unwrap().status(), 200);
    let id = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

/// An upstream whose stream the test feeds, and the program with that stream open.
async fn streaming() -> (Running, Feed, hyper::body::Incoming, Upstream) {
    let (feeds, mut fed) = mpsc::unbounded_channel();
    let upstream = Upstream::new(move |_| {
        let feeds = feeds.clone();
        async move {
            let (feed, response) = events();
            feeds.send(feed).unwrap_or_else(|_| panic!("the test is over"));
            response
        }
    })
    .await;
    let router = Running::start(&["--upstream", &upstream.url(), "--drain-seconds", "600"]).await;
    let mut request = chat("hello");
    *request.uri_mut() = format!("{}{}", router.public, request.uri()).parse().unwrap();
    let client = client();
    let (response, feed) = tokio::join!(client.request(request), fed.recv());
    let (mut body, feed) = (response.unwrap().into_body(), feed.unwrap());
    feed.send("data: 1\n\n").await;
    assert_eq!(next(&mut body).await.unwrap(), "data: 1\n\n");
    (router, feed, body, upstream)
}

#[tokio::test]
async fn told_to_end_it_lets_an_open_stream_finish() {
    let (router, feed, body, _upstream) = streaming().await;
    router.signal("TERM");
    router.logged("draining").await;
    let address = router.public.strip_prefix("http://").unwrap().to_owned();
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    feed.send("data: 2\n\n").await;
    drop(feed);
    assert_eq!(body.collect().await.unwrap().to_bytes(), Bytes::from_static(b"data: 2\n\n"));
    let (status, log) = router.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained"), "{log}");
}

#[tokio::test]
async fn told_twice_it_ends_at_once() {
    let (router, feed, body, _upstream) = streaming().await;
    router.signal("TERM");
    router.logged("draining").await;
    router.signal("TERM");
    let (status, log) = router.end().await;
    assert_eq!(status.code(), Some(143), "{log}");
    body.collect().await.unwrap_err();
    drop(feed);
}

#[tokio::test]
async fn what_it_cannot_run_with_is_one_line_and_an_exit_code() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "lisen = \"127.0.0.1:1\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, code, expected) in [
        (&["--config", "/nowhere.toml"][..], 2, "cannot read /nowhere.toml: "),
        (&["--config", path], 2, ":1: unknown field `lisen`, expected one of `listen`"),
        (&["--upstream", "api.openai.com"], 2, "--upstream"),
        (&["--upstream", "https://me:hush@h"], 2, "has credentials in it"),
        (&["--listen", "nowhere"], 2, "'nowhere' for '--listen <ADDR>'"),
        (&["--listn", "nowhere"], 2, "a similar argument exists: '--listen'"),
        (&["--admin-listen", "0.0.0.0:0"], 2, "set a token (--admin-token or ROUTER_ADMIN_TOKEN)"),
        (&["--sharing", "everyone"], 2, "sharing is `per-credential`"),
        (&["--memory", "lots"], 2, "--memory"),
        (&["--redis-url", "postgres://me:hush@h"], 2, "not a URL of redis"),
        (&["--listen", &taken, "--admin-listen", "127.0.0.1:0"], 1, "cannot listen on"),
    ] {
        let (status, error) = refused(args).await;
        assert_eq!(status, Some(code), "{args:?}: {error}");
        assert!(error.starts_with("router: ") && error.contains(expected), "{args:?}: {error}");
        let lines: Vec<_> = error.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert_eq!(lines.len(), 1, "{args:?}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn what_is_wrong_in_the_environment_is_said_by_the_name_it_has_there() {
    for (variable, value, option) in [("ROUTER_READ_ONLY", "", "--read-only"), ("ROUTER_MEMORY", "lots", "--memory <BYTES>")] {
        let output = program().env(variable, value).output().await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(error.contains(option) && error.contains(&format!("the environment variable {variable} is set")), "{error}");
    }
    let (_, error) = refused(&["--memory", "lots"]).await;
    assert!(!error.contains("ROUTER_MEMORY"), "{error}");
}

#[tokio::test]
async fn what_is_set_by_environment_is_heeded_and_help_does_not_show_secrets() {
    let output = program()
        .args(["--help"])
        .env("REDIS_URL", "redis://:hush@h")
        .env("ROUTER_ADMIN_TOKEN", "hush")
        .env("ROUTER_UPSTREAM", "https://me:hush@h")
        .output()
        .await
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !help.contains("hush"), "{help}");
    for name in [
        "ROUTER_LISTEN",
        "ROUTER_ADMIN_LISTEN",
        "ROUTER_ADMIN_TOKEN",
        "ROUTER_CONFIG",
        "ROUTER_UPSTREAM",
        "ROUTER_DRAIN_SECONDS",
        "REDIS_URL",
        "REDIS_MAX_CONNECTIONS",
        "CACHE_DEFAULT_TTL",
        "CACHE_METRICS_TTL",
        "[default: 3600]",
        "[default: 86400]",
        "[default: 50]",
    ] {
        assert!(help.contains(name), "{name}");
    }
    for (name, value) in [
        ("CACHE_DEFAULT_TTL", "soon"),
        ("REDIS_MAX_CONNECTIONS", "0"),
        ("CACHE_METRICS_TTL", "-1"),
        ("ROUTER_LISTEN", "x"),
        ("RUST_LOG", "a=b=c"),
    ] {
        let output = program().env(name, value).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
    }
}

#[tokio::test]
async fn switches_of_the_environment_are_told_in_the_usual_ways() {
    for (word, is_read_only) in [("1", true), ("true", true), ("yes", true), ("0", false), ("off", false)] {
        let router = Running::start_with(&[], &[("ROUTER_READ_ONLY", word), ("ROUTER_SIMULATOR_PACE", "instant")]).await;
        let answer = router.ask(chat("a question")).await;
        let status = answer.header("cache-status").unwrap();
        assert_eq!(status.contains("stored"), !is_read_only, "{word}: {status}");
    }
}
