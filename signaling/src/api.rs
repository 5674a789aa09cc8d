//! The HTTP API: a backend looks at rooms, and acts on them, on whichever replica it asks.
//!
//! | request | permission | what |
//! | --- | --- | --- |
//! | `GET /api/v1/rooms?limit&after` | `rooms:list` | rooms and how many members each has |
//! | `GET /api/v1/rooms/{room}` | `rooms:read` | its members |
//! | `DELETE /api/v1/rooms/{room}` | `rooms:close` | every member leaves, as kicked |
//! | `DELETE /api/v1/rooms/{room}/members/{member}` | `members:kick` | one leaves, as kicked |
//! | `POST /api/v1/rooms/{room}/messages` | `messages:send` | a signal from `server`, to all or to one |
//!
//! Rooms of PeerJS, y-webrtc and matchbox are their own clients' alone, and are not among these.
//!
//! The token comes by the header alone; its `rooms` bound all of this. All is read from the store and written
//! there: no replica is asked.

use crate::{
    arrival::unauthorized,
    auth::{Grant, Permission, TokenError, bearer},
    server::{Replica, Server},
    store::StoreError,
    trace,
};
use axum::{
    Json, Router,
    extract::{
        FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, request::Parts},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use rtc_signaling_proto::{MemberId, Refusal, RoomName, entry::Reason, ops::Post};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::sync::Arc;

/// Rooms of one page, unless it is told.
const PAGE: usize = 100;
const PAGE_AT_MOST: usize = 1000;

/// The routes.
pub(crate) fn router() -> Router<Replica> {
    Router::new()
        .route("/api/v1/rooms", get(list))
        .route("/api/v1/rooms/{room}", get(look).delete(close))
        .route("/api/v1/rooms/{room}/members/{member}", delete(kick))
        .route("/api/v1/rooms/{room}/messages", post(send))
        .layer(from_fn(traced))
}

async fn traced(request: Request, next: Next) -> Response {
    let connection = trace::connection(request.headers());
    let asked = connection.in_scope(|| trace::request("api", None, None));
    let answering = async {
        let response = next.run(request).await;
        trace::outcome(response.status().as_str());
        response
    };
    trace::told(asked, answering).await
}

/// Why not, as a stable word with a sentence.
#[derive(Debug)]
enum Refused {
    /// This server asks for no tokens, so nobody may do this.
    Off,
    Token(TokenError),
    Permission(Permission),
    /// The same whether there is such a room or not.
    Room,
    NoRoom,
    NoMember,
    Bad(String),
    Unavailable,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::Token(why) => return unauthorized(&why),
            Self::Off => (StatusCode::NOT_FOUND, "off", "the API needs --auth jwt".to_owned()),
            Self::Permission(what) => {
                let how = format!("the token's `api` has no {:?}", what.as_str());
                (StatusCode::FORBIDDEN, "forbidden", how)
            }
            Self::Room => {
                (StatusCode::FORBIDDEN, "forbidden", "the token's `rooms` do not name that room".into())
            }
            Self::NoRoom => {
                (StatusCode::NOT_FOUND, "no_such_room", "nobody is in a room of that name".into())
            }
            Self::NoMember => (StatusCode::NOT_FOUND, "no_such_member", "the room has no such member".into()),
            Self::Bad(how) => (StatusCode::BAD_REQUEST, "bad_request", how),
            Self::Unavailable => {
                let how = "the rooms cannot be reached now; try again in a few seconds";
                (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", how.into())
            }
        };
        (status, Json(json!({"error": {"code": code, "message": message}}))).into_response()
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(Refusal::NoSuchMember | Refusal::UnknownSession) => Self::NoMember,
            StoreError::Refused(_) => Self::Room,
            StoreError::Unavailable(_) => Self::Unavailable,
        }
    }
}

/// Somebody whose token is good.
struct Caller {
    server: Arc<Server>,
    grant: Arc<Grant>,
}

impl FromRequestParts<Replica> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, replica: &Replica) -> Result<Self, Refused> {
        let server = replica.get().map_err(|_| Refused::Unavailable)?;
        if !server.gate().is_guarded() {
            return Err(Refused::Off);
        }
        let token = bearer::of_header(&parts.headers);
        let pass = server.gate().admit_token(token).await.map_err(Refused::Token)?;
        let grant = pass.grant().ok_or(Refused::Off)?;
        Ok(Self { server, grant })
    }
}

