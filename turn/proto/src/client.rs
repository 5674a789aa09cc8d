//! What a client needs to talk to a TURN server: requests with long-term credentials, and what to
//! read from responses. For probes and tests; it keeps no timers and retransmits nothing.

use crate::{
    Class, LongTermKey, Message, Method, PasswordAlgorithm, TransactionId, Writer,
    attributes::{self as attr, ConnectionId, Error, Icmp, Lifetime, XorPeerAddress, XorRelayedAddress},
    integrity,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::net::SocketAddr;

/// A client's credentials, and what the server asked for in its last challenge.
#[derive(Clone, Debug)]
pub struct Client {
    username: String,
    password: String,
    challenge: Option<Challenge>,
    rng: StdRng,
    /// Whether to take the server's offer of SHA-256 (RFC 8489, section 9.2.3).
    pub prefer_sha256: bool,
    /// The last ticket that the server gave (RFC 8016).
    pub ticket: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    /// The offer, when it is taken.
    algorithms: Option<Vec<u8>>,
    key: LongTermKey,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It worked. The relayed address is there when an Allocate did.
    Success {
        /// The first relayed address.
        relayed: Option<SocketAddr>,
        /// The lifetime, in seconds.
        lifetime: Option<u32>,
    },
    /// Send the request again: the challenge has been learnt.
    Challenged,
    /// It was refused with this code.
    Refused(u16),
    /// A Connect has succeeded, or a peer has connected (`Some`): to be bound.
    Connection(ConnectionId, Option<SocketAddr>),
    /// Data from a peer.
    Data(SocketAddr, Vec<u8>),
    /// A datagram to this peer was lost.
    Lost(SocketAddr, Icmp),
    /// Something else, or not authentic.
    Other,
}

impl Client {
    /// A client that knows no challenge yet. `seed` draws transaction ids.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>, seed: u64) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            challenge: None,
            rng: StdRng::seed_from_u64(seed),
            prefer_sha256: false,
            ticket: None,
        }
    }

    /// A request with whatever attributes `fill` adds, protected if there is a challenge.
    pub fn request(&mut self, method: Method, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut packet = Vec::new();
        let mut w = Writer::new(&mut packet, Class::Request, method, TransactionId(self.rng.random()));
        fill(&mut w);
        if let Some(challenge) = &self.challenge {
            w.raw(attr::USERNAME, self.username.as_bytes());
            w.raw(attr::REALM, &challenge.realm).raw(attr::NONCE, &challenge.nonce);
            match &challenge.algorithms {
                Some(offer) => w
                    .raw(attr::PASSWORD_ALGORITHMS, offer)
                    .raw(attr::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
                    .integrity_sha256(challenge.key.expose()),
                None => w.integrity_sha1(challenge.key.expose()),
            };
        }
        packet
    }

    /// Binding.
    pub fn binding(&mut self) -> Vec<u8> {
        let mut packet = Vec::new();
        Writer::new(&mut packet, Class::Request, Method::BINDING, TransactionId(self.rng.random()));
        packet
    }

    /// Allocate, for UDP over IPv4.
    pub fn allocate(&mut self) -> Vec<u8> {
        self.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })
    }

    /// Allocate, for TCP over IPv4 (RFC 6062).
    pub fn allocate_tcp(&mut self) -> Vec<u8> {
        self.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
        })
    }

    /// Connect (RFC 6062).
    pub fn connect(&mut self, peer: SocketAddr) -> Vec<u8> {
        self.request(Method::CONNECT, |w| {
            w.xor_address(attr::XOR_PEER_ADDRESS, peer);
        })
    }

    /// ConnectionBind (RFC 6062), on a connection of its own.
    pub fn connection_bind(&mut self, id: ConnectionId) -> Vec<u8> {
        self.request(Method::CONNECTION_BIND, |w| {
            w.u32(attr::CONNECTION_ID, id.0);
        })
    }

    /// Refresh. A lifetime of 0 ends the allocation.
    pub fn refresh(&mut self, lifetime: u32) -> Vec<u8> {
        self.request(Method::REFRESH, |w| {
            w.u32(attr::LIFETIME, lifetime);
        })
    }

    /// Allocate, for UDP over IPv4, with a ticket to take it to other addresses by (RFC 8016).
    pub fn allocate_mobile(&mut self) -> Vec<u8> {
        self.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::MOBILITY_TICKET, &[]);
        })
    }

    /// Refresh with the ticket, to be sent from another address than before (RFC 8016).
    pub fn move_here(&mut self, lifetime: u32) -> Vec<u8> {
        let ticket = self.ticket.clone().unwrap_or_default();
        self.request(Method::REFRESH, |w| {
            w.u32(attr::LIFETIME, lifetime).raw(attr::MOBILITY_TICKET, &ticket);
        })
    }

    /// CreatePermission.
    pub fn create_permission(&mut self, peer: SocketAddr) -> Vec<u8> {
        self.request(Method::CREATE_PERMISSION, |w| {
            w.xor_address(attr::XOR_PEER_ADDRESS, peer);
        })
    }

    /// ChannelBind.
    pub fn channel_bind(&mut self, number: u16, peer: SocketAddr) -> Vec<u8> {
        self.request(Method::CHANNEL_BIND, |w| {
            w.u32(attr::CHANNEL_NUMBER, u32::from(number) << 16);
            w.xor_address(attr::XOR_PEER_ADDRESS, peer);
        })
    }

    /// A Send indication.
    pub fn send(&mut self, peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        Writer::new(&mut packet, Class::Indication, Method::SEND, TransactionId(self.rng.random()))
            .xor_address(attr::XOR_PEER_ADDRESS, peer)
            .raw(attr::DATA, payload);
        packet
    }

    /// Reads a STUN message of the server, and learns its challenge if it is one.
    pub fn read(&mut self, packet: &[u8]) -> Answer {
        let Ok(message) = Message::parse(packet) else { return Answer::Other };
        match (message.class(), message.method()) {
            (Class::Indication, Method::DATA) => {
                match (message.get::<XorPeerAddress>(), message.raw(attr::DATA)) {
                    (Ok(Some(XorPeerAddress(peer))), Some(data)) => Answer::Data(peer, data.to_vec()),
                    (Ok(Some(XorPeerAddress(peer))), None) => match message.get::<Icmp>() {
                        Ok(Some(icmp)) => Answer::Lost(peer, icmp),
                        _ => Answer::Other,
                    },
                    _ => Answer::Other,
                }
            }
            (Class::Indication, Method::CONNECTION_ATTEMPT) => {
                match (message.get::<ConnectionId>(), message.get::<XorPeerAddress>()) {
                    (Ok(Some(id)), Ok(Some(XorPeerAddress(peer)))) => Answer::Connection(id, Some(peer)),
                    _ => Answer::Other,
                }
            }
            (Class::Success, Method::CONNECT) if self.is_authentic(&message) => {
                match message.get::<ConnectionId>() {
                    Ok(Some(id)) => Answer::Connection(id, None),
                    _ => Answer::Other,
                }
            }
            (Class::Error, _) => match message.get::<Error>() {
                Ok(Some(Error(code @ (401 | 438)))) => match self.learn(&message, code) {
                    true => Answer::Challenged,
                    false => Answer::Refused(code),
                },
                Ok(Some(Error(code))) => Answer::Refused(code),
                _ => Answer::Other,
            },
            (Class::Success, method) if method == Method::BINDING || self.is_authentic(&message) => {
                if let Some(ticket) = message.raw(attr::MOBILITY_TICKET) {
                    self.ticket = Some(ticket.to_vec());
                }
                let relayed = message.get::<XorRelayedAddress>().ok().flatten().map(|a| a.0);
                let lifetime = message.get::<Lifetime>().ok().flatten().map(|l| l.0);
                Answer::Success { relayed, lifetime }
            }
            _ => Answer::Other,
        }
    }

    fn is_authentic(&self, message: &Message<'_>) -> bool {
        self.challenge.as_ref().is_some_and(|c| integrity::verify(message, c.key.expose()))
    }

    /// Whether there is something to try: a second 401 says that the credentials are wrong.
    fn learn(&mut self, message: &Message<'_>, code: u16) -> bool {
        let (Some(realm), Some(nonce)) = (message.raw(attr::REALM), message.raw(attr::NONCE)) else {
            return false;
        };
        let first = self.challenge.is_none();
        let offer = message.raw(attr::PASSWORD_ALGORITHMS).filter(|_| self.prefer_sha256);
        let algorithm = if offer.is_some() { PasswordAlgorithm::Sha256 } else { PasswordAlgorithm::Md5 };
        self.challenge = Some(Challenge {
            realm: realm.to_vec(),
            nonce: nonce.to_vec(),
            algorithms: offer.map(<[u8]>::to_vec),
            key: LongTermKey::new(algorithm, self.username.as_bytes(), realm, self.password.as_bytes()),
        });
        code == 438 || first
    }
}
