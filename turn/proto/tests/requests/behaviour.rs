//! NAT behaviour discovery (RFC 5780, sections 6 and 7).

use crate::common::{Outcome, World, flow, stream};
use proptest::prelude::*;
use rtc_turn_proto::{
    Behaviour, Class, Drop, Flow, Limits, Message, Method, Rate, TransactionId, Writer, attributes as attr,
};
use std::net::SocketAddr;

fn address(index: usize) -> SocketAddr {
    let ip = if index & 2 == 0 { [203, 0, 113, 1] } else { [203, 0, 113, 2] };
    (ip, 3478 + (index as u16 & 1)).into()
}

fn world(rate: Rate) -> World {
    World::with(Limits::default(), |config| {
        config.behaviour = Some(Behaviour::new(address(0), address(3), [0, 5, 6, 7]));
        config.error_rate = rate;
    })
}

/// A client's flow to one of the four sockets.
fn to(index: usize) -> Flow {
    Flow { server: address(index), link: [0, 5, 6, 7][index], ..flow(1) }
}

fn binding(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut packet = Vec::new();
    fill(&mut Writer::new(&mut packet, Class::Request, Method::BINDING, TransactionId([4; 12])));
    packet
}

/// A value in the clear (RFC 5780, section 7.1), which has the family first.
fn plain(message: &Message<'_>, kind: u16) -> Option<SocketAddr> {
    let [_, 1, p, q, a, b, c, d] = *message.raw(kind)? else { panic!("no IPv4 address") };
    Some(([a, b, c, d], u16::from_be_bytes([p, q])).into())
}

fn error(outcome: &Outcome) -> u16 {
    let Outcome::Reply(reply) = outcome else { panic!("{outcome:?}") };
    Message::parse(reply).unwrap().get::<attr::Error>().unwrap().unwrap().0
}

#[test]
fn an_answer_leaves_from_where_table_1_says() {
    // flags, and the bits of the index that they change: RFC 5780, section 7.2
    for (flags, changed) in [(None, 0), (Some(0), 0), (Some(4), 2), (Some(2), 1), (Some(6), 3)] {
        for here in 0..4 {
            let packet = binding(|w| {
                if let Some(flags) = flags {
                    w.u32(attr::CHANGE_REQUEST, flags);
                }
            });
            let Outcome::ReplyBy(by, reply) = world(Rate::default()).send(&to(here), &packet) else {
                panic!()
            };
            let there = here ^ changed;
            assert_eq!(by, to(there), "{flags:?}");
            let message = Message::parse(&reply).unwrap();
            assert_eq!(plain(&message, attr::RESPONSE_ORIGIN), Some(address(there)));
            assert_eq!(plain(&message, attr::OTHER_ADDRESS), Some(address(3 - here)), "whatever the flags");
            assert_eq!(plain(&message, attr::MAPPED_ADDRESS), Some(by.client));
            assert_eq!(message.get::<attr::XorMappedAddress>().unwrap().unwrap().0, by.client);
        }
    }
}

#[test]
fn without_a_second_address_the_attributes_are_unknown_and_none_is_given() {
    let elsewhere = Flow { server: "203.0.113.9:3478".parse().unwrap(), link: 1, ..flow(1) };
    for (mut world, flow) in [
        (World::new(), to(0)),
        (world(Rate::default()), elsewhere),
        (world(Rate::default()), Flow { server: address(0), ..stream(1) }),
    ] {
        for kind in [attr::CHANGE_REQUEST, attr::PADDING, attr::RESPONSE_PORT] {
            let outcome = world.send(&flow, &binding(|w| _ = w.u32(kind, 6)));
            assert_eq!(error(&outcome), 420, "RFC 5780, section 6.1");
        }
        let Outcome::Reply(reply) = world.send(&flow, &binding(|_| {})) else { panic!() };
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.raw(attr::OTHER_ADDRESS).or(message.raw(attr::RESPONSE_ORIGIN)), None);
    }
}

#[test]
fn an_allocate_knows_none_of_it_and_another_unknown_attribute_is_named_alone() {
    let mut world = world(Rate::default());
    let mut client = world.client("alice");
    world.allocate(&to(0), &mut client);
    let packet = client.request(Method::REFRESH, |w| _ = w.u32(attr::CHANGE_REQUEST, 0));
    assert_eq!(error(&world.send(&to(0), &packet)), 420);
    let outcome = world.send(&to(0), &binding(|w| _ = w.u32(attr::CHANGE_REQUEST, 0).u32(0x7ABC, 0)));
    assert_eq!(error(&outcome), 420);
    let Outcome::Reply(reply) = outcome else { panic!() };
    let message = Message::parse(&reply).unwrap();
    assert_eq!(message.raw(attr::UNKNOWN_ATTRIBUTES), Some(&[0x7A, 0xBC][..]));
}

#[test]
fn a_response_port_and_padding_together_are_refused() {
    let packet = binding(|w| _ = w.raw(attr::RESPONSE_PORT, &[0, 9, 0, 0]).raw(attr::PADDING, &[0; 64]));
    assert_eq!(error(&world(Rate::default()).send(&to(0), &packet)), 400, "RFC 5780, section 6.1");
    for value in [&[0, 0, 0, 0][..], &[1], &[]] {
        let packet = binding(|w| _ = w.raw(attr::RESPONSE_PORT, value));
        assert_eq!(error(&world(Rate::default()).send(&to(0), &packet)), 400);
    }
}

#[test]
fn above_the_budget_tests_are_dropped_and_a_plain_request_has_a_short_answer() {
    let mut world = world(Rate { per_second: 1, burst: 3 });
    let change = binding(|w| _ = w.u32(attr::CHANGE_REQUEST, 6));
    for _ in 0..3 {
        assert!(matches!(world.send(&to(0), &change), Outcome::ReplyBy(..)));
    }
    assert_eq!(world.send(&to(0), &change), Outcome::Nothing);
    assert_eq!(world.server.counters().drops[Drop::ErrorBudget as usize], 1);
    let Outcome::Reply(reply) = world.send(&to(0), &binding(|_| {})) else { panic!() };
    assert_eq!(reply.len(), 40);
}

proptest! {
    /// An answer goes to the IP that asked, from a socket of the four, in at most four times the bytes.
    #[test]
    fn whatever_is_asked_the_answer_is_bounded(
        here in 0usize..4,
        change in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)),
        port in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)),
        padding in proptest::option::of(0usize..5000),
    ) {
        let packet = binding(|w| {
            change.iter().for_each(|value| _ = w.raw(attr::CHANGE_REQUEST, value));
            port.iter().for_each(|value| _ = w.raw(attr::RESPONSE_PORT, value));
            padding.iter().for_each(|length| _ = w.raw(attr::PADDING, &vec![1; *length]));
        });
        match world(Rate::default()).send(&to(here), &packet) {
            Outcome::Reply(reply) => prop_assert!(reply.len() <= 40),
            Outcome::ReplyBy(by, reply) => {
                prop_assert!(reply.len() <= 4 * packet.len());
                prop_assert_eq!(by.client.ip(), to(here).client.ip());
                prop_assert!((0..4).any(|n| (by.server, by.link) == (to(n).server, to(n).link)));
                prop_assert!(port.is_none() || padding.is_none());
                let asked = port.map_or(to(here).client.port(), |p| u16::from_be_bytes([p[0], p[1]]));
                prop_assert_eq!(by.client.port(), asked);
                let message = Message::parse(&reply).unwrap();
                prop_assert_eq!(message.raw(attr::PADDING).map(<[u8]>::len), padding.map(|p| p.min(1500)));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
