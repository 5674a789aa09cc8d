//! TCP allocations (RFC 6062).

use super::{OK, code, flow, peer};
use crate::common::{Outcome, World, policy, stream};
use rtc_turn_proto::{
    ConnectionId, Flow, Limits, Method, attributes as attr, channel_data,
    client::{Answer, Client},
};
use std::{net::SocketAddr, sync::Arc};

const PEER: &str = "8.8.8.8:80";

/// A client with a TCP allocation, on `stream(1)`.
fn allocated(world: &mut World) -> (Client, SocketAddr) {
    let mut client = world.client("alice");
    let Answer::Success { relayed: Some(at), .. } = world.ask(&stream(1), &mut client, Client::allocate_tcp)
    else {
        panic!()
    };
    assert!(world.open.values().all(|open| open.tcp));
    (client, at)
}

fn connect(world: &mut World, client: &mut Client, to: &str) -> Outcome {
    world.begin(&stream(1), client, |c| c.connect(peer(to)))
}

fn connecting(world: &mut World, client: &mut Client, to: &str) -> ConnectionId {
    match connect(world, client, to) {
        Outcome::Connect { connection, peer, .. } if peer == to.parse().unwrap() => connection,
        outcome => panic!("{outcome:?}"),
    }
}

/// The next thing that the client on that flow was told.
fn told(world: &mut World, client: &mut Client, flow: &Flow) -> Answer {
    let (to, message) = world.notices.remove(0);
    assert_eq!(to, *flow);
    client.read(&message)
}

fn bind(world: &mut World, n: u16, client: &mut Client, id: ConnectionId) -> Outcome {
    world.begin(&stream(n), client, |c| c.connection_bind(id))
}

/// RFC 6062, section 5.1.
#[test]
fn an_allocation_for_tcp_comes_over_a_stream_and_without_what_is_for_datagrams() {
    let mut world = World::new();
    let mut client = world.client("alice");
    assert_eq!(world.ask(&flow(1), &mut client, Client::allocate_tcp), Answer::Refused(400));
    for (kind, value) in
        [(attr::DONT_FRAGMENT, &[][..]), (attr::EVEN_PORT, &[0]), (attr::RESERVATION_TOKEN, &[1; 8])]
    {
        let answer = world.ask(&stream(1), &mut client, |c| {
            c.request(Method::ALLOCATE, |w| {
                w.raw(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0]).raw(kind, value);
            })
        });
        assert_eq!(answer, Answer::Refused(400), "{kind:#x}");
    }
    let sctp = |c: &mut Client| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[132, 0, 0, 0]);
        })
    };
    assert_eq!(world.ask(&stream(1), &mut client, sctp), Answer::Refused(442));
    assert!(world.open.is_empty());
    allocated(&mut world);
}

#[test]
fn tcp_allocations_count_in_the_quota() {
    let mut world = World::with(Limits { per_user: Some(1), total: None }, |_| {});
    let (mut client, _) = allocated(&mut world);
    assert_eq!(world.ask(&stream(2), &mut client, Client::allocate_tcp), Answer::Refused(486));
    assert!(matches!(world.ask(&stream(1), &mut client, |c| c.refresh(0)), Answer::Success { .. }));
    assert!(world.open.is_empty());
    assert!(matches!(world.ask(&stream(2), &mut client, Client::allocate_tcp), Answer::Success { .. }));
}

#[test]
fn each_kind_of_allocation_has_its_own_methods() {
    let mut world = World::new();
    let (mut client, at) = allocated(&mut world);
    let target = peer(PEER);
    assert_eq!(world.ask(&stream(1), &mut client, |c| c.create_permission(target)), OK);
    assert_eq!(world.ask(&stream(1), &mut client, |c| c.channel_bind(0x4000, target)), Answer::Refused(400));
    let packet = client.send(target, b"x");
    assert_eq!(world.send(&stream(1), &packet), Outcome::Nothing);
    let mut packet = Vec::new();
    channel_data::write(0x4000, b"x", true, &mut packet);
    assert_eq!(world.send(&stream(1), &packet), Outcome::Nothing);
    assert!(world.peer_connects(at, target).is_some());

    let mut other = world.client("bob");
    let at = world.allocate(&flow(2), &mut other);
    assert_eq!(world.ask(&flow(2), &mut other, |c| c.connect(target)), Answer::Refused(437), "for UDP");
    assert_eq!(world.ask(&flow(2), &mut other, |c| c.create_permission(target)), OK);
    assert_eq!(world.peer_connects(at, target), None);
    let mut nobody = world.client("carol");
    assert_eq!(world.ask(&stream(3), &mut nobody, |c| c.connect(target)), Answer::Refused(437), "none");
}

