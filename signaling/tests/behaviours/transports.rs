//! WebSockets, streams and polls: one protocol, one room, and requests that come to any replica.

use crate::support::{
    plain::{Plain, ask},
    *,
};
use rtc_signaling_proto::Limits;
use serde_json::{Value, json};
use std::time::Duration;

fn data(frames: &[Value]) -> Vec<&Value> {
    frames.iter().filter(|frame| frame["type"] == "signal").map(|frame| &frame["data"]).collect()
}

on_each_store! {
    async fn a_websocket_a_stream_and_a_poll_share_a_room(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut socket = a.join("r").await;
        let mut streams = Plain::join(&[&a, &b], "r").await;
        let mut stream = streams.stream().await;
        assert!(stream.head.contains("text/event-stream"), "{}", stream.head);
        for header in ["x-accel-buffering: no", "cache-control: no-store", "access-control-allow-origin: *"] {
            assert!(stream.head.contains(header), "{}", stream.head);
        }
        stream.expect("resumed").await;
        let mut polls = Plain::join(&[&b, &a], "r").await;
        assert_eq!(polls.joined["members"].as_array().unwrap().len(), 2);
        assert_eq!(socket.expect("member-joined").await["member"]["id"], streams.id());
        assert_eq!(socket.expect("member-joined").await["member"]["id"], polls.id());
        assert_eq!(streams.next(&mut stream).await["member"]["id"], polls.id());

        for round in 0..4 {
            socket.signal(None, json!(["socket", round])).await;
            let answers = streams.post(json!([
                {"type": "signal", "id": round, "data": ["stream", round]},
                {"type": "signal", "to": polls.id(), "data": ["stream to poll", round]},
                {"type": "ping", "id": "p"},
            ])).await;
            let kinds: Vec<_> = answers.iter().map(|answer| answer["type"].as_str().unwrap()).collect();
            assert_eq!(kinds, ["ack", "pong"], "{answers:?}");
            assert!(answers[0]["seq"].as_u64().is_some());
            polls.post(json!({"type": "signal", "id": format!("p{round}"), "data": ["poll", round]})).await;
            // the order of the two that were not acknowledged to each other is the room's
            let polled = polls.polled(3).await;
            let from_stream: Vec<_> = data(&polled).into_iter().filter(|data| data[0] != "socket").collect();
            assert_eq!(from_stream, [&json!(["stream", round]), &json!(["stream to poll", round])]);
            let streamed = [streams.next(&mut stream).await, streams.next(&mut stream).await];
            assert!(data(&streamed).contains(&&json!(["socket", round])), "{streamed:?}");
            assert!(data(&streamed).contains(&&json!(["poll", round])), "{streamed:?}");
            assert_eq!(socket.expect("signal").await["data"], json!(["stream", round]));
            assert_eq!(socket.expect("signal").await["data"], json!(["poll", round]));
        }
        assert_eq!(polls.post(json!({"type": "leave", "id": 1})).await[0]["type"], "ack");
        for left in [socket.expect("member-left").await, streams.next(&mut stream).await] {
            assert_eq!((&left["member"], &left["reason"]), (&json!(polls.id()), &json!("left")));
        }
        socket.expect_nothing().await;
    }

    async fn a_session_moves_between_transports_in_mid_conversation(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut other = b.join("r").await;
        let mut mover = Plain::join(&[&a, &b], "r").await;
        other.expect("member-joined").await;
        let (mut sent, mut got) = (0, Vec::new());
        let mut say = async |count: u64| {
            for _ in 0..count {
                other.send(json!({"type": "signal", "id": sent, "data": sent})).await;
                other.expect("ack").await;
                sent += 1;
            }
        };
        for _ in 0..2 {
            say(2).await;
            got.extend(mover.polled(2).await);
            say(1).await;
            let mut stream = mover.stream().await;
            assert_eq!(mover.next(&mut stream).await["type"], "resumed");
            say(1).await;
            got.extend([mover.next(&mut stream).await, mover.next(&mut stream).await]);
            say(1).await;
            // the stream is still open, and the socket takes the session over
            let mut socket = a.connect().await;
            let resume = json!({"type": "resume", "resume": mover.joined["resume"], "epoch": mover.epoch, "seq": mover.seq});
            socket.send(resume).await;
            socket.expect("resumed").await;
            got.push(socket.expect("signal").await);
            say(1).await;
            got.push(socket.expect("signal").await);
            // what the stream had got by then, and why it ended
            let mut last = stream.event().await;
            while last.as_ref().is_some_and(|(_, frame)| frame["type"] == "signal") {
                last = stream.event().await;
            }
            assert_eq!(last.map(|(_, frame)| frame["code"].clone()), Some(json!(4001)));
            assert!(stream.event().await.is_none(), "the stream goes on");
            (mover.epoch, mover.seq) = (socket.epoch, socket.seq);
        }
        assert_eq!(data(&got), (0..sent).map(Value::from).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        mover.post(json!({"type": "signal", "data": "bye"})).await;
        // nobody was seen to leave or to come again
        assert_eq!(other.expect("signal").await["data"], "bye");
        other.expect_nothing().await;
    }

    async fn what_was_lost_on_the_way_is_asked_for_again_and_comes_once(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut other = a.join("r").await;
        let mut polls = Plain::join(&[&a, &b], "r").await;
        other.expect("member-joined").await;
        for n in 0..6 {
            let before = (polls.epoch, polls.seq);
            other.send(json!({"type": "signal", "id": n, "data": n})).await;
            other.expect("ack").await;
            // the response is on its way, and nobody reads it
            drop(polls.ask("GET", "/v1/poll", "").await);
            let polled = polls.polled(1).await;
            assert_eq!(data(&polled), [&json!(n)]);
            assert!((polls.epoch, polls.seq) > before);
            // the same for what is posted: the client that got no answer posts again
            let post = json!({"type": "signal", "id": format!("x{n}"), "data": [n]});
            drop(polls.ask("POST", "/v1/messages", &post.to_string()).await);
            let again = polls.post(post).await;
            assert_eq!(again[0]["type"], "ack");
            assert_eq!(other.expect("signal").await["data"], json!([n]));
            other.expect_nothing().await;
        }
    }

    async fn who_polls_keeps_up_with_what_is_not_for_it(backend: Backend) {
        let limits = Limits { messages_per_second: 100_000, ..Limits::default() };
        let (a, b) = (
            Replica::start(backend.builder().limits(limits)).await,
            Replica::start(backend.builder().limits(limits)).await,
        );
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        one.expect("member-joined").await;
        let mut polls = Plain::join(&[&a, &b], "r").await;
        one.expect("member-joined").await;
        two.expect("member-joined").await;
        // more than the log holds
        for n in 0..700 {
            one.send(json!({"type": "signal", "id": n, "to": two.id(), "data": n})).await;
            one.expect("ack").await;
            if n % 100 == 0 {
                let response = polls.ask("GET", "/v1/poll?wait=0", "").await;
                let frames = response.frames().await;
                assert_eq!(frames[0]["type"], "resumed", "{frames:?}");
                let position = &frames[1];
                assert_eq!((frames.len(), &position["type"]), (2, &json!("position")));
                (polls.epoch, polls.seq) =
                    (position["epoch"].as_u64().unwrap(), position["seq"].as_u64().unwrap());
            }
        }
        one.send(json!({"type": "signal", "id": "x", "data": "all"})).await;
        assert_eq!(data(&polls.polled(1).await), [&json!("all")]);
    }

    async fn a_stream_that_broke_goes_on_from_the_id_of_its_last_event(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut other = a.join("r").await;
        let mut streams = Plain::join(&[&a, &b], "r").await;
        other.expect("member-joined").await;
        let mut stream = streams.stream().await;
        stream.expect("resumed").await;
        // JSON may have line breaks, which an event may not
        other.send_text("{\"type\":\"signal\",\n\"data\":\r\n[\"first\",\n1]}").await;
        let (id, frame) = stream.event().await.unwrap();
        assert_eq!(frame["data"], json!(["first", 1]));
        drop(stream);
        other.signal(None, json!("second")).await;
        other.expect_nothing().await;
        // as an EventSource asks: where it began by the query, where it is by the header
        let token = streams.joined["resume"].as_str().unwrap();
        let path = format!("/v1/events?session={token}&after=1.1");
        let mut again = ask(b.address, "GET", &path, &[("last-event-id", &id.unwrap())], "").await;
        again.expect("resumed").await;
        assert_eq!(again.expect("signal").await["data"], "second");
        other.expect_nothing().await;
    }

    async fn only_the_session_itself_is_heard(backend: Backend) {
        let a = backend.replica().await;
        let mut other = a.join("r").await;
        let mut own = Plain::join(&[&a], "r").await;
        other.expect("member-joined").await;
        let token = own.joined["resume"].as_str().unwrap().to_owned();
        let mut parts: Vec<&str> = token.splitn(3, '~').collect();
        parts[1] = "forged";
        own.joined["resume"] = json!(parts.join("~"));
        for (method, path) in [("GET", "/v1/events"), ("GET", "/v1/poll"), ("POST", "/v1/messages")] {
            let response = own.ask(method, path, "{\"type\":\"signal\",\"data\":1}").await;
            assert_eq!(response.status, 404, "{path}");
            assert_eq!(response.frames().await[0]["code"], "unknown_session", "{path}");
        }
        own.joined = Value::Null;
        for path in ["/v1/events", "/v1/poll"] {
            assert_eq!(own.ask("GET", path, "").await.status, 401, "{path}");
        }
        assert_eq!(own.post(json!({"type": "signal", "id": 1, "data": 1})).await[0]["code"], "not_joined");
        other.expect_nothing().await;
    }
}

async fn at(builder: rtc_signaling::server::Builder) -> (Replica, Plain) {
    let replica = Replica::start(builder).await;
    let client = Plain::join(&[&replica], "r").await;
    (replica, client)
}

#[tokio::test]
async fn limits_hold_for_requests_too() {
    let limits = Limits { messages_per_second: 5, frame_bytes: 200, faults: 3, ..Limits::default() };
    let (replica, mut client) = at(Backend::memory().builder().limits(limits)).await;
    let long = json!({"type": "signal", "id": 1, "data": "x".repeat(300)});
    assert_eq!(client.post(long).await[0]["code"], "too_large");
    let flood = Value::Array(vec![json!({"type": "ping"}); 40]);
    let answers = client.post(flood).await;
    let of =
        |kind: &str| answers.iter().filter(|answer| answer["type"] == kind || answer["code"] == kind).count();
    assert_eq!(of("pong"), 9, "{answers:?}");
    assert!((2..=4).contains(&of("rate_limited")), "{answers:?}");
    assert_eq!(answers.last().map(|last| &last["code"]), Some(&json!(4008)));
    // another request is no way around it
    assert_eq!(client.post(json!({"type": "ping"})).await[0]["code"], "rate_limited");
    let mut polls = 0;
    while client.ask("GET", "/v1/poll?wait=0", "").await.status == 200 {
        polls += 1;
        assert!(polls < 40, "nothing bounds polls");
    }
    let (address, huge) = (replica.address, "x".repeat(2 << 20));
    assert_eq!(ask(address, "POST", "/v1/messages", &[], &huge).await.status, 413);
    for bad in ["", "hello", "[1", "[{}] x"] {
        let refused = ask(address, "POST", "/v1/messages", &[], bad).await;
        assert_eq!(refused.status, 400, "{bad:?}");
        assert_eq!(refused.frames().await[0]["code"], "bad_json");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_or_told_why_not() {
    let origins = vec!["https://calls.example".to_owned()];
    let (replica, _) = at(Backend::memory().builder().allowed_origins(origins)).await;
    for path in ["/v1/messages", "/v1/events", "/v1/poll"] {
        let preflight =
            ask(replica.address, "OPTIONS", path, &[("origin", "https://calls.example")], "").await;
        assert_eq!(preflight.status, 204);
        assert!(preflight.head.contains("rtc-session"), "{}", preflight.head);
    }
    let join = "{\"type\":\"join\",\"room\":\"r\"}";
    for (origin, status) in [("https://calls.example", 200), ("https://evil.example", 403)] {
        let response = ask(replica.address, "POST", "/v1/messages", &[("origin", origin)], join).await;
        assert_eq!(response.status, status);
        assert!(response.head.contains("access-control-allow-origin: *"), "{}", response.head);
    }
}

#[tokio::test]
async fn a_stream_counts_as_a_connection_of_its_address_until_it_ends() {
    let limits = rtc_signaling::guests::AddressLimits { connections: 1, ..Default::default() };
    let (replica, client) = at(Backend::memory().builder().address_limits(limits)).await;
    let token = client.joined["resume"].as_str().unwrap();
    let headers = [("rtc-session", token), ("x-forwarded-for", "203.0.113.9")];
    let stream = ask(replica.address, "GET", "/v1/events", &headers, "").await;
    assert_eq!(stream.status, 200);
    assert_eq!(ask(replica.address, "GET", "/v1/poll", &headers, "").await.status, 429);
    assert!(replica.server.metrics().contains("connections{dialect=\"native\"} 1"));
    drop(stream);
    eventually("the stream's place is free", async || {
        ask(replica.address, "GET", "/v1/poll?wait=0", &headers, "").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_read_is_closed_as_resumable() {
    let limits = Limits { messages_per_second: 100_000, queue_bytes: 256 << 10, ..Limits::default() };
    let (replica, mut slow) = at(Backend::memory().builder().limits(limits)).await;
    let mut stream = slow.stream().await;
    slow.next(&mut stream).await;
    let mut quick = replica.join("r").await;
    let mut speaker = replica.join("r").await;
    quick.expect("member-joined").await;
    let filler = "x".repeat(60_000);
    // 24 MB: more than the sockets between them and the queue hold
    for sent in 0..400 {
        speaker.send(json!({"type": "signal", "id": sent, "data": [sent, filler]})).await;
        speaker.until("ack").await;
        assert_eq!(quick.expect("signal").await["data"][0], sent, "the quick one gets everything at once");
    }
    let closed = async || replica.server.metrics().contains("slow_readers_total 1");
    eventually("the slow one is given up", closed).await;
    // hung up on, or told; what arrived before is whole
    while let Some((_, frame)) = stream.event().await {
        if frame["type"] == "closed" {
            assert_eq!(frame["code"], 4002);
            break;
        }
    }
}

#[tokio::test]
async fn a_drain_sends_streams_and_polls_elsewhere() {
    let backend = Backend::memory();
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut other = b.join("r").await;
    let mut streams = Plain::join(&[&a], "r").await;
    let mut polls = Plain::join(&[&a], "r").await;
    let mut stream = streams.stream().await;
    streams.next(&mut stream).await;
    streams.next(&mut stream).await;
    other.expect("member-joined").await;
    other.expect("member-joined").await;
    let polling = tokio::spawn(async move {
        let response = polls.ask("GET", "/v1/poll", "").await;
        (response.head.clone(), response.frames().await)
    });
    eventually("both are here", async || a.server.hub().sessions() == 2).await;
    let server = a.server.clone();
    let draining = tokio::spawn(async move { server.drain(Some(Duration::from_secs(2))).await });
    stream.expect("goaway").await;
    assert_eq!(stream.expect("closed").await["code"], 1012);
    assert!(stream.event().await.is_none());
    // it ended early, with nothing to say
    let (head, polled) = polling.await.unwrap();
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(
        polled.iter().map(|frame| frame["type"].as_str().unwrap()).collect::<Vec<_>>(),
        ["resumed", "position"]
    );
    draining.await.unwrap();
    other.expect_nothing().await;
}

#[tokio::test]
async fn a_connection_is_told_which_replica_it_reached_and_not_what_it_is_called() {
    let backend = Backend::memory();
    let replica = Replica::start(backend.builder().name("secret-node-7")).await;
    let client = replica.join("r").await;
    let word = client.joined["replica"].as_str().unwrap();
    assert!(word.len() == 8 && replica.server.status()["replica"].as_str().unwrap().ends_with(word));
    let mut back = client.resume_at(&replica).await;
    assert_eq!(back.expect("resumed").await["replica"], word);
}

/// A compressor costs a client hundreds of kilobytes, and hides the length of nothing.
#[tokio::test]
async fn websockets_are_not_compressed() {
    let replica = Backend::memory().replica().await;
    let headers = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
    ];
    let head = raw::upgrade(replica.address, "/v1/connect", &headers).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(!head.to_lowercase().contains("sec-websocket-extensions"), "{head}");
}