impl Caller {
    fn may(&self, what: Permission, room: &str) -> Result<RoomName, Refused> {
        if !self.grant.permits(what) {
            return Err(Refused::Permission(what));
        }
        if !self.grant.admits(room) {
            return Err(Refused::Room);
        }
        self.server.hub().metrics().message("api", what.as_str());
        trace::kind(what.as_str());
        let room = room.parse().map_err(|_| Refused::NoRoom)?;
        trace::place(&room, None);
        Ok(room)
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: u32,
    limit: Option<usize>,
}

async fn list(caller: Caller, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Refused> {
    if !caller.grant.permits(Permission::ListRooms) {
        return Err(Refused::Permission(Permission::ListRooms));
    }
    caller.server.hub().metrics().message("api", Permission::ListRooms.as_str());
    trace::kind(Permission::ListRooms.as_str());
    let Query(Page { after, limit }) =
        page.map_err(|_| Refused::Bad("`after` is what `next` was, and `limit` a number".into()))?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_AT_MOST);
    let (mut rooms, mut next) = (Vec::new(), Some(after));
    while let Some(part) = next.filter(|_| rooms.len() < limit) {
        let (found, following) = caller.server.hub().store().rooms(part).await?;
        let own =
            found.into_iter().filter(|(room, _)| !room.is_scoped() && caller.grant.admits(room.as_str()));
        rooms.extend(own.map(|(room, members)| json!({"room": room, "members": members})));
        next = following;
    }
    Ok(Json(json!({"rooms": rooms, "next": next})).into_response())
}

async fn look(caller: Caller, Path(room): Path<String>) -> Result<Response, Refused> {
    let room = caller.may(Permission::ReadRoom, &room)?;
    let mut view = caller.server.hub().store().view(&room).await?.ok_or(Refused::NoRoom)?;
    view.members.sort_by_key(|member| member.since);
    let profiles = view.members.iter().map(|member| format!("{{{}}}", member.profile.as_str()));
    let members = profiles.map(RawValue::from_string).collect::<Result<Vec<_>, _>>();
    let members = members.map_err(|_| Refused::Unavailable)?;
    #[derive(serde::Serialize)]
    struct Room<'a> {
        room: &'a RoomName,
        epoch: u64,
        seq: u64,
        members: Vec<Box<RawValue>>,
    }
    Ok(Json(Room { room: &room, epoch: view.epoch, seq: view.seq, members }).into_response())
}

async fn close(caller: Caller, Path(room): Path<String>) -> Result<StatusCode, Refused> {
    let room = caller.may(Permission::CloseRoom, &room)?;
    match caller.server.hub().store().close(&room).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(StoreError::Refused(_)) => Err(Refused::NoRoom),
        Err(error) => Err(error.into()),
    }
}

async fn kick(caller: Caller, Path((room, member)): Path<(String, String)>) -> Result<StatusCode, Refused> {
    let room = caller.may(Permission::Kick, &room)?;
    let member: MemberId = member.parse().map_err(|_| Refused::NoMember)?;
    // 0: whichever connection it has
    caller.server.hub().store().leave(&room, &member, 0, Reason::Kicked).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    to: Option<String>,
    /// The same one again is not sent twice.
    id: Option<String>,
    data: Box<RawValue>,
}

async fn send(
    caller: Caller,
    Path(room): Path<String>,
    message: Result<Json<Message>, JsonRejection>,
) -> Result<Response, Refused> {
    let room = caller.may(Permission::Send, &room)?;
    let Json(Message { to, id, data }) = message.map_err(|e| Refused::Bad(e.body_text()))?;
    let id = id.map_or_else(crate::random::connection, |id| crate::random::hash(&id));
    let to = to.map(|to| to.parse()).transpose().map_err(|_| Refused::NoMember)?;
    let from = "server".parse().map_err(|_| Refused::Unavailable)?;
    let post = Post { from, to, id, data: data.get().to_owned() };
    let sent = caller.server.hub().store().post(&room, &post).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"seq": sent.seq()}))).into_response())
}
