//! The test vectors of RFC 5769: what others computed is what this crate reads, verifies and writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rtc_turn_proto::{
    Class, LongTermKey, Message, Method, PasswordAlgorithm, TransactionId, Writer,
    attributes::{self, XorMappedAddress},
    integrity,
};

/// RFC 5769, section 2.1.
const SAMPLE_REQUEST: &[&str] = &[
    "000100582112a442b7e7a701bc34d686fa87dfae",
    "802200105354554e207465737420636c69656e74",
    "002400046e0001ff80290008932ff9b151263b36",
    "000600096576746a3a6836765920202000080014",
    "9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2",
    "80280004e57a3bcf",
];

/// RFC 5769, section 2.2.
const IPV4_RESPONSE: &[&str] = &[
    "0101003c2112a442b7e7a701bc34d686fa87dfae",
    "8022000b7465737420766563746f722000200008",
    "0001a147e112a643000800142b91f599fd9e90c3",
    "8c7489f92af9ba53f06be7d780280004c07d4c96",
];

/// RFC 5769, section 2.3.
const IPV6_RESPONSE: &[&str] = &[
    "010100482112a442b7e7a701bc34d686fa87dfae",
    "8022000b7465737420766563746f722000200014",
    "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
    "00080014a382954e4be67bf11784c97c8292c275",
    "bfe3ed4180280004c8fb0b4c",
];

/// RFC 5769, section 2.4.
const LONG_TERM_REQUEST: &[&str] = &[
    "000100602112a44278ad3433c6ad72c029da412e",
    "00060012e3839ee38388e383aae38383e382afe3",
    "82b900000015001c662f2f3439396b3935346436",
    "4f4c33346f4c394653547679363473410014000b",
    "6578616d706c652e6f72670000080014f6702465",
    "6dd64a3e02b8e0712e85c9a28ca89666",
];

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const USERNAME: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";

fn bytes(hex: &[&str]) -> Vec<u8> {
    let hex = hex.concat();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn long_term_key() -> LongTermKey {
    LongTermKey::new(PasswordAlgorithm::Md5, USERNAME.as_bytes(), b"example.org", b"TheMatrIX")
}

#[test]
fn the_sample_request_is_authentic() {
    let packet = bytes(SAMPLE_REQUEST);
    let message = Message::parse(&packet).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    assert_eq!(message.raw(attributes::USERNAME), Some(&b"evtj:h6vY"[..]));
    assert_eq!(message.raw(attributes::SOFTWARE), Some(&b"STUN test client"[..]));
    assert!(integrity::verify(&message, PASSWORD));
    assert!(!integrity::verify(&message, b"another"));
}

#[test]
fn the_responses_carry_the_mapped_address() {
    for (vector, address) in
        [(IPV4_RESPONSE, "192.0.2.1:32853"), (IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let packet = bytes(vector);
        let message = Message::parse(&packet).unwrap();
        assert_eq!(message.class(), Class::Success);
        let mapped = message.get::<XorMappedAddress>().unwrap().unwrap();
        assert_eq!(mapped.0, address.parse().unwrap());
        assert!(integrity::verify(&message, PASSWORD));
    }
}

#[test]
fn the_long_term_request_is_authentic_under_the_prepared_password() {
    let packet = bytes(LONG_TERM_REQUEST);
    let message = Message::parse(&packet).unwrap();
    assert_eq!(message.raw(attributes::USERNAME), Some(USERNAME.as_bytes()));
    assert_eq!(message.raw(attributes::REALM), Some(&b"example.org"[..]));
    assert!(integrity::verify(&message, long_term_key().expose()));
}

#[test]
fn the_writer_writes_the_long_term_request_to_the_byte() {
    let expected = bytes(LONG_TERM_REQUEST);
    let id = TransactionId(expected[8..20].try_into().unwrap());
    let mut written = Vec::new();
    Writer::new(&mut written, Class::Request, Method::BINDING, id)
        .raw(attributes::USERNAME, USERNAME.as_bytes())
        .raw(attributes::NONCE, b"f//499k954d6OL34oL9FSTvy64sA")
        .raw(attributes::REALM, b"example.org")
        .integrity_sha1(long_term_key().expose());
    assert_eq!(written, expected);
}
