//! The native protocol by plain requests, each of which may come to any replica.
//!
//! No replica remembers anything between two requests. What a client posts is written by whichever replica
//! it reached, for the session whose token it shows; the answers are the body of the response. What the room
//! says comes by a stream or a poll, and both are a resume: from the entry that the client names, on this
//! replica, for as long as the request lasts. So a lost response loses nothing, and nothing comes twice.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /v1/messages`, a frame or an array of frames | an array of frames: what answers these |
//! | `GET /v1/events` | an event stream: `resumed` or `resync`, then what the room says, each with its place |
//! | `GET /v1/poll` | the same as an array, as soon as there is something; `position` is its last frame |
//!
//! The session is named by the header `Rtc-Session`, its token percent-encoded; the last entry that arrived by
//! `Last-Event-ID`, as `EPOCH.SEQ`. An `EventSource`, which cannot set the first, writes `?session=…&after=…`;
//! proxies may log that. Where tokens are asked for, each request shows one. A connection without a session begins by posting `join`.

mod asking;
mod events;
mod messages;
mod pace;
mod poll;

pub(crate) use pace::Paces;

use crate::{arrival::HARD_FRAME_LIMIT, dialect::native, server::Replica, store::StoreError};
use asking::Asking;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, ws::Utf8Bytes},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rtc_signaling_proto::{Refusal, client::Code, close, server::ServerFrame};

/// The routes of these transports.
pub(crate) fn router() -> Router<Replica> {
    Router::new()
        .route("/v1/messages", post(messages::serve).options(preflight))
        .route("/v1/events", get(events::serve).options(preflight))
        .route("/v1/poll", get(poll::serve).options(preflight))
        .layer(DefaultBodyLimit::max(HARD_FRAME_LIMIT))
        .layer(from_fn(open_to_pages))
}

/// Pages of any origin may read the answers, which say why those that are not allowed are turned away. No
/// cookie is looked at, so none of them speaks for anybody but itself.
async fn open_to_pages(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, last-event-id, rtc-session"),
        (header::ACCESS_CONTROL_MAX_AGE, "7200"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// An array of frames.
fn array(status: StatusCode, frames: &[Utf8Bytes]) -> Response {
    let bytes: usize = frames.iter().map(|frame| frame.len() + 1).sum();
    let mut body = String::with_capacity(bytes + 2);
    for frame in frames {
        body.push(if body.is_empty() { '[' } else { ',' });
        body.push_str(frame);
    }
    body.push_str(if body.is_empty() { "[]" } else { "]" });
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The answer to a stream or a poll for a session that does not go on.
fn refused(error: &StoreError) -> Response {
    array(status(error), &[native::store_error(None, error).into()])
}

fn status(error: &StoreError) -> StatusCode {
    match error {
        StoreError::Refused(Refusal::Forbidden) => StatusCode::FORBIDDEN,
        StoreError::Refused(_) => StatusCode::NOT_FOUND,
        StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The answer to a stream or a poll of nobody.
fn nobody() -> Response {
    let how = "join by POST /v1/messages, then show `resume` of `joined` in the header Rtc-Session";
    array(StatusCode::UNAUTHORIZED, &[ServerFrame::error(None, Code::NotJoined, how).into()])
}

/// What ends a stream or a poll.
fn closed(code: u16, reason: &str) -> String {
    ServerFrame::Closed { code, reason }.to_text()
}

/// A server that ends takes no further request of a connection, so that the next one goes elsewhere.
fn hinted(mut response: Response, draining: bool) -> Response {
    if draining {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a client is told that asks more often than it may.
fn too_often() -> Response {
    let how = "ask less often; see `limits` in `joined`";
    let frame = ServerFrame::error(None, Code::RateLimited, how);
    array(StatusCode::TOO_MANY_REQUESTS, &[frame.into(), closed(close::PROTOCOL, how).into()])
}
