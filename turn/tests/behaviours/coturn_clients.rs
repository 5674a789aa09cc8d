//! Debian's coturn clients talk to this server: `apt-get install coturn`.

use crate::common::{
    SECRET, address,
    certificate::{issue, with_certificate},
    config, echo_peer, metric, start,
};
use rtc_credentials::Transport;
use rtc_turn::Handle;
use rtc_turn_proto::channel_data::Channels;
use std::time::Duration;
use tokio::{process::Command, time::timeout};

async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    let output = timeout(Duration::from_secs(60), command.output())
        .await
        .unwrap_or_else(|_| panic!("{program} {arguments:?} did not end in a minute"));
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; install Debian's package coturn"));
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// Runs two pairs of clients that call each other through the relay, and wants every packet back.
async fn call(server: &Handle, transport: Transport, flags: &[&str]) {
    let at = address(server, transport);
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let common = ["-y", "-n", "10", "-m", "2", "-z", "5", "-u", "alice", "-W", SECRET, "-p", &port];
    let text = run("turnutils_uclient", &[flags, &common, &[&*ip]].concat()).await;
    assert!(text.contains("Total lost packets 0 (0.000000%)"), "{flags:?}: {text}");
}

/// The same with clients that send to a peer which echoes.
async fn echo(server: &Handle, transport: Transport, flags: &[&str]) {
    let (at, peer) = (address(server, transport), echo_peer().await);
    let (ip, port, peer_port) = (at.ip().to_string(), at.port().to_string(), peer.port().to_string());
    let peer = ["-e", "127.0.0.1", "-r", &peer_port];
    let common = ["-n", "10", "-m", "2", "-z", "5", "-u", "alice", "-W", SECRET, "-p", &port];
    let text = run("turnutils_uclient", &[flags, &peer, &common, &[&*ip]].concat()).await;
    assert!(text.contains("Total lost packets 0 (0.000000%)"), "{flags:?}: {text}");
}

fn rfc5766() -> rtc_turn::Config {
    // its client draws channel numbers as RFC 5766 had them
    rtc_turn::Config { channels: Channels::Rfc5766, ..config() }
}

async fn server() -> Handle {
    start(rfc5766()).await
}

#[tokio::test]
async fn uclient_relays_over_udp_by_send_and_by_channel() {
    let server = server().await;
    call(&server, Transport::Udp, &["-c", "-s"]).await;
    call(&server, Transport::Udp, &["-c"]).await;
}

#[tokio::test]
async fn uclient_relays_over_tcp_by_send_and_by_channel() {
    let server = server().await;
    call(&server, Transport::Tcp, &["-c", "-t", "-s"]).await;
    call(&server, Transport::Tcp, &["-c", "-t"]).await;
}

#[tokio::test]
async fn uclient_relays_over_tls_by_send_and_by_channel() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let server = start(with_certificate(dir.path(), &["tls://127.0.0.1:0"], rfc5766())).await;
    call(&server, Transport::Tls, &["-c", "-t", "-S", "-s"]).await;
    call(&server, Transport::Tls, &["-c", "-t", "-S"]).await;
}

/// Its DTLS is of version 1.0 or 1.2, as it draws; that it tries again is the work of the alert that 1.0 gets.
#[tokio::test]
async fn uclient_relays_over_dtls_by_send_and_by_channel() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let server = start(with_certificate(dir.path(), &["dtls://127.0.0.1:0"], rfc5766())).await;
    call(&server, Transport::Dtls, &["-c", "-S", "-s"]).await;
    call(&server, Transport::Dtls, &["-c", "-S"]).await;
}

