//! Redis with Sentinel, and Redis Cluster: failovers, lost writes, slots that move.

use crate::support::{
    servers::{Cluster, Watched},
    *,
};
use rtc_signaling::store::redis::{Mode, TlsFiles};
use serde_json::json;
use std::time::Instant;

fn shared(url: &str, mode: Mode) -> Backend {
    let rooms = RedisRooms::configured(url, mode, TlsFiles::default(), RoomLimits::default()).unwrap();
    Backend::on(Shared::Redis(rooms))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_the_end_of_a_log_is_told_with_one_resync() {
    let mut watched = Watched::start().await;
    let backend = shared(&watched.url(), Mode::Sentinel);
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    let mut leaves = b.join("r").await;
    for client in [&mut one, &mut two] {
        client.expect("member-joined").await;
    }
    eventually("the replica has it", async || {
        let offset = |info: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        };
        let master = watched.master.as_ref().unwrap();
        offset(&watched.replica.info("replication").await) >= offset(&master.info("replication").await)
    })
    .await;
    // from now on it gets nothing
    watched.replica.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    leaves.send(json!({"type": "leave", "id": 1})).await;
    leaves.expect("ack").await;
    two.expect("member-left").await;
    let mut late = a.join("r").await;
    for n in 0..3 {
        one.send(json!({"type": "signal", "id": n, "data": n})).await;
        one.until("ack").await;
        assert_eq!(two.until("signal").await["data"], n);
    }
    while late.seq < two.seq {
        late.frame().await;
    }
    let epoch = one.epoch;
    watched.master = None;
    let killed = Instant::now();
    for client in [&mut one, &mut two, &mut late] {
        client.until("degraded").await;
    }
    for client in [&mut one, &mut two, &mut late] {
        client.expect("recovered").await;
        let resync = client.expect("resync").await;
        assert!(resync["epoch"].as_u64().unwrap() > epoch);
        let ids: Vec<_> = resync["members"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
        assert!(!ids.is_empty() && ids.len() <= 3, "{ids:?}");
    }
    println!("back after a failover in {:?}", killed.elapsed());
    // the same as before goes on, and what was sent before the loss does not come again
    two.send(json!({"type": "signal", "id": "on", "data": "on"})).await;
    two.until("ack").await;
    for client in [&mut one, &mut late] {
        assert_eq!(client.until("signal").await["data"], "on");
    }
    // who had left, in what was lost, is gone
    let left = two.expect("member-left").await;
    assert_eq!(left["member"], leaves.id());
    two.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_slots_and_fails_over_while_messages_flow() {
    let mut cluster = Cluster::start().await;
    let backend = shared(&cluster.url(), Mode::Cluster);
    let (a, b) = (backend.replica().await, backend.replica().await);
    // one room on each master
    let mut rooms: Vec<Option<(Client, Client, String)>> = vec![None, None, None];
    for n in 0.. {
        let name = format!("room-{n}");
        let mut one = a.join(&name).await;
        let (place, slot) = cluster.place(&name).await;
        if rooms[place].is_some() {
            continue;
        }
        let two = b.join(&name).await;
        one.expect("member-joined").await;
        rooms[place] = Some((one, two, slot));
        if rooms.iter().all(Option::is_some) {
            break;
        }
    }
    let [(mut one, mut two, slot), mut other, mut last] =
        <[_; 3]>::try_from(rooms.into_iter().map(Option::unwrap).collect::<Vec<_>>())
            .unwrap_or_else(|_| unreachable!());

    let sending = async {
        for n in 0..60 {
            one.send(json!({"type": "signal", "id": n, "data": n})).await;
            let frame = one.frame().await;
            assert_eq!(frame["type"], "ack", "{frame}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let moving = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        cluster.migrate(&slot, 0, 1).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        cluster.migrate(&slot, 1, 0).await;
    };
    let hearing = async {
        for n in 0..60 {
            assert_eq!(two.expect("signal").await["data"], n);
        }
    };
    tokio::join!(sending, moving, hearing);
    one.expect_nothing().await;
    two.expect_nothing().await;

    // its replica has all; then the master dies
    eventually("in step", async || {
        cluster.at(0).text(&["WAIT", "1", "1000"]).await.parse::<u64>().is_ok_and(|n| n > 0)
    })
    .await;
    cluster.servers[0] = None;
    let killed = Instant::now();
    for client in [&mut one, &mut two, &mut other.0, &mut other.1, &mut last.0, &mut last.1] {
        client.expect("degraded").await;
    }
    // rooms on the other servers go on meanwhile
    other.0.signal(None, json!("elsewhere")).await;
    assert_eq!(other.1.until("signal").await["data"], "elsewhere");
    for client in [&mut one, &mut two] {
        client.until("recovered").await;
        assert_eq!(client.expect("resync").await["members"].as_array().unwrap().len(), 1);
    }
    println!("back after a failover of Cluster in {:?}", killed.elapsed());
    two.signal(None, json!("on")).await;
    assert_eq!(one.expect("signal").await["data"], "on");
    last.1.until("recovered").await;
    last.1.expect_nothing().await;
}
