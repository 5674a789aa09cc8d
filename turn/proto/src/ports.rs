//! A worker's share of the relay ports, one bit per port.
//!
//! Workers split the range in pairs of an even port and the next odd one, so that any of them can
//! serve EVEN-PORT with a reservation (RFC 8656, section 7.2) without asking another.

use rand::{Rng, RngCore};
use rtc_credentials::PortRange;

#[derive(Debug)]
pub(crate) struct PortPool {
    /// The even port of the first pair.
    first: u32,
    /// How far apart a worker's pairs are, in ports.
    step: u32,
    /// One bit per port, set when it is taken or outside the range; pairs are adjacent.
    taken: Vec<u64>,
    bits: u32,
    free: u32,
}

/// What port is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    Even,
    /// An even port whose odd neighbour is free too; both are taken.
    Pair,
}

impl PortPool {
    /// The share of worker `index` of `count`.
    pub(crate) fn new(range: PortRange, index: u16, count: u16) -> Self {
        let (min, max) = (u32::from(range.min), u32::from(range.max));
        let (first_pair, last_pair) = (min / 2, max / 2);
        let (index, count) = (u32::from(index), u32::from(count.max(1)));
        let pairs = (last_pair + 1).saturating_sub(first_pair + index).div_ceil(count);
        let bits = pairs * 2;
        let mut pool = Self {
            first: (first_pair + index) * 2,
            step: count * 2,
            taken: vec![0; bits.div_ceil(64) as usize],
            bits,
            free: 0,
        };
        for bit in 0..pool.taken.len() as u32 * 64 {
            let inside = bit < bits && (min..=max).contains(&pool.port_of(bit));
            if inside { pool.free += 1 } else { pool.set(bit, true) }
        }
        pool
    }

    /// How many ports are free.
    #[cfg(test)]
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Takes a port at random, with a random place to look from (RFC 6056, section 3.3.2).
    pub(crate) fn take(&mut self, wanted: Wanted, rng: &mut impl RngCore) -> Option<u16> {
        if self.free == 0 {
            return None;
        }
        let words = self.taken.len();
        let (start, turn) = (rng.random_range(0..words), rng.random_range(0..64u32));
        for word in (0..=words).map(|i| (start + i) % words) {
            let free = !self.taken[word];
            let fits = match wanted {
                Wanted::Any => free,
                Wanted::Even => free & 0x5555_5555_5555_5555,
                Wanted::Pair => free & (free >> 1) & 0x5555_5555_5555_5555,
            };
            if fits != 0 {
                let bit = word as u32 * 64 + (fits.rotate_right(turn).trailing_zeros() + turn) % 64;
                self.claim(bit);
                if wanted == Wanted::Pair {
                    self.claim(bit + 1);
                }
                return u16::try_from(self.port_of(bit)).ok();
            }
        }
        None
    }

    /// Gives a port back.
    pub(crate) fn give(&mut self, port: u16) {
        if let Some(bit) = self.bit_of(port)
            && self.taken[bit as usize / 64] & (1 << (bit % 64)) != 0
        {
            self.set(bit, false);
            self.free += 1;
        }
    }

    fn claim(&mut self, bit: u32) {
        self.set(bit, true);
        self.free -= 1;
    }

    fn set(&mut self, bit: u32, taken: bool) {
        let (word, mask) = (bit as usize / 64, 1 << (bit % 64));
        if taken { self.taken[word] |= mask } else { self.taken[word] &= !mask }
    }

    fn port_of(&self, bit: u32) -> u32 {
        self.first + (bit / 2) * self.step + bit % 2
    }

    fn bit_of(&self, port: u16) -> Option<u32> {
        let offset = u32::from(port).checked_sub(self.first)?;
        let bit = offset / self.step * 2 + offset % self.step;
        (offset % self.step < 2 && bit < self.bits).then_some(bit)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn workers_share_the_range_and_nothing_else(min in 1u16..=65535, length in 0u16..300, count in 1u16..5) {
            let range = PortRange { min, max: min.saturating_add(length) };
            let mut rng = StdRng::seed_from_u64(1);
            let mut all = BTreeSet::new();
            for index in 0..count {
                let mut pool = PortPool::new(range, index, count);
                while let Some(port) = pool.take(Wanted::Any, &mut rng) {
                    prop_assert!(all.insert(port), "port {} twice", port);
                }
            }
            prop_assert_eq!(all, (range.min..=range.max).collect::<BTreeSet<_>>());
        }

        #[test]
        fn ports_come_back(takes in proptest::collection::vec(0u8..4, 0..200)) {
            let mut pool = PortPool::new(PortRange { min: 5001, max: 5050 }, 1, 2);
            let mut rng = StdRng::seed_from_u64(2);
            let whole = pool.free();
            let mut held = Vec::new();
            for take in takes {
                match take {
                    0 => held.extend(pool.take(Wanted::Any, &mut rng)),
                    1 => held.extend(pool.take(Wanted::Even, &mut rng).inspect(|p| assert_eq!(p % 2, 0))),
                    2 => held.extend(pool.take(Wanted::Pair, &mut rng).into_iter().flat_map(|p| {
                        assert_eq!(p % 2, 0);
                        [p, p + 1]
                    })),
                    _ => if let Some(port) = held.pop() { pool.give(port) },
                }
                prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
                prop_assert_eq!(pool.free() as usize + held.len(), whole as usize);
            }
        }
    }

    #[test]
    fn a_port_given_twice_or_not_ours_changes_nothing() {
        let mut pool = PortPool::new(PortRange { min: 5000, max: 5007 }, 0, 2);
        let before = pool.free();
        pool.give(5000);
        pool.give(5002);
        pool.give(1);
        pool.give(65535);
        assert_eq!(pool.free(), before);
    }
}
