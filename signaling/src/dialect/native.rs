//! Protocol v1: does what a frame asks of the rooms, and puts what comes of it into frames.

use crate::{
    auth::{
        TokenError,
        gate::{Gate, Pass},
    },
    hub::{Attachment, Continued, EnterError, Entered, Entering, Hub, SignalError, lower},
    ice::IceSource,
    outbox::{Out, Outbox},
    store::{Outcome, StoreError},
    trace,
};
use axum::extract::ws::Utf8Bytes;
use futures::future::BoxFuture;
use rtc_signaling_proto::{
    Command, Limits, MemberId, Refusal, RequestId, ResumeToken,
    client::Code,
    entry::Reason,
    ops::{Present, View},
    server::{Ice, Roster, ServerFrame},
};
use serde_json::value::{RawValue, to_raw_value};
use std::{borrow::Cow, sync::Arc};

/// One connection of this dialect, less its transport.
#[derive(Clone, Debug)]
pub struct Native {
    /// The rooms.
    pub hub: Arc<Hub>,
    /// Where `iceServers` come from.
    pub ice: Arc<dyn IceSource>,
    /// What one client may ask for.
    pub limits: Limits,
    /// Who is let in.
    pub(crate) gate: Arc<Gate>,
    /// What this connection may do.
    pub(crate) pass: Arc<Pass>,
}

/// What came of a command.
#[derive(Debug)]
pub struct Answer {
    /// To send, in order, before anything else of the room.
    pub replies: Vec<Utf8Bytes>,
    /// What became of the connection's place.
    pub place: Place,
}

/// What became of a connection's place in a room.
#[derive(Debug)]
pub enum Place {
    /// Nothing new.
    Same,
    /// It has one.
    Entered(Attachment),
    /// It has none any more.
    Left,
}

/// A session that goes on.
#[derive(Debug)]
pub(crate) struct Back {
    pub(crate) at: Attachment,
    /// To send, in order, before anything else of the room.
    pub(crate) replies: Vec<Utf8Bytes>,
    /// Whether all that was missed is among them.
    pub(crate) resumed: bool,
    /// Epoch and seq of the last entry that they tell of.
    pub(crate) position: (u64, u64),
}

impl Answer {
    fn reply(text: String) -> Self {
        Self { replies: vec![text.into()], place: Place::Same }
    }
}

