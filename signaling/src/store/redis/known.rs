//! What a replica knows of a room that it hosts, so that most signals need no function: a compare-and-append.
//!
//! The log is a stream, and an entry's id there is its epoch and seq. Redis refuses an id that is not above the last, so
//! who appends `seq + 1` knowing every entry up to `seq` appends to the log that it knows, or not at all: whatever was
//! decided by what is known (who may send, to whom, which replicas have to be told) still holds.
//!
//! Such an entry is *proposed*: it is published in the same transaction that tries to append it, and Redis
//! publishes also when it does not append. So whoever hears a proposal has to know whether it came true. It did if it is
//! the first with its number that is heard: had another entry that number, then that one was appended before, and
//! published before, in one step. This needs that nothing is missing before it, and that no write of one's own, which is not
//! published to oneself, may have taken the number. So what is heard while writes are under way waits for their
//! answers, and a proposal that is not the very next entry counts for nothing: the log is read instead.
//!
//! No IO.

use super::requests::{Asked, Requests};
use rtc_signaling_proto::{Entry, Kind, MemberId, ReplicaId};
use std::{collections::VecDeque, sync::Arc};

/// Senders and receivers of a room that are known; with more, the others' signals are written by functions.
const MEMBERS: usize = 16;
/// Own entries whose forerunners have not been heard yet; with more, something is amiss.
const AHEAD: usize = 64;

/// Of an entry: the log's life, and the number in it.
pub(super) type Place = (u64, u64);

/// What a function found out of a signal, or of a member who came, which is the log's end: so the replica can go on by
/// itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    /// Who may send, by which connection.
    pub(super) sender: (MemberId, u64),
    /// Who is there.
    pub(super) members: Vec<MemberId>,
    /// From this seq on a function has to see to the log's bounds.
    pub(super) until: u64,
    /// Other replicas that host the room.
    pub(super) others: Vec<ReplicaId>,
    /// Of the sender's session.
    pub(super) requests: Asked,
}

/// Most rooms are small, and there are many: a `Vec` would begin with four places.
pub(super) fn push<T>(few: &mut Vec<T>, one: T) {
    if few.len() < 2 {
        few.reserve_exact(1);
    }
    few.push(one);
}

/// What a function told of the log as it left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The log's end; `None` from a function that does not say, or when the replica is none that entries are published to.
    pub(super) end: Option<Place>,
    /// What was appended.
    pub(super) own: Vec<(Place, Effect)>,
    pub(super) permit: Option<Permit>,
}

/// What an entry changes of what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// Somebody came; on this replica, if on no other.
    Came(MemberId, Option<ReplicaId>),
    /// Who is where has to be asked for.
    Other,
}

impl Effect {
    pub(super) fn of(entry: &Entry, own: bool) -> Self {
        match entry.kind {
            Kind::Signal => Self::Nothing,
            Kind::Joined if own => Self::Came(entry.from.clone(), None),
            Kind::Joined => {
                entry.id.parse().map_or(Self::Other, |on| Self::Came(entry.from.clone(), Some(on)))
            }
            Kind::Left | Kind::Attached => Self::Other,
        }
    }
}

/// A signal that might be proposed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) from: &'a MemberId,
    pub(super) conn: u64,
    pub(super) to: Option<&'a MemberId>,
    /// Bytes that count.
    pub(super) weight: u64,
    /// Its word, if it may come again.
    pub(super) request: Option<&'a str>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Its answer did not come: it was done, or was not, or will be.
    Lost,
    /// It did nothing, of a proposal too.
    Nothing,
    /// A function has done it.
    Told(Told),
    /// What was proposed is in the log.
    Appended(Place),
}

/// What is to be done with what was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is in the log.
    Take(Entry),
    /// The log has entries that were not heard.
    Missing,
}

/// An entry to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) place: Place,
    /// Other replicas that host the room.
    pub(super) others: Arc<[ReplicaId]>,
}

/// What holds until somebody goes, or is attached elsewhere, which is an entry. See [`Permit`].
#[derive(Debug)]
struct Terms {
    others: Arc<[ReplicaId]>,
    until: u64,
    senders: Vec<(MemberId, u64)>,
    members: Vec<MemberId>,
}

#[derive(Debug)]
struct Heard {
    /// Waits for the answers of writes up to this one.
    ticket: u64,
    subscription: u64,
    entry: Entry,
    proposed: bool,
}

