//! The server's state machine: what it holds, and the ways in.

mod allocate;
mod allocation;
mod auth;
mod behaviour;
mod bindings;
mod connections;
mod data;
mod mobility;
mod refresh;
mod requests;
mod timers;

use crate::{
    Mobility, PeerPolicy, PortRange, Quotas, Reservations, Transport,
    attributes::{ConnectionId, Family},
    bandwidth::{Direction, Meter},
    budget::{ErrorBudget, Rate},
    channel_data::Channels,
    counters::{Counters, Drop},
    nonce::Nonces,
    ports::PortPool,
};
use ahash::RandomState;
use allocation::{Allocation, Relay};
use connections::PeerConnection;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rtc_credentials::{KeyId, KeyRing};
use slab::Slab;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};
use timers::Timer;

pub use behaviour::Behaviour;
pub use data::PeerRoute;

/// The time of a call, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For lifetimes.
    pub instant: Instant,
    /// Unix seconds, for credentials and nonces.
    pub unix: u64,
}

/// Whether messages come as a stream of bytes.
#[must_use]
pub fn is_stream(transport: Transport) -> bool {
    matches!(transport, Transport::Tcp | Transport::Tls)
}

/// How a client reached the server: RFC 8656's five-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The transport.
    pub transport: Transport,
    /// The client's address.
    pub client: SocketAddr,
    /// The server's address that the client sent to.
    pub server: SocketAddr,
    /// The driver's name for the socket or the connection. A connection's is never used again.
    pub link: u64,
}

/// A relay socket. The driver may use it as an index: numbers are small, and used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u32);

/// The addresses that relayed addresses have, as peers see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayAddresses {
    /// For IPv4; `None` answers requests for it with 440.
    pub v4: Option<Ipv4Addr>,
    /// For IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl RelayAddresses {
    fn of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }
}

/// Which share of the relay ports is this worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: u16,
    /// How many workers there are.
    pub count: u16,
}

/// What does not change while a server runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The realm of the long-term credentials.
    pub realm: String,
    /// SOFTWARE in Allocate and Refresh responses; `None` leaves it out.
    pub software: Option<String>,
    /// All relay ports of the host.
    pub relay_ports: PortRange,
    /// This worker's share of them.
    pub share: Share,
    /// The same for all workers.
    pub nonces: Nonces,
    /// An allocation's lifetime when its client asks for none or for less (RFC 8656, section 3.2).
    pub default_lifetime: Duration,
    /// The longest lifetime that a client gets (RFC 8656, section 7.2).
    pub max_lifetime: Duration,
    /// Permissions, and likewise channels, that one allocation may hold.
    pub max_permissions: usize,
    /// Connections with peers, pending and active, that one TCP allocation may hold.
    pub max_connections: usize,
    /// Errors that an unauthenticated prefix may cause.
    pub error_rate: Rate,
    /// The channel numbers that may be bound.
    pub channels: Channels,
    /// Whether Binding is all that is served: no TURN, so that keys and relay ports are of no use.
    pub stun_only: bool,
    /// The sockets by which clients learn how their NAT behaves (RFC 5780), if there are two addresses.
    pub behaviour: Option<Behaviour>,
    /// Tickets for clients that change their address (RFC 8016), the same for all workers; `None` forbids it.
    pub mobility: Option<Mobility>,
}

impl Config {
    /// A configuration with the RFC's lifetimes, for one worker.
    #[must_use]
    pub fn new(realm: impl Into<String>, nonces: Nonces) -> Self {
        Self {
            realm: realm.into(),
            software: Some("rtc-turn".into()),
            relay_ports: PortRange::DYNAMIC,
            share: Share { index: 0, count: 1 },
            nonces,
            default_lifetime: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            max_permissions: 256,
            max_connections: 64,
            error_rate: Rate::default(),
            channels: Channels::default(),
            stun_only: false,
            behaviour: None,
            mobility: None,
        }
    }
}

/// A relay socket that the driver is to open, on this very port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRelay {
    /// What to call it in [`Server::relay_opened`].
    pub relay: RelayId,
    /// Its family.
    pub family: Family,
    /// Its port.
    pub port: u16,
    /// Whether it listens for TCP connections (RFC 6062); otherwise it is for UDP.
    pub tcp: bool,
}

