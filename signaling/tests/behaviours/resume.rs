//! A session outlives its connection and its replica: nothing is lost, doubled or reordered.

use crate::support::*;
use rtc_signaling_proto::ops::RoomLimits;
use serde_json::{Value, json};
use std::time::Duration;

on_each_store! {
    async fn a_lost_connection_is_resumed_on_another_replica(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        one.expect("member-joined").await;
        two.signal(None, json!("before")).await;
        one.expect("signal").await;

        let lost = one;
        let (joined, token, epoch, seq) = (lost.joined.clone(), lost.token(), lost.epoch, lost.seq);
        drop(lost);
        for n in 0..5 {
            two.send(json!({"type": "signal", "id": n, "data": n})).await;
            two.expect("ack").await;
        }
        let mut three = a.join("r").await;
        let mut back = b.connect().await;
        back.joined = joined;
        back.send(json!({"type": "resume", "id": "again", "resume": token, "epoch": epoch, "seq": seq})).await;
        let resumed = back.expect("resumed").await;
        assert_eq!((&resumed["id"], &resumed["session"]), (&json!("again"), &json!(back.id())));
        assert_eq!((&resumed["epoch"], &resumed["seq"]), (&json!(epoch), &json!(seq)));
        assert_eq!(resumed["members"], json!([{"id": two.id(), "polite": false}]), "three's coming is told after");
        for n in 0..5 {
            assert_eq!(back.expect("signal").await["data"], n);
        }
        assert_eq!(back.expect("member-joined").await["member"]["id"], three.id());
        two.signal(None, json!("after")).await;
        assert_eq!(back.expect("signal").await["data"], "after");
        back.signal(None, json!("mine")).await;
        assert_eq!(two.until("signal").await["data"], "mine");
        assert_eq!(three.until("signal").await["data"], "after");
        // nobody saw anybody leave
        assert_eq!(three.until("signal").await["data"], "mine");
        two.expect_nothing().await;
    }

    async fn a_resumed_session_is_taken_from_its_old_connection(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        one.expect("member-joined").await;
        for replica in [&b, &a, &a] {
            let mut next = one.resume_at(replica).await;
            next.expect("resumed").await;
            assert_eq!(one.closed().await, Some(4001));
            one = next;
        }
        two.signal(None, json!(1)).await;
        one.expect("signal").await;
        one.expect_nothing().await;
        two.expect_nothing().await;
    }

    async fn who_missed_too_much_is_told_how_things_stand(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        let seq = two.seq;
        for n in 0..600 {
            insist(&mut two, json!({"type": "signal", "id": n, "data": n})).await;
        }
        while one.seq < seq + 520 {
            one.frame().await;
        }
        let mut back = a.connect().await;
        back.send(json!({"type": "resume", "resume": one.token(), "epoch": two.epoch, "seq": seq})).await;
        let resync = back.expect("resync").await;
        assert_eq!(resync["session"], one.id());
        assert_eq!(resync["members"], json!([{"id": two.id(), "polite": false}]));
        insist(&mut two, json!({"type": "signal", "id": "on", "to": one.id(), "data": "go on"})).await;
        assert_eq!(back.expect("signal").await["data"], "go on");
    }

    async fn a_token_that_is_not_the_sessions_resumes_nothing(backend: Backend) {
        let a = backend.replica().await;
        let mut one = a.join("r").await;
        let token = one.token().as_str().unwrap().to_owned();
        let mut parts: Vec<&str> = token.splitn(3, '~').collect();
        parts[1] = "forged";
        let mut thief = a.connect().await;
        thief.send(json!({"type": "resume", "id": 1, "resume": parts.join("~"), "epoch": one.epoch, "seq": one.seq})).await;
        assert_eq!(thief.expect("error").await["code"], "unknown_session");
        one.expect_nothing().await;
        // and the connection can still join
        thief.join("r").await;
    }
}

