//! The wire between an operator and the API server, in the test's hand: it counts, cuts, freezes, slows and refuses.
//!
//! A real HTTP proxy rather than a layer of the client, so that the client's own retries are part of what is tested.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, Response, StatusCode},
};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use kube::{Client, Config};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) at: Instant,
}

impl Seen {
    /// Whether it changes something that is not the operator's own lease.
    pub(crate) fn writes(&self) -> bool {
        self.method != Method::GET && !self.path.contains("/leases")
    }

    /// Whether it announces something.
    pub(crate) fn tells(&self) -> bool {
        self.path.contains("/events")
    }

    fn watches(&self) -> bool {
        self.query.contains("watch=true")
    }

    /// A list that begins a watch, by how the watcher asks.
    pub(crate) fn begins_watch(&self) -> bool {
        self.method == Method::GET
            && !self.watches()
            && self.query.contains("limit=100")
            && !self.query.contains("component")
    }
}

/// What happens to the requests for which it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They reach the API server.
    Pass,
    /// The connection breaks, as if nobody were there.
    Break,
    /// An answer with this status, and to try again after so many seconds if any.
    Refuse(StatusCode, Option<u64>),
    /// They reach it after this time, whether or not anybody still waits for the answer.
    Late(Duration),
}

type Rule = Arc<dyn Fn(&Seen) -> Fate + Send + Sync>;

struct Shared {
    upstream: Client,
    seen: Mutex<Vec<Seen>>,
    rule: Mutex<Rule>,
    /// So many writes until nothing is answered any more, and whether events are among them.
    left: Mutex<Option<(usize, bool)>>,
    dead: watch::Sender<bool>,
    frozen: watch::Sender<bool>,
    /// Answers to lists that begin a watch, from before [`Link::roll_back`].
    remembered: Mutex<std::collections::HashMap<String, Vec<u8>>>,
    rolled_back: watch::Sender<bool>,
    /// Whose watches were told to begin anew.
    forgot: Mutex<std::collections::HashSet<String>>,
}

/// A wire. It is cut when it is dropped.
pub(crate) struct Link {
    shared: Arc<Shared>,
    address: std::net::SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(crate) async fn new(mut config: Config) -> Self {
        // What the API server refuses is for the operator's client to retry.
        config.default_retry = false;
        let shared = Arc::new(Shared {
            upstream: Client::try_from(config).unwrap(),
            seen: Mutex::default(),
            rule: Mutex::new(Arc::new(|_| Fate::Pass)),
            left: Mutex::new(None),
            dead: watch::Sender::new(false),
            frozen: watch::Sender::new(false),
            remembered: Mutex::default(),
            rolled_back: watch::Sender::new(false),
            forgot: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(carry).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, address, task }
    }

    /// A client whose requests go over this wire.
    pub(crate) fn client(&self) -> Client {
        Client::try_from(Config::new(format!("http://{}", self.address).parse().unwrap())).unwrap()
    }

    /// Decides on all requests from now on.
    pub(crate) fn rule(&self, rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Arc::new(rule);
    }

    /// After so many more writes have reached the API server, nothing is answered any more: the last of them, too.
    pub(crate) fn die_after(&self, writes: usize) {
        *self.shared.left.lock().unwrap() = Some((writes, true));
    }

    /// The same, where events do not count: they are told before what they announce is noted, so who dies after
    /// each of them tells it again for ever.
    pub(crate) fn die_after_change(&self) {
        *self.shared.left.lock().unwrap() = Some((1, false));
    }

    /// Whether the last of them has been made.
    pub(crate) fn dead(&self) -> watch::Receiver<bool> {
        self.shared.dead.subscribe()
    }

    /// Holds back what watches tell, or lets it through again, in its order.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.shared.frozen.send_replace(frozen);
    }

    /// Ends all watches, and begins them again where they first began, as an API server would that was restored or
    /// lags behind; or ends that too.
    pub(crate) fn roll_back(&self, back: bool) {
        self.shared.rolled_back.send_replace(back);
    }