/// What to do about a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAction<'p> {
    /// Nothing; if it was for a reason, it is counted.
    None,
    /// Send what is in the reply buffer back on the flow.
    Reply,
    /// Send what is in the reply buffer by this flow's link to its client (RFC 5780).
    ReplyBy(Flow),
    /// Send the payload from the relay socket to the peer.
    Relay {
        /// From where.
        relay: RelayId,
        /// To whom.
        peer: SocketAddr,
        /// What: a slice of the client's packet.
        payload: &'p [u8],
        /// Whether the DF bit is wanted (RFC 8656, section 14).
        dont_fragment: bool,
    },
    /// Open this relay socket and call [`Server::relay_opened`].
    Open(OpenRelay),
    /// Connect to the peer from the relay socket's address, and call [`Server::connected`].
    Connect {
        /// What to call it.
        connection: ConnectionId,
        /// From where.
        relay: RelayId,
        /// To whom.
        peer: SocketAddr,
    },
    /// Send the reply; what follows on this stream is data for that connection, and what the
    /// connection's peer sends goes to this stream.
    Bind {
        /// The peer's side.
        connection: ConnectionId,
    },
    /// Let that worker handle the message, and all that follows on a stream or of a DTLS association.
    HandOver {
        /// By its [`Share::index`].
        worker: u16,
    },
}

/// One worker's server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    keys: Arc<KeyRing>,
    peers: Arc<PeerPolicy>,
    quotas: Arc<Quotas>,
    relay_addresses: RelayAddresses,
    /// Bytes a second that an allocation may relay in each direction.
    bandwidth: Option<NonZeroU64>,
    /// `Some` while draining: servers that take new allocations.
    alternates: Option<Arc<[SocketAddr]>>,
    allocations: Slab<Allocation>,
    by_flow: HashMap<Flow, usize, RandomState>,
    /// The flow of the last message and its allocation: trains look up once.
    last: Option<(Flow, usize)>,
    relays: Slab<Relay>,
    reservations: Arc<Reservations>,
    ports: [PortPool; 2],
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    /// As many as call for a look at which of them still stand for something.
    many_timers: usize,
    generation: u64,
    closed: Vec<RelayId>,
    connections: HashMap<ConnectionId, PeerConnection, RandomState>,
    closed_connections: Vec<ConnectionId>,
    notices: VecDeque<(Flow, Vec<u8>)>,
    budget: ErrorBudget,
    counters: Counters,
    key_uses: HashMap<KeyId, u64>,
    rng: StdRng,
}

impl Server {
    /// A server without allocations. `seed` is to be random and a worker's own: it draws ports,
    /// tokens and hashes.
    #[must_use]
    pub fn new(
        config: Config,
        keys: Arc<KeyRing>,
        peers: Arc<PeerPolicy>,
        quotas: Arc<Quotas>,
        reservations: Arc<Reservations>,
        relay_addresses: RelayAddresses,
        seed: [u8; 32],
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let hasher = RandomState::with_seeds(rng.random(), rng.random(), rng.random(), rng.random());
        let pool = || PortPool::new(config.relay_ports, config.share.index, config.share.count);
        Self {
            keys,
            peers,
            quotas,
            relay_addresses,
            bandwidth: None,
            alternates: None,
            allocations: Slab::new(),
            by_flow: HashMap::with_hasher(hasher.clone()),
            last: None,
            relays: Slab::new(),
            reservations,
            ports: [pool(), pool()],
            timers: BinaryHeap::new(),
            many_timers: timers::FEW,
            generation: 0,
            closed: Vec::new(),
            connections: HashMap::with_hasher(hasher.clone()),
            closed_connections: Vec::new(),
            notices: VecDeque::new(),
            budget: ErrorBudget::new(config.error_rate, hasher),
            counters: Counters::default(),
            key_uses: HashMap::new(),
            rng,
            config,
        }
    }

    /// Takes new keys. New allocations need one of them; live ones keep the key they began with.
    pub fn set_keys(&mut self, keys: Arc<KeyRing>) {
        self.key_uses.retain(|id, _| keys.get(id).is_some());
        self.keys = keys;
    }

    /// Takes new rules; permissions and channels that they do not permit end at once.
    pub fn set_peers(&mut self, peers: Arc<PeerPolicy>) {
        for (_, allocation) in &mut self.allocations {
            allocation.enforce(&peers);
        }
        self.peers = peers;
        self.enforce_on_connections();
    }

    /// Takes new relayed addresses, for new allocations.
    pub fn set_relay_addresses(&mut self, addresses: RelayAddresses) {
        self.relay_addresses = addresses;
    }

    /// Bounds what each allocation, those that live included, relays in each direction, in bytes of
    /// application data a second. `None`, as it begins, is without bound.
    pub fn set_bandwidth(&mut self, now: Now, bandwidth: Option<NonZeroU64>) {
        if bandwidth != self.bandwidth {
            for (_, allocation) in &mut self.allocations {
                allocation.meter = bandwidth.map(|rate| Box::new(Meter::new(rate, now.instant)));
            }
            self.bandwidth = bandwidth;
        }
    }

