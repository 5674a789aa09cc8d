//! How many errors unauthenticated sources may cause: a bounded table of token buckets, one per
//! source prefix, so that nobody uses the server to flood a forged address.

use ahash::RandomState;
use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Buckets in the table. Two prefixes that fall into one share it.
const BUCKETS: usize = 4096;

/// How many replies a prefix gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Replies a second, in the long run. 0 refuses all.
    pub per_second: u32,
    /// Replies at once.
    pub burst: u32,
}

impl Default for Rate {
    /// 500 a second and 1,000 at once for a /24 or a /48: about 50 KB/s at a forged victim, and
    /// enough for the calls of a building behind one address.
    fn default() -> Self {
        Self { per_second: 500, burst: 1000 }
    }
}

#[derive(Debug)]
pub(crate) struct ErrorBudget {
    rate: Rate,
    hasher: RandomState,
    /// Tokens spent, in thousandths, and when that was counted. `None` until first used.
    buckets: Box<[Option<(u64, Instant)>]>,
}

impl ErrorBudget {
    pub(crate) fn new(rate: Rate, hasher: RandomState) -> Self {
        Self { rate, hasher, buckets: vec![None; BUCKETS].into() }
    }

    /// Takes one reply from the budget of `source`'s prefix, if there is one left.
    pub(crate) fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        // a loopback source is never forged: the kernel drops such packets from outside
        if source.is_loopback() {
            return true;
        }
        let slot = self.hasher.hash_one(source_prefix(source)) as usize % BUCKETS;
        let (spent, since) = self.buckets[slot].unwrap_or((0, now));
        let earned = now.saturating_duration_since(since).min(Duration::from_secs(3600)).as_millis() as u64;
        let spent = spent.saturating_sub(earned * u64::from(self.rate.per_second)) + 1000;
        if spent > u64::from(self.rate.burst) * 1000 {
            return false;
        }
        self.buckets[slot] = Some((spent, now.max(since)));
        true
    }
}

/// /24 of IPv4, /48 of IPv6: what one source can usually send from. A number for each.
#[must_use]
pub fn source_prefix(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => source_prefix(IpAddr::V4(ip)),
            None => (u128::from(Ipv6Addr::from(ip.octets())) >> 80) as u64 | 1 << 63,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn budget(per_second: u32, burst: u32) -> ErrorBudget {
        ErrorBudget::new(Rate { per_second, burst }, RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn a_prefix_gets_its_burst_and_then_its_rate() {
        let mut budget = budget(10, 5);
        let start = Instant::now();
        let taken = (0..50).filter(|i| budget.take([192, 0, 2, *i].into(), start)).count();
        assert_eq!(taken, 5, "one /24 shares one bucket");
        let mut later = 0;
        for ms in (1..=1000).step_by(10) {
            later += usize::from(budget.take([192, 0, 2, 1].into(), start + Duration::from_millis(ms)));
        }
        assert!((9..=10).contains(&later), "{later}");
    }

    #[test]
    fn another_prefix_is_not_charged() {
        let mut budget = budget(1, 1);
        let now = Instant::now();
        assert!(budget.take([192, 0, 2, 1].into(), now));
        assert!(!budget.take([192, 0, 2, 1].into(), now));
        assert!(budget.take([198, 51, 100, 1].into(), now));
        assert!(budget.take("2001:db8::1".parse().unwrap(), now));
        assert!(!budget.take("2001:db8::ffff:1".parse().unwrap(), now));
    }

    #[test]
    fn loopback_is_free() {
        let mut budget = budget(0, 0);
        assert!(budget.take([127, 0, 0, 1].into(), Instant::now()));
        assert!(!budget.take([192, 0, 2, 1].into(), Instant::now()));
    }
}
