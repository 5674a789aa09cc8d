//! Between two clients of this server, data is handed over without the kernel, and nobody can tell.

use crate::common::{OK, TestClient, config, metric, single, start, within};
use rtc_credentials::Transport;
use rtc_turn::Handle;
use rtc_turn_proto::{channel_data, client::Answer};
use std::net::SocketAddr;

/// Peers see another address than relay sockets are bound to. The second reaches them too, but it is
/// no relayed address, so what is sent there goes by the kernel.
const SEEN: &str = "127.0.0.9";
const BOUND: &str = "127.0.0.1";

async fn server() -> Handle {
    let relay = vec![format!("{BOUND},{SEEN}").parse().unwrap()];
    start(rtc_turn::Config { relay, allow: Vec::new(), ..config() }).await
}

struct Party {
    client: TestClient,
    at: SocketAddr,
}

impl Party {
    async fn join(server: &Handle, transport: Transport) -> Self {
        let mut client = TestClient::connect(server, transport, &single(), "alice").await;
        let at = client.allocate().await;
        Self { client, at }
    }

    /// A client that this worker serves, or another.
    async fn join_at(server: &Handle, transport: Transport, worker: u16) -> Self {
        within("a client of that worker", async {
            loop {
                let party = Self::join(server, transport).await;
                if party.worker() == worker {
                    return party;
                }
            }
        })
        .await
    }

    /// Of the relay ports, every other pair is one worker's.
    fn worker(&self) -> u16 {
        self.at.port() / 2 % 2
    }

    async fn permit(&mut self, other: &Self) {
        assert_eq!(self.client.ask(|c| c.create_permission(other.at)).await, OK);
    }

    async fn say(&mut self, channel: u16, payload: &[u8]) {
        let mut packet = Vec::new();
        let padded = matches!(self.client.link, crate::common::Link::Tcp(..));
        channel_data::write(channel, payload, padded, &mut packet);
        self.client.send(&packet).await;
    }

    async fn hear(&mut self) -> (SocketAddr, Vec<u8>) {
        let packet = self.client.receive().await;
        match self.client.client.read(&packet) {
            Answer::Data(from, data) => (from, data),
            answer => panic!("no data: {answer:?}"),
        }
    }
}