    /// All requests since the last call.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    /// All requests since the last [`Self::take`].
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

async fn carry(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let seen = Seen {
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        at: Instant::now(),
    };
    shared.seen.lock().unwrap().push(seen.clone());
    if *shared.dead.borrow() {
        std::future::pending::<()>().await;
    }
    let rule = shared.rule.lock().unwrap().clone();
    let fate = rule(&seen);
    let body = body.collect().await.unwrap().to_bytes();
    let request = http::Request::from_parts(parts, kube::client::Body::from(body));
    match fate {
        Fate::Pass => {}
        // A body that breaks before it begins takes the connection with it.
        Fate::Break => {
            return Response::new(Body::from_stream(stream::once(async {
                Err::<Vec<u8>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
            })));
        }
        Fate::Refuse(status, after) => return refuse(status, after),
        Fate::Late(delay) => {
            let late = async move {
                tokio::time::sleep(delay).await;
                forward(&shared, &seen, request).await
            };
            return tokio::spawn(late).await.unwrap();
        }
    }
    forward(&shared, &seen, request).await
}

fn refuse(status: StatusCode, after: Option<u64>) -> Response<Body> {
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status.as_u16(),
        "reason": status.canonical_reason(), "message": format!("refused by the test with {status}"),
    });
    let mut answer = Response::builder().status(status).header("content-type", "application/json");
    if let Some(after) = after {
        answer = answer.header("retry-after", after);
    }
    answer.body(Body::from(text.to_string())).unwrap()
}

async fn forward(
    shared: &Arc<Shared>,
    seen: &Seen,
    request: http::Request<kube::client::Body>,
) -> Response<Body> {
    let which = format!("{}?{}", seen.path, seen.query);
    let mut rolled_back = shared.rolled_back.subscribe();
    let back = *rolled_back.borrow_and_update();
    if back && seen.watches() {
        // That it has forgotten what was asked for makes a client begin anew; then nothing is told until the
        // present is back.
        if shared.forgot.lock().unwrap().insert(seen.path.clone()) {
            let forgot = json!({"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
                "reason": "Expired", "message": "too old resource version",
            }});
            return Response::new(Body::from(format!("{forgot}\n")));
        }
        let silence = stream::once(async move {
            drop(rolled_back.wait_for(|back| !back).await);
            Err::<Vec<u8>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
        });
        return Response::new(Body::from_stream(silence));
    }
    if back && let Some(old) = shared.remembered.lock().unwrap().get(&which).cloned() {
        return Response::builder().header("content-type", "application/json").body(Body::from(old)).unwrap();
    }
    let Ok(answer) = shared.upstream.send(request).await else {
        return refuse(StatusCode::BAD_GATEWAY, None);
    };
    let (mut parts, body) = answer.into_parts();
    // How it is framed is for each hop.
    parts.headers.remove("transfer-encoding");
    parts.headers.remove("content-length");
    if !seen.watches() {
        let body = body.collect().await.unwrap().to_bytes();
        if seen.writes() {
            last_breath(shared, seen).await;
        }
        if seen.begins_watch() {
            shared.remembered.lock().unwrap().entry(which).or_insert_with(|| body.to_vec());
        }
        return Response::from_parts(parts, Body::from(body));
    }
    let frozen = shared.frozen.subscribe();
    let frames = body.into_data_stream().then(move |frame| {
        let mut frozen = frozen.clone();
        async move {
            drop(frozen.wait_for(|frozen| !frozen).await);
            frame.map_err(std::io::Error::other)
        }
    });
    let cut = async move {
        drop(rolled_back.wait_for(|now| *now).await);
    };
    Response::from_parts(parts, Body::from_stream(frames.take_until(cut)))
}

/// Counts a write that was made; with the last, all answers end.
async fn last_breath(shared: &Shared, seen: &Seen) {
    let last = {
        let mut left = shared.left.lock().unwrap();
        left.as_mut().filter(|(_, events)| *events || !seen.tells()).is_some_and(|(left, _)| {
            *left = left.saturating_sub(1);
            *left == 0
        })
    };
    if last {
        shared.dead.send_replace(true);
    }
    if *shared.dead.borrow() {
        std::future::pending::<()>().await;
    }
}
