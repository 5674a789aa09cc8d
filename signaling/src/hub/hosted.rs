//! One room as one replica hosts it: its local sessions, and how far they have been told the log.
//!
//! Entries come in any order, twice, or not at all; they go out in order and once. No IO: what has to be
//! read is returned.

use crate::{
    outbox::{Out, Outbox},
    parcel::Parcel,
};
use rtc_signaling_proto::{
    Entry, Kind, MemberId, close,
    entry::{Profile, Reason},
    ops::{Held, View},
};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

/// Entries that may wait behind a hole; with more, the room is read afresh.
const EARLY: usize = 4096;
/// Signals that were delivered without the log and may still turn up in it.
const UNNUMBERED: usize = 1024;

/// A session whose connection is on this replica.
#[derive(Debug)]
pub(crate) struct Local {
    /// Tells apart two connections of one session.
    pub(crate) key: u64,
    pub(crate) member: MemberId,
    pub(crate) conn: u64,
    pub(crate) since: u64,
    pub(crate) secret: String,
    pub(crate) profile: Profile,
    pub(crate) outbox: Arc<Outbox>,
    /// Entries up to this one are known to the client.
    cursor: u64,
    /// Entries up to this one that say who joined are known from a roster.
    roster: u64,
    /// While it enters: what came meanwhile.
    waiting: Option<Vec<Arc<Parcel>>>,
}

impl Local {
    pub(crate) fn entering(
        key: u64,
        member: MemberId,
        secret: String,
        profile: Profile,
        outbox: Arc<Outbox>,
    ) -> Self {
        let waiting = Some(Vec::new());
        Self { key, member, conn: 0, since: 0, secret, profile, outbox, cursor: 0, roster: 0, waiting }
    }

    /// Entries up to this one are in its outbox, or were, or are not for it.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(crate) fn is_live(&self) -> bool {
        self.waiting.is_none()
    }

    /// Passes an entry on; false when it ends this session's stay here.
    fn take(&mut self, parcel: &Arc<Parcel>) -> bool {
        if let Some(waiting) = &mut self.waiting {
            waiting.push(parcel.clone());
            return true;
        }
        if parcel.seq <= self.cursor {
            return true;
        }
        self.cursor = parcel.seq;
        let own = parcel.from == self.member;
        match parcel.kind {
            Kind::Attached if own && parcel.conn > self.conn => {
                let why = "another connection resumed this session";
                self.outbox.push(Out::Close(close::SUPERSEDED, why));
                false
            }
            Kind::Left if own => {
                self.outbox.push(if parcel.id == Reason::Kicked.as_str() { KICKED } else { LAPSED });
                false
            }
            Kind::Joined if parcel.seq <= self.roster => true,
            _ => {
                if parcel.is_for(&self.member) {
                    self.outbox.push(Out::Parcel(parcel.clone()));
                }
                true
            }
        }
    }
}

/// What a client is told whose member was removed because its replica was not heard of.
pub(crate) const LAPSED: Out = Out::Close(close::RESTART, "this server lost its hold on the session; resume");

/// What a client is told whom somebody removed.
const KICKED: Out = Out::Close(close::KICKED, "you were removed from the room");

/// What has to be done after an entry was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// Entries after this place are missing: read them.
    Read {
        epoch: u64,
        seq: u64,
    },
    /// The log is another one, or too far ahead: take the room afresh.
    Sync,
}

#[derive(Debug, Default)]
pub(crate) struct Hosted {
    /// Whether entries are known to arrive.
    pub(crate) confirmed: bool,
    /// The most members, as its first local member had it.
    pub(crate) max: u32,
    pub(crate) reading: bool,
    /// The log has entries that will not come by themselves.
    pub(crate) missing: bool,
    pub(crate) syncing: bool,
    pub(crate) locals: Vec<Local>,
    pub(crate) roster: HashSet<MemberId>,
    /// Epoch and seq of the last entry that was passed on.
    pub(crate) base: Option<(u64, u64)>,
    early: BTreeMap<(u64, u64), Arc<Parcel>>,
    unnumbered: VecDeque<(MemberId, String)>,
}

impl Hosted {
    /// A room that nobody here is in yet.
    pub(crate) fn new(max: u32) -> Self {
        Self { max, ..Self::default() }
    }

