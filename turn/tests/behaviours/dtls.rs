//! Clients over DTLS: relayed, not remembered before they have shown where they are, and not
//! disturbed when the certificate changes.

use crate::common::{
    Link, OK, TestClient, address,
    certificate::{issue, with_certificate},
    config,
    dtls::DtlsClient,
    echo_peer, eventually, metric, single, start, within,
};
use rtc_credentials::Transport;
use rtc_turn::{Handle, Server};
use rtc_turn_proto::{channel_data, client::Answer};
use std::{path::Path, process::Stdio, time::Duration};
use tempfile::TempDir;
use tokio::{net::UdpSocket, process::Command};

fn with_dtls(dir: &Path, listen: &[&str]) -> rtc_turn::Config {
    with_certificate(dir, listen, config())
}

async fn server() -> (Handle, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let listen = ["udp://127.0.0.1:0", "dtls://127.0.0.1:0"];
    (start(with_dtls(dir.path(), &listen)).await, dir)
}

pub(crate) async fn connect(server: &Handle) -> DtlsClient {
    within("the handshake", DtlsClient::connect(address(server, Transport::Dtls))).await
}

async fn client(server: &Handle, user: &str) -> TestClient {
    TestClient::over(Link::Dtls(Box::new(connect(server).await)), &single(), user)
}

