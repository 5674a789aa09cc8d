//! Entering a room, and going on in it.

use super::hosted::{Hosted, Local};
use super::{Attachment, Continued, EnterError, Entered, Entering, Hub, PATIENCE, upkeep::Chore};
use crate::{
    outbox::{Out, Outbox},
    parcel::Parcel,
    store::{Outcome, StoreError},
    trace,
};
use rtc_signaling_proto::{Kind, MemberId, ResumeToken, RoomName, entry::Profile, ops::*};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

impl Hub {
    /// A new session enters a room; from then on the entries of its log come to `outbox`.
    ///
    /// `answer` is called before the first of them. The future must be driven to its end: a client that goes
    /// away meanwhile is then detached.
    ///
    /// # Errors
    /// [`EnterError`].
    pub async fn enter(
        &self,
        entering: Entering<'_>,
        outbox: Arc<Outbox>,
        answer: impl FnOnce(&Entered),
    ) -> Result<Entered, EnterError> {
        let Entering { room, member, name, meta, user, secret, max, bound } = entering;
        let member = member.unwrap_or_else(crate::random::member);
        let secret = secret.map_or_else(crate::random::secret, str::to_owned);
        let profile = Profile::new(&member, name, meta);
        let profile = user.map_or(profile.clone(), |user| profile.of_user(user));
        trace::place(&room, Some(&member));
        self.has_place_for(&room)?;
        let join = Join {
            member: member.clone(),
            secret: crate::random::hash_for(&secret, user),
            holder: self.replica.clone(),
            profile: profile.clone(),
            max: lower(max, self.bounds.members),
            bound,
        };
        let key = self.add(&room, &join.member, &join.secret, profile, outbox, join.max);
        let joined = match self.host(&room).await {
            Ok(()) => self.patiently(|| self.store.join(&room, &join)).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(Joined::Entered(view)) => {
                let since = view.members.iter().find(|m| m.id == member).map_or(view.seq, |m| m.since);
                let token = ResumeToken { member: member.clone(), secret, room: room.clone() };
                let at = Attachment { room, member, conn: 1, key };
                let entered = Entered { at, token, since, view };
                answer(&entered);
                self.activate(&entered.at.room, key, 1, since, entered.view.seq, &entered.view);
                Ok(entered)
            }
            Ok(Joined::Full { max }) => {
                self.remove(&room, key);
                Err(EnterError::Full { max })
            }
            Err(error) => {
                self.remove(&room, key);
                // it may have worked all the same
                self.later(Chore::leave(&room, &member, 1));
                Err(error.into())
            }
        }
    }

