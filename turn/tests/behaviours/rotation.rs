//! Keys come and go in their directory while calls go on.

use crate::common::{OK, TestClient, admin, config, echo_peer, eventually, ring, start};
use rtc_credentials::{KeyRing, Transport};
use rtc_turn::settings::Keys;
use rtc_turn_proto::client::{Answer, Client};
use std::path::Path;

fn write(dir: &Path, ring: &KeyRing) {
    let files = ring.to_files();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != ".admin-token" && !files.contains_key(&name) && !name.starts_with(".ring") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    for (name, content) in files {
        std::fs::write(dir.join(name), content).unwrap();
    }
}

#[tokio::test]
async fn a_retired_key_is_refused_while_its_allocation_refreshes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".admin-token"), "a token for admins").unwrap();
    write(dir.path(), &ring(1, &["k-1"]));
    let server = start(rtc_turn::Config { keys: Keys::Dir(dir.path().into()), ..config() }).await;
    let peer = echo_peer().await;
    let mut call = TestClient::connect(&server, Transport::Udp, &ring(1, &["k-1"]), "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);

    write(dir.path(), &ring(2, &["k-2"]));
    eventually("all workers to use the new ring", || server.status()["ring"]["revision"] == 2).await;
    assert_eq!(server.status()["ring"]["keys"], serde_json::json!(["k-2"]));
    let mut old = TestClient::connect(&server, Transport::Udp, &ring(1, &["k-1"]), "bob").await;
    assert_eq!(old.ask(Client::allocate).await, Answer::Refused(401));
    let mut new = TestClient::connect(&server, Transport::Udp, &ring(2, &["k-2"]), "bob").await;
    new.allocate().await;
    assert!(matches!(call.ask(|c| c.refresh(600)).await, Answer::Success { lifetime: Some(600), .. }));
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    assert_eq!(call.echo_by_channel(0x4000, b"still here").await, b"still here");

    let (code, _) = admin(&server, "GET /status", None).await;
    assert_eq!(code, 401, "the directory holds an admin token");
    let (code, status) = admin(&server, "GET /status", Some("a token for admins")).await;
    assert!(code == 200 && status.contains("\"rtc-turn\""));
}

#[tokio::test]
async fn a_broken_ring_changes_nothing_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &ring(1, &["k-1"]));
    let server = start(rtc_turn::Config { keys: Keys::Dir(dir.path().into()), ..config() }).await;
    std::fs::write(dir.path().join(".ring.json"), "{").unwrap();
    eventually("the fault to be reported", || server.status()["reloadError"].is_string()).await;
    let mut client = TestClient::connect(&server, Transport::Udp, &ring(1, &["k-1"]), "alice").await;
    client.allocate().await;
}