/// Waits until the number of associations is this.
async fn associations(server: &Handle, count: f64) {
    within("the associations", async {
        while metric(server, "rtc_turn_associations", "").await != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn openssl(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = within("openssl", command.output()).await;
    let output = output.unwrap_or_else(|e| panic!("openssl: {e}; install Debian's package openssl"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn data_is_relayed_over_dtls_by_send_and_by_channel() {
    let (server, _dir) = server().await;
    let peer = echo_peer().await;
    let mut alice = client(&server, "alice").await;
    alice.allocate().await;
    assert_eq!(alice.ask(|c| c.create_permission(peer)).await, OK);
    for length in [0, 1, 3, 1200, 9000, 16_000] {
        let payload = vec![length as u8; length];
        assert_eq!(alice.echo_by_send(peer, &payload).await, (peer, payload));
    }
    assert_eq!(alice.ask(|c| c.channel_bind(0x4001, peer)).await, OK);
    for length in [0, 1, 3, 1200, 9000, 16_000] {
        let payload = vec![length as u8; length];
        assert_eq!(alice.echo_by_channel(0x4001, &payload).await, payload);
    }
    // to and from clients of this server over another transport
    let mut bob = TestClient::connect(&server, Transport::Udp, &single(), "bob").await;
    let mut carol = client(&server, "carol").await;
    let (at_bob, at_carol) = (bob.allocate().await, carol.allocate().await);
    assert_eq!(bob.ask(|c| c.channel_bind(0x4000, at_carol)).await, OK);
    assert_eq!(carol.ask(|c| c.channel_bind(0x4000, at_bob)).await, OK);
    for (from, to, text) in [(0, 1, b"from UDP to DTLS"), (1, 0, b"from DTLS to UDP")] {
        let ends = [&mut bob, &mut carol];
        let mut packet = Vec::new();
        channel_data::write(0x4000, text, false, &mut packet);
        ends[from].send(&packet).await;
        let packet = ends[to].receive().await;
        assert_eq!(channel_data::parse(&packet), Some((0x4000, &text[..])));
    }
    for direction in ["to_client", "to_peer"] {
        let labels = format!("{direction}\",transport=\"dtls");
        within("the counts", async {
            while metric(&server, "rtc_turn_packets_total", &labels).await < 13.0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn openssl_verifies_the_certificate_and_is_said_goodbye() {
    let (server, dir) = server().await;
    let at = address(&server, Transport::Dtls).to_string();
    let trusted = dir.path().join("tls.crt");
    let (ok, text) = openssl(&[
        "s_client",
        "-dtls",
        "-brief",
        "-connect",
        &at,
        "-CAfile",
        &trusted.to_string_lossy(),
        "-verify_return_error",
        "-verify_hostname",
        "turn.example.org",
    ])
    .await;
    assert!(ok && text.contains("DTLSv1.2") && text.contains("Verification: OK"), "{text}");
    // its close_notify ends the association
    associations(&server, 0.0).await;
}

#[tokio::test]
async fn a_client_of_an_old_version_alone_is_told_so() {
    let (server, _dir) = server().await;
    let at = address(&server, Transport::Dtls).to_string();
    let (ok, text) =
        openssl(&["s_client", "-dtls1", "-cipher", "DEFAULT:@SECLEVEL=0", "-connect", &at]).await;
    assert!(!ok && text.contains("alert protocol version"), "{text}");
    associations(&server, 0.0).await;
}

#[tokio::test]
async fn an_unmodified_client_calls_through_openssl() {
    let (server, _dir) = server().await;
    let peer = echo_peer().await;
    let at = address(&server, Transport::Dtls).to_string();
    let mut child = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-quiet", "-connect", &at])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("openssl: {e}; install Debian's package openssl"));
    let pipe = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let mut alice = TestClient::over(Link::Pipe(Box::new(pipe), Vec::new()), &single(), "alice");
    alice.allocate().await;
    assert_eq!(alice.ask(|c| c.create_permission(peer)).await, OK);
    assert_eq!(alice.echo_by_send(peer, b"by Send").await, (peer, b"by Send".to_vec()));
    assert_eq!(alice.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    for length in [4, 400, 1200, 4000] {
        let payload = vec![length as u8; length];
        assert_eq!(alice.echo_by_channel(0x4000, &payload).await, payload);
    }
}

#[tokio::test]
async fn ten_thousand_hellos_without_a_cookie_leave_nothing_and_get_no_more_than_they_sent() {
    let (server, _dir) = server().await;
    let peer = echo_peer().await;
    let mut call = client(&server, "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    let before = metric(&server, "rtc_turn_dtls_challenges_total", "").await;
    let at = address(&server, Transport::Dtls);
    let catcher = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    DtlsClient::begin(flood, catcher.local_addr().unwrap(), |_| false).await;
    let mut hello = vec![0; 2048];
    let length = within("a hello", catcher.recv(&mut hello)).await.unwrap();
    hello.truncate(length);
    let (mut sent, mut answered) = (0, 0);
    for port in 0..100u8 {
        let source = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        source.connect(at).await.unwrap();
        for n in 0..100u8 {
            // each another client's, by its random
            hello[27..29].copy_from_slice(&[port, n]);
            source.send(&hello).await.unwrap();
            sent += hello.len();
        }
        let mut answer = [0; 2048];
        for _ in 0..100 {
            answered += within("an answer", source.recv(&mut answer)).await.unwrap();
            assert_eq!(answer[13], 3, "a HelloVerifyRequest");
        }
    }
    assert!(answered <= sent, "{answered} bytes for {sent}");
    within("the count", async {
        while metric(&server, "rtc_turn_dtls_challenges_total", "").await < before + 10_000.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    associations(&server, 1.0).await;
    assert_eq!(metric(&server, "rtc_turn_tls_handshakes_total", "dtls\",result=\"failed").await, 0.0);
    assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on");
}

#[tokio::test]
async fn a_cookie_is_of_no_use_from_elsewhere() {
    let (server, _dir) = server().await;
    let at = address(&server, Transport::Dtls);
    // one client's second hello, caught on its way
    let honest = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut honest = DtlsClient::begin(honest, at, |n| n == 3).await;
    within("the challenge", honest.step()).await.unwrap();
    let thief = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let catcher = thief.local_addr().unwrap();
    honest.socket.connect(catcher).await.unwrap();
    let mut hello = [0; 2048];
    let length = within("the hello sent again", async {
        loop {
            tokio::select! {
                length = thief.recv(&mut hello) => return length.unwrap(),
                _ = honest.step() => {}
            }
        }
    })
    .await;
    thief.connect(at).await.unwrap();
    thief.send(&hello[..length]).await.unwrap();
    let length = within("an answer", thief.recv(&mut hello)).await.unwrap();
    assert_eq!((length, hello[13]), (60, 3), "a challenge of its own");
    associations(&server, 0.0).await;
}

#[tokio::test]
async fn a_handshake_survives_the_loss_of_any_of_its_datagrams() {
    let (server, _dir) = server().await;
    let at = address(&server, Transport::Dtls);
    let patterns: [fn(u32) -> bool; 5] =
        [|n| n == 1, |n| n == 2, |n| n == 3, |n| (4..7).contains(&n), |n| n % 3 == 0 && n < 12];
    for lose in patterns {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dtls = within("the handshake", DtlsClient::over(socket, at, lose)).await;
        let mut alice = TestClient::over(Link::Dtls(Box::new(dtls)), &single(), "alice");
        alice.allocate().await;
    }
}

#[tokio::test]
async fn malformed_records_harm_nobody() {
    let (server, _dir) = server().await;
    let peer = echo_peer().await;
    let mut call = client(&server, "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    let noise: [&[u8]; 9] = [
        b"",
        b"\x16",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42],
        &[0xFF; 2000],
        // a record that is longer than its datagram; data without keys; a protected record of nobody
        &[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 1],
        &[23, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 1, 2],
        &[23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 30, 1, 2],
        // a fatal alert that nobody protected
        &[21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 2, 40],
    ];
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.connect(address(&server, Transport::Dtls)).await.unwrap();
    for packet in noise {
        stranger.send(packet).await.unwrap();
        // and as if the client had sent it
        let Link::Dtls(link) = &call.link else { unreachable!() };
        link.socket.send(packet).await.unwrap();
        assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on", "{packet:?}");
    }
    let mut answer = [0; 100];
    assert!(stranger.try_recv(&mut answer).is_err(), "noise is not answered");
    within("the count", async {
        while metric(&server, "rtc_turn_drops_total", "no_association").await < 9.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_calls_go_on() {
    let (server, dir) = server().await;
    let peer = echo_peer().await;
    let mut call = client(&server, "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    // a key that DTLS cannot use is of no use, and is said so
    let made = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (key, certificate) = (made("rsa.key"), made("rsa.crt"));
    let arguments = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=turn.example.org"];
    let (ok, text) = openssl(&[&arguments[..], &["-keyout", &key, "-out", &certificate]].concat()).await;
    assert!(ok, "{text}");
    std::fs::rename(key, dir.path().join("tls.key")).unwrap();
    std::fs::rename(certificate, dir.path().join("tls.crt")).unwrap();
    let report = || server.status()["reloadError"].as_str().is_some_and(|e| e.contains("ECDSA"));
    eventually("the fault to be reported", report).await;
    let error = Server::start(with_dtls(dir.path(), &["dtls://127.0.0.1:0"])).await.unwrap_err().to_string();
    assert!(error.contains("ECDSA") && error.contains("--tls-key"), "{error}");

    let second = issue(dir.path());
    eventually("the fault to be mended", || server.status()["reloadError"].is_null()).await;
    // both workers may serve a client, and each learns of it for itself
    let mut served = 0;
    within("the new certificate", async {
        while served < 10 {
            served = if connect(&server).await.shown == *second { served + 1 } else { 0 };
        }
    })
    .await;
    assert_eq!(call.echo_by_channel(0x4000, b"still here").await, b"still here");
}

#[tokio::test]
async fn a_close_notify_ends_the_allocation() {
    let (server, _dir) = server().await;
    let mut gone = client(&server, "alice").await;
    gone.allocate().await;
    eventually("the allocation", || server.status()["users"]["alice"] == 1).await;
    if let Link::Dtls(link) = &mut gone.link {
        link.close().await;
    }
    eventually("its end", || server.status()["users"]["alice"].is_null()).await;
    associations(&server, 0.0).await;
}

#[tokio::test]
async fn the_end_of_the_allocation_ends_the_association() {
    let (server, _dir) = server().await;
    let mut over = client(&server, "alice").await;
    over.allocate().await;
    assert!(matches!(over.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
    let Link::Dtls(link) = &mut over.link else { unreachable!() };
    within("the goodbye", async {
        while !link.closed {
            link.step().await.unwrap();
        }
    })
    .await;
    associations(&server, 0.0).await;
}

#[tokio::test]
async fn a_client_that_begins_anew_at_its_old_address_is_served() {
    let (server, _dir) = server().await;
    let at = address(&server, Transport::Dtls);
    let mut before = client(&server, "alice").await;
    before.allocate().await;
    let Link::Dtls(before) = before.link else { unreachable!() };
    // as after a crash: the same port, and nothing remembered
    let dtls = within("the handshake", DtlsClient::over(before.socket, at, |_| false)).await;
    let mut after = TestClient::over(Link::Dtls(Box::new(dtls)), &single(), "bob");
    after.allocate().await;
    eventually("the old allocation's end", || server.status()["users"]["alice"].is_null()).await;
    associations(&server, 1.0).await;
}

#[tokio::test]
async fn handshakes_that_do_not_end_hold_a_bounded_number_of_places_for_a_time() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let config = with_dtls(dir.path(), &["udp://127.0.0.1:0", "dtls://127.0.0.1:0"]);
    let handshake_timeout = Duration::from_secs(2);
    let server = start(rtc_turn::Config { workers: 1, max_handshakes: 3, handshake_timeout, ..config }).await;
    let at = address(&server, Transport::Dtls);
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // it sends its cookie, and nothing after
        let mut silent = DtlsClient::begin(socket, at, |n| n > 3).await;
        within("the challenge", silent.step()).await.unwrap();
        stuck.push(silent);
    }
    within("a place", connect(&server)).await;
    let failed = "dtls\",result=\"failed";
    within("their end", async {
        while metric(&server, "rtc_turn_tls_handshakes_total", failed).await < 3.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_with_dtls_alone_becomes_ready_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let server = start(with_dtls(dir.path(), &["dtls://127.0.0.1:0"])).await;
    assert_eq!(server.local_addrs().len(), 1);
    let mut call = client(&server, "alice").await;
    call.allocate().await;
    server.drain(Duration::from_secs(600));
    within("the refusal", async {
        let mut new = client(&server, "bob").await;
        while new.ask(rtc_turn_proto::client::Client::allocate).await != Answer::Refused(486) {
            new.ask(|c| c.refresh(0)).await;
        }
    })
    .await;
    assert!(matches!(call.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
    within("the end", server.stopped()).await.unwrap();
    let Link::Dtls(link) = &mut call.link else { unreachable!() };
    within("the goodbye", async {
        while !link.closed {
            link.step().await.unwrap();
        }
    })
    .await;
}
