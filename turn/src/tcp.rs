//! Clients over TCP, with TLS or without: frames in, a bounded queue out. A slow client delays and
//! loses its own data, nobody else's.

use crate::tls::Session;
use mio::net::TcpStream;
use rtc_turn_proto::{
    Flow,
    channel_data::Channels,
    framing::{self, Frame},
    proxy_protocol::{self, Header},
};
use std::{
    io::{self, Read, Write},
    time::Instant,
};

/// What one client's queue may hold, in bytes.
const MAX_QUEUE: usize = 256 << 10;
/// A queue that grew beyond this gives its memory back when it is empty.
const KEEP: usize = 16 << 10;

/// A client's connection. Idle, it has no buffers but those of TLS.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) flow: Flow,
    tls: Option<Box<Session>>,
    /// Whether a load balancer is to say first who the client is.
    awaits_header: bool,
    /// The start of a frame, or of that header, whose end is not here yet.
    partial: Vec<u8>,
    /// Frames that wait to be written.
    queue: Vec<u8>,
    pub(crate) began: Instant,
    pub(crate) last_seen: Instant,
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadState {
    /// There is nothing for now.
    Empty,
    /// There is no more for now, but the end may follow at once.
    Drained,
    /// There may be more.
    More,
    /// The client is gone, or the stream cannot be followed.
    Closed,
    /// The same, as the load balancer has not said who the client is.
    NoHeader,
}

impl Connection {
    pub(crate) fn new(
        stream: TcpStream,
        flow: Flow,
        tls: Option<Session>,
        awaits_header: bool,
        now: Instant,
    ) -> Self {
        let tls = tls.map(Box::new);
        let (partial, queue) = (Vec::new(), Vec::new());
        Self { stream, flow, tls, awaits_header, partial, queue, began: now, last_seen: now }
    }

    /// Whether there has to be more before the client's first message: a load balancer's header, or
    /// TLS's handshake.
    pub(crate) fn is_beginning(&self) -> bool {
        self.awaits_header || self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Reads once into `buffer` and hands each whole frame to `each`, with the flow that it is of. Over TLS that may bring forth
    /// something to [`Self::flush`].
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        channels: Channels,
        mut each: impl FnMut(&Flow, &[u8]),
    ) -> ReadState {
        let length = loop {
            match (&self.stream).read(buffer) {
                Ok(0) => return ReadState::Closed,
                Ok(length) => break length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return ReadState::Empty,
                Err(_) => return ReadState::Closed,
            }
        };
        let state = if length == buffer.len() { ReadState::More } else { ReadState::Drained };
        let mut received = &buffer[..length];
        let header;
        if self.awaits_header {
            header = [&std::mem::take(&mut self.partial)[..], received].concat();
            match proxy_protocol::parse(&header) {
                Header::Whole { client, length } => {
                    self.awaits_header = false;
                    self.flow.client = client.unwrap_or(self.flow.client);
                    received = &header[length..];
                }
                Header::Partial => {
                    self.partial = header;
                    return state;
                }
                Header::Broken => return ReadState::NoHeader,
            }
        }
        let flow = self.flow;
        let mut each = |frame: &[u8]| each(&flow, frame);
        let followed = match &mut self.tls {
            None => {
                let held = std::mem::take(&mut self.partial);
                let joined;
                if !held.is_empty() {
                    joined = [&held[..], received].concat();
                    received = &joined;
                }
                let rest = frames(received, channels, &mut each);
                self.partial.extend_from_slice(rest.unwrap_or_default());
                rest.is_some()
            }
            Some(tls) => {
                let mut plain = std::mem::take(&mut self.partial);
                let mut followed = true;
                while followed && !received.is_empty() {
                    let open = tls.decrypt(&mut received, &mut plain);
                    let rest = frames(&plain, channels, &mut each).map(<[u8]>::len);
                    plain.drain(..plain.len() - rest.unwrap_or(0));
                    followed = open && rest.is_some();
                }
                if !plain.is_empty() {
                    self.partial = plain;
                }
                followed
            }
        };
        if followed { state } else { ReadState::Closed }
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
        let (written, alive) = match &mut self.tls {
            Some(tls) => tls.write(&self.stream, &self.queue),
            None => write(&self.stream, &self.queue),
        };
        self.queue.drain(..written);
        if self.queue.is_empty() && self.queue.capacity() > KEEP {
            self.queue = Vec::new();
        }
        alive
    }

    /// Says goodbye, where there is a word for it.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(&self.stream);
        }
    }
}

/// Hands each whole frame to `each`. Returns what follows them; `None` when the stream is broken.
fn frames(mut bytes: &[u8], channels: Channels, mut each: impl FnMut(&[u8])) -> Option<&[u8]> {
    loop {
        match framing::next(bytes, channels) {
            Frame::Whole(frame) => {
                each(frame);
                bytes = &bytes[frame.len()..];
            }
            Frame::Partial => return Some(bytes),
            Frame::Broken => return None,
        }
    }
}

/// How much was written, and whether the stream is good.
fn write(mut stream: &TcpStream, bytes: &[u8]) -> (usize, bool) {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => return (written, false),
            Ok(n) => written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (written, e.kind() == io::ErrorKind::WouldBlock),
        }
    }
    (written, true)
}
