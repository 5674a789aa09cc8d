//! Relay sockets: one per relayed address, bound to this host's address and known to peers by the
//! advertised one.

use crate::{settings::RelayAddress, udp::Udp};
use mio::{Interest, Registry, Token};
use rtc_turn_proto::{Family, OpenRelay, RelayAddresses, RelayId};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// The addresses of this host's relayed addresses, by family.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Addresses([Option<RelayAddress>; 2]);

impl Addresses {
    pub(crate) fn new(relay: &[RelayAddress]) -> Self {
        let mut addresses = Self::default();
        for address in relay {
            addresses.0[Family::of(&address.local) as usize] = Some(*address);
        }
        addresses
    }

    /// What clients are told.
    pub(crate) fn advertised(&self) -> RelayAddresses {
        let mut out = RelayAddresses::default();
        for address in self.0.iter().flatten() {
            match address.advertised {
                IpAddr::V4(ip) => out.v4 = Some(ip),
                IpAddr::V6(ip) => out.v6 = Some(ip),
            }
        }
        out
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &RelayAddress> {
        self.0.iter().flatten()
    }

    /// Where to send for `peer`: another allocation of this host is reached at the local address, as
    /// a one-to-one NAT need not turn packets around.
    pub(crate) fn to_local(self, peer: SocketAddr) -> SocketAddr {
        match self.0[Family::of(&peer.ip()) as usize] {
            Some(a) if a.local != a.advertised && a.advertised == peer.ip() => {
                SocketAddr::new(a.local, peer.port())
            }
            _ => peer,
        }
    }

    /// The inverse: how a client knows who sent from `peer`.
    pub(crate) fn to_advertised(self, peer: SocketAddr) -> SocketAddr {
        match self.0[Family::of(&peer.ip()) as usize] {
            Some(a) if a.local != a.advertised && a.local == peer.ip() => {
                SocketAddr::new(a.advertised, peer.port())
            }
            _ => peer,
        }
    }
}

/// A worker's relay sockets, by id.
#[derive(Debug, Default)]
pub(crate) struct Relays(Vec<Option<Udp>>);

impl Relays {
    pub(crate) fn get(&self, id: usize) -> Option<&Udp> {
        self.0.get(id)?.as_ref()
    }

    /// Opens a socket on that very port, with nobody else on it.
    pub(crate) fn open(
        &mut self,
        open: OpenRelay,
        addresses: &Addresses,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let Some(address) = addresses.0[open.family as usize] else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let address = SocketAddr::new(address.local, open.port);
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            // an IPv4-mapped peer must not become an IPv4 packet
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        let mut udp = Udp::new(socket.into())?;
        registry.register(&mut udp.socket, token, Interest::READABLE)?;
        let id = open.relay.0 as usize;
        if self.0.len() <= id {
            self.0.resize_with(id + 1, || None);
        }
        self.0[id] = Some(udp);
        Ok(())
    }

    pub(crate) fn close(&mut self, id: RelayId) {
        // dropping the descriptor takes it out of the poll
        if let Some(slot) = self.0.get_mut(id.0 as usize) {
            *slot = None;
        }
    }
}