#[derive(Debug, Default)]
struct Writing {
    /// Tickets in order, and by which subscription's server.
    under_way: Vec<(u64, u64)>,
    /// Of those and those that have ended since there were none, some were under way at once.
    crowded: bool,
    waiting: VecDeque<Heard>,
    /// Own entries that others precede which were not heard yet.
    ahead: Vec<(u64, Effect)>,
}

/// One room.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By which subscription all entries after `place` are heard; those of one that came before say nothing.
    subscription: u64,
    /// Every entry up to this one is known.
    place: Option<Place>,
    terms: Option<Box<Terms>>,
    /// Bytes that count, of proposals since a function was told.
    spent: u64,
    /// Small: most rooms are quiet.
    writing: Option<Box<Writing>>,
    pub(super) requests: Requests,
}

impl Known {
    /// A write is sent to the server of this subscription, which began before. Tickets rise.
    pub(super) fn begin(&mut self, subscription: u64, ticket: u64) {
        if self.subscription != subscription {
            self.subscription = subscription;
            self.forget();
        }
        let writing = self.writing.get_or_insert_default();
        writing.crowded |= !writing.under_way.is_empty();
        writing.under_way.push((ticket, subscription));
    }

    /// Where to append a signal without a function; `None` if that cannot be known now. Begins the write. `most`: bytes
    /// that count, until a function is told of them.
    pub(super) fn propose(
        &mut self,
        subscription: u64,
        ticket: u64,
        Wish { from, conn, to, weight, request }: Wish<'_>,
        most: u64,
    ) -> Option<Proposal> {
        if request.is_some_and(|word| !self.requests.is_first(from, word)) {
            return None;
        }
        let (epoch, seq) = self.place.filter(|_| self.subscription == subscription)?;
        let terms = self.terms.as_ref()?;
        let may_send = terms.senders.iter().any(|(member, c)| *c == conn && member == from);
        let is_there = to.is_none_or(|to| terms.members.contains(to));
        // one at a time: were the first refused, the second must not get in before it
        if self.writing.is_some() || seq + 1 >= terms.until || !may_send || !is_there {
            return None;
        }
        if weight > 0 && self.spent + weight > most {
            return None;
        }
        self.spent += weight;
        let proposal = Proposal { place: (epoch, seq + 1), others: terms.others.clone() };
        self.begin(subscription, ticket);
        Some(proposal)
    }

    /// A write has ended. What it appended has been taken already.
    pub(super) fn end(&mut self, ticket: u64, answer: Answer, next: &mut Vec<Next>) {
        let Some(writing) = &mut self.writing else { return };
        let Some(at) = writing.under_way.iter().position(|(t, _)| *t == ticket) else { return };
        let (_, subscription) = writing.under_way.remove(at);
        let crowded = writing.crowded;
        writing.crowded &= !writing.under_way.is_empty();
        match answer {
            Answer::Lost => self.forget(),
            Answer::Nothing => self.terms = None,
            // it says nothing of what another subscription hears
            _ if subscription != self.subscription => {}
            Answer::Appended((epoch, seq)) if self.place == Some((epoch, seq.wrapping_sub(1))) => {
                self.advance(Effect::Nothing);
            }
            Answer::Appended(place) => self.own(vec![(place, Effect::Nothing)]),
            Answer::Told(Told { end, own, permit }) => {
                if let Some(end) = end
                    && self.place.is_none_or(|(epoch, _)| epoch < end.0)
                {
                    self.forget();
                    self.place = Some(end);
                }
                self.own(own);
                if let Some(permit) = permit {
                    self.agree(end, permit, crowded);
                }
            }
        }
        self.release(next);
    }

    /// An entry was heard, or a proposal.
    pub(super) fn heard(&mut self, subscription: u64, entry: Entry, proposed: bool, next: &mut Vec<Next>) {
        match &mut self.writing {
            Some(writing) if !writing.under_way.is_empty() => {
                let ticket = writing.under_way.last().map_or(0, |(ticket, _)| *ticket);
                writing.waiting.push_back(Heard { ticket, subscription, entry, proposed });
            }
            _ => self.take(subscription, entry, proposed, next),
        }
    }

