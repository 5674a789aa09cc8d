//! Addresses in attributes, plain and masked (RFC 8489, sections 14.1 and 14.2).

use crate::message::{MAGIC_COOKIE, TransactionId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest value: family, port and an IPv6 address.
const MAX_LEN: usize = 20;

pub(crate) fn encode(address: SocketAddr) -> ([u8; MAX_LEN], usize) {
    let mut out = [0; MAX_LEN];
    out[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            out[1] = 1;
            out[4..8].copy_from_slice(&ip.octets());
            (out, 8)
        }
        IpAddr::V6(ip) => {
            out[1] = 2;
            out[4..20].copy_from_slice(&ip.octets());
            (out, 20)
        }
    }
}

pub(crate) fn encode_xor(address: SocketAddr, id: &TransactionId) -> ([u8; MAX_LEN], usize) {
    let (mut out, length) = encode(address);
    mask(&mut out[..length], id);
    (out, length)
}

pub(crate) fn decode_xor(value: &[u8], id: &TransactionId) -> Option<SocketAddr> {
    let mut copy = [0; MAX_LEN];
    let copy = copy.get_mut(..value.len())?;
    copy.copy_from_slice(value);
    if copy.len() < 8 {
        return None;
    }
    mask(copy, id);
    decode(copy)
}

pub(crate) fn decode(value: &[u8]) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let ip = match head[1] {
        1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([head[2], head[3]])))
}

/// The port with the high half of the cookie, the address with the cookie and the transaction id.
fn mask(value: &mut [u8], id: &TransactionId) {
    let cookie = MAGIC_COOKIE.to_be_bytes();
    let (port, ip) = value[2..].split_at_mut(2);
    port.iter_mut().zip(cookie).for_each(|(b, m)| *b ^= m);
    ip.iter_mut().zip(cookie.iter().chain(&id.0)).for_each(|(b, m)| *b ^= m);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masked_addresses_come_back(ip in any::<IpAddr>(), port in any::<u16>(), id in any::<[u8; 12]>()) {
            let (address, id) = (SocketAddr::new(ip, port), TransactionId(id));
            let (bytes, length) = encode_xor(address, &id);
            prop_assert_eq!(decode_xor(&bytes[..length], &id), Some(address));
        }

        #[test]
        fn no_value_panics(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode_xor(&value, &TransactionId([0; 12]));
            let _ = decode(&value);
        }
    }
}
