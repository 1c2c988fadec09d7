//! Real Redis servers, each a child process of the test with a directory of its own.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Connection, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A Redis server on a port of its own, without persistence. Killed and reaped when dropped.
pub struct Server {
    child: Child,
    port: u16,
    directory: TempDir,
    arguments: Vec<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments, as on the command line.
    pub fn start_with(arguments: &[&str]) -> Self {
        // Another may take the port between our look and the server's: then the next one.
        let started = (0..20).find_map(|_| Self::try_start(arguments.iter().map(|argument| (*argument).to_owned()).collect()));
        started.expect("redis-server does not come up")
    }

    /// `None` if another has taken its port.
    pub fn try_start(arguments: Vec<String>) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut child = spawn(port, &directory, &arguments);
        if is_up(port, &mut child) {
            return Some(Self { child, port, directory, arguments });
        }
        child.kill().ok();
        child.wait().unwrap();
        None
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// A connection of the test's own, that blocks.
    pub fn admin(&self) -> Connection {
        connect(self.port).expect("the server is up")
    }

    /// Runs one command.
    pub fn run<T>(&self, command: &[&str]) -> T
    where
        T: FromRedisValue,
    {
        self.try_run(command).unwrap()
    }

    /// Runs one command on a server that may be about to close its connections.
    pub fn try_run<T>(&self, command: &[&str]) -> RedisResult<T>
    where
        T: FromRedisValue,
    {
        let mut it = redis::cmd(command[0]);
        it.arg(&command[1..]);
        it.query(&mut connect(self.port)?)
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.run(&["KEYS", "*"])
    }

    /// The records of a cache and their leases, by name.
    pub fn records(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = self.run(&["KEYS", &format!("{prefix}:{{??}}?*")]);
        names.retain(|name| !name.ends_with(":wanted") && !name.contains(":live:"));
        names.sort();
        names
    }

