//! Clients over streams: accepting, reading, writing, hanging up.

use super::{CONNECTION, IDLE, Listener, MAX_CONNECTIONS, SWEEP, TURNS, Worker, token};
use crate::{
    tcp::{Connection, ReadState},
    tls::Session,
};
use mio::{Interest, net::TcpStream};
use rtc_credentials::Transport;
use rtc_turn_proto::{Drop, Flow, Now};
use std::{io, net::SocketAddr, sync::Arc, time::Instant};

impl Worker {
    pub(super) fn accept(&mut self, now: Now, index: usize) -> bool {
        for _ in 0..64 {
            let Some(Listener::Tcp { listener, transport }) = self.listeners.get(index) else { return true };
            let transport = *transport;
            match listener.accept() {
                Ok((stream, client)) => self.greet(now, stream, client, transport),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    return true;
                }
            }
        }
        false
    }

    fn greet(&mut self, now: Now, mut stream: TcpStream, client: SocketAddr, transport: Transport) {
        let entry = self.connections.vacant_key();
        let Ok(server) = stream.local_addr() else { return };
        if entry >= MAX_CONNECTIONS || stream.set_nodelay(true).is_err() {
            return;
        }
        let is_tls = transport == Transport::Tls;
        let awaits_header = self.proxies.iter().any(|network| network.contains(&client.ip()));
        let begins = awaits_header || is_tls;
        // a session is made for who has a place alone
        if begins && self.handshakes.pending >= self.handshakes.max {
            self.handshakes.failed += u64::from(is_tls);
            return;
        }
        let tls = match &self.tls {
            Some(config) if is_tls => {
                let Ok(session) = Session::new(Arc::clone(config)) else { return };
                Some(session)
            }
            _ if is_tls => return,
            _ => None,
        };
        self.serial += 1;
        let link = (self.serial << 24) | entry as u64;
        let flow = Flow { transport, client, server, link };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, token(CONNECTION, entry), interest).is_ok() {
            if begins {
                self.handshakes.pending += 1;
                // the first timer, where there was no connection
                self.sweep_at = self.sweep_at.min(now.instant + self.handshakes.timeout);
            }
            self.connections.insert(Connection::new(stream, flow, tls, awaits_header, now.instant));
        }
    }

    pub(super) fn read_connection(&mut self, now: Now, index: usize, closing: bool) -> bool {
        let mut state = ReadState::More;
        for _ in 0..TURNS {
            let Self { connections, core, read_buffer, replies, .. } = self;
            let Some(connection) = connections.get_mut(index) else { return true };
            let begins = connection.is_beginning();
            if begins {
                let Some(left) = self.handshakes.steps_left.checked_sub(1) else {
                    state = ReadState::More;
                    break;
                };
                self.handshakes.steps_left = left;
            }
            connection.last_seen = now.instant;
            let is_tls = connection.flow.transport == Transport::Tls;
            state = connection.read(read_buffer, core.channels, |flow, frame| {
                if core.client(now, flow, frame) {
                    replies.extend_from_slice(&core.reply);
                }
            });
            if begins && !connection.is_beginning() {
                self.handshakes.pending -= 1;
                self.handshakes.done += u64::from(is_tls);
            }
            if is_tls {
                // a handshake answers, and so may any record
                self.dirty.push(index);
            }
            if !replies.is_empty() {
                if !connection.push(replies) {
                    core.server.count_drop(Drop::QueueFull);
                }
                replies.clear();
                self.dirty.push(index);
            }
            self.flush();
            match state {
                ReadState::More => {}
                ReadState::Drained if closing || begins => state = ReadState::More,
                _ => break,
            }
        }
        self.flush_dirty();
        if state == ReadState::NoHeader {
            self.core.server.count_drop(Drop::NoProxyHeader);
        }
        if matches!(state, ReadState::Closed | ReadState::NoHeader) {
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
        if let Some(mut connection) = self.connections.try_remove(index) {
            if connection.is_beginning() {
                self.handshakes.pending -= 1;
                self.handshakes.failed += u64::from(connection.flow.transport == Transport::Tls);
            }
            connection.close();
            self.core.gone(&connection.flow);
        }
    }

    /// Ends connections and associations that never got to an allocation.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.associations.sweep(now, &mut self.core, &mut self.handshakes);
        self.sweep_at = now + SWEEP.min(self.handshakes.timeout);
        let (server, patience) = (&self.core.server, self.handshakes.timeout);
        let idle = |c: &Connection| {
            if c.is_beginning() {
                return now.duration_since(c.began) >= patience;
            }
            now.duration_since(c.last_seen) >= IDLE && !server.holds(&c.flow)
        };
        let over: Vec<_> = self.connections.iter().filter(|(_, c)| idle(c)).map(|(i, _)| i).collect();
        for index in over {
            self.hang_up(index);
        }
    }
}
