//! What can go wrong with Redis or a replica while rooms are in use.

use crate::support::{servers::Process, *};
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_answers_with_errors_is_asked_ever_more_rarely_and_the_reason_is_told() {
    let backend = Backend::redis();
    let redis = backend.redis.as_ref().unwrap();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut own = client.get_multiplexed_async_connection().await.unwrap();
    let set = async |own: &mut redis::aio::MultiplexedConnection, password: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("requirepass").arg(password);
        command.exec_async(own).await.unwrap();
    };
    set(&mut own, "changed").await;
    let a = backend.replica().await;
    eventually("the reason is told", async || {
        a.server.ready().is_err_and(|why| why.starts_with("Redis is gone since ") && why.contains("NOAUTH"))
    })
    .await;
    assert!(a.server.status()["store"]["reason"].as_str().unwrap().contains("NOAUTH"));
    let connections = async |own: &mut redis::aio::MultiplexedConnection| {
        let info: String = redis::cmd("INFO").arg("stats").query_async(own).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = connections(&mut own).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let tries = connections(&mut own).await - before;
    assert!(tries <= 5, "{tries} connections in four seconds");
    set(&mut own, "").await;
    eventually("it is used again", async || a.server.ready().is_ok()).await;
    a.join("r").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_counts_as_gone() {
    let backend = Backend::redis();
    let a = backend.replica().await;
    let mut one = a.join("r").await;
    let redis = backend.redis.as_ref().unwrap();
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    one.expect("degraded").await;
    assert!(a.server.ready().unwrap_err().contains("NOREPLICAS"));
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    one.expect("recovered").await;
    eventually("ready", async || a.server.ready().is_ok()).await;
    one.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_pauses_delays_and_loses_nothing() {
    let backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    backend.redis.as_ref().unwrap().command(&["CLIENT", "PAUSE", "1200", "ALL"]).await;
    for n in 0..20 {
        two.send(json!({"type": "signal", "id": n, "data": n})).await;
    }
    for n in 0..20 {
        assert_eq!(one.expect("signal").await["data"], n);
        assert_eq!(two.expect("ack").await["id"], n);
    }
    one.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_is_told_as_degraded_and_what_was_on_its_way_comes_once() {
    let backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    let redis = backend.redis.as_ref().unwrap();
    redis.freeze();
    two.send(json!({"type": "signal", "id": "once", "data": "x"})).await;
    one.expect("degraded").await;
    let told = [two.frame().await, two.frame().await];
    assert!(told.iter().any(|frame| frame["type"] == "degraded"));
    assert!(told.iter().any(|frame| frame["code"] == "degraded"));
    redis.thaw();
    let thawed = Instant::now();
    two.until("recovered").await;
    assert!(thawed.elapsed() < Duration::from_secs(8), "{:?}", thawed.elapsed());
    // whether Redis has taken it in before or not
    two.send(json!({"type": "signal", "id": "once", "data": "x"})).await;
    two.expect("ack").await;
    two.send(json!({"type": "signal", "data": "last"})).await;
    let mut heard = Vec::new();
    while heard.last() != Some(&json!("last")) {
        heard.push(one.frame().await["data"].clone());
    }
    heard.retain(|data| !data.is_null());
    assert_eq!(heard, ["x", "last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_beyond_every_lease_costs_nobody_the_room() {
    let limits = RoomLimits {
        replica_lease: Duration::from_millis(1500),
        detached_lease: Duration::from_millis(1500),
        ..RoomLimits::default()
    };
    let backend = Backend::redis_with(limits);
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    let redis = backend.redis.as_ref().unwrap();
    redis.freeze();
    for client in [&mut one, &mut two] {
        client.expect("degraded").await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.thaw();
    let thawed = Instant::now();
    for client in [&mut one, &mut two] {
        client.expect("recovered").await;
    }
    assert!(thawed.elapsed() < Duration::from_secs(8), "{:?}", thawed.elapsed());
    one.signal(None, json!("on")).await;
    assert_eq!(two.expect("signal").await["data"], "on");
    // until leases that nobody renewed would be reaped
    tokio::time::sleep(Duration::from_secs(6)).await;
    one.expect_nothing().await;
    two.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_gets_only_what_it_hosts_and_did_not_write() {
    use futures::StreamExt;
    let backend = Backend::redis();
    let replicas = [backend.replica().await, backend.replica().await, backend.replica().await];
    let [a, b, _] = &replicas;
    let redis = backend.redis.as_ref().unwrap();
    let mut listener = redis::Client::open(redis.url()).unwrap().get_async_pubsub().await.unwrap();
    listener.psubscribe("*").await.unwrap();
    let mut alone = [a.join("alone").await, a.join("alone").await];
    let mut one = a.join("shared").await;
    let mut two = b.join("shared").await;
    one.expect("member-joined").await;
    for n in 0..5 {
        alone[0].signal(None, json!(n)).await;
        alone[1].until("signal").await;
        one.signal(None, json!(n)).await;
        two.until("signal").await;
        two.signal(None, json!(n)).await;
        one.until("signal").await;
    }
    two.send(json!({"type": "leave"})).await;
    one.expect("member-left").await;
    // nobody of it is at the second replica any more
    one.signal(None, json!("echo")).await;
    one.expect_nothing().await;
    redis.command(&["PUBLISH", "end", "end"]).await;
    let mut told = Vec::new();
    let mut messages = listener.on_message();
    loop {
        let message = messages.next().await.unwrap();
        let text: String = message.get_payload().unwrap();
        if text == "end" {
            break;
        }
        for parcel in text.split(['\u{1d}', '\u{1e}']).skip(1) {
            assert!(parcel.lines().next().unwrap().ends_with(":meta:shared"), "{parcel}");
            let to = replicas.iter().position(|replica| {
                message.get_channel_name() == format!("rtc:to:{}", replica.server.hub().replica())
            });
            told.push(to.unwrap());
        }
    }
    // to the first: a join, five signals, a leave; to the second: five signals
    let count = |n| told.iter().filter(|to| **to == n).count();
    assert_eq!((count(0), count(1), count(2)), (7, 5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_beyond_its_lease_has_no_say_when_it_wakes() {
    let backend = Backend::redis();
    let url = backend.redis.as_ref().unwrap().url();
    let frozen = Process::start(&["--store", &url]).await;
    let b = backend.replica().await;
    let mut one = Client::connect(frozen.address).await;
    one.join("r").await;
    let mut lost = Client::connect(frozen.address).await;
    lost.join("r").await;
    let mut two = b.join("r").await;
    one.until("member-joined").await;
    one.until("member-joined").await;
    frozen.send(Signal::STOP);
    let mut moved = one.resume_at(&b).await;
    moved.expect("resumed").await;
    let stopped = Instant::now();
    let left = two.expect("member-left").await;
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
    assert_eq!(left["member"], lost.id());
    // what it is sent while it sleeps is not passed on when it wakes
    one.signal(None, json!("stale")).await;
    lost.signal(None, json!("stale")).await;
    frozen.send(Signal::CONT);
    for client in [&mut one, &mut lost] {
        let code = client.closed().await;
        assert!(matches!(code, Some(4001 | 1012)), "{code:?}");
    }
    moved.signal(None, json!("fresh")).await;
    assert_eq!(two.expect("signal").await["data"], "fresh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_gives_one_leave_for_each_who_does_not_come_back() {
    let backend = Backend::redis();
    let url = backend.redis.as_ref().unwrap().url();
    let killed = Process::start(&["--store", &url]).await;
    let b = backend.replica().await;
    let mut watcher = b.join("r").await;
    let mut inside = Vec::new();
    for _ in 0..6 {
        let mut client = Client::connect(killed.address).await;
        client.join("r").await;
        inside.push(client);
    }
    // under way while it dies
    for n in 0..20 {
        inside[n % 6].signal(None, json!(n)).await;
    }
    killed.send(Signal::KILL);
    let dead = Instant::now();
    let mut back = Vec::new();
    for client in inside.drain(..3) {
        let mut client = client.resume_at(&b).await;
        client.expect("resumed").await;
        back.push(client);
    }
    let mut gone: Vec<String> = inside.iter().map(Client::id).collect();
    while !gone.is_empty() {
        let left = watcher.until("member-left").await;
        assert!(dead.elapsed() < Duration::from_secs(15), "{:?}", dead.elapsed());
        let at = gone.iter().position(|id| left["member"] == **id);
        gone.remove(at.expect("it came back, or left twice"));
    }
    // each is who it was, for those who speak to it alone too
    for (n, client) in back.iter_mut().enumerate() {
        watcher.signal(Some(&client.id()), json!(["to", n])).await;
        while client.until("signal").await["data"] != json!(["to", n]) {}
        client.signal(Some(&watcher.id()), json!(["from", n])).await;
        loop {
            let frame = watcher.frame().await;
            assert_ne!(frame["type"], "member-left");
            if frame["data"] == json!(["from", n]) {
                assert_eq!((&frame["from"], &frame["to"]), (&json!(client.id()), &json!(watcher.id())));
                break;
            }
        }
        client.expect_nothing().await;
    }
}
