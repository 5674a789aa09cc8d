//! Messages for peers that are not there yet: kept for 5 s, in order, without IO.
//!
//! They wait at the replica of the sender. A peer may come at any replica, so it is looked for now and then
//! where its messages would go.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// How long a message waits for its peer.
pub(super) const EXPIRE: Duration = Duration::from_secs(5);
/// How often a peer is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// A message on its way, under a number that tells it from the others of its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) number: u64,
    pub(super) text: String,
}

#[derive(Debug)]
struct Line {
    letters: VecDeque<Letter>,
    since: Instant,
}

/// All that one client has sent and nobody has read.
#[derive(Debug)]
pub(super) struct Waiting {
    lines: HashMap<String, Line>,
    bytes: usize,
    limit: usize,
    look_at: Instant,
}

impl Waiting {
    /// Nothing; at most `limit` bytes.
    pub(super) fn new(limit: usize, now: Instant) -> Self {
        Self { lines: HashMap::new(), bytes: 0, limit, look_at: now }
    }

    /// Whether what is sent to `dst` has to wait behind what was sent before.
    pub(super) fn has(&self, dst: &str) -> bool {
        self.lines.contains_key(dst)
    }

    /// Appends; false when too much waits already.
    pub(super) fn push(&mut self, dst: &str, letter: Letter, now: Instant) -> bool {
        let bytes = dst.len() + letter.text.len();
        if self.bytes + bytes > self.limit {
            return false;
        }
        self.bytes += bytes;
        if self.lines.is_empty() {
            self.look_at = now + LOOK;
        }
        let line =
            self.lines.entry(dst.to_owned()).or_insert_with(|| Line { letters: VecDeque::new(), since: now });
        line.letters.push_back(letter);
        true
    }

    /// When to look for the peers again.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.lines.is_empty()).then_some(self.look_at)
    }

    /// Whom to look for, once it is time.
    pub(super) fn look(&mut self, now: Instant) -> Vec<String> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.look_at = now + LOOK;
        self.lines.keys().cloned().collect()
    }

    /// The first message that waits for `dst`.
    pub(super) fn first(&self, dst: &str) -> Option<&Letter> {
        self.lines.get(dst)?.letters.front()
    }

    /// The first message that waited for `dst` has been read.
    pub(super) fn read(&mut self, dst: &str) {
        let Some(line) = self.lines.get_mut(dst) else { return };
        if let Some(letter) = line.letters.pop_front() {
            self.bytes -= dst.len() + letter.text.len();
        }
        if line.letters.is_empty() {
            self.lines.remove(dst);
        }
    }

    /// Forgets what has waited too long; for whom.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<String> {
        let over = |line: &Line| line.since + EXPIRE <= now;
        let expired: Vec<String> =
            self.lines.iter().filter(|(_, line)| over(line)).map(|(dst, _)| dst.clone()).collect();
        for dst in &expired {
            if let Some(line) = self.lines.remove(dst) {
                self.bytes -= line.letters.iter().map(|letter| dst.len() + letter.text.len()).sum::<usize>();
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: u64) -> Letter {
        Letter { number, text: "x".repeat(10) }
    }

    #[test]
    fn messages_are_read_in_order_and_the_rest_expires_once() {
        let start = Instant::now();
        let mut waiting = Waiting::new(1000, start);
        assert_eq!(waiting.due(), None);
        for number in 0..3 {
            assert!(waiting.push("bob", letter(number), start));
        }
        assert!(waiting.look(start).is_empty(), "it was not there a moment ago");
        assert_eq!(waiting.look(start + LOOK), ["bob"]);
        assert_eq!(waiting.first("bob"), Some(&letter(0)));
        waiting.read("bob");
        assert_eq!(waiting.first("bob"), Some(&letter(1)));
        assert!(waiting.expire(start + EXPIRE - LOOK).is_empty());
        assert_eq!(waiting.expire(start + EXPIRE), ["bob"]);
        assert!(waiting.expire(start + EXPIRE).is_empty() && !waiting.has("bob"));
        assert_eq!((waiting.bytes, waiting.due()), (0, None));
    }

    #[test]
    fn what_waits_is_bounded_and_what_was_read_makes_room() {
        let start = Instant::now();
        let mut waiting = Waiting::new(30, start);
        assert!(waiting.push("bob", letter(0), start) && waiting.push("eve", letter(1), start));
        assert!(!waiting.push("joe", letter(2), start));
        waiting.read("bob");
        assert!(waiting.push("joe", letter(2), start) && !waiting.has("bob"));
    }
}
