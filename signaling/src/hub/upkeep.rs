//! What a replica does by itself: renew leases, look for what was missed, take a lost room over, finish
//! what a store that could not be reached left undone.

use super::{
    Hub,
    hosted::{LAPSED, Next},
};
use crate::{parcel::Parcel, store::StoreError};
use rtc_signaling_proto::{MemberId, RoomName, entry::Reason, ops::*};
use std::{
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

/// How often those whose lease has run out are looked for.
const REAP: Duration = Duration::from_secs(1);
/// What this replica wrote itself comes by another way than what others wrote: an entry that is missing may
/// be here in a moment.
const ON_ITS_WAY: Duration = Duration::from_millis(4);
/// How long replicas get to say what they know of a lost room, before clients are told who is in it: longer than
/// the longest pause between two tries to connect, so that they need not come back at the same moment.
const SETTLE: Duration = Duration::from_millis(3500);

/// Something that the store must still be told.
#[derive(Debug)]
pub(super) struct Chore {
    room: RoomName,
    member: MemberId,
    conn: u64,
    leave: bool,
}

impl Chore {
    pub(super) fn leave(room: &RoomName, member: &MemberId, conn: u64) -> Self {
        Self { room: room.clone(), member: member.clone(), conn, leave: true }
    }

    pub(super) fn detach(room: &RoomName, member: &MemberId, conn: u64) -> Self {
        Self { room: room.clone(), member: member.clone(), conn, leave: false }
    }
}

pub(super) fn start(hub: &Arc<Hub>) {
    // four chances before a lease runs out
    let every = hub.room_limits.replica_lease / 4;
    let weak = Arc::downgrade(hub);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(crate::random::jitter(REAP)).await;
            let Some(hub) = weak.upgrade() else { return };
            if let Err(error) = hub.store.reap().await {
                tracing::debug!(%error, "cannot look for members that are gone");
            }
        }
    });
    tokio::spawn(keep(Arc::downgrade(hub), every));
}

async fn keep(weak: Weak<Hub>, every: Duration) {
    loop {
        let Some(hub) = weak.upgrade() else { return };
        let poked = async {
            let () = hub.poke.notified().await;
        };
        let _ = tokio::time::timeout(every, poked).await;
        hub.pulse().await;
        hub.do_chores().await;
        drop(hub);
        tokio::task::yield_now().await;
    }
}

