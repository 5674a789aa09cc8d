//! Clients that change their address (RFC 8016).

use super::code;
use crate::common::{Outcome, World, flow, peer, stream};
use rtc_turn_proto::{
    Flow, Message, Method, attributes as attr, channel_data,
    client::{Answer, Client},
};
use std::net::SocketAddr;

const PEER: &str = "8.8.8.8:9";

/// An allocation of flow 1 with a ticket, a permission and a channel.
fn mobile(world: &mut World) -> (Client, SocketAddr) {
    mobile_by(world, &flow(1))
}

fn mobile_by(world: &mut World, from: &Flow) -> (Client, SocketAddr) {
    let mut client = world.client("a");
    let Answer::Success { relayed: Some(relayed), .. } =
        world.ask(from, &mut client, Client::allocate_mobile)
    else {
        panic!("no allocation")
    };
    assert!(client.ticket.is_some());
    let bound = world.ask(from, &mut client, |c| c.channel_bind(0x4000, peer(PEER)));
    assert!(matches!(bound, Answer::Success { .. }));
    (client, relayed)
}

fn moved(world: &mut World, to: &Flow, client: &mut Client) -> Answer {
    world.ask(to, client, |c| c.move_here(600))
}

fn ok(answer: &Answer) -> bool {
    matches!(answer, Answer::Success { .. })
}

fn data() -> Vec<u8> {
    let mut packet = Vec::new();
    channel_data::write(0x4000, b"x", false, &mut packet);
    packet
}

/// Whether data of the client is relayed from that flow.
fn sends(world: &mut World, from: &Flow) -> bool {
    matches!(world.send(from, &data()), Outcome::Relayed { .. })
}

/// Where data of the peer goes.
fn heard_at(world: &mut World) -> Option<Flow> {
    let relay = *world.open.keys().next()?;
    world.server.route_from_peer(world.now, relay, peer(PEER), 1).map(|route| route.flow)
}

#[test]
fn a_client_that_moves_keeps_its_address_permissions_and_channels() {
    let mut world = World::new();
    let (mut client, relayed) = mobile(&mut world);
    let (first, before) = (client.ticket.clone(), world.quotas.total());
    assert!(ok(&moved(&mut world, &flow(2), &mut client)));
    assert_ne!(client.ticket, first, "the new ticket is another (RFC 8016, section 3.2.2)");
    // until it sends data from there, both are its addresses, and the peer's data goes to the old one
    assert_eq!(heard_at(&mut world), Some(flow(1)));
    assert!(sends(&mut world, &flow(1)));
    let permitted = world.ask(&flow(2), &mut client, |c| c.create_permission(peer("1.1.1.1:9")));
    assert!(ok(&permitted));
    assert_eq!(heard_at(&mut world), Some(flow(1)), "a request is no data");
    assert!(sends(&mut world, &flow(2)));
    assert_eq!(heard_at(&mut world), Some(flow(2)));
    assert!(!sends(&mut world, &flow(1)), "the old five-tuple is discarded");
    let send = client.send(peer("1.1.1.1:9"), b"x");
    assert!(matches!(world.send(&flow(2), &send), Outcome::Relayed { .. }));
    assert_eq!(world.datagram(relayed, peer(PEER), b"y"), Some(vec![0x40, 0, 0, 1, b'y']));
    assert_eq!((world.quotas.total(), world.server.counters().moves), (before, 1));
    // the old five-tuple is free for somebody else
    let mut other = world.client("b");
    world.allocate(&flow(1), &mut other);
    assert!(ok(&world.ask(&flow(2), &mut client, |c| c.refresh(0))));
    assert!(world.mobility.as_ref().is_some_and(|mobility| mobility.is_empty()));
}

