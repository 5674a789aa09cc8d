//! A host that learns by STUN under which address it is seen.

use crate::common::{TestClient, address, eventually, metric, settings, single, start, within};
use rtc_credentials::Transport;
use rtc_turn::{Handle, Server, Settings};
use rtc_turn_proto::{
    Class, Message, Method, Writer,
    attributes::XOR_MAPPED_ADDRESS,
    client::{Answer, Client},
};
use serde_json::json;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::UdpSocket;

/// A STUN server beyond a NAT: it sees everybody at one address, or is silent.
struct Outside {
    at: SocketAddr,
    seen: Arc<Mutex<Option<IpAddr>>>,
}

impl Outside {
    async fn start(seen: Option<&str>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(seen.map(|ip| ip.parse().unwrap())));
        let sees = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Some(ip) = *sees.lock().unwrap() else { continue };
                let request = Message::parse(&buffer[..length]).unwrap();
                assert_eq!((request.class(), request.method()), (Class::Request, Method::BINDING));
                let mut answer = Vec::new();
                Writer::new(&mut answer, Class::Success, Method::BINDING, request.id())
                    .xor_address(XOR_MAPPED_ADDRESS, SocketAddr::new(ip, from.port()));
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Self { at, seen }
    }

    fn sees(&self, ip: Option<&str>) {
        *self.seen.lock().unwrap() = ip.map(|ip| ip.parse().unwrap());
    }
}

fn asking(server: SocketAddr, relay: &str) -> Settings {
    Settings {
        external_stun: Some(server.to_string().parse().unwrap()),
        relay_address: vec![relay.parse().unwrap()],
        ..settings()
    }
}

async fn relayed(server: &Handle) -> IpAddr {
    let mut client = TestClient::connect(server, Transport::Udp, &single(), "alice").await;
    match client.ask(Client::allocate).await {
        Answer::Success { relayed: Some(relayed), .. } => relayed.ip(),
        answer => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn the_address_that_a_stun_server_sees_is_advertised() {
    // another rtc-turn, which sees where it is really asked from
    let other = start(settings().resolve().unwrap()).await;
    let stun = address(&other, Transport::Udp);
    let direct = start(asking(stun, "127.0.0.5").resolve().unwrap()).await;
    let learnt = json!({"server": stun.to_string(), "addresses": ["127.0.0.5"], "error": null});
    eventually("the answer", || direct.status()["external"] == learnt).await;

    let outside = Outside::start(Some("198.51.100.7")).await;
    let mut config = asking(outside.at, "127.0.0.1").resolve().unwrap();
    config.external_stun.as_mut().unwrap().every = Duration::from_millis(50);
    let server = start(config).await;
    assert_eq!(relayed(&server).await, IpAddr::from([198, 51, 100, 7]));
    assert_eq!(server.status()["relayAddresses"], json!(["198.51.100.7"]));
    assert_eq!(metric(&server, "rtc_turn_external_stun_up", "").await, 1.0);

    outside.sees(Some("198.51.100.8"));
    eventually("the change", || server.status()["relayAddresses"] == json!(["198.51.100.8"])).await;
    assert_eq!(relayed(&server).await, IpAddr::from([198, 51, 100, 8]));

    // who is told what to advertise goes on telling it
    outside.sees(Some("198.51.100.7"));
    let given = start(asking(outside.at, "127.0.0.1,203.0.113.9").resolve().unwrap()).await;
    eventually("the answer", || given.status()["external"]["addresses"] == json!(["198.51.100.7"])).await;
    assert_eq!(relayed(&given).await, IpAddr::from([203, 0, 113, 9]));
}

#[tokio::test]
async fn a_silent_stun_server_is_said_and_asked_again() {
    let outside = Outside::start(None).await;
    let server = Server::start(asking(outside.at, "127.0.0.1").resolve().unwrap()).await.unwrap();
    eventually("the error", || server.status()["external"]["error"].is_string()).await;
    let error = server.status()["external"]["error"].as_str().unwrap().to_owned();
    assert_eq!(error, format!("no answer from {}", outside.at));
    let ready = rtc_service::admin::Program::ready(&server).unwrap_err();
    assert!(ready.contains("has not said under which address this host is seen"), "{ready}");
    outside.sees(Some("198.51.100.7"));
    within("readiness", server.ready()).await;
    assert_eq!(relayed(&server).await, IpAddr::from([198, 51, 100, 7]));
    assert!(server.status()["external"]["error"].is_null());
}