/// RFC 6062, sections 5.2 and 5.4.
#[test]
fn a_connection_that_the_client_asked_for_is_bound_once_by_its_credentials() {
    let mut world = World::new();
    let (mut client, at) = allocated(&mut world);
    let Outcome::Connect { connection: id, from_port, .. } = connect(&mut world, &mut client, PEER) else {
        panic!()
    };
    assert_eq!(from_port, at.port());
    // not before it is there
    let mut data = world.client("alice");
    let refused = bind(&mut world, 2, &mut data, id);
    assert_eq!(code(&refused), 400);
    assert!(world.connected(id, true));
    assert_eq!(told(&mut world, &mut client, &stream(1)), Answer::Connection(id, None));
    let mut other = world.client("mallory");
    let refused = bind(&mut world, 3, &mut other, id);
    assert_eq!(code(&refused), 441);
    let refused = bind(&mut world, 2, &mut data, ConnectionId(id.0.wrapping_add(1)));
    assert_eq!(code(&refused), 400, "no such connection");
    // neither over UDP, nor on the control connection
    let refused = world.begin(&flow(9), &mut data, |c| c.connection_bind(id));
    assert_eq!(code(&refused), 400);
    let refused = bind(&mut world, 1, &mut client, id);
    assert_eq!(code(&refused), 400);

    let Outcome::Bound { connection, reply } = bind(&mut world, 2, &mut data, id) else { panic!() };
    assert_eq!((connection, data.read(&reply)), (id, OK));
    let refused = bind(&mut world, 4, &mut data, id);
    assert_eq!(code(&refused), 400, "once");
    // it has no deadline any more but the allocation's
    world.pass(500);
    assert!(world.connections.contains(&id));
    world.pass(200);
    assert!(world.connections.is_empty() && world.open.is_empty());
}

#[test]
fn a_key_that_left_the_ring_still_binds_the_connections_of_its_allocation() {
    let mut world = World::new();
    let (mut client, _) = allocated(&mut world);
    let id = connecting(&mut world, &mut client, PEER);
    world.connected(id, true);
    world.server.set_keys(Arc::new(crate::ring(2, &["k-9"])));
    // the same user, on a connection of its own
    assert!(matches!(bind(&mut world, 2, &mut client, id), Outcome::Bound { .. }));
}

/// RFC 6062, section 5.2.
#[test]
fn a_peer_has_one_connection_and_446_is_the_answer_to_a_second() {
    let mut world = World::new();
    let (mut client, _) = allocated(&mut world);
    let id = connecting(&mut world, &mut client, PEER);
    assert_eq!(code(&connect(&mut world, &mut client, PEER)), 446, "under way");
    world.connected(id, true);
    assert_eq!(code(&connect(&mut world, &mut client, PEER)), 446, "pending");
    bind(&mut world, 2, &mut client, id);
    assert_eq!(code(&connect(&mut world, &mut client, PEER)), 446, "active");
    connecting(&mut world, &mut client, "8.8.8.8:81");
    world.connection_ends(id);
    connecting(&mut world, &mut client, PEER);
}

#[test]
fn a_peer_that_is_not_reached_is_447() {
    let mut world = World::new();
    let (mut client, _) = allocated(&mut world);
    let id = connecting(&mut world, &mut client, PEER);
    assert!(!world.connected(id, false));
    assert!(world.notices.len() == 1 && world.connections.is_empty());
    assert_eq!(told(&mut world, &mut client, &stream(1)), Answer::Refused(447));
    let id = connecting(&mut world, &mut client, PEER);
    world.pass(29);
    assert!(world.notices.is_empty());
    world.pass(1);
    assert_eq!(told(&mut world, &mut client, &stream(1)), Answer::Refused(447));
    assert!(world.connections.is_empty());
    assert!(!world.connected(id, true), "too late");
    assert!(world.notices.is_empty());
}

#[test]
fn a_connection_that_nobody_binds_is_closed_after_thirty_seconds() {
    let mut world = World::new();
    let (mut client, at) = allocated(&mut world);
    world.ask(&stream(1), &mut client, |c| c.create_permission(peer("1.1.1.1:1")));
    let id = connecting(&mut world, &mut client, PEER);
    world.pass(20);
    world.connected(id, true);
    let incoming = world.peer_connects(at, peer("1.1.1.1:9")).unwrap();
    world.pass(29);
    assert_eq!(world.connections.len(), 2);
    world.pass(1);
    assert!(world.connections.is_empty());
    assert_eq!(code(&bind(&mut world, 2, &mut client, id)), 400);
    assert_eq!(code(&bind(&mut world, 3, &mut client, incoming)), 400);
}

/// Peers are judged as for datagrams.
#[test]
fn a_denied_peer_is_neither_connected_to_nor_let_in() {
    let mut world = World::new();
    let (mut client, at) = allocated(&mut world);
    for denied in ["127.0.0.1:80", "0.0.0.0:80", "10.0.0.1:22", "169.254.169.254:80", "8.8.8.8:0"] {
        assert_eq!(code(&connect(&mut world, &mut client, denied)), 403, "{denied}");
    }
    assert_eq!(code(&connect(&mut world, &mut client, "[2a00::9]:80")), 443, "the other family");
    assert!(matches!(connect(&mut world, &mut client, "10.0.0.1:50003"), Outcome::Connect { .. }), "a relay");
    // a permission for an address of the fleet is for its relay ports
    world.ask(&stream(1), &mut client, |c| c.create_permission(peer("10.0.0.1:50005")));
    assert_eq!(world.peer_connects(at, peer("10.0.0.1:40000")), None);
    assert!(world.peer_connects(at, peer("10.0.0.1:50005")).is_some());
    assert_eq!(world.peer_connects(at, peer(PEER)), None, "no permission");
}

