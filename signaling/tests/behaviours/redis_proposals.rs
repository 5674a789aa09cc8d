//! Signals are appended without a function by who knows the room, and never to a room that has become another.

use crate::support::*;
use rtc_signaling::{
    parcel::Parcel,
    store::{Listener, Shared, redis::RedisRooms},
};
use rtc_signaling_proto::{
    Limits, MemberId, ReplicaId, RoomName,
    entry::Profile,
    ops::{Join, RoomLimits, Sent, Signal},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Signals back and forth, until both replicas know the room.
async fn talk(one: &mut Client, two: &mut Client) {
    for n in 0..4 {
        one.signal(None, json!(n)).await;
        assert_eq!(two.until("signal").await["data"], n);
        two.signal(None, json!(n)).await;
        assert_eq!(one.until("signal").await["data"], n);
    }
}

/// Two in a room, on two replicas that know it; and the second of these.
async fn call(backend: &Backend) -> (Client, Client, Replica) {
    let (a, b) = (backend.replica().await, backend.replica().await);
    let (mut one, mut two) = (a.join("r").await, b.join("r").await);
    one.expect("member-joined").await;
    talk(&mut one, &mut two).await;
    (one, two, b)
}

fn request(n: usize) -> Value {
    json!({"type": "signal", "id": format!("q{n}"), "data": n})
}

/// Passes something new on, and says where in the log it is.
async fn ask(from: &mut Client, to: &mut Client, n: usize) -> Value {
    from.send(request(n)).await;
    let seq = from.expect("ack").await["seq"].clone();
    assert_eq!(to.expect("signal").await["data"], n);
    seq
}

async fn ask_again(from: &mut Client, n: usize, seq: &Value) {
    from.send(request(n)).await;
    assert_eq!(from.expect("ack").await["seq"], *seq);
}

async fn calls_of(redis: &Redis, command: &str) -> usize {
    let stats = redis.info("commandstats").await;
    let prefix = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&prefix)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_after_another_calls_no_function() {
    let backend = Backend::redis();
    let (mut one, mut two, _) = call(&backend).await;
    let redis = backend.redis.as_ref().unwrap();
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    for n in 0..20 {
        one.signal(None, json!(n)).await;
        assert_eq!(two.expect("signal").await["data"], n);
        two.signal(None, json!(n)).await;
        assert_eq!(one.expect("signal").await["data"], n);
    }
    assert_eq!(calls_of(redis, "xadd").await, 40);
    // leases are renewed every few seconds
    let functions = calls_of(redis, "fcall").await;
    assert!(functions <= 6, "{functions} calls of functions");
}

/// What a client never saw answered it sends again, wherever it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_needed_no_function_is_known_when_it_comes_again() {
    let backend = Backend::redis();
    let (mut one, mut two, b) = call(&backend).await;
    let redis = backend.redis.as_ref().unwrap();
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    let mut answered = Vec::new();
    for n in 0..20 {
        answered.push(ask(&mut one, &mut two, n).await);
    }
    let functions = calls_of(redis, "fcall").await;
    assert!(functions <= 6, "{functions} calls of functions");
    // by the same connection, and by another elsewhere
    ask_again(&mut one, 3, &answered[3]).await;
    let mut moved = one.resume_at(&b).await;
    moved.expect("resumed").await;
    for (n, seq) in answered.iter().enumerate() {
        ask_again(&mut moved, n, seq).await;
    }
    // what is new needs no function there either, once the replica knows what is not
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    for n in 20..40 {
        answered.push(ask(&mut moved, &mut two, n).await);
    }
    let functions = calls_of(redis, "fcall").await;
    assert!(functions <= 6, "{functions} calls of functions");
    // nor is what was passed on without any forgotten
    let mut again = one.resume_at(&b).await;
    again.expect("resumed").await;
    for (n, seq) in answered.iter().enumerate() {
        ask_again(&mut again, n, seq).await;
    }
}

/// What was appended without a function is noted before it is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_known_when_it_comes_again_after_the_log_has_forgotten_it() {
    let backend = Backend::redis();
    let url = backend.redis.as_ref().unwrap().url();
    let limits = RoomLimits { log_entries: 4, ..backend.shared.limits() };
    let short = Backend::on(Shared::Redis(RedisRooms::new(&url, limits).unwrap()));
    let (mut one, mut two, _) = call(&short).await;
    let mut answered = Vec::new();
    for n in 0..8 {
        answered.push(ask(&mut one, &mut two, n).await);
        // functions that ask for no request forget it
        for other in 0..12 {
            two.signal(None, json!(other)).await;
            assert_eq!(one.expect("signal").await["data"], other);
        }
    }
    for (n, seq) in answered.iter().enumerate() {
        ask_again(&mut one, n, seq).await;
    }
    ask(&mut one, &mut two, 8).await;
}

