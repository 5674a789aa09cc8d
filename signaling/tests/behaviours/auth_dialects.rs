//! Tokens in the dialects: no unmodified client gets in without one, and each has a way to show it.

use crate::{
    auth::guarded,
    support::{
        plain,
        raw::{Raw, get},
        token::{SECRET, at, token},
        *,
    },
};
use serde_json::{Value, json};

#[tokio::test]
async fn no_dialect_lets_anybody_in_without_a_token() {
    let replica = guarded(&Backend::memory()).await;
    let paths = [
        "/v1/connect",
        "/y-webrtc",
        "/matchbox/room",
        "/socket.io/?EIO=3&transport=websocket",
        "/socket.io/?EIO=4&transport=websocket&access_token=x",
    ];
    for path in paths {
        assert_eq!(Raw::try_connect(replica.address, path).await.err().unwrap(), 401, "{path}");
    }
    assert_eq!(get(replica.address, "/socket.io/?EIO=3&transport=polling").await.0, 401);
    // whose clients see no status
    let mut peer = Raw::connect(replica.address, "/peerjs?key=k&id=a&token=t").await;
    let answer = peer.next().await.unwrap();
    assert_eq!(answer["type"], "ERROR");
    assert!(answer["payload"]["msg"].as_str().unwrap().contains("token"), "{answer}");
    peer.closed().await;
    assert_eq!(replica.server.hub().sessions(), 0);
}

#[tokio::test]
async fn topics_of_y_webrtc_are_rooms_of_a_token() {
    let replica = guarded(&Backend::memory()).await;
    let path = |claims| format!("/y-webrtc?access_token={}", token(claims));
    let subscribe = |topic: &str| json!({"type": "subscribe", "topics": [topic]});
    let publish = |topic: &str, data: u32| json!({"type": "publish", "topic": topic, "data": data});
    let mut one = Raw::connect(replica.address, &path(json!({"rooms": ["doc-*"]}))).await;
    one.send(subscribe("doc-1")).await;
    let mut mute = Raw::connect(replica.address, &path(json!({"publish": false}))).await;
    mute.send(subscribe("doc-1")).await;
    mute.send(publish("doc-1", 1)).await;
    // without having subscribed
    let mut stranger = Raw::connect(replica.address, &path(json!({"rooms": ["other"]}))).await;
    stranger.send(publish("doc-1", 2)).await;
    stranger.send(json!({"type": "ping"})).await;
    stranger.expect(json!({"type": "pong"})).await;
    mute.send(json!({"type": "ping"})).await;
    mute.expect(json!({"type": "pong"})).await;
    one.send(publish("doc-1", 3)).await;
    assert_eq!(one.next().await.unwrap()["data"], 3);
    stranger.send(subscribe("doc-1")).await;
    assert_eq!(stranger.closed().await, Some(4008));
}

#[tokio::test]
async fn ids_of_peerjs_are_rooms_of_a_token() {
    let replica = guarded(&Backend::memory()).await;
    let path =
        |id: &str, claims| format!("/peerjs?key=k&id={id}&token=t-{id}&access_token={}", token(claims));
    let open = json!({"type": "OPEN"});
    let mut alice = Raw::connect(replica.address, &path("team-a", json!({"rooms": ["team-*"]}))).await;
    alice.expect(open.clone()).await;
    let mut bob =
        Raw::connect(replica.address, &path("team-b", json!({"sub": "bob", "rooms": ["team-*"]}))).await;
    bob.expect(open.clone()).await;
    let mut eve = Raw::connect(replica.address, &path("eve", json!({"sub": "eve", "rooms": ["eve"]}))).await;
    eve.expect(open).await;
    let mut thief =
        Raw::connect(replica.address, &path("team-c", json!({"sub": "eve", "rooms": ["eve"]}))).await;
    assert_eq!(thief.next().await.unwrap()["type"], "ERROR");
    // the same token of PeerJS by another subject takes nothing over
    let mut thief = Raw::connect(replica.address, &path("team-a", json!({"sub": "eve"}))).await;
    assert_eq!(thief.next().await.unwrap()["type"], "ID-TAKEN");
    // one who may not call is answered as if nobody was there
    eve.send(json!({"type": "OFFER", "dst": "team-a", "payload": 1})).await;
    bob.send(json!({"type": "OFFER", "dst": "team-a", "payload": 2})).await;
    assert_eq!(alice.next().await.unwrap()["payload"], 2);
    eve.expect(json!({"type": "EXPIRE", "src": "team-a", "dst": "eve"})).await;
}

