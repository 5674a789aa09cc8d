//! What each request gets (RFC 8656, sections 5 to 12).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod abuse;
mod bandwidth;
mod behaviour;
#[path = "../common/mod.rs"]
mod common;
mod mobility;
mod tcp_allocations;

use common::{Outcome, World, flow, peer, policy, ring};
use rtc_turn_proto::{
    Class, Drop, ErrorCode, Limits, LongTermKey, Message, Method, PasswordAlgorithm, Rate, TransactionId,
    Writer,
    attributes::{self as attr, Icmp},
    channel_data,
    client::{Answer, Client},
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const OK: Answer = Answer::Success { relayed: None, lifetime: None };
const PEER: &str = "8.8.8.8:9";

fn code(outcome: &Outcome) -> u16 {
    let Outcome::Reply(reply) = outcome else { panic!("no reply: {outcome:?}") };
    Message::parse(reply).unwrap().get::<attr::Error>().unwrap().unwrap().0
}

#[test]
fn a_binding_request_gets_its_address_back() {
    let mut world = World::new();
    let packet = Client::new("", "", 1).binding();
    let Outcome::Reply(reply) = world.send(&flow(1), &packet) else { panic!() };
    let message = Message::parse(&reply).unwrap();
    assert_eq!(message.get::<attr::XorMappedAddress>().unwrap().unwrap().0, flow(1).client);
}

#[test]
fn data_flows_both_ways_by_send_and_by_channel() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    assert_eq!(world.datagram(relayed, peer(PEER), b"x"), None, "no permission yet");
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER))), OK);
    let sent = client.send(peer(PEER), b"ping");
    let expected =
        Outcome::Relayed { from_port: relayed.port(), peer: peer(PEER), payload: b"ping".to_vec() };
    assert_eq!(world.send(&flow(1), &sent), expected);
    let data = world.datagram(relayed, peer(PEER), b"pong").unwrap();
    assert_eq!(client.read(&data), Answer::Data(peer(PEER), b"pong".to_vec()));

    assert_eq!(world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, peer(PEER))), OK);
    let mut framed = Vec::new();
    channel_data::write(0x4000, b"ping", false, &mut framed);
    assert_eq!(world.send(&flow(1), &framed), expected);
    let data = world.datagram(relayed, peer(PEER), b"pong").unwrap();
    assert_eq!(channel_data::parse(&data), Some((0x4000, &b"pong"[..])));
}

#[test]
fn sha256_is_taken_when_offered_and_an_offer_that_was_tampered_with_is_refused() {
    let mut world = World::new();
    let mut client = world.client("alice");
    client.prefer_sha256 = true;
    world.allocate(&flow(1), &mut client);
    assert!(matches!(world.ask(&flow(1), &mut client, |c| c.refresh(600)), Answer::Success { .. }));
    let packet = client.request(Method::REFRESH, |w| {
        w.raw(attr::PASSWORD_ALGORITHMS, &[0, 1, 0, 0]);
    });
    assert_eq!(code(&world.send(&flow(1), &packet)), 400, "RFC 8489, section 9.2.4");
}

#[test]
fn a_stranger_is_challenged_in_few_bytes_and_leaves_nothing() {
    let mut world = World::new();
    let packet = Client::new("1:a", "b", 1).allocate();
    let outcome = world.send(&flow(1), &packet);
    assert_eq!(code(&outcome), 401);
    let Outcome::Reply(reply) = outcome else { panic!() };
    assert!(reply.len() <= 3 * packet.len(), "{} for {}", reply.len(), packet.len());
    assert_eq!((world.server.open_relays(), world.quotas.total()), (0, 0));
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn strangers_of_one_prefix_share_a_budget_of_errors() {
    let mut world = World::with(Limits::default(), |c| c.error_rate = Rate { per_second: 1, burst: 3 });
    let packet = Client::new("1:a", "b", 1).allocate();
    let replies = (0..10).filter(|n| world.send(&flow(*n), &packet) != Outcome::Nothing).count();
    assert_eq!(replies, 3);
    assert_eq!(world.server.counters().drops_of(Drop::ErrorBudget), 7);
}

#[test]
fn wrong_and_expired_credentials_get_401() {
    let mut world = World::new();
    let expired = world.mint("alice");
    world.pass(3601);
    let other = Client::new(world.mint("alice").username, "guess", 1);
    let none = Client::new("alice", "guess", 1);
    for mut client in [Client::new(expired.username, expired.password, 1), other, none] {
        assert_eq!(world.ask(&flow(1), &mut client, Client::allocate), Answer::Refused(401));
    }
}

#[test]
fn integrity_without_what_it_needs_gets_400() {
    let mut world = World::new();
    let mut packet = Vec::new();
    Writer::new(&mut packet, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))
        .raw(attr::USERNAME, b"1:a")
        .integrity_sha1(b"x");
    assert_eq!(code(&world.send(&flow(1), &packet)), 400);
}

