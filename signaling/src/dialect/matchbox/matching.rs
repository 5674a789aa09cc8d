//! Strangers in groups of N, wherever each of them is connected.
//!
//! A lobby is a room with one place. Who has it waits in a group's room and says which one; who finds the
//! place taken goes to that group. When the group is complete the place is given up, so that the next
//! stranger begins the next group, and nobody ever looks for a complete one again.

use crate::{
    hub::{Attachment, EnterError, Entered, Entering, Hub},
    outbox::Outbox,
    store::StoreError,
};
use rtc_signaling_proto::{
    MemberId, RoomName,
    entry::Reason,
    ops::{Present, View},
};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often a group that waits looks whether it can be found.
const LOOK: Duration = Duration::from_secs(5);
/// How often one looks that waits for a place in the lobby to be free.
const SOON: Duration = Duration::from_millis(500);
/// Between two attempts to find a group.
const AGAIN: Duration = Duration::from_millis(30);
/// Longer than the lease of a replica that died in the lobby.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a stranger has no group.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unmatched {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no group could be found or begun in time")]
    TooLate,
}

/// Where groups of one name and size are found.
#[derive(Clone, Debug)]
pub(super) struct Lobby {
    pub(super) name: String,
    pub(super) size: u32,
}

/// A group, as one of its members sees it.
#[derive(Debug)]
pub(super) struct Group {
    lobby: Lobby,
    name: String,
    /// The place in the lobby, if this member has it.
    lead: Option<Attachment>,
    complete: bool,
    look_at: Instant,
}

/// What became of a group when it looked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Fine,
    /// Strangers find another one: join it.
    Stranded,
}

impl Lobby {
    fn room(&self) -> RoomName {
        crate::dialect::room("matchbox", &[&self.name, &self.size.to_string(), "lobby"])
    }

    fn group(&self, group: &str) -> RoomName {
        crate::dialect::room("matchbox", &[&self.name, &self.size.to_string(), "group", group])
    }

    /// Finds a group that is not complete, or begins one.
    pub(super) async fn find(
        &self,
        hub: &Hub,
        member: &MemberId,
        outbox: &Arc<Outbox>,
    ) -> Result<(Group, Entered), Unmatched> {
        let end = Instant::now() + PATIENCE;
        let mut pause = AGAIN;
        while Instant::now() < end {
            let found = match self.holder(hub).await? {
                Some((holder, name)) => self.follow(hub, &holder, name, member, outbox).await?,
                None => self.begin(hub, member, outbox).await?,
            };
            if let Some(found) = found {
                return Ok(found);
            }
            tokio::time::sleep(crate::random::jitter(pause)).await;
            pause = (pause * 2).min(SOON);
        }
        Err(Unmatched::TooLate)
    }

    /// Enters the group of whoever has the place; `None` when that one is gone, or the group complete.
    async fn follow(
        &self,
        hub: &Hub,
        holder: &MemberId,
        name: String,
        member: &MemberId,
        outbox: &Arc<Outbox>,
    ) -> Result<Option<(Group, Entered)>, StoreError> {
        let leads = |view: &View| view.members.iter().any(|m| m.id == *holder);
        // looked at first, so that those inside see nobody come and go
        if !hub.store().view(&self.group(&name)).await?.is_some_and(|view| leads(&view)) {
            return Ok(None);
        }
        let group = Group::new(self.clone(), name);
        let Some(entered) = group.enter(hub, member, outbox).await? else { return Ok(None) };
        if leads(&entered.view) {
            return Ok(Some((group, entered)));
        }
        give_back(hub, &entered, outbox).await;
        Ok(None)
    }

    /// Enters a group of its own and takes the place; `None` when another was faster.
    async fn begin(
        &self,
        hub: &Hub,
        member: &MemberId,
        outbox: &Arc<Outbox>,
    ) -> Result<Option<(Group, Entered)>, StoreError> {
        let mut group = Group::new(self.clone(), crate::random::connection());
        let Some(entered) = group.enter(hub, member, outbox).await? else { return Ok(None) };
        if group.lead(hub, member).await? {
            return Ok(Some((group, entered)));
        }
        give_back(hub, &entered, outbox).await;
        Ok(None)
    }

