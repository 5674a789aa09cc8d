//! What an allocation is (RFC 8656, section 6).

use super::{Flow, RelayId, mobility::Mobile};
use crate::{
    ErrorCode, LongTermKey, PasswordAlgorithm, PeerPolicy, TransactionId, Verdict, Writer,
    attributes::{ConnectionId, Family},
    bandwidth::{Direction, Meter},
    ports::Wanted,
    quotas::Ticket,
    reservations::Reserved,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// RFC 8656, section 9.
pub(super) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656, section 12.
pub(super) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Allocation {
    /// Where data for the client goes.
    pub(super) flow: Flow,
    /// The transaction that made it, to know its retransmissions by.
    pub(super) transaction: TransactionId,
    /// Tells it from others that had its index.
    pub(super) generation: u64,
    pub(super) username: Box<str>,
    /// The key that its first request was verified with. It outlives its key in the ring, so a call
    /// refreshes on through a rotation.
    pub(super) key: LongTermKey,
    pub(super) algorithm: PasswordAlgorithm,
    /// By family.
    pub(super) relays: [Option<RelayId>; 2],
    pub(super) expires: Instant,
    /// When its timer fires.
    pub(super) due: Instant,
    pub(super) permissions: Vec<Permission>,
    pub(super) channels: Vec<Channel>,
    /// The port that was reserved with it, and the failure of its second family, for retransmissions.
    pub(super) token: Option<[u8; 8]>,
    pub(super) address_error: Option<(Family, ErrorCode)>,
    /// Connections with peers; `Some` for a TCP allocation (RFC 6062), which relays nothing else.
    pub(super) connections: Option<Vec<ConnectionId>>,
    /// `Some` when its client has a ticket (RFC 8016).
    pub(super) mobile: Option<Box<Mobile>>,
    /// What it may relay, where that is bounded.
    pub(super) meter: Option<Box<Meter>>,
    /// `Some` until all its relay sockets are open.
    pub(super) opening: Option<Box<Opening>>,
}

#[derive(Debug)]
pub(super) struct Permission {
    pub(super) ip: IpAddr,
    pub(super) expires: Instant,
    pub(super) verdict: Verdict,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) number: u16,
    pub(super) peer: SocketAddr,
    pub(super) relay: RelayId,
    pub(super) expires: Instant,
    /// The end of the permission for the peer's address, kept here so that a datagram from the peer
    /// costs one look-up.
    pub(super) permitted_until: Instant,
}

/// A relay socket's entry.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) family: Family,
    /// As peers see it.
    pub(super) address: SocketAddr,
    pub(super) allocation: usize,
    /// The worker whose share the port is of.
    pub(super) home: u16,
    pub(super) tcp: bool,
    /// A second, and how many ICMP messages the client was told of in it.
    pub(super) told: (u64, u8),
    /// Counts it in its user's quota.
    pub(super) _ticket: Ticket,
}

/// A relayed address that an Allocate asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The one that the request is about; without it the request fails.
    Main(Family, Wanted),
    /// The second family of a dual allocation; without it the response says why.
    Additional(Family),
    /// A port that was reserved before.
    Reserved(Family),
}

impl Step {
    pub(super) fn family(self) -> Family {
        match self {
            Self::Main(family, _) | Self::Additional(family) | Self::Reserved(family) => family,
        }
    }
}

/// An Allocate whose relay sockets are being opened.
#[derive(Debug)]
pub(super) struct Opening {
    /// What is to be opened after the current one.
    pub(super) next: Option<Step>,
    pub(super) step: Step,
    /// The socket that the driver was asked to open.
    pub(super) relay: RelayId,
    /// The odd port of a pair, to be reserved when the even one is open.
    pub(super) reserve: Option<Reserved>,
    pub(super) attempts: u8,
    pub(super) lifetime: Duration,
    /// Whether the response is protected by SHA-256.
    pub(super) sha256: bool,
}

impl Allocation {
    /// Protects a response with the allocation's own key.
    pub(super) fn protect(&self, w: &mut Writer<'_>, sha256: bool) {
        if sha256 {
            w.integrity_sha256(self.key.expose())
        } else {
            w.integrity_sha1(self.key.expose())
        };
    }

    /// Whether its client is nowhere, and may come back by its ticket (RFC 8016).
    pub(super) fn is_away(&self) -> bool {
        self.mobile.as_ref().is_some_and(|mobile| mobile.is_away)
    }

    pub(super) fn relay_for(&self, ip: &IpAddr) -> Option<RelayId> {
        self.relays[Family::of(ip) as usize]
    }

    /// Whether it may hold permissions for all of these, when `max` is the most that it may hold.
    pub(super) fn has_room(
        &mut self,
        ips: impl IntoIterator<Item = IpAddr>,
        now: Instant,
        max: usize,
    ) -> bool {
        self.permissions.retain(|p| p.expires > now);
        let held = |ip: &IpAddr| self.permissions.iter().any(|p| p.ip == *ip);
        let mut new: Vec<_> = ips.into_iter().filter(|ip| !held(ip)).collect();
        new.sort_unstable();
        new.dedup();
        new.is_empty() || self.permissions.len() + new.len() <= max
    }

    /// Whether so many bytes are within the bandwidth quota, which they then count against.
    pub(super) fn may_relay(&mut self, direction: Direction, bytes: usize, now: Instant) -> bool {
        self.meter.as_mut().is_none_or(|meter| meter.take(direction, bytes, now))
    }

    /// Installs or refreshes a permission, for which there is room.
    pub(super) fn permit(&mut self, ip: IpAddr, verdict: Verdict, now: Instant) {
        let expires = now + PERMISSION_LIFETIME;
        if let Some(permission) = self.permissions.iter_mut().find(|p| p.ip == ip) {
            permission.expires = expires;
            permission.verdict = verdict;
        } else {
            self.permissions.push(Permission { ip, expires, verdict });
        }
        for channel in self.channels.iter_mut().filter(|c| c.peer.ip() == ip) {
            channel.permitted_until = expires;
        }
    }

    /// The permission that a datagram to or from `peer` needs.
    pub(super) fn permission(&self, ip: &IpAddr, now: Instant) -> Option<&Permission> {
        self.permissions.iter().find(|p| p.ip == *ip && p.expires > now)
    }

    /// Ends what the rules do not permit.
    pub(super) fn enforce(&mut self, peers: &PeerPolicy) {
        self.permissions.retain_mut(|permission| {
            permission.verdict = peers.judge(permission.ip);
            permission.verdict != Verdict::Denied
        });
        self.channels.retain(|channel| peers.permits(channel.peer));
    }
}