#[test]
fn a_stale_nonce_gets_438_and_a_fresh_one() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    assert!(matches!(world.ask(&flow(1), &mut client, |c| c.refresh(3600)), Answer::Success { .. }));
    for _ in 0..3 {
        world.pass(3000);
        let packet = client.refresh(3600);
        if let Outcome::Reply(reply) = world.send(&flow(1), &packet)
            && client.read(&reply) == Answer::Challenged
        {
            assert_eq!(world.server.counters().errors_of(ErrorCode::StaleNonce), 1);
            assert!(matches!(world.ask(&flow(1), &mut client, |c| c.refresh(3600)), Answer::Success { .. }));
            return;
        }
    }
    panic!("the nonce never went stale");
}

#[test]
fn a_nonce_of_another_client_is_stale() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    let packet = client.allocate();
    assert_eq!(code(&world.send(&flow(2), &packet)), 438);
}

#[test]
fn a_live_allocation_refreshes_on_when_its_key_is_gone_and_its_username_expired() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    let mut late = world.client("bob");
    world.ring = ring(2, &["k-2"]);
    world.server.set_keys(Arc::new(world.ring.clone()));
    for _ in 0..10 {
        let answer = world.ask(&flow(1), &mut client, |c| c.refresh(600));
        assert_eq!(answer, Answer::Success { relayed: None, lifetime: Some(600) });
        assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER))), OK);
        assert!(world.datagram(relayed, peer(PEER), b"still here").is_some());
        world.pass(590);
    }
    assert!(world.elapsed().as_secs() > 3600, "beyond the credential's life");
    assert_eq!(world.ask(&flow(2), &mut late, Client::allocate), Answer::Refused(401), "a retired key");
    let mut new = world.client("bob");
    world.allocate(&flow(2), &mut new);
}

/// USERHASH (RFC 8489, section 14.4): nobody can look up a time-limited username, but an allocation knows its own.
#[test]
fn a_live_allocation_knows_its_username_by_its_hash() {
    let mut world = World::new();
    let who = world.mint("a");
    let mut client = Client::new(&who.username, &who.password, 1);
    world.allocate(&flow(1), &mut client);
    let challenged = |world: &mut World, n| {
        let Outcome::Reply(reply) = world.send(&flow(n), &Client::new("x", "y", 9).refresh(600)) else {
            panic!("no challenge")
        };
        Message::parse(&reply).unwrap().raw(attr::NONCE).unwrap().to_vec()
    };
    let key = LongTermKey::new(
        PasswordAlgorithm::Md5,
        who.username.as_bytes(),
        b"example.org",
        who.password.as_bytes(),
    );
    let mut ask = |n, method, name: &str| {
        let (nonce, mut packet) = (challenged(&mut world, n), Vec::new());
        Writer::new(&mut packet, Class::Request, method, TransactionId([n as u8; 12]))
            .raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .raw(attr::USERHASH, &Sha256::digest(format!("{name}:example.org")))
            .raw(attr::REALM, b"example.org")
            .raw(attr::NONCE, &nonce)
            .integrity_sha1(key.expose());
        world.send(&flow(n), &packet)
    };
    let Outcome::Reply(reply) = ask(1, Method::REFRESH, &who.username) else { panic!("no answer") };
    assert_eq!(Message::parse(&reply).unwrap().class(), Class::Success);
    assert_eq!(code(&ask(1, Method::REFRESH, "another")), 401);
    assert_eq!(code(&ask(2, Method::ALLOCATE, &who.username)), 401);
}