impl Native {
    /// Does what a client asked for. To be driven to its end, also when the client is gone.
    #[must_use]
    pub fn execute(
        self: Arc<Self>,
        command: Command,
        at: Option<Attachment>,
        outbox: Arc<Outbox>,
    ) -> BoxFuture<'static, Answer> {
        let request = trace::request("native", Some(command.kind()), command.id());
        match (command, at) {
            // what is asked for most often takes the least room
            (Command::Signal { id, to, data }, Some(at)) => {
                trace::told(request, self.signal(id, to, data, at))
            }
            (command, at) => trace::told(request, self.carry_out(command, at, outbox)),
        }
    }

    async fn signal(
        self: Arc<Self>,
        id: Option<RequestId>,
        to: Option<MemberId>,
        data: String,
        at: Attachment,
    ) -> Answer {
        if !self.pass.may_publish() {
            let how = "this token permits no sending (`publish` is false)";
            return Answer::reply(refused(id.as_ref(), Code::Forbidden, how));
        }
        self.hub.metrics().signals.inc();
        let sent = self.hub.signal(&at, to, id.as_ref(), data).await;
        match (sent, id) {
            (Ok(seq), Some(id)) => Answer::reply(ServerFrame::Ack { id: &id, seq }.to_text()),
            (Ok(_), None) => Answer { replies: Vec::new(), place: Place::Same },
            (Err(error), id) => {
                let code = match &error {
                    SignalError::Refused(refusal) => refusal_code(*refusal),
                    SignalError::Degraded => Code::Degraded,
                };
                Answer::reply(refused(id.as_ref(), code, &error.to_string()))
            }
        }
    }

    async fn carry_out(
        self: Arc<Self>,
        command: Command,
        at: Option<Attachment>,
        outbox: Arc<Outbox>,
    ) -> Answer {
        let metrics = self.hub.metrics();
        match (command, at) {
            (Command::Join { id, room, name, meta, max }, _) => {
                metrics.message("native", "join");
                let grant = self.pass.grant();
                if !self.pass.admits(room.as_str()) {
                    return Answer::reply(store_error(id.as_ref(), &Refusal::Forbidden.into()));
                }
                self.gate.watch(&self.pass, &outbox);
                let (name, meta) = (name.as_deref(), meta.as_deref());
                let mut entering = Entering { name, meta, max, ..Entering::new(room) };
                if let Some(grant) = &grant {
                    entering.user = Some(&grant.subject);
                    entering.name = grant.name.as_deref().or(name);
                    entering.max = lower(max, grant.max);
                }
                let asked = entering.room.clone();
                match self.hub.enter(entering, outbox, |_| {}).await {
                    Ok(entered) => self.joined(id.as_ref(), entered),
                    Err(EnterError::Full { max }) => {
                        trace::outcome("full");
                        Answer::reply(ServerFrame::Full { id: id.as_ref(), room: &asked, max }.to_text())
                    }
                    Err(error @ EnterError::TooManyRooms { .. }) => {
                        let how = error.to_string();
                        Answer::reply(refused(id.as_ref(), Code::TooManyRooms, &how))
                    }
                    Err(EnterError::Store(error)) => Answer::reply(store_error(id.as_ref(), &error)),
                }
            }
            (Command::Resume { id, token, epoch, seq }, _) => {
                metrics.message("native", "resume");
                match self.resume(id.as_ref(), &token, epoch, seq, outbox).await {
                    Ok(Back { at, replies, .. }) => Answer { replies, place: Place::Entered(at) },
                    Err(error) => Answer::reply(store_error(id.as_ref(), &error)),
                }
            }
            (Command::Auth { id, token }, at) => {
                metrics.message("native", "auth");
                let room = at.as_ref().map(|at| at.room.as_str());
                Answer::reply(match self.gate.renew(&self.pass, &outbox, &token.0, room).await {
                    Ok(expires) => ServerFrame::Auth { id: id.as_ref(), expires }.to_text(),
                    Err(why) => refused(id.as_ref(), token_code(&why), &why.to_string()),
                })
            }
            (Command::Leave { id }, Some(at)) => {
                metrics.message("native", "leave");
                trace::place(&at.room, Some(&at.member));
                self.hub.leave(&at, Reason::Left).await;
                let ack = id.as_ref().map(|id| ServerFrame::Ack { id, seq: None }.to_text().into());
                Answer { replies: ack.into_iter().collect(), place: Place::Left }
            }
            (Command::Ice { id }, Some(at)) => {
                metrics.message("native", "ice");
                trace::place(&at.room, Some(&at.member));
                Answer::reply(self.fresh_ice(id.as_ref(), at.member.as_str()))
            }
            // The session lets none of these through without a place.
            (Command::Signal { id, .. }, _) | (Command::Leave { id } | Command::Ice { id }, None) => {
                Answer::reply(refused(id.as_ref(), Code::NotJoined, "send `join` or `resume` first"))
            }
        }
    }

    fn joined(&self, id: Option<&RequestId>, entered: Entered) -> Answer {
        let Entered { at, token, since, mut view } = entered;
        sort(&mut view.members);
        let own = at.member.as_str();
        let ice = self.ice(own).unwrap_or_else(|reason| {
            tracing::warn!(reason, "a member gets no iceServers");
            Ice { servers: empty(), expires: 0 }
        });
        let frame = ServerFrame::Joined {
            id,
            room: &at.room,
            session: own,
            resume: &token.to_text(),
            epoch: view.epoch,
            seq: view.seq,
            polite: view.members.len() > 1,
            members: Roster { members: &view.members, own, since, until: u64::MAX },
            ice_servers: Cow::Borrowed(&ice.servers),
            expires: ice.expires,
            limits: self.limits.into(),
            replica: self.hub.word(),
        };
        let reply = frame.to_text().into();
        Answer { replies: vec![reply], place: Place::Entered(at) }
    }

    /// A session goes on; its replies are to be sent before anything of `outbox`.
    pub(crate) async fn resume(
        &self,
        id: Option<&RequestId>,
        token: &ResumeToken,
        epoch: u64,
        seq: u64,
        outbox: Arc<Outbox>,
    ) -> Result<Back, StoreError> {
        let metrics = self.hub.metrics();
        if !self.pass.admits(token.room.as_str()) {
            return Err(Refusal::Forbidden.into());
        }
        self.gate.watch(&self.pass, &outbox);
        let grant = self.pass.grant();
        let user = grant.as_ref().map(|grant| grant.subject.as_str());
        let continued = self.hub.resume(token, user, (epoch, seq), outbox).await;
        let Continued { at, since, mut view, missed } = continued.inspect_err(|error| {
            metrics.resume(match error {
                StoreError::Refused(_) => "unknown_session",
                StoreError::Unavailable(_) => "unavailable",
            });
        })?;
        sort(&mut view.members);
        let (own, replica) = (at.member.as_str(), self.hub.word());
        let resumed = missed.is_some();
        let replies = match missed {
            Some(missed) => {
                metrics.resume("resumed");
                // Who came after `seq` is told by the entries that follow.
                let members = Roster { members: &view.members, own, since, until: seq };
                let first = ServerFrame::Resumed { id, session: own, epoch, seq, members, replica };
                let missed = missed.iter().map(|parcel| parcel.frame.clone());
                std::iter::once(first.to_text().into()).chain(missed).collect()
            }
            None => {
                metrics.resume("resync");
                vec![resync(id, own, since, &view, view.seq, replica)]
            }
        };
        Ok(Back { at, replies, resumed, position: (view.epoch, view.seq) })
    }

    /// From where a session writes that shows its token of the session, and here is let in by that of its
    /// subject.
    pub(crate) async fn writer(&self, token: &ResumeToken) -> Outcome<Attachment> {
        if !self.pass.admits(token.room.as_str()) {
            return Err(Refusal::Forbidden.into());
        }
        let grant = self.pass.grant();
        self.hub.writer(token, grant.as_ref().map(|grant| grant.subject.as_str())).await
    }

    fn fresh_ice(&self, id: Option<&RequestId>, member: &str) -> String {
        match self.ice(member) {
            Ok(Ice { servers, expires }) => {
                ServerFrame::Ice { id, ice_servers: Cow::Owned(servers), expires }.to_text()
            }
            Err(reason) => {
                tracing::warn!(reason, "a member gets no iceServers");
                let how = "no credentials can be made now; go on with those you have and ask again";
                refused(id, Code::IceUnavailable, how)
            }
        }
    }

    /// Credentials are those of the token's subject, wherever there is one: so quotas count all of its
    /// connections together.
    fn ice(&self, member: &str) -> Result<Ice, String> {
        let grant = self.pass.grant();
        let user = grant.as_ref().map_or(member, |grant| &grant.subject);
        let (servers, expires) = self.ice.ice_servers(user, rtc_service::clock::unix_now())?;
        let servers = to_raw_value(&servers).map_err(|e| e.to_string())?;
        Ok(Ice { servers, expires })
    }

    /// Puts what the rooms want to tell a client into a frame; `None` when this dialect has no word for it.
    #[must_use]
    pub fn frame(&self, out: &Out, at: Option<&Attachment>) -> Option<Utf8Bytes> {
        Some(match out {
            Out::Parcel(parcel) => parcel.frame.clone(),
            Out::Text(text) => text.clone(),
            Out::Resync { view, seq } => {
                let own = at?.member.as_str();
                let since = view.members.iter().find(|m| m.id.as_str() == own).map_or(0, |m| m.since);
                resync(None, own, since, view, *seq, self.hub.word())
            }
            Out::Degraded(since) => ServerFrame::Degraded { since: *since }.to_text().into(),
            Out::Expiring(expires) => ServerFrame::AuthExpiring { expires: *expires }.to_text().into(),
            Out::Recovered => ServerFrame::Recovered.to_text().into(),
            Out::Goaway(reconnect_in_ms) => {
                ServerFrame::Goaway { reconnect_in_ms: *reconnect_in_ms }.to_text().into()
            }
            Out::Close(..) => return None,
        })
    }
}

