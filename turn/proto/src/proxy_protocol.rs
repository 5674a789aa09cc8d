//! The PROXY protocol, versions 1 and 2: what a load balancer says of a connection that it passes on,
//! before anything else. Whether to believe it is the caller's to know.

use std::net::{IpAddr, SocketAddr};

/// The longest header of version 1 (section 2.1).
const V1_MAX: usize = 107;
/// The longest header of version 2 that is taken: addresses and a few TLVs, which are skipped.
const V2_MAX: usize = 4096;
/// How a header of version 2 begins (section 2.2).
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// With a header.
    Whole {
        /// The client's address. `None` when the connection is the load balancer's own, or when it
        /// does not know, or knows one that is not of TCP over IP.
        client: Option<SocketAddr>,
        /// The header's length, in bytes.
        length: usize,
    },
    /// With the start of a header; never more than 4,096 bytes are needed.
    Partial,
    /// Without one.
    Broken,
}

/// Reads the header in front of a stream.
#[must_use]
pub fn parse(bytes: &[u8]) -> Header {
    let common = bytes.len().min(V2.len());
    if bytes[..common] == V2[..common] {
        return v2(bytes);
    }
    let common = bytes.len().min(6);
    if bytes[..common] == b"PROXY "[..common] {
        return v1(bytes);
    }
    Header::Broken
}

fn v1(bytes: &[u8]) -> Header {
    let bounded = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = bounded.windows(2).position(|pair| pair == b"\r\n") else {
        return if bounded.len() < V1_MAX { Header::Partial } else { Header::Broken };
    };
    let line = std::str::from_utf8(&bounded[..end]).unwrap_or_default();
    let client = match line.split(' ').skip(1).collect::<Vec<_>>()[..] {
        // whatever follows is to be ignored
        ["UNKNOWN", ..] => None,
        [family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let of_family =
                |text: &str| text.parse().ok().filter(|ip: &IpAddr| ip.is_ipv4() == (family == "TCP4"));
            let (Some(source), Some(_), Ok(port), Ok(_)) = (
                of_family(source),
                of_family(destination),
                source_port.parse(),
                destination_port.parse::<u16>(),
            ) else {
                return Header::Broken;
            };
            Some(SocketAddr::new(source, port))
        }
        _ => return Header::Broken,
    };
    Header::Whole { client, length: end + 2 }
}

fn v2(bytes: &[u8]) -> Header {
    let Some((&[command, family, high, low], rest)) =
        bytes.get(V2.len()..).and_then(|rest| rest.split_first_chunk::<4>())
    else {
        return Header::Partial;
    };
    let block = usize::from(u16::from_be_bytes([high, low]));
    let length = V2.len() + 4 + block;
    if length > V2_MAX || !matches!(command, 0x20 | 0x21) {
        return Header::Broken;
    }
    let Some(block) = rest.get(..block) else { return Header::Partial };
    let client = match (command, family) {
        // LOCAL: the rest is to be discarded, whatever it says
        (0x20, _) => None,
        (_, 0x11) => {
            let Some(&[a, b, c, d, _, _, _, _, high, low, _, _]) = block.first_chunk::<12>() else {
                return Header::Broken;
            };
            Some(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))))
        }
        (_, 0x21) => {
            let (Some(source), Some(&[high, low])) = (block.first_chunk::<16>(), block.get(32..34)) else {
                return Header::Broken;
            };
            if block.len() < 36 {
                return Header::Broken;
            }
            Some(SocketAddr::from((*source, u16::from_be_bytes([high, low]))))
        }
        // what is valid and not supported is as if it were not known
        (_, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => None,
        _ => return Header::Broken,
    };
    Header::Whole { client, length }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn written_v1(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let (a, b) = (client.ip(), server.ip());
        format!("PROXY {family} {a} {b} {} {}\r\n", client.port(), server.port()).into_bytes()
    }

    fn written_v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = [&V2[..], &[command, family]].concat();
        bytes.extend_from_slice(&(block.len() as u16).to_be_bytes());
        bytes.extend_from_slice(block);
        bytes
    }

    fn block(client: SocketAddr, server: SocketAddr, tlvs: &[u8]) -> (u8, Vec<u8>) {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let ports = [client.port().to_be_bytes(), server.port().to_be_bytes()].concat();
        let block = [octets(client.ip()), octets(server.ip()), ports, tlvs.to_vec()].concat();
        (if client.is_ipv4() { 0x11 } else { 0x21 }, block)
    }

    fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let v4 =
            any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into()));
        let v6 =
            any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into()));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(
            (client, server) in addresses(),
            tlvs in proptest::collection::vec(any::<u8>(), 0..300),
            after in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let (family, block) = block(client, server, &tlvs);
            for header in [written_v1(client, server), written_v2(0x21, family, &block)] {
                let whole = [&header[..], &after].concat();
                let length = header.len();
                prop_assert_eq!(parse(&whole), Header::Whole { client: Some(client), length });
                for end in 0..length {
                    prop_assert_eq!(parse(&header[..end]), Header::Partial);
                }
            }
            let local = written_v2(0x20, family, &block);
            prop_assert_eq!(parse(&local), Header::Whole { client: None, length: local.len() });
        }

        #[test]
        fn what_is_waited_for_is_bounded(start in 0usize..3, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = [&b"PROXY "[..], V2, b""][start].to_vec();
            bytes.extend_from_slice(&noise);
            let _ = parse(&bytes);
            bytes.resize(V2_MAX, b' ');
            prop_assert_ne!(parse(&bytes), Header::Partial);
        }
    }

    #[test]
    fn an_address_that_is_not_known_is_none() {
        let longest = [&b"PROXY UNKNOWN "[..], &[b'f'; 91], b"\r\n"].concat();
        assert_eq!(longest.len(), V1_MAX);
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:: ::1 1 2\r\n".to_vec(),
            longest,
            written_v2(0x20, 0x00, &[]),
            // LOCAL discards a family that is of no use
            written_v2(0x20, 0x11, &[]),
            written_v2(0x20, 0xEE, &[1]),
            written_v2(0x21, 0x00, &[3, 0, 1, 0]),
            written_v2(0x21, 0x12, &[0; 12]),
            written_v2(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(parse(&header), Header::Whole { client: None, length: header.len() });
        }
    }

    #[test]
    fn what_breaks_the_rules_is_broken() {
        let too_long = [&b"PROXY UNKNOWN "[..], &[b'f'; 92], b"\r\n"].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42],
            vec![22, 3, 1],
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
            b"PROXY \xFF\r\n".to_vec(),
            too_long,
            written_v2(0x22, 0x11, &[0; 12]),
            written_v2(0x11, 0x11, &[0; 12]),
            written_v2(0x21, 0x11, &[0; 11]),
            written_v2(0x21, 0x21, &[0; 35]),
            written_v2(0x21, 0x41, &[0; 36]),
            written_v2(0x21, 0x11, &[0; V2_MAX]),
        ] {
            assert_eq!(parse(&bytes), Header::Broken, "{bytes:?}");
        }
    }
}
