//! Any bytes, read as a packet of a client, of a server and of a stream: nothing panics, and what is
//! understood is understood the same way again.

use rtc_turn_proto::{
    Message, TransactionId, Writer,
    attributes::{self as attr, Attribute},
    channel_data::{self, Channels},
    client::Client,
    framing::{self, Frame, MAX_FRAME},
    integrity,
};

/// Reads `data` in every way there is.
pub(crate) fn run(data: &[u8]) {
    message(data);
    if let Some((number, payload)) = channel_data::parse(data) {
        let mut again = Vec::new();
        channel_data::write(number, payload, false, &mut again);
        assert_eq!(again, data[..again.len()]);
    }
    for channels in [Channels::Rfc8656, Channels::Rfc5766] {
        stream(data, channels);
    }
    let mut client = Client::new("1:a", "b", 1);
    client.read(data);
    client.allocate();
}

fn message(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    assert!(!integrity::verify(&message, b"a key that nobody has"));
    typed::<attr::AdditionalAddressFamily>(&message);
    typed::<attr::ChannelNumber>(&message);
    typed::<attr::Error>(&message);
    typed::<attr::EvenPort>(&message);
    typed::<attr::Icmp>(&message);
    typed::<attr::Lifetime>(&message);
    typed::<attr::RequestedAddressFamily>(&message);
    typed::<attr::RequestedTransport>(&message);
    typed::<attr::ReservationToken>(&message);
    typed::<attr::XorMappedAddress>(&message);
    typed::<attr::XorPeerAddress>(&message);
    typed::<attr::XorRelayedAddress>(&message);

    let honoured: Vec<_> = message.attributes().collect();
    let (mut again, TransactionId(id)) = (Vec::new(), message.id());
    let mut writer = Writer::new(&mut again, message.class(), message.method(), TransactionId(id));
    for (kind, value) in &honoured {
        writer.raw(*kind, value);
    }
    // what would have to be computed anew
    let protected = [attr::MESSAGE_INTEGRITY, attr::MESSAGE_INTEGRITY_SHA256, attr::FINGERPRINT];
    if honoured.iter().all(|(kind, _)| !protected.contains(kind)) {
        let again = Message::parse(&again).expect("what was written can be read");
        assert_eq!((again.class(), again.method()), (message.class(), message.method()));
        assert!(again.attributes().eq(honoured));
    }
}

fn typed<'a, T: Attribute<'a>>(message: &Message<'a>) {
    let first = message.get::<T>();
    assert_eq!(first.is_ok_and(|value| value.is_none()), message.raw(T::TYPE).is_none());
    message.all::<T>().for_each(drop);
}

fn stream(mut bytes: &[u8], channels: Channels) {
    while let Frame::Whole(frame) = framing::next(bytes, channels) {
        assert!(!frame.is_empty() && frame.len() <= MAX_FRAME && frame.len() % 4 == 0);
        for cut in [0, 1, 3, 4, 7, frame.len() - 1].map(|cut| cut.min(frame.len() - 1)) {
            let whole = matches!(framing::next(&frame[..cut], channels), Frame::Whole(_));
            assert!(!whole, "a part of a frame is none");
        }
        bytes = &bytes[frame.len()..];
    }
}
