//! What fuzzing starts from: a packet of each kind, and a story for each thing that a server does.

use rtc_turn_proto::{
    Class, Message, Method, TransactionId, Writer, attributes as attr, channel_data, client::Client,
};
use std::net::SocketAddr;

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// RFC 5769, sections 2.1 to 2.4.
const VECTORS: [(&str, &str); 4] = [
    (
        "rfc5769-request",
        "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff\
         80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249\
         c1b571a280280004e57a3bcf",
    ),
    (
        "rfc5769-ipv4-response",
        "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643\
         000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96",
    ),
    (
        "rfc5769-ipv6-response",
        "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9fa\
         a5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c",
    ),
    (
        "rfc5769-long-term-request",
        "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c\
         662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014\
         f67024656dd64a3e02b8e0712e85c9a28ca89666",
    ),
];

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Packets, streams and what is none.
pub(crate) fn packets() -> Seeds {
    let (v4, v6): (SocketAddr, SocketAddr) =
        ("192.0.2.1:9".parse().unwrap(), "[2001:db8::1]:9".parse().unwrap());
    let mut seeds: Seeds = VECTORS.iter().map(|(name, text)| (*name, hex(text))).collect();
    let mut client = Client::new("1800003600:a", "secret", 1);
    seeds.extend([("binding", client.binding()), ("allocate-bare", client.allocate())]);
    learn(&mut client);
    seeds.extend([
        ("allocate", client.allocate()),
        ("refresh", client.refresh(600)),
        ("create-permission", client.create_permission(v6)),
        ("channel-bind", client.channel_bind(0x4000, v4)),
        ("send", client.send(v4, b"payload")),
    ]);
    client.prefer_sha256 = true;
    learn(&mut client);
    let sha256 = client.request(Method::ALLOCATE, |w| {
        w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::EVEN_PORT, &[0x80]);
        w.raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]).raw(attr::RESERVATION_TOKEN, &[1; 8]);
    });
    seeds.push(("allocate-sha256", sha256));
    let mut data = Vec::new();
    let mut writer = Writer::new(&mut data, Class::Indication, Method::DATA, TransactionId([1; 12]));
    writer.xor_address(attr::XOR_PEER_ADDRESS, v4).raw(attr::ICMP, &[0, 0, 3, 4, 0, 0, 5, 0]).fingerprint();
    let mut stream = Vec::new();
    channel_data::write(0x4000, b"12345", true, &mut stream);
    let channel = stream[..9].to_vec();
    stream.extend(client.binding());
    let cut = stream[..stream.len() - 3].to_vec();
    stream.extend_from_slice(&channel);
    // an attribute that claims to be longer than its message
    let mut overrun = client.binding();
    overrun.extend_from_slice(&[0, 0x0D, 0, 40, 0, 0, 0, 0]);
    overrun[3] = 8;
    seeds.extend([
        ("data-icmp", data),
        ("channel-data", channel),
        ("stream", stream),
        ("stream-cut", cut),
        ("overrun", overrun),
        ("channel-data-short", vec![0x40, 0, 0, 9, 1]),
        ("ssh", b"SSH-2.0-hello\r\n".to_vec()),
        ("empty", Vec::new()),
    ]);
    seeds
}

