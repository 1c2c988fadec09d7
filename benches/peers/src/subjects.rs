//! Who is compared: each answers the same `GET` with the same 8 KB.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use hitbox::policy::PolicyConfig;
use hitbox_http::{
    extractors::{self, path::PathExtractor as _},
    predicates::{NeutralRequestPredicate, NeutralResponsePredicate},
};
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{ApiPolicy, BoxError, CacheLayer, HttpPolicy, Sharing, store};

use crate::table::{Subject, Subjects};

pub const ANSWER: usize = 8 << 10;

/// Its type is long, and inferred.
macro_rules! hitbox_config {
    () => {
        hitbox::Config::builder()
            .request_predicate(NeutralRequestPredicate::new())
            .response_predicate(NeutralResponsePredicate::new())
            .extractor(extractors::Method::new().path("/{path}*"))
            .policy(PolicyConfig::builder().ttl(HOUR).build())
            .build()
    };
}

/// Hits in memory, beside the bare service.
pub fn memory() -> Subjects {
    let runtime = runtime();
    let guard = runtime.enter();
    let mut subjects = vec![cached("no cache", origin())];

    let api = ApiPolicy::new(Sharing::PerCredential).methods([Method::GET, Method::POST]);
    subjects.push(cached("tower-response-cache, ApiPolicy", CacheLayer::new(store::Memory::default(), api).layer(origin())));
    let http = CacheLayer::new(store::Memory::default(), HttpPolicy::shared());
    subjects.push(cached("tower-response-cache, HttpPolicy", http.layer(origin())));

    let peer = tower_http_cache::prelude::InMemoryBackend::new(1000);
    subjects.push(cached("tower-http-cache 0.6", tower_http_cache::prelude::CacheLayer::builder(peer).ttl(HOUR).build().layer(origin())));

    let backend = hitbox_moka::MokaBackend::builder().max_entries(1000).value_format(hitbox_backend::format::BincodeFormat);
    let peer = hitbox_tower::Cache::builder().backend(backend.build()).config(hitbox_config!()).build();
    subjects.push(cached("hitbox 0.2, moka, bincode", peer.layer(origin())));

    let peer = http_cache_tower::HttpCacheLayer::new(http_cache::MokaManager::default());
    subjects.push(cached("http-cache-tower 1.0-alpha, moka", peer.layer(origin())));
    drop(guard);
    Subjects { runtime, subjects }
}

/// Hits in Redis, beside a bare `GET` of the same value on a connection of the same client.
pub fn redis() -> (Server, Subjects) {
    let server = Server::start();
    let runtime = runtime();
    let guard = runtime.enter();
    let manager =
        runtime.block_on(async { redis::Client::open(server.url())?.get_connection_manager().await }).expect("redis-server is up");

    let bare = manager.clone();
    let () = runtime.block_on(redis::cmd("SET").arg("bare").arg(vec![b'x'; ANSWER]).query_async(&mut manager.clone())).expect("it stores");
    let mut subjects = vec![Subject::new("bare GET", move || {
        let mut connection = bare.clone();
        async move {
            let value: Vec<u8> = redis::cmd("GET").arg("bare").query_async(&mut connection).await.expect("it answers");
            assert_eq!(value.len(), ANSWER);
        }
    })];

    let api = ApiPolicy::new(Sharing::PerCredential).methods([Method::GET, Method::POST]);
    let store = store::Redis::builder(server.url()).build().expect("the URL is one");
    subjects.push(cached("tower-response-cache, ApiPolicy", CacheLayer::new(store, api).layer(origin())));

    let peer = tower_http_cache::backend::redis::RedisBackend::new(manager);
    subjects.push(cached("tower-http-cache 0.6", tower_http_cache::prelude::CacheLayer::builder(peer).ttl(HOUR).build().layer(origin())));

    let backend = hitbox_redis::RedisBackend::builder().connection(hitbox_redis::ConnectionMode::single(server.url()));
    let peer = hitbox_tower::Cache::builder().backend(backend.build().expect("the URL is one")).config(hitbox_config!()).build();
    subjects.push(cached("hitbox 0.2, bincode", peer.layer(origin())));
    drop(guard);
    (server, Subjects { runtime, subjects })
}

const HOUR: Duration = Duration::from_secs(3600);

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

fn cached<S, B>(name: &'static str, service: S) -> Subject
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: std::fmt::Debug> + Clone + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    Subject::new(name, move || {
        let service = service.clone();
        async move {
            let request = Request::get("http://origin/item").body(Full::default()).expect("it is a request");
            let response = service.oneshot(request).await.expect("it answers");
            let body = response.into_body().collect().await.map_err(Into::into).expect("the body is whole").to_bytes();
            assert_eq!(body.len(), ANSWER);
        }
    })
}

/// The service under the caches: an answer that is there.
fn origin<B>()
-> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
where
    B: Send + 'static,
{
    let body = Bytes::from(vec![b'x'; ANSWER]);
    service_fn(move |_| {
        let response = Response::builder().header("content-type", "text/plain").header("content-length", ANSWER);
        let response = response.header("cache-control", "max-age=3600").body(Full::new(body.clone()));
        std::future::ready(Ok(response.expect("it is a response")))
    })
}

/// A Redis server of our own, ended with us.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("there is a port").port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port"]).arg(port.to_string());
        let mut child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(child.try_wait().expect("it is our child").is_none(), "redis-server ends at once");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
