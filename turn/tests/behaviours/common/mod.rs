//! A server on loopback, a tiny client, and a peer that echoes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

pub mod certificate;
pub mod dtls;

use dtls::DtlsClient;
pub mod namespace;

use rtc_credentials::{Key, KeyRing, KeyState, Secret, Transport, mint};
use rtc_service::clock::unix_now;
use rtc_turn::{Config, Handle, Server, Settings};
use rtc_turn_proto::{
    channel_data::{self, Channels},
    client::{Answer, Client},
    framing::{self, Frame},
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Join},
    net::{TcpStream, UdpSocket},
    process::{ChildStdin, ChildStdout},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

pub const SECRET: &str = "a secret for trying out";
pub const OK: Answer = Answer::Success { relayed: None, lifetime: None };

pub fn config() -> Config {
    settings().resolve().unwrap()
}

pub fn settings() -> Settings {
    Settings {
        listen: vec!["udp://127.0.0.1:0".parse().unwrap(), "tcp://127.0.0.1:0".parse().unwrap()],
        relay_address: vec!["127.0.0.1".parse().unwrap()],
        // above the ports that the system picks for listeners and peers
        relay_ports: Some("61000-65535".parse().unwrap()),
        realm: Some("example.org".into()),
        secret: Some(SECRET.parse().unwrap()),
        allow_peer: vec!["127.0.0.1/32".parse().unwrap()],
        workers: Some(2),
        admin: Some("127.0.0.1:0".parse().unwrap()),
        ..Settings::default()
    }
}

pub async fn start(config: Config) -> Handle {
    let server = Server::start(config).await.unwrap();
    within("readiness", server.ready()).await;
    server
}

/// A deadline for what should happen at once, so that a fault is a failure and not a hang.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until a condition holds that another thread brings about.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn address(server: &Handle, transport: Transport) -> SocketAddr {
    server.local_addrs().iter().find(|(t, _)| *t == transport).unwrap().1
}

pub fn single() -> KeyRing {
    KeyRing::single(Secret::new(SECRET.into()))
}

pub fn ring(revision: u64, ids: &[&str]) -> KeyRing {
    let key = |(i, id): (usize, &&str)| Key {
        id: id.parse().unwrap(),
        secret: Secret::new(format!("the-secret-of-the-key-{id}").into_bytes()),
        state: if i + 1 == ids.len() { KeyState::Signing } else { KeyState::Retiring },
        since: 0,
        not_after: None,
    };
    KeyRing { revision, keys: ids.iter().enumerate().map(key).collect() }
}

/// Echoes until the test ends.
pub async fn echo_peer() -> SocketAddr {
    echo_peer_at("127.0.0.1:0").await
}

pub async fn echo_peer_at(address: &str) -> SocketAddr {
    let socket = UdpSocket::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    });
    address
}

pub enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
    Tls(Box<TlsStream<TcpStream>>, Vec<u8>),
    Dtls(Box<DtlsClient>),
    /// A program that speaks for us.
    Pipe(Box<Join<ChildStdout, ChildStdin>>, Vec<u8>),
}

/// Takes the next frame off a stream.
async fn frame(stream: &mut (impl AsyncRead + Unpin), held: &mut Vec<u8>) -> Vec<u8> {
    loop {
        if let Frame::Whole(frame) = framing::next(held, Channels::Rfc8656) {
            let frame = frame.to_vec();
            held.drain(..frame.len());
            return frame;
        }
        assert_ne!(stream.read_buf(held).await.unwrap(), 0, "the server hung up");
    }
}

pub struct TestClient {
    pub link: Link,
    pub client: Client,
}

impl TestClient {
    pub async fn connect(server: &Handle, transport: Transport, ring: &KeyRing, user: &str) -> Self {
        let address = address(server, transport);
        let link = match transport {
            Transport::Tcp => Link::Tcp(TcpStream::connect(address).await.unwrap(), Vec::new()),
            _ => {
                let any = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
                let socket = UdpSocket::bind(any).await.unwrap();
                socket.connect(address).await.unwrap();
                Link::Udp(socket)
            }
        };
        Self::over(link, ring, user)
    }

    pub fn over(link: Link, ring: &KeyRing, user: &str) -> Self {
        let credential = mint(ring, user, Duration::from_secs(600), unix_now()).unwrap();
        Self { link, client: Client::new(credential.username, credential.password, rand()) }
    }