#[test]
fn a_key_is_of_no_use_from_its_not_after_on() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let mut keys = world.ring.clone();
    keys.keys[0].not_after = Some(world.now.unix);
    world.server.set_keys(Arc::new(keys));
    assert_eq!(world.ask(&flow(1), &mut client, Client::allocate), Answer::Refused(401));
}

#[test]
fn another_users_credentials_get_441() {
    let mut world = World::new();
    let (mut alice, mut mallory) = (world.client("alice"), world.client("mallory"));
    world.allocate(&flow(1), &mut alice);
    assert_eq!(world.ask(&flow(1), &mut mallory, |c| c.refresh(0)), Answer::Refused(441));
    assert_eq!(world.server.open_relays(), 1);
}

#[test]
fn without_an_allocation_there_is_437() {
    let mut world = World::new();
    let mut client = world.client("alice");
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.refresh(600)), Answer::Refused(437));
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER))), Answer::Refused(437));
    assert_eq!(
        world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, peer(PEER))),
        Answer::Refused(437)
    );
}

#[test]
fn an_allocate_sent_twice_is_answered_the_same_and_another_one_gets_437() {
    let mut world = World::new();
    let mut client = world.client("alice");
    assert_eq!(world.ask(&flow(9), &mut client, |c| c.refresh(0)), Answer::Refused(437));
    world.send(&flow(1), &client.allocate());
    // the nonce is flow 9's, so flow 1 is challenged first
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    let mut again = world.client("alice");
    let packet = again.allocate();
    let Outcome::Reply(challenge) = world.send(&flow(1), &packet) else { panic!() };
    again.read(&challenge);
    let packet = again.allocate();
    assert_eq!(code(&world.send(&flow(1), &packet)), 437);

    let mut bob = world.client("bob");
    let Outcome::Reply(challenge) = ({
        let packet = bob.allocate();
        world.send(&flow(2), &packet)
    }) else {
        panic!()
    };
    bob.read(&challenge);
    let packet = bob.allocate();
    let first = world.send(&flow(2), &packet);
    assert_eq!(world.send(&flow(2), &packet), first);
    assert_eq!(world.server.open_relays(), 2);
    assert_ne!(relayed.port(), 0);
}

#[test]
fn what_follows_integrity_ends_nobodys_allocation() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    let mut packet = client.request(Method::REFRESH, |_| {});
    packet.extend_from_slice(&[0, 0x0D, 0, 4, 0, 0, 0, 0]);
    let length = (packet.len() - 20) as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let Outcome::Reply(reply) = world.send(&flow(1), &packet) else { panic!() };
    assert_eq!(client.read(&reply), Answer::Success { relayed: None, lifetime: Some(600) });
    assert_eq!(world.server.open_relays(), 1);
}

#[test]
fn each_malformed_allocate_gets_the_code_of_its_fault() {
    let mut world = World::new();
    let udp: (u16, &[u8]) = (attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    type Case<'a> = (u16, Vec<(u16, &'a [u8])>);
    let cases: Vec<Case<'_>> = vec![
        (400, vec![]),
        (442, vec![(attr::REQUESTED_TRANSPORT, &[132, 0, 0, 0])]),
        (442, vec![(attr::REQUESTED_TRANSPORT, &[99, 0, 0, 0])]),
        (400, vec![(attr::REQUESTED_TRANSPORT, &[17])]),
        (420, vec![udp, (0x7FFF, &[])]),
        (440, vec![udp, (attr::REQUESTED_ADDRESS_FAMILY, &[9, 0, 0, 0])]),
        (
            400,
            vec![
                udp,
                (attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]),
                (attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            ],
        ),
        (400, vec![udp, (attr::ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0])]),
        (400, vec![udp, (attr::EVEN_PORT, &[0x80]), (attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])]),
        (400, vec![udp, (attr::EVEN_PORT, &[0x80]), (attr::RESERVATION_TOKEN, &[1; 8])]),
        (508, vec![udp, (attr::RESERVATION_TOKEN, &[1; 8])]),
    ];
    for (expected, attributes) in cases {
        let mut client = world.client("alice");
        let answer = world.ask(&flow(1), &mut client, |c| {
            c.request(Method::ALLOCATE, |w| {
                for (kind, value) in &attributes {
                    w.raw(*kind, value);
                }
            })
        });
        assert_eq!(answer, Answer::Refused(expected), "{attributes:?}");
    }
    assert_eq!((world.server.open_relays(), world.quotas.total()), (0, 0));
}