    /// Whether somebody here is to be told of an entry that was written just now: one who comes later is not.
    pub(crate) fn tells(&self, entry: &Entry) -> bool {
        self.locals.iter().any(|local| entry.is_for(&local.member))
    }

    /// Takes an entry in.
    pub(crate) fn accept(&mut self, parcel: &Arc<Parcel>) -> Next {
        let place = (parcel.epoch, parcel.seq);
        match self.base {
            Some(base) if place <= base => return Next::Nothing,
            Some((epoch, seq)) if parcel.epoch == epoch && parcel.seq == seq + 1 && !self.syncing => {
                self.dispatch(parcel);
            }
            _ => {
                // what a replica wrote itself comes before what others may have meant for that place
                self.early.entry(place).or_insert_with(|| parcel.clone());
            }
        }
        self.drain()
    }

    /// What was early and no longer is goes out; what is still missing has to be read.
    pub(crate) fn drain(&mut self) -> Next {
        while let Some(mut first) = self.early.first_entry() {
            // before the first session is in, nothing is known to be missing
            let Some((epoch, seq)) = self.base else { break };
            if self.syncing {
                break;
            }
            let place = *first.key();
            if place <= (epoch, seq) {
                first.remove();
            } else if place == (epoch, seq + 1) {
                let parcel = first.get_mut().clone();
                first.remove();
                self.dispatch(&parcel);
            } else if place.0 == epoch && self.early.len() <= EARLY {
                return Next::Read { epoch, seq };
            } else {
                return Next::Sync;
            }
        }
        if self.early.is_empty() {
            // it would keep what its first entry took
            self.early = BTreeMap::new();
        }
        Next::Nothing
    }

    fn dispatch(&mut self, parcel: &Arc<Parcel>) {
        self.base = Some((parcel.epoch, parcel.seq));
        match parcel.kind {
            Kind::Joined => drop(self.roster.insert(parcel.from.clone())),
            Kind::Left => drop(self.roster.remove(&parcel.from)),
            Kind::Attached => {}
            // those who are here had it before the log did
            Kind::Signal if self.forget_unnumbered(&parcel.from, &parcel.id) => return,
            Kind::Signal => {}
        }
        self.locals.retain_mut(|local| local.take(parcel));
    }

    /// A session has entered, at this point of the log. `view` is the room then, `cursor` how far its
    /// client has been told. It may have been ended already.
    pub(crate) fn activate(&mut self, key: u64, conn: u64, since: u64, cursor: u64, view: &View) -> Next {
        let mut next = Next::Nothing;
        match self.base {
            None => {
                self.base = Some((view.epoch, view.seq));
                self.roster = view.members.iter().map(|m| m.id.clone()).collect();
            }
            Some((epoch, _)) if epoch < view.epoch => next = Next::Sync,
            Some(_) => {}
        }
        let mut behind = None;
        if let Some(at) = self.locals.iter().position(|l| l.key == key) {
            let local = &mut self.locals[at];
            (local.conn, local.since, local.cursor) = (conn, since, cursor);
            let waiting = local.waiting.take().unwrap_or_default();
            let mut current = waiting.iter().filter(|p| p.epoch == view.epoch && p.seq > cursor);
            behind = self.base.filter(|(epoch, base)| {
                *epoch == view.epoch && (current.clone().count() as u64) < base.saturating_sub(cursor)
            });
            let stays = behind.is_some() || current.all(|parcel| local.take(parcel));
            if !stays {
                self.locals.swap_remove(at);
            }
        }
        if behind.is_some() {
            // One that entered later was in first, and the log began here with it. Those who know what lies
            // between do not take it twice.
            self.base = Some((view.epoch, cursor));
        }
        if next == Next::Nothing {
            next = self.drain();
        }
        match (next, self.base) {
            (Next::Nothing, Some((epoch, seq))) if behind > self.base => Next::Read { epoch, seq },
            (next, _) => next,
        }
    }

    /// The log is another one: tells every session how the room is now, and goes on after `start`.
    pub(crate) fn resync(&mut self, view: &Arc<View>, start: u64) -> Next {
        self.syncing = false;
        self.base = Some((view.epoch, start));
        self.roster = view.members.iter().map(|m| m.id.clone()).collect();
        self.early.retain(|place, _| *place > (view.epoch, start));
        for local in self.locals.iter_mut().filter(|l| l.is_live()) {
            (local.cursor, local.roster) = (start, view.seq);
            local.outbox.push(Out::Resync { view: view.clone(), seq: start });
        }
        self.drain()
    }