    /// Refuses new allocations from now on, with 300 and one of the alternates of the client's
    /// family, or with 486 when there is none. What lives, lives on.
    pub fn drain(&mut self, alternates: Arc<[SocketAddr]>) {
        self.alternates = Some(alternates);
    }

    /// What has been counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The driver's part of the counters: packets that it could not send.
    pub fn count_drop(&mut self, why: Drop) {
        self.counters.dropped(why);
    }

    /// Bytes have flowed through a data connection (RFC 6062, section 4.5). Above the bandwidth quota:
    /// until when nothing more is to be read from either side.
    pub fn count_data(
        &mut self,
        now: Now,
        id: ConnectionId,
        transport: Transport,
        to_peer: usize,
        to_client: usize,
    ) -> Option<Instant> {
        self.counters.to_peers[transport as usize].bytes += to_peer as u64;
        self.counters.to_clients[transport as usize].bytes += to_client as u64;
        let index = self.allocation_of(id)?;
        let meter = self.allocations.get_mut(index)?.meter.as_mut()?;
        let to_peer = meter.owe(Direction::ToPeer, to_peer, now.instant);
        to_peer.max(meter.owe(Direction::ToClient, to_client, now.instant))
    }

    /// How many allocations each key of the ring began.
    pub fn key_uses(&self) -> impl Iterator<Item = (&KeyId, u64)> {
        self.key_uses.iter().map(|(id, uses)| (id, *uses))
    }

    /// One message of a client: a datagram, or a frame of a stream. `reply` is cleared first, and
    /// holds what to send when the action is [`ClientAction::Reply`].
    pub fn handle_client<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        packet: &'p [u8],
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        if let Some(worker) = self.served_by(flow) {
            return ClientAction::HandOver { worker };
        }
        match packet.first() {
            Some(&first) if self.config.channels.starts(first) => self.handle_channel_data(now, flow, packet),
            Some(0x00..=0x3F) => {
                reply.clear();
                self.handle_stun(now, flow, packet, reply)
            }
            _ => self.drop(Drop::Malformed),
        }
    }

    /// A connection is closed: its allocation ends, unless the client has a ticket to take it to another.
    pub fn client_gone(&mut self, flow: &Flow) {
        if let Some(index) = self.find(flow)
            && !self.outlives(index, flow)
        {
            self.remove(index);
        }
    }

    /// Whether an allocation lives, or begins, on that flow.
    #[must_use]
    pub fn holds(&self, flow: &Flow) -> bool {
        self.by_flow.contains_key(flow)
    }

    /// The next relay socket to close. It may be one that was never opened. Its port may be asked for
    /// again at once.
    pub fn poll_closed(&mut self) -> Option<RelayId> {
        self.closed.pop()
    }

    /// How many relay sockets are open or asked for; none are when no allocation lives.
    #[must_use]
    pub fn open_relays(&self) -> usize {
        self.relays.len()
    }

    fn find(&mut self, flow: &Flow) -> Option<usize> {
        if let Some((last, index)) = &self.last
            && last == flow
        {
            return Some(*index);
        }
        let index = *self.by_flow.get(flow)?;
        self.last = Some((*flow, index));
        Some(index)
    }

    /// Ends an allocation: its relay sockets close and their ports come back.
    fn remove(&mut self, index: usize) {
        let Some(allocation) = self.allocations.try_remove(index) else { return };
        self.leave(&allocation.flow, index);
        if let Some(next) = allocation.mobile.and_then(|mobile| mobile.next) {
            self.leave(&next, index);
        }
        if allocation.opening.is_none() {
            self.counters.live -= 1;
        }
        // RFC 6062, section 5.5
        for id in allocation.connections.into_iter().flatten() {
            self.close_connection(id);
        }
        for relay in allocation.relays.into_iter().flatten() {
            self.close(relay);
        }
        if let Some(opening) = allocation.opening {
            self.close(opening.relay);
            if let Some(reserved) = opening.reserve {
                self.give_port(reserved.family, reserved.port, reserved.home);
            }
        }
    }

    fn close(&mut self, id: RelayId) {
        if let Some(relay) = self.relays.try_remove(id.0 as usize) {
            self.give_port(relay.family, relay.address.port(), relay.home);
            self.closed.push(id);
        }
    }

    /// Gives a port back to the worker that it is of.
    fn give_port(&mut self, family: Family, port: u16, home: u16) {
        if home == self.config.share.index {
            self.ports[family as usize].give(port);
        } else {
            self.reservations.send_home(family, port, home);
        }
    }

    fn drop<'p>(&mut self, why: Drop) -> ClientAction<'p> {
        self.counters.dropped(why);
        ClientAction::None
    }
}
