//! TCP allocations (RFC 6062) over real sockets: what flows through a data connection, and when it ends.

use crate::{
    common::{Link, OK, SECRET, TestClient, address, config, eventually, single, start, within},
    tls,
};
use rtc_credentials::{Secret, Transport};
use rtc_service::clock::unix_now;
use rtc_turn::Handle;
use rtc_turn_proto::{
    ConnectionId,
    client::{Answer, Client},
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

struct Control(TestClient);

impl Control {
    async fn begin(server: &Handle, user: &str) -> (Self, SocketAddr) {
        let mut client = connect(server, user).await;
        match client.ask(Client::allocate_tcp).await {
            Answer::Success { relayed: Some(relayed), .. } => (Self(client), relayed),
            answer => panic!("no allocation: {answer:?}"),
        }
    }

    async fn connect(&mut self, peer: SocketAddr) -> ConnectionId {
        match self.0.ask(|c| c.connect(peer)).await {
            Answer::Connection(id, None) => id,
            answer => panic!("no connection: {answer:?}"),
        }
    }

    /// The next peer that has connected.
    async fn attempt(&mut self) -> (ConnectionId, SocketAddr) {
        let message = self.0.receive().await;
        match self.0.client.read(&message) {
            Answer::Connection(id, Some(peer)) => (id, peer),
            answer => panic!("no peer: {answer:?}"),
        }
    }
}

/// A connection of a user, all of whose connections have the same credential.
async fn connect(server: &Handle, user: &str) -> TestClient {
    same_credential(TestClient::connect(server, Transport::Tcp, &single(), user).await, user)
}

fn same_credential(client: TestClient, user: &str) -> TestClient {
    static SEED: AtomicU64 = AtomicU64::new(1 << 32);
    static EXPIRY: OnceLock<u64> = OnceLock::new();
    let username = format!("{}:{user}", EXPIRY.get_or_init(|| unix_now() + 3600));
    let password = rtc_credentials::password(&Secret::new(SECRET.into()), &username);
    let seed = SEED.fetch_add(1, Ordering::Relaxed);
    TestClient { client: Client::new(username, password, seed), ..client }
}

/// The data connection of a client.
async fn bind(server: &Handle, user: &str, id: ConnectionId) -> TcpStream {
    let mut client = connect(server, user).await;
    assert_eq!(client.ask(|c| c.connection_bind(id)).await, OK);
    match client.link {
        Link::Tcp(stream, held) if held.is_empty() => stream,
        _ => panic!("the peer was faster than its client"),
    }
}

/// A connected client and peer.
async fn pair(server: &Handle, control: &mut Control, user: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let id = control.connect(listener.local_addr().unwrap()).await;
    let (peer, _) = within("the server to connect", listener.accept()).await.unwrap();
    (bind(server, user, id).await, peer)
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    within("data", stream.read_exact(&mut data)).await.unwrap();
    data
}

/// Whether a stream has ended, by whatever means.
async fn ended(stream: &mut TcpStream) -> bool {
    within("the end", stream.read(&mut [0; 16])).await.unwrap_or(0) == 0
}

#[tokio::test]
async fn data_connections_find_their_worker_and_carry_whatever_is_sent() {
    let server = start(config()).await;
    let (mut control, at) = Control::begin(&server, "alice").await;
    for n in 0..16u8 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let id = control.connect(listener.local_addr().unwrap()).await;
        let (mut peer, from) = within("the server to connect", listener.accept()).await.unwrap();
        assert_eq!(from, at, "from the relayed address");
        // what a peer says before the client is there is kept
        peer.write_all(b"early").await.unwrap();
        let mut client = connect(&server, "alice").await;
        assert_eq!(client.ask(|c| c.connection_bind(id)).await, OK);
        let Link::Tcp(mut data, mut held) = client.link else { panic!() };
        held.extend(read(&mut data, 5 - held.len()).await);
        assert_eq!(held, b"early");
        // what looks like messages is data too
        let sent = [vec![0x40, 0, 0, 0], vec![0; 20], vec![n; 300_000]].concat();
        let (mut rx, mut tx) = data.split();
        let (mut peer_rx, mut peer_tx) = peer.split();
        let echo = async {
            let mut left = sent.len();
            let mut buffer = vec![0; 9000];
            while left > 0 {
                let n = peer_rx.read(&mut buffer).await.unwrap();
                peer_tx.write_all(&buffer[..n]).await.unwrap();
                left -= n;
            }
        };
        let mut received = vec![0; sent.len()];
        let (written, read, ()) = within("all to come back", async {
            tokio::join!(tx.write_all(&sent), rx.read_exact(&mut received), echo)
        })
        .await;
        written.unwrap();
        read.unwrap();
        assert!(received == sent);
    }
}

