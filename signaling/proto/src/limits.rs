//! Sizes and rates.

/// What one client may ask for. Named to it in `joined`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame, in bytes. A longer one is answered with an error and otherwise ignored.
    pub frame_bytes: usize,
    /// Frames a second, on average; a burst may have twice as many.
    pub messages_per_second: u32,
    /// Bytes that may wait for a client that reads slowly, before its connection is closed as resumable.
    pub queue_bytes: usize,
    /// Frames that were refused, less one a second, before the connection is closed.
    pub faults: u32,
}

impl Default for Limits {
    /// An SDP with many codecs has 10 KB; a browser sends some 30 candidates at once.
    fn default() -> Self {
        Self { frame_bytes: 64 << 10, messages_per_second: 100, queue_bytes: 1 << 20, faults: 256 }
    }
}

/// A token bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: u64,
    size: u64,
    /// In thousandths of a token.
    level: u64,
    at_ms: u64,
}

impl Bucket {
    /// A full bucket of `size` tokens that gains `rate` a second.
    #[must_use]
    pub fn new(rate: u32, size: u32) -> Self {
        let size = u64::from(size) * 1000;
        Self { rate: rate.into(), size, level: size, at_ms: 0 }
    }

    /// Takes a token at `now_ms`; false when there is none. A time before the last one counts as the last.
    pub fn take(&mut self, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(self.rate);
        self.at_ms = self.at_ms.max(now_ms);
        self.level = self.level.saturating_add(gained).min(self.size);
        let some = self.level >= 1000;
        if some {
            self.level -= 1000;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut bucket = Bucket::new(10, 20);
        assert_eq!((0..100).filter(|_| bucket.take(5)).count(), 20);
        assert_eq!((0..100).filter(|i| bucket.take(5 + i * 10)).count(), 9);
        assert_eq!((0..100).filter(|_| bucket.take(1_000_000)).count(), 20);
    }
}
