//! IPv6 on either side of the relay, and both families at once (RFC 8656, sections 7.2 and 9).

use crate::{
    common::{
        Link, OK, TestClient,
        certificate::{issue, with_certificate},
        config, echo_peer_at, single, start, within,
    },
    tls,
};
use rtc_credentials::Transport;
use rtc_turn::{Config, Handle};
use rtc_turn_proto::{
    Message, Method,
    attributes::{self as attr, Error, XorRelayedAddress},
    channel_data,
    client::{Answer, Client},
};
use std::net::SocketAddr;

const V6: &[u8] = &[2, 0, 0, 0];

fn both(listen: &[&str]) -> Config {
    Config {
        listen: listen.iter().map(|url| url.parse().unwrap()).collect(),
        relay: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        allow: vec!["127.0.0.1/32".parse().unwrap(), "::1/128".parse().unwrap()],
        ..config()
    }
}

async fn over_v6() -> Handle {
    start(both(&["udp://[::1]:0", "tcp://[::1]:0"])).await
}

async fn over_v4() -> Handle {
    start(both(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"])).await
}

async fn udp(server: &Handle, user: &str) -> TestClient {
    TestClient::connect(server, Transport::Udp, &single(), user).await
}

/// Allocate with an attribute that names a family.
fn asking(kind: u16) -> impl Fn(&mut Client) -> Vec<u8> {
    move |c| {
        c.request(Method::ALLOCATE, |w| {
            w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).raw(kind, V6);
        })
    }
}

/// What that gives: the relayed addresses, and the value of ADDRESS-ERROR-CODE.
async fn allocate(client: &mut TestClient, kind: u16) -> (Vec<SocketAddr>, Option<Vec<u8>>) {
    for _ in 0..2 {
        let packet = asking(kind)(&mut client.client);
        client.send(&packet).await;
        let reply = client.receive().await;
        match client.client.read(&reply) {
            Answer::Challenged => {}
            Answer::Success { .. } => {
                let message = Message::parse(&reply).unwrap();
                let relayed = message.all::<XorRelayedAddress>().map(|at| at.unwrap().0).collect();
                return (relayed, message.raw(attr::ADDRESS_ERROR_CODE).map(<[u8]>::to_vec));
            }
            answer => panic!("{answer:?} {:?}", Message::parse(&reply).map(|m| m.get::<Error>())),
        }
    }
    panic!("challenged twice");
}

/// Both forms, to a peer that echoes.
async fn echo(client: &mut TestClient, number: u16, peer: SocketAddr) {
    assert_eq!(client.ask(|c| c.create_permission(peer)).await, OK);
    for length in [0, 1, 1200, 9000] {
        let payload = vec![length as u8; length];
        assert_eq!(client.echo_by_send(peer, &payload).await, (peer, payload));
    }
    assert_eq!(client.ask(|c| c.channel_bind(number, peer)).await, OK);
    for length in [0, 1, 1200, 9000] {
        let payload = vec![length as u8; length];
        assert_eq!(client.echo_by_channel(number, &payload).await, payload);
    }
}

#[tokio::test]
async fn a_client_over_ipv6_relays_over_ipv6_by_every_transport() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = issue(dir.path());
    let listen = ["udp://[::1]:0", "tcp://[::1]:0", "tls://[::1]:0"];
    let server = start(with_certificate(dir.path(), &listen, both(&[]))).await;
    let peer = echo_peer_at("[::1]:0").await;
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let mut client = match transport {
            Transport::Tls => tls::client(&server, &certificate, "alice").await,
            _ => TestClient::connect(&server, transport, &single(), "alice").await,
        };
        let (relayed, error) = allocate(&mut client, attr::REQUESTED_ADDRESS_FAMILY).await;
        assert!(matches!(relayed[..], [at] if at.ip() == peer.ip()), "{transport:?}: {relayed:?}");
        assert_eq!(error, None);
        echo(&mut client, 0x4000, peer).await;
    }
}

