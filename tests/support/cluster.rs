//! A real Cluster: three primaries, and a replica of each.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use redis::FromRedisValue;

use crate::server::{Server, free_port};

pub struct Cluster {
    /// Of the first, second and last third of all slots, at first.
    pub primaries: Vec<Server>,
    pub replicas: Vec<Server>,
    arguments: Vec<String>,
    /// Where each speaks TLS, if they do.
    tls_ports: Vec<u16>,
}

const SLOTS: usize = 16_384;

impl Cluster {
    /// One that is slow to call a server dead.
    pub fn start() -> Self {
        Self::start_with(&["--cluster-node-timeout", "20000"])
    }

    /// One that calls a server dead that was silent for two seconds.
    pub fn nervous() -> Self {
        Self::start_with(&["--cluster-node-timeout", "2000"])
    }

    /// With further arguments for each server, as on the command line.
    pub fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let servers = |count| -> Vec<Server> { (0..count).map(|_| start(&arguments)).collect() };
        Self { primaries: servers(3), replicas: servers(3), arguments: arguments.clone(), tls_ports: Vec::new() }.formed()
    }

    /// One that speaks TLS as well, as these arguments say.
    pub fn over_tls(arguments: &[&str]) -> Self {
        let arguments: Vec<String> =
            arguments.iter().chain(&["--cluster-node-timeout", "20000"]).map(|argument| (*argument).to_owned()).collect();
        let (mut servers, tls_ports): (Vec<Server>, Vec<u16>) = (0..6)
            .map(|_| {
                let mut port = 0;
                let server = attempt(&arguments, || {
                    port = free_port();
                    ["--tls-cluster", "yes", "--tls-replication", "yes", "--tls-port", &port.to_string()].map(str::to_owned).to_vec()
                });
                (server, port)
            })
            .unzip();
        let replicas = servers.split_off(3);
        Self { primaries: servers, replicas, arguments: Vec::new(), tls_ports }.formed()
    }

    fn formed(self) -> Self {
        let cluster = self;
        let all: Vec<&Server> = cluster.all().collect();
        for (place, server) in all.iter().enumerate() {
            let () = server.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
        }
        for (place, primary) in cluster.primaries.iter().enumerate() {
            let (first, last) = (SLOTS * place / 3, SLOTS * (place + 1) / 3 - 1);
            let () = primary.run(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        for (place, one) in all.iter().enumerate() {
            for other in &all[place + 1..] {
                meet(one, other);
            }
        }
        until("all know each other", || all.iter().all(|server| knows(server) == all.len()));
        for (primary, replica) in cluster.primaries.iter().zip(&cluster.replicas) {
            let () = replica.run(&["CLUSTER", "REPLICATE", &id(primary)]);
        }
        until("all are well", || {
            let is_copied = |replica: &Server| replica.run::<String>(&["INFO", "replication"]).contains("link_status:up");
            let sees_all = |server: &Server| {
                let nodes: String = server.run(&["CLUSTER", "NODES"]);
                let is_ok = server.run::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                is_ok && nodes.matches("slave ").count() == 3
            };
            cluster.replicas.iter().all(is_copied) && all.iter().all(|server| sees_all(server))
        });
        cluster
    }

    pub fn all(&self) -> impl Iterator<Item = &Server> {
        self.primaries.iter().chain(&self.replicas)
    }

    /// Names all of the servers that were there at first.
    pub fn url(&self) -> String {
        self.url_with("redis-cluster://")
    }

    /// With another beginning: a scheme, credentials.
    pub fn url_with(&self, beginning: &str) -> String {
        let ports = self.all().map(Server::port).zip(self.tls_ports.iter().map(Some).chain(std::iter::repeat(None)));
        let at: Vec<String> = ports.map(|(plain, tls)| format!("127.0.0.1:{}", tls.unwrap_or(&plain))).collect();
        format!("{beginning}{}", at.join(","))
    }

    /// Runs a command on each primary of the beginning.
    pub fn each<T>(&self, command: &[&str]) -> Vec<T>
    where
        T: FromRedisValue,
    {
        self.primaries.iter().map(|primary| primary.run(command)).collect()
    }

    /// The names of all keys that match.
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        self.each::<Vec<String>>(&["KEYS", pattern]).concat()
    }

    /// The primary of the beginning that has the slot of a key.
    pub fn has(&self, name: &str) -> usize {
        slot(&self.primaries[0], name) * 3 / SLOTS
    }

    /// A further server, that has no slots yet.
    pub fn join(&self) -> Server {
        let server = start(&self.arguments);
        for other in self.all() {
            meet(&server, other);
        }
        until("the new one is known", || {
            let is_well = |one: &Server| knows(one) == 7 && one.run::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
            self.all().chain([&server]).all(is_well)
        });
        server
    }
}

