//! Clients over TCP, with TLS or without: frames in, a bounded queue out. A slow client delays and
//! loses its own data, nobody else's.

use crate::{
    tls::{Decrypted, Session},
    worker::Step,
};
use mio::net::TcpStream;
use rtc_turn_proto::{
    Flow,
    channel_data::Channels,
    framing::{self, Frame},
    proxy_protocol::{self, Header},
};
use std::{
    io::{self, Read, Write},
    net::Shutdown,
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
    /// The peer's connection that this one is bound to. It carries data then, and no more frames.
    pub(crate) peer: Option<usize>,
    /// The client sends no more data.
    pub(crate) has_ended: bool,
    /// The client was told that no more data comes.
    pub(crate) was_told: bool,
}

/// What to do with a stream after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Take the next.
    Frame,
    /// Keep what follows as it is.
    Stop,
    /// Keep the frame and what follows as they are.
    StopBefore,
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
        Self {
            stream,
            flow,
            tls,
            awaits_header,
            partial: Vec::new(),
            queue: Vec::new(),
            began: now,
            last_seen: now,
            peer: None,
            has_ended: false,
            was_told: false,
        }
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
        mut each: impl FnMut(&Flow, &[u8]) -> Next,
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
                let (mut followed, mut stopped) = (true, false);
                while followed && !received.is_empty() {
                    let open = tls.decrypt(&mut received, &mut plain) == Decrypted::More;
                    let rest = if stopped {
                        Some(&plain[..])
                    } else {
                        frames(&plain, channels, |frame| {
                            let next = each(frame);
                            stopped |= next != Next::Frame;
                            next
                        })
                    };
                    let rest = rest.map(<[u8]>::len);
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

    /// Handles the frames that it holds, as [`Self::read`] does those that it reads. `false` when the
    /// stream cannot be followed.
    pub(crate) fn reread(&mut self, channels: Channels, each: impl FnMut(&[u8]) -> Next) -> bool {
        let held = std::mem::take(&mut self.partial);
        let rest = frames(&held, channels, each);
        self.partial.extend_from_slice(rest.unwrap_or_default());
        rest.is_some()
    }

    /// Reads data once, and holds it.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Step {
        let length = match Step::of((&self.stream).read(buffer)) {
            Step::Moved(length) => length,
            other => return other,
        };
        let Some(tls) = &mut self.tls else {
            self.partial.extend_from_slice(&buffer[..length]);
            return Step::Moved(length);
        };
        let mut received = &buffer[..length];
        while !received.is_empty() {
            match tls.decrypt(&mut received, &mut self.partial) {
                Decrypted::More => {}
                Decrypted::Ended => return Step::Ended,
                Decrypted::Broken => return Step::Broken,
            }
        }
        Step::Moved(length)
    }

    /// Data that has been read.
    pub(crate) fn held(&self) -> &[u8] {
        &self.partial
    }

    /// Lets go of the front of what it holds.
    pub(crate) fn take_held(&mut self, length: usize) {
        self.partial.drain(..length);
        if self.partial.is_empty() && self.partial.capacity() > KEEP {
            self.partial = Vec::new();
        }
    }

    /// How many bytes wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Queues data. The caller looks at [`Self::queued`] before.
    pub(crate) fn push_data(&mut self, data: &[u8]) {
        self.queue.extend_from_slice(data);
    }

    /// Whether all has been written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.queue.is_empty() && self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Says that no more data comes.
    pub(crate) fn shut_down(&mut self) {
        self.close();
        let _ = self.stream.shutdown(Shutdown::Write);
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
            Some(tls) => tls.write(&self.stream, &self.queue, self.peer.is_none()),
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
fn frames(mut bytes: &[u8], channels: Channels, mut each: impl FnMut(&[u8]) -> Next) -> Option<&[u8]> {
    loop {
        match framing::next(bytes, channels) {
            Frame::Whole(frame) => match each(frame) {
                Next::Frame => bytes = &bytes[frame.len()..],
                Next::Stop => return Some(&bytes[frame.len()..]),
                Next::StopBefore => return Some(bytes),
            },
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