fn resync(id: Option<&RequestId>, own: &str, since: u64, view: &View, seq: u64, replica: &str) -> Utf8Bytes {
    let members = Roster { members: &view.members, own, since, until: u64::MAX };
    ServerFrame::Resync { id, session: own, epoch: view.epoch, seq, members, replica }.to_text().into()
}

fn refused(id: Option<&RequestId>, code: Code, how: &str) -> String {
    trace::outcome(code.as_str());
    ServerFrame::error(id, code, how)
}

fn token_code(error: &TokenError) -> Code {
    match error {
        TokenError::Unavailable => Code::StoreUnavailable,
        TokenError::OtherRoom => Code::Forbidden,
        _ => Code::Unauthorized,
    }
}

fn sort(members: &mut [Present]) {
    members.sort_by_key(|m| m.since);
}

fn empty() -> Box<RawValue> {
    RawValue::from_string("[]".into()).unwrap_or_default()
}

fn refusal_code(refusal: Refusal) -> Code {
    match refusal {
        Refusal::UnknownSession => Code::UnknownSession,
        Refusal::Superseded => Code::Superseded,
        Refusal::NoSuchMember => Code::NoSuchMember,
        Refusal::Forbidden => Code::Forbidden,
    }
}

pub(crate) fn store_error(id: Option<&RequestId>, error: &StoreError) -> String {
    match error {
        StoreError::Refused(refusal) => refused(id, refusal_code(*refusal), &refusal.to_string()),
        StoreError::Unavailable(reason) => {
            tracing::warn!(reason, "a client is told to try again");
            let how = "the rooms cannot be reached now; try again in a few seconds";
            refused(id, Code::StoreUnavailable, how)
        }
    }
}