#[test]
fn a_send_indication_ends_the_old_five_tuple_too() {
    let mut world = World::new();
    let (mut client, _) = mobile(&mut world);
    moved(&mut world, &flow(2), &mut client);
    let send = client.send(peer(PEER), b"x");
    assert!(matches!(world.send(&flow(2), &send), Outcome::Relayed { .. }));
    assert!(!sends(&mut world, &flow(1)));
}

#[test]
fn a_lost_answer_is_given_again_and_an_old_ticket_is_of_no_other_use() {
    let mut world = World::new();
    let (mut client, _) = mobile(&mut world);
    let first = client.ticket.clone();
    // learns the nonce of the new address
    let packet = client.move_here(600);
    let Outcome::Reply(challenge) = world.send(&flow(2), &packet) else { panic!() };
    assert_eq!(client.read(&challenge), Answer::Challenged);
    let request = client.move_here(600);
    for age in [0, 1, 28] {
        world.pass(age);
        let Outcome::Reply(reply) = world.send(&flow(2), &request) else { panic!("{age}") };
        assert!(ok(&client.read(&reply)), "sent again after {age} s");
        // that the old five-tuple is discarded changes nothing
        assert!(sends(&mut world, &flow(2)));
    }
    assert_eq!(world.server.counters().moves, 1);
    let mut without_answer = client.clone();
    without_answer.ticket = first;
    assert_eq!(moved(&mut world, &flow(2), &mut without_answer), Answer::Refused(400), "another transaction");
    assert_eq!(moved(&mut world, &flow(3), &mut without_answer), Answer::Refused(400), "another address");
    assert!(ok(&moved(&mut world, &flow(3), &mut client)), "the ticket of the answer is good");
    assert_eq!(code(&world.send(&flow(2), &request)), 400, "two tickets back");
}

#[test]
fn each_faulty_ticket_gets_the_code_of_its_fault() {
    let mut world = World::new();
    let (mut client, _) = mobile(&mut world);
    let ticket = client.ticket.clone().unwrap();
    // who has not moved must not show it (RFC 8016, section 3.2.2)
    assert_eq!(moved(&mut world, &flow(1), &mut client), Answer::Refused(400));
    let mut forged = ticket.clone();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    for bad in [Vec::new(), vec![7], forged, vec![b'A'; 32]] {
        client.ticket = Some(bad);
        assert_eq!(moved(&mut world, &flow(2), &mut client), Answer::Refused(400));
    }
    // somebody else, even with the ticket (RFC 8016, section 5)
    let mut thief = world.client("b");
    thief.ticket = Some(ticket.clone());
    assert_eq!(moved(&mut world, &flow(2), &mut thief), Answer::Refused(441));
    // a five-tuple that has an allocation of its own
    let mut second = world.client("a");
    world.allocate(&flow(3), &mut second);
    client.ticket = Some(ticket.clone());
    assert_eq!(moved(&mut world, &flow(3), &mut client), Answer::Refused(437));
    // an Allocate asks by an empty one alone (RFC 8016, section 3.1.2)
    let with_ticket = world.ask(&flow(4), &mut client, |c| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::MOBILITY_TICKET, &[1]);
        })
    });
    assert_eq!(with_ticket, Answer::Refused(400));
    // a Refresh that is refused moves nothing
    let wrong_family = world.ask(&flow(5), &mut client, |c| {
        c.request(Method::REFRESH, |w| {
            w.raw(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]).raw(attr::MOBILITY_TICKET, &ticket);
        })
    });
    assert_eq!(wrong_family, Answer::Refused(443));
    assert!(sends(&mut world, &flow(1)) && !sends(&mut world, &flow(5)));
    // the allocation is over
    assert!(ok(&world.ask(&flow(1), &mut client, |c| c.refresh(0))));
    assert_eq!(moved(&mut world, &flow(2), &mut client), Answer::Refused(437));
    assert_eq!(world.server.counters().moves, 0);
}

