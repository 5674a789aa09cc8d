//! The generator: one thread that sends data through flows both ways and counts what
//! arrives. Saturating, it keeps a window of packets under way, so that the server
//! always has work and no queue overflows; paced, it sends at even distances.

//!
//! It looks for packets where the oldest are due and never waits in the kernel: a poll set
//! would make every delivery call back into it, at the server's expense.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::flow::{self, End};
use crate::sys::{self, Received};

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes of each payload, at least 16, without the ChannelData header.
    pub(crate) payload: usize,
    /// Datagrams sent back to back by one segmented send.
    pub(crate) train: usize,
    /// How many.
    pub(crate) rate: Rate,
}

/// How many packets to send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rate {
    /// As many as the server takes, with at most this many under way in each direction.
    Window(u32),
    /// Packets per second, of all flows and both directions, at even distances.
    PerSecond(u32),
}

/// What arrived in a measured time.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Payloads received at the far end of their flow, both directions.
    pub(crate) delivered: u64,
    /// Payloads that never came.
    pub(crate) lost: u64,
    /// Packets that arrived on a flow not theirs, or changed.
    pub(crate) corrupt: u64,
    /// Sends the system refused.
    pub(crate) refused: u64,
    /// From when they were due until receipt, nanoseconds; filled when paced.
    pub(crate) latencies: Vec<u32>,
    /// The same, of those under way while the generator itself did not run: they say nothing of the server.
    pub(crate) held_up: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct Direction {
    sent: u32,
    /// The sequence number after the highest received.
    seen: u32,
}

/// A send whose arrival is awaited.
struct Awaited {
    flow: usize,
    /// The sequence number after its last datagram.
    until: u32,
    /// When it was sent, or last looked for in vain for long.
    since: Duration,
}

/// The generator's state over a set of flows.
pub(crate) struct Traffic {
    flows: Vec<[End; 2]>,
    directions: Vec<[Direction; 2]>,
    shape: Shape,
    received: Received,
    awaited: [VecDeque<Awaited>; 2],
    buffers: [Vec<u8>; 2],
    next: [usize; 2],
    under_way: [i64; 2],
    start: Instant,
    last_receipt: Duration,
    next_due: Duration,
    /// When the generator last looked at the clock.
    last_turn: Duration,
    /// When it last came back after it had not run for a while.
    back: Duration,
    sent: u64,
    tally: Tally,
}

/// A window this long without any receipt is taken for lost; longer than a server may be kept from
/// its CPU by others, since sending on would fill its queues.
const STALL: Duration = Duration::from_millis(200);

/// A turn takes a few system calls; when one took longer than this, another process, or another machine on the same
/// hardware, had the generator's CPU.
const HELD_UP: Duration = Duration::from_micros(50);

/// How many of the oldest sends are looked for before sending on.
const LOOKS: usize = 4;
/// What is not there after this long is looked for after all others.
const OVERDUE: Duration = Duration::from_millis(1);

impl Traffic {
    /// Takes over flows that are set up.
    ///
    /// # Errors
    /// When the sockets' options cannot be set.
    pub(crate) fn new(flows: Vec<[End; 2]>, shape: Shape) -> Result<Self> {
        for end in flows.iter().flatten().filter(|_| shape.train > 1) {
            sys::set_segment(end.socket.as_fd(), shape.payload + end.header).context("UDP_SEGMENT")?;
        }
        let buffers = [0, 1].map(|side| {
            let header = flows[0][side].header;
            let mut one = vec![0; header + shape.payload];
            if header > 0 {
                flow::write_header(&mut one, shape.payload);
            }
            one.repeat(shape.train)
        });
        Ok(Traffic {
            directions: vec![Default::default(); flows.len()],
            flows,
            shape,
            received: Received::new(),
            awaited: Default::default(),
            buffers,
            next: [0; 2],
            under_way: [0; 2],
            start: Instant::now(),
            last_receipt: Duration::ZERO,
            next_due: Duration::ZERO,
            last_turn: Duration::ZERO,
            back: Duration::ZERO,
            sent: 0,
            tally: Tally::default(),
        })
    }

    /// Sends and receives for `time`; what arrived meanwhile.
    pub(crate) fn run(&mut self, time: Duration) -> Tally {
        self.tally = Tally::default();
        let end = self.start.elapsed() + time;
        self.next_due = self.start.elapsed();
        self.last_turn = self.next_due;
        loop {
            let now = self.start.elapsed();
            if now - self.last_turn > HELD_UP {
                self.back = now;
            }
            self.last_turn = now;
            if now >= end {
                return std::mem::take(&mut self.tally);
            }
            match self.shape.rate {
                Rate::Window(window) => self.fill_windows(i64::from(window), now),
                Rate::PerSecond(rate) => self.send_due(Duration::from_secs(1) / rate, now),
            }
            for side in [0, 1] {
                self.look_for(side, now);
            }
        }
    }

    fn fill_windows(&mut self, window: i64, now: Duration) {
        if now - self.last_receipt > STALL {
            self.under_way = [0; 2];
            self.last_receipt = now;
        }
        // A few at a time from each side, so that both directions stay full and receipt is not starved.
        for _ in 0..8 {
            let mut sent = false;
            for side in [0, 1] {
                if self.under_way[side] + self.shape.train as i64 <= window {
                    self.send(side, now);
                    sent = true;
                }
            }
            if !sent {
                return;
            }
        }
    }

    fn send_due(&mut self, distance: Duration, now: Duration) {
        while self.next_due <= now {
            let side = (self.sent % 2) as usize;
            // Stamped with the time it was due, so that a late generator shows as latency.
            self.send(side, self.next_due);
            self.next_due += distance;
        }
    }

