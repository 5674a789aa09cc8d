//! matchbox: peers of one room, or strangers in groups.
//!
//! | client | server |
//! | --- | --- |
//! | connects to `/matchbox/{room}` | `{"IdAssigned":uuid}`; `{"NewPeer":uuid}` to those who are there |
//! | `{"Signal":{receiver,data}}` | `{"Signal":{sender,data}}` to the receiver, if it is in the same room |
//! | goes | `{"PeerLeft":uuid}` to the others |
//! | `"KeepAlive"` | nothing |
//!
//! With `?next=N` peers come into groups of N as they arrive. As on matchbox's own server, the members of a
//! complete group are not told who leaves: they have each other.

mod matching;

use crate::{
    arrival::{Arrival, sized},
    auth::gate::Pass,
    guests::TOO_FAST,
    hub::{Attachment, EnterError, Entered, Entering, Hub},
    outbox::{Out, Outbox},
    server::Replica,
    trace,
    transport::text::{self, Talk},
};
use axum::{
    Router,
    extract::{
        Path, Query,
        ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use matching::{Group, Lobby, Look};
use rtc_signaling_proto::{Kind, MemberId, RoomName, entry::Reason, ops::View};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::{collections::HashSet, num::NonZeroU32, sync::Arc};
use tokio::time::Instant;
use tracing::Instrument;

const DIALECT: &str = "matchbox";
/// Try again later (RFC 6455's registry).
const LATER: u16 = 1013;
const CROWDED: &str = "this server has as many rooms as it may; try again later";
const UNREACHABLE: &str = "the rooms cannot be reached now; try again in a few seconds";

/// The routes of this dialect.
pub(crate) fn router() -> Router<Replica> {
    Router::new().route("/matchbox/{room}", get(connect))
}

#[derive(Deserialize)]
struct Asked {
    next: Option<NonZeroU32>,
}

async fn connect(
    arrival: Arrival,
    Path(room): Path<String>,
    Query(Asked { next }): Query<Asked>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !arrival.pass.admits(&room) {
        let how = "this token does not let into that room; get one whose `rooms` names it\n";
        return (StatusCode::FORBIDDEN, how).into_response();
    }
    let span = arrival.span.clone();
    sized(upgrade).on_upgrade(async move |socket| serve(socket, room, next, arrival).instrument(span).await)
}

async fn serve(mut socket: WebSocket, room: String, next: Option<NonZeroU32>, arrival: Arrival) {
    let Arrival { server, guest, pass, .. } = arrival;
    let (hub, line) = (server.hub().clone(), server.line(DIALECT, &pass));
    // a connection does not keep its server alive
    drop(server);
    let counted = hub.metrics().connection(DIALECT);
    let outbox = line.outbox.clone();
    let mut client = Client {
        id: crate::random::uuid_member(),
        at: None,
        peers: HashSet::new(),
        group: None,
        outbox,
        pass,
        hub,
    };
    if guest.may_join() {
        client.hub.metrics().message(DIALECT, "join");
        let entering = async {
            match next {
                None => client.enter(super::room(DIALECT, &[&room])).await,
                Some(size) => client.enter_group(Lobby { name: room, size: size.get() }).await,
            }
        };
        trace::told(trace::request(DIALECT, Some("join"), None), entering).await;
    } else {
        client.close(TOO_FAST);
    }
    // before anything that others do: who has its id is there
    if client.at.is_some() {
        let assigned = json!({"IdAssigned": client.id}).to_string();
        if socket.send(Message::Text(assigned.into())).await.is_err() {
            return client.leave().await;
        }
    }
    text::serve(socket, client, line).await;
    drop((guest, counted));
}

/// One peer.
struct Client {
    hub: Arc<Hub>,
    outbox: Arc<Outbox>,
    pass: Arc<Pass>,
    id: MemberId,
    at: Option<Attachment>,
    /// The others, as the client knows them.
    peers: HashSet<MemberId>,
    group: Option<Group>,
}

impl Client {
    fn say(&self, event: &serde_json::Value) {
        self.outbox.push(Out::Text(event.to_string().into()));
    }

    fn close(&self, reason: &'static str) {
        self.outbox.push(Out::Close(LATER, reason));
    }

    fn entered(&mut self, entered: Entered) {
        self.peers = others(&entered.view, &self.id).collect();
        self.at = Some(entered.at);
        if let Some(group) = &mut self.group {
            group.joined(&self.peers);
        }
    }

    async fn enter(&mut self, room: RoomName) {
        let grant = self.pass.grant();
        let user = grant.as_ref().map(|grant| grant.subject.as_str());
        let entering = Entering { member: Some(self.id.clone()), user, ..Entering::new(room) };
        match self.hub.enter(entering, self.outbox.clone(), |_| {}).await {
            Ok(entered) => self.entered(entered),
            Err(EnterError::Full { .. }) => self.close("this room has as many peers as it may"),
            Err(EnterError::TooManyRooms { .. }) => self.close(CROWDED),
            Err(EnterError::Store(error)) => {
                tracing::warn!(%error, "a client of matchbox is told to try again");
                self.close(UNREACHABLE);
            }
        }
    }

    async fn enter_group(&mut self, lobby: Lobby) {
        match lobby.find(&self.hub, &self.id, &self.outbox).await {
            Ok((group, entered)) => {
                self.group = Some(group);
                self.entered(entered);
            }
            Err(error) => {
                tracing::warn!(%error, "a client of matchbox is told to try again");
                self.close(UNREACHABLE);
            }
        }
    }

    /// Leaves a group that no stranger finds for the one that they do find.
    async fn change_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        if let Some(at) = self.at.take() {
            self.hub.leave(&at, Reason::Left).await;
        }
        self.outbox.clear_parcels();
        for peer in std::mem::take(&mut self.peers) {
            self.say(&json!({"PeerLeft": peer}));
        }
        self.enter_group(group.into_lobby()).await;
    }

    /// The frames that make of the peers that the client knows those who are there.
    fn catch_up(&mut self, view: &View) -> Vec<Utf8Bytes> {
        let now: HashSet<MemberId> = others(view, &self.id).collect();
        let left = self.peers.difference(&now).map(|peer| json!({"PeerLeft": peer}));
        let came = now.difference(&self.peers).map(|peer| json!({"NewPeer": peer}));
        let frames = left.chain(came).map(|event| event.to_string().into()).collect();
        self.peers = now;
        frames
    }
}

fn others(view: &View, own: &MemberId) -> impl Iterator<Item = MemberId> {
    view.members.iter().map(|m| m.id.clone()).filter(move |id| id != own)
}

impl Talk for Client {
    async fn hear(&mut self, text: &str) {
        #[derive(Deserialize)]
        enum Request<'a> {
            Signal {
                receiver: String,
                #[serde(borrow)]
                data: &'a RawValue,
            },
            KeepAlive,
        }
        let Ok(Request::Signal { receiver, data }) = serde_json::from_str::<Request<'_>>(text) else {
            return;
        };
        let (Some(at), Ok(receiver)) = (&self.at, receiver.parse()) else { return };
        if !self.pass.may_publish() {
            return;
        }
        self.hub.metrics().message(DIALECT, "signal");
        trace::kind("signal");
        if let Err(error) = self.hub.signal(at, Some(receiver), None, data.get().to_owned()).await {
            // one that has just left; its peers are told so
            tracing::debug!(%error, "a signal of matchbox was not passed on");
        }
    }

    fn words(&mut self, out: &Out) -> Vec<Utf8Bytes> {
        let parcel = match out {
            Out::Text(text) => return vec![text.clone()],
            Out::Resync { view, .. } => return self.catch_up(view),
            Out::Parcel(parcel) => parcel,
            _ => return Vec::new(),
        };
        let from = &parcel.from;
        let event = match parcel.kind {
            Kind::Signal => {
                parcel.data().map(|data| format!(r#"{{"Signal":{{"sender":"{from}","data":{data}}}}}"#))
            }
            Kind::Joined => {
                self.peers.insert(from.clone());
                if let Some(group) = &mut self.group {
                    group.joined(&self.peers);
                }
                Some(json!({"NewPeer": from}).to_string())
            }
            Kind::Left => {
                self.peers.remove(from);
                match &mut self.group {
                    Some(group) if group.is_complete() => None,
                    group => {
                        group.iter_mut().for_each(|group| group.left());
                        Some(json!({"PeerLeft": from}).to_string())
                    }
                }
            }
            Kind::Attached => None,
        };
        event.map(Utf8Bytes::from).into_iter().collect()
    }

    fn is_in(&self) -> bool {
        self.at.is_some()
    }

    fn due(&self) -> Option<Instant> {
        self.group.as_ref().and_then(Group::due)
    }

    async fn wake(&mut self) {
        let Some(group) = &mut self.group else { return };
        match group.look(&self.hub, &self.id, &self.peers).await {
            Ok(Look::Fine) => {}
            Ok(Look::Stranded) => self.change_group().await,
            // it looks again
            Err(error) => tracing::debug!(%error, "a group cannot look for its lobby"),
        }
    }

    async fn leave(&mut self) {
        // the lobby first: who is left in the group then looks for it
        if let Some(mut group) = self.group.take() {
            group.unlead(&self.hub).await;
        }
        if let Some(at) = self.at.take() {
            self.hub.leave(&at, Reason::Lost).await;
        }
    }
}