    /// Listens to all commands from now on.
    pub fn monitor(&self) -> Monitor {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        assert_eq!(first, "+OK\r\n");
        let reading = std::thread::spawn(move || {
            let mut told = Vec::new();
            reader.read_to_end(&mut told).ok();
            String::from_utf8_lossy(&told).into_owned()
        });
        Monitor { stream, reading }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after [`kill`](Self::kill), on the same port.
    pub fn restart(&mut self) {
        for _ in 0..50 {
            self.child = spawn(self.port, &self.directory, &self.arguments);
            if is_up(self.port, &mut self.child) {
                return;
            }
            self.child.wait().unwrap();
        }
        panic!("redis-server does not come up again");
    }

    /// SIGSTOP: it is there, and does nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A primary, a replica, and sentinels that watch them: three, if nothing else is said.
pub struct Fleet {
    pub primary: Server,
    pub replica: Server,
    sentinels: Vec<Sentinel>,
    /// Where the sentinels speak TLS, if all speak that.
    tls_ports: Vec<u16>,
}

/// One who watches a primary under the name `main`.
pub struct Sentinel {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Fleet {
    pub fn start() -> Self {
        let primary = Server::start();
        let replica = Server::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string(), "--repl-diskless-sync-delay", "0"]);
        let sentinels = (0..3).map(|_| Sentinel::start(primary.port(), 2, "")).collect();
        Self { primary, replica, sentinels, tls_ports: Vec::new() }.formed()
    }

    /// With one sentinel. All speak TLS to one another, and to others, with these certificates: as arguments, and as lines of a file.
    pub fn over_tls(arguments: &[&str], lines: &str) -> Self {
        let [of_primary, of_replica] = [free_port(), free_port()].map(|port| port.to_string());
        let primary = Server::start_with(&[arguments, &["--tls-port", &of_primary, "--tls-replication", "yes"]].concat());
        let follows = ["--replicaof", "127.0.0.1", &of_primary, "--repl-diskless-sync-delay", "0"];
        let replica = Server::start_with(&[arguments, &["--tls-port", &of_replica, "--tls-replication", "yes"], &follows].concat());
        let watched = of_primary.parse().unwrap();
        // Alone, it does not lose time over who of them is to act.
        let port = free_port();
        let sentinel = Sentinel::start(watched, 1, &format!("tls-port {port}\ntls-replication yes\n{lines}"));
        Self { primary, replica, sentinels: vec![sentinel], tls_ports: vec![port] }.formed()
    }

    /// Once all know of each other.
    fn formed(self) -> Self {
        let fleet = self;
        let is_watched = |sentinel: &Sentinel| {
            let know = |what: &str| -> usize {
                let mut command = redis::cmd("SENTINEL");
                command.arg(what).arg("main");
                command.query::<Vec<redis::Value>>(&mut connect(sentinel.port).unwrap()).map_or(0, |known| known.len())
            };
            know("REPLICAS") == 1 && know("SENTINELS") + 1 == fleet.sentinels.len()
        };
        let patience = Instant::now() + Duration::from_secs(30);
        while !fleet.sentinels.iter().all(is_watched) || !fleet.replica.run::<String>(&["INFO", "replication"]).contains("link_status:up") {
            assert!(Instant::now() < patience, "the sentinels never found each other");
            std::thread::sleep(Duration::from_millis(20));
        }
        fleet
    }

    pub fn url(&self) -> String {
        let plain = self.sentinels.iter().map(|sentinel| sentinel.port);
        let (scheme, ports): (_, Vec<u16>) =
            if self.tls_ports.is_empty() { ("redis-sentinel", plain.collect()) } else { ("rediss-sentinel", self.tls_ports.clone()) };
        let at: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("{scheme}://{}/main/0", at.join(","))
    }

    /// Makes the replica the primary, while both are well. A sentinel that knows no fit replica yet refuses.
    pub fn fail_over(&self) {
        let patience = Instant::now() + Duration::from_secs(30);
        let mut sentinel = connect(self.sentinels[0].port).unwrap();
        while let Err(refusal) = redis::cmd("SENTINEL").arg("FAILOVER").arg("main").query::<()>(&mut sentinel) {
            assert!(Instant::now() < patience, "the sentinel never agreed: {refusal}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGSTOP to one of the sentinels.
    pub fn freeze_a_sentinel(&self) {
        kill_process(Pid::from_child(&self.sentinels[0].child), Signal::STOP).unwrap();
    }
}

impl Sentinel {
    /// With further settings, as in a file. So many have to agree that the primary is gone.
    pub fn start(watched: u16, quorum: u32, further: &str) -> Self {
        for _ in 0..20 {
            let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
            let settings = directory.path().join("sentinel.conf");
            // Half a second of silence is death.
            let text = format!(
                "port {port}\nbind 127.0.0.1\nloglevel warning\nsentinel monitor main 127.0.0.1 {watched} {quorum}\n\
                 sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n{further}"
            );
            std::fs::write(&settings, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&settings).arg("--sentinel").current_dir(directory.path()).stdin(Stdio::null());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            if is_up(port, &mut child) {
                return Self { child, port, _directory: directory };
            }
            child.kill().ok();
            child.wait().unwrap();
        }
        panic!("a sentinel does not come up");
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// See [`Server::monitor`].
pub struct Monitor {
    stream: TcpStream,
    reading: std::thread::JoinHandle<String>,
}

impl Monitor {
    /// What it heard.
    pub fn finish(self) -> String {
        self.stream.shutdown(Shutdown::Both).unwrap();
        self.reading.join().unwrap()
    }
}

/// A port on which nobody listens now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, directory: &TempDir, arguments: &[String]) -> Child {
    let spawned = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .args(["--enable-debug-command", "yes", "--dir"])
        .arg(directory.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match spawned {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("these tests need a redis-server: apt-get install redis-server"),
        spawned => spawned.unwrap(),
    }
}

fn is_up(port: u16, child: &mut Child) -> bool {
    let patience = Instant::now() + Duration::from_secs(10);
    while Instant::now() < patience {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        // A log-in that is asked for is an answer, too.
        match connect(port).map(|mut connection| redis::cmd("PING").query::<String>(&mut connection)) {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) if error.code() == Some("NOAUTH") => return true,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    false
}

fn connect(port: u16) -> redis::RedisResult<Connection> {
    let connection = redis::Client::open(format!("redis://127.0.0.1:{port}/0"))?.get_connection_with_timeout(Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(connection)
}
