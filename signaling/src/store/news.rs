//! What backends are told of rooms: who came and who went. A store writes it down in the same step as the
//! room's log, and keeps it until whoever leads the replicas has told it.

use rtc_signaling_proto::{Entry, RoomName, entry::Profile};

/// News of one part of a Redis store that may wait; with more, the oldest is lost.
pub(crate) const OF_A_PART: usize = 256;

/// News of one part that are read at once.
pub(crate) const AT_ONCE: usize = 256;

/// A line of a room's log that says who came or went, and how the room was then.
#[derive(Clone, Debug)]
pub struct News {
    /// Where the store keeps it.
    pub(crate) place: Place,
    /// Unix time in milliseconds.
    pub at: u64,
    /// Where.
    pub room: RoomName,
    /// How many members the room had then.
    pub members: u64,
    /// What the log says, with a brief [`Profile`].
    pub entry: Entry,
}

impl News {
    /// Who came; empty for one that went.
    #[must_use]
    pub fn profile(&self) -> Profile {
        Profile::from_stored(self.entry.body.clone())
    }
}

/// Where a store keeps a [`News`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) part: usize,
    pub(crate) id: (u64, u64),
}

/// How far a reader has come in one part of a store.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    /// The last that was read.
    pub(crate) id: (u64, u64),
    /// News are counted from 1 on, and from 1 again when none has waited.
    pub(crate) number: u64,
}

impl Read {
    /// Takes the next one in; how many have been lost before it.
    pub(crate) fn take(&mut self, id: (u64, u64), number: u64) -> u64 {
        let lost = match self.number {
            // the first that this reader sees, or a count that began anew
            before if before == 0 || number <= before => 0,
            before => number - before - 1,
        };
        (self.id, self.number) = (id, number);
        lost
    }
}

/// How far a reader has come.
#[derive(Debug, Default)]
pub(crate) struct Cursor(pub(crate) Vec<Read>);

impl Cursor {
    pub(crate) fn of(&mut self, part: usize) -> &mut Read {
        if self.0.len() <= part {
            self.0.resize(part + 1, Read::default());
        }
        &mut self.0[part]
    }
}

/// What a reader finds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of each room's log.
    pub(crate) news: Vec<News>,
    /// How many the store has, with those that were read before.
    pub(crate) waiting: u64,
    /// How many were lost unread.
    pub(crate) lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_counted_and_a_fresh_count_is_none() {
        let mut read = Read::default();
        let lost = [5, 6, 9, 1, 2].map(|number| read.take((number, 0), number));
        assert_eq!(lost, [0, 0, 2, 0, 0]);
    }
}
