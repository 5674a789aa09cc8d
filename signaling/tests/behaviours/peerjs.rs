//! PeerJS: its own client, and its protocol to the letter, on two replicas.

use crate::support::{
    raw::{Raw, get},
    *,
};
use rtc_signaling_proto::ops::RoomLimits;
use serde_json::{Value, json};
use std::time::Duration;

fn path(id: &str, token: &str) -> String {
    format!("/peerjs?key=peerjs&id={id}&token={token}&version=1.5.5")
}

fn open() -> Value {
    json!({"type": "OPEN"})
}

fn taken() -> Value {
    json!({"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}})
}

async fn peer(replica: &Replica, id: &str) -> Raw {
    let mut peer = Raw::connect(replica.address, &path(id, &format!("token-of-{id}"))).await;
    peer.expect(open()).await;
    peer
}

fn offer(src: Option<&str>, dst: &str, n: u32) -> Value {
    let mut offer = json!({"type": "OFFER", "dst": dst, "payload": {"n": n}});
    if let Some(src) = src {
        offer["src"] = src.into();
    }
    offer
}

on_each_store! {
    async fn unmodified_clients_call_each_other_across_replicas(backend: Backend) {
        let packages = node::install("peerjs-clients", &["peerjs@1.5.5", "@roamhq/wrtc@0.10.0", "ws@8.23.0"]);
        let (a, b) = (backend.replica().await, backend.replica().await);
        let ports = [&a, &b].map(|replica| replica.address.port().to_string());
        node::play("peerjs_clients/call.cjs", &packages, &ports).await;
        eventually("every peer has gone", async || a.server.connections() + b.server.connections() == 0).await;
    }

    async fn peers_are_found_on_any_replica_and_heard_in_order(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let (mut alice, mut bob) = (peer(&a, "alice").await, peer(&b, "bob").await);
        alice.send(json!({"type": "HEARTBEAT"})).await;
        for n in 0..20 {
            alice.send(json!({"type": "OFFER", "src": "mallory", "dst": "bob", "payload": {"n": n}})).await;
        }
        for n in 0..20 {
            bob.expect(offer(Some("alice"), "bob", n)).await;
        }
        for kind in ["ANSWER", "CANDIDATE", "LEAVE"] {
            bob.send(json!({"type": kind, "dst": "alice", "payload": null})).await;
            alice.expect(json!({"type": kind, "src": "bob", "dst": "alice", "payload": null})).await;
        }
        // a peer may write to itself, as it may on PeerJS's own server
        bob.send(offer(None, "bob", 9)).await;
        bob.expect(offer(Some("bob"), "bob", 9)).await;
    }

    async fn an_id_is_taken_everywhere_until_its_client_is_gone(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let alice = peer(&a, "alice").await;
        for replica in [&a, &b] {
            let mut thief = Raw::connect(replica.address, &path("alice", "another")).await;
            thief.expect(taken()).await;
            thief.closed().await;
        }
        alice.cut();
        eventually("the id is free", async || {
            let mut next = Raw::connect(b.address, &path("alice", "another")).await;
            next.next().await == Ok(open())
        })
        .await;
    }

    async fn the_same_token_takes_the_id_over_from_a_dead_connection(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut bob = peer(&a, "bob").await;
        let mut stale = peer(&a, "alice").await;
        let mut alice = peer(&b, "alice").await;
        assert_eq!(stale.closed().await, Some(4001));
        bob.send(offer(None, "alice", 1)).await;
        alice.expect(offer(Some("bob"), "alice", 1)).await;
        drop(stale);
        // the end of the old connection is not the end of the new one
        bob.send(offer(None, "alice", 2)).await;
        alice.expect(offer(Some("bob"), "alice", 2)).await;
    }

    async fn what_is_sent_to_an_absent_peer_waits_and_then_expires(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut alice = peer(&a, "alice").await;
        for n in 0..3 {
            alice.send(offer(None, "bob", n)).await;
        }
        // of importance to nobody who comes later
        alice.send(json!({"type": "LEAVE", "dst": "bob"})).await;
        let mut bob = peer(&b, "bob").await;
        for n in 0..3 {
            bob.expect(offer(Some("alice"), "bob", n)).await;
        }
        bob.send(offer(None, "alice", 3)).await;
        alice.expect(offer(Some("bob"), "alice", 3)).await;
        // two messages, one answer, after 5 s
        let sent = tokio::time::Instant::now();
        alice.send(offer(None, "nobody", 1)).await;
        alice.send(offer(None, "nobody", 2)).await;
        alice.expect(json!({"type": "EXPIRE", "src": "nobody", "dst": "alice"})).await;
        assert!(sent.elapsed() >= Duration::from_secs(5), "{:?}", sent.elapsed());
        bob.send(offer(None, "alice", 4)).await;
        alice.expect(offer(Some("bob"), "alice", 4)).await;
    }

    async fn a_peer_that_reconnects_with_its_token_gets_what_was_sent_meanwhile(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut alice = peer(&a, "alice").await;
        peer(&a, "bob").await.cut();
        eventually("bob is gone", async || a.server.connections() == 1).await;
        alice.send(offer(None, "bob", 1)).await;
        let mut bob = peer(&b, "bob").await;
        bob.expect(offer(Some("alice"), "bob", 1)).await;
    }

    async fn a_drain_sends_peers_away_and_their_tokens_keep_their_ids(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut alice = peer(&a, "alice").await;
        let draining = a.server.clone();
        let drain = tokio::spawn(async move { draining.drain(Some(Duration::from_secs(10))).await });
        assert_eq!(alice.closed().await, Some(1012));
        let mut bob = peer(&b, "bob").await;
        bob.send(offer(None, "alice", 1)).await;
        let mut alice = peer(&b, "alice").await;
        alice.expect(offer(Some("bob"), "alice", 1)).await;
        drain.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_outlives_its_replica_for_its_token_only() {
    let limits = RoomLimits { replica_lease: Duration::from_secs(60), ..RoomLimits::default() };
    let backend = Backend::redis_with(limits);
    let mortal = Mortal::start(backend.builder());
    let survivor = backend.replica().await;
    let alice = peer(&mortal.replica, "alice").await;
    mortal.kill();
    drop(alice);
    let mut thief = Raw::connect(survivor.address, &path("alice", "another")).await;
    thief.expect(taken()).await;
    let mut alice = peer(&survivor, "alice").await;
    let mut bob = peer(&survivor, "bob").await;
    bob.send(offer(None, "alice", 1)).await;
    alice.expect(offer(Some("bob"), "alice", 1)).await;
}

#[tokio::test]
async fn a_key_is_a_namespace() {
    let backend = Backend::memory();
    let replica = backend.replica().await;
    let mut alice = peer(&replica, "alice").await;
    let mut other = Raw::connect(replica.address, "/peerjs?key=other&id=alice&token=x").await;
    other.expect(open()).await;
    other.send(offer(None, "alice", 1)).await;
    other.expect(offer(Some("alice"), "alice", 1)).await;
    alice.send(offer(None, "alice", 2)).await;
    alice.expect(offer(Some("alice"), "alice", 2)).await;
}

#[tokio::test]
async fn a_client_without_an_id_a_token_or_a_key_is_told_so() {
    let backend = Backend::memory();
    let replica = backend.replica().await;
    for query in ["", "?key=peerjs&id=a", "?key=peerjs&token=t", "?id=a&token=t", "?key=&id=a&token=t"] {
        let mut client = Raw::connect(replica.address, &format!("/peerjs{query}")).await;
        let why = "No id, token, or key supplied to websocket server";
        client.expect(json!({"type": "ERROR", "payload": {"msg": why}})).await;
        client.closed().await;
    }
    let mut client = Raw::connect(replica.address, "/peerjs?key=%0a&id=a&token=t").await;
    client.expect(json!({"type": "ERROR", "payload": {"msg": "Invalid key provided"}})).await;
    client.closed().await;
}

#[tokio::test]
async fn ids_are_given_out_and_not_listed() {
    let backend = Backend::memory();
    let replica = backend.replica().await;
    for path in ["/peerjs", "/any", "/peerjs/any"] {
        let (status, id) = get(replica.address, &format!("{path}/id?ts=1&version=1.5.5")).await;
        let (_, another) = get(replica.address, &format!("{path}/id")).await;
        assert_eq!((status, id.len(), id == another), (200, 36, false), "{path}: {id}");
        assert_eq!(get(replica.address, &format!("{path}/peers")).await.0, 401);
    }
    // a room of the page's may be called so
    assert!(get(replica.address, "/r/id").await.1.contains("<html"));
}

#[tokio::test]
async fn nobody_enters_the_room_of_an_id_with_another_dialect() {
    let backend = Backend::memory();
    let replica = backend.replica().await;
    let _alice = peer(&replica, "alice").await;
    let mut spy = replica.connect().await;
    spy.send(json!({"type": "join", "room": "peerjs\u{1f}peerjs\u{1f}alice"})).await;
    assert_eq!(spy.expect("error").await["code"], "bad_frame");
}