#[tokio::test]
async fn uclient_relays_ipv6_over_ipv6_by_every_transport() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let listen = ["udp://[::1]:0", "tcp://[::1]:0", "tls://[::1]:0"];
    let relay = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let server = start(with_certificate(dir.path(), &listen, rtc_turn::Config { relay, ..rfc5766() })).await;
    let transports = [(Transport::Udp, &[][..]), (Transport::Tcp, &["-t"]), (Transport::Tls, &["-t", "-S"])];
    for (transport, flags) in transports {
        let (send, channel) = ([flags, &["-c", "-x", "-s"]].concat(), [flags, &["-c", "-x"]].concat());
        tokio::join!(call(&server, transport, &send), call(&server, transport, &channel));
    }
    let port = address(&server, Transport::Udp).port().to_string();
    let text = run("turnutils_stunclient", &["-p", &port, "::1"]).await;
    assert!(text.contains("UDP reflexive addr: ::1:"), "{text}");
}

#[tokio::test]
async fn uclient_gets_a_pair_of_ports_for_rtp_and_rtcp() {
    call(&server().await, Transport::Udp, &[]).await;
}

#[tokio::test]
async fn stunclient_learns_its_address() {
    let server = server().await;
    let port = address(&server, Transport::Udp).port().to_string();
    let text = run("turnutils_stunclient", &["-p", &port, "127.0.0.1"]).await;
    assert!(text.contains("UDP reflexive addr: 127.0.0.1:"), "{text}");
}

/// RFC 6062: each client of a pair has a TCP allocation, and connects to the other's relayed address.
#[tokio::test]
async fn uclient_relays_tcp_connections() {
    call(&server().await, Transport::Tcp, &["-T"]).await;
}

/// RFC 6062, section 5.4: peers connect to the relayed address, and the client is told of it. The client counts what its
/// passive half got alone, so that half is "lost" whatever the server does: it says the same of coturn's own.
#[tokio::test]
async fn uclient_is_told_of_tcp_connections_that_its_peers_open() {
    let server = server().await;
    let port = address(&server, Transport::Tcp).port().to_string();
    let flags =
        ["-P", "-y", "-n", "10", "-m", "2", "-z", "5", "-u", "alice", "-W", SECRET, "-p", &port, "127.0.0.1"];
    let text = run("turnutils_uclient", &flags).await;
    assert!(text.contains("(50.000000%), total send dropped 0"), "{text}");
}

/// RFC 8016: each client goes to another socket once it has its allocation, sends the Refresh twice, and has often
/// closed the old socket before. Over TLS it may free the session that it closed a second time, and the new one with it.
#[tokio::test]
async fn uclient_takes_its_allocation_to_another_address() {
    let server = server().await;
    for (transport, flags) in [(Transport::Udp, &[][..]), (Transport::Tcp, &["-t"])] {
        let before = metric(&server, "rtc_turn_moves_total", "").await;
        let (send, channel) = ([flags, &["-c", "-M", "-s"]].concat(), [flags, &["-c", "-M"]].concat());
        tokio::join!(echo(&server, transport, &send), echo(&server, transport, &channel));
        // two of each, that have gone once
        assert!(metric(&server, "rtc_turn_moves_total", "").await >= before + 4.0, "{transport:?}");
    }
}

/// DONT-FRAGMENT, and permissions and channels by the dozen. Of its other flags `-Z` is not for this server: it asks for
/// two families by the number that a draft had (0x8032).
#[tokio::test]
async fn uclient_forbids_fragments_and_asks_for_much() {
    let server = server().await;
    for flags in [&["-c", "-g", "-s"][..], &["-c", "-G"], &["-c", "-G", "-s"], &["-c", "-D", "-t"]] {
        let transport = if flags.contains(&"-t") { Transport::Tcp } else { Transport::Udp };
        echo(&server, transport, flags).await;
    }
}

#[tokio::test]
async fn natdiscovery_finds_that_nothing_is_between() {
    let (_server, [at, ..]) = crate::behaviour_discovery::two_addresses().await;
    let port = at.port().to_string();
    for padding in [&[][..], &["-P"]] {
        let flags = ["-m", "-f", "-L", "127.0.0.1", "-p", &port, "127.0.0.1"];
        let text = run("turnutils_natdiscovery", &[padding, &flags].concat()).await;
        assert!(text.contains("Endpoint Independent Mapping"), "{text}");
        assert!(text.contains("Endpoint Independent Filtering"), "{text}");
    }
}