    /// Delivers a signal to those who are here, because the log cannot be written. Returns whether that
    /// was everybody whom it concerns, or `None` when nobody is meant.
    pub(crate) fn deliver_unnumbered(&mut self, parcel: &Arc<Parcel>) -> Option<bool> {
        let request = (parcel.from.clone(), parcel.id.clone());
        let again = self.unnumbered.contains(&request);
        for local in self.locals.iter().filter(|l| l.is_live() && !again && parcel.is_for(&l.member)) {
            local.outbox.push(Out::Parcel(parcel.clone()));
        }
        let is_here = |member: &MemberId| self.locals.iter().any(|l| l.is_live() && l.member == *member);
        let all = match &parcel.to {
            Some(to) if !is_here(to) && !self.roster.contains(to) => return None,
            Some(to) => is_here(to),
            None => self.roster.iter().all(is_here),
        };
        // A signal that nobody got is no duplicate when it comes again.
        if !again && (parcel.to.is_none() || all) {
            self.unnumbered.push_back(request);
            if self.unnumbered.len() > UNNUMBERED {
                self.unnumbered.pop_front();
            }
        }
        Some(all)
    }

    fn forget_unnumbered(&mut self, from: &MemberId, id: &str) -> bool {
        let at = self.unnumbered.iter().position(|(f, i)| f == from && i == id);
        at.and_then(|at| self.unnumbered.remove(at)).is_some()
    }

