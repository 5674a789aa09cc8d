//! The article's call, many at once: two people enter a room, exchange 40 messages of 10 kB in all, each of which waits
//! for the one before, and leave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::clients::Clients;
use crate::dialect::{Dialect, Heard};

/// Messages of a call.
pub(crate) const MESSAGES: u64 = 40;
/// Bytes of an offer and of an answer, which are the first two messages.
const DESCRIPTION: usize = 2_500;
/// Bytes of each other message: a candidate.
const CANDIDATE: usize = 132;
/// Calls at once.
const AT_ONCE: usize = 32;
/// Pairs of clients that wait for a call: so many that none of them sends faster than a server may allow a client.
const KEPT: usize = 512;
/// When nothing comes for so long, something is lost.
const STALLED: Duration = Duration::from_secs(5);

/// How the load makes calls.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Manner {
    /// Both connect for each call, and close.
    pub(crate) reconnect: bool,
    /// Calls begun a second; as fast as 32 at once can be when none.
    pub(crate) rate: Option<f64>,
}

/// Two clients.
#[derive(Clone, Copy, Default)]
struct Pair {
    /// Of the call that is under way.
    call: u64,
    next: u64,
    sent: Option<Instant>,
    /// Clients of the two that are ready; then, that have left.
    ready: u8,
    left: u8,
}

/// What was measured.
#[derive(Default)]
pub(crate) struct Tally {
    /// Calls that ended.
    pub(crate) calls: u64,
    /// Nanoseconds from when a message was sent until it was read.
    pub(crate) latencies: Vec<u32>,
}

/// The generator.
pub(crate) struct Calls {
    clients: Clients,
    manner: Manner,
    /// The servers of a pair's two clients.
    servers: [SocketAddr; 2],
    pairs: Vec<Pair>,
    waiting: VecDeque<usize>,
    heard: Vec<(usize, Heard)>,
    text: String,
    begun: u64,
    tally: Tally,
    last: Instant,
}

impl Calls {
    /// Connects those who are kept.
    ///
    /// # Errors
    /// When the server does not take them all.
    pub(crate) fn new(dialect: Dialect, servers: [SocketAddr; 2], manner: Manner) -> Result<Self> {
        let pairs = if manner.reconnect { AT_ONCE } else { KEPT };
        let mut calls = Calls {
            clients: Clients::new(dialect)?,
            manner,
            servers,
            pairs: vec![Pair::default(); pairs],
            waiting: (0..pairs).collect(),
            heard: Vec::new(),
            text: String::new(),
            begun: 0,
            tally: Tally::default(),
            last: Instant::now(),
        };
        if !manner.reconnect {
            let place = |number: usize| servers[number % 2];
            connect_all(&mut calls.clients, 2 * pairs, place)?;
        }
        Ok(calls)
    }

    /// Makes calls for a time. Those that are under way at the end go on in the next run.
    ///
    /// # Errors
    /// When a message is lost, doubled or late by seconds, or a connection ends before its call.
    pub(crate) fn run(&mut self, time: Duration) -> Result<Tally> {
        let start = Instant::now();
        let (mut begun, mut heard) = (0.0, std::mem::take(&mut self.heard));
        self.tally = Tally::default();
        self.last = start;
        loop {
            let now = Instant::now();
            if now - start >= time {
                break;
            }
            if now - self.last > STALLED {
                bail!("nothing was heard for five seconds, with {} calls under way", self.under_way());
            }
            let mut patience = (start + time - now).min(Duration::from_millis(100));
            match self.manner.rate {
                None => {
                    while self.under_way() < AT_ONCE {
                        self.begin()?;
                    }
                }
                Some(rate) => {
                    while begun / rate <= (now - start).as_secs_f64() {
                        self.begin()?;
                        begun += 1.0;
                    }
                    let due = start + Duration::from_secs_f64(begun / rate);
                    patience = patience.min(due.saturating_duration_since(now));
                }
            }
            self.clients.listen(patience, &mut heard)?;
            if !heard.is_empty() {
                self.last = Instant::now();
            }
            for (number, word) in heard.drain(..) {
                self.hear(number, word)?;
            }
        }
        self.heard = heard;
        Ok(std::mem::take(&mut self.tally))
    }

