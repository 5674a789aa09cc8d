//! Google's WebRTC codelab: unmodified clients, of Socket.IO 2 (Engine.IO 3) and 4, by polling and
//! WebSocket, on the same rooms as everybody.
//!
//! | client | server |
//! | --- | --- |
//! | `create or join`(room), first | `created`(room, id), and `empty`(room) for the article's client |
//! | the same, second | `join`(room) to the one inside; `joined`(room, id) to this one; `ready` to both |
//! | the same, third | `full`(room) |
//! | `message`(any) | `message`(any) to the other of the same room (the original tells every room) |
//! | `ipaddr` | `ipaddr`(the host that the client connected to) |
//! | `bye` | leaves |
//! | | `log`(array) |
//!
//! A client is in one room at a time. `socket.io.js` is not served: a page brings its own.

mod engine;
mod packet;
mod session;

use crate::{
    auth::{TokenError, bearer::answer_protocol, gate::Gate},
    guests::TooMany,
    hub::Hub,
    outbox::Out,
    server::{Replica, Server},
    trace,
};
use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequestParts, Query, Request, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use engine::{MAX_PAYLOAD, NOOP, Revision};
use rtc_signaling_proto::Limits;
use serde::Deserialize;
use serde_json::json;
use session::Session;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};
use tracing::Instrument;

/// A poll without news ends after so long. Pings come more often.
const POLL: Duration = Duration::from_secs(40);
/// How long one packet may take to be written.
const WRITE: Duration = Duration::from_secs(10);

/// The sessions of long-polling clients. Replicas that share a port share it, because each request of such
/// a client may come to another one.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Mutex<HashMap<String, Arc<Session>>>>);

impl Table {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, session: &Arc<Session>) {
        self.lock().insert(session.sid.clone(), session.clone());
    }

    fn remove(&self, sid: &str) {
        self.lock().remove(sid);
    }

    fn get(&self, sid: &str) -> Option<Arc<Session>> {
        self.lock().get(sid).cloned()
    }
}

/// This dialect at one replica.
#[derive(Debug)]
pub(crate) struct SocketIo {
    hub: Arc<Hub>,
    table: Table,
    limits: Limits,
    join_timeout: Duration,
    gate: Arc<Gate>,
}

impl SocketIo {
    pub(crate) fn new(
        hub: Arc<Hub>,
        table: Table,
        limits: Limits,
        join_timeout: Duration,
        gate: Arc<Gate>,
    ) -> Self {
        Self { hub, table, limits, join_timeout, gate }
    }

    async fn begin(
        &self,
        server: &Server,
        revision: Revision,
        parts: &Parts,
    ) -> Result<Arc<Session>, Refused> {
        let headers = &parts.headers;
        let guest = server.guests().admit(&parts.extensions, headers).map_err(Refused::TooMany)?;
        let pass = match self.gate.admit(headers, &parts.uri).await {
            Ok(pass) => Some(pass),
            // it may come with the option `auth`, which only newer clients have
            Err(TokenError::Missing) if revision == Revision::Four => None,
            Err(why) => return Err(Refused::Token(why)),
        };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        // without the port, which an IPv6 address in brackets has after them
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        Ok(Session::start(self, revision, host.to_owned(), guest, pass))
    }
}

/// The routes of this dialect.
pub(crate) fn router() -> Router<Replica> {
    Router::new()
        .route("/socket.io/", any(serve))
        .route("/socket.io", any(serve))
        .layer(DefaultBodyLimit::max(MAX_PAYLOAD))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(rename = "EIO", default)]
    eio: String,
    #[serde(default)]
    transport: String,
    sid: Option<String>,
}

