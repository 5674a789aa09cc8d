//! Between a client's data connection and its peer's (RFC 6062, section 4.5): bounded buffers, so that
//! whoever reads slowly slows down who sends to them, and nobody else.

use super::{CONNECTION, MAX_CONNECTIONS, PEER, TURNS, Worker, core::Core, token};
use crate::{post::Arrival, tcp::Connection};
use mio::Interest;
use rtc_turn_proto::{ConnectionId, Now, RelayId};
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    time::Instant,
};

/// Bytes that one direction may hold before more is read.
const WINDOW: usize = 64 << 10;

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes have moved.
    Moved(usize),
    /// None for now.
    Blocked,
    /// There will be none any more.
    Ended,
    /// The connection is broken.
    Broken,
}

impl Step {
    pub(crate) fn of(result: io::Result<usize>) -> Self {
        match result {
            Ok(0) => Self::Ended,
            Ok(n) => Self::Moved(n),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Self::Blocked
            }
            Err(_) => Self::Broken,
        }
    }
}

impl Worker {
    /// Peers that connect to a relay socket (RFC 6062, section 5.3).
    pub(super) fn accept_peers(&mut self, now: Now, relay: usize) -> bool {
        for _ in 0..TURNS {
            let Core { relays, server, peers, registry, addresses, .. } = &mut self.core;
            let Some(listener) = relays.listener(relay) else { return true };
            let (stream, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return true,
            };
            let peer = addresses.to_advertised(from);
            if let Some(id) = server.accepted(now, RelayId(relay as u32), peer)
                && peers.insert(id, stream, false, registry, |index| token(PEER, index)).is_err()
            {
                server.connection_gone(id);
            }
        }
        false
    }

    /// A peer's connection is ready for something. `true` when it can wait for its next event.
    pub(super) fn on_peer(&mut self, now: Now, index: usize) -> bool {
        let Core { server, peers, .. } = &mut self.core;
        let Some(peer) = peers.get_mut(index) else { return true };
        if !peer.connecting {
            return peer.client.is_none() || self.splice(index);
        }
        let opened = match peer.stream.take_error() {
            Ok(None) => match peer.stream.peer_addr() {
                Ok(_) => true,
                Err(e) if e.kind() == io::ErrorKind::NotConnected => return true,
                Err(_) => false,
            },
            _ => false,
        };
        peer.connecting = false;
        if !server.connected(now, peer.id, opened) {
            peers.remove(index);
        }
        true
    }

    /// From now on this client's connection is the peer's.
    pub(super) fn bind(&mut self, client: usize, id: ConnectionId) {
        let peers = &mut self.core.peers;
        let index = peers.find(id);
        let peer = index.and_then(|index| peers.get_mut(index));
        let (Some(index), Some(peer), Some(connection)) = (index, peer, self.connections.get_mut(client))
        else {
            return self.hang_up(client);
        };
        peer.client = Some(client);
        connection.peer = Some(index);
        if !self.splice(index) {
            self.more.push(token(PEER, index));
        }
    }

