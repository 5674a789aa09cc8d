//! What one address may hold and do, and for how long a connection may be in no room.

use crate::support::{raw::Raw, *};
use rtc_signaling::guests::AddressLimits;
use serde_json::json;
use std::time::Duration;

/// Loopback counts as an address like others.
async fn strict(connections: u32, joins_per_second: u32) -> Replica {
    let limits = AddressLimits { connections, joins_per_second, proxies: Vec::new() };
    Replica::start(Backend::memory().builder().address_limits(limits)).await
}

fn refused(replica: &Replica, reason: &str) -> u64 {
    let start = format!("rtc_signaling_refused_total{{reason=\"{reason}\"}} ");
    let metrics = replica.server.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn an_address_has_a_bounded_number_of_connections_of_all_dialects_together() {
    let replica = strict(2, 0).await;
    let first = replica.join("a").await;
    let _second = Raw::connect(replica.address, "/y-webrtc").await;
    for path in ["/v1/connect", "/y-webrtc", "/socket.io/?EIO=4&transport=websocket"] {
        let status = Raw::try_connect(replica.address, path).await.err().unwrap();
        assert_eq!(status, 429, "{path}");
    }
    let (status, body) = raw::get(replica.address, "/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(status, 429);
    assert!(body.contains("--connections-per-address"), "{body}");
    // whose clients cannot see a status
    let mut peer = Raw::connect(replica.address, "/peerjs?key=k&id=a&token=t").await;
    let why = "Server has reached its concurrent user limit";
    peer.expect(json!({"type": "ERROR", "payload": {"msg": why}})).await;
    peer.closed().await;
    assert_eq!(refused(&replica, "connections_per_address"), 5);
    drop(first);
    eventually("its place is free", async || Raw::try_connect(replica.address, "/v1/connect").await.is_ok())
        .await;
}

#[tokio::test]
async fn an_address_enters_a_bounded_number_of_rooms_a_second() {
    let replica = strict(0, 1).await;
    replica.join("a").await;
    replica.join("b").await;
    let mut late = replica.connect().await;
    late.send(json!({"type": "join", "id": 7, "room": "c"})).await;
    let error = late.expect("error").await;
    assert_eq!((error["code"].as_str(), error["id"].as_u64()), (Some("rate_limited"), Some(7)));
    let mut topic = Raw::connect(replica.address, "/y-webrtc").await;
    topic.send(json!({"type": "subscribe", "topics": ["t"]})).await;
    assert_eq!(topic.closed().await, Some(1013));
    assert!(refused(&replica, "joins_per_address") >= 2);
    eventually("time makes good", async || {
        late.send(json!({"type": "join", "room": "c"})).await;
        late.frame().await["type"] == "joined"
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_enters_no_room_is_closed() {
    let builder = Backend::memory().builder().join_timeout(Duration::from_millis(300));
    let replica = Replica::start(builder).await;
    let mut member = replica.join("a").await;
    let mut idle = replica.connect().await;
    let mut topicless = Raw::connect(replica.address, "/y-webrtc").await;
    // a sign of life is no join
    idle.send(json!({"type": "ping"})).await;
    idle.expect("pong").await;
    assert_eq!(idle.closed().await, Some(4003));
    assert_eq!(topicless.closed().await, Some(4003));
    member.expect_nothing().await;
    member.send(json!({"type": "leave", "id": 1})).await;
    member.expect("ack").await;
    assert_eq!(member.closed().await, Some(4003));
    assert_eq!(refused(&replica, "never_joined"), 3);
}

#[tokio::test]
async fn a_replica_holds_a_bounded_number_of_rooms_and_turns_nobody_of_them_away() {
    let backend = Backend::memory();
    let (a, b) = (Replica::start(backend.builder().max_rooms(2)).await, backend.replica().await);
    let mut inside = a.join("one").await;
    let elsewhere = b.join("three").await;
    let two = a.join("two").await;
    // a room that is there takes more, and who resumes is let in
    a.join("one").await;
    inside.expect("member-joined").await;
    elsewhere.resume_at(&a).await.expect("resumed").await;
    let mut late = a.connect().await;
    late.send(json!({"type": "join", "id": 7, "room": "four"})).await;
    let error = late.expect("error").await;
    assert_eq!((error["code"].as_str(), error["id"].as_u64()), (Some("too_many_rooms"), Some(7)));
    // each dialect in its own words
    let mut topic = Raw::connect(a.address, "/y-webrtc").await;
    topic.send(json!({"type": "subscribe", "topics": ["t"]})).await;
    assert_eq!(topic.closed().await, Some(1013));
    for path in ["/matchbox/room", "/matchbox/room?next=2"] {
        assert_eq!(Raw::connect(a.address, path).await.closed().await, Some(1013), "{path}");
    }
    let mut peer = Raw::connect(a.address, "/peerjs?key=k&id=a&token=t").await;
    let why = "Server has reached its concurrent user limit";
    peer.expect(json!({"type": "ERROR", "payload": {"msg": why}})).await;
    assert_eq!(refused(&a, "rooms"), 5);
    drop((two, inside, elsewhere));
    eventually("there is a place", async || {
        late.send(json!({"type": "join", "room": "four"})).await;
        late.frame().await["type"] == "joined"
    })
    .await;
}
