//! PeerJS: unmodified clients, found by their ids from any replica.
//!
//! Each id is a room of its own with one place, under its key: so an id is taken once in the whole cluster,
//! and what is sent to it goes to the replica where it is, and no other. The client's token is the proof
//! that resumes the place, on whichever replica it reconnects.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /{key}/id` | a UUID |
//! | `GET /{key}/peers` | 401: ids cannot be listed |
//! | WebSocket `/peerjs?key&id&token` | `OPEN`, or `ID-TAKEN` or `ERROR` and the end |
//!
//! | client | server |
//! | --- | --- |
//! | `OFFER` `ANSWER` `CANDIDATE` `LEAVE` with `dst` | the same with `src`, to `dst`; kept for 5 s when it is not there, then `EXPIRE` from it |
//! | `HEARTBEAT` | nothing |
//!
//! A client whose `path` is `/peerjs` rather than `/` finds all of it below `/peerjs/`.

mod message;
mod waiting;

use crate::{
    arrival::{Arrival, TurnedAway, sized},
    auth::gate::Pass,
    hub::{Attachment, EnterError, Entering, Hub, SignalError},
    outbox::{Out, Outbox},
    server::Replica,
    store::StoreError,
    trace,
    transport::text::{self, Talk},
};
use axum::{
    Router,
    extract::{
        Query,
        ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use message::Step;
use rtc_signaling_proto::{Kind, MemberId, ResumeToken, RoomName, entry::Reason};
use serde::Deserialize;
use std::sync::Arc;
use tokio::time::Instant;
use tracing::Instrument;
use waiting::{Letter, Waiting};

const DIALECT: &str = "peerjs";
/// Longer ones are no keys, ids or tokens of anybody.
const WORD_BYTES: usize = 256;

/// The routes of this dialect.
pub(crate) fn router() -> Router<Replica> {
    let mut router = Router::new().route("/peerjs", get(connect)).route("/peerjs/peerjs", get(connect));
    for path in ["/{key}", "/peerjs/{key}"] {
        router = router
            .route(&format!("{path}/id"), get(async || (OPEN_TO_ALL, crate::random::uuid().to_string())))
            .route(&format!("{path}/peers"), get(async || (StatusCode::UNAUTHORIZED, OPEN_TO_ALL)));
    }
    router
}

/// Pages of every origin may ask; an answer is good for one of them.
const OPEN_TO_ALL: [(header::HeaderName, &str); 2] =
    [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (header::CACHE_CONTROL, "no-store")];

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    key: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    token: String,
}

async fn connect(
    arrival: Result<Arrival, TurnedAway>,
    Query(asked): Query<Asked>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let arrival = match arrival {
        Ok(arrival) => arrival,
        Err(TurnedAway::Token(why)) => return refuse(upgrade, message::error(&why.to_string())),
        // a page sees nothing of an answer to a handshake
        Err(TurnedAway::TooMany(_)) => return refuse(upgrade, message::error(message::NO_PLACE)),
        Err(away) => return away.into_response(),
    };
    if [&asked.key, &asked.id, &asked.token].iter().any(|word| word.is_empty() || word.len() > WORD_BYTES) {
        return refuse(upgrade, message::error(message::NO_PARAMETERS));
    }
    if asked.key.chars().any(char::is_control) {
        return refuse(upgrade, message::error(message::BAD_KEY));
    }
    if !arrival.guest.may_join() {
        return refuse(upgrade, message::error(message::NO_PLACE));
    }
    if !arrival.pass.admits(&asked.id) {
        return refuse(
            upgrade,
            message::error("This token does not permit that id; get one whose `rooms` names it"),
        );
    }
    let span = arrival.span.clone();
    sized(upgrade).on_upgrade(async move |socket| serve(socket, asked, arrival).instrument(span).await)
}

/// Says why, and closes.
fn refuse(upgrade: WebSocketUpgrade, why: String) -> Response {
    sized(upgrade).on_upgrade(async move |socket| last_word(socket, &why).await)
}

async fn last_word(mut socket: WebSocket, word: &str) {
    // a client that does not listen has its loss
    let _ = socket.send(Message::text(word)).await;
    let _ = socket.send(Message::Close(None)).await;
}

async fn serve(mut socket: WebSocket, asked: Asked, arrival: Arrival) {
    let Arrival { server, guest, pass, .. } = arrival;
    let (hub, line) = (server.hub().clone(), server.line(DIALECT, &pass));
    // a connection does not keep its server alive
    drop(server);
    let counted = hub.metrics().connection(DIALECT);
    hub.metrics().message(DIALECT, "join");
    let Asked { key, id, token } = asked;
    let grant = pass.grant();
    let user = grant.as_ref().map(|grant| grant.subject.as_str());
    let room = room(&key, &id);
    let claiming = claim(&hub, &room, &token, user, &line.outbox);
    match trace::told(trace::request(DIALECT, Some("join"), None), claiming).await {
        Ok(at) => {
            // before anything that others sent
            if socket.send(Message::text(message::OPEN)).await.is_err() {
                return hub.leave(&at, Reason::Lost).await;
            }
            let peer = Peer {
                sender: crate::random::member(),
                waiting: Waiting::new(line.limits.queue_bytes, Instant::now()),
                outbox: line.outbox.clone(),
                numbers: 0,
                at: Some(at),
                pass,
                hub,
                key,
                id,
            };
            text::serve(socket, peer, line).await;
        }
        Err(Unclaimed::Taken) => last_word(socket, message::TAKEN).await,
        Err(Unclaimed::NoPlace) => last_word(socket, &message::error(message::NO_PLACE)).await,
        Err(Unclaimed::Unavailable) => {
            last_word(socket, &message::error("The rooms cannot be reached now; try again in a few seconds"))
                .await;
        }
    }
    drop((guest, counted));
}

fn room(key: &str, id: &str) -> RoomName {
    super::room("peerjs", &[key, id])
}

enum Unclaimed {
    Taken,
    NoPlace,
    Unavailable,
}

/// Takes the one place of a room, or takes it over from an older connection of the same token.
async fn claim(
    hub: &Hub,
    room: &RoomName,
    token: &str,
    user: Option<&str>,
    outbox: &Arc<Outbox>,
) -> Result<Attachment, Unclaimed> {
    let unavailable = |error: StoreError| {
        tracing::warn!(%error, "a client of PeerJS is told to try again");
        Unclaimed::Unavailable
    };
    // whoever has it may leave between the two questions; a second time it is taken
    for _ in 0..2 {
        let entering =
            Entering { user, secret: Some(token), max: 1, bound: 1, ..Entering::new(room.clone()) };
        match hub.enter(entering, outbox.clone(), |_| {}).await {
            Ok(entered) => return Ok(entered.at),
            Err(EnterError::Full { .. }) => {}
            Err(EnterError::TooManyRooms { .. }) => return Err(Unclaimed::NoPlace),
            Err(EnterError::Store(error)) => return Err(unavailable(error)),
        }
        let Some(view) = hub.store().view(room).await.map_err(unavailable)? else { continue };
        let Some(holder) = view.members.first() else { continue };
        let token = ResumeToken { member: holder.id.clone(), secret: token.to_owned(), room: room.clone() };
        // what the older connection was told is not told again: a client takes an offer that comes twice
        // for the end of the first
        match hub.resume(&token, user, (view.epoch, view.seq), outbox.clone()).await {
            Ok(continued) => return Ok(continued.at),
            Err(StoreError::Refused(_)) => {}
            Err(error) => return Err(unavailable(error)),
        }
    }
    Err(Unclaimed::Taken)
}

/// One client that has its id.
struct Peer {
    hub: Arc<Hub>,
    key: String,
    id: String,
    at: Option<Attachment>,
    pass: Arc<Pass>,
    /// As whom it posts: not its member, for it may write to itself.
    sender: MemberId,
    numbers: u64,
    waiting: Waiting,
    outbox: Arc<Outbox>,
}

impl Talk for Peer {
    async fn hear(&mut self, text: &str) {
        match message::read(text, &self.id) {
            Step::Pass { dst, text, keep } => {
                self.hub.metrics().message(DIALECT, "signal");
                trace::kind("signal");
                self.numbers += 1;
                let letter = Letter { number: self.numbers, text };
                if !self.waiting.has(&dst) && self.post(&dst, &letter).await || !keep {
                    return;
                }
                if !self.waiting.push(&dst, letter, Instant::now()) {
                    self.expire(&dst);
                }
            }
            Step::Leave => {
                self.hub.metrics().message(DIALECT, "leave");
                trace::kind("leave");
                self.leave().await;
                self.outbox.push(Out::Close(1000, "the id was given up"));
            }
            Step::Nothing => {}
        }
    }

    fn words(&mut self, out: &Out) -> Vec<Utf8Bytes> {
        match out {
            Out::Text(text) => vec![text.clone()],
            Out::Parcel(parcel) if parcel.kind == Kind::Signal => {
                parcel.data().map(|data| data.into()).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn is_in(&self) -> bool {
        self.at.is_some()
    }

    fn due(&self) -> Option<Instant> {
        self.waiting.due()
    }

    async fn wake(&mut self) {
        for dst in self.waiting.look(Instant::now()) {
            while let Some(letter) = self.waiting.first(&dst).cloned() {
                if !self.post(&dst, &letter).await {
                    break;
                }
                self.waiting.read(&dst);
            }
        }
        for dst in self.waiting.expire(Instant::now()) {
            self.expire(&dst);
        }
    }

    async fn leave(&mut self) {
        if let Some(at) = self.at.take() {
            self.hub.leave(&at, Reason::Lost).await;
        }
    }

    fn end(mut self) {
        // what it has sent is still read by those who come in time
        if self.waiting.due().is_some() {
            tokio::spawn(async move {
                while let Some(due) = self.waiting.due() {
                    tokio::time::sleep_until(due).await;
                    self.wake().await;
                }
            });
        }
    }
}

impl Peer {
    /// Sends to a peer; false when it is not there.
    async fn post(&self, dst: &str, letter: &Letter) -> bool {
        // who may not call somebody learns no more than that nobody answers
        if !self.pass.admits(dst) || !self.pass.may_publish() {
            return false;
        }
        let (room, id) = (room(&self.key, dst), format!("p{}", letter.number));
        match self.hub.post(&room, &self.sender, id, letter.text.clone()).await {
            Ok(()) => true,
            Err(SignalError::Refused(_) | SignalError::Degraded) => false,
        }
    }

    fn expire(&self, dst: &str) {
        self.outbox.push(Out::Text(message::expire(dst, &self.id).into()));
    }
}