#[test]
fn a_dual_allocation_relays_both_families() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let answer = world.ask(&flow(1), &mut client, |c| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                .raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        })
    });
    assert!(matches!(answer, Answer::Success { .. }));
    assert_eq!(world.open.len(), 2);
    for target in [PEER, "[2a00:1450::1]:9"] {
        assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(target))), OK);
        let sent = client.send(peer(target), b"x");
        assert!(matches!(world.send(&flow(1), &sent), Outcome::Relayed { .. }));
    }
}

#[test]
fn an_even_port_reserves_the_next_for_its_user_only() {
    let mut world = World::with(Limits { per_user: Some(2), total: None }, |_| {});
    let mut alice = world.client("alice");
    let packet = |c: &mut Client| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::EVEN_PORT, &[0x80]);
        })
    };
    let first = packet(&mut alice);
    let Outcome::Reply(challenge) = world.send(&flow(1), &first) else { panic!() };
    alice.read(&challenge);
    let second = packet(&mut alice);
    let Outcome::Reply(reply) = world.send(&flow(1), &second) else { panic!() };
    let message = Message::parse(&reply).unwrap();
    let token = message.get::<attr::ReservationToken>().unwrap().unwrap().0;
    let even = message.get::<attr::XorRelayedAddress>().unwrap().unwrap().0.port();
    assert_eq!(even % 2, 0);
    let reserved = |c: &mut Client| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::RESERVATION_TOKEN, &token);
        })
    };
    let (mut third, mut mallory) = (world.client("alice"), world.client("mallory"));
    assert_eq!(world.ask(&flow(3), &mut third, Client::allocate), Answer::Refused(486), "it counts");
    assert_eq!(world.ask(&flow(2), &mut mallory, reserved), Answer::Refused(508));
    let mut alice = world.client("alice");
    match world.ask(&flow(4), &mut alice, reserved) {
        Answer::Success { relayed: Some(relayed), .. } => assert_eq!(relayed.port(), even + 1),
        answer => panic!("{answer:?}"),
    }
    world.pass(3600);
    assert_eq!((world.server.open_relays(), world.quotas.total()), (0, 0));
}

#[test]
fn a_reserved_port_may_be_taken_at_another_worker_and_comes_home() {
    let mut workers = World::workers(2);
    let (mut one, mut two) = (workers.remove(0), workers.remove(0));
    for _ in 0..20 {
        let mut alice = one.client("alice");
        let mut token = None;
        for _ in 0..2 {
            let packet = alice.request(Method::ALLOCATE, |w| {
                w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::EVEN_PORT, &[0x80]);
            });
            let Outcome::Reply(reply) = one.send(&flow(1), &packet) else { panic!() };
            alice.read(&reply);
            token = Message::parse(&reply).unwrap().get::<attr::ReservationToken>().unwrap();
        }
        let token = token.expect("a pair is free: none was lost in the rounds before").0;
        let mut client = two.client("alice");
        let answer = two.ask(&flow(2), &mut client, |c| {
            c.request(Method::ALLOCATE, |w| {
                w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::RESERVATION_TOKEN, &token);
            })
        });
        assert!(matches!(answer, Answer::Success { .. }), "{answer:?}");
        one.ask(&flow(1), &mut alice, |c| c.refresh(0));
        two.ask(&flow(2), &mut client, |c| c.refresh(0));
        assert_eq!(one.quotas.total(), 0);
    }
}

