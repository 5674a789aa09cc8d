//! How many bytes an allocation may relay: a token bucket for each direction, kept as the one instant
//! at which it will be full again.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

/// The least that a bucket holds, so that the longest datagram passes at any rate.
const MIN_BURST: u64 = 65_535;
const NANOS: u128 = 1_000_000_000;

/// The two buckets of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    rate: NonZeroU64,
    /// When each is full. What is not after now, is.
    full: [Instant; 2],
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToPeer,
    ToClient,
}

impl Meter {
    /// Full buckets, that gain `rate` bytes a second and hold a second's worth.
    pub(crate) fn new(rate: NonZeroU64, now: Instant) -> Self {
        Self { rate, full: [now; 2] }
    }

    /// Takes so many bytes, if they are there.
    pub(crate) fn take(&mut self, direction: Direction, bytes: usize, now: Instant) -> bool {
        let full = &mut self.full[direction as usize];
        let Some(after) = (*full).max(now).checked_add(cost(self.rate, bytes)) else { return false };
        if after.duration_since(now) > capacity(self.rate) {
            return false;
        }
        *full = after;
        true
    }

    /// Takes bytes that have been relayed already. If they were not all there: when the debt will be
    /// paid.
    pub(crate) fn owe(&mut self, direction: Direction, bytes: usize, now: Instant) -> Option<Instant> {
        let full = &mut self.full[direction as usize];
        *full = (*full).max(now).checked_add(cost(self.rate, bytes)).unwrap_or(*full);
        full.checked_sub(capacity(self.rate)).filter(|paid| *paid > now)
    }
}

// Rounded up for what is taken and down for what is held, so that nobody gets more than the rate.

fn cost(rate: NonZeroU64, bytes: usize) -> Duration {
    nanos((bytes as u128 * NANOS).div_ceil(rate.get().into()))
}

fn capacity(rate: NonZeroU64) -> Duration {
    nanos(u128::from(rate.get().max(MIN_BURST)) * NANOS / u128::from(rate.get()))
}

fn nanos(n: u128) -> Duration {
    Duration::from_nanos(u64::try_from(n).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn in_any_time_no_more_passes_than_a_burst_and_the_rate(
            rate in prop_oneof![1u64..2000, 50_000u64..10_000_000, any::<u64>().prop_map(|n| n.max(1))],
            steps in proptest::collection::vec((0u64..2_000_000_000, 0usize..65_536), 1..200),
        ) {
            let start = Instant::now();
            let mut meter = Meter::new(NonZeroU64::new(rate).unwrap(), start);
            let mut now = start;
            let mut passed: Vec<(Instant, u64)> = Vec::new();
            for (pause, bytes) in steps {
                now += Duration::from_nanos(pause);
                if meter.take(Direction::ToPeer, bytes, now) {
                    passed.push((now, bytes as u64));
                }
            }
            for (i, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0u128;
                for (at, bytes) in &passed[i..] {
                    sum += u128::from(*bytes);
                    let earned = u128::from(rate) * at.duration_since(*from).as_nanos() / NANOS;
                    prop_assert!(sum <= u128::from(rate.max(MIN_BURST)) + earned + 1);
                }
            }
        }

        #[test]
        fn who_keeps_to_the_rate_loses_nothing(
            rate in 1000u64..10_000_000,
            sizes in proptest::collection::vec(1usize..1500, 1..200),
        ) {
            let mut now = Instant::now();
            let mut meter = Meter::new(NonZeroU64::new(rate).unwrap(), now);
            for bytes in sizes {
                prop_assert!(meter.take(Direction::ToClient, bytes, now));
                now += Duration::from_nanos((bytes as u64 * 1_000_000_000).div_ceil(rate));
            }
        }

        #[test]
        fn who_waits_until_their_debt_is_paid_keeps_to_the_rate(
            rate in 1000u64..10_000_000,
            sizes in proptest::collection::vec(1usize..200_000, 1..100),
        ) {
            let start = Instant::now();
            let mut meter = Meter::new(NonZeroU64::new(rate).unwrap(), start);
            let (mut now, mut sum, mut last) = (start, 0u128, 0);
            for bytes in sizes {
                let earned = u128::from(rate) * now.duration_since(start).as_nanos() / NANOS;
                prop_assert!(sum <= u128::from(rate.max(MIN_BURST)) + earned + last + 1);
                sum += bytes as u128;
                last = bytes as u128;
                now = meter.owe(Direction::ToPeer, bytes, now).unwrap_or(now);
            }
        }

        #[test]
        fn what_was_refused_costs_nothing_and_passes_later(rate in 1u64..10_000_000, bytes in 1usize..65_536) {
            let start = Instant::now();
            let mut meter = Meter::new(NonZeroU64::new(rate).unwrap(), start);
            while meter.take(Direction::ToPeer, bytes, start) {}
            for _ in 0..100 {
                prop_assert!(!meter.take(Direction::ToPeer, bytes, start));
            }
            prop_assert!(meter.take(Direction::ToClient, bytes, start), "the other direction");
            let enough = Duration::from_nanos((bytes as u64 * 1_000_000_000).div_ceil(rate));
            prop_assert!(meter.take(Direction::ToPeer, bytes, start + enough));
        }
    }
}
