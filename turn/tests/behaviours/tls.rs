//! Clients over TLS: relayed, bounded, and not disturbed when the certificate changes.

use crate::common::{
    Link, OK, TestClient, address,
    certificate::{issue, issue_with, with_certificate},
    config, echo_peer, eventually, flood_a_slow_client, metric, single, start, within,
};
use rtc_credentials::Transport;
use rtc_turn::{Handle, Server};
use rtc_turn_proto::{channel_data, client::Answer};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use std::{io, path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

fn with_tls(dir: &Path, listen: &[&str]) -> rtc_turn::Config {
    with_certificate(dir, listen, config())
}

pub(crate) async fn server() -> (Handle, TempDir, CertificateDer<'static>) {
    let dir = tempfile::tempdir().unwrap();
    let certificate = issue(dir.path());
    let listen = ["udp://127.0.0.1:0", "tls://127.0.0.1:0"];
    (start(with_tls(dir.path(), &listen)).await, dir, certificate)
}

async fn connect(
    server: &Handle,
    trusted: &CertificateDer<'static>,
    alpn: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address(server, Transport::Tls)).await?;
    let name = ServerName::try_from("turn.example.org").unwrap();
    within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

pub(crate) async fn client(server: &Handle, trusted: &CertificateDer<'static>, user: &str) -> TestClient {
    let stream = connect(server, trusted, &["stun.turn"]).await.unwrap();
    TestClient::over(Link::Tls(Box::new(stream), Vec::new()), &single(), user)
}

#[tokio::test]
async fn data_is_relayed_over_tls_by_send_and_by_channel() {
    let (server, _dir, certificate) = server().await;
    let peer = echo_peer().await;
    let mut alice = client(&server, &certificate, "alice").await;
    alice.allocate().await;
    assert_eq!(alice.ask(|c| c.create_permission(peer)).await, OK);
    for length in [0, 1, 3, 1200, 9000, 40_000] {
        let payload = vec![length as u8; length];
        assert_eq!(alice.echo_by_send(peer, &payload).await, (peer, payload));
    }
    assert_eq!(alice.ask(|c| c.channel_bind(0x4001, peer)).await, OK);
    for length in [0, 1, 3, 1200, 9000, 40_000] {
        let payload = vec![length as u8; length];
        assert_eq!(alice.echo_by_channel(0x4001, &payload).await, payload);
    }
    // many frames in a few records, and the other way round
    let mut packets = Vec::new();
    for n in 0..80u8 {
        channel_data::write(0x4001, &[n; 300], true, &mut packets);
    }
    alice.send(&packets).await;
    for n in 0..80u8 {
        let packet = alice.receive().await;
        assert_eq!(channel_data::parse(&packet), Some((0x4001, &[n; 300][..])));
    }
    // between clients of this server too
    let mut bob = TestClient::connect(&server, Transport::Udp, &single(), "bob").await;
    let mut carol = client(&server, &certificate, "carol").await;
    let (at_bob, at_carol) = (bob.allocate().await, carol.allocate().await);
    assert_eq!(bob.ask(|c| c.channel_bind(0x4000, at_carol)).await, OK);
    assert_eq!(carol.ask(|c| c.channel_bind(0x4000, at_bob)).await, OK);
    let mut packet = Vec::new();
    channel_data::write(0x4000, b"from UDP to TLS", false, &mut packet);
    bob.send(&packet).await;
    let packet = carol.receive().await;
    assert_eq!(channel_data::parse(&packet), Some((0x4000, &b"from UDP to TLS"[..])));
    within("the counts", async {
        while metric(&server, "rtc_turn_packets_total", "to_client\",transport=\"tls").await < 12.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_may_name_the_protocols_of_rfc_7443_and_no_others() {
    let (server, _dir, certificate) = server().await;
    for (offered, chosen) in [
        (&["stun.turn"][..], Some(&b"stun.turn"[..])),
        (&["http/1.1", "stun.nat-discovery"], Some(b"stun.nat-discovery")),
        (&[], None),
    ] {
        let stream = connect(&server, &certificate, offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
    }
    let error = connect(&server, &certificate, &["http/1.1"]).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "it is told why: {error}");
}

#[tokio::test]
async fn a_new_certificate_is_served_and_calls_go_on() {
    let (server, dir, first) = server().await;
    let peer = echo_peer().await;
    let mut call = client(&server, &first, "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);

    // half of a pair is of no use, and is said so
    std::fs::write(dir.path().join("tls.key"), "not a key").unwrap();
    let report = || server.status()["reloadError"].as_str().is_some_and(|e| e.starts_with("certificate"));
    eventually("the fault to be reported", report).await;
    connect(&server, &first, &[]).await.unwrap();

    let second = issue(dir.path());
    eventually("the fault to be mended", || server.status()["reloadError"].is_null()).await;
    // both workers may serve a connection, and each learns of it for itself
    let mut served = 0;
    within("the new certificate", async {
        while served < 20 {
            served = if connect(&server, &second, &[]).await.is_ok() { served + 1 } else { 0 };
        }
    })
    .await;
    assert!(connect(&server, &first, &[]).await.is_err());
    assert_eq!(call.echo_by_channel(0x4000, b"still here").await, b"still here");
}

#[tokio::test]
async fn the_metrics_tell_when_the_certificate_that_is_served_expires() {
    let (server, dir, _) = server().await;
    let expiry = || metric(&server, "rtc_turn_tls_certificate_expiry_seconds", "");
    // rcgen's own default: the year 4096
    assert_eq!(expiry().await, 67_090_118_400.0);
    issue_with(dir.path(), |params| params.not_after = rcgen::date_time_ymd(2030, 1, 1));
    within("the new certificate", async { while expiry().await != 1_893_456_000.0 {} }).await;
    assert_eq!(metric(&start(config()).await, "rtc_turn_tls_certificate", "").await, 0.0, "not without one");
}

#[tokio::test]
async fn a_server_with_tls_alone_becomes_ready() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let server = start(with_tls(dir.path(), &["tls://127.0.0.1:0"])).await;
    assert_eq!(server.local_addrs().len(), 1);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = || with_tls(dir.path(), &["tls://127.0.0.1:0"]);
    let error = Server::start(config()).await.unwrap_err().to_string();
    assert!(error.contains("tls.crt") && error.contains("--tls-cert"), "{error}");
    issue(dir.path());
    std::fs::write(dir.path().join("tls.key"), "").unwrap();
    let error = Server::start(config()).await.unwrap_err().to_string();
    assert!(error.contains("private key"), "{error}");
}

#[tokio::test]
async fn what_is_not_tls_is_closed_and_others_go_on() {
    let (server, _dir, certificate) = server().await;
    let peer = echo_peer().await;
    let mut call = client(&server, &certificate, "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42], &[0x16, 3, 1, 0xFF, 0xFF, 1]]
    {
        let mut stranger = TcpStream::connect(address(&server, Transport::Tls)).await.unwrap();
        stranger.write_all(garbage).await.unwrap();
        let mut alert = Vec::new();
        // a reset is as good an end as any
        let _ = within("the server to hang up", stranger.read_to_end(&mut alert)).await;
        assert!(alert.len() < 100);
        assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on");
    }
    // within TLS too
    let mut stranger = connect(&server, &certificate, &[]).await.unwrap();
    stranger.write_all(b"SSH-2.0-hello\r\n").await.unwrap();
    let read = within("the server to hang up", stranger.read(&mut [0; 10])).await;
    assert_eq!(read.unwrap(), 0, "with a close_notify");
    within("the count", async {
        while metric(&server, "rtc_turn_tls_handshakes_total", "failed").await < 3.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_is_not_ended_is() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = issue(dir.path());
    let config = with_tls(dir.path(), &["tls://127.0.0.1:0"]);
    let patience = Duration::from_millis(300);
    let server = start(rtc_turn::Config { handshake_timeout: patience, ..config }).await;
    let mut call = client(&server, &certificate, "alice").await;
    call.allocate().await;
    let mut silent = TcpStream::connect(address(&server, Transport::Tls)).await.unwrap();
    let mut slow = TcpStream::connect(address(&server, Transport::Tls)).await.unwrap();
    let drip = async {
        // a record of a ClientHello that never ends
        let mut bytes = [0x16, 3, 1, 0x10, 0, 1, 0, 0x0F, 0xFC].into_iter().chain(std::iter::repeat(3));
        while slow.write_all(&[bytes.next().unwrap()]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the server to hang up on the slow one", drip).await;
    let mut alert = Vec::new();
    let _ = within("the server to hang up on the silent one", silent.read_to_end(&mut alert)).await;
    assert!(alert.len() < 100);
    assert!(matches!(call.ask(|c| c.refresh(600)).await, Answer::Success { .. }));
}

#[tokio::test]
async fn handshakes_that_do_not_end_hold_a_bounded_number_of_places_for_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = issue(dir.path());
    let config = with_tls(dir.path(), &["udp://127.0.0.1:0", "tls://127.0.0.1:0"]);
    let handshake_timeout = Duration::from_secs(2);
    let server = start(rtc_turn::Config { workers: 1, max_handshakes: 3, handshake_timeout, ..config }).await;
    let mut call = client(&server, &certificate, "alice").await;
    call.allocate().await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address(&server, Transport::Tls)).await.unwrap());
    }
    assert!(connect(&server, &certificate, &[]).await.is_err(), "there is no place");
    assert!(matches!(call.ask(|c| c.refresh(600)).await, Answer::Success { .. }));
    within("a place", async { while connect(&server, &certificate, &[]).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_own_data_only() {
    let (server, _dir, certificate) = server().await;
    let mut slow = client(&server, &certificate, "slow").await;
    let mut call = client(&server, &certificate, "alice").await;
    flood_a_slow_client(&server, &mut slow, &mut call).await;
}

#[tokio::test]
async fn an_end_of_the_stream_ends_the_allocation() {
    let (server, _dir, certificate) = server().await;
    let mut gone = client(&server, &certificate, "alice").await;
    gone.allocate().await;
    eventually("the allocation", || server.status()["users"]["alice"] == 1).await;
    if let Link::Tls(stream, _) = &mut gone.link {
        stream.shutdown().await.unwrap();
    }
    eventually("its end", || server.status()["users"]["alice"].is_null()).await;
}