    /// Who has the place, and of which group it is.
    async fn holder(&self, hub: &Hub) -> Result<Option<(MemberId, String)>, StoreError> {
        let view: Option<View> = hub.store().view(&self.room()).await?;
        let holder = view.and_then(|view| view.members.into_iter().next());
        Ok(holder.and_then(|holder| Some((holder.id.clone(), group_of(&holder)?))))
    }
}

/// The group that a member of a lobby waits in.
fn group_of(holder: &Present) -> Option<String> {
    #[derive(Deserialize)]
    struct Member {
        meta: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        group: String,
    }
    let text = format!("{{{}}}", holder.profile.as_str());
    serde_json::from_str::<Member>(&text).ok().map(|member| member.meta.group)
}

impl Group {
    fn new(lobby: Lobby, name: String) -> Self {
        Self { lobby, name, lead: None, complete: false, look_at: Instant::now() + LOOK }
    }

    /// Enters its room; `None` when it is complete.
    async fn enter(
        &self,
        hub: &Hub,
        member: &MemberId,
        outbox: &Arc<Outbox>,
    ) -> Result<Option<Entered>, StoreError> {
        let (room, size) = (self.lobby.group(&self.name), self.lobby.size);
        let entering =
            Entering { member: Some(member.clone()), max: size, bound: size, ..Entering::new(room) };
        entered(hub.enter(entering, outbox.clone(), |_| {}).await)
    }

    /// Takes the place in the lobby; false when somebody else has it.
    async fn lead(&mut self, hub: &Hub, member: &MemberId) -> Result<bool, StoreError> {
        let meta = to_raw_value(&json!({"group": self.name})).ok();
        let entering = Entering {
            member: Some(member.clone()),
            meta: meta.as_deref(),
            max: 1,
            bound: 1,
            ..Entering::new(self.lobby.room())
        };
        // what the lobby says is of no use to clients
        let entered = entered(hub.enter(entering, Outbox::new(1 << 10), |_| {}).await)?;
        self.lead = entered.map(|entered| entered.at);
        Ok(self.lead.is_some())
    }

    /// Gives the place in the lobby up.
    pub(super) async fn unlead(&mut self, hub: &Hub) {
        if let Some(at) = self.lead.take() {
            hub.leave(&at, Reason::Left).await;
        }
    }

    /// Where it was found.
    pub(super) fn into_lobby(self) -> Lobby {
        self.lobby
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Somebody has come: with these others.
    pub(super) fn joined(&mut self, others: &HashSet<MemberId>) {
        if others.len() + 1 >= self.lobby.size as usize {
            self.complete = true;
            self.look_at = Instant::now();
        }
    }

    /// Somebody has left: it may have been the one whom strangers find.
    pub(super) fn left(&mut self) {
        self.look_at = Instant::now();
    }

    /// When to look.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.complete || self.lead.is_some()).then_some(self.look_at)
    }

    /// Sees to it that strangers find this group until it is complete, and not any more then.
    pub(super) async fn look(
        &mut self,
        hub: &Hub,
        member: &MemberId,
        others: &HashSet<MemberId>,
    ) -> Result<Look, StoreError> {
        self.look_at = Instant::now() + LOOK;
        if self.complete {
            self.unlead(hub).await;
            return Ok(Look::Fine);
        }
        match self.lobby.holder(hub).await? {
            Some((_, group)) if group != self.name => {
                self.lead = None;
                return Ok(Look::Stranded);
            }
            Some((holder, _)) if holder == *member || others.contains(&holder) => {}
            // one that is gone, and will soon be gone from the lobby too
            Some(_) => self.look_at = Instant::now() + crate::random::jitter(SOON),
            None => {
                if !self.lead(hub, member).await? {
                    self.look_at = Instant::now();
                }
            }
        }
        Ok(Look::Fine)
    }
}

async fn give_back(hub: &Hub, entered: &Entered, outbox: &Outbox) {
    hub.leave(&entered.at, Reason::Left).await;
    outbox.clear_parcels();
}

fn entered(result: Result<Entered, EnterError>) -> Result<Option<Entered>, StoreError> {
    match result {
        Ok(entered) => Ok(Some(entered)),
        Err(EnterError::Full { .. }) => Ok(None),
        Err(EnterError::Store(error)) => Err(error),
        Err(error @ EnterError::TooManyRooms { .. }) => Err(StoreError::Unavailable(error.to_string())),
    }
}