    /// Moves what can be moved, both ways. `true` when nothing more will move before an event.
    pub(super) fn splice(&mut self, index: usize) -> bool {
        let Self { core, connections, read_buffer, paused, .. } = self;
        let Some(peer) = core.peers.get_mut(index) else { return true };
        let Some(client) = peer.client else { return true };
        let Some(connection) = connections.get_mut(client) else { return true };
        let now = crate::server::now();
        if peer.paused.is_some_and(|until| until > now.instant) {
            return true;
        }
        let (mut to_peer, mut to_client) = (0, 0);
        let outcome = 'turns: {
            for _ in 0..TURNS {
                let before = (to_peer, to_client);
                let mut moved = 0;
                if !connection.has_ended && connection.held().len() < WINDOW {
                    match connection.read_data(read_buffer) {
                        Step::Moved(n) => moved += n,
                        Step::Ended => connection.has_ended = true,
                        Step::Blocked => {}
                        Step::Broken => break 'turns None,
                    }
                }
                while !connection.held().is_empty() {
                    match Step::of((&peer.stream).write(connection.held())) {
                        Step::Moved(n) => {
                            connection.take_held(n);
                            to_peer += n;
                        }
                        Step::Blocked => break,
                        Step::Ended | Step::Broken => break 'turns None,
                    }
                }
                if !peer.has_ended && connection.queued() < WINDOW {
                    match Step::of((&peer.stream).read(read_buffer)) {
                        Step::Moved(n) => {
                            connection.push_data(&read_buffer[..n]);
                            moved += n;
                            to_client += n;
                        }
                        Step::Ended => peer.has_ended = true,
                        Step::Blocked => {}
                        Step::Broken => break 'turns None,
                    }
                }
                let queued = connection.queued();
                if !connection.flush() {
                    break 'turns None;
                }
                moved += queued - connection.queued();
                // an end in one direction is passed on, and the other goes on
                if connection.has_ended && connection.held().is_empty() && !peer.was_told {
                    peer.was_told = true;
                    let _ = peer.stream.shutdown(Shutdown::Write);
                }
                if peer.has_ended && connection.is_flushed() && !connection.was_told {
                    connection.was_told = true;
                    connection.shut_down();
                }
                if peer.was_told && connection.was_told {
                    break 'turns None;
                }
                if moved == 0 && before == (to_peer, to_client) {
                    break 'turns Some(true);
                }
            }
            Some(false)
        };
        let transport = connection.flow.transport;
        peer.paused = core.server.count_data(now, peer.id, transport, to_peer, to_client);
        if let Some(until) = peer.paused.filter(|_| outcome.is_some()) {
            paused.insert((until, token(PEER, index)));
            return true;
        }
        outcome.unwrap_or_else(|| {
            self.hang_up(client);
            true
        })
    }

    /// Goes on with connections whose allocations may relay again, and with listeners that may accept again.
    pub(super) fn resume(&mut self, now: Instant) {
        while let Some((until, token)) = self.paused.first().copied()
            && until <= now
        {
            self.paused.pop_first();
            self.more.push(token);
        }
    }

    /// Ends connections with peers that the protocol has given up, and sends what it has to say.
    pub(super) fn settle(&mut self) {
        self.core.close_relays();
        while let Some(id) = self.core.server.poll_closed_connection() {
            let index = self.core.peers.find(id);
            if let Some(client) = index.and_then(|index| self.core.peers.remove(index)).and_then(|p| p.client)
            {
                self.hang_up(client);
            }
        }
        let mut any = false;
        while let Some((flow, message)) = self.core.server.poll_notice() {
            self.core.notify(&flow, &message);
            any = true;
        }
        if any {
            self.flush();
            self.flush_dirty();
        }
    }

    /// Another worker serves this connection from now on.
    pub(super) fn hand_over(&mut self, index: usize, worker: u16) {
        let Some(mut connection) = self.connections.try_remove(index) else { return };
        // one that cannot be taken is closed, as when there is no room for it here
        if self.poll.registry().deregister(&mut connection.stream).is_ok() {
            self.core.post.hand_over(worker, Arrival::Stream(Box::new(connection)));
        }
    }

    /// Takes over another worker's connection, and handles what it holds.
    pub(super) fn adopt(&mut self, now: Now, mut connection: Connection) {
        let entry = self.connections.vacant_key();
        self.serial += 1;
        connection.flow.link = (self.serial << 24) | entry as u64;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered =
            self.poll.registry().register(&mut connection.stream, token(CONNECTION, entry), interest);
        if entry < MAX_CONNECTIONS && registered.is_ok() {
            self.connections.insert(connection);
            // it may have sent more before it was watched here
            self.read_held(now, entry);
            self.more.push(token(CONNECTION, entry));
        }
    }
}
