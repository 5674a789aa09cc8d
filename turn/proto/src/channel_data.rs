//! ChannelData messages (RFC 8656, section 12.4): four bytes before the payload.

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 4;

/// Which channel numbers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channels {
    /// 0x4000 to 0x4FFF (RFC 8656, section 12).
    #[default]
    Rfc8656,
    /// 0x4000 to 0x7FFF, as in RFC 5766, section 11, for old clients that draw from all of them.
    Rfc5766,
}

impl Channels {
    /// Whether that number may be bound.
    #[must_use]
    pub const fn contains(self, number: u16) -> bool {
        self.starts((number >> 8) as u8)
    }

    /// Whether a packet that starts with this byte is ChannelData (RFC 8656, section 12, table 3).
    #[must_use]
    pub const fn starts(self, first: u8) -> bool {
        match self {
            Self::Rfc8656 => matches!(first, 0x40..=0x4F),
            Self::Rfc5766 => matches!(first, 0x40..=0x7F),
        }
    }
}

/// The channel's number and the payload; what follows the payload is padding. `None` when the
/// packet is shorter than it claims.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = packet.split_first_chunk::<HEADER_LEN>()?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    Some((u16::from_be_bytes([head[0], head[1]]), rest.get(..length)?))
}

/// Appends a message. Over a stream it is padded to four bytes (RFC 8656, section 12.5).
/// Payloads over 65,535 bytes do not exist in UDP; they are cut.
pub fn write(number: u16, payload: &[u8], stream: bool, out: &mut Vec<u8>) {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let payload = &payload[..usize::from(length)];
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
    if stream {
        out.extend_from_slice(&[0; 3][..payload.len().next_multiple_of(4) - payload.len()]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_payload_comes_back_without_its_padding() {
        for length in 0..9 {
            for stream in [false, true] {
                let payload = vec![7; length];
                let mut out = Vec::new();
                write(0x4001, &payload, stream, &mut out);
                assert_eq!(parse(&out), Some((0x4001, &payload[..])));
                assert!(!stream || out.len() % 4 == 0);
            }
        }
    }

    #[test]
    fn a_short_packet_is_none() {
        assert_eq!(parse(&[0x40, 0, 0]), None);
        assert_eq!(parse(&[0x40, 0, 0, 2, 1]), None);
        assert_eq!(parse(&[0x40, 0, 0, 0]), Some((0x4000, &[][..])));
    }
}