/// RFC 6062, section 5.3.
#[test]
fn a_peer_with_a_permission_is_announced() {
    let mut world = World::new();
    let (mut client, at) = allocated(&mut world);
    let from = peer("8.8.8.8:1234");
    world.ask(&stream(1), &mut client, |c| c.create_permission(peer("8.8.8.8:1")));
    let id = world.peer_connects(at, from).unwrap();
    assert_eq!(told(&mut world, &mut client, &stream(1)), Answer::Connection(id, Some(from)));
    assert!(matches!(bind(&mut world, 2, &mut client, id), Outcome::Bound { .. }));
    world.pass(301);
    assert_eq!(world.peer_connects(at, peer("8.8.8.8:1235")), None, "the permission is over");
    assert_eq!(world.connections.len(), 1, "what is bound goes on");
}

#[test]
fn an_allocation_holds_a_bounded_number_of_connections() {
    let mut world = World::with(Limits::default(), |config| config.max_connections = 3);
    let (mut client, at) = allocated(&mut world);
    world.ask(&stream(1), &mut client, |c| c.create_permission(peer(PEER)));
    connecting(&mut world, &mut client, PEER);
    let accepted = (1..10).filter_map(|n| world.peer_connects(at, peer(&format!("8.8.8.8:{n}")))).count();
    assert_eq!(accepted, 2);
    assert_eq!(code(&connect(&mut world, &mut client, "1.1.1.1:1")), 508);
}

/// RFC 6062, section 5.5.
#[test]
fn the_end_of_an_allocation_or_of_its_control_connection_ends_its_connections() {
    for end in 0..3 {
        let mut world = World::new();
        let (mut client, _) = allocated(&mut world);
        let (a, b) =
            (connecting(&mut world, &mut client, PEER), connecting(&mut world, &mut client, "1.1.1.1:1"));
        world.connected(a, true);
        bind(&mut world, 2, &mut client, a);
        match end {
            0 => drop(world.ask(&stream(1), &mut client, |c| c.refresh(0))),
            1 => world.server.client_gone(&stream(1)),
            _ => world.pass(601),
        }
        world.pass(0);
        assert!(world.connections.is_empty() && world.open.is_empty(), "{end}");
        assert!(!world.connected(b, true));
    }
}

#[test]
fn new_rules_end_connections_with_peers_that_they_deny() {
    let mut world = World::new();
    let (mut client, _) = allocated(&mut world);
    let a = connecting(&mut world, &mut client, PEER);
    world.connected(a, true);
    bind(&mut world, 2, &mut client, a);
    connecting(&mut world, &mut client, "8.8.8.9:1");
    let other = connecting(&mut world, &mut client, "1.1.1.1:1");
    world.notices.clear();
    let mut rules = policy();
    rules.deny.push("8.8.8.0/24".parse().unwrap());
    world.server.set_peers(Arc::new(rules));
    world.pass(0);
    assert_eq!(world.connections.iter().collect::<Vec<_>>(), [&other]);
    assert_eq!(told(&mut world, &mut client, &stream(1)), Answer::Refused(403));
}

#[test]
fn a_connection_is_bound_at_the_worker_that_holds_it() {
    let mut workers = World::workers(3);
    let (mut client, _) = allocated(&mut workers[1]);
    for n in 0..20u16 {
        let id = connecting(&mut workers[1], &mut client, &format!("8.8.8.8:{}", 80 + n));
        workers[1].connected(id, true);
        for at in [0, 2] {
            let packet = client.connection_bind(id);
            assert_eq!(workers[at].send(&stream(2), &packet), Outcome::HandOver { worker: 1 });
            // over UDP it is refused where it is
            assert_eq!(code(&workers[at].begin(&flow(2), &mut client, |c| c.connection_bind(id))), 400);
        }
        assert!(matches!(bind(&mut workers[1], 20 + n, &mut client, id), Outcome::Bound { .. }));
    }
}

#[test]
fn a_bind_without_a_number_or_with_a_malformed_one_is_400() {
    let mut world = World::new();
    let (mut client, _) = allocated(&mut world);
    for value in [None, Some(&[1][..]), Some(&[0; 8][..])] {
        let refused = world.begin(&stream(2), &mut client, |c| {
            c.request(Method::CONNECTION_BIND, |w| {
                value.map(|value| w.raw(attr::CONNECTION_ID, value));
            })
        });
        assert_eq!(code(&refused), 400, "{value:?}");
    }
    let bare = Client::new("", "", 7).connection_bind(ConnectionId(0));
    assert_eq!(code(&world.send(&stream(3), &bare)), 401);
}