#[test]
fn a_reservation_nobody_takes_comes_back() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.ask(&flow(1), &mut client, |c| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(attr::EVEN_PORT, &[0x80]);
        })
    });
    assert_eq!(world.quotas.total(), 2);
    world.pass(31);
    assert_eq!(world.quotas.total(), 1);
}

#[test]
fn ports_the_system_refuses_are_passed_over_until_508() {
    let mut world = World::new();
    world.busy = (50_000..50_018).collect();
    let mut client = world.client("alice");
    let answers: Vec<_> = (0..9)
        .map(|n| {
            let mut client = world.client("alice");
            world.ask(&flow(n), &mut client, Client::allocate)
        })
        .collect();
    assert!(answers.iter().all(|a| matches!(a, Answer::Success { .. } | Answer::Refused(508))));
    world.busy = (50_000..50_020).collect();
    assert_eq!(world.ask(&flow(100), &mut client, Client::allocate), Answer::Refused(508));
    world.busy.clear();
    world.pass(3600);
    for n in 0..20 {
        let mut client = world.client("alice");
        world.allocate(&flow(n), &mut client);
    }
    let mut client = world.client("alice");
    assert_eq!(world.ask(&flow(20), &mut client, Client::allocate), Answer::Refused(508));
}

#[test]
fn a_refused_peer_gets_403_and_a_peer_of_the_other_family_443() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    for (target, expected) in
        [("127.0.0.1:9", 403), ("0.0.0.0:9", 403), ("[::ffff:8.8.8.8]:9", 443), ("[2a00::9]:9", 443)]
    {
        let answer = world.ask(&flow(1), &mut client, |c| c.create_permission(peer(target)));
        assert_eq!(answer, Answer::Refused(expected), "{target}");
        let answer = world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, peer(target)));
        assert_eq!(answer, Answer::Refused(expected), "{target}");
    }
}

#[test]
fn a_request_for_more_permissions_than_there_is_room_for_installs_none() {
    let mut world = World::with(Limits::default(), |c| c.max_permissions = 2);
    let mut client = world.client("a");
    world.allocate(&flow(1), &mut client);
    let permit = |c: &mut Client, peers: &[&str]| {
        c.request(Method::CREATE_PERMISSION, |w| {
            for at in peers {
                w.xor_address(attr::XOR_PEER_ADDRESS, peer(at));
            }
        })
    };
    let three = ["8.8.8.8:1", "1.1.1.1:1", "9.9.9.9:1"];
    assert_eq!(world.ask(&flow(1), &mut client, |c| permit(c, &three)), Answer::Refused(508));
    let packet = client.send(peer("8.8.8.8:1"), b"x");
    assert_eq!(world.send(&flow(1), &packet), Outcome::Nothing);
    // an address twice is one permission, and one that has ended makes room
    let two = ["8.8.8.8:1", "8.8.8.8:2", "1.1.1.1:1"];
    for peers in [&two[..], &["1.1.1.1:1"], &["9.9.9.9:1", "1.1.1.1:1"]] {
        assert!(matches!(world.ask(&flow(1), &mut client, |c| permit(c, peers)), Answer::Success { .. }));
        world.pass(180);
    }
    let refused = world.ask(&flow(1), &mut client, |c| permit(c, &["8.8.8.8:1"]));
    assert_eq!(refused, Answer::Refused(508));
}

#[test]
fn the_fleets_relay_ports_are_peers_and_its_other_ports_are_not() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    let (good, bad) = (peer("10.0.0.1:50001"), peer("10.0.0.1:10250"));
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(bad)), OK, "ports do not count here");
    assert!(matches!(world.send(&flow(1), &client.send(good, b"x")), Outcome::Relayed { .. }));
    assert_eq!(world.send(&flow(1), &client.send(bad, b"x")), Outcome::Nothing);
    assert!(world.datagram(relayed, good, b"x").is_some());
    assert_eq!(world.datagram(relayed, bad, b"x"), None);
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, bad)), Answer::Refused(403));
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, good)), OK);
}