#[tokio::test]
async fn data_crosses_tls_on_both_of_a_clients_connections() {
    let (server, _dir, certificate) = tls::server().await;
    let connect = async || same_credential(tls::client(&server, &certificate, "alice").await, "alice");
    let mut control = connect().await;
    assert!(matches!(control.ask(Client::allocate_tcp).await, Answer::Success { relayed: Some(_), .. }));
    for n in 0..6u8 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let Answer::Connection(id, None) = control.ask(|c| c.connect(to)).await else { panic!() };
        let (mut peer, _) = within("the server to connect", listener.accept()).await.unwrap();
        let mut data = connect().await;
        assert_eq!(data.ask(|c| c.connection_bind(id)).await, OK);
        let Link::Tls(mut data, _) = data.link else { panic!() };
        let payload = vec![n; 200_000];
        let sending = payload.clone();
        let echo = tokio::spawn(async move {
            let received = read(&mut peer, sending.len()).await;
            peer.write_all(&received).await.unwrap();
            peer
        });
        data.write_all(&payload).await.unwrap();
        data.flush().await.unwrap();
        let mut received = vec![0; payload.len()];
        within("the echo", data.read_exact(&mut received)).await.unwrap();
        assert!(received == payload);
        // an end in one direction leaves the other
        let mut peer = echo.await.unwrap();
        data.shutdown().await.unwrap();
        assert!(ended(&mut peer).await);
        peer.write_all(b"goodbye").await.unwrap();
        drop(peer);
        let mut rest = Vec::new();
        within("the end", data.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"goodbye");
    }
}

#[tokio::test]
async fn a_peer_with_a_permission_may_connect_and_others_are_hung_up_on() {
    let server = start(config()).await;
    let (mut control, at) = Control::begin(&server, "alice").await;
    let mut stranger = TcpStream::connect(at).await.unwrap();
    assert!(ended(&mut stranger).await);
    assert_eq!(control.0.ask(|c| c.create_permission("127.0.0.1:1".parse().unwrap())).await, OK);
    for _ in 0..4 {
        let mut peer = TcpStream::connect(at).await.unwrap();
        let (id, from) = control.attempt().await;
        assert_eq!(from, peer.local_addr().unwrap());
        peer.write_all(b"hello").await.unwrap();
        let mut client = connect(&server, "alice").await;
        assert_eq!(client.ask(|c| c.connection_bind(id)).await, OK);
        let Link::Tcp(mut data, mut held) = client.link else { panic!() };
        held.extend(read(&mut data, 5 - held.len()).await);
        assert_eq!(held, b"hello");
        data.write_all(b"and to you").await.unwrap();
        assert_eq!(read(&mut peer, 10).await, b"and to you");
    }
}

#[tokio::test]
async fn two_clients_of_one_server_meet_by_their_relayed_addresses() {
    // private, and allowed by no range: they are the fleet's own
    let server = start(rtc_turn::Config { allow: Vec::new(), ..config() }).await;
    let (mut alice, at_alice) = Control::begin(&server, "alice").await;
    let (mut bob, at_bob) = Control::begin(&server, "bob").await;
    assert_eq!(bob.0.ask(|c| c.create_permission(at_alice)).await, OK);
    let id = alice.connect(at_bob).await;
    let (offered, from) = bob.attempt().await;
    assert_eq!(from, at_alice);
    let mut here = bind(&server, "alice", id).await;
    let mut there = bind(&server, "bob", offered).await;
    here.write_all(b"ping").await.unwrap();
    assert_eq!(read(&mut there, 4).await, b"ping");
    there.write_all(b"pong").await.unwrap();
    assert_eq!(read(&mut here, 4).await, b"pong");
    let listener = address(&server, Transport::Tcp);
    assert_eq!(alice.0.ask(|c| c.connect(listener)).await, Answer::Refused(403), "the server's own listener");
    assert_eq!(alice.0.ask(|c| c.connect("127.0.0.1:22".parse().unwrap())).await, Answer::Refused(403));
}

