//! What goes wrong, and when: by the seed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use http::Method;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    callers::Invalidations,
    proxy::{Proxy, Way},
    redis_server::Server,
    routers::Routers,
    upstream::MODELS,
};

pub struct Faults {
    rng: Rng,
    start: Instant,
    server: Server,
    proxies: [Proxy; 2],
    routers: Arc<Routers>,
    invalidations: Arc<Invalidations>,
    counts: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
    Full,
    Flush,
    Tamper,
    Reset,
    HalfOpen,
    BlackHole,
    Refuse,
    Slow,
    Cut,
    InvalidateModel,
    InvalidateAll,
    KillRouter,
}

const ALL: [Fault; 14] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::Full,
    Fault::Flush,
    Fault::Tamper,
    Fault::Reset,
    Fault::HalfOpen,
    Fault::BlackHole,
    Fault::Refuse,
    Fault::Slow,
    Fault::Cut,
    Fault::InvalidateModel,
    Fault::InvalidateAll,
    Fault::KillRouter,
];

impl Faults {
    pub fn new(
        seed: u64,
        start: Instant,
        server: Server,
        proxies: [Proxy; 2],
        routers: Arc<Routers>,
        invalidations: Arc<Invalidations>,
    ) -> Self {
        Self { rng: Rng::with_seed(seed), start, server, proxies, routers, invalidations, counts: BTreeMap::new() }
    }

    /// Breaks things until the end, one after the other, each put right before the next.
    pub async fn run(&mut self, end: tokio::time::Instant) {
        let mut due = Vec::new();
        while tokio::time::Instant::now() < end {
            // Each once before any twice, so that a short run has seen all.
            if due.is_empty() {
                due = ALL.to_vec();
                self.rng.shuffle(&mut due);
            }
            let calm = Duration::from_millis(self.rng.u64(200..2500));
            sleep(calm.min(end - tokio::time::Instant::now())).await;
            if let Some(fault) = due.pop().filter(|_| tokio::time::Instant::now() < end) {
                self.cause(fault).await;
            }
        }
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.clone()
    }

    /// Whether both routers use Redis again, now that nothing goes wrong.
    pub async fn recovered(&self) -> bool {
        for number in 0..2 {
            let (mut closed, mut stats) = (false, serde_json::Value::Null);
            // Probes come at most a second apart.
            for _ in 0..100 {
                stats = self.routers.life(number).stats().await.unwrap_or_default();
                closed = stats["redis"]["link"] == "closed" && stats["redis"]["memory_tier"]["tracked"] == true;
                if closed {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
            if !closed {
                println!("router {number} does not use Redis again: {}", stats["redis"]);
                return false;
            }
        }
        true
    }

    async fn cause(&mut self, fault: Fault) {
        let time = Duration::from_millis(self.rng.u64(100..3000));
        let which = self.rng.usize(..2);
        let begun = self.start.elapsed();
        let seconds = time.as_secs_f64();
        let proxy = &self.proxies[which];
        let (name, what) = match fault {
            Fault::Kill => {
                self.server.kill();
                sleep(time).await;
                self.server.restart();
                ("redis killed", format!("for {seconds:.1} s"))
            }
            Fault::Freeze => {
                self.server.freeze();
                sleep(time).await;
                self.server.thaw();
                ("redis stopped", format!("for {seconds:.1} s"))
            }
            Fault::Full => {
                let () = self.server.run(&["CONFIG", "SET", "maxmemory", "1mb"]);
                sleep(time).await;
                let () = self.server.run(&["CONFIG", "SET", "maxmemory", "0"]);
                ("redis full", format!("for {seconds:.1} s"))
            }
            Fault::Flush => {
                let () = self.server.run(&["FLUSHALL"]);
                ("redis flushed", String::new())
            }
            Fault::Tamper => ("values tampered with", self.tamper().to_string()),
            Fault::Reset => {
                proxy.reset();
                ("links reset", format!("of router {which}"))
            }
            Fault::HalfOpen => {
                proxy.forget();
                ("links half open", format!("of router {which}"))
            }
            Fault::BlackHole | Fault::Refuse => {
                let (way, name) =
                    if matches!(fault, Fault::Refuse) { (Way::Refuse, "links refused") } else { (Way::BlackHole, "links black-holed") };
                proxy.set(way);
                proxy.reset();
                sleep(time).await;
                proxy.set(Way::Open);
                proxy.reset();
                (name, format!("of router {which} for {seconds:.1} s"))
            }
            Fault::Slow => {
                let delay = Duration::from_millis(self.rng.u64(5..200));
                proxy.delay(delay);
                sleep(time).await;
                proxy.delay(Duration::ZERO);
                ("links slow", format!("of router {which} for {seconds:.1} s, by {delay:?}"))
            }
            Fault::Cut => {
                let bytes = self.rng.usize(1..20_000);
                proxy.cut_after(Some(bytes));
                sleep(time).await;
                proxy.cut_after(None);
                ("links cut", format!("of router {which} after {bytes} bytes"))
            }
            Fault::InvalidateModel | Fault::InvalidateAll => {
                let model = matches!(fault, Fault::InvalidateModel).then(|| self.rng.usize(..MODELS));
                let body = match model {
                    Some(model) => json!({"pattern": format!("model=load-{model}")}),
                    None => json!({"all": true}),
                };
                let told = self.routers.life(which).admin(Method::POST, "/cache/invalidate", body.to_string()).await;
                if told.is_some() {
                    self.invalidations.confirmed(model, begun);
                }
                let told = told.map_or_else(|| "not confirmed".to_owned(), |told| told.to_string());
                (if model.is_some() { "model invalidated" } else { "all invalidated" }, told)
            }
            Fault::KillRouter => {
                self.routers.kill(which, time).await;
                ("router killed", format!("{which} for {seconds:.1} s"))
            }
        };
        println!("{:>6.1} s  {name} {what}", begun.as_secs_f64());
        *self.counts.entry(name).or_default() += 1;
    }

    /// Damages records, swaps them, and puts other things in their place. Says how many.
    fn tamper(&mut self) -> usize {
        let mut names = self.server.records("trc");
        names.retain(|name| !name.ends_with(":lease"));
        self.rng.shuffle(&mut names);
        names.truncate(60);
        let mut admin = self.server.admin();
        for (place, name) in names.iter().enumerate() {
            let value: Vec<u8> = redis::cmd("GET").arg(name).query(&mut admin).unwrap_or_default();
            if value.is_empty() {
                continue;
            }
            let at = self.rng.usize(..value.len());
            let other = &names[self.rng.usize(..names.len())];
            let done: redis::RedisResult<()> = match place % 5 {
                0 => redis::cmd("SETRANGE").arg(name).arg(at).arg(&[value[at] ^ (1 << self.rng.u8(..8))][..]).query(&mut admin),
                1 => redis::cmd("SET").arg(name).arg(&value[..at]).arg("KEEPTTL").query(&mut admin),
                2 => redis::cmd("COPY").arg(other).arg(name).arg("REPLACE").query(&mut admin),
                3 => redis::cmd("APPEND").arg(name).arg("more").query(&mut admin),
                _ => {
                    let gone: redis::RedisResult<()> = redis::cmd("DEL").arg(name).query(&mut admin);
                    gone.and_then(|()| redis::cmd("RPUSH").arg(name).arg("no string").query(&mut admin))
                }
            };
            // Redis may be full, or the record just gone.
            drop(done);
        }
        names.len()
    }
}
