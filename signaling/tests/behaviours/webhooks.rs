//! A backend is told who comes to rooms and who goes.

use crate::support::*;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use rtc_signaling::webhooks::Webhooks;
use rtc_signaling_proto::ops::RoomLimits;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

const SECRET: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];

/// A request as it came.
#[derive(Clone, Debug)]
struct Request {
    id: String,
    /// Of the secrets above, by their first byte.
    signed_by: Vec<u8>,
    body: Value,
}

impl Request {
    fn kind(&self) -> String {
        self.body["type"].as_str().unwrap().to_owned()
    }

    fn room(&self) -> &str {
        self.body["data"]["room"].as_str().unwrap()
    }
}

/// What answers the n-th request.
type Answer = Box<dyn Fn(usize, &Request) -> Option<StatusCode> + Send + Sync>;

struct Inner {
    requests: Mutex<Vec<Request>>,
    answer: Answer,
}

/// A backend.
struct Receiver {
    inner: Arc<Inner>,
    url: String,
    secret: PathBuf,
    _dir: tempfile::TempDir,
}

fn written(secret: &[u8]) -> String {
    format!("whsec_{}\n", BASE64_STANDARD.encode(secret))
}

async fn receive(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    assert!(timestamp.parse::<u64>().unwrap().abs_diff(rtc_service::clock::unix_now()) < 10);
    let signed = [format!("{id}.{timestamp}.").as_bytes(), &body].concat();
    let signatures: Vec<_> = header("webhook-signature").split(' ').map(str::to_owned).collect();
    let is_by = |secret: &[u8; 32]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        signatures.contains(&format!("v1,{}", BASE64_STANDARD.encode(hmac::sign(&key, &signed))))
    };
    let signed_by: Vec<u8> = [SECRET, OTHER].iter().filter(|s| is_by(s)).map(|s| s[0]).collect();
    assert_eq!(signed_by.len(), signatures.len());
    let request = Request { id, signed_by, body: serde_json::from_slice(&body).unwrap() };
    let count = {
        let mut requests = inner.requests.lock().unwrap();
        requests.push(request.clone());
        requests.len()
    };
    match (inner.answer)(count, &request) {
        Some(status) => (status, [(header::LOCATION, "/elsewhere")]).into_response(),
        None => std::future::pending().await,
    }
}

impl Receiver {
    async fn start() -> Self {
        Self::answering(|_, _| Some(StatusCode::NO_CONTENT)).await
    }