    fn under_way(&self) -> usize {
        self.pairs.len() - self.waiting.len()
    }

    fn begin(&mut self) -> Result<()> {
        let Some(pair) = self.waiting.pop_front() else {
            bail!("all {} pairs are in calls: the server does not keep up", self.pairs.len());
        };
        self.begun += 1;
        self.pairs[pair] = Pair { call: self.begun, ..Pair::default() };
        if self.manner.reconnect {
            for side in 0..2 {
                self.clients.connect(2 * pair + side, self.servers[side])?;
            }
            return Ok(());
        }
        self.meet(pair)
    }

    /// The first of the two enters.
    fn meet(&mut self, pair: usize) -> Result<()> {
        if !self.clients.dialect().has_rooms() {
            return self.message(pair);
        }
        self.join(2 * pair)
    }

    fn join(&mut self, number: usize) -> Result<()> {
        let room = self.pairs[number / 2].call;
        self.clients.say(number, &self.clients.dialect().join(room))
    }

    fn message(&mut self, pair: usize) -> Result<()> {
        let Pair { call, next, .. } = self.pairs[pair];
        let from = 2 * pair + usize::from(next % 2 == 1);
        let length = if next < 2 { DESCRIPTION } else { CANDIDATE };
        let dialect = self.clients.dialect();
        dialect.message(&mut self.text, length, call * MESSAGES + next, from, from ^ 1);
        self.pairs[pair].sent = Some(Instant::now());
        self.clients.say(from, &self.text)
    }

    fn hear(&mut self, number: usize, word: Heard) -> Result<()> {
        let (index, side) = (number / 2, number % 2);
        let pair = &mut self.pairs[index];
        match word {
            Heard::Ready => {
                pair.ready += 1;
                if pair.ready == 2 {
                    self.meet(index)?;
                }
            }
            Heard::Entered if side == 0 => self.join(number ^ 1)?,
            Heard::Peer if side == 0 => self.message(index)?,
            Heard::Message(tag) => {
                let expected = pair.call * MESSAGES + pair.next;
                let to = usize::from(pair.next.is_multiple_of(2));
                let Some(sent) = pair.sent.take().filter(|_| tag == expected && side == to) else {
                    bail!("a message came that is lost, doubled or not for this client");
                };
                pair.next += 1;
                let nanos = u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX);
                self.tally.latencies.push(nanos);
                if self.pairs[index].next < MESSAGES {
                    self.message(index)?;
                } else {
                    self.end(index)?;
                }
            }
            Heard::Left if !self.manner.reconnect => self.left(index),
            Heard::Gone if self.manner.reconnect && pair.next == MESSAGES => self.left(index),
            Heard::Gone => bail!("the server closed a connection"),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, pair: usize) -> Result<()> {
        for from in [2 * pair, 2 * pair + 1] {
            let dialect = self.clients.dialect();
            if dialect.has_rooms() || !self.manner.reconnect {
                self.clients.say(from, &dialect.leave(from, from ^ 1))?;
            }
            if self.manner.reconnect {
                self.clients.close(from)?;
            }
        }
        Ok(())
    }

    fn left(&mut self, index: usize) {
        let pair = &mut self.pairs[index];
        pair.left += 1;
        if pair.left == 2 {
            self.tally.calls += 1;
            self.waiting.push_back(index);
        }
    }
}

/// Connects clients `0..count`, some at a time, until all are ready.
///
/// # Errors
/// When the server does not take them all in time.
pub(crate) fn connect_all(
    clients: &mut Clients,
    count: usize,
    server: impl Fn(usize) -> SocketAddr,
) -> Result<()> {
    let (mut begun, mut ready, mut heard) = (0, 0, Vec::new());
    let mut last = Instant::now();
    while ready < count {
        while begun < count && begun - ready < 64 {
            clients.connect(begun, server(begun))?;
            begun += 1;
        }
        clients.listen(Duration::from_millis(100), &mut heard)?;
        for (_, word) in heard.drain(..) {
            if word == Heard::Gone {
                bail!("the server closed a connection after {ready} were ready");
            }
            ready += usize::from(word == Heard::Ready);
            last = Instant::now();
        }
        if last.elapsed() > STALLED {
            bail!("the server took {ready} of {count} clients");
        }
    }
    Ok(())
}
