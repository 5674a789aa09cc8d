//! How often sessions ask that have no connection of their own. Each replica counts by itself.

use rtc_signaling_proto::{Limits, MemberId, Session, Step, limits::Bucket};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A session that was not heard of for so long has all its tokens again, and is forgotten.
const FORGET: Duration = Duration::from_secs(10);
/// Sessions that are remembered before those are looked for that can be forgotten.
const SWEEP: usize = 1024;

#[derive(Debug)]
struct Pace {
    frames: Session,
    requests: Bucket,
    last: Instant,
}

/// The sessions that asked something lately.
#[derive(Debug)]
pub(crate) struct Paces {
    limits: Limits,
    start: Instant,
    sessions: Mutex<HashMap<MemberId, Pace>>,
}

impl Paces {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, start: Instant::now(), sessions: Mutex::default() }
    }

    /// A frame of a session that has shown its token.
    pub(super) fn frame(&self, member: &MemberId, text: &str) -> Step {
        let now = self.now();
        self.with(member, |pace| pace.frames.text(text, now))
    }

    /// Whether a session may open a stream or poll now.
    pub(super) fn may_ask(&self, member: &MemberId) -> bool {
        let now = self.now();
        self.with(member, |pace| pace.requests.take(now))
    }

    /// A session's frames before it has one.
    pub(super) fn stranger(&self) -> Session {
        Session::new(self.limits)
    }

    /// The time as its sessions have it.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn with<T>(&self, member: &MemberId, act: impl FnOnce(&mut Pace) -> T) -> T {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= SWEEP && sessions.len().is_power_of_two() && !sessions.contains_key(member) {
            sessions.retain(|_, pace| pace.last.elapsed() < FORGET);
        }
        let pace = sessions.entry(member.clone()).or_insert_with(|| {
            let mut frames = Session::new(self.limits);
            frames.entered();
            let rate = self.limits.messages_per_second;
            Pace { frames, requests: Bucket::new(rate, rate.saturating_mul(2)), last: Instant::now() }
        });
        pace.last = Instant::now();
        act(pace)
    }
}