async fn counted(server: &Handle, name: &str, label: &str, value: f64) {
    within("the count", async {
        while metric(server, name, label).await != value {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_handed_over_arrives_as_by_the_kernel() {
    let server = server().await;
    let mut handed_over = 0;
    for (from, to) in [
        (Transport::Udp, Transport::Udp),
        (Transport::Udp, Transport::Tcp),
        (Transport::Tcp, Transport::Udp),
        (Transport::Tcp, Transport::Tcp),
    ] {
        for worker in [0, 1] {
            let mut alice = Party::join_at(&server, from, 0).await;
            let mut bob = Party::join_at(&server, to, worker).await;
            let by_kernel = SocketAddr::new(BOUND.parse().unwrap(), bob.at.port());
            for (channel, peer) in [(0x4000, bob.at), (0x4001, by_kernel)] {
                assert_eq!(alice.client.ask(|c| c.channel_bind(channel, peer)).await, OK);
            }
            bob.permit(&alice).await;
            let sizes = [1000, 1000, 1000, 200, 0, 1, 3, 9000, 60_000];
            for channel in [0x4000, 0x4001, 0x4000] {
                for (n, size) in sizes.into_iter().enumerate() {
                    let payload = vec![n as u8; size];
                    alice.say(channel, &payload).await;
                    assert_eq!(bob.hear().await, (alice.at, payload), "{from:?} {to:?} {worker} {channel:x}");
                }
            }
            let hello = alice.client.client.send(bob.at, b"by indication");
            alice.client.send(&hello).await;
            assert_eq!(bob.hear().await, (alice.at, b"by indication".to_vec()));
            // and to a channel
            assert_eq!(bob.client.ask(|c| c.channel_bind(0x4007, alice.at)).await, OK);
            alice.say(0x4000, b"to a channel").await;
            let packet = bob.client.receive().await;
            assert_eq!(channel_data::parse(&packet), Some((0x4007, &b"to a channel"[..])));
            handed_over += 2 * sizes.len() + 2;
        }
    }
    counted(&server, "rtc_turn_short_cuts_total", "", handed_over as f64).await;
}

#[tokio::test]
async fn bursts_arrive_whole_and_in_order_either_way() {
    let server = server().await;
    for worker in [0, 1] {
        let mut alice = Party::join_at(&server, Transport::Udp, 0).await;
        let mut bob = Party::join_at(&server, Transport::Udp, worker).await;
        let by_kernel = SocketAddr::new(BOUND.parse().unwrap(), bob.at.port());
        for (channel, peer) in [(0x4000, bob.at), (0x4001, by_kernel)] {
            assert_eq!(alice.client.ask(|c| c.channel_bind(channel, peer)).await, OK);
        }
        bob.permit(&alice).await;
        for round in 0..50u8 {
            for n in 0..20u8 {
                let length = if n == 19 { 300 } else { 1000 };
                let payload = [vec![round, n], vec![7; length]].concat();
                alice.say(0x4000 + u16::from(round % 2), &payload).await;
            }
            for n in 0..20u8 {
                let (_, data) = bob.hear().await;
                assert_eq!(data[..2], [round, n]);
                assert_eq!(data.len(), if n == 19 { 302 } else { 1002 });
            }
        }
    }
}

#[tokio::test]
async fn the_receiver_hears_nobody_whom_it_does_not_permit() {
    let server = server().await;
    for (worker, drops) in [(0, 1.0), (1, 2.0)] {
        let mut alice = Party::join_at(&server, Transport::Udp, 0).await;
        let mut bob = Party::join_at(&server, Transport::Udp, worker).await;
        assert_eq!(alice.client.ask(|c| c.channel_bind(0x4000, bob.at)).await, OK);
        alice.say(0x4000, b"without a permission").await;
        counted(&server, "rtc_turn_drops_total", "no_permission", drops).await;
        bob.permit(&alice).await;
        alice.say(0x4000, b"with one").await;
        assert_eq!(bob.hear().await, (alice.at, b"with one".to_vec()));
    }
}

#[tokio::test]
async fn after_a_refresh_to_nothing_nothing_arrives() {
    let server = server().await;
    for worker in [0, 1] {
        let mut alice = Party::join_at(&server, Transport::Udp, 0).await;
        let mut bob = Party::join_at(&server, Transport::Udp, worker).await;
        let mut carol = Party::join_at(&server, Transport::Udp, worker).await;
        assert_eq!(alice.client.ask(|c| c.channel_bind(0x4000, bob.at)).await, OK);
        assert_eq!(alice.client.ask(|c| c.channel_bind(0x4001, carol.at)).await, OK);
        bob.permit(&alice).await;
        carol.permit(&alice).await;
        alice.say(0x4000, b"before").await;
        assert_eq!(bob.hear().await.1, b"before");

        assert!(matches!(bob.client.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
        for _ in 0..10 {
            alice.say(0x4000, b"after").await;
        }
        alice.say(0x4001, b"what was sent before has been handled").await;
        carol.hear().await;
        // an answer is the first that bob gets
        let request = bob.client.client.binding();
        bob.client.send(&request).await;
        let answer = bob.client.receive().await;
        assert_eq!(answer[8..20], request[8..20], "the transaction");

        // and a sender's end ends what it sends
        assert!(matches!(alice.client.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
        alice.say(0x4001, b"after").await;
        let request = alice.client.client.binding();
        alice.client.send(&request).await;
        alice.client.receive().await;
        let request = carol.client.client.binding();
        carol.client.send(&request).await;
        assert_eq!(carol.client.receive().await[8..20], request[8..20]);
    }
}
