//! How long to wait before something is tried again.

use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(50);
/// So that an outage is over within seconds of its end.
const LONGEST: Duration = Duration::from_secs(2);
/// What worked for so long does not pay for its past.
const TRUSTED: Duration = Duration::from_secs(10);

/// Pauses that double. A connect is not a success: what was reached and failed again soon after goes on
/// where it was.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    works_since: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST, works_since: None }
    }
}

impl Backoff {
    pub(super) fn worked(&mut self, now: Instant) {
        self.works_since.get_or_insert(now);
    }

    /// It failed; how long to wait, before jitter.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        if self.works_since.take().is_some_and(|since| now - since >= TRUSTED) {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_every_connection_with_an_error_is_asked_ever_more_rarely() {
        let mut now = Instant::now();
        let end = now + Duration::from_secs(60);
        let (mut backoff, mut tries) = (Backoff::default(), 0);
        while now < end {
            // it lets itself be connected to, and then says no
            backoff.worked(now);
            now += backoff.failed(now + Duration::from_millis(5));
            tries += 1;
        }
        assert!(tries < 40, "{tries} tries in a minute");
    }

    #[test]
    fn what_has_worked_for_a_while_is_tried_again_at_once() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.failed(now)).collect();
        assert!(pauses.is_sorted() && pauses[8] == LONGEST);
        backoff.worked(now);
        backoff.worked(now + TRUSTED);
        assert_eq!(backoff.failed(now + TRUSTED), FIRST);
    }
}
