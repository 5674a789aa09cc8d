//! Writes that are asked for at once are one call of Redis; each is answered as if it were alone.

use crate::support::*;
use rtc_signaling::{
    parcel::Parcel,
    store::{Listener, Store, StoreError},
};
use rtc_signaling_proto::{
    MemberId, Refusal, ReplicaId, RoomName,
    entry::Profile,
    ops::{Join, Joined, Read, RoomLimits, Sent, Signal},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

struct Deaf;

impl Listener for Deaf {
    fn entry(&self, _: &RoomName, _: &Arc<Parcel>) {}
    fn missing(&self, _: &RoomName) {}
    fn gap(&self) {}
    fn health(&self, _: Option<u64>) {}
}

fn member(name: &str) -> MemberId {
    name.parse().unwrap()
}

async fn join(store: &Store, room: &RoomName, holder: &ReplicaId, name: &str) {
    let join = Join {
        member: member(name),
        secret: "s".into(),
        holder: holder.clone(),
        profile: Profile::new(&member(name), None, None),
        max: 0,
        bound: 0,
    };
    store.join(room, &join).await.unwrap();
}

/// Each is another member's, as one connection asks for one thing at a time.
fn signal(n: usize, conn: u64, to: Option<&str>) -> Signal {
    Signal {
        from: member(&format!("m{n}")),
        conn,
        to: to.map(member),
        id: format!("n{n}"),
        data: n.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_refused_or_fails_harms_no_other_of_its_call() {
    let backend = Backend::redis();
    let redis = backend.redis.as_ref().unwrap();
    let listener: Arc<dyn Listener> = Arc::new(Deaf);
    let replica: ReplicaId = "pod-a-1".parse().unwrap();
    let store = backend.shared.open(replica.clone(), Arc::downgrade(&listener));
    store.begin();
    let rooms: Vec<RoomName> = (0..3).map(|n| format!("room {n}").parse().unwrap()).collect();
    let broken: RoomName = "broken".parse().unwrap();
    for room in rooms.iter().chain([&broken]) {
        for n in 0..40 {
            join(&store, room, &replica, &format!("m{n}")).await;
        }
    }
    let logs: Vec<String> =
        redis::from_redis_value(redis.command(&["KEYS", "rtc:*:log:broken"]).await).unwrap();
    redis.command(&["SET", &logs[0], "not a list"]).await;
    redis.command(&["CONFIG", "RESETSTAT"]).await;

    let ask = async |n: usize, room: &RoomName| match n % 5 {
        0 => store.signal(room, &signal(n, 9, None)).await,
        1 => store.signal(room, &signal(n, 1, Some("nobody"))).await,
        2 => store.signal(&broken, &signal(n, 1, None)).await,
        3 => store.signal(room, &signal(40 + n, 1, None)).await,
        _ => store.signal(room, &signal(n, 1, None)).await,
    };
    let all = rooms.iter().flat_map(|room| (0..40).map(move |n| (n, room)));
    let answers = futures::future::join_all(all.map(|(n, room)| ask(n, room))).await;
    let mut sent = vec![Vec::new(); 3];
    for (at, answer) in answers.into_iter().enumerate() {
        let (n, room) = (at % 40, at / 40);
        match (n % 5, answer) {
            (0, Err(StoreError::Refused(Refusal::Superseded)))
            | (1, Err(StoreError::Refused(Refusal::NoSuchMember)))
            | (3, Err(StoreError::Refused(Refusal::UnknownSession))) => {}
            (2, Err(StoreError::Unavailable(why))) => assert!(why.contains("WRONGTYPE"), "{why}"),
            (4, Ok(Sent::Now(seq))) => sent[room].push((seq, n.to_string())),
            (_, other) => panic!("{n} in room {room}: {other:?}"),
        }
    }
    for (room, mut sent) in rooms.iter().zip(sent) {
        let view = store.view(room).await.unwrap().unwrap();
        let Read::Entries(entries) = store.read(room, view.epoch, 40).await.unwrap() else { panic!("lost") };
        sent.sort();
        let logged: Vec<_> = entries.into_iter().map(|entry| (entry.seq, entry.body)).collect();
        assert_eq!(logged, sent);
    }
    let stats = redis.info("commandstats").await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls=")?.split(',').next());
    let calls: u32 = calls.unwrap().parse().unwrap();
    assert!(calls < 60, "{calls} calls for 120 writes and 6 looks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_nobody_waits_for_any_more_holds_up_no_other() {
    let backend = Backend::redis();
    let redis = backend.redis.as_ref().unwrap();
    let listener: Arc<dyn Listener> = Arc::new(Deaf);
    let replica: ReplicaId = "pod-a-1".parse().unwrap();
    let store = Arc::new(backend.shared.open(replica.clone(), Arc::downgrade(&listener)));
    store.begin();
    let room: RoomName = "r".parse().unwrap();
    for n in 0..2 {
        join(&store, &room, &replica, &format!("m{n}")).await;
    }
    redis.freeze();
    let send = |n| {
        let (store, room) = (store.clone(), room.clone());
        tokio::spawn(async move { store.signal(&room, &signal(n, 1, None)).await })
    };
    let first = send(0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = send(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    redis.thaw();
    assert!(matches!(second.await.unwrap(), Ok(Sent::Now(4))), "the first was written too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_whose_answer_was_lost_come_once_when_they_are_sent_again() {
    let backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut pairs = Vec::new();
    for n in 0..8 {
        let room = format!("room-{n}");
        let mut one = a.join(&room).await;
        let two = b.join(&room).await;
        one.expect("member-joined").await;
        pairs.push((one, two));
    }
    let redis = backend.redis.as_ref().unwrap();
    redis.freeze();
    for (_, two) in &mut pairs {
        two.send(json!({"type": "signal", "id": "once", "data": "x"})).await;
    }
    for (_, two) in &mut pairs {
        // that nobody knows whether it was written, and that Redis is gone
        let mut told = [false; 2];
        while told != [true; 2] {
            let frame = two.frame().await;
            told[usize::from(frame["code"] == "degraded")] = true;
            assert!(frame["type"] == "degraded" || frame["code"] == "degraded", "{frame}");
        }
    }
    redis.thaw();
    for (_, two) in &mut pairs {
        two.until("recovered").await;
        two.send(json!({"type": "signal", "id": "once", "data": "x"})).await;
        two.until("ack").await;
        two.send(json!({"type": "signal", "data": "last"})).await;
    }
    for (one, _) in &mut pairs {
        let mut heard = Vec::new();
        while heard.last() != Some(&json!("last")) {
            heard.push(one.until("signal").await["data"].clone());
        }
        assert_eq!(heard, ["x", "last"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_its_functions_is_given_them_again() {
    let backend = Backend::redis();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    backend.redis.as_ref().unwrap().command(&["FUNCTION", "FLUSH"]).await;
    one.signal(None, json!("on")).await;
    assert_eq!(two.expect("signal").await["data"], "on");
    one.expect_nothing().await;
}

/// The last of them takes no room along that somebody enters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_nobody_but_those_who_are_lost_enters_the_same_room() {
    let lease = Duration::from_millis(200);
    let limits = RoomLimits { replica_lease: lease, detached_lease: lease, ..RoomLimits::default() };
    let backend = Backend::redis_with(limits);
    let listener: Arc<dyn Listener> = Arc::new(Deaf);
    let replica = |n: u64| -> ReplicaId { format!("pod-{n}-1").parse().unwrap() };
    let [gone, here] = [0, 1].map(|n| backend.shared.open(replica(n), Arc::downgrade(&listener)));
    gone.begin();
    here.begin();
    let room: RoomName = "r".parse().unwrap();
    let enter = async |store: &Store, n: u64| {
        let (member, holder) = (member(&format!("m{n}")), replica(n));
        let profile = Profile::new(&member, None, None);
        store
            .join(&room, &Join { member, secret: "s".into(), holder, profile, max: 1, bound: 0 })
            .await
            .unwrap()
    };
    let Joined::Entered(first) = enter(&gone, 0).await else { panic!("full") };
    assert_eq!(enter(&here, 1).await, Joined::Full { max: 1 });
    // nobody but who enters looks for leases here
    tokio::time::sleep(lease * 2).await;
    let Joined::Entered(view) = enter(&here, 1).await else { panic!("full") };
    assert_eq!((view.epoch, view.seq), (first.epoch, 3));
    assert_eq!(view.members.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["m1"]);
    let Read::Entries(entries) = here.read(&room, view.epoch, 0).await.unwrap() else { panic!("lost") };
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3]);
}