    /// A session goes on at `outbox`, after entry `seq` of `epoch`, if it began with the same `user`. To be
    /// driven to its end, as [`Self::enter`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resume(
        &self,
        token: &ResumeToken,
        user: Option<&str>,
        (epoch, seq): (u64, u64),
        outbox: Arc<Outbox>,
    ) -> Outcome<Continued> {
        let (room, member) = (token.room.clone(), token.member.clone());
        trace::place(&room, Some(&member));
        let resume = Resume {
            member: member.clone(),
            secret: crate::random::hash_for(&token.secret, user),
            holder: self.replica.clone(),
            epoch,
            seq,
        };
        // the profile is known only once the store has answered
        let unknown = Profile::new(&member, None, None);
        let deaf = outbox.is_deaf();
        let key = self.add(&room, &member, &resume.secret, unknown, outbox, self.bounds.members);
        let resumed = match self.host(&room).await {
            Ok(()) => self.patiently(|| self.store.resume(&room, &resume)).await,
            Err(error) => Err(error),
        };
        match resumed {
            Ok(Resumed { conn, since, view, missed }) => {
                if let Some(own) = view.members.iter().find(|m| m.id == member) {
                    self.set_profile(&room, key, own.profile.clone());
                }
                self.activate(&room, key, conn, since, view.seq, &view);
                let told = |entry: rtc_signaling_proto::Entry| {
                    let parcel = Parcel::from(entry);
                    let told = parcel.is_for(&member) && !(deaf && parcel.kind == Kind::Signal);
                    told.then(|| Arc::new(parcel))
                };
                let missed = missed.map(|entries| entries.into_iter().filter_map(told).collect());
                Ok(Continued { at: Attachment { room, member, conn, key }, since, view, missed })
            }
            Err(error) => {
                self.remove(&room, key);
                if matches!(error, StoreError::Unavailable(_)) {
                    self.later(Chore::detach(&room, &member, 0));
                }
                Err(error)
            }
        }
    }

    /// Two that come at once may both be let in: it bounds what a replica holds, not what a room does.
    fn has_place_for(&self, room: &RoomName) -> Result<(), EnterError> {
        let max = self.bounds.rooms;
        if max == 0 || self.rooms() < max as usize || self.lock(room).contains_key(room) {
            return Ok(());
        }
        self.metrics.refused("rooms");
        Err(EnterError::TooManyRooms { max })
    }

    fn add(
        &self,
        room: &RoomName,
        member: &MemberId,
        secret: &str,
        profile: Profile,
        outbox: Arc<Outbox>,
        max: u32,
    ) -> u64 {
        let key = self.number();
        let mut rooms = self.lock(room);
        let hosted = rooms.entry(room.clone()).or_insert_with(|| {
            self.hosted.fetch_add(1, Ordering::Relaxed);
            Box::new(Hosted::new(max))
        });
        if hosted.locals.len() < 4 {
            // most rooms stay small
            hosted.locals.reserve_exact(1);
        }
        hosted.locals.push(Local::entering(key, member.clone(), secret.to_owned(), profile, outbox));
        self.sessions.fetch_add(1, Ordering::Relaxed);
        key
    }

    /// Returns once the entries of a room are known to arrive.
    async fn host(&self, room: &RoomName) -> Outcome<()> {
        let hosting = {
            let rooms = self.lock(room);
            if rooms.get(room).is_some_and(|hosted| hosted.confirmed) {
                return Ok(());
            }
            // asked for with the lock held, so that it keeps its order with `unhost`
            self.store.host(room)
        };
        let waited = tokio::time::timeout(PATIENCE, hosting).await;
        waited.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())))?;
        if let Some(hosted) = self.lock(room).get_mut(room) {
            hosted.confirmed = true;
        }
        Ok(())
    }

    fn set_profile(&self, room: &RoomName, key: u64, profile: Profile) {
        if let Some(hosted) = self.lock(room).get_mut(room)
            && let Some(local) = hosted.locals.iter_mut().find(|l| l.key == key)
        {
            local.profile = profile;
        }
    }

    fn activate(&self, room: &RoomName, key: u64, conn: u64, since: u64, cursor: u64, view: &View) {
        let mut rooms = self.lock(room);
        if let Some(hosted) = rooms.get_mut(room) {
            let before = hosted.locals.len();
            let next = hosted.activate(key, conn, since, cursor, view);
            self.ended(before - hosted.locals.len());
            if let Some(local) = hosted.locals.iter().find(|l| l.key == key)
                && let leaving @ 1.. = self.leaving.load(Ordering::Relaxed)
            {
                local.outbox.push(Out::Goaway(crate::random::up_to(leaving)));
            }
            self.follow(room, hosted, next);
        }
    }

    /// Does something again while the store cannot be reached, for a while.
    async fn patiently<T, F: Future<Output = Outcome<T>>>(&self, act: impl Fn() -> F) -> Outcome<T> {
        let end = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(50);
        loop {
            match act().await {
                Err(StoreError::Unavailable(reason)) => {
                    if Instant::now() + pause >= end {
                        return Err(StoreError::Unavailable(reason));
                    }
                    tokio::time::sleep(crate::random::jitter(pause)).await;
                    pause = (pause * 2).min(Duration::from_millis(800));
                }
                done => return done,
            }
        }
    }
}

/// The lower of two limits, of which 0 is none.
pub(crate) fn lower(a: u32, b: u32) -> u32 {
    match (a, b) {
        (0, limit) | (limit, 0) => limit,
        (a, b) => a.min(b),
    }
}
