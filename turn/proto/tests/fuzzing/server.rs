//! Any bytes, read as what happens to a server: packets of clients and peers, and time that passes.
//!
//! An event is a byte for its kind and what that kind needs; bytes that are lacking are zero. So a byte
//! that changes changes one event, and most byte strings are long stories. Requests are made and signed
//! here, of the methods and attributes that the bytes name, since nobody guesses an HMAC; packets that
//! nobody signed are given as they are.
//!
//! What is checked is in [`Story`]'s methods: what was promised to clients is kept beside the server, and
//! each relayed packet is held against it.

use crate::common::{Outcome, World, key, peer, policy, ring};
use rtc_turn_proto::{
    Class, Flow, Limits, LongTermKey, Message, Method, PasswordAlgorithm, PeerPolicy, PortRange,
    TransactionId, Transport, Writer,
    attributes::{self as attr, ChannelNumber, Icmp, XorPeerAddress},
    channel_data::{self, Channels},
    client::{Answer, Client},
    framing::{self, Frame},
    integrity,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The relay ports: few, so that they run out.
const PORTS: PortRange = PortRange { min: 50_000, max: 50_003 };
/// For one user, and for all.
const LIMITS: Limits = Limits { per_user: Some(3), total: Some(5) };
/// For one allocation, of permissions and of channels: they run out too.
const PERMISSIONS: usize = 2;
/// How many bytes an answer to somebody who proved nothing has for each byte of the request, at most:
/// 84 for the shortest request that is refused, which is 20.
const AMPLIFICATION: f64 = 4.2;

/// Attributes by one byte; the rest of the bytes are the types themselves.
const KINDS: [u16; 16] = [
    attr::XOR_PEER_ADDRESS,
    attr::REQUESTED_TRANSPORT,
    attr::LIFETIME,
    attr::CHANNEL_NUMBER,
    attr::EVEN_PORT,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::ADDITIONAL_ADDRESS_FAMILY,
    attr::RESERVATION_TOKEN,
    attr::DATA,
    attr::DONT_FRAGMENT,
    attr::USERNAME,
    attr::NONCE,
    attr::PASSWORD_ALGORITHMS,
    attr::MESSAGE_INTEGRITY,
    attr::FINGERPRINT,
    attr::USERHASH,
];

const PEERS: [&str; 10] = [
    "8.8.8.8:9",
    "8.8.8.8:10",
    "1.1.1.1:9",
    "[2606:4700::1]:9",
    "10.0.0.1:50003",
    "10.0.0.1:22",
    "127.0.0.1:80",
    "[::ffff:8.8.8.8]:9",
    "[::1]:9",
    "8.8.8.8:0",
];

/// What a story is told in.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn short(&mut self) -> &'a [u8] {
        let length = self.u8().into();
        self.take(length)
    }
}

/// What a client was told that it may do, and until when.
#[derive(Default)]
struct Promised {
    permitted: HashMap<IpAddr, u64>,
    channels: HashMap<u16, (SocketAddr, u64)>,
}

struct Party {
    flow: Flow,
    client: Client,
    user: &'static str,
    /// Which promises are its allocation's: a party that has moved has those of another.
    promised: usize,
    /// The last packet, to be sent again.
    last: Vec<u8>,
    /// What a stream has brought of a frame.
    partial: Vec<u8>,
}

struct Story {
    world: World,
    parties: Vec<Party>,
    promises: Vec<Promised>,
    /// Which promises each ticket is of.
    tickets: HashMap<Vec<u8>, usize>,
    /// Whether 8.8.8.0/24 is denied.
    denied: bool,
}

/// Tells the server the story that is in `data`, and that all of it ends.
pub(crate) fn run(data: &[u8]) {
    let mut story = Story::new();
    let mut bytes = Bytes(data);
    while !bytes.0.is_empty() {
        story.event(&mut bytes);
        story.check();
    }
    story.end();
}