/// The errors of Engine.IO's handshake.
enum Refused {
    UnknownTransport,
    UnknownSession,
    BadMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    TooMany(TooMany),
    Token(TokenError),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::UnknownTransport => (StatusCode::BAD_REQUEST, 0, "Transport unknown".into()),
            Self::UnknownSession => (StatusCode::BAD_REQUEST, 1, "Session ID unknown".into()),
            Self::BadMethod => (StatusCode::BAD_REQUEST, 2, "Bad handshake method".into()),
            Self::BadRequest => (StatusCode::BAD_REQUEST, 3, "Bad request".into()),
            Self::Forbidden => (StatusCode::FORBIDDEN, 4, "Forbidden".into()),
            Self::UnsupportedVersion => (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version".into()),
            Self::Token(why @ TokenError::Unavailable) => {
                (StatusCode::SERVICE_UNAVAILABLE, 3, why.to_string())
            }
            Self::Token(why) => (StatusCode::UNAUTHORIZED, 4, why.to_string()),
            // which Engine.IO has no number for; its clients show the message
            Self::TooMany(why) => (StatusCode::TOO_MANY_REQUESTS, 3, why.to_string()),
        };
        (status, axum::Json(json!({"code": code, "message": message}))).into_response()
    }
}

async fn serve(State(replica): State<Replica>, request: Request) -> Result<Response, StatusCode> {
    let server = replica.get()?;
    let origin = request.headers().get(header::ORIGIN).cloned();
    if !server.origins().admits(request.headers()) {
        return Ok(Refused::Forbidden.into_response());
    }
    let mut response = if request.method() == Method::OPTIONS {
        preflight()
    } else {
        answer(&server, request).await.unwrap_or_else(Refused::into_response)
    };
    // Pages of other origins bring their own client; the older ones ask with credentials.
    let headers = response.headers_mut();
    match origin {
        Some(origin) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
        }
        None => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

async fn answer(server: &Server, request: Request) -> Result<Response, Refused> {
    let io = server.socketio();
    let (mut parts, body) = request.into_parts();
    let span = trace::connection(&parts.headers);
    let asked = Query::<Asked>::try_from_uri(&parts.uri).map_err(|_| Refused::BadRequest)?.0;
    let websocket = match asked.transport.as_str() {
        "polling" => false,
        "websocket" => true,
        _ => return Err(Refused::UnknownTransport),
    };
    let session = match &asked.sid {
        Some(sid) => Some(io.table.get(sid).ok_or(Refused::UnknownSession)?),
        None => None,
    };
    if session.is_none() && parts.method != Method::GET {
        return Err(Refused::BadMethod);
    }
    let revision = Revision::from_query(&asked.eio).ok_or(Refused::UnsupportedVersion)?;
    if websocket {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
        let upgrade = upgrade.map_err(|_| Refused::BadRequest)?;
        let begin = session.is_none();
        let session = match session {
            Some(session) => session,
            None => io.begin(server, revision, &parts).await?,
        };
        let upgrade = answer_protocol(upgrade)
            .read_buffer_size(4 << 10)
            .max_message_size(MAX_PAYLOAD)
            .max_frame_size(MAX_PAYLOAD);
        let failing = session.clone();
        return Ok(upgrade
            .on_failed_upgrade(move |_| {
                if begin {
                    tokio::spawn(async move { failing.end().await });
                }
            })
            .on_upgrade(async move |socket| {
                if begin {
                    over_websocket(socket, &session).instrument(span).await;
                } else {
                    upgrade_to(socket, &session).instrument(span).await;
                }
            }));
    }
    let Some(session) = session else {
        let session = io.begin(server, revision, &parts).await?;
        return Ok(text(session.revision.payload(&session.greet(&["websocket"]))));
    };
    match parts.method {
        Method::GET => poll(&session).await,
        Method::POST => {
            let body = axum::body::to_bytes(body, MAX_PAYLOAD).await.map_err(|_| Refused::BadRequest)?;
            post(&session, &body).instrument(span).await
        }
        _ => Err(Refused::BadRequest),
    }
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=UTF-8")], body).into_response()
}

/// Ends a session when it is dropped.
struct Gone(Option<Arc<Session>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let (Some(session), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { session.end().await });
        }
    }
}