#[test]
fn new_rules_end_permissions_and_channels_at_once() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, peer(PEER))), OK);
    let mut rules = policy();
    rules.deny.push("8.0.0.0/8".parse().unwrap());
    world.server.set_peers(Arc::new(rules));
    let mut framed = Vec::new();
    channel_data::write(0x4000, b"x", false, &mut framed);
    assert_eq!(world.send(&flow(1), &framed), Outcome::Nothing);
    assert_eq!(world.datagram(relayed, peer(PEER), b"x"), None);
}

#[test]
fn channel_numbers_and_peers_are_bound_one_to_one() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    let mut bind =
        |number, target: &str| world.ask(&flow(1), &mut client, |c| c.channel_bind(number, peer(target)));
    assert_eq!(bind(0x3FFF, PEER), Answer::Refused(400));
    assert_eq!(bind(0x5000, PEER), Answer::Refused(400));
    assert_eq!(bind(0x4000, PEER), OK);
    assert_eq!(bind(0x4000, PEER), OK);
    assert_eq!(bind(0x4000, "8.8.8.8:10"), Answer::Refused(400));
    assert_eq!(bind(0x4001, PEER), Answer::Refused(400));
    assert_eq!(bind(0x4FFF, "8.8.8.8:10"), OK);
}

#[test]
fn permissions_end_after_five_minutes_and_channels_after_ten() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    world.ask(&flow(1), &mut client, |c| c.refresh(3600));
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, peer(PEER))), OK);
    let mut framed = Vec::new();
    channel_data::write(0x4000, b"x", false, &mut framed);
    world.pass(299);
    assert!(world.datagram(relayed, peer(PEER), b"x").is_some());
    world.pass(2);
    assert_eq!(world.datagram(relayed, peer(PEER), b"x"), None);
    assert_eq!(world.send(&flow(1), &client.send(peer(PEER), b"x")), Outcome::Nothing);
    assert!(matches!(world.send(&flow(1), &framed), Outcome::Relayed { .. }), "RFC 8656, section 12.6");
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER))), OK);
    assert!(world.datagram(relayed, peer(PEER), b"x").is_some(), "the channel's permission too");
    world.pass(300);
    assert_eq!(world.send(&flow(1), &framed), Outcome::Nothing);
}

#[test]
fn lifetime_zero_ends_it_and_the_five_tuple_is_free() {
    let mut world = World::new();
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER)));
    let answer = world.ask(&flow(1), &mut client, |c| c.refresh(0));
    assert_eq!(answer, Answer::Success { relayed: None, lifetime: Some(0) });
    assert_eq!(world.send(&flow(1), &client.send(peer(PEER), b"x")), Outcome::Nothing);
    assert_eq!(world.datagram(relayed, peer(PEER), b"x"), None);
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.refresh(600)), Answer::Refused(437));
    world.allocate(&flow(1), &mut client);
}

#[test]
fn lifetimes_stay_between_the_default_and_the_maximum() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    for (asked, granted) in [(1, 600), (600, 600), (1200, 1200), (u32::MAX, 3600)] {
        let answer = world.ask(&flow(1), &mut client, |c| c.refresh(asked));
        assert_eq!(answer, Answer::Success { relayed: None, lifetime: Some(granted) });
    }
    world.ask(&flow(1), &mut client, |c| c.refresh(1));
    world.pass(601);
    assert_eq!(world.server.open_relays(), 0, "a shortened lifetime counts");
    assert_eq!(world.server.counters().live, 0);
}

#[test]
fn a_user_at_their_quota_gets_486() {
    let mut world = World::with(Limits { per_user: Some(1), total: Some(2) }, |_| {});
    let (mut a, mut a2, mut b, mut c) =
        (world.client("a"), world.client("a"), world.client("b"), world.client("c"));
    world.allocate(&flow(1), &mut a);
    assert_eq!(world.ask(&flow(2), &mut a2, Client::allocate), Answer::Refused(486));
    world.allocate(&flow(3), &mut b);
    assert_eq!(world.ask(&flow(4), &mut c, Client::allocate), Answer::Refused(486), "the total");
    world.ask(&flow(1), &mut a, |c| c.refresh(0));
    world.allocate(&flow(4), &mut c);
}

