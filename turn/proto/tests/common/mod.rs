//! A driver without sockets: what the server sends is returned, the relay sockets are a set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

use rtc_credentials::{Credential, Key, KeyRing, KeyState, Secret, mint};
use rtc_turn_proto::{
    ClientAction, Config, ConnectionId, Flow, Limits, Mobility, Nonces, Now, OpenRelay, PeerPolicy,
    PortRange, Quotas, RelayAddresses, RelayId, Reservations, Server, Share, Transport,
    client::{Answer, Client},
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub const EPOCH: u64 = 1_800_000_000;

/// What came of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Nothing,
    Reply(Vec<u8>),
    ReplyBy(Flow, Vec<u8>),
    Relayed { from_port: u16, peer: SocketAddr, payload: Vec<u8> },
    Connect { connection: ConnectionId, from_port: u16, peer: SocketAddr },
    Bound { connection: ConnectionId, reply: Vec<u8> },
    HandOver { worker: u16 },
}

pub struct World {
    pub server: Server,
    pub quotas: Arc<Quotas>,
    /// Tickets, and who serves clients that have moved; `None` when they may not.
    pub mobility: Option<Mobility>,
    pub ring: KeyRing,
    pub now: Now,
    /// Open relay sockets and their ports.
    pub open: BTreeMap<RelayId, OpenRelay>,
    /// Ports that the system refuses.
    pub busy: BTreeSet<u16>,
    /// What clients were told without having asked just then.
    pub notices: Vec<(Flow, Vec<u8>)>,
    /// Connections with peers, on their way or open.
    pub connections: BTreeSet<ConnectionId>,
    /// Those that are on their way.
    pub connecting: BTreeSet<ConnectionId>,
    start: Instant,
    /// How many were made; seeds their transaction ids.
    clients: Cell<u64>,
}

pub fn key(id: &str) -> Key {
    Key {
        id: id.parse().unwrap(),
        secret: Secret::new(format!("the secret of {id}").into_bytes()),
        state: KeyState::Signing,
        since: 0,
        not_after: None,
    }
}

pub fn ring(revision: u64, ids: &[&str]) -> KeyRing {
    let mut keys: Vec<_> = ids.iter().map(|id| key(id)).collect();
    let last = keys.len() - 1;
    keys[..last].iter_mut().for_each(|k| k.state = KeyState::Retiring);
    KeyRing { revision, keys }
}

pub fn policy() -> PeerPolicy {
    PeerPolicy { fleet: ["10.0.0.1".parse().unwrap()].into(), relay_ports: ports(), ..PeerPolicy::default() }
}

pub fn ports() -> PortRange {
    PortRange { min: 50_000, max: 50_019 }
}

pub fn flow(n: u16) -> Flow {
    Flow {
        transport: Transport::Udp,
        client: SocketAddr::new([198, 51, 100, 7].into(), 1000 + n),
        server: SocketAddr::new([203, 0, 113, 1].into(), 3478),
        link: 0,
    }
}

/// The flow of a client over TCP.
pub fn stream(n: u16) -> Flow {
    Flow { transport: Transport::Tcp, link: u64::from(n), ..flow(n) }
}

