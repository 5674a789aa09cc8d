//! Redis goes and comes back.

use crate::support::*;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_go_on_without_redis_and_are_told_how_they_stand_when_it_is_back_empty() {
    let mut backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = a.join("r").await;
    let mut three = b.join("r").await;
    while one.seq < three.seq {
        one.frame().await;
    }
    while two.seq < three.seq {
        two.frame().await;
    }
    let epoch = one.epoch;
    let port = backend.redis.take().unwrap().port;
    for client in [&mut one, &mut two, &mut three] {
        let degraded = client.expect("degraded").await;
        assert!(degraded["since"].as_u64().unwrap() > 1_700_000_000);
    }
    assert!(a.server.ready().unwrap_err().contains("Redis is gone since "));
    assert_eq!(a.server.status()["store"]["up"], false);

    // on one replica everything goes on; what cannot be delivered is not silently dropped
    one.send(json!({"type": "signal", "id": 1, "to": two.id(), "data": "near"})).await;
    assert_eq!(one.expect("ack").await["id"], 1);
    assert_eq!(two.expect("signal").await["data"], "near");
    one.send(json!({"type": "signal", "id": 2, "to": three.id(), "data": "far"})).await;
    assert_eq!(one.expect("error").await["code"], "degraded");
    one.send(json!({"type": "signal", "id": 3, "data": "all"})).await;
    assert_eq!(one.expect("error").await["code"], "degraded");
    assert_eq!(two.expect("signal").await["data"], "all");
    let mut late = a.connect().await;
    late.send(json!({"type": "join", "id": 4, "room": "r"})).await;
    assert_eq!(late.expect("error").await["code"], "store_unavailable");

    backend.redis = Some(Redis::on(port));
    for client in [&mut one, &mut two, &mut three] {
        client.expect("recovered").await;
        let resync = client.expect("resync").await;
        assert!(resync["epoch"].as_u64().unwrap() > epoch);
        assert_eq!(resync["members"].as_array().unwrap().len(), 2);
    }
    // sent again under the same ids: whoever had it does not get it again
    for (id, to, data) in [(2, Some(three.id()), "far"), (3, None, "all")] {
        let mut signal = json!({"type": "signal", "id": id, "data": data});
        if let Some(to) = to {
            signal["to"] = json!(to);
        }
        one.send(signal).await;
        one.expect("ack").await;
    }
    assert_eq!(three.expect("signal").await["data"], "far");
    assert_eq!(three.expect("signal").await["data"], "all");
    two.expect_nothing().await;
    late.join("r").await;
    for client in [&mut one, &mut two, &mut three] {
        assert_eq!(client.until("member-joined").await["member"]["id"], late.id());
    }
    eventually("ready", async || a.server.ready().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_waits_for_a_redis_that_is_back_soon() {
    let mut backend = Backend::redis();
    let a = backend.replica().await;
    let mut one = a.join("r").await;
    let port = backend.redis.take().unwrap().port;
    one.until("degraded").await;
    let mut late = a.connect().await;
    late.send(json!({"type": "join", "room": "s"})).await;
    backend.redis = Some(Redis::on(port));
    late.until("joined").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_redis_ends_is_renewed_and_nothing_is_missed() {
    let backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    let redis = backend.redis.as_ref().unwrap();
    for n in 0..20 {
        if n % 5 == 0 {
            redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        }
        two.send(json!({"type": "signal", "id": n, "data": n})).await;
        two.until("ack").await;
    }
    for n in 0..20 {
        assert_eq!(one.expect("signal").await["data"], n);
    }
    one.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_redis_forgot_is_taken_over_by_its_replicas() {
    let backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    backend.redis.as_ref().unwrap().command(&["FLUSHALL"]).await;
    let ids = [two.id(), one.id()];
    for (client, other) in [&mut one, &mut two].into_iter().zip(ids) {
        let resync = client.expect("resync").await;
        assert_eq!(resync["members"][0]["id"], other);
    }
    one.signal(None, json!("on")).await;
    assert_eq!(two.expect("signal").await["data"], "on");
    let mut moved = one.resume_at(&b).await;
    moved.expect("resumed").await;
    two.expect_nothing().await;
}

/// Four times as long as a lease, which nobody can renew meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_without_redis_costs_nobody_a_place() {
    let backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut clients = [a.join("r").await, a.join("r").await, b.join("r").await];
    let last = clients[2].seq;
    for client in &mut clients {
        while client.seq < last {
            client.frame().await;
        }
    }
    let redis = backend.redis.as_ref().unwrap();
    redis.freeze();
    for n in 0..6 {
        for client in &mut clients {
            client.send(json!({"type": "ping"})).await;
            if n == 0 {
                client.until("degraded").await;
            }
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    redis.thaw();
    let thawed = Instant::now();
    for client in &mut clients {
        // a pong for each ping that was not waited for, and nobody's leave
        let mut frame = client.frame().await;
        while frame["type"] == "pong" {
            frame = client.frame().await;
        }
        assert_eq!(frame["type"], "recovered");
    }
    assert!(thawed.elapsed() < Duration::from_secs(10), "{:?}", thawed.elapsed());
    // until leases that were not renewed would be reaped
    tokio::time::sleep(Duration::from_secs(6)).await;
    let [one, two, three] = &mut clients;
    one.send(json!({"type": "signal", "id": 1, "data": "on"})).await;
    assert_eq!(one.expect("ack").await["id"], 1);
    assert_eq!(two.expect("signal").await["data"], "on");
    assert_eq!(three.expect("signal").await["data"], "on");
}
