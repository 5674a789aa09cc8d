//! The configuration file changes while calls go on.

use crate::common::{OK, TestClient, admin, echo_peer, eventually, metric, settings, single, start, within};
use rtc_credentials::Transport;
use rtc_service::config;
use rtc_turn::{Handle, Settings, settings::SettingsFile};
use rtc_turn_proto::{
    channel_data,
    client::{Answer, Client},
};
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::net::UdpSocket;

/// A server whose configuration file changes.
struct Changing {
    dir: TempDir,
    server: Handle,
}

impl Changing {
    /// Peers and the address are the file's, and the rest is given by flags.
    async fn start(text: &str) -> Self {
        let flags = Settings { allow_peer: Vec::new(), relay_address: Vec::new(), ..settings() };
        Self::start_with(flags, text).await
    }

    async fn start_with(flags: Settings, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Self::path(&dir);
        std::fs::write(&path, text).unwrap();
        let read = config::load(Some(&path), flags.clone()).unwrap();
        let mut config = read.clone().resolve().unwrap();
        config.file = Some(SettingsFile { path, flags, read });
        Self { dir, server: start(config).await }
    }

    fn path(dir: &TempDir) -> PathBuf {
        dir.path().join("turn.yaml")
    }

    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, Self::path(&self.dir)).unwrap();
    }

    async fn connect(&self, user: &str) -> TestClient {
        TestClient::connect(&self.server, Transport::Udp, &single(), user).await
    }
}

const BASE: &str = "relay-address: ['127.0.0.1']\nallow-peer: [127.0.0.1/32]\n";

#[tokio::test]
async fn a_peer_that_is_denied_now_is_relayed_to_no_more() {
    let changing = Changing::start(BASE).await;
    let server = &changing.server;
    let (peer, mut call) = (echo_peer().await, changing.connect("alice").await);
    call.allocate().await;
    assert_eq!(call.ask(|c| c.create_permission(peer)).await, OK);
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on");

    changing.write(&format!("{BASE}deny-peer: [127.0.0.1/32]\n"));
    within("the peer to be denied", async {
        while call.ask(|c| c.create_permission(peer)).await != Answer::Refused(403) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let dropped = metric(server, "rtc_turn_drops_total", "no_channel").await;
    let mut packet = Vec::new();
    channel_data::write(0x4000, b"lost", false, &mut packet);
    call.send(&packet).await;
    let packet = call.client.send(peer, b"lost");
    call.send(&packet).await;
    within("both to be dropped", async {
        while metric(server, "rtc_turn_drops_total", "no_channel").await == dropped
            || metric(server, "rtc_turn_drops_total", "no_permission").await == 0.0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;

    changing.write(BASE);
    within("the peer to be allowed", async {
        while call.ask(|c| c.channel_bind(0x4000, peer)).await != OK {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(call.echo_by_channel(0x4000, b"again").await, b"again");
}

#[tokio::test]
async fn new_allocations_have_the_new_address_and_old_ones_theirs() {
    let changing = Changing::start("relay-address: ['127.0.0.1']\nallow-peer: [127.0.0.5/32]\n").await;
    let peer = UdpSocket::bind("127.0.0.5:0").await.unwrap();
    let mut old = changing.connect("alice").await;
    assert_eq!(old.allocate().await.ip().to_string(), "127.0.0.1");
    let at = peer.local_addr().unwrap();
    assert_eq!(old.ask(|c| c.channel_bind(0x4000, at)).await, OK);
    changing.write("relay-address: ['127.0.0.1,127.0.0.9']\nallow-peer: [127.0.0.5/32]\n");
    let server = &changing.server;
    eventually("the address", || server.status()["relayAddresses"][0] == "127.0.0.9").await;
    let mut new = changing.connect("bob").await;
    within("an allocation there", async {
        while new.allocate().await.ip().to_string() != "127.0.0.9" {
            new.ask(|c| c.refresh(0)).await;
        }
    })
    .await;
    assert!(matches!(old.ask(|c| c.refresh(600)).await, Answer::Success { .. }));
    let mut packet = Vec::new();
    channel_data::write(0x4000, b"still here", false, &mut packet);
    old.send(&packet).await;
    let mut buffer = [0; 100];
    let (length, from) = within("the datagram", peer.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"still here");
    peer.send_to(b"as before", from).await.unwrap();
    assert_eq!(channel_data::parse(&old.receive().await), Some((0x4000, &b"as before"[..])));
}

#[tokio::test]
async fn quotas_and_alternates_change_and_what_cannot_is_named() {
    let changing = Changing::start(&format!("{BASE}user-quota: 1\n")).await;
    let server = &changing.server;
    let mut first = changing.connect("alice").await;
    first.allocate().await;
    let mut second = changing.connect("alice").await;
    assert_eq!(second.ask(Client::allocate).await, Answer::Refused(486));
    assert_eq!(server.status()["needRestart"], serde_json::json!([]));

    changing.write(&format!(
        "{BASE}user-quota: 2\nbandwidth-quota: 70000\nstun-only: true\nalternate-server: ['192.0.2.9:3478']\n"
    ));
    eventually("the new settings", || server.status()["needRestart"] == serde_json::json!(["stun-only"]))
        .await;
    second.allocate().await;
    let peer = echo_peer().await;
    assert_eq!(second.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    let mut packet = Vec::new();
    channel_data::write(0x4000, &[7; 1000], false, &mut packet);
    within("the bandwidth quota", async {
        while metric(server, "rtc_turn_drops_total", "bandwidth_quota").await == 0.0 {
            for _ in 0..20 {
                second.send(&packet).await;
            }
        }
    })
    .await;
    server.drain(std::time::Duration::from_secs(60));
    let mut third = changing.connect("bob").await;
    within("the alternate", async {
        while third.ask(Client::allocate).await != Answer::Refused(300) {
            third.ask(|c| c.refresh(0)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_told_until_it_is_mended() {
    let changing = Changing::start(&format!("{BASE}user-quota: 1\n")).await;
    let server = &changing.server;
    assert_eq!(metric(server, "rtc_turn_reload_failed", "configuration").await, 0.0);
    changing.write("user-qouta: 5\n");
    eventually("the fault", || server.status()["reloadError"].is_string()).await;
    let fault = server.status()["reloadError"].to_string();
    assert!(fault.contains("user-qouta") && fault.contains("turn.yaml"), "{fault}");
    assert_eq!(metric(server, "rtc_turn_reload_failed", "configuration").await, 1.0);
    let mut first = changing.connect("alice").await;
    first.allocate().await;
    let mut second = changing.connect("alice").await;
    assert_eq!(second.ask(Client::allocate).await, Answer::Refused(486), "as before");

    changing.write(&format!("{BASE}user-quota: 2\n"));
    eventually("the mended file", || server.status()["reloadError"].is_null()).await;
    second.allocate().await;
    assert_eq!(admin(server, "GET /readyz", None).await.0, 200);
}

#[tokio::test]
async fn flags_win_over_a_file_that_changes() {
    let changing =
        Changing::start_with(Settings { user_quota: Some(1), ..settings() }, "total-quota: 9\n").await;
    let server = &changing.server;
    changing.write("user-quota: 5\nworkers: 7\nrealm: other.example\ntls-cert: a\n");
    // of those, the realm and the workers are flags too
    eventually("the file", || server.status()["needRestart"] == serde_json::json!(["tls-cert"])).await;
    let mut first = changing.connect("alice").await;
    first.allocate().await;
    let mut second = changing.connect("alice").await;
    assert_eq!(second.ask(Client::allocate).await, Answer::Refused(486));
}