/// A challenge for the client to sign with.
fn learn(client: &mut Client) {
    let mut challenge = Vec::new();
    let id = Message::parse(&client.binding()).unwrap().id();
    let mut writer = Writer::new(&mut challenge, Class::Error, Method::ALLOCATE, id);
    writer.error_code(rtc_turn_proto::ErrorCode::Unauthenticated, true);
    writer.raw(attr::REALM, b"example.org").raw(attr::NONCE, b"obMatJos2gAAAAAAAAAAAAAA");
    writer.raw(attr::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
    client.read(&challenge);
}

/// Attributes, as stories name them: see `server::attributes`.
const UDP: &[u8] = &[1, 4, 17, 0, 0, 0];
const PAIR: &[u8] = &[4, 1, 0x80];
const DUAL: &[u8] = &[6, 4, 2, 0, 0, 0];
const V6: &[u8] = &[5, 4, 2, 0, 0, 0];
const END: &[u8] = &[2, 4, 0, 0, 0, 0];
const HOUR: &[u8] = &[2, 4, 0, 0, 0x0E, 0x10];
const CHANNEL: &[u8] = &[3, 4, 0x40, 0, 0, 0];
const DATA: &[u8] = &[8, 2, 1, 2];
const MOBILE: &[u8] = &[132];

/// The ticket of a party.
fn ticket(of: u8) -> [u8; 1] {
    [128 + of]
}

fn peer(n: u8) -> [u8; 2] {
    [16, n]
}

fn request(party: u8, method: Method, attributes: &[&[u8]]) -> Vec<u8> {
    [&[1, party, method.0 as u8, attributes.len() as u8], &attributes.concat()[..]].concat()
}

fn send(party: u8, to: u8) -> Vec<u8> {
    [&[2, party, 6, 2][..], &peer(to), DATA].concat()
}

fn channel(party: u8) -> Vec<u8> {
    vec![4, party, 0x40, 0, 2, 1, 2]
}

fn pass(seconds: u16) -> Vec<u8> {
    [&[5, 0], &seconds.to_be_bytes()[..]].concat()
}

/// Stories of a server's life.
pub(crate) fn stories() -> Seeds {
    const ALLOCATE: Method = Method::ALLOCATE;
    let permit = |party, to| request(party, Method::CREATE_PERMISSION, &[&peer(to)]);
    let bind = |party, to| request(party, Method::CHANNEL_BIND, &[CHANNEL, &peer(to)]);
    let from_peer = |relay, from| vec![6, relay, from, 0, 9];
    let arrive = |party, of| request(party, Method::REFRESH, &[&ticket(of)]);
    let stories: [(&'static str, &[Vec<u8>]); 14] = [
        (
            "a-call",
            &[
                request(0, ALLOCATE, &[UDP]),
                permit(0, 0),
                send(0, 0),
                from_peer(0, 0),
                bind(0, 0),
                channel(0),
                from_peer(0, 0),
                vec![7, 0, 0, 3, 3, 0, 0],
                request(0, Method::REFRESH, &[END]),
                channel(0),
            ],
        ),
        (
            "a-permission-ends",
            &[request(0, ALLOCATE, &[UDP]), permit(0, 0), pass(299), send(0, 0), pass(2), send(0, 0)],
        ),
        (
            "a-channel-outlives-its-permission",
            &[
                request(0, ALLOCATE, &[UDP, HOUR]),
                bind(0, 2),
                pass(301),
                channel(0),
                from_peer(0, 2),
                pass(300),
                channel(0),
            ],
        ),
        (
            "an-allocation-expires",
            &[request(2, ALLOCATE, &[UDP]), pass(601), channel(2), request(2, Method::REFRESH, &[])],
        ),
        ("a-pair", &[request(0, ALLOCATE, &[UDP, PAIR]), pass(31), request(1, ALLOCATE, &[UDP, PAIR])]),
        (
            "two-families",
            &[
                request(3, ALLOCATE, &[UDP, DUAL]),
                permit(3, 3),
                permit(3, 0),
                send(3, 3),
                request(3, Method::REFRESH, &[END, V6]),
                send(3, 3),
                send(3, 0),
            ],
        ),
        (
            "too-many",
            &[
                request(0, ALLOCATE, &[UDP, PAIR]),
                request(1, ALLOCATE, &[UDP, PAIR]),
                request(1, ALLOCATE, &[UDP]),
                request(2, ALLOCATE, &[UDP, DUAL]),
            ],
        ),
        (
            "ports-are-busy",
            &[
                vec![9, 0, 0],
                vec![9, 0, 1],
                vec![9, 0, 2],
                request(0, ALLOCATE, &[UDP, PAIR]),
                request(1, ALLOCATE, &[UDP]),
                vec![9, 0, 3],
                request(2, ALLOCATE, &[UDP]),
            ],
        ),
        (
            "rules-change",
            &[
                request(0, ALLOCATE, &[UDP]),
                bind(0, 0),
                vec![10, 0],
                channel(0),
                from_peer(0, 0),
                bind(0, 0),
                vec![10, 0],
                bind(0, 0),
            ],
        ),
        (
            "keys-change",
            &[
                request(0, ALLOCATE, &[UDP]),
                vec![11, 0, 1],
                request(0, Method::REFRESH, &[]),
                vec![12, 0, 0],
                request(0, Method::REFRESH, &[]),
            ],
        ),
        (
            "gone-again-and-tampered",
            &[
                request(2, ALLOCATE, &[UDP]),
                vec![3, 2, 0xFF, 0],
                vec![3, 2, 30, 1],
                vec![8, 2],
                vec![3, 2, 0xFF, 0],
            ],
        ),
        (
            "a-client-moves",
            &[
                request(0, ALLOCATE, &[UDP, MOBILE]),
                bind(0, 0),
                arrive(1, 0),
                from_peer(0, 0),
                channel(0),
                channel(1),
                channel(0),
                from_peer(0, 0),
                vec![3, 1, 0xFF, 0],
                arrive(0, 1),
                request(1, ALLOCATE, &[UDP]),
                send(0, 0),
                request(0, Method::REFRESH, &[END]),
            ],
        ),
        (
            "a-connection-ends-and-its-client-comes-back",
            &[
                request(2, ALLOCATE, &[UDP, MOBILE]),
                bind(2, 0),
                vec![8, 2],
                from_peer(0, 0),
                arrive(3, 2),
                channel(3),
                arrive(0, 2),
                arrive(2, 3),
                vec![8, 3],
                from_peer(0, 0),
                pass(601),
            ],
        ),
        (
            "strangers",
            &[
                vec![0, 0, 20, 0, 3, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
                vec![0, 2, 4, 0, 1, 0, 0],
                vec![0, 2, 5, 0x21, 0x12, 0xA4, 0x42, 9],
                vec![0, 2, 2, 0xFF, 0],
            ],
        ),
    ];
    let mut seeds: Seeds = stories.into_iter().map(|(name, events)| (name, events.concat())).collect();
    let forbidden = [5, 6, 7, 8, 9].into_iter().flat_map(|to| [permit(0, to), bind(0, to), send(0, to)]);
    let refused =
        [request(0, ALLOCATE, &[UDP]), request(3, ALLOCATE, &[UDP, V6])].into_iter().chain(forbidden);
    let full = [
        request(0, ALLOCATE, &[UDP]),
        request(0, Method::CREATE_PERMISSION, &[&peer(0), &peer(2), &peer(4)]),
        send(0, 0),
        request(0, Method::CREATE_PERMISSION, &[&peer(0), &peer(2)]),
        permit(0, 4),
        send(0, 4),
    ];
    seeds.extend([
        ("peers-are-refused", refused.collect::<Vec<_>>().concat()),
        ("permissions-are-full", full.concat()),
    ]);
    seeds
}