#[tokio::test]
async fn an_end_in_one_direction_is_passed_on_and_the_other_goes_on() {
    let server = start(config()).await;
    let (mut control, _) = Control::begin(&server, "alice").await;
    for _ in 0..4 {
        let (mut data, mut peer) = pair(&server, &mut control, "alice").await;
        data.write_all(b"a question").await.unwrap();
        data.shutdown().await.unwrap();
        let mut question = Vec::new();
        within("the end of the question", peer.read_to_end(&mut question)).await.unwrap();
        assert_eq!(question, b"a question");
        let answer = vec![7; 100_000];
        peer.write_all(&answer).await.unwrap();
        peer.shutdown().await.unwrap();
        let mut received = Vec::new();
        within("the answer", data.read_to_end(&mut received)).await.unwrap();
        assert!(received == answer);
        // and the other way round
        let (mut data, mut peer) = pair(&server, &mut control, "alice").await;
        peer.shutdown().await.unwrap();
        assert!(ended(&mut data).await);
        data.write_all(b"still there").await.unwrap();
        assert_eq!(read(&mut peer, 11).await, b"still there");
        drop(data);
        assert!(ended(&mut peer).await);
    }
    let used = || server.status()["peerConnections"] == 0;
    eventually("all connections to be over", used).await;
}

#[tokio::test]
async fn nobody_at_the_peers_port_is_447_and_a_second_connection_446() {
    let server = start(config()).await;
    let (mut control, _) = Control::begin(&server, "alice").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    control.connect(at).await;
    assert_eq!(control.0.ask(|c| c.connect(at)).await, Answer::Refused(446));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    assert_eq!(control.0.ask(|c| c.connect(nobody)).await, Answer::Refused(447));
}

/// How an allocation ends, and with it all that it holds.
#[tokio::test]
async fn when_the_allocation_ends_so_do_its_connections() {
    let server = start(config()).await;
    for hang_up in [false, true] {
        let (mut control, at) = Control::begin(&server, "alice").await;
        let (mut data, mut peer) = pair(&server, &mut control, "alice").await;
        data.write_all(b"x").await.unwrap();
        read(&mut peer, 1).await;
        let unbound = TcpListener::bind("127.0.0.1:0").await.unwrap();
        control.connect(unbound.local_addr().unwrap()).await;
        let (mut waiting, _) = unbound.accept().await.unwrap();
        if hang_up {
            drop(control);
        } else {
            assert!(matches!(control.0.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
        }
        assert!(ended(&mut data).await && ended(&mut peer).await && ended(&mut waiting).await);
        let refused = async || {
            TcpStream::connect(at).await.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        };
        within("the relayed port to close", async { while !refused().await {} }).await;
    }
}

#[tokio::test]
async fn who_does_not_read_slows_down_who_sends_to_them_and_nobody_else() {
    let server = start(config()).await;
    let (mut control, _) = Control::begin(&server, "alice").await;
    let (mut slow, mut sender) = pair(&server, &mut control, "alice").await;
    let (mut quick, mut echo) = pair(&server, &mut control, "alice").await;
    // until nothing more goes in
    let chunk = vec![9; 1 << 16];
    let mut sent = 0;
    let pause = std::time::Duration::from_millis(300);
    while let Ok(written) = tokio::time::timeout(pause, sender.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "the server takes all that it is sent");
        quick.write_all(b"on").await.unwrap();
        assert_eq!(read(&mut echo, 2).await, b"on");
    }
    let received = tokio::spawn(async move { read(&mut slow, sent).await });
    assert!(received.await.unwrap().iter().all(|byte| *byte == 9));
}

#[tokio::test]
async fn a_stream_above_the_bandwidth_quota_is_slowed_down_and_loses_nothing() {
    const RATE: usize = 1_000_000;
    let bandwidth = std::num::NonZeroU64::new(RATE as u64);
    let server = start(rtc_turn::Config { bandwidth, ..config() }).await;
    let (mut control, _) = Control::begin(&server, "alice").await;
    let (mut client, mut peer) = pair(&server, &mut control, "alice").await;
    let sent: Vec<u8> = (0..3 * RATE).map(|n| (n % 251) as u8).collect();
    let since = std::time::Instant::now();
    let (written, received) = tokio::join!(client.write_all(&sent), read(&mut peer, sent.len()));
    written.unwrap();
    assert!(received == sent, "all of it, in order");
    // a second's worth at once, and what one turn of the loop moves before it is counted
    assert!(since.elapsed().as_secs_f64() > 1.0, "{:?}", since.elapsed());
}
