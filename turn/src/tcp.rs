//! Clients over TCP: frames in, a bounded queue out. A slow client delays and loses its own data,
//! nobody else's.

use mio::net::TcpStream;
use rtc_turn_proto::{
    Flow,
    channel_data::Channels,
    framing::{self, Frame},
};
use std::{
    io::{self, Read, Write},
    time::Instant,
};

/// What one client's queue may hold, in bytes.
const MAX_QUEUE: usize = 256 << 10;
/// A queue that grew beyond this gives its memory back when it is empty.
const KEEP: usize = 16 << 10;

/// A client's connection. Idle, it has no buffers.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) flow: Flow,
    /// The start of a frame whose end is not here yet.
    partial: Vec<u8>,
    /// Frames that wait to be written.
    queue: Vec<u8>,
    pub(crate) last_seen: Instant,
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadState {
    /// There is no more for now.
    Drained,
    /// There may be more.
    More,
    /// The client is gone, or the stream cannot be followed.
    Closed,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, flow: Flow, now: Instant) -> Self {
        Self { stream, flow, partial: Vec::new(), queue: Vec::new(), last_seen: now }
    }

    /// Reads once into `buffer` and hands each whole frame to `each`.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        channels: Channels,
        mut each: impl FnMut(&[u8]),
    ) -> ReadState {
        let length = loop {
            match (&self.stream).read(buffer) {
                Ok(0) => return ReadState::Closed,
                Ok(length) => break length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return ReadState::Drained,
                Err(_) => return ReadState::Closed,
            }
        };
        let whole = length == buffer.len();
        let held = std::mem::take(&mut self.partial);
        let joined;
        let mut rest: &[u8] = if held.is_empty() {
            &buffer[..length]
        } else {
            joined = [&held[..], &buffer[..length]].concat();
            &joined
        };
        loop {
            match framing::next(rest, channels) {
                Frame::Whole(frame) => {
                    each(frame);
                    rest = &rest[frame.len()..];
                }
                Frame::Partial => break,
                Frame::Broken => return ReadState::Closed,
            }
        }
        self.partial.extend_from_slice(rest);
        if whole { ReadState::More } else { ReadState::Drained }
    }

    /// Queues frames. `false` when the queue is full and they were left out.
    pub(crate) fn push(&mut self, frames: &[u8]) -> bool {
        if self.queue.len() + frames.len() > MAX_QUEUE {
            return false;
        }
        self.queue.extend_from_slice(frames);
        true
    }

    /// Writes what the client takes. `false` when it is gone.
    pub(crate) fn flush(&mut self) -> bool {
        let mut written = 0;
        let alive = loop {
            if written == self.queue.len() {
                break true;
            }
            match (&self.stream).write(&self.queue[written..]) {
                Ok(0) => break false,
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break e.kind() == io::ErrorKind::WouldBlock,
            }
        };
        self.queue.drain(..written);
        if self.queue.is_empty() && self.queue.capacity() > KEEP {
            self.queue = Vec::new();
        }
        alive
    }
}