impl Story {
    fn new() -> Self {
        let mut world = World::with(LIMITS, |config| {
            config.relay_ports = PORTS;
            config.max_permissions = PERMISSIONS;
        });
        world.server.set_peers(rules(false));
        let server = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 3478);
        let party = |(transport, client, user): (Transport, &str, &'static str)| {
            let client: SocketAddr = client.parse().unwrap();
            let server = server(if client.is_ipv4() { "203.0.113.1" } else { "2001:db8::1" });
            let (client_of, last, partial) = (world.client(user), Vec::new(), Vec::new());
            let flow = Flow { transport, client, server, link: 0 };
            Party { flow, client: client_of, user, promised: 0, last, partial }
        };
        let parties = [
            (Transport::Udp, "198.51.100.7:1000", "a"),
            (Transport::Udp, "198.51.100.7:1001", "a"),
            (Transport::Tcp, "198.51.100.7:1000", "b"),
            (Transport::Tls, "[2001:db8::7]:1000", "b"),
        ]
        .map(party);
        let mut story = Self {
            world,
            parties: parties.into(),
            promises: Vec::new(),
            tickets: HashMap::new(),
            denied: false,
        };
        (0..story.parties.len()).for_each(|n| story.begin(n));
        story
    }

    /// What was promised at a party's flow is over, and anything may be promised anew.
    fn begin(&mut self, n: usize) {
        self.parties[n].promised = self.promises.len();
        self.promises.push(Promised::default());
    }

    fn event(&mut self, bytes: &mut Bytes<'_>) {
        let kind = bytes.u8() % 13;
        let n = usize::from(bytes.u8()) % self.parties.len();
        match kind {
            0 => self.raw(n, bytes.short()),
            1 | 2 => {
                let method = Method(u16::from(bytes.u8() % 16));
                let attributes = attributes(bytes);
                let class = if kind == 1 { Class::Request } else { Class::Indication };
                let packet = self.compose(n, class, method, &attributes);
                if self.packet(n, &packet) == Some(Answer::Challenged) {
                    let packet = self.compose(n, class, method, &attributes);
                    self.packet(n, &packet);
                }
            }
            3 => {
                // again, or tampered with
                let (at, mask) = (usize::from(bytes.u8()), bytes.u8());
                let mut packet = self.parties[n].last.clone();
                if let Some(byte) = packet.get_mut(at) {
                    *byte ^= mask;
                }
                self.packet(n, &packet);
            }
            4 => {
                let mut packet = Vec::new();
                channel_data::write(bytes.u16(), bytes.short(), false, &mut packet);
                self.packet(n, &packet);
            }
            5 => self.world.pass(bytes.u16().into()),
            6 => self.datagram(n, bytes),
            7 => self.lost(n, bytes),
            8 => {
                self.world.server.client_gone(&self.parties[n].flow);
                self.world.pass(0);
            }
            9 => {
                let port = PORTS.min + u16::from(bytes.u8() % 4);
                if !self.world.busy.remove(&port) {
                    self.world.busy.insert(port);
                }
            }
            10 => {
                self.denied = !self.denied;
                self.world.server.set_peers(rules(self.denied));
            }
            11 => {
                // a key more, and sometimes one less
                let revision = self.world.ring.revision + 1;
                let (old, new) = (format!("k-{}", revision - 1), format!("k-{revision}"));
                let ids = if bytes.u8() & 1 == 0 { vec![&*old, &*new] } else { vec![&*new] };
                self.world.ring = ring(revision, &ids);
                self.world.server.set_keys(Arc::new(self.world.ring.clone()));
            }
            _ => {
                let user = if bytes.u8() & 1 == 0 { "a" } else { "b" };
                (self.parties[n].client, self.parties[n].user) = (self.world.client(user), user);
            }
        }
    }

    /// A request as its client would send it, or an indication.
    fn compose(&mut self, n: usize, class: Class, method: Method, attributes: &[Given<'_>]) -> Vec<u8> {
        let tickets: Vec<_> =
            self.parties.iter().map(|party| party.client.ticket.clone().unwrap_or_default()).collect();
        let write = |w: &mut Writer<'_>| {
            for given in attributes {
                match *given {
                    Given::Peer(peer) => w.xor_address(attr::XOR_PEER_ADDRESS, peer),
                    Given::Raw(kind, value) => w.raw(kind, value),
                    Given::Ticket(of) => w.raw(attr::MOBILITY_TICKET, &tickets[of % tickets.len()]),
                };
            }
        };
        if class == Class::Request {
            return self.parties[n].client.request(method, write);
        }
        let mut packet = Vec::new();
        write(&mut Writer::new(&mut packet, class, method, TransactionId([7; 12])));
        packet
    }

    /// Bytes as they are: a datagram, or a piece of a stream.
    fn raw(&mut self, n: usize, data: &[u8]) {
        let party = &mut self.parties[n];
        if !rtc_turn_proto::is_stream(party.flow.transport) {
            self.packet(n, data);
            return;
        }
        party.partial.extend_from_slice(data);
        loop {
            let held = std::mem::take(&mut self.parties[n].partial);
            match framing::next(&held, Channels::Rfc8656) {
                Frame::Whole(frame) => {
                    self.packet(n, frame);
                    self.parties[n].partial = held[frame.len()..].to_vec();
                }
                Frame::Partial => {
                    self.parties[n].partial = held;
                    return;
                }
                Frame::Broken => {
                    self.world.server.client_gone(&self.parties[n].flow);
                    return self.world.pass(0);
                }
            }
        }
    }

    /// A whole packet, and what its sender makes of the answer.
    fn packet(&mut self, n: usize, packet: &[u8]) -> Option<Answer> {
        let flow = self.parties[n].flow;
        let (before, begun) = (self.held(), self.world.server.counters().allocations);
        let outcome = self.world.send(&flow, packet);
        if !self.is_signed(packet) {
            assert_eq!(self.held(), before, "who proved nothing changes nothing");
        }
        if self.world.server.counters().allocations > begun {
            self.begin(n);
        }
        self.parties[n].last = packet.to_vec();
        match outcome {
            Outcome::Nothing => None,
            Outcome::Reply(reply) => Some(self.reply(n, packet, &reply)),
            Outcome::Relayed { peer, payload, .. } => {
                assert!(payload.is_empty() || packet.windows(payload.len()).any(|part| part == payload));
                self.relayed(n, packet, peer);
                None
            }
            Outcome::Connect { .. }
            | Outcome::Bound { .. }
            | Outcome::HandOver { .. }
            | Outcome::ReplyBy(..) => None,
        }
    }

    /// What all clients hold together.
    fn held(&self) -> (usize, u32, u64) {
        (self.world.open.len(), self.world.quotas.total(), self.world.server.counters().live)
    }

    /// Whether whoever made it had a credential of some key that was ever in the ring.
    fn is_signed(&self, packet: &[u8]) -> bool {
        let Ok(message) = Message::parse(packet) else { return false };
        let username = message.raw(attr::USERNAME).and_then(|name| std::str::from_utf8(name).ok());
        let (Some(username), Some(_)) = (username, integrity::protection(&message)) else { return false };
        (1..=self.world.ring.revision).any(|revision| {
            let password = rtc_credentials::password(&key(&format!("k-{revision}")).secret, username);
            [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256].into_iter().any(|algorithm| {
                let (name, password) = (username.as_bytes(), password.as_bytes());
                let key = LongTermKey::new(algorithm, name, b"example.org", password);
                integrity::verify(&message, key.expose())
            })
        })
    }

    fn reply(&mut self, n: usize, packet: &[u8], reply: &[u8]) -> Answer {
        let answer = Message::parse(reply).expect("an answer can be read");
        assert!(matches!(answer.class(), Class::Success | Class::Error));
        if integrity::protection(&answer).is_none() {
            assert!(
                reply.len() as f64 <= AMPLIFICATION * packet.len() as f64,
                "{} for {}",
                reply.len(),
                packet.len()
            );
        }
        let answered = self.parties[n].client.read(reply);
        // one whose attributes overrun it is answered too
        let Ok(request) = Message::parse(packet) else { return answered };
        assert_eq!((answer.id(), answer.method()), (request.id(), request.method()));
        assert!(answered != Answer::Other || answer.class() == Class::Success, "an error has a code");
        if answer.class() != Class::Success {
            return answered;
        }
        let now = self.world.now.unix;
        self.follow(n, &request, answer.raw(attr::MOBILITY_TICKET));
        let promised = &mut self.promises[self.parties[n].promised];
        let peers = request.all::<XorPeerAddress>().flatten().map(|XorPeerAddress(peer)| peer);
        match request.method() {
            Method::CREATE_PERMISSION => {
                promised.permitted.extend(peers.map(|peer| (peer.ip(), now + 300)));
            }
            Method::CHANNEL_BIND => {
                let Ok(Some(ChannelNumber(number))) = request.get::<ChannelNumber>() else {
                    panic!("unbound")
                };
                for peer in peers.take(1) {
                    promised.permitted.insert(peer.ip(), now + 300);
                    promised.channels.insert(number, (peer, now + 600));
                }
            }
            _ => {}
        }
        answered
    }

    /// A Refresh with a ticket has brought somebody's allocation to this party.
    fn follow(&mut self, n: usize, request: &Message<'_>, given: Option<&[u8]>) {
        let shown = request.raw(attr::MOBILITY_TICKET).filter(|_| request.method() == Method::REFRESH);
        if let Some(shown) = shown {
            self.parties[n].promised = *self.tickets.get(shown).expect("a ticket that was given");
        }
        if let Some(given) = given {
            self.tickets.insert(given.to_vec(), self.parties[n].promised);
        }
    }

    fn relayed(&self, n: usize, packet: &[u8], to: SocketAddr) {
        self.may_reach(to);
        let (promised, now) = (&self.promises[self.parties[n].promised], self.world.now.unix);
        match channel_data::parse(packet).filter(|_| Channels::Rfc8656.starts(packet[0])) {
            Some((number, _)) => {
                let bound = promised.channels.get(&number);
                assert!(bound.is_some_and(|(peer, end)| *peer == to && *end > now), "channel {number:#x}");
            }
            None => assert!(promised.permitted.get(&to.ip()).is_some_and(|end| *end > now), "{to}"),
        }
    }

    fn datagram(&mut self, n: usize, bytes: &mut Bytes<'_>) {
        let from = peer(PEERS[usize::from(bytes.u8()) % PEERS.len()]);
        let payload = vec![7; usize::from(bytes.u16())];
        let Some(relay) = self.world.open.keys().nth(n).copied() else { return };
        let Some(route) = self.world.server.route_from_peer(self.world.now, relay, from, 1) else { return };
        let mut out = Vec::new();
        if self.world.server.encode_to_client(&route, &payload, &mut out) {
            assert!(
                channel_data::parse(&out).is_some_and(|(_, data)| data == payload)
                    || Message::parse(&out).is_ok()
            );
        }
        self.may_reach(from);
        self.may_hear(&route.flow, from);
    }

    fn lost(&mut self, n: usize, bytes: &mut Bytes<'_>) {
        let from = peer(PEERS[usize::from(bytes.u8()) % PEERS.len()]);
        let icmp = Icmp { kind: bytes.u8(), code: bytes.u8(), mtu: bytes.u16().into() };
        let Some(relay) = self.world.open.keys().nth(n).copied() else { return };
        let mut out = Vec::new();
        if let Some(flow) = self.world.server.icmp_from_peer(self.world.now, relay, from, icmp, &mut out) {
            assert!(Message::parse(&out).is_ok());
            self.may_hear(&flow, from);
        }
    }

    fn may_hear(&self, flow: &Flow, from: SocketAddr) {
        let party = self.parties.iter().find(|party| party.flow == *flow).expect("a client's flow");
        let permitted = self.promises[party.promised].permitted.get(&from.ip());
        assert!(permitted.is_some_and(|end| *end > self.world.now.unix), "{from}");
    }

    /// Written a second time, apart from the rules of the server.
    fn may_reach(&self, peer: SocketAddr) {
        let allowed = match peer.ip() {
            IpAddr::V4(ip) if ip.octets()[..3] == [8, 8, 8] => !self.denied,
            // the fleet
            IpAddr::V4(ip) if ip.octets() == [10, 0, 0, 1] => PORTS.contains(peer.port()),
            IpAddr::V4(ip) => {
                !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified())
            }
            IpAddr::V6(ip) => ip.to_ipv4().is_none() && (ip.segments()[0] & 0xE000) == 0x2000,
        };
        assert!(allowed && peer.port() != 0, "{peer}");
    }

    fn check(&mut self) {
        let (open, total, live) = self.held();
        assert!(total as usize >= open && total <= LIMITS.total.unwrap());
        assert!(live as usize <= open);
        for (user, held) in self.world.quotas.top(9) {
            assert!(held <= LIMITS.per_user.unwrap(), "{user} holds {held}");
        }
        for n in 0..self.parties.len() {
            if !self.world.server.holds(&self.parties[n].flow) {
                self.begin(n);
            }
        }
    }

    /// Everything comes back: sockets, quotas, timers, and each port.
    fn end(mut self) {
        self.world.pass(4000);
        assert!(self.world.mobility.as_ref().is_some_and(|mobility| mobility.is_empty()));
        assert_eq!((self.held(), self.world.server.poll_timeout()), ((0, 0, 0), None));
        self.world.busy.clear();
        self.world.quotas.set_limits(Limits::default());
        let mut client = self.world.client("c");
        for n in PORTS.min..=PORTS.max {
            self.world.allocate(&crate::common::flow(n), &mut client);
        }
        assert_eq!(
            self.world.ask(&crate::common::flow(1), &mut client, Client::allocate),
            Answer::Refused(508)
        );
    }
}

fn rules(denied: bool) -> Arc<PeerPolicy> {
    let deny = if denied { vec!["8.8.8.0/24".parse().unwrap()] } else { Vec::new() };
    Arc::new(PeerPolicy { deny, relay_ports: PORTS, ..policy() })
}

/// An attribute of a request that is made here.
enum Given<'a> {
    Peer(SocketAddr),
    Raw(u16, &'a [u8]),
    /// That of a party, if it has one.
    Ticket(usize),
}

fn attributes<'a>(bytes: &mut Bytes<'a>) -> Vec<Given<'a>> {
    let count = bytes.u8() % 8;
    let given = |_| match bytes.u8() {
        kind @ 0..16 => Given::Raw(KINDS[usize::from(kind)], bytes.short()),
        // a good form of what is asked for most
        16..128 => Given::Peer(peer(PEERS[usize::from(bytes.u8()) % PEERS.len()])),
        of @ 128..132 => Given::Ticket(of.into()),
        132 => Given::Raw(attr::MOBILITY_TICKET, &[]),
        _ => Given::Raw(bytes.u16(), bytes.short()),
    };
    (0..count).map(given).collect()
}
