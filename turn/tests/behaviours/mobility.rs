//! Clients that change their address keep their allocation, by whichever transport and to whichever worker
//! they come (RFC 8016).

use crate::{
    common::{
        Link, OK, TestClient,
        certificate::{issue, with_certificate},
        config, metric, single, start, within,
    },
    dtls, tls,
};
use rtc_credentials::Transport::{self, Dtls, Tcp, Tls, Udp};
use rtc_turn::Handle;
use rtc_turn_proto::{
    channel_data,
    client::{Answer, Client},
};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use tempfile::TempDir;
use tokio::net::UdpSocket;

const REFRESHED: Answer = Answer::Success { relayed: None, lifetime: Some(600) };

struct World {
    server: Handle,
    trusted: CertificateDer<'static>,
    peer: UdpSocket,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let trusted = issue(dir.path());
        let listen = ["udp", "tcp", "tls", "dtls"].map(|transport| format!("{transport}://127.0.0.1:0"));
        let listen: Vec<_> = listen.iter().map(String::as_str).collect();
        let server = start(with_certificate(dir.path(), &listen, config())).await;
        Self { server, trusted, peer: UdpSocket::bind("127.0.0.1:0").await.unwrap(), _dir: dir }
    }

    /// A client's way from a new address.
    async fn link(&self, transport: Transport) -> Link {
        match transport {
            Tls => tls::client(&self.server, &self.trusted, "alice").await.link,
            Dtls => Link::Dtls(Box::new(dtls::connect(&self.server).await)),
            plain => TestClient::connect(&self.server, plain, &single(), "alice").await.link,
        }
    }

    /// An allocation with a ticket, and a channel to the peer.
    async fn mobile(&self, transport: Transport) -> (TestClient, SocketAddr) {
        let mut client = TestClient::over(self.link(transport).await, &single(), "alice");
        let Answer::Success { relayed: Some(relayed), .. } = client.ask(Client::allocate_mobile).await else {
            panic!("no allocation")
        };
        let peer = self.peer.local_addr().unwrap();
        assert_eq!(client.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
        (client, relayed)
    }

    /// Data from the client to the peer and back, in order, by the relayed address.
    async fn talk(&self, client: &mut TestClient, relayed: SocketAddr) {
        let padded = matches!(client.link, Link::Tcp(..) | Link::Tls(..));
        let payloads: Vec<_> = (0..20u8).map(|n| vec![n; 9]).collect();
        for payload in &payloads {
            let mut packet = Vec::new();
            channel_data::write(0x4000, payload, padded, &mut packet);
            client.send(&packet).await;
        }
        let mut buffer = [0; 100];
        for payload in &payloads {
            let (length, from) = within("the peer", self.peer.recv_from(&mut buffer)).await.unwrap();
            assert_eq!((&buffer[..length], from), (&payload[..], relayed));
        }
        self.hear(client, relayed).await;
    }

    /// Data from the peer to the client.
    async fn hear(&self, client: &mut TestClient, relayed: SocketAddr) {
        for payload in [&b"one"[..], b"two"] {
            self.peer.send_to(payload, relayed).await.unwrap();
            let packet = client.receive().await;
            assert_eq!(channel_data::parse(&packet), Some((0x4000, payload)));
        }
    }
}

#[tokio::test]
async fn a_call_goes_on_from_address_to_address_over_any_transport() {
    let world = World::new().await;
    let (mut client, relayed) = world.mobile(Udp).await;
    // often enough to come to either worker from either, and to leave it again
    let way = [Udp, Udp, Udp, Udp, Udp, Udp, Tcp, Tcp, Tcp, Tls, Tls, Dtls, Dtls, Dtls, Dtls, Tcp, Udp];
    for (n, transport) in way.into_iter().enumerate() {
        let mut link = world.link(transport).await;
        // both are its addresses until it sends data from the new one (RFC 8016, section 3.2.2)
        std::mem::swap(&mut client.link, &mut link);
        assert_eq!(client.ask(|c| c.move_here(600)).await, REFRESHED, "{transport:?}");
        std::mem::swap(&mut client.link, &mut link);
        if n % 3 == 0 {
            world.talk(&mut client, relayed).await;
        } else {
            world.hear(&mut client, relayed).await;
        }
        std::mem::swap(&mut client.link, &mut link);
        world.talk(&mut client, relayed).await;
        world.talk(&mut client, relayed).await;
        assert_eq!(client.ask(|c| c.refresh(600)).await, REFRESHED, "{transport:?}");
    }
    within("the count", async {
        while metric(&world.server, "rtc_turn_moves_total", "").await != way.len() as f64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(world.server.status()["allocations"], 1);
    assert!(matches!(client.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
    assert_eq!(client.ask(|c| c.refresh(600)).await, Answer::Refused(437), "served where it comes in again");
}

#[tokio::test]
async fn a_call_outlives_its_connection_and_goes_on_by_another() {
    let world = World::new().await;
    for transport in [Tcp, Tls, Dtls] {
        let (mut client, relayed) = world.mobile(transport).await;
        match &mut client.link {
            Link::Dtls(dtls) => dtls.close().await,
            link => drop(std::mem::replace(link, world.link(Udp).await)),
        }
        let dropped = metric(&world.server, "rtc_turn_drops_total", "client_away").await;
        within("the end of the connection", async {
            while metric(&world.server, "rtc_turn_drops_total", "client_away").await == dropped {
                world.peer.send_to(b"lost", relayed).await.unwrap();
            }
        })
        .await;
        client.link = world.link(transport).await;
        assert_eq!(client.ask(|c| c.move_here(600)).await, REFRESHED, "{transport:?}");
        within("what the peer says now", async {
            loop {
                world.peer.send_to(b"found", relayed).await.unwrap();
                if channel_data::parse(&client.receive().await).is_some_and(|(_, data)| data == b"found") {
                    break;
                }
            }
        })
        .await;
        assert!(matches!(client.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
    }
}

#[tokio::test]
async fn a_server_that_forbids_it_says_so() {
    let server = start(rtc_turn::Config { mobility: false, ..config() }).await;
    let mut client = TestClient::connect(&server, Udp, &single(), "alice").await;
    assert_eq!(client.ask(Client::allocate_mobile).await, Answer::Refused(405));
    client.allocate().await;
}
