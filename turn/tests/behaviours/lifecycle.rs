//! Start, drain and end.

use crate::common::{
    OK, TestClient, address, admin, config, echo_peer, eventually, ring, single, start, within,
};
use rtc_credentials::Transport;
use rtc_turn::{
    Server,
    settings::{Keys, Listen},
};
use rtc_turn_proto::client::{Answer, Client};
use std::{
    process::{Command, Stdio},
    time::Duration,
};

#[tokio::test]
async fn a_second_server_on_a_port_says_which_and_how_to_choose_another() {
    let first = start(config()).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let taken = address(&first, transport);
        let listen = vec![Listen { transport, address: taken }];
        let error = Server::start(rtc_turn::Config { listen, ..config() }).await.unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()) && error.contains("--listen"), "{error}");
    }
}

#[tokio::test]
async fn idle_workers_tell_their_key_ring() {
    let keys = Keys::Ring(ring(7, &["k-1"]));
    // no more than one of eight sees the probe
    let server = start(rtc_turn::Config { keys, workers: 8, ..config() }).await;
    assert_eq!(server.status()["ring"]["revision"], 7);
}

#[tokio::test]
async fn a_server_whose_relay_address_is_not_this_hosts_is_not_ready_and_says_why() {
    let relay = vec!["192.0.2.77".parse().unwrap()];
    let server = Server::start(rtc_turn::Config { relay, ..config() }).await.unwrap();
    within("the reason", async {
        loop {
            let (code, reason) = admin(&server, "GET /readyz", None).await;
            assert_eq!(code, 503, "{reason}");
            if reason.contains("--relay-address") {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_relays_ipv6_alone_becomes_ready() {
    let (relay, allow) = (vec!["::1".parse().unwrap()], vec!["::1/128".parse().unwrap()]);
    let server = start(rtc_turn::Config { relay, allow, ..config() }).await;
    assert_eq!(admin(&server, "GET /readyz", None).await.0, 200);
}

#[tokio::test]
async fn a_drain_refuses_new_clients_and_stops_when_the_last_call_ends() {
    let server = start(config()).await;
    let peer = echo_peer().await;
    let mut call = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    assert_eq!(admin(&server, "GET /readyz", None).await.0, 200);

    let (code, status) = admin(&server, "POST /drain?deadline=10m", None).await;
    assert!(code == 202 && status.contains("\"draining\":true"), "{status}");
    assert_eq!(admin(&server, "GET /readyz", None).await.0, 503);
    let mut new = TestClient::connect(&server, Transport::Udp, &single(), "bob").await;
    eventually_refused(&mut new, 486).await;
    assert!(matches!(call.ask(|c| c.refresh(600)).await, Answer::Success { .. }));
    assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on");
    assert_eq!(server.status()["draining"], true);

    assert!(matches!(call.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
    within("the end", server.stopped()).await.unwrap();
}

#[tokio::test]
async fn a_drain_names_an_alternate_and_ends_at_its_deadline() {
    let alternates = vec!["192.0.2.9:3478".parse().unwrap()];
    let server = start(rtc_turn::Config { alternates, ..config() }).await;
    let mut call = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    call.allocate().await;
    server.drain(Duration::from_secs(600));
    let mut new = TestClient::connect(&server, Transport::Udp, &single(), "bob").await;
    eventually_refused(&mut new, 300).await;
    server.drain(Duration::from_millis(100));
    within("the deadline", server.stopped()).await.unwrap();
    start(config()).await;
}

/// Each worker learns of the drain for itself; a client that is served still gives it back.
async fn eventually_refused(client: &mut TestClient, code: u16) {
    within("the refusal", async {
        while client.ask(Client::allocate).await != Answer::Refused(code) {
            client.ask(|c| c.refresh(0)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_program_ends_well_at_sigterm_and_explains_what_it_lacks() {
    let program = env!("CARGO_BIN_EXE_rtc-turn");
    let output = Command::new(program).env("RUST_BACKTRACE", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("rtc-turn: no keys") && text.contains("--secret"), "{text}");
    assert_eq!(text.lines().count(), 1, "only the message: {text}");
    let output = Command::new(program).args(["--listen", "sctp://0.0.0.0:5349"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("udp://"));

    let mut child = Command::new(program)
        .args(["--listen", "udp://127.0.0.1:0", "--relay-address", "127.0.0.1", "--secret", "north"])
        .env("RTC_LOG", "info")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0, "it ended");
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn user_quotas_hold_across_workers() {
    let mut config = config();
    config.limits.per_user = Some(3);
    let server = start(config).await;
    let mut held = Vec::new();
    for n in 0..20 {
        let mut client = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
        match client.ask(Client::allocate).await {
            Answer::Success { .. } => held.push(client),
            Answer::Refused(486) => assert!(n >= 3),
            answer => panic!("{answer:?}"),
        }
    }
    assert_eq!(held.len(), 3);
    eventually("the count", || server.status()["users"]["alice"] == 3).await;
}