    pub async fn send(&mut self, packet: &[u8]) {
        match &mut self.link {
            Link::Udp(socket) => {
                socket.send(packet).await.unwrap();
            }
            Link::Dtls(client) => client.send(packet).await,
            Link::Pipe(pipe, _) => {
                pipe.write_all(packet).await.unwrap();
                pipe.flush().await.unwrap();
            }
            Link::Tcp(stream, _) => stream.write_all(packet).await.unwrap(),
            Link::Tls(stream, _) => {
                stream.write_all(packet).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    pub async fn receive(&mut self) -> Vec<u8> {
        within("an answer", async {
            match &mut self.link {
                Link::Udp(socket) => {
                    let mut buffer = vec![0; 65536];
                    let length = socket.recv(&mut buffer).await.unwrap();
                    buffer.truncate(length);
                    buffer
                }
                Link::Dtls(client) => client.receive().await,
                Link::Pipe(pipe, held) => frame(pipe, held).await,
                Link::Tcp(stream, held) => frame(stream, held).await,
                Link::Tls(stream, held) => frame(stream, held).await,
            }
        })
        .await
    }

    pub async fn ask(&mut self, request: impl Fn(&mut Client) -> Vec<u8>) -> Answer {
        for _ in 0..2 {
            let packet = request(&mut self.client);
            self.send(&packet).await;
            let answer = loop {
                let reply = self.receive().await;
                match self.client.read(&reply) {
                    // word of what was sent before
                    Answer::Lost(..) => {}
                    answer => break answer,
                }
            };
            if answer != Answer::Challenged {
                return answer;
            }
        }
        Answer::Challenged
    }

    pub async fn allocate(&mut self) -> SocketAddr {
        match self.ask(Client::allocate).await {
            Answer::Success { relayed: Some(relayed), .. } => relayed,
            answer => panic!("no allocation: {answer:?}"),
        }
    }

    /// Sends by indication and returns what comes back.
    pub async fn echo_by_send(&mut self, peer: SocketAddr, payload: &[u8]) -> (SocketAddr, Vec<u8>) {
        let packet = self.client.send(peer, payload);
        self.send(&packet).await;
        let reply = self.receive().await;
        match self.client.read(&reply) {
            Answer::Data(from, data) => (from, data),
            answer => panic!("no data: {answer:?}"),
        }
    }

    /// Sends by channel and returns what comes back.
    pub async fn echo_by_channel(&mut self, number: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        channel_data::write(number, payload, matches!(self.link, Link::Tcp(..) | Link::Tls(..)), &mut packet);
        self.send(&packet).await;
        let reply = self.receive().await;
        let (from, data) = channel_data::parse(&reply).unwrap();
        assert_eq!(from, number);
        data.to_vec()
    }
}

/// Different for each client, so that no two share transaction ids.
fn rand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One request to the admin port: the status code and the body.
pub async fn admin(server: &Handle, request: &str, token: Option<&str>) -> (u16, String) {
    let mut socket = TcpStream::connect(server.admin_addr().unwrap()).await.unwrap();
    let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    let text = format!("{request} HTTP/1.1\r\nHost: a\r\n{token}Connection: close\r\n\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// The sum of a metric's samples whose labels contain `labels`.
pub async fn metric(server: &Handle, name: &str, labels: &str) -> f64 {
    let (_, text) = admin(server, "GET /metrics", None).await;
    text.lines()
        .filter(|line| line.starts_with(name) && line.contains(labels))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// Sends to a client that does not read until its queue is full, and sees that another's call goes on.
pub async fn flood_a_slow_client(server: &Handle, slow: &mut TestClient, call: &mut TestClient) {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (at, echo) = (peer.local_addr().unwrap(), echo_peer().await);
    let to_slow = slow.allocate().await;
    call.allocate().await;
    assert_eq!(slow.ask(|c| c.channel_bind(0x4000, at)).await, OK);
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, echo)).await, OK);
    within("the queue to fill", async {
        while metric(server, "rtc_turn_drops_total", "queue_full").await == 0.0 {
            for _ in 0..500 {
                peer.send_to(&[7; 1200], to_slow).await.unwrap();
            }
            assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on");
        }
    })
    .await;
    // what it gets once it reads is whole frames still
    for _ in 0..100 {
        assert_eq!(slow.receive().await.len(), 1204);
    }
}
