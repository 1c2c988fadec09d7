//! The routers: this program again, as processes that are killed and come back.

use std::{
    process::Stdio,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::Mutex,
    time::timeout,
};

/// Set in the environment of a router.
pub const ROUTER: &str = "TRC_LOAD_ROUTER";

pub type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// One life of one router.
pub struct Life {
    pub client: HttpClient,
    pub public: String,
    admin: String,
    /// Set before the process is killed.
    killed: AtomicBool,
}

impl Life {
    pub fn was_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// What the admin listener answers; `None` if it does not, or with no success.
    pub async fn admin(&self, method: Method, path: &str, body: String) -> Option<Value> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.admin))
            .header("content-type", "application/json")
            .body(Full::from(body))
            .ok()?;
        let asked = async {
            let response = self.client.request(request).await.ok().filter(|response| response.status().is_success())?;
            serde_json::from_slice(&response.into_body().collect().await.ok()?.to_bytes()).ok()
        };
        timeout(Duration::from_secs(30), asked).await.ok()?
    }

    pub async fn stats(&self) -> Option<Value> {
        self.admin(Method::GET, "/cache/stats", String::new()).await
    }
}

struct Router {
    redis: String,
    log: tempfile::NamedTempFile,
    child: Mutex<Child>,
    life: RwLock<Arc<Life>>,
}

pub struct Routers {
    routers: Vec<Router>,
    upstream: String,
    ttl: u64,
}

/// How a router ended.
#[derive(Debug)]
pub struct Ended {
    pub resident_kib: u64,
    pub descriptors: usize,
    pub panics: u64,
    pub corrupt: u64,
    /// It drained when it was told to.
    pub cleanly: bool,
}

impl Routers {
    pub async fn start(redis: [String; 2], upstream: String, ttl: u64) -> Self {
        let mut routers = Vec::new();
        for redis in redis {
            let log = tempfile::NamedTempFile::new().unwrap();
            let (child, life) = spawn(&redis, &upstream, ttl, &log).await;
            routers.push(Router { redis, log, child: Mutex::new(child), life: RwLock::new(life) });
        }
        Self { routers, upstream, ttl }
    }

    pub fn life(&self, number: usize) -> Arc<Life> {
        Arc::clone(&self.routers[number].life.read().unwrap())
    }

    /// Kills a router, and starts it again after a while.
    pub async fn kill(&self, number: usize, down: Duration) {
        let router = &self.routers[number];
        let mut child = router.child.lock().await;
        self.life(number).killed.store(true, Ordering::SeqCst);
        child.start_kill().unwrap();
        child.wait().await.unwrap();
        tokio::time::sleep(down).await;
        let (again, life) = spawn(&router.redis, &self.upstream, self.ttl, &router.log).await;
        *child = again;
        *router.life.write().unwrap() = life;
    }

    /// Ends all, and says what they came to.
    pub async fn end(&self) -> Vec<Ended> {
        let mut all = Vec::new();
        for (number, router) in self.routers.iter().enumerate() {
            let mut child = router.child.lock().await;
            let stats = self.life(number).stats().await.unwrap_or_default();
            let id = child.id().unwrap_or_default();
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
            let descriptors = std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
            let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap_or_default()).expect("it runs");
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            let ended = timeout(Duration::from_secs(30), child.wait()).await;
            let log = std::fs::read_to_string(router.log.path()).unwrap_or_default();
            let panicked = log.lines().filter(|line| line.contains("panicked at")).count() as u64;
            all.push(Ended {
                resident_kib: resident.and_then(|text| text.trim().parse().ok()).unwrap_or_default(),
                descriptors,
                panics: stats["panics"].as_u64().unwrap_or_default() + panicked,
                corrupt: stats["corrupt"].as_u64().unwrap_or_default(),
                cleanly: matches!(ended, Ok(Ok(status)) if status.success()),
            });
        }
        all
    }
}

async fn spawn(redis: &str, upstream: &str, ttl: u64, log: &tempfile::NamedTempFile) -> (Child, Arc<Life>) {
    let stderr = std::fs::OpenOptions::new().append(true).open(log.path()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--sharing", "shared", "--memory-tier", "8MiB"])
        .args(["--redis-url", redis, "--upstream", upstream, "--default-ttl", &ttl.to_string()])
        .env(ROUTER, "1")
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut address = async |start: &str| {
        let line = lines.next_line().await.unwrap().unwrap_or_default();
        line.strip_prefix(start).unwrap_or_else(|| panic!("a router says {line:?}; see its log, {}", log.path().display())).to_owned()
    };
    let (public, admin) = (address("listening on ").await, address("admin listening on ").await);
    let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build_http();
    (child, Arc::new(Life { client, public, admin, killed: AtomicBool::new(false) }))
}