    /// Answers so, or never.
    async fn answering(
        answer: impl Fn(usize, &Request) -> Option<StatusCode> + Send + Sync + 'static,
    ) -> Self {
        let inner = Arc::new(Inner { requests: Mutex::default(), answer: Box::new(answer) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        // whoever follows a redirect comes here too
        let router = Router::new().route("/{*path}", post(receive)).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, written(&SECRET)).unwrap();
        Self { inner, url, secret, _dir: dir }
    }

    fn webhooks(&self) -> Webhooks {
        Webhooks::new(&self.url, &self.secret).unwrap()
    }

    async fn replica(&self, backend: &Backend) -> Replica {
        Replica::start(backend.builder().webhooks(self.webhooks())).await
    }

    fn requests(&self) -> Vec<Request> {
        self.inner.requests.lock().unwrap().clone()
    }

    /// What came, once it is so much.
    async fn received(&self, count: usize) -> Vec<Request> {
        eventually("the backend is told", async || self.requests().len() >= count).await;
        self.requests()
    }

    /// The kinds of what came.
    async fn kinds(&self, count: usize) -> Vec<String> {
        self.received(count).await.iter().map(Request::kind).collect()
    }
}

fn counted(replica: &Replica, outcome: &str) -> u64 {
    let metrics = replica.server.metrics();
    let line = format!("rtc_signaling_webhooks_total{{outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

on_each_store! {
    async fn each_event_is_sent_once_and_in_the_rooms_order(backend: Backend) {
        let receiver = Receiver::start().await;
        let (a, b) = (receiver.replica(&backend).await, receiver.replica(&backend).await);
        let mut one = a.connect().await;
        one.join_with(json!({"type": "join", "room": "r", "name": "Ada", "meta": {"k": [1]}})).await;
        let mut two = b.join("r").await;
        two.signal(None, json!("private")).await;
        two.send(json!({"type": "leave", "id": 1})).await;
        two.until("ack").await;
        a.server.hub().store().close(&"r".parse().unwrap()).await.unwrap();
        // a dialect's own rooms are not told
        raw::Raw::connect(a.address, "/matchbox/r").await.cut();
        let mut three = b.join("s").await;
        three.send(json!({"type": "leave"})).await;

        let all = receiver.received(10).await;
        let (r, s): (Vec<_>, Vec<_>) = all.into_iter().partition(|request| request.room() == "r");
        let data = |request: &Request, members: u64| {
            let data = &request.body["data"];
            assert_eq!((&data["room"], &data["epoch"], &data["members"]), (&json!("r"), &json!(one.epoch), &json!(members)));
            (request.kind(), data["member"].clone(), data["reason"].clone())
        };
        let (one_id, two_id) = (one.id(), two.id());
        let told: Vec<_> = r.iter().zip([1, 1, 2, 1, 0, 0]).map(|(request, members)| data(request, members)).collect();
        let expected = [
            ("room.opened", json!(null), json!(null)),
            ("member.joined", json!({"id": one_id, "name": "Ada"}), json!(null)),
            ("member.joined", json!({"id": two_id}), json!(null)),
            ("member.left", json!({"id": two_id}), json!("left")),
            ("member.left", json!({"id": one_id}), json!("kicked")),
            ("room.closed", json!(null), json!(null)),
        ];
        assert_eq!(told, expected.map(|(kind, member, reason)| (kind.to_owned(), member, reason)));
        assert!(r.is_sorted_by_key(|request| request.body["data"]["seq"].as_u64()));
        let kinds: Vec<_> = s.iter().map(Request::kind).collect();
        assert_eq!(kinds, ["room.opened", "member.joined", "member.left", "room.closed"]);
        let ids: std::collections::HashSet<_> = receiver.requests().into_iter().map(|r| r.id).collect();
        assert_eq!(ids.len(), 10);

        // whoever leads next finds nothing to do
        a.server.drain(Some(Duration::from_secs(5))).await;
        b.server.drain(Some(Duration::from_secs(5))).await;
        assert_eq!(receiver.requests().len(), 10);
        assert_eq!(counted(&a, "sent") + counted(&b, "sent"), 10);
        assert_eq!(counted(&a, "failed") + counted(&b, "failed"), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_replica_that_dies_are_told_as_lost_once_also_if_it_led() {
    let lease = Duration::from_millis(1200);
    let limits = RoomLimits { replica_lease: lease, detached_lease: lease, ..RoomLimits::default() };
    let backend = Backend::redis_with(limits);
    let receiver = Receiver::start().await;
    let mortal = Mortal::start(backend.builder().webhooks(receiver.webhooks()));
    let one = mortal.replica.join("r").await;
    // from here on it leads
    receiver.received(2).await;
    let (b, c) = (receiver.replica(&backend).await, receiver.replica(&backend).await);
    let two = b.join("r").await;
    receiver.received(3).await;
    // what the store has not forgotten by its death comes again
    let metrics = || mortal.replica.server.metrics();
    eventually("the store knows it", async || metrics().contains("rtc_signaling_webhook_queue 0\n")).await;
    mortal.kill();
    let left = receiver.received(4).await.pop().unwrap();
    assert_eq!(left.kind(), "member.left");
    assert_eq!(left.body["data"]["member"]["id"], one.id());
    assert_eq!(left.body["data"]["reason"], "lost");
    b.server.hub().store().close(&"r".parse().unwrap()).await.unwrap();
    let kinds = receiver.kinds(6).await;
    let expected =
        ["room.opened", "member.joined", "member.joined", "member.left", "member.left", "room.closed"];
    assert_eq!(kinds, expected);
    assert_eq!(receiver.requests()[4].body["data"]["member"]["id"], two.id());
    for replica in [b, c] {
        replica.server.drain(Some(Duration::from_secs(5))).await;
    }
    assert_eq!(receiver.requests().len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_sent_again_under_its_id_before_what_came_after_it() {
    let backend = Backend::memory();
    let fail = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TEMPORARY_REDIRECT];
    let receiver = Receiver::answering(move |n, _| fail.get(n - 1).copied().or(Some(StatusCode::OK))).await;
    let a = receiver.replica(&backend).await;
    drop(a.join("r").await);
    // nobody is here, and yet the drain waits: for the receiver
    a.server.drain(Some(PATIENCE)).await;
    let requests = receiver.requests();
    let kinds: Vec<_> = requests.iter().map(Request::kind).collect();
    assert_eq!(kinds, ["room.opened", "room.opened", "room.opened", "member.joined"]);
    assert_eq!((&requests[0].id, &requests[0].body), (&requests[2].id, &requests[2].body));
    assert_ne!(requests[2].id, requests[3].id);
    assert_eq!((counted(&a, "failed"), counted(&a, "sent"), counted(&a, "dropped")), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_slows_no_room_and_what_is_too_old_is_given_up() {
    let backend = Backend::memory();
    let receiver =
        Receiver::answering(|_, request| (request.room() != "slow").then_some(StatusCode::OK)).await;
    let webhooks = receiver.webhooks().patience(Duration::ZERO);
    let a = Replica::start(backend.builder().webhooks(webhooks)).await;
    let mut one = a.join("slow").await;
    receiver.received(1).await;
    let begun = Instant::now();
    let mut two = a.join("slow").await;
    one.expect("member-joined").await;
    two.signal(None, json!(1)).await;
    one.expect("signal").await;
    // and no other room's news
    a.join("quick").await;
    eventually("another room is told", async || receiver.requests().iter().any(|r| r.room() == "quick"))
        .await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    eventually("given up", async || counted(&a, "dropped") > 0).await;
    let queue = "rtc_signaling_webhook_queue ";
    assert!(a.server.metrics().lines().any(|line| line.starts_with(queue) && !line.ends_with(" 0")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_replaced_with_both_in_force_between() {
    let backend = Backend::memory();
    let receiver = Receiver::start().await;
    let a = receiver.replica(&backend).await;
    let signed_by = async || receiver.requests().pop().map(|request| request.signed_by).unwrap_or_default();
    let turns = [written(&SECRET) + &written(&OTHER), "nothing good".into(), written(&OTHER)];
    a.join("r").await;
    assert_eq!(receiver.received(2).await[1].signed_by, [7]);
    for (content, wanted) in turns.iter().zip([vec![7, 8], vec![7, 8], vec![8]]) {
        std::fs::write(&receiver.secret, content).unwrap();
        eventually("the new secret signs", async || {
            a.join("r").await;
            signed_by().await == wanted
        })
        .await;
    }
}
