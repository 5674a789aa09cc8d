//! What a client gets wrong is answered, and harms nobody.

use crate::support::*;
use futures::SinkExt;
use rtc_signaling_proto::Limits;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn each_mistake_is_answered_and_the_session_goes_on() {
    let replica = Backend::memory().replica().await;
    let mut one = replica.join("r").await;
    let mut two = replica.join("r").await;
    one.expect("member-joined").await;
    let long = format!("{{\"type\":\"signal\",\"data\":\"{}\"}}", "x".repeat(70_000));
    for (frame, code) in [
        ("hello", "bad_json"),
        ("{\"type\":\"signal\"", "bad_json"),
        ("{\"type\":\"dance\"}", "unknown_type"),
        ("{\"type\":\"signal\",\"data\":1,\"too\":\"x\"}", "bad_frame"),
        ("{\"type\":\"join\",\"room\":\"r\"}", "already_joined"),
        (&long, "too_large"),
    ] {
        one.send_text(frame).await;
        assert_eq!(one.expect("error").await["code"], code);
    }
    one.socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(one.expect("error").await["code"], "binary");
    one.signal(None, json!("still here")).await;
    assert_eq!(two.expect("signal").await["data"], "still here");
    two.expect_nothing().await;
}

#[tokio::test]
async fn a_message_over_the_hard_limit_ends_only_its_own_connection() {
    let replica = Backend::memory().replica().await;
    let mut one = replica.join("r").await;
    let mut two = replica.join("r").await;
    one.expect("member-joined").await;
    // the server may end it while it is being written
    let _ = one.socket.send(Message::text("x".repeat(3 << 20))).await;
    one.closed().await;
    two.expect_nothing().await;
}

#[tokio::test]
async fn a_flood_is_limited_and_the_room_does_not_notice() {
    let limits = Limits { messages_per_second: 10, faults: 50, ..Limits::default() };
    let replica = Replica::start(Backend::memory().builder().limits(limits)).await;
    let mut one = replica.connect().await;
    let joined = one.join("r").await;
    assert_eq!(joined["limits"]["messagesPerSecond"], 10);
    let mut two = replica.join("r").await;
    for n in 0..60 {
        one.signal(None, json!(n)).await;
    }
    let mut refused = 0;
    while refused < 35 {
        if one.frame().await["code"] == "rate_limited" {
            refused += 1;
        }
    }
    let mut got = 0;
    while two.until("signal").await["data"].as_u64().unwrap() < 18 {
        got += 1;
    }
    assert!(got < 25);
    // who does not stop is closed
    for n in 0..200 {
        if one.socket.send(Message::text(json!({"type": "signal", "data": n}).to_string())).await.is_err() {
            break;
        }
    }
    assert_eq!(one.closed().await, Some(4008));
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_connect() {
    use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest};
    let builder = Backend::memory().builder().allowed_origins(vec!["https://calls.example.com".into()]);
    let replica = Replica::start(builder).await;
    let ask = |origin: &'static str| {
        let mut request = format!("ws://{}/v1/connect", replica.address).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        tokio_tungstenite::connect_async(request)
    };
    assert!(ask("https://calls.example.com").await.is_ok());
    match ask("https://evil.example").await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
}
