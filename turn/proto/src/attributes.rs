//! Attribute types and their values (RFC 8489, section 14, and RFC 8656, section 18).

use crate::{address, message::TransactionId};
use std::net::SocketAddr;

macro_rules! types {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: u16 = $value;)*
    };
}

types! {
    /// RFC 8489, section 14.1.
    MAPPED_ADDRESS = 0x0001;
    /// RFC 5780, section 7.2.
    CHANGE_REQUEST = 0x0003;
    /// RFC 8489, section 14.3.
    USERNAME = 0x0006;
    /// RFC 8489, section 14.5.
    MESSAGE_INTEGRITY = 0x0008;
    /// RFC 8489, section 14.8.
    ERROR_CODE = 0x0009;
    /// RFC 8489, section 14.13.
    UNKNOWN_ATTRIBUTES = 0x000A;
    /// RFC 8656, section 18.1.
    CHANNEL_NUMBER = 0x000C;
    /// RFC 8656, section 18.2.
    LIFETIME = 0x000D;
    /// RFC 8656, section 18.3.
    XOR_PEER_ADDRESS = 0x0012;
    /// RFC 8656, section 18.4.
    DATA = 0x0013;
    /// RFC 8489, section 14.9.
    REALM = 0x0014;
    /// RFC 8489, section 14.10.
    NONCE = 0x0015;
    /// RFC 8656, section 18.5.
    XOR_RELAYED_ADDRESS = 0x0016;
    /// RFC 8656, section 18.6.
    REQUESTED_ADDRESS_FAMILY = 0x0017;
    /// RFC 8656, section 18.7.
    EVEN_PORT = 0x0018;
    /// RFC 8656, section 18.8.
    REQUESTED_TRANSPORT = 0x0019;
    /// RFC 8656, section 18.9.
    DONT_FRAGMENT = 0x001A;
    /// RFC 8489, section 14.6.
    MESSAGE_INTEGRITY_SHA256 = 0x001C;
    /// RFC 8489, section 14.12.
    PASSWORD_ALGORITHM = 0x001D;
    /// RFC 8489, section 14.4.
    USERHASH = 0x001E;
    /// RFC 8489, section 14.2.
    XOR_MAPPED_ADDRESS = 0x0020;
    /// RFC 8656, section 18.10.
    RESERVATION_TOKEN = 0x0022;
    /// RFC 5780, section 7.6.
    PADDING = 0x0026;
    /// RFC 5780, section 7.5.
    RESPONSE_PORT = 0x0027;
    /// RFC 6062, section 6.2.1.
    CONNECTION_ID = 0x002A;
    /// RFC 8656, section 18.11.
    ADDITIONAL_ADDRESS_FAMILY = 0x8000;
    /// RFC 8656, section 18.12.
    ADDRESS_ERROR_CODE = 0x8001;
    /// RFC 8489, section 14.11.
    PASSWORD_ALGORITHMS = 0x8002;
    /// RFC 8656, section 18.13.
    ICMP = 0x8004;
    /// RFC 8489, section 14.14.
    SOFTWARE = 0x8022;
    /// RFC 8489, section 14.15.
    ALTERNATE_SERVER = 0x8023;
    /// RFC 8489, section 14.7.
    FINGERPRINT = 0x8028;
    /// RFC 5780, section 7.3.
    RESPONSE_ORIGIN = 0x802B;
    /// RFC 5780, section 7.4.
    OTHER_ADDRESS = 0x802C;
    /// RFC 8016, section 3.3.
    MOBILITY_TICKET = 0x8030;
}

/// The value does not have the form that its attribute asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of attribute {0:#06x} is malformed")]
pub struct Malformed(pub u16);

/// A decoded attribute.
pub trait Attribute<'a>: Sized {
    /// Its type.
    const TYPE: u16;

    /// Decodes its value, which is without padding.
    ///
    /// # Errors
    /// [`Malformed`].
    fn decode(value: &'a [u8], id: &TransactionId) -> Result<Self, Malformed>;
}

macro_rules! address_attribute {
    ($(#[$doc:meta])* $name:ident, $kind:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub SocketAddr);

        impl Attribute<'_> for $name {
            const TYPE: u16 = $kind;

            fn decode(value: &[u8], id: &TransactionId) -> Result<Self, Malformed> {
                address::decode_xor(value, id).map(Self).ok_or(Malformed(Self::TYPE))
            }
        }
    };
}

address_attribute!(
    /// The client's address as the server sees it.
    XorMappedAddress, XOR_MAPPED_ADDRESS);
address_attribute!(
    /// A peer's address as the server sees it.
    XorPeerAddress, XOR_PEER_ADDRESS);
address_attribute!(
    /// The address that an allocation relays for.
    XorRelayedAddress, XOR_RELAYED_ADDRESS);

/// How long an allocation lives on, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub u32);

impl Attribute<'_> for Lifetime {
    const TYPE: u16 = LIFETIME;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        value.try_into().map(|v| Self(u32::from_be_bytes(v))).map_err(|_| Malformed(Self::TYPE))
    }
}

/// The number of a channel, as sent: the range is the server's to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelNumber(pub u16);

