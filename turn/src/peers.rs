//! Connections with peers (RFC 6062). What a peer sends before a client has bound the connection waits
//! in the kernel, whose window bounds it.

use mio::{Interest, Registry, Token, net::TcpStream};
use rtc_turn_proto::ConnectionId;
use slab::Slab;
use std::{collections::HashMap, io, time::Instant};

/// One connection with a peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    pub(crate) stream: TcpStream,
    /// Whether it is on its way still.
    pub(crate) connecting: bool,
    /// Nothing is read from either side before this.
    pub(crate) paused: Option<Instant>,
    /// The client's connection that it is bound to.
    pub(crate) client: Option<usize>,
    /// The peer sends no more.
    pub(crate) has_ended: bool,
    /// The peer was told that no more comes.
    pub(crate) was_told: bool,
}

/// A worker's connections with peers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: Slab<Peer>,
    by_id: HashMap<ConnectionId, usize>,
}

impl Peers {
    /// Takes a connection, which is to be watched under the token of its index.
    pub(crate) fn insert(
        &mut self,
        id: ConnectionId,
        mut stream: TcpStream,
        connecting: bool,
        registry: &Registry,
        token: impl FnOnce(usize) -> Token,
    ) -> io::Result<()> {
        let entry = self.peers.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, token(entry.key()), interest)?;
        self.by_id.insert(id, entry.key());
        let (paused, client, has_ended, was_told) = (None, None, false, false);
        entry.insert(Peer { id, stream, connecting, paused, client, has_ended, was_told });
        Ok(())
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Peer> {
        self.peers.get_mut(index)
    }

    pub(crate) fn find(&self, id: ConnectionId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Closes a connection by letting go of it.
    pub(crate) fn remove(&mut self, index: usize) -> Option<Peer> {
        let peer = self.peers.try_remove(index)?;
        self.by_id.remove(&peer.id);
        Some(peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }
}