/// Begins to move a slot: from now on new keys are made where it goes to.
pub fn begin_to_move(slot: usize, from: &Server, to: &Server) {
    let slot = slot.to_string();
    let () = to.run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    let () = from.run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
}

/// Moves the keys of a slot that has begun to move.
pub fn move_keys(slot: usize, from: &Server, to: &Server) {
    loop {
        let names: Vec<Vec<u8>> = from.run(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "10"]);
        if names.is_empty() {
            return;
        }
        migrate(&names, from, to);
    }
}

/// Moves these keys, whose slot has begun to move.
pub fn migrate<T>(names: &[T], from: &Server, to: &Server)
where
    T: redis::ToRedisArgs,
{
    let mut command = redis::cmd("MIGRATE");
    command.arg("127.0.0.1").arg(to.port()).arg("").arg(0).arg(5000).arg("KEYS").arg(names);
    let _: String = command.query(&mut from.admin()).unwrap();
}

/// Gives a slot, whose keys have moved, to its new owner.
pub fn end_to_move(slot: usize, from: &Server, to: &Server) {
    for server in [to, from] {
        let () = server.run(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id(to)]);
    }
}

/// All of it.
pub fn move_slot(slot: usize, from: &Server, to: &Server) {
    begin_to_move(slot, from, to);
    move_keys(slot, from, to);
    end_to_move(slot, from, to);
}

pub fn slot(server: &Server, name: &str) -> usize {
    server.run(&["CLUSTER", "KEYSLOT", name])
}

/// Tries until a condition holds. The bound is a guard against hanging, not a measurement.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < patience, "never: {what}");
        sleep(Duration::from_millis(10));
    }
}

fn start(arguments: &[String]) -> Server {
    attempt(arguments, Vec::new)
}

/// With ports that may turn out to be taken: then others.
fn attempt(arguments: &[String], mut ports: impl FnMut() -> Vec<String>) -> Server {
    let started = (0..20).find_map(|_| {
        // The port that is usual may be too high a number.
        let bus = free_port().to_string();
        let own = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--repl-diskless-sync-delay", "0"];
        let own = own.into_iter().chain(["--cluster-allow-replica-migration", "no", "--cluster-replica-validity-factor", "0"]);
        Server::try_start(own.map(str::to_owned).chain(ports()).chain(arguments.iter().cloned()).collect())
    });
    started.expect("redis-server does not come up")
}

fn id(server: &Server) -> String {
    server.run(&["CLUSTER", "MYID"])
}

fn meet(one: &Server, other: &Server) {
    let nodes: String = other.run(&["CLUSTER", "NODES"]);
    let bus = nodes.lines().find(|line| line.contains("myself")).and_then(|line| line.split(['@', ' ', ',']).nth(2));
    let () = one.run(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), bus.unwrap()]);
}

/// How many servers it knows, those left out with whom it is still shaking hands.
fn knows(server: &Server) -> usize {
    let nodes: String = server.run(&["CLUSTER", "NODES"]);
    nodes.lines().filter(|line| !line.contains("handshake") && line.contains(" connected")).count()
}
