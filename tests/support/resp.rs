//! A server that speaks the protocol of Redis and answers as a script says.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

pub type Script = Arc<dyn Fn(&[Vec<u8>]) -> Vec<u8> + Send + Sync>;

/// Listens on a port of its own.
pub struct Resp {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    commands: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Resp {
    /// Answers each command, a list of words, with the bytes that the script returns.
    pub async fn start(script: impl Fn(&[Vec<u8>]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, commands): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let script: Script = Arc::new(script);
        let accepting = tokio::spawn({
            let (accepted, commands) = (Arc::clone(&accepted), Arc::clone(&commands));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&commands)));
                }
            }
        });
        Self { address, accepted, commands, accepting }
    }

    /// Answers every command with one error.
    pub async fn refusing(error: &'static str) -> Self {
        Self::start(move |_| format!("-{error}\r\n").into_bytes()).await
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn commands(&self) -> usize {
        self.commands.load(Ordering::SeqCst)
    }
}

impl Drop for Resp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, script: Script, commands: Arc<AtomicUsize>) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    while let Some(words) = command(&mut stream).await {
        commands.fetch_add(1, Ordering::SeqCst);
        if stream.write_all(&script(&words)).await.is_err() {
            return;
        }
    }
}

async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<Vec<u8>>> {
    let count = number(stream).await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; number(stream).await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some(words)
}

async fn number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}