/// The number that a refused proposal was to have is another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_two_at_once_are_passed_on_once_each() {
    let backend = Backend::redis();
    let (mut one, mut two, _) = call(&backend).await;
    for n in 0..60 {
        tokio::join!(one.send(request(n)), two.send(request(n)));
        for client in [&mut one, &mut two] {
            let both = [client.frame().await, client.frame().await];
            let data: Vec<_> =
                both.iter().filter(|frame| frame["type"] == "signal").map(|f| &f["data"]).collect();
            assert_eq!(data, [&json!(n)], "{both:?}");
        }
    }
    one.send(json!({"type": "signal", "data": "end"})).await;
    assert_eq!(two.expect("signal").await["data"], "end");
}

/// What the other says meanwhile takes the place that one has in mind, all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_talk_at_once_are_told_one_order() {
    const EACH: u64 = 300;
    let backend = Backend::redis();
    let replica = async || {
        let limits = Limits { messages_per_second: 10_000, ..Limits::default() };
        Replica::start(backend.builder().limits(limits)).await
    };
    let (a, b, c) = (replica().await, replica().await, replica().await);
    let (mut one, mut two, mut three) = (a.join("r").await, b.join("r").await, c.join("r").await);
    one.expect("member-joined").await;
    one.expect("member-joined").await;
    two.expect("member-joined").await;
    let talk = async |client: &mut Client| {
        for n in 0..EACH {
            client.signal(None, json!(n)).await;
            if n % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let mut heard = Vec::new();
        while heard.len() < EACH as usize {
            let frame = client.expect("signal").await;
            heard.push((frame["seq"].as_u64().unwrap(), frame["data"].as_u64().unwrap()));
        }
        heard
    };
    let listen = async |client: &mut Client| {
        let mut heard = Vec::new();
        while heard.len() < 2 * EACH as usize {
            let frame = client.expect("signal").await;
            let from = frame["from"].as_str().unwrap().to_owned();
            heard.push((frame["seq"].as_u64().unwrap(), from, frame["data"].as_u64().unwrap()));
        }
        heard
    };
    let names = [one.id(), two.id()];
    let (of_two, of_one, all) = tokio::join!(talk(&mut one), talk(&mut two), listen(&mut three));
    assert!(all.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "out of order, twice, or a hole");
    for (heard, name) in [(of_one, &names[0]), (of_two, &names[1])] {
        assert_eq!(heard.iter().map(|(_, n)| *n).collect::<Vec<_>>(), (0..EACH).collect::<Vec<_>>());
        let those = all.iter().filter(|(_, from, _)| from == name).map(|(seq, _, n)| (*seq, *n));
        assert_eq!(those.collect::<Vec<_>>(), heard);
    }
}

