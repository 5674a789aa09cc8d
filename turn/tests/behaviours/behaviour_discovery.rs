//! A server of two addresses tells clients how their NAT behaves (RFC 5780).

use crate::common::{config, start, within};
use rtc_credentials::Transport;
use rtc_turn::{Config, Handle, Settings};
use rtc_turn_proto::{Class, Message, Method, TransactionId, Writer, attributes as attr};
use std::{collections::BTreeSet, net::SocketAddr};
use tokio::net::UdpSocket;

/// A server at 127.0.0.1 and 127.0.0.2, and its four sockets: A1, A2, B1, B2.
pub(crate) async fn two_addresses() -> (Handle, [SocketAddr; 4]) {
    let second = Some("127.0.0.2:0".parse().unwrap());
    let server = start(Config { alternate_address: second, workers: 3, ..config() }).await;
    let udp = server.local_addrs().iter().filter(|(transport, _)| *transport == Transport::Udp);
    let at: Vec<_> = udp.map(|(_, address)| *address).collect();
    let at: [SocketAddr; 4] = at.try_into().unwrap();
    (server, at)
}

fn binding(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    Writer::new(&mut packet, Class::Request, Method::BINDING, TransactionId([1; 12])).raw(kind, value);
    packet
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 4096];
    let (length, from) = within("an answer", socket.recv_from(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    (buffer, from)
}

#[tokio::test]
async fn answers_leave_from_the_socket_that_was_asked_for() {
    let (_server, at) = two_addresses().await;
    assert_eq!(at.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>().len(), 2);
    assert_eq!((at[0].port(), at[1].port()), (at[2].port(), at[3].port()));
    // several clients, so that several workers are asked
    for _ in 0..8 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for (index, to) in at.iter().enumerate() {
            for (flags, changed) in [(0, 0), (2, 1), (4, 2), (6, 3)] {
                let packet = binding(attr::CHANGE_REQUEST, &[0, 0, 0, flags]);
                socket.send_to(&packet, to).await.unwrap();
                assert_eq!(receive(&socket).await.1, at[index ^ changed], "{flags}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_goes_to_the_port_that_was_asked_for_and_carries_padding() {
    let (_server, at) = two_addresses().await;
    let (asks, hears) = tokio::join!(UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (asks, hears) = (asks.unwrap(), hears.unwrap());
    let [high, low] = hears.local_addr().unwrap().port().to_be_bytes();
    asks.send_to(&binding(attr::RESPONSE_PORT, &[high, low, 0, 0]), at[0]).await.unwrap();
    let (reply, from) = receive(&hears).await;
    assert_eq!(from, at[0]);
    let mapped = Message::parse(&reply).unwrap().get::<attr::XorMappedAddress>().unwrap().unwrap().0;
    assert_eq!(mapped, asks.local_addr().unwrap());
    asks.send_to(&binding(attr::PADDING, &[7; 2000]), at[0]).await.unwrap();
    let (reply, _) = receive(&asks).await;
    assert_eq!(Message::parse(&reply).unwrap().raw(attr::PADDING).map(<[u8]>::len), Some(1500));
}

#[tokio::test]
async fn addresses_that_make_no_pair_are_refused_with_what_to_give() {
    for (listen, second) in [
        ("udp://0.0.0.0:3478", "127.0.0.2:3479"),
        ("tcp://127.0.0.1:3478", "127.0.0.2:3479"),
        ("udp://127.0.0.1:3478", "127.0.0.1:3479"),
        ("udp://127.0.0.1:3478", "127.0.0.2:3478"),
        ("udp://127.0.0.1:3478", "[::1]:3479"),
        ("udp://127.0.0.1:3478", "0.0.0.0:3479"),
    ] {
        let settings = Settings {
            listen: vec![listen.parse().unwrap()],
            alternate_address: Some(second.parse().unwrap()),
            stun_only: true,
            ..Settings::default()
        };
        let error = settings.resolve().unwrap_err().to_string();
        assert!(error.contains("--alternate-address") && error.contains(second), "{error}");
    }
}
