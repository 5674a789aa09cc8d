//! A room's log has an end in bytes too.

use crate::support::*;
use serde_json::json;

fn small() -> RoomLimits {
    RoomLimits { log_bytes: 512 << 10, ..RoomLimits::default() }
}

/// Who missed little goes on; who missed more than is kept is told so.
async fn heavy_frames(backend: &Backend) {
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    let three = b.join("r").await;
    two.expect("member-joined").await;
    for _ in 0..2 {
        one.expect("member-joined").await;
    }
    let heavy = "x".repeat(60 << 10);
    let send = async |one: &mut Client, n: u32| {
        one.send(json!({"type": "signal", "id": n, "data": {"n": n, "heavy": heavy}})).await;
        one.expect("ack").await;
    };
    for n in 0..3 {
        send(&mut one, n).await;
    }
    let mut back = two.resume_at(&a).await;
    back.expect("resumed").await;
    for n in 0..3 {
        assert_eq!(back.expect("signal").await["data"]["n"], n);
    }
    for n in 3..80 {
        send(&mut one, n).await;
        assert_eq!(back.expect("signal").await["data"]["n"], n);
    }
    let mut late = three.resume_at(&a).await;
    let resync = late.expect("resync").await;
    assert_eq!(resync["members"].as_array().unwrap().len(), 2);
    send(&mut one, 80).await;
    assert_eq!(late.expect("signal").await["data"]["n"], 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_with_heavy_frames_costs_redis_no_more_than_it_may() {
    let backend = Backend::redis_with(small());
    let redis = backend.redis.as_ref().unwrap();
    let used = async || {
        let keys: Vec<String> =
            redis::from_redis_value(redis.command(&["KEYS", "rtc:*:log:r"]).await).unwrap();
        let usage = redis.command(&["MEMORY", "USAGE", &keys[0], "SAMPLES", "0"]).await;
        redis::from_redis_value::<u64>(usage).unwrap()
    };
    heavy_frames(&backend).await;
    let used = used().await;
    assert!(used < 640 << 10, "{used} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_with_heavy_frames_costs_memory_no_more_than_it_may() {
    heavy_frames(&Backend::memory_with(small())).await;
}
