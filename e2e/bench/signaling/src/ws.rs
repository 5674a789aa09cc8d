//! As much of WebSocket (RFC 6455) as a load needs: text frames of a client, whatever a server sends, and the
//! handshake of both sides. No extensions, no fragments.

use anyhow::{Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// Of a load, this need not be a secret.
const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x6e];
const KEY: &str = "cnRjLWJlbmNoLXNpZ25hbA==";
/// Section 1.3.
const ACCEPT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a frame is (section 5.2).
pub(crate) mod opcode {
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// Appends a frame of a client.
pub(crate) fn masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    head(out, opcode, 0x80, payload.len());
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends a frame of a server.
pub(crate) fn plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    head(out, opcode, 0, payload.len());
    out.extend_from_slice(payload);
}

fn head(out: &mut Vec<u8>, opcode: u8, masked: u8, length: usize) {
    out.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => out.push(masked | short),
        (_, Ok(long)) => {
            out.push(masked | 126);
            out.extend_from_slice(&long.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// One frame at the start of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// What it is.
    pub(crate) opcode: u8,
    /// The mask of a client's.
    pub(crate) mask: Option<[u8; 4]>,
    /// Where its payload starts.
    pub(crate) start: usize,
    /// Where its payload, and the frame, ends.
    pub(crate) end: usize,
}

/// The frame that `bytes` start with, when they have all of it.
///
/// # Errors
/// When it is a fragment: none of the servers sends any.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Frame>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x80 == 0 || first & 0x70 != 0 {
        bail!("a fragment, or an extension that was not asked for: {first:#04x}");
    }
    let (length, after) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (usize::try_from(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))?, 10)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (usize::from(short), 2),
    };
    let (mask, start) = if second & 0x80 == 0 {
        (None, after)
    } else {
        let Some(&[a, b, c, d]) = bytes.get(after..after + 4) else { return Ok(None) };
        (Some([a, b, c, d]), after + 4)
    };
    let Some(end) = start.checked_add(length).filter(|end| *end <= bytes.len()) else { return Ok(None) };
    Ok(Some(Frame { opcode: first & 0x0f, mask, start, end }))
}

/// What a client begins with.
pub(crate) fn request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// What a server answers to a client's head; none when it asks for no WebSocket.
pub(crate) fn response(head: &str) -> Option<String> {
    let named = |line: &str| Some(line.split_once(':').filter(|(name, _)| is_key(name))?.1.trim().to_owned());
    let key = head.lines().find_map(named)?;
    let accept = STANDARD.encode(Sha1::digest(key + ACCEPT));
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

fn is_key(name: &str) -> bool {
    name.eq_ignore_ascii_case("sec-websocket-key")
}

/// Where the head of an HTTP message ends, when it is all there.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn frames_of_all_lengths_are_read_as_they_were_written_and_not_before_they_are_whole() {
        for length in [0, 1, 125, 126, 300, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut bytes = Vec::new();
            masked(&mut bytes, opcode::TEXT, &payload);
            let frame = parse(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.end), (opcode::TEXT, bytes.len()));
            let mask = frame.mask.unwrap();
            let read: Vec<u8> = bytes[frame.start..frame.end]
                .iter()
                .enumerate()
                .map(|(n, byte)| byte ^ mask[n % 4])
                .collect();
            assert_eq!(read, payload);
            for cut in [0, 1, frame.start - 1, bytes.len() - 1] {
                assert_eq!(parse(&bytes[..cut]).unwrap(), None);
            }
        }
    }

    #[test]
    fn the_handshake_is_answered_as_in_the_rfc() {
        let head = "GET / HTTP/1.1\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert!(response(head).unwrap().contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(response("GET / HTTP/1.1\r\n\r\n"), None);
    }
}