    /// What the store should be told if it lost the room.
    pub(crate) fn held(&self) -> Vec<Held> {
        let held = |l: &Local| Held {
            member: l.member.clone(),
            secret: l.secret.clone(),
            conn: l.conn,
            since: l.since,
            profile: l.profile.clone(),
        };
        self.locals.iter().filter(|l| l.is_live()).map(held).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use rtc_signaling_proto::entry::Draft;

    fn member(name: &str) -> MemberId {
        name.parse().unwrap()
    }

    fn parcel(draft: Draft, seq: u64) -> Arc<Parcel> {
        Arc::new(Parcel::from(draft.number(1, seq)))
    }

    fn signal(seq: u64) -> Arc<Parcel> {
        parcel(Draft::signal(&member("aa"), None, format!("n{seq}"), seq.to_string()), seq)
    }

    fn hosted(cursor: u64) -> (Hosted, Arc<Outbox>) {
        let outbox = Outbox::new(1 << 20);
        let mut hosted = Hosted::default();
        let b = member("bb");
        let profile = Profile::new(&b, None, None);
        hosted.locals.push(Local::entering(1, b, "s".into(), profile, outbox.clone()));
        let view = View { epoch: 1, seq: cursor, members: Vec::new() };
        assert_eq!(hosted.activate(1, 1, cursor, cursor, &view), Next::Nothing);
        (hosted, outbox)
    }

    fn told(outbox: &Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.pop())
            .filter_map(|out| match out {
                Out::Parcel(parcel) => Some(parcel.seq),
                _ => None,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn entries_go_out_in_order_and_once_however_they_come(
            order in proptest::collection::vec(1u64..30, 0..120)
        ) {
            let (mut hosted, outbox) = hosted(0);
            for seq in &order {
                if let Next::Read { epoch, seq: last } = hosted.accept(&signal(*seq)) {
                    prop_assert_eq!(epoch, 1);
                    prop_assert!(order.iter().any(|s| *s > last + 1));
                }
            }
            let before = told(&outbox);
            prop_assert_eq!(&before, &(1..=before.len() as u64).collect::<Vec<_>>());
            // what a read brings fills every hole
            for seq in 1..30 {
                hosted.accept(&signal(seq));
            }
            let all: Vec<u64> = before.into_iter().chain(told(&outbox)).collect();
            prop_assert_eq!(all, (1..30).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_came_while_a_session_entered_is_told_once_from_its_place_on() {
        let (mut hosted, _first) = hosted(4);
        let outbox = Outbox::new(1 << 20);
        let c = member("cc");
        let profile = Profile::new(&c, None, None);
        hosted.locals.push(Local::entering(2, c, "s".into(), profile, outbox.clone()));
        for seq in 5..9 {
            hosted.accept(&signal(seq));
        }
        let view = View { epoch: 1, seq: 6, members: Vec::new() };
        assert_eq!(hosted.activate(2, 1, 6, 6, &view), Next::Nothing);
        hosted.accept(&signal(9));
        assert_eq!(told(&outbox), [7, 8, 9]);
    }

    #[test]
    fn of_two_that_enter_at_once_neither_misses_the_other_whichever_is_in_first() {
        let mut hosted = Hosted::default();
        let enter = |hosted: &mut Hosted, key, name: &str| {
            let (outbox, member) = (Outbox::new(1 << 20), member(name));
            let profile = Profile::new(&member, None, None);
            hosted.locals.push(Local::entering(key, member, "s".into(), profile, outbox.clone()));
            outbox
        };
        let joined = |name: &str, seq| {
            let member = member(name);
            parcel(
                Draft::joined(&member, &"pod-a-1".parse().unwrap(), &Profile::new(&member, None, None)),
                seq,
            )
        };
        let view = |seq| View { epoch: 1, seq, members: Vec::new() };
        let (first, second) = (enter(&mut hosted, 1, "bb"), enter(&mut hosted, 2, "cc"));
        hosted.accept(&joined("bb", 1));
        assert_eq!(hosted.activate(2, 1, 2, 2, &view(2)), Next::Nothing);
        hosted.accept(&joined("cc", 2));
        hosted.accept(&signal(3));
        assert_eq!(hosted.activate(1, 1, 1, 1, &view(1)), Next::Read { epoch: 1, seq: 1 });
        for entry in [joined("cc", 2), signal(3), signal(4)] {
            assert_eq!(hosted.accept(&entry), Next::Nothing);
        }
        assert_eq!((told(&first), told(&second)), (vec![2, 3, 4], vec![3, 4]));
    }

    #[test]
    fn a_session_that_was_resumed_elsewhere_is_closed_as_superseded() {
        let (mut hosted, outbox) = hosted(0);
        hosted.accept(&parcel(Draft::attached(&member("bb"), 1), 1));
        assert_eq!(hosted.locals.len(), 1);
        hosted.accept(&parcel(Draft::attached(&member("bb"), 2), 2));
        assert!(hosted.locals.is_empty());
        assert!(matches!(outbox.pop(), Some(Out::Close(4001, _))));
    }

    #[test]
    fn a_session_that_was_reaped_is_closed_as_resumable() {
        let (mut hosted, outbox) = hosted(0);
        hosted.accept(&parcel(Draft::left(&member("bb"), Reason::Lost), 1));
        assert!(hosted.locals.is_empty());
        assert!(matches!(outbox.pop(), Some(Out::Close(1012, _))));
    }

    #[test]
    fn what_was_delivered_without_the_log_is_not_delivered_again_from_it() {
        let (mut hosted, outbox) = hosted(0);
        hosted.roster = [member("aa"), member("bb")].into();
        let mut early = Parcel::clone(&signal(1));
        (early.epoch, early.seq) = (0, 0);
        let early = Arc::new(early);
        assert_eq!(hosted.deliver_unnumbered(&early), Some(false), "aa is elsewhere");
        assert_eq!(hosted.deliver_unnumbered(&early), Some(false));
        assert_eq!(told(&outbox), [0]);
        hosted.accept(&signal(1));
        hosted.accept(&signal(2));
        assert_eq!(told(&outbox), [2]);
    }

    #[test]
    fn a_new_log_is_told_once_and_goes_on_from_where_it_began() {
        let (mut hosted, outbox) = hosted(3);
        hosted.syncing = true;
        let later = |seq| {
            let draft = Draft::signal(&member("aa"), None, format!("n{seq}"), "1".into());
            Arc::new(Parcel::from(draft.number(2, seq)))
        };
        assert_eq!(hosted.accept(&later(5)), Next::Nothing);
        assert_eq!(hosted.accept(&later(6)), Next::Nothing);
        let view = Arc::new(View { epoch: 2, seq: 6, members: Vec::new() });
        assert_eq!(hosted.resync(&view, 4), Next::Nothing);
        assert!(matches!(outbox.pop(), Some(Out::Resync { seq: 4, .. })));
        assert_eq!(told(&outbox), [5, 6]);
    }
}
