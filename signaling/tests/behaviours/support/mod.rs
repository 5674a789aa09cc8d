//! Real servers on loopback, a real Redis, and a client of protocol v1 that says what it sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs, unreachable_pub)]

pub mod clients;
pub mod node;
pub mod plain;
pub mod raw;
pub mod servers;
pub mod token;

use futures::{SinkExt, StreamExt};
pub use rtc_signaling::store::{Shared, redis::RedisRooms};
use rtc_signaling::{Server, ice::NoIce, server::Builder, store::memory::MemoryRooms};
pub use rtc_signaling_proto::ops::RoomLimits;
use serde_json::{Value, json};
use std::{
    io::ErrorKind,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// Longer than anything here takes, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis of this test's own.
pub struct Redis {
    child: Child,
    pub port: u16,
    /// Where a replica puts what it gets of its master.
    _dir: tempfile::TempDir,
}

impl Redis {
    /// On a free port.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// On a port that one had before.
    pub fn on(port: u16) -> Self {
        Self::try_on(port).expect("the port is taken")
    }

    /// On a free port, with more of its settings.
    pub fn start_with(more: &[String]) -> Self {
        loop {
            // another test may have taken the port meanwhile
            if let Some(redis) = Self::try_on_with(servers::free_port(), more) {
                return redis;
            }
        }
    }

    fn try_on(port: u16) -> Option<Self> {
        Self::try_on_with(port, &[])
    }

    fn try_on_with(port: u16, more: &[String]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let started = Command::new("redis-server")
            .arg("--dir")
            .arg(dir.path())
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("redis-server is not installed; on Debian: apt-get install redis-server")
            }
            Err(error) => panic!("cannot start redis-server: {error}"),
        };
        let mut redis = Self { child, port, _dir: dir };
        let end = std::time::Instant::now() + PATIENCE;
        while redis.process() != Some(redis.child.id()) {
            if redis.child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(std::time::Instant::now() < end, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(redis)
    }

    /// Who serves the port.
    fn process(&self) -> Option<u32> {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().ok()?;
        let info: String = redis::cmd("INFO").arg("server").query(&mut connection).ok()?;
        info.lines().find_map(|line| line.strip_prefix("process_id:"))?.trim().parse().ok()
    }

    /// Stops it in the middle of whatever it does; it keeps its sockets.
    pub fn freeze(&self) {
        servers::send(&self.child, rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        servers::send(&self.child, rustix::process::Signal::CONT);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// One command, as redis-cli would send it.
    pub async fn command(&self, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where rooms are kept in a test.
pub struct Backend {
    pub shared: Shared,
    pub redis: Option<Redis>,
}

impl Backend {
    pub fn memory() -> Self {
        Self::memory_with(RoomLimits::default())
    }

    pub fn memory_with(limits: RoomLimits) -> Self {
        rtc_service::log::init(rtc_service::log::LogFormat::Text, "off");
        Self { shared: Shared::Memory(MemoryRooms::new(limits)), redis: None }
    }

    pub fn redis() -> Self {
        Self::redis_with(RoomLimits::default())
    }

    pub fn redis_with(limits: RoomLimits) -> Self {
        rtc_service::log::init(rtc_service::log::LogFormat::Text, "off");
        let redis = Redis::start();
        let shared = Shared::Redis(RedisRooms::new(&redis.url(), limits).unwrap());
        Self { shared, redis: Some(redis) }
    }

    /// On servers that the test has started.
    pub fn on(shared: Shared) -> Self {
        rtc_service::log::init(rtc_service::log::LogFormat::Text, "off");
        Self { shared, redis: None }
    }

    pub fn builder(&self) -> Builder {
        Server::builder(self.shared.clone(), Arc::new(NoIce))
    }

    pub async fn replica(&self) -> Replica {
        Replica::start(self.builder()).await
    }
}

/// A replica that listens.
#[derive(Clone)]
pub struct Replica {
    pub server: Arc<Server>,
    pub address: SocketAddr,
}

impl Replica {
    pub async fn start(builder: Builder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = builder.start();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Self { server, address }
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    pub async fn join(&self, room: &str) -> Client {
        let mut client = self.connect().await;
        client.join(room).await;
        client
    }
}

/// A replica that can be killed without a word: a runtime of its own.
pub struct Mortal {
    runtime: Option<tokio::runtime::Runtime>,
    pub replica: Replica,
}

impl Mortal {
    pub fn start(builder: Builder) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(async move { sender.send(Replica::start(builder).await).unwrap() });
        let replica = receiver.recv_timeout(PATIENCE).unwrap();
        Self { runtime: Some(runtime), replica }
    }

    /// Every task ends where it stands; nothing is given back.
    pub fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client of protocol v1.
pub struct Client {
    pub socket: Socket,
    /// The last `joined`.
    pub joined: Value,
    pub epoch: u64,
    pub seq: u64,
}

/// What a client saw.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Frame(Value),
    Closed(Option<u16>),
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_at(address, "/v1/connect").await
    }

    pub async fn connect_at(address: SocketAddr, path: &str) -> Self {
        let url = format!("ws://{address}{path}");
        let (socket, _) = tokio::time::timeout(PATIENCE, connect_async(url)).await.unwrap().unwrap();
        Self { socket, joined: Value::Null, epoch: 0, seq: 0 }
    }

    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next frame or the end.
    pub async fn next(&mut self) -> Seen {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match message.expect("the server says nothing") {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if let (Some(epoch), Some(seq)) = (frame["epoch"].as_u64(), frame["seq"].as_u64()) {
                        (self.epoch, self.seq) = (epoch, seq);
                    }
                    return Seen::Frame(frame);
                }
                Some(Ok(Message::Close(frame))) => return Seen::Closed(frame.map(|f| f.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Seen::Closed(None),
            }
        }
    }

    pub async fn frame(&mut self) -> Value {
        match self.next().await {
            Seen::Frame(frame) => frame,
            Seen::Closed(code) => panic!("closed with {code:?}"),
        }
    }

    /// The next frame, which must be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// Frames until one of this type.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Frames until the end; its code.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Seen::Closed(code) = self.next().await {
                return code;
            }
        }
    }

    /// Asserts that nothing is under way to this client: a ping is answered before anything else.
    pub async fn expect_nothing(&mut self) {
        self.send(json!({"type": "ping", "id": "nothing"})).await;
        let frame = self.frame().await;
        assert_eq!(frame["type"], "pong", "{frame}");
    }

    pub async fn join(&mut self, room: &str) -> Value {
        self.join_with(json!({"type": "join", "room": room})).await
    }

    pub async fn join_with(&mut self, join: Value) -> Value {
        self.send(join).await;
        self.joined = self.expect("joined").await;
        self.joined.clone()
    }

    pub fn id(&self) -> String {
        self.joined["session"].as_str().unwrap().to_owned()
    }

    pub fn token(&self) -> Value {
        self.joined["resume"].clone()
    }

    pub async fn signal(&mut self, to: Option<&str>, data: Value) {
        match to {
            Some(to) => self.send(json!({"type": "signal", "to": to, "data": data})).await,
            None => self.send(json!({"type": "signal", "data": data})).await,
        }
    }

    /// Goes on with this client's session on another connection.
    pub async fn resume_at(&self, replica: &Replica) -> Self {
        let mut next = replica.connect().await;
        next.joined = self.joined.clone();
        (next.epoch, next.seq) = (self.epoch, self.seq);
        next.send(json!({"type": "resume", "resume": self.token(), "epoch": self.epoch, "seq": self.seq}))
            .await;
        next
    }
}

/// Until something is so.
pub async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is().await {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One test for each kind of store.
#[macro_export]
macro_rules! on_each_store {
    ($($(#[$attribute:meta])* async fn $name:ident($backend:ident: Backend) $body:block)*) => {
        $(
            mod $name {
                use super::*;
                $(#[$attribute])*
                async fn scenario($backend: Backend) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn memory() {
                    scenario(Backend::memory()).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn redis() {
                    scenario(Backend::redis()).await;
                }
            }
        )*
    };
}
