//! How many clients may be beginning, and may be there, in all and from one source prefix: so that one
//! network's flood takes its own places, not everybody's.

use rtc_turn_proto::source_prefix;
use std::{collections::HashMap, net::IpAddr};

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    handshakes: usize,
    all: usize,
}

/// The places of one worker.
#[derive(Debug)]
pub(crate) struct Places {
    max: Held,
    share: Held,
    held: Held,
    /// Only prefixes that hold some.
    by_prefix: HashMap<u64, Held>,
}

impl Places {
    /// One prefix gets one part in `share` of each, and at least one.
    pub(crate) fn new(handshakes: usize, all: usize, share: usize) -> Self {
        let max = Held { handshakes, all };
        let share = Held { handshakes: handshakes.div_ceil(share), all: all.div_ceil(share) };
        Self { max, share, held: Held::default(), by_prefix: HashMap::new() }
    }

    /// Takes a place for a handshake, if there is one.
    pub(crate) fn take(&mut self, source: IpAddr) -> bool {
        let key = source_prefix(source);
        let prefix = self.by_prefix.get(&key).copied().unwrap_or_default();
        for (held, max) in [(self.held, self.max), (prefix, self.share)] {
            if held.handshakes >= max.handshakes || held.all >= max.all {
                return false;
            }
        }
        for held in [&mut self.held, self.by_prefix.entry(key).or_default()] {
            held.handshakes += 1;
            held.all += 1;
        }
        true
    }

    /// A handshake is done; its place is an established client's now.
    pub(crate) fn established(&mut self, source: IpAddr) {
        for held in [&mut self.held, self.by_prefix.entry(source_prefix(source)).or_default()] {
            held.handshakes = held.handshakes.saturating_sub(1);
        }
    }

    /// Gives a place back.
    pub(crate) fn give(&mut self, source: IpAddr, established: bool) {
        if !established {
            self.established(source);
        }
        let key = source_prefix(source);
        self.held.all = self.held.all.saturating_sub(1);
        if let Some(prefix) = self.by_prefix.get_mut(&key) {
            prefix.all = prefix.all.saturating_sub(1);
            if prefix.all == 0 {
                self.by_prefix.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(prefix: u8, host: u8) -> IpAddr {
        [192, 0, prefix, host].into()
    }

    #[test]
    fn a_prefix_gets_its_share_and_leaves_the_rest() {
        let mut places = Places::new(8, 16, 4);
        let taken = |places: &mut Places, prefix| (0..20).filter(|i| places.take(ip(prefix, *i))).count();
        assert_eq!(taken(&mut places, 1), 2, "handshakes of one prefix");
        places.established(ip(1, 0));
        places.established(ip(1, 1));
        assert_eq!(taken(&mut places, 1), 2, "clients of one prefix");
        places.established(ip(1, 2));
        places.established(ip(1, 3));
        assert_eq!(taken(&mut places, 1), 0, "clients of one prefix");
        assert_eq!((2..7).map(|prefix| taken(&mut places, prefix)).sum::<usize>(), 8, "handshakes of all");
    }

    #[test]
    fn places_come_back_and_nothing_is_kept() {
        let mut places = Places::new(2, 2, 1);
        for established in [true, false] {
            for _ in 0..10 {
                assert!(places.take(ip(1, 1)));
                if established {
                    places.established(ip(1, 1));
                }
                places.give(ip(1, 1), established);
            }
        }
        assert!(places.by_prefix.is_empty());
        assert_eq!((places.held.all, places.held.handshakes), (0, 0));
    }
}