impl Hub {
    /// Renews this replica's lease on every room, and compares where their logs stand.
    async fn pulse(&self) {
        let mut names = Vec::new();
        for rooms in &self.rooms {
            let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
            let live = rooms.iter().filter(|(_, hosted)| hosted.locals.iter().any(|l| l.is_live()));
            names.extend(live.map(|(name, _)| name.clone()));
        }
        for names in names.chunks(256) {
            match self.store.pulse(names).await {
                Ok(pulses) => {
                    for (name, pulse) in names.iter().zip(pulses) {
                        self.pulsed(name, pulse);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot renew leases");
                    return;
                }
            }
        }
    }

    fn pulsed(&self, room: &RoomName, pulse: Pulse) {
        let mut rooms = self.lock(room);
        let Some(hosted) = rooms.get_mut(room) else { return };
        let Some((epoch, seq)) = hosted.base else { return };
        if let Pulse::Kept { epoch: now, seq: head } = pulse
            && now == epoch
        {
            self.metrics.log_lag.observe(head.saturating_sub(seq) as f64);
        }
        let next = match pulse {
            Pulse::Kept { epoch: now, .. } if now != epoch => Next::Sync,
            Pulse::Kept { seq: now, .. } if now > seq => Next::Read { epoch, seq },
            // one that is behind was asked before the last entry came, or has gone back
            Pulse::Kept { seq: now, .. } if now < seq => Next::Read { epoch, seq },
            Pulse::Kept { .. } => Next::Nothing,
            Pulse::Gone => Next::Sync,
            Pulse::Lapsed { epoch: now } if now != epoch => Next::Sync,
            Pulse::Lapsed { .. } => {
                tracing::warn!(%room, "this replica was not heard of for too long; its members were removed");
                let before = hosted.locals.len();
                hosted.locals.retain(|local| {
                    if local.is_live() {
                        local.outbox.push(LAPSED);
                    }
                    !local.is_live()
                });
                self.ended(before - hosted.locals.len());
                if hosted.locals.is_empty() {
                    self.close(&mut rooms, room);
                }
                return;
            }
        };
        self.follow(room, hosted, next);
    }

    /// Fills a hole.
    pub(super) async fn read(&self, room: &RoomName, epoch: u64, seq: u64) {
        tokio::time::sleep(ON_ITS_WAY).await;
        let (epoch, seq) = {
            let mut rooms = self.lock(room);
            let Some(hosted) = rooms.get_mut(room) else { return };
            let missing = std::mem::take(&mut hosted.missing);
            match hosted.base {
                Some(base) if missing || base == (epoch, seq) => base,
                _ => {
                    hosted.reading = false;
                    let next = hosted.drain();
                    self.follow(room, hosted, next);
                    return;
                }
            }
        };
        let read = self.store.read(room, epoch, seq).await;
        let mut rooms = self.lock(room);
        let Some(hosted) = rooms.get_mut(room) else { return };
        hosted.reading = false;
        match read {
            Ok(Read::Entries(entries)) => {
                self.metrics.gaps.inc();
                for entry in entries {
                    self.accept(room, hosted, &Arc::new(Parcel::from(entry)));
                }
            }
            Ok(Read::Lost) => self.follow(room, hosted, Next::Sync),
            // the next pulse looks again
            Err(error) => tracing::debug!(%room, %error, "cannot read what was missed"),
        }
        if hosted.missing
            && let Some((epoch, seq)) = hosted.base
        {
            self.follow(room, hosted, Next::Read { epoch, seq });
        }
    }

    /// Takes a room afresh: tells the store who is here, if it does not know, and clients who is there.
    pub(super) async fn sync(&self, room: &RoomName) {
        if let Err(error) = self.try_sync(room).await {
            tracing::debug!(%room, %error, "cannot take the room afresh");
            // the next pulse finds it again
            if let Some(hosted) = self.lock(room).get_mut(room) {
                hosted.syncing = false;
            }
        }
    }

    async fn try_sync(&self, room: &RoomName) -> Result<(), StoreError> {
        loop {
            let assert = {
                let mut rooms = self.lock(room);
                let Some(hosted) = rooms.get_mut(room) else { return Ok(()) };
                let members = hosted.held();
                if members.is_empty() {
                    hosted.syncing = false;
                    return Ok(());
                }
                let (epoch, seq) = hosted.base.unwrap_or_default();
                Assert { holder: self.replica.clone(), epoch, seq, max: hosted.max, members }
            };
            let first = self.store.assert(room, &assert).await?;
            self.leave_those_gone(room, &assert.members);
            let anew = first.epoch != assert.epoch;
            if anew {
                tracing::warn!(%room, "the store lost this room; it goes on from what its replicas know");
                tokio::time::sleep(SETTLE).await;
            }
            let view = if anew { self.store.view(room).await? } else { Some(first.clone()) };
            let Some(view) = view.filter(|view| view.epoch == first.epoch) else { continue };
            self.metrics.resyncs.inc();
            let mut rooms = self.lock(room);
            if let Some(hosted) = rooms.get_mut(room) {
                let before = hosted.locals.len();
                let next = hosted.resync(&Arc::new(view), first.seq);
                self.ended(before - hosted.locals.len());
                self.follow(room, hosted, next);
            }
            return Ok(());
        }
    }

    /// Who left while it was asserted would otherwise stay for ever.
    fn leave_those_gone(&self, room: &RoomName, members: &[Held]) {
        let rooms = self.lock(room);
        let locals = rooms.get(room).map(|hosted| hosted.locals.as_slice()).unwrap_or_default();
        for held in members {
            if !locals.iter().any(|l| l.member == held.member) {
                self.later(Chore::detach(room, &held.member, held.conn));
            }
        }
    }

    pub(super) fn later(&self, chore: Chore) {
        self.chores.lock().unwrap_or_else(PoisonError::into_inner).push(chore);
    }

    async fn do_chores(&self) {
        let chores = std::mem::take(&mut *self.chores.lock().unwrap_or_else(PoisonError::into_inner));
        for chore in chores {
            let Chore { room, member, conn, leave } = &chore;
            // it may have come back to this replica meanwhile
            let back = |rooms: &super::Rooms| {
                rooms.get(room).is_some_and(|hosted| hosted.locals.iter().any(|l| l.member == *member))
            };
            let is_back = back(&self.lock(room));
            let done = match (leave, is_back) {
                (_, true) => Ok(()),
                (true, _) => self.store.leave(room, member, *conn, Reason::Lost).await.map(drop),
                (false, _) => self.store.detach(room, member, *conn).await,
            };
            if let Err(StoreError::Unavailable(_)) = done {
                self.later(chore);
            }
        }
    }
}