#[tokio::test]
async fn rooms_of_matchbox_are_rooms_of_a_token_and_end_with_it() {
    let replica = guarded(&Backend::memory()).await;
    let path = |claims| format!("/matchbox/game?next=2&access_token={}", token(claims));
    let refused = Raw::try_connect(replica.address, &path(json!({"rooms": ["other"]}))).await;
    assert_eq!(refused.err().unwrap(), 403);
    let mut one = Raw::connect(replica.address, &path(json!({"rooms": ["game"], "exp": at(2)}))).await;
    assert!(one.next().await.unwrap()["IdAssigned"].is_string());
    assert_eq!(one.closed().await, Some(4005));
    eventually("its member has left", async || replica.server.hub().sessions() == 0).await;
}

#[tokio::test]
async fn clients_of_socket_io_show_their_token_in_the_query_or_as_their_option_auth() {
    let replica = guarded(&Backend::memory()).await;
    let clients = crate::socketio::clients();
    let url = format!("http://{}", replica.address);
    let good = token(json!({"rooms": ["foo-*"]}));
    for (version, transport) in [("2", "polling"), ("2", "websocket"), ("4", "polling"), ("4", "websocket")] {
        let arguments =
            [url.clone(), version.into(), transport.into(), good.clone(), token(json!({"exp": at(-9)}))];
        node::play("socketio_clients/token.cjs", clients, &arguments).await;
    }
}

#[tokio::test]
async fn the_browser_client_renews_its_token_whichever_way_it_takes() {
    let replica = guarded(&Backend::memory()).await;
    let packages = node::install("web-clients", &["ws@8.23.0"]);
    let arguments = [format!("http://{}", replica.address), SECRET.into()];
    node::play("web_clients/token.mjs", &packages, &arguments).await;
}

/// The frames that answer a request with these tokens: of the issuer, and of the session.
async fn ask(
    replica: &Replica,
    request: (&str, &str),
    token: &str,
    session: &str,
    body: &str,
) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str())];
    if !session.is_empty() {
        headers.push(("rtc-session", session));
    }
    let response = plain::ask(replica.address, request.0, request.1, &headers, body).await;
    let status = response.status;
    let body = response.body().await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

on_each_store! {
    async fn each_plain_request_shows_a_token_of_the_same_subject(backend: Backend) {
        let (a, b) = (guarded(&backend).await, guarded(&backend).await);
        let post = ("POST", "/v1/messages");
        assert_eq!(plain::ask(a.address, "POST", "/v1/messages", &[], "[]").await.status, 401);
        let alice = token(json!({"rooms": ["r"]}));
        let eve = token(json!({"sub": "eve"}));
        let (_, joined) = ask(&a, post, &alice, "", r#"{"type":"join","room":"r"}"#).await;
        let session = joined[0]["resume"].as_str().unwrap().to_owned();
        let signal = r#"{"type":"signal","id":1,"data":1}"#;
        let (status, answer) = ask(&b, post, &eve, &session, signal).await;
        assert_eq!((status, answer[0]["code"].as_str()), (404, Some("unknown_session")));
        let (status, answer) = ask(&b, post, &token(json!({"rooms": ["s"]})), &session, signal).await;
        assert_eq!((status, answer[0]["code"].as_str()), (403, Some("forbidden")));
        let (_, answer) = ask(&b, post, &token(json!({"publish": false})), &session, signal).await;
        assert_eq!(answer[0]["code"], "forbidden");
        let (status, answer) = ask(&b, post, &alice, &session, signal).await;
        assert_eq!((status, answer[0]["type"].as_str()), (200, Some("ack")));
        let poll = ("GET", "/v1/poll?wait=0");
        assert_eq!(ask(&b, poll, &eve, &session, "").await.0, 404);
        let (status, answer) = ask(&b, poll, &alice, &session, "").await;
        assert_eq!((status, answer[0]["session"].as_str()), (200, joined[0]["session"].as_str()));
    }
}