/// Sends until the server takes it.
async fn insist(client: &mut Client, frame: Value) {
    loop {
        client.send(frame.clone()).await;
        let answer = client.frame().await;
        if answer["type"] != "error" {
            return;
        }
        assert_eq!(answer["code"], "rate_limited");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn short() -> RoomLimits {
    RoomLimits {
        replica_lease: Duration::from_millis(1500),
        detached_lease: Duration::from_millis(600),
        ..RoomLimits::default()
    }
}

async fn one_leave_when_nobody_comes_back(backend: Backend) {
    let (a, b) = (backend.replica().await, backend.replica().await);
    let one = a.join("r").await;
    let mut two = b.join("r").await;
    let (gone, token) = (one.id(), one.token());
    let (epoch, seq) = (one.epoch, one.seq);
    drop(one);
    let left = two.expect("member-left").await;
    assert_eq!((&left["member"], &left["reason"]), (&json!(gone), &json!("lost")));
    two.expect_nothing().await;
    let mut late = b.connect().await;
    late.send(json!({"type": "resume", "resume": token, "epoch": epoch, "seq": seq})).await;
    assert_eq!(late.expect("error").await["code"], "unknown_session");
}

#[tokio::test]
async fn one_leave_when_nobody_comes_back_memory() {
    one_leave_when_nobody_comes_back(Backend::memory_with(short())).await;
}

#[tokio::test]
async fn one_leave_when_nobody_comes_back_redis() {
    one_leave_when_nobody_comes_back(Backend::redis_with(short())).await;
}

/// A replica dies without a word: those who come back in time lose nothing; of the others, each gives one
/// leave.
async fn a_killed_replica(backend: Backend) {
    let a = Mortal::start(backend.builder().name("a"));
    let (b, c) = (backend.replica().await, backend.replica().await);
    let mut stays = a.replica.join("r").await;
    let goes = [a.replica.join("r").await, a.replica.join("r").await];
    let mut two = b.join("r").await;
    let mut three = c.join("r").await;
    while stays.seq < three.seq {
        stays.frame().await;
    }
    a.kill();
    stays.closed().await;
    for n in 0..3 {
        two.signal(None, json!(n)).await;
    }
    let mut back = stays.resume_at(&c).await;
    back.expect("resumed").await;
    for n in 0..3 {
        assert_eq!(back.expect("signal").await["data"], n);
    }
    let mut lost = Vec::new();
    while lost.len() < 2 {
        let left = two.until("member-left").await;
        assert_eq!(left["reason"], "lost");
        lost.push(left["member"].as_str().unwrap().to_owned());
    }
    lost.sort();
    let mut expected: Vec<String> = goes.iter().map(Client::id).collect();
    expected.sort();
    assert_eq!(lost, expected);
    // who came back stays beyond every lease
    tokio::time::sleep(Duration::from_secs(3)).await;
    two.expect_nothing().await;
    back.signal(None, json!("here")).await;
    assert_eq!(two.expect("signal").await["data"], "here");
    assert_eq!(three.until("signal").await["data"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_gives_one_leave_each_memory() {
    a_killed_replica(Backend::memory_with(short())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_gives_one_leave_each_redis() {
    a_killed_replica(Backend::redis_with(short())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_room_stays_when_everybody_has_gone_each_in_another_way() {
    let backend = Backend::redis_with(short());
    let killed = Mortal::start(backend.builder());
    let b = backend.replica().await;
    let mut leaves = b.join("ghost").await;
    let (breaks, dies) = (b.join("ghost").await, killed.replica.join("ghost").await);
    let stays = b.join("another").await;
    let redis = backend.redis.as_ref().unwrap();
    let keys = async |pattern: &str| -> Vec<String> {
        redis::from_redis_value(redis.command(&["KEYS", pattern]).await).unwrap()
    };
    assert!(!keys("*:ghost").await.is_empty());
    leaves.send(json!({"type": "leave", "id": 1})).await;
    drop(breaks);
    killed.kill();
    drop(dies);
    eventually("every key of it is gone", async || keys("*:ghost").await.is_empty()).await;
    // nor is it on the list of rooms
    for key in keys("rtc:*").await {
        let kind: String = redis::from_redis_value(redis.command(&["TYPE", &key]).await).unwrap();
        if kind == "zset" {
            let score = redis.command(&["ZSCORE", &key, "ghost"]).await;
            assert_eq!(score, redis::Value::Nil, "{key}");
        }
    }
    assert!(!keys("*:another").await.is_empty());
    eventually("no replica holds it", async || b.server.hub().rooms() == 1).await;
    drop(stays);
}