pub fn peer(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl World {
    pub fn new() -> Self {
        Self::with(Limits::default(), |_| {})
    }

    pub fn with(limits: Limits, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new("example.org", Nonces::new([9; 32], 3600));
        config.relay_ports = ports();
        config.mobility = Some(Mobility::new([7; 32]));
        change(&mut config);
        Self::assemble(config, &Quotas::new(limits), &Reservations::new())
    }

    /// Workers of one server, that share quotas, reservations and clients that have moved.
    pub fn workers(count: u16) -> Vec<Self> {
        let (quotas, reservations) = (Quotas::new(Limits::default()), Reservations::new());
        let mobility = Mobility::new([7; 32]);
        let worker = |index| {
            let mut config = Config::new("example.org", Nonces::new([9; 32], 3600));
            config.relay_ports = ports();
            config.share = Share { index, count };
            config.mobility = Some(mobility.clone());
            Self::assemble(config, &quotas, &reservations)
        };
        (0..count).map(worker).collect()
    }

    fn assemble(config: Config, quotas: &Arc<Quotas>, reservations: &Arc<Reservations>) -> Self {
        let ring = ring(1, &["k-1"]);
        let addresses =
            RelayAddresses { v4: Some([10, 0, 0, 1].into()), v6: Some("2a00::1".parse().unwrap()) };
        let (keys, peers) = (Arc::new(ring.clone()), Arc::new(policy()));
        let (quotas, reservations) = (Arc::clone(quotas), Arc::clone(reservations));
        let mobility = config.mobility.clone();
        let server = Server::new(config, keys, peers, Arc::clone(&quotas), reservations, addresses, [3; 32]);
        let start = Instant::now();
        let now = Now { instant: start, unix: EPOCH };
        let (open, busy, connections) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let (notices, clients) = (Vec::new(), Cell::new(0));
        let connecting = BTreeSet::new();
        Self {
            server,
            quotas,
            mobility,
            ring,
            now,
            open,
            busy,
            notices,
            connections,
            connecting,
            start,
            clients,
        }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.unix += seconds;
        self.server.handle_timeout(self.now);
        self.close();
    }

    pub fn mint(&self, user: &str) -> Credential {
        mint(&self.ring, user, Duration::from_secs(3600), self.now.unix).unwrap()
    }

    pub fn client(&self, user: &str) -> Client {
        let credential = self.mint(user);
        self.clients.set(self.clients.get() + 1);
        Client::new(credential.username, credential.password, self.clients.get())
    }

    pub fn send(&mut self, flow: &Flow, packet: &[u8]) -> Outcome {
        let mut reply = Vec::new();
        let mut action = self.server.handle_client(self.now, flow, packet, &mut reply);
        while let ClientAction::Open(open) = action {
            // sockets that the server has given up are closed before others are opened
            let closed: Vec<_> = std::iter::from_fn(|| self.server.poll_closed()).collect();
            self.open.retain(|id, _| !closed.contains(id));
            let taken = self.open.values().any(|o| (o.family, o.port) == (open.family, open.port));
            assert!(!taken, "the server asked twice for {open:?}");
            let opened = !self.busy.contains(&open.port);
            if opened {
                self.open.insert(open.relay, open);
            }
            action = self.server.relay_opened(self.now, open.relay, opened, &mut reply);
        }
        let outcome = match action {
            ClientAction::None => Outcome::Nothing,
            ClientAction::Reply => Outcome::Reply(reply),
            ClientAction::ReplyBy(flow) => Outcome::ReplyBy(flow, reply),
            ClientAction::Relay { relay, peer, payload, .. } => {
                let from_port = self.open.get(&relay).expect("relayed from a socket that is not open").port;
                Outcome::Relayed { from_port, peer, payload: payload.to_vec() }
            }
            ClientAction::Connect { connection, relay, peer } => {
                self.connections.insert(connection);
                self.connecting.insert(connection);
                let from_port = self.open.get(&relay).expect("connected from a socket that is not open").port;
                Outcome::Connect { connection, from_port, peer }
            }
            ClientAction::Bind { connection } => {
                assert!(self.connections.contains(&connection), "bound to a connection that is not open");
                Outcome::Bound { connection, reply }
            }
            ClientAction::HandOver { worker } => Outcome::HandOver { worker },
            ClientAction::Open(_) => unreachable!(),
        };
        self.close();
        outcome
    }

    /// Sends a request and reads the answer; answers one challenge.
    pub fn ask(
        &mut self,
        flow: &Flow,
        client: &mut Client,
        mut request: impl FnMut(&mut Client) -> Vec<u8>,
    ) -> Answer {
        for _ in 0..2 {
            let packet = request(client);
            let Outcome::Reply(reply) = self.send(flow, &packet) else { return Answer::Other };
            match client.read(&reply) {
                Answer::Challenged => {}
                answer => return answer,
            }
        }
        Answer::Challenged
    }

    /// An allocation, and its relayed address.
    pub fn allocate(&mut self, flow: &Flow, client: &mut Client) -> SocketAddr {
        match self.ask(flow, client, Client::allocate) {
            Answer::Success { relayed: Some(relayed), .. } => relayed,
            answer => panic!("no allocation: {answer:?}"),
        }
    }

    /// What the client gets of a datagram from a peer.
    pub fn datagram(&mut self, relayed: SocketAddr, peer: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
        let relay = self.open.values().find(|o| o.port == relayed.port())?.relay;
        let route = self.server.route_from_peer(self.now, relay, peer, 1)?;
        let mut out = Vec::new();
        self.server.encode_to_client(&route, payload, &mut out).then_some(out)
    }

    /// What became of a connection that the server asked for.
    pub fn connected(&mut self, id: ConnectionId, opened: bool) -> bool {
        let wanted = self.server.connected(self.now, id, opened);
        self.connecting.remove(&id);
        if !wanted {
            self.connections.remove(&id);
        }
        self.close();
        wanted
    }

    /// A peer connects to a relay socket.
    pub fn peer_connects(&mut self, relayed: SocketAddr, peer: SocketAddr) -> Option<ConnectionId> {
        let open = self.open.values().find(|open| open.port == relayed.port())?;
        let id = self.server.accepted(self.now, open.relay, peer);
        self.connections.extend(id);
        self.close();
        id
    }

    /// A data connection ends.
    pub fn connection_ends(&mut self, id: ConnectionId) {
        self.server.connection_gone(id);
        self.connections.remove(&id);
        self.close();
    }

    /// Sends a request that brings forth no answer at once; answers one challenge.
    pub fn begin(
        &mut self,
        flow: &Flow,
        client: &mut Client,
        request: impl Fn(&mut Client) -> Vec<u8>,
    ) -> Outcome {
        for _ in 0..2 {
            let packet = request(client);
            match self.send(flow, &packet) {
                Outcome::Reply(reply) if client.read(&reply) == Answer::Challenged => {}
                outcome => return outcome,
            }
        }
        panic!("challenged twice")
    }

    pub fn close(&mut self) {
        while let Some(id) = self.server.poll_closed() {
            self.open.remove(&id);
        }
        while let Some(id) = self.server.poll_closed_connection() {
            self.connections.remove(&id);
        }
        self.connecting.retain(|id| self.connections.contains(id));
        self.notices.extend(std::iter::from_fn(|| self.server.poll_notice()));
        assert_eq!(self.connections.len(), self.server.peer_connections(), "connections and entries agree");
        assert_eq!(self.open.len(), self.server.open_relays(), "sockets and entries agree");
    }

    pub fn elapsed(&self) -> Duration {
        self.now.instant - self.start
    }
}
