//! TCP connections between a relayed address and peers (RFC 6062): Connect, ConnectionAttempt and
//! ConnectionBind. The bytes that flow through them are the driver's; here is who may open one, and
//! when it ends.

use super::{ClientAction, Flow, Now, RelayId, Server, is_stream, requests::Request, timers::Timer};
use crate::{
    Class, ErrorCode, Method, TransactionId, Writer,
    attributes::{self as attr, ConnectionId, Family, XorPeerAddress},
};
use rand::Rng;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a peer may take to answer, and a client to bind (RFC 6062, sections 5.2 and 5.3).
const PATIENCE: Duration = Duration::from_secs(30);

/// A peer data connection.
#[derive(Debug)]
pub(super) struct PeerConnection {
    allocation: usize,
    peer: SocketAddr,
    state: State,
    /// When it ends unless it gets further.
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For the client's Connect, whose response waits; whether that is protected by SHA-256.
    Connecting(TransactionId, bool),
    /// For a ConnectionBind.
    Waiting,
    Bound,
}

impl Server {
    /// RFC 6062, section 5.2.
    pub(super) fn connect<'p>(
        &mut self,
        request: &Request<'_, '_>,
        index: usize,
    ) -> Result<ClientAction<'p>, ErrorCode> {
        let allocation = self.allocations.get(index).ok_or(ErrorCode::AllocationMismatch)?;
        let held = allocation.connections.as_ref().ok_or(ErrorCode::AllocationMismatch)?;
        let Ok(Some(XorPeerAddress(peer))) = request.message.get::<XorPeerAddress>() else {
            return Err(ErrorCode::BadRequest);
        };
        if held.iter().any(|id| self.connections.get(id).is_some_and(|c| c.peer == peer)) {
            return Err(ErrorCode::ConnectionAlreadyExists);
        }
        let relay = allocation.relay_for(&peer.ip()).ok_or(ErrorCode::PeerAddressFamilyMismatch)?;
        if !self.peers.permits(peer) {
            return Err(ErrorCode::Forbidden);
        }
        if held.len() >= self.config.max_connections {
            return Err(ErrorCode::InsufficientCapacity);
        }
        // a TCP allocation has no data on its control connection to say that its client has moved
        self.heard(index, request.flow);
        let state = State::Connecting(request.message.id(), request.who.sha256);
        let connection = self.enter_connection(request.now, index, peer, state);
        Ok(ClientAction::Connect { connection, relay, peer })
    }

    /// What became of a connection that the driver was asked to open. The client's response is the
    /// next of [`Server::poll_notice`]. `false` when nobody wants the connection any more.
    pub fn connected(&mut self, now: Now, id: ConnectionId, opened: bool) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let State::Connecting(transaction, sha256) = connection.state else { return false };
        let index = connection.allocation;
        if opened {
            connection.state = State::Waiting;
            connection.until = now.instant + PATIENCE;
            let until = connection.until;
            self.set_timer(until, Timer::Connection(id));
            self.answer_connect(index, transaction, sha256, Ok(id));
        } else {
            self.answer_connect(index, transaction, sha256, Err(ErrorCode::ConnectionTimeoutOrFailure));
            self.forget_connection(id);
        }
        opened
    }

    /// A peer has connected to a relay socket (RFC 6062, section 5.3). The client's indication is the
    /// next of [`Server::poll_notice`]. `None` when the connection is to be closed.
    pub fn accepted(&mut self, now: Now, relay: RelayId, peer: SocketAddr) -> Option<ConnectionId> {
        let index = self.relays.get(relay.0 as usize)?.allocation;
        let allocation = self.allocations.get(index)?;
        let permitted = allocation
            .permission(&peer.ip(), now.instant)
            .is_some_and(|permission| self.may_exchange(permission.verdict, peer));
        let held = allocation.connections.as_ref()?.len();
        if !permitted || held >= self.config.max_connections {
            self.counters.dropped(if permitted { crate::Drop::QueueFull } else { crate::Drop::NoPermission });
            return None;
        }
        let flow = allocation.flow;
        let id = self.enter_connection(now, index, peer, State::Waiting);
        let mut out = Vec::new();
        let transaction = TransactionId(self.rng.random());
        Writer::new(&mut out, Class::Indication, Method::CONNECTION_ATTEMPT, transaction)
            .u32(attr::CONNECTION_ID, id.0)
            .xor_address(attr::XOR_PEER_ADDRESS, peer);
        self.notices.push_back((flow, out));
        Some(id)
    }

    /// RFC 6062, section 5.4. On success what follows on the client's connection is data.
    pub(super) fn connection_bind<'p>(
        &mut self,
        request: &Request<'_, '_>,
        reply: &mut Vec<u8>,
    ) -> Result<ClientAction<'p>, ErrorCode> {
        let Ok(Some(id)) = request.message.get::<ConnectionId>() else { return Err(ErrorCode::BadRequest) };
        let index = self.allocation_of(id).ok_or(ErrorCode::BadRequest)?;
        let owner = self.allocations.get(index).ok_or(ErrorCode::BadRequest)?;
        // the same credentials as on the control connection (RFC 6062, section 4.3)
        if owner.username != request.who.username {
            return Err(ErrorCode::WrongCredentials);
        }
        let waiting = self.connections.get_mut(&id).filter(|c| c.state == State::Waiting);
        waiting.ok_or(ErrorCode::BadRequest)?.state = State::Bound;
        self.succeed(request, reply);
        Ok(ClientAction::Bind { connection: id })
    }

    /// The worker that a ConnectionBind is for, if it is another: a connection's number tells.
    pub(super) fn elsewhere(&self, flow: &Flow, id: ConnectionId) -> Option<u16> {
        let owner = (id.0 % u32::from(self.config.share.count.max(1))) as u16;
        (is_stream(flow.transport) && owner != self.config.share.index).then_some(owner)
    }

    /// The allocation that a connection is of.
    pub(super) fn allocation_of(&self, id: ConnectionId) -> Option<usize> {
        self.connections.get(&id).map(|connection| connection.allocation)
    }

    /// A data connection has ended, on either side.
    pub fn connection_gone(&mut self, id: ConnectionId) {
        self.forget_connection(id);
    }

    /// The next connection that the driver is to close: its peer's side, its client's, or both.
    pub fn poll_closed_connection(&mut self) -> Option<ConnectionId> {
        self.closed_connections.pop()
    }

    /// The next message that goes to a client without its having sent one just now.
    pub fn poll_notice(&mut self) -> Option<(Flow, Vec<u8>)> {
        self.notices.pop_front()
    }

    /// How many connections with peers there are, pending or active.
    #[must_use]
    pub fn peer_connections(&self) -> usize {
        self.connections.len()
    }

    fn enter_connection(&mut self, now: Now, index: usize, peer: SocketAddr, state: State) -> ConnectionId {
        let share = self.config.share;
        let count = u32::from(share.count.max(1));
        let id = loop {
            // every worker can tell from the number whose it is
            let group = self.rng.random_range(0..u32::MAX / count);
            let id = ConnectionId(group * count + u32::from(share.index));
            if !self.connections.contains_key(&id) {
                break id;
            }
        };
        let until = now.instant + PATIENCE;
        self.connections.insert(id, PeerConnection { allocation: index, peer, state, until });
        self.set_timer(until, Timer::Connection(id));
        if let Some(held) = self.allocations.get_mut(index).and_then(|a| a.connections.as_mut()) {
            held.push(id);
        }
        id
    }

    fn forget_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(held) =
            self.allocations.get_mut(connection.allocation).and_then(|a| a.connections.as_mut())
        {
            held.retain(|other| *other != id);
        }
    }

    /// Ends a connection that the driver does not know to be over.
    pub(super) fn close_connection(&mut self, id: ConnectionId) {
        self.forget_connection(id);
        self.closed_connections.push(id);
    }

    /// Ends an allocation's connections with peers of that family.
    pub(super) fn close_connections_of(&mut self, index: usize, family: Family) {
        let held = self.allocations.get(index).and_then(|a| a.connections.clone()).unwrap_or_default();
        for id in held {
            if self.connections.get(&id).is_some_and(|c| Family::of(&c.peer.ip()) == family) {
                self.close_connection(id);
            }
        }
    }

    /// When a connection ends unless it gets further.
    pub(super) fn connection_due(&self, id: ConnectionId) -> Option<Instant> {
        self.connections.get(&id).filter(|c| c.state != State::Bound).map(|c| c.until)
    }

    pub(super) fn connection_timeout(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        if let State::Connecting(transaction, sha256) = connection.state {
            let index = connection.allocation;
            self.answer_connect(index, transaction, sha256, Err(ErrorCode::ConnectionTimeoutOrFailure));
        }
        self.close_connection(id);
    }

    /// Ends connections with peers that the rules do not permit.
    pub(super) fn enforce_on_connections(&mut self) {
        let denied = self.connections.iter().filter(|(_, c)| !self.peers.permits(c.peer)).map(|(id, _)| *id);
        for id in denied.collect::<Vec<_>>() {
            if let Some(PeerConnection {
                allocation, state: State::Connecting(transaction, sha256), ..
            }) = self.connections.get(&id)
            {
                self.answer_connect(*allocation, *transaction, *sha256, Err(ErrorCode::Forbidden));
            }
            self.close_connection(id);
        }
    }

    fn answer_connect(
        &mut self,
        index: usize,
        transaction: TransactionId,
        sha256: bool,
        result: Result<ConnectionId, ErrorCode>,
    ) {
        let Some(allocation) = self.allocations.get(index) else { return };
        let mut out = Vec::new();
        let class = if result.is_ok() { Class::Success } else { Class::Error };
        let mut w = Writer::new(&mut out, class, Method::CONNECT, transaction);
        match result {
            Ok(id) => w.u32(attr::CONNECTION_ID, id.0),
            Err(code) => {
                self.counters.errors[code as usize] += 1;
                w.error_code(code, false)
            }
        };
        allocation.protect(&mut w, sha256);
        self.notices.push_back((allocation.flow, out));
    }
}
