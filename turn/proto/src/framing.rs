//! Messages in a byte stream (RFC 8656, section 12.5, and RFC 8489, section 6.2.2): STUN and
//! ChannelData tell their own length, so nothing but their first four bytes is needed.

use crate::{
    channel_data::{self, Channels},
    message,
};

/// The longest frame: a ChannelData message of 65,535 bytes with its padding.
pub const MAX_FRAME: usize = channel_data::HEADER_LEN + 65_536;

/// What a stream's next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// One message, padding included, to be taken off the stream's front.
    Whole(&'a [u8]),
    /// Not all of it is here yet; never more than [`MAX_FRAME`] bytes are needed.
    Partial,
    /// Neither STUN nor ChannelData: the stream cannot be followed any more, and is to be closed.
    Broken,
}

/// The first message in `bytes`.
#[must_use]
pub fn next(bytes: &[u8], channels: Channels) -> Frame<'_> {
    let Some(&first) = bytes.first() else { return Frame::Partial };
    let header = match first {
        0x00..=0x3F => message::HEADER_LEN,
        _ if channels.starts(first) => channel_data::HEADER_LEN,
        _ => return Frame::Broken,
    };
    let Some(&[high, low]) = bytes.get(2..4) else { return Frame::Partial };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if header == message::HEADER_LEN {
        let cookie = bytes.get(4..).unwrap_or_default();
        let known = cookie.len().min(4);
        if length % 4 != 0 || cookie[..known] != message::MAGIC_COOKIE.to_be_bytes()[..known] {
            return Frame::Broken;
        }
    }
    bytes.get(..(header + length).next_multiple_of(4)).map_or(Frame::Partial, Frame::Whole)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{Class, Method, TransactionId, Writer};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Sent {
        Channel(Vec<u8>),
        Stun(Vec<u8>),
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let payload = proptest::collection::vec(any::<u8>(), 0..100);
        prop_oneof![payload.clone().prop_map(Sent::Channel), payload.prop_map(Sent::Stun)]
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(messages in proptest::collection::vec(sent(), 0..10),
                                              chunk in 1usize..50) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for message in &messages {
                let start = stream.len();
                match message {
                    Sent::Channel(payload) => channel_data::write(0x4000, payload, true, &mut stream),
                    Sent::Stun(value) => {
                        Writer::new(&mut stream, Class::Indication, Method::SEND, TransactionId([1; 12]))
                            .raw(0x13, value);
                    }
                }
                expected.push(stream[start..].to_vec());
            }
            let (mut buffered, mut read) = (Vec::new(), Vec::new());
            for piece in stream.chunks(chunk) {
                buffered.extend_from_slice(piece);
                loop {
                    match next(&buffered, Channels::Rfc8656) {
                        Frame::Whole(frame) => {
                            read.push(frame.to_vec());
                            let length = frame.len();
                            buffered.drain(..length);
                        }
                        Frame::Partial => break,
                        Frame::Broken => prop_assert!(false),
                    }
                }
            }
            prop_assert_eq!(read, expected);
            prop_assert!(buffered.is_empty());
        }

        #[test]
        fn a_partial_frame_is_bounded(head in any::<[u8; 8]>()) {
            let mut bytes = vec![0; MAX_FRAME];
            bytes[..8].copy_from_slice(&head);
            prop_assert_ne!(next(&bytes, Channels::Rfc5766), Frame::Partial);
        }
    }

    #[test]
    fn a_stream_of_another_protocol_breaks_at_once() {
        assert_eq!(next(b"SSH-2.0-x\r\n", Channels::Rfc8656), Frame::Broken);
        assert_eq!(next(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], Channels::Rfc8656), Frame::Broken);
        assert_eq!(next(&[0x00, 0x01, 0x00, 0x00, 0x21, 0x12], Channels::Rfc8656), Frame::Partial);
        assert_eq!(next(&[0x80], Channels::Rfc8656), Frame::Broken);
    }
}
