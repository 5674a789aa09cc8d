//! The worker's timer, beside its sockets: it stays set over many turns of the loop, where a timeout of the poll would
//! be one more timer to set and to cancel each time that a packet wakes the worker.

use mio::{Interest, Registry, Token, unix::SourceFd};
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    /// When it rings, if it is set.
    at: Option<Instant>,
}

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, at: None })
    }

    /// Has it ring at `due` or before. One that is too early leads to a turn of the loop, and to the next.
    pub(super) fn set(&mut self, due: Instant) -> io::Result<()> {
        if self.at.is_some_and(|at| at <= due) {
            return Ok(());
        }
        // nothing at all would stop it
        let left = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        self.timer.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
        self.at = Some(due);
        Ok(())
    }

    /// It has rung. That makes it readable once, however it is read: the poll tells of changes alone.
    pub(super) fn rang(&mut self) {
        self.at = None;
    }
}
