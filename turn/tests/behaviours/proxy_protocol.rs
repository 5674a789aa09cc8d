//! Clients behind a load balancer, which says who they are.

use crate::common::{
    Link, TestClient, address,
    certificate::{issue, with_certificate},
    config, echo_peer, metric, single, start, within,
};
use rtc_credentials::Transport;
use rtc_turn::{Config, Handle};
use rtc_turn_proto::{Message, attributes::XorMappedAddress, client::Answer};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4321 3478\r\n";

/// Version 2 for TCP over IPv4, with a TLV, or for LOCAL.
fn v2(command: u8) -> Vec<u8> {
    let addresses = [203, 0, 113, 7, 192, 0, 2, 1, 0x10, 0xE1, 0x0D, 0x96];
    let tlv = [0x03, 0, 4, 1, 2, 3, 4];
    let length = [0, (addresses.len() + tlv.len()) as u8];
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11], &length, &addresses, &tlv].concat()
}

fn told() -> SocketAddr {
    "203.0.113.7:4321".parse().unwrap()
}

/// 127.0.0.1 is a load balancer; the rest of 127.0.0.0/8 is not.
fn balanced() -> Config {
    Config { proxy_protocol: vec!["127.0.0.1/32".parse().unwrap()], ..config() }
}

async fn mapped(client: &mut TestClient) -> SocketAddr {
    let packet = client.client.binding();
    client.send(&packet).await;
    Message::parse(&client.receive().await).unwrap().get::<XorMappedAddress>().unwrap().unwrap().0
}

async fn stream(server: &Handle, header: &[u8]) -> (TestClient, SocketAddr) {
    let mut stream = TcpStream::connect(address(server, Transport::Tcp)).await.unwrap();
    stream.write_all(header).await.unwrap();
    let own = stream.local_addr().unwrap();
    (TestClient::over(Link::Tcp(stream, Vec::new()), &single(), "alice"), own)
}

#[tokio::test]
async fn a_client_is_who_the_load_balancer_says() {
    let server = start(balanced()).await;
    let peer = echo_peer().await;
    for header in [V1.to_vec(), v2(0x21)] {
        let (mut client, _) = stream(&server, &header).await;
        assert_eq!(mapped(&mut client).await, told());
        // the nonce is bound to that address, and all goes on
        client.allocate().await;
        assert!(matches!(client.ask(|c| c.channel_bind(0x4000, peer)).await, Answer::Success { .. }));
        assert_eq!(client.echo_by_channel(0x4000, b"by the balancer").await, b"by the balancer");
    }
    // its own connections, and those of which it knows nothing
    for header in [v2(0x20), b"PROXY UNKNOWN\r\n".to_vec()] {
        let (mut client, own) = stream(&server, &header).await;
        assert_eq!(mapped(&mut client).await, own);
    }
    // the header and the first messages at once, and a byte at a time
    for chunk in [1, usize::MAX] {
        let (mut client, _) = stream(&server, b"").await;
        let bytes = [v2(0x21), client.client.binding(), client.client.binding()].concat();
        for part in bytes.chunks(chunk.min(bytes.len())) {
            client.send(part).await;
        }
        for _ in 0..2 {
            let reply = client.receive().await;
            assert_eq!(Message::parse(&reply).unwrap().get().unwrap(), Some(XorMappedAddress(told())));
        }
    }
    // datagrams have no header
    let mut plain = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    let Link::Udp(socket) = &plain.link else { unreachable!() };
    let own = socket.local_addr().unwrap();
    assert_eq!(mapped(&mut plain).await, own);
}

#[tokio::test]
async fn nobody_else_is_believed_and_a_load_balancer_must_say_it() {
    let server = start(balanced()).await;
    let at = address(&server, Transport::Tcp);
    // without a header
    let mut silent = TcpStream::connect(at).await.unwrap();
    let (mut client, _) = stream(&server, b"").await;
    silent.write_all(&client.client.binding()).await.unwrap();
    let read = within("the server to hang up", silent.read(&mut [0; 10])).await;
    assert_eq!(read.unwrap_or(0), 0);
    within("the count", async {
        while metric(&server, "rtc_turn_drops_total", "no_proxy_header").await < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // not a load balancer
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        socket.connect(at).await.unwrap()
    };
    for header in [V1.to_vec(), v2(0x21)] {
        let mut liar = connect().await;
        liar.write_all(&[header, client.client.binding()].concat()).await.unwrap();
        let read = within("the server to hang up", liar.read(&mut [0; 10])).await;
        assert_eq!(read.unwrap_or(0), 0);
    }
    let honest = connect().await;
    let own = honest.local_addr().unwrap();
    let mut honest = TestClient::over(Link::Tcp(honest, Vec::new()), &single(), "alice");
    assert_eq!(mapped(&mut honest).await, own);
}

#[tokio::test]
async fn a_header_that_does_not_come_ends_the_connection_and_holds_a_bounded_number_of_places() {
    let handshake_timeout = Duration::from_secs(1);
    let server = start(Config { workers: 1, max_handshakes: 2, handshake_timeout, ..balanced() }).await;
    let at = address(&server, Transport::Tcp);
    let mut slow = TcpStream::connect(at).await.unwrap();
    slow.write_all(b"PROXY TCP4 ").await.unwrap();
    let mut silent = TcpStream::connect(at).await.unwrap();
    let mut third = TcpStream::connect(at).await.unwrap();
    for stream in [&mut third, &mut slow, &mut silent] {
        let read = within("the server to hang up", stream.read(&mut [0; 10])).await;
        assert_eq!(read.unwrap_or(0), 0);
    }
    let (mut client, _) = stream(&server, V1).await;
    assert_eq!(mapped(&mut client).await, told());
}

#[tokio::test]
async fn tls_begins_after_the_header_and_a_server_with_streams_alone_becomes_ready() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = issue(dir.path());
    let server = start(with_certificate(dir.path(), &["tls://127.0.0.1:0"], balanced())).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut stream = TcpStream::connect(address(&server, Transport::Tls)).await.unwrap();
    stream.write_all(&v2(0x21)).await.unwrap();
    let name = ServerName::try_from("turn.example.org").unwrap();
    let stream = within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    let link = Link::Tls(Box::new(stream.unwrap()), Vec::new());
    let mut client = TestClient::over(link, &single(), "alice");
    assert_eq!(mapped(&mut client).await, told());
}