#[tokio::test]
async fn a_dual_allocation_relays_both_families_over_either() {
    let peers = [echo_peer_at("127.0.0.1:0").await, echo_peer_at("[::1]:0").await];
    for server in [over_v4().await, over_v6().await] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut client = TestClient::connect(&server, transport, &single(), "alice").await;
            let (relayed, error) = allocate(&mut client, attr::ADDITIONAL_ADDRESS_FAMILY).await;
            let families = relayed.iter().map(SocketAddr::is_ipv4).collect::<Vec<_>>();
            assert_eq!((families, error), (vec![true, false], None));
            for (number, peer) in (0x4000..).zip(peers) {
                echo(&mut client, number, peer).await;
            }
            // a peer of either family hears from that family's address
            for (peer, at) in [("127.0.0.1:0", relayed[0]), ("[::1]:0", relayed[1])] {
                let peer = tokio::net::UdpSocket::bind(peer).await.unwrap();
                let packet = client.client.send(peer.local_addr().unwrap(), b"from where?");
                client.send(&packet).await;
                let (_, from) = within("a datagram", peer.recv_from(&mut [0; 20])).await.unwrap();
                assert_eq!(from, at);
            }
            // one half ends (RFC 8656, section 8.2); the other goes on
            let end = |c: &mut Client| {
                c.request(Method::REFRESH, |w| {
                    w.u32(attr::LIFETIME, 0).raw(attr::REQUESTED_ADDRESS_FAMILY, V6);
                })
            };
            assert!(matches!(client.ask(end).await, Answer::Success { lifetime: Some(0), .. }));
            assert_eq!(client.ask(end).await, Answer::Refused(443));
            assert_eq!(client.ask(|c| c.create_permission(peers[1])).await, Answer::Refused(443));
            assert_eq!(client.echo_by_channel(0x4000, b"on").await, b"on");
        }
    }
}

#[tokio::test]
async fn clients_of_either_family_meet_at_their_relayed_addresses() {
    let (v4, v6) = (over_v4().await, over_v6().await);
    // of one server, handed over in process, and of two, by the network
    for (first, second) in [(&v6, &v6), (&v4, &v6)] {
        let (mut alice, mut bob) = (udp(first, "alice").await, udp(second, "bob").await);
        let at_alice = allocate(&mut alice, attr::ADDITIONAL_ADDRESS_FAMILY).await.0[1];
        let at_bob = allocate(&mut bob, attr::REQUESTED_ADDRESS_FAMILY).await.0[0];
        assert_eq!(alice.ask(|c| c.channel_bind(0x4000, at_bob)).await, OK);
        assert_eq!(bob.ask(|c| c.create_permission(at_alice)).await, OK);
        let mut packet = Vec::new();
        channel_data::write(0x4000, b"hello", false, &mut packet);
        alice.send(&packet).await;
        let reply = bob.receive().await;
        assert_eq!(bob.client.read(&reply), Answer::Data(at_alice, b"hello".to_vec()));
        let packet = bob.client.send(at_alice, b"and you");
        bob.send(&packet).await;
        let reply = alice.receive().await;
        assert_eq!(channel_data::parse(&reply), Some((0x4000, &b"and you"[..])));
    }
}

#[tokio::test]
async fn a_peer_of_a_family_that_is_not_allocated_gets_443_and_a_family_that_is_not_there_440() {
    let server = over_v6().await;
    let [v4, v6, mapped, closed] =
        ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9", "[::ffff:0:0]:9"].map(|at| at.parse().unwrap());
    let refusals = async |client: &mut TestClient, peer: SocketAddr, code: u16| {
        assert_eq!(client.ask(|c| c.create_permission(peer)).await, Answer::Refused(code), "{peer}");
        assert_eq!(client.ask(|c| c.channel_bind(0x4000, peer)).await, Answer::Refused(code), "{peer}");
    };
    let mut client = udp(&server, "alice").await;
    assert!(client.allocate().await.is_ipv4(), "without a wish it is IPv4, whatever the client's family");
    for peer in [v6, mapped] {
        refusals(&mut client, peer, 443).await;
    }
    let mut client = udp(&server, "alice").await;
    allocate(&mut client, attr::REQUESTED_ADDRESS_FAMILY).await;
    refusals(&mut client, v4, 443).await;
    // an IPv4 peer in disguise is refused although its own address and ::1 are allowed
    for peer in [mapped, closed] {
        refusals(&mut client, peer, 403).await;
    }

    let server = start(config()).await;
    let mut client = udp(&server, "alice").await;
    assert_eq!(client.ask(asking(attr::REQUESTED_ADDRESS_FAMILY)).await, Answer::Refused(440));
    let (relayed, error) = allocate(&mut client, attr::ADDITIONAL_ADDRESS_FAMILY).await;
    assert!(matches!(relayed[..], [at] if at.is_ipv4()));
    assert_eq!(error, Some(vec![2, 0, 4, 40]), "IPv6: 440 (RFC 8656, section 18.12)");
    refusals(&mut client, v6, 443).await;
    assert!(matches!(client.link, Link::Udp(_)));
}
