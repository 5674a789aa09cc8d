//! What a server writes about a call: each request, and nothing that was said or is a secret.

use crate::support::{
    plain::ask,
    raw::Raw,
    servers::Process,
    token::{SECRET, at, token},
    *,
};
use rtc_credentials::{KeyRing, Secret};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{path::Path, process::Stdio};
use tokio_tungstenite::{connect_async, tungstenite::client::IntoClientRequest};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PASSWORD: &str = "the-password-of-redis";
/// In all that is said here.
const SAID: &str = "said-in-confidence";

fn sdp() -> Value {
    json!({"type": "offer", "sdp": format!("v=0\r\no=- 1 1 IN IP4 192.0.2.77\r\ns={SAID}\r\n")})
}

/// Lines of the log whose span of a request has these fields.
fn told(log: &Path, fields: &[(&str, &str)]) -> usize {
    let lines = std::fs::read_to_string(log).unwrap();
    let of = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let spans: Vec<&Value> = line["spans"].as_array().into_iter().flatten().collect();
        let has = |(name, value): &(&str, &str)| spans.iter().any(|span| span[name] == *value);
        line["took_us"].is_u64() && fields.iter().all(has)
    };
    // the last one may be under way
    let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter(|line| of(line)).count()
}

async fn join(process: &Process, query: &str, header: Option<(&'static str, String)>) -> Client {
    let url = format!("ws://{}/v1/connect{query}", process.address);
    let mut request = url.into_client_request().unwrap();
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let mut client =
        Client { socket: connect_async(request).await.unwrap().0, joined: Value::Null, epoch: 0, seq: 0 };
    client.join("r").await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_traced_and_nothing_that_was_said_or_is_secret_is_logged() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "calls", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"]).await;
    let dir = tempfile::tempdir().unwrap();
    let (keys, jwt, log) = (dir.path().join("keys"), dir.path().join("jwt"), dir.path().join("log"));
    std::fs::create_dir(&keys).unwrap();
    for (name, content) in KeyRing::single(Secret::generate().unwrap()).to_files() {
        std::fs::write(keys.join(name), content).unwrap();
    }
    std::fs::write(&jwt, SECRET).unwrap();
    let arguments = [
        "--auth",
        "jwt",
        "--jwt-keys",
        jwt.to_str().unwrap(),
        "--keys",
        keys.to_str().unwrap(),
        "--turn",
        "turn:192.0.2.1:3478",
        "--store",
        &format!("redis://calls:{PASSWORD}@127.0.0.1:{}", redis.port),
    ];
    let file = std::fs::File::create(&log).unwrap();
    let process = Process::logging(&arguments, "trace", Stdio::from(file)).await;
    let traced = async |fields: &[(&str, &str)]| {
        eventually(&format!("{fields:?}"), async || told(&log, fields) > 0).await;
    };

    let (good, old) =
        (token(json!({"api": ["messages:send", "members:kick"]})), token(json!({"exp": at(-60)})));
    let mut one = join(
        &process,
        &format!("?access_token={good}"),
        Some(("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))),
    )
    .await;
    let mut two =
        join(&process, "", Some(("sec-websocket-protocol", format!("rtc.v1, rtc.bearer.{good}")))).await;
    one.expect("member-joined").await;
    one.send(json!({"type": "signal", "id": "offer-1", "to": two.id(), "data": sdp()})).await;
    two.expect("signal").await;
    one.send(json!({"type": "ice", "id": 2})).await;
    one.until("ice").await;
    // what is wrong is answered with what is wrong about it
    for bad in [format!("{{\"sdp\": \"{SAID}"), json!({"type": "signal", "data": 1, SAID: sdp()}).to_string()]
    {
        one.send_text(&bad).await;
        one.until("error").await;
    }
    one.send(json!({"type": "signal", "id": 3, "to": "m-nobody", "data": sdp()})).await;
    assert_eq!(one.until("error").await["code"], "no_such_member");
    one.send(json!({"type": "auth", "id": 4, "token": old})).await;
    assert_eq!(one.until("error").await["code"], "unauthorized");
    traced(&[
        ("kind", "signal"),
        ("id", "toffer-1"),
        ("room", "r"),
        ("session", &one.id()),
        ("trace_id", TRACE),
    ])
    .await;
    traced(&[("kind", "signal"), ("id", "n3"), ("outcome", "no_such_member")]).await;
    traced(&[("kind", "auth"), ("id", "n4"), ("outcome", "unauthorized")]).await;

    // resumed, by each transport, with the token of the session where it may be shown
    let resume = two.token().as_str().unwrap().to_owned();
    drop(two.socket);
    let bearer = format!("Bearer {good}");
    let after = format!("{}.{}", two.joined["epoch"], two.joined["seq"]);
    let by_header = [
        ("authorization", bearer.as_str()),
        ("rtc-session", resume.as_str()),
        ("last-event-id", after.as_str()),
    ];
    let polled = ask(process.address, "GET", "/v1/poll?wait=0", &by_header, "").await;
    assert_eq!(polled.status, 200);
    assert!(polled.body().await.contains(SAID));
    let body = json!({"type": "signal", "data": sdp()}).to_string();
    assert_eq!(ask(process.address, "POST", "/v1/messages", &by_header, &body).await.status, 200);
    let path = format!("/v1/events?access_token={good}&session={resume}");
    let stream = ask(process.address, "GET", &path, &[], "").await;
    assert_eq!(stream.status, 200);
    for kind in ["poll", "events"] {
        traced(&[("kind", kind), ("room", "r"), ("session", two.joined["session"].as_str().unwrap())]).await;
    }
    let refused = ask(process.address, "GET", &format!("/v1/events?access_token={old}"), &[], "").await;
    assert_eq!(refused.status, 401);

    // a backend, and every other dialect
    let by_header = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!({"data": sdp()}).to_string();
    let sent = ask(process.address, "POST", "/api/v1/rooms/r/messages", &by_header, &body).await;
    assert_eq!(sent.status, 202);
    traced(&[("dialect", "api"), ("kind", "messages:send"), ("room", "r"), ("outcome", "202")]).await;
    let mut peer =
        Raw::connect(process.address, &format!("/peerjs?key=k&id=a&token={SAID}&access_token={good}")).await;
    peer.next().await.unwrap();
    peer.send(json!({"type": "OFFER", "dst": "a", "payload": sdp()})).await;
    peer.next().await.unwrap();
    let mut topic = Raw::connect(process.address, &format!("/y-webrtc?access_token={good}")).await;
    topic.send(json!({"type": "subscribe", "topics": ["t"]})).await;
    topic.send(json!({"type": "publish", "topic": "t", "data": sdp()})).await;
    topic.next().await.unwrap();
    let mut game = Raw::connect(process.address, &format!("/matchbox/g?access_token={good}")).await;
    let own = game.next().await.unwrap()["IdAssigned"].clone();
    game.send(json!({"Signal": {"receiver": own, "data": sdp()}})).await;
    let path = format!("/socket.io/?EIO=4&transport=websocket&access_token={good}");
    let mut lab = Raw::connect(process.address, &path).await;
    for packet in
        ["40".into(), "42[\"create or join\",\"lab\"]".into(), format!("42{}", json!(["message", sdp()]))]
    {
        lab.say(&packet).await;
    }
    for dialect in ["peerjs", "y-webrtc", "matchbox", "socketio"] {
        traced(&[("dialect", dialect), ("kind", "join")]).await;
        traced(&[("dialect", dialect), ("kind", "signal")]).await;
    }

    // without Redis, and at the end
    drop(redis);
    one.until("degraded").await;
    one.send(json!({"type": "signal", "id": 5, "data": sdp()})).await;
    one.until("ack").await;
    traced(&[("kind", "signal"), ("id", "n5"), ("session", &one.id())]).await;
    process.send(Signal::TERM);
    one.until("goaway").await;
    let (metrics, status) = (process.ask("/metrics").await, process.ask("/status").await);
    drop(process);

    let credential = one.joined["iceServers"][0]["credential"].as_str().unwrap();
    let secret_of = |token: &str| token.split('~').nth(1).unwrap().to_owned();
    let secrets = [
        SAID,
        "192.0.2.77",
        good.rsplit('.').next().unwrap(),
        old.rsplit('.').next().unwrap(),
        &secret_of(one.joined["resume"].as_str().unwrap()),
        &secret_of(&resume),
        credential,
        SECRET,
        PASSWORD,
    ];
    for told in [std::fs::read_to_string(&log).unwrap(), metrics, status] {
        for secret in secrets {
            let line = told.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is told");
        }
    }
}