#[test]
fn draining_sends_new_clients_elsewhere_and_lets_calls_go_on() {
    for (alternates, expected) in
        [(vec![], 486), (vec![peer("[2a00::5]:3478"), peer("203.0.113.9:3478")], 300)]
    {
        let mut world = World::new();
        let mut client = world.client("alice");
        let relayed = world.allocate(&flow(1), &mut client);
        world.server.drain(alternates.into());
        let mut new = world.client("bob");
        assert_eq!(world.ask(&flow(2), &mut new, Client::allocate), Answer::Refused(expected));
        assert!(matches!(world.ask(&flow(1), &mut client, |c| c.refresh(600)), Answer::Success { .. }));
        assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER))), OK);
        assert!(world.datagram(relayed, peer(PEER), b"x").is_some());
    }
}

#[test]
fn a_closed_connection_ends_its_allocation() {
    let mut world = World::new();
    let mut client = world.client("alice");
    world.allocate(&flow(1), &mut client);
    world.server.client_gone(&flow(1));
    world.pass(0);
    assert_eq!((world.server.open_relays(), world.quotas.total()), (0, 0));
}

#[test]
fn responses_and_strange_packets_are_dropped_and_counted() {
    let mut world = World::new();
    let mut response = Vec::new();
    Writer::new(&mut response, Class::Success, Method::BINDING, TransactionId([1; 12]));
    for packet in [&b""[..], b"\x80junk", b"\x00\x01", b"\x40\x00\x00\x09x", &response] {
        assert_eq!(world.send(&flow(1), packet), Outcome::Nothing);
    }
    let counters = world.server.counters();
    assert_eq!((counters.drops_of(Drop::Malformed), counters.drops_of(Drop::Unexpected)), (4, 1));
}

/// RFC 8656, section 11.5.
#[test]
fn a_client_is_told_why_a_datagram_was_lost_where_it_has_a_permission() {
    let mut world = World::new();
    let (flow, mut client) = (flow(1), world.client("alice"));
    world.allocate(&flow, &mut client);
    let relay = *world.open.keys().next().unwrap();
    let target = peer("8.8.8.8:9");
    world.ask(&flow, &mut client, |c| c.create_permission(target));
    let refused = Icmp { kind: 3, code: 3, mtu: 0 };
    let told = |world: &mut World, from: &str, icmp| {
        let mut out = Vec::new();
        let to = world.server.icmp_from_peer(world.now, relay, peer(from), icmp, &mut out);
        assert_eq!(to.is_some(), !out.is_empty());
        assert!(to.is_none_or(|to| to == flow));
        out
    };
    let out = told(&mut world, "8.8.8.8:9", refused);
    assert_eq!(client.read(&out), Answer::Lost(target, refused));
    let too_big = Icmp { kind: 3, code: 4, mtu: 1280 };
    let out = told(&mut world, "8.8.8.8:99", too_big);
    assert_eq!(client.read(&out), Answer::Lost(peer("8.8.8.8:99"), too_big), "ports are not compared");
    assert!(told(&mut world, "1.1.1.1:9", refused).is_empty(), "no permission");
    let echo = Icmp { kind: 8, code: 0, mtu: 0 };
    assert!(told(&mut world, "8.8.8.8:9", echo).is_empty(), "no error");
    let more = (0..100).filter(|_| !told(&mut world, "8.8.8.8:9", refused).is_empty()).count();
    assert_eq!(more + 2, 16, "a flood of errors is told of in part");
    world.pass(1);
    assert!(!told(&mut world, "8.8.8.8:9", refused).is_empty());
    world.pass(300);
    assert!(told(&mut world, "8.8.8.8:9", refused).is_empty(), "the permission is over");
}
