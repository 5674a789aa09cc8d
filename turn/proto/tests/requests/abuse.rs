//! Ways in which other servers were led astray, where no other test is about them.

use crate::{
    OK, PEER, code,
    common::{Outcome, World, flow, peer},
};
use rtc_turn_proto::{
    Class, Drop, Limits, Message, Method, Rate, TransactionId, Writer, attributes as attr, client::Client,
};

/// Adds an attribute after MESSAGE-INTEGRITY, as whoever sees the packet on its way could.
fn append(packet: &mut Vec<u8>, write: impl FnOnce(&mut Writer<'_>)) {
    let id = Message::parse(packet).unwrap().id();
    let mut added = Vec::new();
    write(&mut Writer::new(&mut added, Class::Request, Method::BINDING, id));
    packet.extend_from_slice(&added[20..]);
    let length = (packet.len() - 20) as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
}

#[test]
fn a_peer_that_follows_integrity_gets_no_permission() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    let mut packet = client.create_permission(peer("1.1.1.1:1"));
    append(&mut packet, |w| {
        w.xor_address(attr::XOR_PEER_ADDRESS, peer(PEER));
    });
    let Outcome::Reply(reply) = world.send(&flow(1), &packet) else { panic!() };
    assert_eq!(client.read(&reply), OK);
    assert!(world.datagram(relayed, peer("1.1.1.1:1"), b"x").is_some());
    assert_eq!(world.datagram(relayed, peer(PEER), b"x"), None);
    let mut packet = client.request(Method::CREATE_PERMISSION, |_| {});
    append(&mut packet, |w| {
        w.xor_address(attr::XOR_PEER_ADDRESS, peer(PEER));
    });
    assert_eq!(code(&world.send(&flow(1), &packet)), 400, "there is none before it");
}

#[test]
fn attributes_that_must_be_understood_and_are_not_get_420_and_their_names() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    let unknown = |w: &mut Writer<'_>| {
        w.raw(0x7F01, b"?").raw(0x0002, b"").raw(0xC001, b"may be ignored");
    };
    let mut binding = Vec::new();
    unknown(&mut Writer::new(&mut binding, Class::Request, Method::BINDING, TransactionId([1; 12])));
    for packet in [binding, client.request(Method::REFRESH, unknown)] {
        let outcome = world.send(&flow(1), &packet);
        assert_eq!(code(&outcome), 420);
        let Outcome::Reply(reply) = outcome else { panic!() };
        let listed = Message::parse(&reply).unwrap().raw(attr::UNKNOWN_ATTRIBUTES);
        assert_eq!(listed, Some(&[0x7F, 1, 0, 2][..]));
    }
    // an indication is not answered, and not obeyed
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER))), OK);
    let mut packet = client.send(peer(PEER), b"x");
    append(&mut packet, |w| {
        w.raw(0x7F01, b"?");
    });
    assert_eq!(world.send(&flow(1), &packet), Outcome::Nothing);
}

#[test]
fn every_refusal_of_a_stranger_is_in_the_budget() {
    let none = Rate { per_second: 0, burst: 0 };
    let mut world = World::with(Limits::default(), |c| c.error_rate = none);
    let mut stranger = Client::new("1:a", "b", 1);
    let mut overrun = stranger.binding();
    overrun.extend_from_slice(&[0, 0x0D, 0, 40, 0, 0, 0, 0]);
    overrun[3] = 8;
    let mut unknown = stranger.binding();
    append(&mut unknown, |w| {
        w.raw(0x7F01, b"?");
    });
    let mut unprotected = stranger.allocate();
    append(&mut unprotected, |w| {
        w.raw(attr::USERNAME, b"1:a").integrity_sha1(b"x");
    });
    let packets = [overrun, unknown, unprotected, stranger.allocate(), stranger.refresh(0)];
    for packet in &packets {
        assert_eq!(world.send(&flow(1), packet), Outcome::Nothing);
    }
    assert_eq!(world.server.counters().drops_of(Drop::ErrorBudget), packets.len() as u64);
    assert!(
        matches!(world.send(&flow(1), &stranger.binding()), Outcome::Reply(_)),
        "what is no error is not"
    );
}
