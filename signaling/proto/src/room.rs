//! A room: members, leases, capacity and one ordered log.
//!
//! Time comes as an argument, in milliseconds of the store's own clock. Every change of the log is also
//! put out for delivery: call [`Room::poll_entry`] until it is empty after each call. When
//! [`Room::is_empty`], the room is over: drop it, and make the next one of its name with a higher epoch.

pub use crate::ops::*;
use crate::{
    entry::{Draft, Entry, Profile, Reason, may_come_again},
    names::{MemberId, ReplicaId},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    secret: String,
    conn: u64,
    since: u64,
    /// `None` while the session has no connection.
    holder: Option<ReplicaId>,
    profile: Profile,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Lease {
    Replica(ReplicaId),
    Detached(MemberId),
}

/// A room.
#[derive(Debug)]
pub struct Room {
    limits: RoomLimits,
    epoch: u64,
    seq: u64,
    max: u32,
    /// Boxed, since a tree has room for eleven where most rooms have two.
    members: BTreeMap<MemberId, Box<Member>>,
    /// No tree, for the same reason: most rooms have one.
    leases: HashMap<Lease, u64>,
    log: VecDeque<Entry>,
    /// Entries up to this one are too old to be repeated.
    floor: u64,
    /// The floor to be by age, and since when.
    mark: (u64, u64),
    /// The floor to be by weight, and the bytes since.
    heavy: (u64, u64),
    seen: [HashMap<(MemberId, String), u64>; 2],
    out: VecDeque<Entry>,
}

impl Room {
    /// An empty room.
    #[must_use]
    pub fn new(limits: RoomLimits, epoch: u64, max: u32, now: u64) -> Self {
        Self {
            limits,
            epoch,
            seq: 0,
            max,
            members: BTreeMap::new(),
            leases: HashMap::new(),
            log: VecDeque::new(),
            floor: 0,
            mark: (0, now),
            heavy: (0, 0),
            seen: [HashMap::new(), HashMap::new()],
            out: VecDeque::new(),
        }
    }

    /// The next entry to deliver.
    pub fn poll_entry(&mut self) -> Option<Entry> {
        let entry = self.out.pop_front();
        if self.out.is_empty() {
            // a quiet room holds no buffer
            self.out = VecDeque::new();
        }
        entry
    }

    /// When [`Self::reap`] has something to do, in milliseconds.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        self.leases.values().min().copied()
    }

    /// Whether nobody is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many members it has.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The room now.
    #[must_use]
    pub fn view(&self) -> View {
        let present = self.members.iter().map(|(id, m)| Present {
            id: id.clone(),
            since: m.since,
            profile: m.profile.clone(),
        });
        View { epoch: self.epoch, seq: self.seq, members: present.collect() }
    }

    /// A member enters, if there is a place; those whose lease has run out take none.
    pub fn join(&mut self, join: Join, now: u64) -> Joined {
        let again = self.members.get_mut(&join.member).filter(|m| m.secret == join.secret);
        if let Some(member) = again {
            let before = member.holder.replace(join.holder.clone());
            let conn = member.conn;
            self.leases.remove(&Lease::Detached(join.member.clone()));
            if before.as_ref() != Some(&join.holder) {
                self.append(Draft::attached(&join.member, conn));
            }
        } else {
            let most = match (self.max, join.bound) {
                (0, most) | (most, 0) => most,
                (a, b) => a.min(b),
            };
            let is_full = |room: &Self| most > 0 && room.members.len() >= most as usize;
            if is_full(self) {
                self.reap(now);
            }
            if is_full(self) {
                return Joined::Full { max: most };
            }
            self.append(Draft::joined(&join.member, &join.holder, &join.profile));
            let member = Member {
                secret: join.secret,
                conn: 1,
                since: self.seq,
                holder: Some(join.holder.clone()),
                profile: join.profile,
            };
            self.members.insert(join.member, Box::new(member));
        }
        self.hold(join.holder, now);
        Joined::Entered(self.view())
    }

    /// Whether a session shows its secret, whatever connection it has or had last.
    ///
    /// # Errors
    /// [`Refusal::UnknownSession`].
    pub fn prove(&self, member: &MemberId, secret: &str) -> Result<(), Refusal> {
        let known = self.members.get(member).filter(|m| m.secret == secret);
        known.map(drop).ok_or(Refusal::UnknownSession)
    }

    /// Passes something on. `conn` 0 stands for whichever connection the session has: for a writer that has
    /// shown its secret ([`Self::prove`]).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn signal(&mut self, signal: Signal) -> Result<Sent, Refusal> {
        let Signal { from, conn, to, id, data } = signal;
        self.authorize(&from, self.which(&from, conn))?;
        let somebody = to.as_ref().is_none_or(|to| self.members.contains_key(to));
        self.pass((from, id), to.as_ref(), data, somebody)
    }

    /// Passes something on from outside.
    ///
    /// # Errors
    /// [`Refusal::NoSuchMember`] when it is for one who is not there, or no member has a connection.
    pub fn post(&mut self, post: Post) -> Result<Sent, Refusal> {
        let somebody = match &post.to {
            Some(to) => self.members.contains_key(to),
            None => self.members.values().any(|m| m.holder.is_some()),
        };
        self.pass((post.from, post.id), post.to.as_ref(), post.data, somebody)
    }

    fn pass(
        &mut self,
        request: (MemberId, String),
        to: Option<&MemberId>,
        data: String,
        somebody: bool,
    ) -> Result<Sent, Refusal> {
        let again = may_come_again(&request.1);
        if again && let Some(seq) = self.seen.iter().find_map(|seen| seen.get(&request)) {
            return Ok(Sent::Before(*seq));
        }
        if !somebody {
            return Err(Refusal::NoSuchMember);
        }
        self.append(Draft::signal(&request.0, to, request.1.clone(), data));
        if !again {
            return Ok(Sent::Now(self.seq));
        }
        if self.seen[0].len() >= self.limits.seen {
            self.seen.swap(0, 1);
            self.seen[0].clear();
        }
        self.seen[0].insert(request, self.seq);
        Ok(Sent::Now(self.seq))
    }

    /// A member leaves. `conn` 0 is as in [`Self::signal`].
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn leave(&mut self, member: &MemberId, conn: u64, reason: Reason) -> Result<u64, Refusal> {
        self.authorize(member, self.which(member, conn))?;
        self.remove(member, reason);
        Ok(self.seq)
    }

    /// Every member leaves, as kicked: the oldest first.
    pub fn close(&mut self) {
        let mut all: Vec<_> = self.members.iter().map(|(id, m)| (m.since, id.clone())).collect();
        all.sort();
        for (_, member) in all {
            self.remove(&member, Reason::Kicked);
        }
    }

    /// A session's connection is gone; the session stays for a while.
    ///
    /// `conn` 0 stands for whichever connection `holder` has: for a replica that never learnt the answer
    /// to a resume.
    ///
    /// # Errors
    /// [`Refusal`]; with [`Refusal::Superseded`] all is well, another connection has it.
    pub fn detach(
        &mut self,
        member: &MemberId,
        conn: u64,
        holder: &ReplicaId,
        now: u64,
    ) -> Result<(), Refusal> {
        let held = self.members.get(member).and_then(|m| m.holder.as_ref()) == Some(holder);
        if conn != 0 || !held {
            self.authorize(member, conn)?;
        }
        if let Some(member) = self.members.get_mut(member) {
            member.holder = None;
        }
        let until = now + millis(self.limits.detached_lease);
        self.leases.insert(Lease::Detached(member.clone()), until);
        Ok(())
    }

    /// A session goes on, on another connection: a compare-and-set, so that of two that try, the later
    /// one has it and the earlier one knows.
    ///
    /// # Errors
    /// [`Refusal::UnknownSession`], also when the secret is another.
    pub fn resume(&mut self, resume: Resume, now: u64) -> Result<Resumed, Refusal> {
        let known = self.members.get_mut(&resume.member).filter(|m| m.secret == resume.secret);
        let member = known.ok_or(Refusal::UnknownSession)?;
        member.conn += 1;
        member.holder = Some(resume.holder.clone());
        let (conn, since) = (member.conn, member.since);
        self.leases.remove(&Lease::Detached(resume.member.clone()));
        self.hold(resume.holder, now);
        self.append(Draft::attached(&resume.member, conn));
        let missed = match self.read(resume.epoch, resume.seq) {
            Read::Entries(entries) => Some(entries),
            Read::Lost => None,
        };
        Ok(Resumed { conn, since, view: self.view(), missed })
    }

    /// Every entry of `epoch` after `seq`.
    #[must_use]
    pub fn read(&self, epoch: u64, seq: u64) -> Read {
        if epoch != self.epoch || seq > self.seq || seq < self.first_known() {
            return Read::Lost;
        }
        Read::Entries(self.log.iter().filter(|entry| entry.seq > seq).cloned().collect())
    }

    /// A replica that has members here is alive.
    pub fn pulse(&mut self, holder: &ReplicaId, now: u64) -> Pulse {
        if now >= self.mark.1 + millis(self.limits.log_age) {
            self.floor = self.floor.max(self.mark.0);
            self.mark = (self.seq, now);
            self.trim();
        }
        let lease = Lease::Replica(holder.clone());
        if !self.leases.contains_key(&lease) {
            return Pulse::Lapsed { epoch: self.epoch };
        }
        self.hold(holder.clone(), now);
        Pulse::Kept { epoch: self.epoch, seq: self.seq }
    }

    /// Takes over what a replica knows, if it knows more than the room does. `fresh` is the epoch to use
    /// when the log has to begin anew: higher than any before.
    ///
    /// Members that the room does not have are entered again, each with an entry.
    pub fn assert(&mut self, assert: Assert, fresh: u64, now: u64) -> View {
        let went_back = assert.epoch == self.epoch && self.seq < assert.seq;
        if went_back || self.members.is_empty() {
            self.epoch = fresh;
            self.seq = self.seq.max(assert.seq);
            (self.floor, self.mark, self.heavy) = (self.seq, (self.seq, now), (self.seq, 0));
            self.log.clear();
            self.out.clear();
        }
        self.hold(assert.holder.clone(), now);
        for held in assert.members {
            let known = self.members.get(&held.member);
            if known.is_some_and(|m| m.conn > held.conn || (m.conn == held.conn && m.holder.is_some())) {
                continue;
            }
            self.append(match known {
                None => Draft::joined(&held.member, &assert.holder, &held.profile),
                Some(_) => Draft::attached(&held.member, held.conn),
            });
            self.leases.remove(&Lease::Detached(held.member.clone()));
            let member = Member {
                secret: held.secret,
                conn: held.conn,
                since: held.since,
                holder: Some(assert.holder.clone()),
                profile: held.profile,
            };
            self.members.insert(held.member, Box::new(member));
        }
        self.view()
    }

    /// Removes those whose lease has run out.
    pub fn reap(&mut self, now: u64) {
        let over: Vec<Lease> =
            self.leases.iter().filter(|(_, until)| **until <= now).map(|(lease, _)| lease.clone()).collect();
        let mut lost = Vec::new();
        for lease in over {
            self.leases.remove(&lease);
            let is_lost = |id: &MemberId, m: &Member| match &lease {
                Lease::Detached(member) => id == member,
                Lease::Replica(replica) => m.holder.as_ref() == Some(replica),
            };
            let those = self.members.iter().filter(|(id, m)| is_lost(id, m));
            lost.extend(those.map(|(id, m)| (m.since, id.clone())));
        }
        // the oldest first, so that every store tells it alike
        lost.sort();
        for (_, member) in lost {
            self.remove(&member, Reason::Lost);
        }
    }

    fn which(&self, member: &MemberId, conn: u64) -> u64 {
        match (conn, self.members.get(member)) {
            (0, Some(m)) => m.conn,
            _ => conn,
        }
    }

    fn authorize(&self, member: &MemberId, conn: u64) -> Result<(), Refusal> {
        match self.members.get(member) {
            None => Err(Refusal::UnknownSession),
            Some(m) if m.conn != conn => Err(Refusal::Superseded),
            Some(_) => Ok(()),
        }
    }

    fn hold(&mut self, holder: ReplicaId, now: u64) {
        self.leases.insert(Lease::Replica(holder), now + millis(self.limits.replica_lease));
    }

    fn remove(&mut self, member: &MemberId, reason: Reason) {
        self.leases.remove(&Lease::Detached(member.clone()));
        if self.members.remove(member).is_some() {
            self.append(Draft::left(member, reason));
        }
    }

    fn first_known(&self) -> u64 {
        self.floor.max(self.seq.saturating_sub(self.limits.log_entries))
    }

    fn append(&mut self, draft: Draft) {
        self.seq += 1;
        let weight = draft.weight();
        self.heavy.1 += weight;
        if weight > 0 && self.heavy.1 * 2 >= self.limits.log_bytes {
            self.floor = self.floor.max(self.heavy.0);
            self.heavy = (self.seq, 0);
        }
        let entry = draft.number(self.epoch, self.seq);
        if self.log.len() < 4 {
            // a room where nothing is said has no room for more
            self.log.reserve_exact(1);
        }
        self.log.push_back(entry.clone());
        self.out.push_back(entry);
        self.trim();
    }

    fn trim(&mut self) {
        let first = self.first_known();
        while self.log.front().is_some_and(|entry| entry.seq <= first) {
            self.log.pop_front();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
