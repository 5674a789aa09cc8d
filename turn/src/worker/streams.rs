//! Clients over streams: accepting, reading, writing, hanging up.

use super::{
    ACCEPT_AGAIN, After, CONNECTION, IDLE, LISTENER, Listener, MAX_CONNECTIONS, MAX_REQUEST, PEER, SWEEP,
    TURNS, Worker, token,
};
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
                // the client was faster
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; trying again");
                    self.paused.insert((now.instant + ACCEPT_AGAIN, token(LISTENER, index)));
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
            if let Some(peer) = connection.peer {
                return self.splice(peer);
            }
            let is_tls = connection.flow.transport == Transport::Tls;
            let (mut after, mut heard) = (After::Nothing, false);
            state = connection.read(read_buffer, core.channels, |flow, frame| {
                heard = true;
                after = core.client(now, flow, frame);
                core.answer(after, replies)
            });
            // a byte now and then is not a client
            if heard {
                connection.last_seen = now.instant;
            }
            let asks = matches!(after, After::Nothing | After::Reply);
            if asks && connection.held().len() > MAX_REQUEST && !core.server.holds(&connection.flow) {
                core.server.count_drop(Drop::Malformed);
                state = ReadState::Closed;
            }
            if begins && !connection.is_beginning() {
                self.handshakes.pending -= 1;
                self.handshakes.done += u64::from(is_tls);
            }
            if is_tls {
                // a handshake answers, and so may any record
                self.dirty.push(index);
            }
            self.queue_replies(index);
            self.flush();
            if !self.goes_on(index, after) {
                // what became of it reads on
                if state == ReadState::Closed {
                    self.hang_up(index);
                }
                self.flush_dirty();
                return true;
            }
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

    /// Handles the messages that a connection of another worker brought along.
    pub(super) fn read_held(&mut self, now: Now, index: usize) {
        let Self { connections, core, replies, .. } = self;
        let Some(connection) = connections.get_mut(index) else { return };
        let (flow, mut after) = (connection.flow, After::Nothing);
        let followed = connection.reread(core.channels, |frame| {
            after = core.client(now, &flow, frame);
            core.answer(after, replies)
        });
        self.queue_replies(index);
        self.flush();
        if self.goes_on(index, after) && !followed {
            self.hang_up(index);
        }
        self.flush_dirty();
    }

    fn queue_replies(&mut self, index: usize) {
        let Self { connections, core, replies, .. } = self;
        if replies.is_empty() {
            return;
        }
        if connections.get_mut(index).is_some_and(|c| !c.push(replies)) {
            core.server.count_drop(Drop::QueueFull);
        }
        replies.clear();
        self.dirty.push(index);
    }

    /// Whether a connection is still one of messages, and this worker's.
    fn goes_on(&mut self, index: usize, after: After) -> bool {
        match after {
            After::Nothing | After::Reply => return true,
            After::Bind(id) => self.bind(index, id),
            After::HandOver(worker) => self.hand_over(index, worker),
        }
        false
    }

    pub(super) fn on_writable(&mut self, index: usize) {
        match self.connections.get(index).and_then(|connection| connection.peer) {
            Some(peer) if !self.splice(peer) => self.more.push(token(PEER, peer)),
            Some(_) => {}
            None => self.flush_connection(index),
        }
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

    pub(super) fn hang_up(&mut self, index: usize) {
        if let Some(mut connection) = self.connections.try_remove(index) {
            if connection.is_beginning() {
                self.handshakes.pending -= 1;
                self.handshakes.failed += u64::from(connection.flow.transport == Transport::Tls);
            }
            connection.close();
            if let Some(peer) = connection.peer.and_then(|index| self.core.peers.remove(index)) {
                self.core.server.connection_gone(peer.id);
            }
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
            if c.peer.is_some() {
                // the allocation ends it (RFC 6062, section 5.5)
                return false;
            }
            now.duration_since(c.last_seen) >= IDLE && !server.holds(&c.flow)
        };
        let over: Vec<_> = self.connections.iter().filter(|(_, c)| idle(c)).map(|(i, _)| i).collect();
        for index in over {
            self.hang_up(index);
        }
    }
}
