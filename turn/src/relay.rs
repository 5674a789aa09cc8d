//! Relay sockets: one per relayed address, bound to this host's address and known to peers by the
//! advertised one.

use crate::{
    directory::{Directory, Holder},
    settings::RelayAddress,
    udp::Udp,
};
use mio::{
    Interest, Registry, Token,
    net::{TcpListener, TcpStream},
};
use nix::errno::Errno;
use rtc_turn_proto::{Family, OpenRelay, RelayAddresses, RelayId};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Connections that the kernel keeps for one relayed address until they are accepted.
const BACKLOG: i32 = 64;

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

    /// Whether `ip` is one that peers see.
    pub(crate) fn is_advertised(&self, ip: IpAddr) -> bool {
        self.0[Family::of(&ip) as usize].is_some_and(|a| a.advertised == ip)
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
#[derive(Debug)]
pub(crate) struct Relays {
    sockets: Vec<Option<Relay>>,
    worker: u16,
    directory: Arc<Directory>,
}

#[derive(Debug)]
enum RelaySocket {
    Udp(Udp),
    /// And the address that it is bound to, which connections to peers leave from.
    Tcp(TcpListener, SocketAddr),
}

#[derive(Debug)]
struct Relay {
    socket: RelaySocket,
    family: Family,
    port: u16,
    /// Whether it is bound to the host's present address, and so in the directory.
    entered: bool,
}

impl Relays {
    pub(crate) fn new(worker: u16, directory: Arc<Directory>) -> Self {
        Self { sockets: Vec::new(), worker, directory }
    }

    pub(crate) fn get(&self, id: usize) -> Option<&Udp> {
        match &self.sockets.get(id)?.as_ref()?.socket {
            RelaySocket::Udp(udp) => Some(udp),
            RelaySocket::Tcp(..) => None,
        }
    }

    pub(crate) fn listener(&self, id: usize) -> Option<&TcpListener> {
        match &self.sockets.get(id)?.as_ref()?.socket {
            RelaySocket::Udp(_) => None,
            RelaySocket::Tcp(listener, _) => Some(listener),
        }
    }

    /// Begins a connection from the relayed address to a peer's (RFC 6062, section 5.2).
    pub(crate) fn connect(&self, id: RelayId, to: SocketAddr) -> io::Result<TcpStream> {
        let relay = self.sockets.get(id.0 as usize).and_then(Option::as_ref);
        let Some(RelaySocket::Tcp(_, from)) = relay.map(|relay| &relay.socket) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let socket = bind_tcp(*from, true)?;
        match socket.connect(&to.into()) {
            Err(e) if e.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(e),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    /// Which worker holds the relay socket of this server that peers see at `address`, provided that
    /// it is at the host's present address.
    pub(crate) fn holder(&self, address: SocketAddr) -> Option<Holder> {
        self.directory.find(address)
    }

    /// Opens a socket on that very port, with nobody else on it.
    pub(crate) fn open(
        &mut self,
        open: OpenRelay,
        addresses: &Addresses,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let OpenRelay { relay, family, port, tcp } = open;
        let Some(address) = addresses.0[family as usize] else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let address = SocketAddr::new(address.local, port);
        if tcp {
            let socket = bind_tcp(address, false)?;
            socket.listen(BACKLOG)?;
            let mut listener = TcpListener::from_std(socket.into());
            registry.register(&mut listener, token, Interest::READABLE)?;
            let socket = RelaySocket::Tcp(listener, address);
            // the directory is of addresses for datagrams
            self.insert(relay, Relay { socket, family, port, entered: false });
            return Ok(());
        }
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
        udp.hear_errors()?;
        registry.register(&mut udp.socket, token, Interest::READABLE)?;
        self.insert(relay, Relay { socket: RelaySocket::Udp(udp), family, port, entered: true });
        self.directory.enter(family, port, Holder { worker: self.worker, relay });
        Ok(())
    }

    fn insert(&mut self, id: RelayId, relay: Relay) {
        let id = id.0 as usize;
        if self.sockets.len() <= id {
            self.sockets.resize_with(id + 1, || None);
        }
        self.sockets[id] = Some(relay);
    }

    pub(crate) fn close(&mut self, id: RelayId) {
        if let Some(slot) = self.sockets.get_mut(id.0 as usize) {
            if let Some(relay) = slot.as_ref().filter(|relay| relay.entered) {
                self.directory.leave(relay.family, relay.port);
            }
            // dropping the descriptor takes it out of the poll
            *slot = None;
        }
    }

    /// The host's addresses have changed: the sockets that are open are reached by the kernel alone.
    pub(crate) fn withdraw(&mut self) {
        for relay in self.sockets.iter_mut().flatten().filter(|relay| relay.entered) {
            self.directory.leave(relay.family, relay.port);
            relay.entered = false;
        }
    }
}

/// A TCP socket on that address. The first is alone on it; then connections to peers may share it.
fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // connections of an allocation that has ended may linger
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    if shared {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}
