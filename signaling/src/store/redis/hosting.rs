//! The rooms that a replica hosts: who writes to them takes care that nothing is passed on that is not in their logs.

use super::known::{Answer, Known, Next, Place, Proposal, Wish};
use crate::{parcel::Parcel, store::Listener};
use ahash::RandomState;
use rtc_signaling_proto::{Entry, MemberId, RoomName};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

type Rooms = HashMap<RoomName, Known, RandomState>;

/// See [`Known`], of each room.
pub(super) struct Hosting {
    listener: Weak<dyn Listener>,
    rooms: Mutex<Rooms>,
    tickets: AtomicU64,
}

impl Hosting {
    pub(super) fn new(listener: Weak<dyn Listener>) -> Arc<Self> {
        Arc::new(Self { listener, rooms: Mutex::default(), tickets: AtomicU64::new(1) })
    }

    pub(super) fn listener(&self) -> Option<Arc<dyn Listener>> {
        self.listener.upgrade()
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn host(&self, room: &RoomName) {
        self.rooms().entry(room.clone()).or_default();
    }

    pub(super) fn unhost(&self, room: &RoomName) {
        self.rooms().remove(room);
    }

    pub(super) fn hosts(&self, room: &RoomName) -> bool {
        self.rooms().contains_key(room)
    }

    /// See [`Requests::doubt`](super::requests::Requests::doubt).
    pub(super) fn doubt(&self, room: &RoomName, from: &MemberId) {
        if let Some(known) = self.rooms().get_mut(room) {
            known.requests.doubt(from);
        }
    }

    /// See [`Requests::lacks`](super::requests::Requests::lacks).
    pub(super) fn lacks_requests(&self, room: &RoomName, from: &MemberId) -> bool {
        self.rooms().get(room).is_some_and(|known| known.requests.lacks(from))
    }

    /// See [`Known::spend`].
    pub(super) fn spend(&self, room: &RoomName) -> u64 {
        self.rooms().get_mut(room).map_or(0, Known::spend)
    }

    /// See [`Requests::end`](super::requests::Requests::end).
    pub(super) fn ended(&self, room: &RoomName, member: &MemberId) {
        if let Some(known) = self.rooms().get_mut(room) {
            known.requests.end(member);
        }
    }

    /// A function is about to be called, on the server of this subscription.
    pub(super) fn begin<'a>(&'a self, room: &'a RoomName, subscription: u64) -> UnderWay<'a> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if let Some(known) = self.rooms().get_mut(room) {
            known.begin(subscription, ticket);
        }
        UnderWay { hosting: self, room, ticket }
    }

    /// A signal that can be written without a function.
    pub(super) fn propose<'a>(
        &'a self,
        room: &'a RoomName,
        subscription: u64,
        wish: Wish<'_>,
        most: u64,
    ) -> Option<(Proposal, UnderWay<'a>)> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let proposal = self.rooms().get_mut(room)?.propose(subscription, ticket, wish, most)?;
        Some((proposal, UnderWay { hosting: self, room, ticket }))
    }

    /// What a server passes on of a room, or of one that is not hosted any more.
    pub(super) fn heard(&self, room: &RoomName, subscription: u64, entry: Entry, proposed: bool) {
        let mut next = Vec::new();
        if let Some(known) = self.rooms().get_mut(room) {
            known.heard(subscription, entry, proposed, &mut next);
        }
        self.pass_on(room, next);
    }

    /// The listener may ask for rooms to be hosted with its own locks held: none of these are, here.
    fn pass_on(&self, room: &RoomName, next: Vec<Next>) {
        if next.is_empty() {
            return;
        }
        let Some(listener) = self.listener() else { return };
        for next in next {
            match next {
                Next::Take(entry) => listener.entry(room, &Arc::new(Parcel::from(entry))),
                Next::Missing => listener.missing(room),
            }
        }
    }

    fn end(&self, room: &RoomName, ticket: u64, answer: Answer) {
        let mut next = Vec::new();
        if let Some(known) = self.rooms().get_mut(room) {
            known.end(ticket, answer, &mut next);
        }
        self.pass_on(room, next);
    }
}

/// A write is under way. If its answer does not come to us, what it wrote has to be read from the log.
#[must_use]
pub(super) struct UnderWay<'a> {
    hosting: &'a Hosting,
    room: &'a RoomName,
    ticket: u64,
}

impl UnderWay<'_> {
    /// What was written is told first, so that it is known before what others wrote.
    pub(super) fn end(self, written: impl IntoIterator<Item = Entry>, answer: Answer) {
        let Self { hosting, room, ticket } = self;
        std::mem::forget(self);
        let mut written = written.into_iter().peekable();
        if written.peek().is_some()
            && hosting.hosts(room)
            && let Some(listener) = hosting.listener()
        {
            written.for_each(|entry| listener.wrote(room, entry));
        }
        hosting.end(room, ticket, answer);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.hosting.end(self.room, self.ticket, Answer::Lost);
        if let Some(listener) = self.hosting.listener() {
            listener.gap();
        }
    }
}

/// Of an entry.
pub(super) fn place(entry: &Entry) -> Place {
    (entry.epoch, entry.seq)
}
