//! A replica ends and no room notices.

use crate::support::*;
use serde_json::json;
use std::time::{Duration, Instant};

on_each_store! {
    async fn clients_move_and_nobody_is_seen_to_leave(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        one.expect("member-joined").await;
        let server = a.server.clone();
        let draining = tokio::spawn(async move { server.drain(Some(Duration::from_secs(15))).await });
        let goaway = one.expect("goaway").await;
        assert!(goaway["reconnectInMs"].as_u64().unwrap() < 10_000);
        assert!(a.server.ready().is_err());
        assert_eq!(a.server.status()["draining"], true);

        let mut moved = one.resume_at(&b).await;
        moved.expect("resumed").await;
        assert_eq!(one.closed().await, Some(4001));
        let drained = draining.await.unwrap();
        assert_eq!((drained.before, drained.closed), (1, 0));
        moved.signal(None, json!("still here")).await;
        assert_eq!(two.expect("signal").await["data"], "still here");
        two.expect_nothing().await;
    }

    async fn the_deadline_holds_and_those_left_can_resume(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        one.expect("member-joined").await;
        let start = Instant::now();
        let drained = a.server.drain(Some(Duration::from_millis(300))).await;
        assert!(start.elapsed() < Duration::from_secs(4));
        assert_eq!((drained.before, drained.closed), (1, 1));
        one.expect("goaway").await;
        assert_eq!(one.closed().await, Some(1012));
        let mut back = one.resume_at(&b).await;
        back.expect("resumed").await;
        two.expect_nothing().await;
        eventually("the port is closed", async || tokio::net::TcpStream::connect(a.address).await.is_err()).await;
    }
}

#[tokio::test]
async fn who_comes_while_it_drains_is_told_to_go_on() {
    let backend = Backend::memory();
    let a = backend.replica().await;
    let _holds_the_drain = a.join("r").await;
    let server = a.server.clone();
    tokio::spawn(async move { server.drain(Some(Duration::from_secs(10))).await });
    eventually("draining", async || a.server.is_draining()).await;
    let mut late = a.join("r").await;
    late.until("goaway").await;
}

#[tokio::test]
async fn a_drain_without_a_store_ends_on_time() {
    let mut backend = Backend::redis();
    let a = backend.replica().await;
    let mut one = a.join("r").await;
    backend.redis = None;
    one.until("degraded").await;
    let start = Instant::now();
    a.server.drain(Some(Duration::from_millis(200))).await;
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(one.closed().await, Some(1012));
}