impl Attribute<'_> for ChannelNumber {
    const TYPE: u16 = CHANNEL_NUMBER;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        match *value {
            [high, low, _, _] => Ok(Self(u16::from_be_bytes([high, low]))),
            _ => Err(Malformed(Self::TYPE)),
        }
    }
}

/// The IP protocol between server and peer: 17 is UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedTransport(pub u8);

impl Attribute<'_> for RequestedTransport {
    const TYPE: u16 = REQUESTED_TRANSPORT;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        match *value {
            [protocol, _, _, _] => Ok(Self(protocol)),
            _ => Err(Malformed(Self::TYPE)),
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: &std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Its number in STUN attributes.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }
}

/// A family as a client asks for it: `None` when the server does not know its number.
fn family(value: &[u8], kind: u16) -> Result<Option<Family>, Malformed> {
    match *value {
        [1, _, _, _] => Ok(Some(Family::V4)),
        [2, _, _, _] => Ok(Some(Family::V6)),
        [_, _, _, _] => Ok(None),
        _ => Err(Malformed(kind)),
    }
}

/// The family of the relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedAddressFamily(pub Option<Family>);

impl Attribute<'_> for RequestedAddressFamily {
    const TYPE: u16 = REQUESTED_ADDRESS_FAMILY;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        family(value, Self::TYPE).map(Self)
    }
}

/// The family of a second relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdditionalAddressFamily(pub Option<Family>);

impl Attribute<'_> for AdditionalAddressFamily {
    const TYPE: u16 = ADDITIONAL_ADDRESS_FAMILY;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        family(value, Self::TYPE).map(Self)
    }
}

/// The relayed port is to be even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvenPort {
    /// And the next one is to be reserved.
    pub reserve_next: bool,
}

impl Attribute<'_> for EvenPort {
    const TYPE: u16 = EVEN_PORT;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        match *value {
            [flags] => Ok(Self { reserve_next: flags & 0x80 != 0 }),
            _ => Err(Malformed(Self::TYPE)),
        }
    }
}

/// Names a reserved port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationToken(pub [u8; 8]);

impl Attribute<'_> for ReservationToken {
    const TYPE: u16 = RESERVATION_TOKEN;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        value.try_into().map(Self).map_err(|_| Malformed(Self::TYPE))
    }
}

/// An ERROR-CODE as a client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(pub u16);

impl Attribute<'_> for Error {
    const TYPE: u16 = ERROR_CODE;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        match *value {
            [_, _, class @ 3..=6, number @ 0..=99, ..] => {
                Ok(Self(u16::from(class) * 100 + u16::from(number)))
            }
            _ => Err(Malformed(Self::TYPE)),
        }
    }
}

/// Names a connection with a peer (RFC 6062, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

impl Attribute<'_> for ConnectionId {
    const TYPE: u16 = CONNECTION_ID;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        value.try_into().map(|v| Self(u32::from_be_bytes(v))).map_err(|_| Malformed(Self::TYPE))
    }
}

/// Why a datagram to a peer was lost, as the network said (RFC 8656, section 18.13). Types and codes
/// are those of the peer's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The next link's MTU when the packet was too big for it, else 0.
    pub mtu: u32,
}

impl Icmp {
    /// The value of the attribute.
    #[must_use]
    pub fn encode(self) -> [u8; 8] {
        let [a, b, c, d] = self.mtu.to_be_bytes();
        [0, 0, self.kind, self.code, a, b, c, d]
    }

    /// Whether a server passes it on to a client (RFC 8656, section 11.5).
    pub(crate) fn is_relayed(self, family: Family) -> bool {
        match family {
            Family::V4 => matches!(self.kind, 3 | 11),
            Family::V6 => matches!(self.kind, 1..=3),
        }
    }
}

impl Attribute<'_> for Icmp {
    const TYPE: u16 = ICMP;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        match *value {
            [_, _, kind, code, a, b, c, d] => Ok(Self { kind, code, mtu: u32::from_be_bytes([a, b, c, d]) }),
            _ => Err(Malformed(Self::TYPE)),
        }
    }
}

/// From which other socket the answer is to come (RFC 5780, section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRequest {
    /// From the other IP address.
    pub ip: bool,
    /// From the other port.
    pub port: bool,
}

impl ChangeRequest {
    pub(crate) fn bits(self) -> usize {
        usize::from(self.ip) << 1 | usize::from(self.port)
    }
}

impl Attribute<'_> for ChangeRequest {
    const TYPE: u16 = CHANGE_REQUEST;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        match *value {
            [_, _, _, flags] => Ok(Self { ip: flags & 4 != 0, port: flags & 2 != 0 }),
            _ => Err(Malformed(Self::TYPE)),
        }
    }
}

/// The client's port that the answer is to go to (RFC 5780, section 7.5); never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePort(pub u16);

impl Attribute<'_> for ResponsePort {
    const TYPE: u16 = RESPONSE_PORT;

    fn decode(value: &[u8], _: &TransactionId) -> Result<Self, Malformed> {
        // whether the two bytes of padding count in the length, the RFC leaves open
        match *value {
            [high, low] | [high, low, _, _] if (high, low) != (0, 0) => {
                Ok(Self(u16::from_be_bytes([high, low])))
            }
            _ => Err(Malformed(Self::TYPE)),
        }
    }
}