#[test]
fn a_stranger_with_a_ticket_is_challenged_and_moves_nothing() {
    let mut world = World::new();
    let (client, _) = mobile(&mut world);
    let mut stranger = Client::new("x", "y", 99);
    stranger.ticket = client.ticket;
    let packet = stranger.move_here(600);
    let outcome = world.send(&flow(2), &packet);
    assert_eq!(code(&outcome), 401);
    assert!(sends(&mut world, &flow(1)) && !sends(&mut world, &flow(2)));
}

#[test]
fn where_mobility_is_forbidden_it_is_405_and_nothing_else_changes() {
    let mut world = World::with(rtc_turn_proto::Limits::default(), |config| config.mobility = None);
    let mut client = world.client("a");
    assert_eq!(world.ask(&flow(1), &mut client, Client::allocate_mobile), Answer::Refused(405));
    world.allocate(&flow(1), &mut client);
    assert!(client.ticket.is_none());
    client.ticket = Some(vec![b'A'; 32]);
    assert_eq!(moved(&mut world, &flow(2), &mut client), Answer::Refused(405));
    assert!(ok(&world.ask(&flow(1), &mut client, |c| c.refresh(600))));
}

#[test]
fn who_did_not_ask_for_a_ticket_gets_none() {
    let mut world = World::new();
    let mut client = world.client("a");
    world.allocate(&flow(1), &mut client);
    assert!(client.ticket.is_none());
    let packet = client.refresh(600);
    let Outcome::Reply(reply) = world.send(&flow(1), &packet) else { panic!() };
    assert!(Message::parse(&reply).unwrap().raw(attr::MOBILITY_TICKET).is_none());
}

#[test]
fn a_client_may_move_on_and_back_before_it_sends_data() {
    let mut world = World::new();
    let (mut client, _) = mobile(&mut world);
    assert!(ok(&moved(&mut world, &flow(2), &mut client)));
    assert!(ok(&moved(&mut world, &flow(3), &mut client)));
    assert!(!sends(&mut world, &flow(2)), "it has gone on from there");
    assert_eq!(heard_at(&mut world), Some(flow(1)));
    assert!(ok(&moved(&mut world, &flow(1), &mut client)));
    assert!(sends(&mut world, &flow(1)) && !sends(&mut world, &flow(3)));
    assert!(ok(&moved(&mut world, &flow(3), &mut client)));
    assert!(sends(&mut world, &flow(3)) && !sends(&mut world, &flow(1)));
    assert!(world.mobility.as_ref().and_then(|m| m.worker_of(&flow(1))).is_none());
}

#[test]
fn an_allocation_with_a_ticket_outlives_its_connection_until_it_expires() {
    let mut world = World::new();
    let (mut client, _) = mobile_by(&mut world, &stream(1));
    world.server.client_gone(&stream(1));
    assert_eq!(world.server.open_relays(), 1);
    assert!(ok(&moved(&mut world, &stream(2), &mut client)));
    assert_eq!(heard_at(&mut world), Some(stream(2)), "nobody is at the old one");
    // to datagrams, and the old connection closes before any data came by the new one
    assert!(ok(&moved(&mut world, &flow(3), &mut client)));
    assert_eq!(heard_at(&mut world), Some(stream(2)));
    world.server.client_gone(&stream(2));
    assert_eq!(heard_at(&mut world), Some(flow(3)));
    // a new connection that closes leaves the old one
    assert!(ok(&moved(&mut world, &stream(4), &mut client)));
    world.server.client_gone(&stream(4));
    assert!(sends(&mut world, &flow(3)) && !world.server.holds(&stream(4)));
    assert!(ok(&moved(&mut world, &stream(5), &mut client)));
    assert!(sends(&mut world, &stream(5)));
    world.server.client_gone(&stream(5));
    world.pass(599);
    assert_eq!(world.server.open_relays(), 1);
    world.pass(1);
    assert_eq!((world.server.open_relays(), world.quotas.total()), (0, 0));
}

