//! Allocations made and deleted as fast as the server does it. Each cycle is what a
//! client that comes for the first time does: a socket of its own, an Allocate that is
//! challenged, the same with credentials, a Refresh of zero seconds.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::client::{self, SECRET, SERVER};
use crate::stun::{Answer, Challenge, Method, Request, User};

/// Sessions under way at once.
const SESSIONS: usize = 64;
/// When a request is sent again.
const PATIENCE: Duration = Duration::from_millis(100);

/// What came of a measured time.
#[derive(Debug, Default)]
pub(crate) struct Cycles {
    /// Allocated and deleted, each with a success answer.
    pub(crate) done: u64,
    /// Sessions given up for an answer that is neither success nor challenge.
    pub(crate) refused: u64,
    /// The error code of the last such answer.
    pub(crate) code: Option<u16>,
    /// Requests sent again.
    pub(crate) repeated: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ask,
    Allocate,
    Delete,
}

struct Slot {
    socket: UdpSocket,
    user: User,
    challenge: Option<Challenge>,
    stage: Stage,
    request: u64,
    sent: Instant,
}

/// The driver of [`SESSIONS`] sessions.
pub(crate) struct Churn {
    slots: Vec<Slot>,
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
    opened: usize,
    expires: u64,
    cycles: Cycles,
}

impl Churn {
    /// Opens the sessions and sends their first requests.
    ///
    /// # Errors
    /// When there are no sockets.
    pub(crate) fn start() -> Result<Self> {
        let mut churn = Churn {
            slots: Vec::with_capacity(SESSIONS),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(SESSIONS),
            opened: 0,
            expires: client::expiry(),
            cycles: Cycles::default(),
        };
        for index in 0..SESSIONS {
            let slot = churn.open(index)?;
            churn.slots.push(slot);
        }
        Ok(churn)
    }

    /// Goes on for `time`; what was done meanwhile.
    ///
    /// # Errors
    /// When there are no sockets.
    pub(crate) fn run(&mut self, time: Duration) -> Result<Cycles> {
        self.cycles = Cycles::default();
        let end = Instant::now() + time;
        let mut buffer = [0; 2048];
        let mut next_check = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&Timespec::default()))?;
            for position in 0..self.events.len() {
                let index = self.events[position].data.u64() as usize;
                if let Ok(length) = self.slots[index].socket.recv(&mut buffer) {
                    self.take(index, &buffer[..length])?;
                }
            }
            if Instant::now() > next_check {
                next_check += PATIENCE;
                self.repeat_late();
            }
        }
        Ok(std::mem::take(&mut self.cycles))
    }

    fn take(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let slot = &mut self.slots[index];
        let Some(answer) = Answer::read(bytes, slot.request) else { return Ok(()) };
        match (slot.stage, answer.error()) {
            (_, Some(401 | 438)) => {
                slot.challenge = Challenge::from_answer(&answer, &slot.user);
                if slot.stage == Stage::Ask {
                    slot.stage = Stage::Allocate;
                }
                slot.send();
            }
            (Stage::Allocate, None) => {
                slot.stage = Stage::Delete;
                slot.send();
            }
            (Stage::Delete, None) => {
                self.cycles.done += 1;
                self.slots[index] = self.open(index)?;
            }
            (_, code) => {
                self.cycles.refused += 1;
                self.cycles.code = code;
                self.slots[index] = self.open(index)?;
            }
        }
        Ok(())
    }

    /// A new session from an address and port not used for long: coturn refuses a
    /// five-tuple for a second after its allocation was deleted.
    fn open(&mut self, index: usize) -> Result<Slot> {
        self.opened += 1;
        let host = (self.opened % 50_000) as u16 + 1;
        let [high, low] = host.to_be_bytes();
        let slot = Slot {
            socket: client::socket(Ipv4Addr::new(127, 1, high, low), SERVER)?,
            user: User::mint(SECRET, self.opened, self.expires),
            challenge: None,
            stage: Stage::Ask,
            request: (self.opened as u64) << 8,
            sent: Instant::now(),
        };
        slot.socket.set_nonblocking(true)?;
        let token = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &slot.socket, token, epoll::EventFlags::IN)?;
        let mut slot = slot;
        slot.send();
        Ok(slot)
    }

    fn repeat_late(&mut self) {
        for slot in &mut self.slots {
            if slot.sent.elapsed() > PATIENCE {
                self.cycles.repeated += 1;
                slot.send();
            }
        }
    }
}

impl Slot {
    fn send(&mut self) {
        self.request += 1;
        let request = match self.stage {
            Stage::Ask | Stage::Allocate => Request::new(Method::Allocate, self.request).udp(),
            Stage::Delete => Request::new(Method::Refresh, self.request).lifetime(0),
        };
        self.sent = Instant::now();
        // A send that fails is sent again when it is late.
        self.socket.send(&request.finish(self.challenge.as_ref())).ok();
    }
}