/// Waits for something to say, and says all that there is.
async fn poll(session: &Arc<Session>) -> Result<Response, Refused> {
    session.hear();
    let Ok(_reader) = session.reader.try_lock() else {
        // two polls at once: one of them would lose what it takes
        session.end().await;
        return Err(Refused::BadRequest);
    };
    // A client that goes away while it polls is gone: those that live always poll.
    let mut gone = Gone(Some(session.clone()));
    let upgrading = session.upgrade.notified();
    let (mut packets, mut over) = (Vec::new(), false);
    if !session.upgrading.load(Ordering::Relaxed) {
        tokio::select! {
            out = session.outbox.next() => {
                over = matches!(out, Out::Close(..));
                packets.extend(session.words(&out));
            }
            () = upgrading => {}
            () = tokio::time::sleep(POLL) => {}
        }
        let mut bytes: usize = packets.iter().map(String::len).sum();
        while bytes < MAX_PAYLOAD / 2
            && let Some(out) = session.outbox.pop()
        {
            over |= matches!(out, Out::Close(..));
            for packet in session.words(&out) {
                bytes += packet.len();
                packets.push(packet);
            }
        }
    }
    gone.0 = None;
    if over {
        session.end().await;
    }
    if packets.is_empty() {
        packets.push(NOOP.to_owned());
    }
    Ok(text(session.revision.payload(&packets)))
}

async fn post(session: &Arc<Session>, body: &Bytes) -> Result<Response, Refused> {
    let packets = std::str::from_utf8(body).ok().and_then(|body| session.revision.packets(body));
    for packet in packets.ok_or(Refused::BadRequest)? {
        if !session.receive(packet).await {
            break;
        }
    }
    Ok(([(header::CONTENT_TYPE, "text/html")], "ok").into_response())
}

/// Serves a session over a WebSocket, from its beginning.
async fn over_websocket(mut socket: WebSocket, session: &Arc<Session>) {
    for packet in session.greet(&[]) {
        if socket.send(Message::Text(packet.into())).await.is_err() {
            break;
        }
    }
    let _reader = session.reader.lock().await;
    pump(&mut socket, session).await;
    session.end().await;
}

/// Serves a session that polled before: the client tries the WebSocket out, ends its polling, and changes.
async fn upgrade_to(mut socket: WebSocket, session: &Arc<Session>) {
    let probe = async {
        match socket.recv().await {
            Some(Ok(Message::Text(packet))) if packet.as_str() == "2probe" => {}
            _ => return false,
        }
        if socket.send(Message::Text("3probe".into())).await.is_err() {
            return false;
        }
        session.set_upgrading(true);
        matches!(socket.recv().await, Some(Ok(Message::Text(packet))) if packet.as_str() == "5")
    };
    let changed = tokio::time::timeout(WRITE, probe).await.unwrap_or(false);
    if !changed {
        // it goes on polling
        session.set_upgrading(false);
        return;
    }
    let _reader = session.reader.lock().await;
    pump(&mut socket, session).await;
    session.end().await;
}

async fn pump(socket: &mut WebSocket, session: &Arc<Session>) {
    loop {
        tokio::select! {
            received = socket.recv() => match received {
                Some(Ok(Message::Text(packet))) => {
                    if !session.receive(&packet).await {
                        return;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => session.hear(),
                Some(Ok(Message::Binary(_) | Message::Close(_)) | Err(_)) | None => return,
            },
            out = session.outbox.next() => {
                for packet in session.words(&out) {
                    let written = socket.send(Message::Text(packet.into()));
                    if !matches!(tokio::time::timeout(WRITE, written).await, Ok(Ok(()))) {
                        return;
                    }
                }
                if matches!(out, Out::Close(..)) {
                    return;
                }
            }
        }
    }
}
