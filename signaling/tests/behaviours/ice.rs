//! Members get fresh credentials, and a change of the files reaches them.

use crate::support::*;
use rtc_credentials::{KeyRing, Secret, parse_username, password};
use rtc_signaling::{Server, ice::Ice};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

fn fleet(serving: bool) -> String {
    json!({
        "revision": if serving { "1" } else { "2" }, "realm": "calls.example.com",
        "listeners": [{"transport": "UDP", "port": 3478}], "relayPorts": {"min": 50000, "max": 50010},
        "nodes": [{"node": "w1", "addresses": ["192.0.2.1"], "serving": serving}],
    })
    .to_string()
}

fn turn(frame: &Value) -> Option<Value> {
    let servers = frame["iceServers"].as_array().unwrap();
    servers.iter().find(|s| s["urls"][0].as_str().unwrap().starts_with("turn:")).cloned()
}

#[tokio::test]
async fn members_get_credentials_of_the_fleet_and_changes_of_the_files_reach_them() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let secret = Secret::generate().unwrap();
    for (name, content) in KeyRing::single(secret.clone()).to_files() {
        std::fs::write(keys.join(name), content).unwrap();
    }
    let file = dir.path().join("turn.json");
    std::fs::write(&file, fleet(true)).unwrap();
    let ice = Ice::new(&[], Some(&file), Some(&keys), Duration::from_secs(600)).unwrap();
    let backend = Backend::memory();
    let replica = Replica::start(Server::builder(backend.shared.clone(), Arc::new(ice))).await;
    let mut client = replica.connect().await;
    let joined = client.join("r").await;
    let server = turn(&joined).unwrap();
    let username = server["username"].as_str().unwrap();
    assert_eq!(server["credential"], password(&secret, username));
    let (expiry, user) = parse_username(username).unwrap();
    assert_eq!((json!(expiry), json!(user)), (joined["expires"].clone(), joined["session"].clone()));
    assert!(expiry.abs_diff(rtc_service::clock::unix_now() + 600) < 10);
    assert_eq!(replica.server.status()["fleetRevision"], "1");

    std::fs::write(&file, "{half").unwrap();
    std::fs::write(&file, fleet(false)).unwrap();
    eventually("the drained node is not handed out", async || {
        client.send(json!({"type": "ice", "id": 1})).await;
        let ice = client.expect("ice").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        turn(&ice).is_none()
    })
    .await;
    assert_eq!(replica.server.status()["fleetRevision"], "2");
}

#[tokio::test]
async fn fixed_servers_are_handed_out_and_turn_without_keys_is_refused_with_advice() {
    let stun = ["stun:192.0.2.9:3478".to_owned()];
    let ice = Ice::new(&stun, None, None, Duration::from_secs(60)).unwrap();
    let backend = Backend::memory();
    let replica = Replica::start(Server::builder(backend.shared.clone(), Arc::new(ice))).await;
    let joined = replica.connect().await.join("r").await;
    assert_eq!(joined["iceServers"], json!([{"urls": ["stun:192.0.2.9:3478"]}]));

    let turn = ["turn:192.0.2.9".to_owned()];
    let error = Ice::new(&turn, None, None, Duration::from_secs(60)).unwrap_err();
    assert!(error.to_string().contains("--keys"));
    let wrong = ["192.0.2.9".to_owned()];
    let error = Ice::new(&wrong, None, None, Duration::from_secs(60)).unwrap_err();
    assert!(error.to_string().contains("turn:HOST"));
}
