//! Clients over streams: accepting, reading, writing, hanging up.

use super::{CONNECTION, IDLE, Listener, MAX_CONNECTIONS, SWEEP, TURNS, Worker, token};
use crate::tcp::{Connection, ReadState};
use mio::Interest;
use rtc_credentials::Transport;
use rtc_turn_proto::{Drop, Flow, Now};
use std::{io, net::SocketAddr, time::Instant};

impl Worker {
    pub(super) fn accept(&mut self, now: Now, index: usize) -> bool {
        for _ in 0..64 {
            let Some(Listener::Tcp { listener }) = self.listeners.get(index) else { return true };
            match listener.accept() {
                Ok((stream, client)) => self.greet(now, stream, client),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    return true;
                }
            }
        }
        false
    }

    fn greet(&mut self, now: Now, mut stream: mio::net::TcpStream, client: SocketAddr) {
        let entry = self.connections.vacant_key();
        let Ok(server) = stream.local_addr() else { return };
        if entry >= MAX_CONNECTIONS || stream.set_nodelay(true).is_err() {
            return;
        }
        self.serial += 1;
        let link = (self.serial << 24) | entry as u64;
        let flow = Flow { transport: Transport::Tcp, client, server, link };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, token(CONNECTION, entry), interest).is_ok() {
            self.connections.insert(Connection::new(stream, flow, now.instant));
        }
    }

    pub(super) fn read_connection(&mut self, now: Now, index: usize, closing: bool) -> bool {
        let mut state = ReadState::More;
        for _ in 0..TURNS {
            let Self { connections, core, read_buffer, replies, .. } = self;
            let Some(connection) = connections.get_mut(index) else { return true };
            connection.last_seen = now.instant;
            let flow = connection.flow;
            state = connection.read(read_buffer, core.channels, |frame| {
                if core.client(now, &flow, frame) {
                    replies.extend_from_slice(&core.reply);
                }
            });
            if !replies.is_empty() {
                if !connection.push(replies) {
                    core.server.count_drop(Drop::QueueFull);
                }
                replies.clear();
                self.dirty.push(index);
            }
            self.flush();
            // a short read drains the stream, except that its end may follow at once
            if state == ReadState::Closed || (state == ReadState::Drained && !closing) {
                break;
            }
            if state == ReadState::Drained && closing {
                state = ReadState::More;
            }
        }
        self.flush_dirty();
        if state == ReadState::Closed {
            self.hang_up(index);
        }
        state != ReadState::More
    }

    pub(super) fn flush_dirty(&mut self) {
        while let Some(index) = self.dirty.pop() {
            self.flush_connection(index);
        }
    }

    pub(super) fn flush_connection(&mut self, index: usize) {
        if self.connections.get_mut(index).is_some_and(|c| !c.flush()) {
            self.hang_up(index);
        }
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(connection) = self.connections.try_remove(index) {
            self.core.server.client_gone(&connection.flow);
            self.core.close_relays();
        }
    }

    /// Ends connections that never got to an allocation.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP;
        let server = &self.core.server;
        self.connections.retain(|_, c| now.duration_since(c.last_seen) < IDLE || server.holds(&c.flow));
    }
}