#[test]
fn a_tcp_allocation_moves_between_streams_and_a_connect_ends_the_old_one() {
    let mut world = World::new();
    let mut client = world.client("a");
    let allocated = world.ask(&stream(1), &mut client, |c| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0]).raw(attr::MOBILITY_TICKET, &[]);
        })
    });
    assert!(ok(&allocated));
    assert_eq!(moved(&mut world, &flow(2), &mut client), Answer::Refused(405));
    assert!(ok(&moved(&mut world, &stream(2), &mut client)));
    assert!(world.server.holds(&stream(1)));
    let outcome = world.begin(&stream(2), &mut client, |c| c.connect(peer(PEER)));
    let Outcome::Connect { connection, .. } = outcome else { panic!("{outcome:?}") };
    assert!(!world.server.holds(&stream(1)));
    world.connected(connection, true);
    assert_eq!(world.notices.pop().map(|(flow, _)| flow), Some(stream(2)), "where it was asked for");
}

#[test]
fn a_client_is_served_by_its_worker_wherever_it_comes_in() {
    let mut workers = World::workers(3);
    let (mut client, _) = mobile(&mut workers[2]);
    // the kernel brings the new flow to worker 0
    let packet = client.move_here(600);
    assert_eq!(workers[0].send(&flow(2), &packet), Outcome::HandOver { worker: 2 });
    assert!(ok(&moved(&mut workers[2], &flow(2), &mut client)));
    for packet in [data(), client.binding(), client.refresh(600), client.move_here(600)] {
        assert_eq!(workers[0].send(&flow(2), &packet), Outcome::HandOver { worker: 2 });
    }
    assert!(sends(&mut workers[2], &flow(2)));
    // another allocation, of worker 1, may not be brought there
    let mut other = workers[1].client("a");
    assert!(ok(&workers[1].ask(&flow(7), &mut other, Client::allocate_mobile)));
    let packet = other.move_here(600);
    assert_eq!(workers[0].send(&flow(2), &packet), Outcome::HandOver { worker: 2 });
    assert_eq!(moved(&mut workers[2], &flow(2), &mut other), Answer::Refused(437));
    // when it has moved on, or ended, the flow is served where it comes in
    assert!(ok(&moved(&mut workers[2], &flow(3), &mut client)));
    assert!(sends(&mut workers[2], &flow(3)));
    assert!(matches!(workers[0].send(&flow(2), &client.binding()), Outcome::Reply(_)));
    assert_eq!(workers[1].send(&flow(3), &data()), Outcome::HandOver { worker: 2 });
    workers[2].pass(601);
    assert_eq!(workers[1].send(&flow(3), &data()), Outcome::Nothing);
    assert!(workers[2].mobility.as_ref().is_some_and(|m| m.is_empty()));
}

#[test]
fn a_live_allocation_moves_when_its_key_is_gone_and_its_username_expired() {
    let mut world = World::new();
    let (mut client, _) = mobile(&mut world);
    for _ in 0..7 {
        world.pass(590);
        assert!(ok(&world.ask(&flow(1), &mut client, |c| c.refresh(600))));
    }
    world.server.set_keys(std::sync::Arc::new(crate::common::ring(2, &["k-2"])));
    assert!(ok(&moved(&mut world, &flow(2), &mut client)));
}

#[test]
fn a_client_may_come_back_by_the_other_family() {
    let mut world = World::new();
    let (mut client, relayed) = mobile(&mut world);
    let six = Flow { client: peer("[2001:db8::7]:1000"), server: peer("[2001:db8::1]:3478"), ..flow(2) };
    assert!(ok(&moved(&mut world, &six, &mut client)));
    assert!(sends(&mut world, &six) && !sends(&mut world, &flow(1)));
    assert_eq!(heard_at(&mut world), Some(six));
    assert!(world.datagram(relayed, peer(PEER), b"y").is_some());
}