/// Nothing that this service does leaves one; another program may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_gap_begins_anew() {
    let backend = Backend::redis();
    let (mut one, mut two, _) = call(&backend).await;
    let redis = backend.redis.as_ref().unwrap();
    let logs: Vec<String> = redis::from_redis_value(redis.command(&["KEYS", "rtc:*:log:r"]).await).unwrap();
    let epoch = one.epoch;
    redis.command(&["XADD", &logs[0], &format!("{epoch}-5000"), "e", "s aa - u1\n1"]).await;
    // its sender is heard all the same
    one.signal(None, json!("on")).await;
    for client in [&mut one, &mut two] {
        let resync = client.until("resync").await;
        assert!(resync["epoch"].as_u64().unwrap() > epoch && resync["seq"].as_u64().unwrap() >= 5000);
    }
    talk(&mut one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_two_versions_write_one_room_in_turn() {
    let backend = Backend::redis();
    let url = backend.redis.as_ref().unwrap().url();
    // other limits are another library, as another version is
    let limits = RoomLimits { log_entries: 3000, ..backend.shared.limits() };
    let other = Backend::on(Shared::Redis(RedisRooms::new(&url, limits).unwrap()));
    let (a, b, c) = (backend.replica().await, other.replica().await, other.replica().await);
    let (mut one, mut two) = (a.join("r").await, b.join("r").await);
    one.expect("member-joined").await;
    talk(&mut one, &mut two).await;
    // the other version has let somebody in, on a replica that the first has not heard of
    let mut three = c.join("r").await;
    one.signal(None, json!("all")).await;
    assert_eq!(two.until("signal").await["data"], "all");
    assert_eq!(three.until("signal").await["data"], "all");
    // and here it has given a session another connection
    talk(&mut one, &mut two).await;
    three.until("signal").await;
    let mut moved = two.resume_at(&c).await;
    moved.expect("resumed").await;
    assert_eq!(two.closed().await, Some(4001));
    moved.signal(None, json!("moved")).await;
    assert_eq!(one.until("signal").await["data"], "moved");
    one.signal(None, json!("back")).await;
    assert_eq!(moved.until("signal").await["data"], "back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_redis_forgot_between_two_signals_is_taken_over() {
    let backend = Backend::redis();
    let (mut one, mut two, _) = call(&backend).await;
    backend.redis.as_ref().unwrap().command(&["FLUSHALL"]).await;
    // whoever speaks first is told, and nothing is written to a room that is no more
    one.send(json!({"type": "signal", "id": "s", "data": "lost"})).await;
    assert_eq!(one.until("error").await["code"], "unknown_session");
    one.until("resync").await;
    two.until("resync").await;
    talk(&mut one, &mut two).await;
}

struct Heard(mpsc::UnboundedSender<Arc<Parcel>>);

impl Listener for Heard {
    fn entry(&self, _: &RoomName, parcel: &Arc<Parcel>) {
        let _ = self.0.send(parcel.clone());
    }
    fn missing(&self, _: &RoomName) {}
    fn gap(&self) {}
    fn health(&self, _: Option<u64>) {}
}

/// A request may come to any replica, also to one that has nobody of its room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_hears_what_others_write_for_its_members_between_its_own_signals() {
    let backend = Backend::redis();
    let member = |n: u64| -> MemberId { format!("m{n}").parse().unwrap() };
    let (room, names): (RoomName, [ReplicaId; 2]) =
        ("r".parse().unwrap(), ["pod-a-1", "pod-b-1"].map(|name| name.parse().unwrap()));
    let (sender, mut heard) = mpsc::unbounded_channel();
    let (unheard, _keep) = mpsc::unbounded_channel();
    let listeners: [Arc<dyn Listener>; 2] = [Arc::new(Heard(sender)), Arc::new(Heard(unheard))];
    let [a, b] = [0, 1].map(|n| backend.shared.open(names[n].clone(), Arc::downgrade(&listeners[n])));
    a.begin();
    b.begin();
    a.host(&room).await.unwrap();
    for n in 0..2 {
        let profile = Profile::new(&member(n), None, None);
        let (holder, secret) = (names[0].clone(), "s".into());
        a.join(&room, &Join { member: member(n), secret, holder, profile, max: 0, bound: 0 }).await.unwrap();
    }
    let mut n = 0;
    let mut signal = |from, conn| {
        n += 1;
        Signal { from: member(from), conn, to: None, id: format!("u{n}"), data: n.to_string() }
    };
    // the replica proposes, and what it means to append is another's meanwhile
    for _ in 0..4 {
        for (store, from, conn) in [(&b, 0, 0), (&b, 0, 0), (&a, 0, 1), (&a, 1, 1)] {
            let signal = signal(from, conn);
            store.signal(&room, &signal).await.unwrap();
            loop {
                let parcel = tokio::time::timeout(Duration::from_secs(2), heard.recv()).await;
                let parcel = parcel.expect("nothing is heard").unwrap();
                if parcel.id == signal.id {
                    break;
                }
            }
        }
    }
}

/// Who falls back to requests over HTTP may have sent the same by its connection, or send it there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_known_again_by_whichever_way_it_came_to_the_same_replica() {
    let backend = Backend::redis();
    let (room, replica): (RoomName, ReplicaId) = ("r".parse().unwrap(), "pod-a-1".parse().unwrap());
    let (sender, _keep) = mpsc::unbounded_channel();
    let listener: Arc<dyn Listener> = Arc::new(Heard(sender));
    let store = backend.shared.open(replica.clone(), Arc::downgrade(&listener));
    store.begin();
    store.host(&room).await.unwrap();
    let member: MemberId = "m0".parse().unwrap();
    let (secret, profile) = ("s".into(), Profile::new(&member, None, None));
    let join = Join { member: member.clone(), secret, holder: replica, profile, max: 0, bound: 0 };
    store.join(&room, &join).await.unwrap();
    let send = async |id: &str, conn| {
        let signal = Signal { from: member.clone(), conn, to: None, id: id.into(), data: "1".into() };
        store.signal(&room, &signal).await.unwrap()
    };
    for (first, then) in [(1, 0), (0, 1)] {
        for n in 0..3 {
            let id = format!("n{first}{n}");
            let Sent::Now(seq) = send(&id, first).await else { panic!("{id} is new") };
            assert_eq!(send(&id, then).await, Sent::Before(seq), "{id}");
        }
    }
}
