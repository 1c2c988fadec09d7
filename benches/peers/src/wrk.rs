//! Hits over sockets: a server on one core, wrk with 64 connections on another.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use bytes::Bytes;
use clap::ValueEnum;
use http::Method;
use tower_response_cache::{ApiPolicy, CacheLayer, HttpPolicy, Sharing, store::Memory};

use crate::subjects::ANSWER;

#[derive(Clone, Copy, ValueEnum)]
pub enum Subject {
    /// axum, and an answer that is there.
    Static,
    /// The same behind the cache.
    Cached,
    /// The same behind the cache by RFC 9111.
    CachedByHttp,
}

/// Prints requests per second of each, and what part that is of the first.
pub fn compare() {
    let directory = tempfile::tempdir().expect("there is room for a script");
    let script = directory.path().join("post.lua");
    fs::write(&script, post_script()).expect("there is room for a script");
    let plain = Server::start(Subject::Static);
    let cached = Server::start(Subject::Cached);
    let by_http = Server::start(Subject::CachedByHttp);
    let nginx = Server::nginx(plain.port, directory.path());

    let mut rows = vec![
        ("axum, static, GET", plain.port, None),
        ("axum, hit in memory, GET, ApiPolicy", cached.port, None),
        ("axum, hit in memory, GET, HttpPolicy", by_http.port, None),
        ("axum, hit in memory, POST 1 KB, ApiPolicy", cached.port, Some(script.as_path())),
    ];
    match &nginx {
        Some(nginx) => rows.push(("nginx, proxy_cache hit, GET", nginx.port, None)),
        None => eprintln!("nginx is not installed: left out"),
    }
    let mut measured = vec![Vec::new(); rows.len()];
    for round in 0..ROUNDS {
        for ((name, port, script), rates) in rows.iter().zip(&mut measured) {
            eprintln!("round {} of {ROUNDS}: {name}", round + 1);
            rates.push(load(*port, *script));
        }
    }

    println!("| 8 KB, one core, 64 connections | k req/s | of the first |\n|---|---|---|");
    let mut first = None;
    for ((name, ..), mut rates) in rows.iter().zip(measured) {
        rates.sort_by(f64::total_cmp);
        let median = rates[ROUNDS / 2];
        println!("| {name} | {:.1} | {:.2}x |", median / 1e3, median / *first.get_or_insert(median));
    }
}

/// Serves until it is killed.
pub fn serve(subject: Subject) {
    let answer = Bytes::from(vec![b'x'; ANSWER]);
    let item = move || {
        let answer = answer.clone();
        async move { ([("cache-control", "max-age=3600"), ("content-type", "text/plain")], answer) }
    };
    let app = Router::new().route("/item", get(item.clone())).route("/chat", post(item));
    let api = ApiPolicy::new(Sharing::PerCredential).methods([Method::GET, Method::POST]);
    let app = match subject {
        Subject::Static => app,
        Subject::Cached => app.layer(CacheLayer::new(Memory::default(), api)),
        Subject::CachedByHttp => app.layer(CacheLayer::new(Memory::default(), HttpPolicy::shared())),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a port");
        println!("{}", listener.local_addr().expect("it is bound").port());
        axum::serve(listener, app).await.expect("it serves");
    });
}

const ROUNDS: usize = 5;

/// Requests per second.
fn load(port: u16, script: Option<&Path>) -> f64 {
    let mut command = Command::new("taskset");
    command.args(["-c", "1", "wrk", "-t1", "-c64", "-d4s"]);
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    let path = if script.is_some() { "chat" } else { "item" };
    let output = command.arg(format!("http://127.0.0.1:{port}/{path}")).output().expect("wrk and taskset are installed");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(!told.contains("Non-2xx"), "{told}");
    let rate = told.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.and_then(|rate| rate.trim().parse().ok()).unwrap_or_else(|| panic!("wrk tells no rate: {told}"))
}

fn post_script() -> String {
    let turn = r#"{"role":"user","content":"Tell me about the history of the lighthouse, in a few sentences."},"#.repeat(9);
    let body = format!(r#"{{"model":"gpt-4o-mini","messages":[{turn}{{"role":"user","content":"Go on."}}],"stream":false}}"#);
    format!("wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\nwrk.body = [[{body}]]\n")
}

/// A process of our own on the first core, ended with us.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(subject: Subject) -> Self {
        let name = subject.to_possible_value().expect("none is hidden");
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(std::env::current_exe().expect("it runs")).args(["serve", name.get_name()]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("taskset is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says its port");
        Self { child, port: line.trim().parse().expect("it says its port") }
    }

    /// nginx with `proxy_cache` in front of `origin`; `None` if it is not installed.
    fn nginx(origin: u16, directory: &Path) -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("there is a port").port();
        let at = directory.display();
        let settings = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log stderr; events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n\
             uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi; proxy_cache_path {at}/cache keys_zone=main:1m;\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_cache main; }} }} }}\n"
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, settings).expect("there is room for settings");
        let child =
            Command::new("taskset").args(["-c", "0", "nginx", "-e", "stderr", "-c"]).arg(&file).spawn().expect("taskset is installed");
        let mut nginx = Self { child, port };
        loop {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(nginx);
            }
            if nginx.child.try_wait().expect("it is our child").is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // nginx passes SIGTERM on to its worker; SIGKILL would leave it behind.
        let pid = self.child.id().to_string();
        Command::new("kill").arg(pid).status().ok();
        self.child.wait().ok();
    }
}