    fn forget(&mut self) {
        (self.place, self.terms) = (None, None);
        self.requests.doubt_all();
        if let Some(writing) = &mut self.writing {
            writing.ahead.clear();
        }
    }

    fn release(&mut self, next: &mut Vec<Next>) {
        loop {
            let Some(writing) = &mut self.writing else { return };
            let first = writing.under_way.first().map_or(u64::MAX, |(ticket, _)| *ticket);
            if writing.waiting.front().is_none_or(|heard| heard.ticket >= first) {
                break;
            }
            let Some(heard) = writing.waiting.pop_front() else { break };
            self.take(heard.subscription, heard.entry, heard.proposed, next);
        }
        self.writing.take_if(|w| w.under_way.is_empty() && w.waiting.is_empty() && w.ahead.is_empty());
    }

    fn take(&mut self, subscription: u64, entry: Entry, proposed: bool, next: &mut Vec<Next>) {
        match entry.kind {
            Kind::Signal => self.requests.doubt(&entry.from),
            Kind::Left => self.requests.end(&entry.from),
            Kind::Joined | Kind::Attached => {}
        }
        let here = self.place.filter(|_| subscription == self.subscription);
        match here {
            Some((epoch, seq)) if entry.epoch == epoch && entry.seq == seq + 1 => {
                self.advance(Effect::of(&entry, false));
            }
            Some(place) if (entry.epoch, entry.seq) <= place => {
                if proposed {
                    return;
                }
            }
            _ => {
                if subscription == self.subscription {
                    self.forget();
                }
                if proposed {
                    next.push(Next::Missing);
                    return;
                }
            }
        }
        next.push(Next::Take(entry));
    }

    /// The next entry is known.
    fn advance(&mut self, effect: Effect) {
        let Some((_, seq)) = &mut self.place else { return };
        *seq += 1;
        self.feel(effect);
        self.catch_up();
    }

    fn feel(&mut self, effect: Effect) {
        match (effect, &mut self.terms) {
            (Effect::Other, terms) => *terms = None,
            (Effect::Came(member, on), Some(terms)) => {
                // it may have taken the place of another session
                terms.senders.retain(|(sender, _)| *sender != member);
                if let Some(on) = on
                    && !terms.others.contains(&on)
                {
                    terms.others = terms.others.iter().cloned().chain([on]).collect();
                }
                if terms.members.len() < MEMBERS && !terms.members.contains(&member) {
                    terms.members.push(member);
                }
            }
            (Effect::Nothing | Effect::Came(..), _) => {}
        }
    }

    /// Goes past own entries that come next.
    fn catch_up(&mut self) {
        while let Some((_, seq)) = &mut self.place
            && let Some(writing) = &mut self.writing
            && let Some(at) = writing.ahead.iter().position(|(ahead, _)| *ahead == *seq + 1)
        {
            let (ahead, effect) = writing.ahead.swap_remove(at);
            *seq = ahead;
            self.feel(effect);
        }
    }

    fn own(&mut self, appended: Vec<(Place, Effect)>) {
        let Some((epoch, seq)) = self.place else { return };
        let Some(writing) = &mut self.writing else { return };
        let later = appended.into_iter().filter(|((e, s), _)| *e == epoch && *s > seq);
        writing.ahead.extend(later.map(|((_, s), effect)| (s, effect)));
        if writing.ahead.len() > AHEAD {
            self.forget();
        }
        self.catch_up();
    }

    fn agree(&mut self, end: Option<Place>, permit: Permit, crowded: bool) {
        if end.is_none() || self.place != end {
            return;
        }
        let Permit { sender, members, until, others, requests } = permit;
        self.requests.know(sender.0.clone(), requests, crowded);
        let none =
            || Box::new(Terms { others: Arc::default(), until, senders: Vec::new(), members: Vec::new() });
        let terms = self.terms.get_or_insert_with(none);
        (terms.others, terms.until) = (others.into(), until);
        if terms.senders.len() < MEMBERS && !terms.senders.contains(&sender) {
            push(&mut terms.senders, sender);
        }
        for member in members {
            if terms.members.len() < MEMBERS && !terms.members.contains(&member) {
                push(&mut terms.members, member);
            }
        }
    }

    /// Bytes that count and that a function has not been told of; they are told now.
    pub(super) fn spend(&mut self) -> u64 {
        std::mem::take(&mut self.spent)
    }
}

#[cfg(test)]
mod tests;