    fn send(&mut self, side: usize, now: Duration) {
        let index = self.next[side];
        self.next[side] = (index + 1) % self.flows.len();
        let end = &self.flows[index][side];
        let direction = &mut self.directions[index][side];
        let stamp = now.as_nanos() as u64;
        let size = end.header + self.shape.payload;
        for datagram in self.buffers[side].chunks_exact_mut(size) {
            let payload = &mut datagram[end.header..];
            payload[0..4].copy_from_slice(&(index as u32).to_be_bytes());
            payload[4..8].copy_from_slice(&direction.sent.to_be_bytes());
            payload[8..16].copy_from_slice(&stamp.to_be_bytes());
            direction.sent = direction.sent.wrapping_add(1);
        }
        if end.socket.send(&self.buffers[side]).is_err() {
            self.tally.refused += 1;
        }
        self.under_way[side] += self.shape.train as i64;
        self.awaited[side].push_back(Awaited { flow: index, until: direction.sent, since: now });
        self.sent += 1;
    }

    /// Looks for what side `side` sent, the oldest first.
    fn look_for(&mut self, side: usize, now: Duration) {
        let mut position = 0;
        while position < LOOKS {
            let Some(awaited) = self.awaited[side].get(position) else { return };
            let (flow, until, since) = (awaited.flow, awaited.until, awaited.since);
            if !self.arrived(flow, side, until) {
                self.receive(flow, side);
            }
            if self.arrived(flow, side, until) {
                self.awaited[side].remove(position);
            } else if now.saturating_sub(since) > OVERDUE {
                // Lost, or held up: a later packet of its flow will tell. It stands in nobody's way.
                self.awaited[side].remove(position);
                self.awaited[side].push_back(Awaited { flow, until, since: now });
                position += 1;
            } else {
                position += 1;
            }
        }
    }

    fn arrived(&self, flow: usize, side: usize, until: u32) -> bool {
        self.directions[flow][side].seen.wrapping_sub(until) as i32 >= 0
    }

    fn receive(&mut self, index: usize, side: usize) {
        let end = &self.flows[index][1 - side];
        // A queued ICMP error is nothing received; the loss shows in the sequence.
        if self.received.receive(end.socket.as_fd()).unwrap_or(0) == 0 {
            return;
        }
        let now = self.start.elapsed();
        self.last_receipt = now;
        for message in self.received.messages() {
            for datagram in message.data.chunks(message.segment) {
                self.tally.count(
                    datagram.get(end.header..).unwrap_or_default(),
                    index,
                    &self.shape,
                    (now, self.back),
                    &mut self.directions[index][side],
                    &mut self.under_way[side],
                );
            }
        }
    }
}

impl Tally {
    fn count(
        &mut self,
        payload: &[u8],
        index: usize,
        shape: &Shape,
        (now, back): (Duration, Duration),
        direction: &mut Direction,
        under_way: &mut i64,
    ) {
        let Some((flow, sequence, stamp)) = fields(payload) else {
            self.corrupt += 1;
            return;
        };
        if flow as usize != index || payload.len() != shape.payload {
            self.corrupt += 1;
            return;
        }
        self.delivered += 1;
        let ahead = sequence.wrapping_sub(direction.seen) as i32;
        if ahead >= 0 {
            direction.seen = sequence.wrapping_add(1);
            self.lost += ahead as u64;
            *under_way = (*under_way - 1 - i64::from(ahead)).max(0);
        } else {
            // Overtaken, hence taken for lost before.
            self.lost = self.lost.saturating_sub(1);
        }
        if let Rate::PerSecond(_) = shape.rate {
            let nanoseconds = (now.as_nanos() as u64).saturating_sub(stamp);
            let held_up = stamp <= back.as_nanos() as u64;
            let list = if held_up { &mut self.held_up } else { &mut self.latencies };
            list.push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
        }
    }
}

fn fields(payload: &[u8]) -> Option<(u32, u32, u64)> {
    Some((
        u32::from_be_bytes(payload.get(0..4)?.try_into().ok()?),
        u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?),
        u64::from_be_bytes(payload.get(8..16)?.try_into().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const SHAPE: Shape = Shape { payload: 16, train: 1, rate: Rate::Window(8) };

    fn payload(flow: u32, sequence: u32) -> Vec<u8> {
        [&flow.to_be_bytes()[..], &sequence.to_be_bytes(), &0u64.to_be_bytes()].concat()
    }

    fn count(sequences: &[u32]) -> (Tally, i64) {
        let (mut tally, mut direction, mut under_way) = (Tally::default(), Direction::default(), 8);
        for sequence in sequences {
            let data = payload(3, *sequence);
            tally.count(&data, 3, &SHAPE, Default::default(), &mut direction, &mut under_way);
        }
        (tally, under_way)
    }

    #[test]
    fn gap_is_lost_and_frees_the_window() {
        let (tally, under_way) = count(&[0, 1, 4]);
        assert_eq!((tally.delivered, tally.lost, under_way), (3, 2, 3));
    }

    #[test]
    fn overtaken_packet_is_delivered_not_lost() {
        let (tally, under_way) = count(&[1, 0, 2]);
        assert_eq!((tally.delivered, tally.lost, under_way), (3, 0, 5));
    }

    #[test]
    fn packet_of_another_flow_is_corrupt_not_delivered() {
        let (mut tally, mut direction, mut under_way) = (Tally::default(), Direction::default(), 8);
        tally.count(&payload(4, 0), 3, &SHAPE, Default::default(), &mut direction, &mut under_way);
        assert_eq!((tally.delivered, tally.corrupt, under_way), (0, 1, 8));
    }
}
