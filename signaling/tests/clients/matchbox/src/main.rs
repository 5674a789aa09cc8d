//! Two of matchbox's own sockets meet: `matchbox-client URL_A URL_B`. Exits with 0 when they spoke to each other over
//! data channels, and one heard the other go.

use matchbox_socket::{PeerId, PeerState, RtcIceServerConfig, WebRtcSocket};
use smol::Timer;
use std::{process::exit, time::Duration};

const LOOK: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(40);

struct Peer {
    socket: WebRtcSocket,
    messages: smol::Task<()>,
}

impl Peer {
    fn begin(url: &str) -> Self {
        // no server to ask for addresses: both are on this machine
        let none = RtcIceServerConfig { urls: Vec::new(), username: None, credential: None };
        let (socket, messages) = WebRtcSocket::builder(url).ice_server(none).add_reliable_channel().build();
        Self { socket, messages: smol::spawn(async { drop(messages.await) }) }
    }

    async fn id(&mut self) -> PeerId {
        loop {
            if let Some(id) = self.socket.id() {
                return id;
            }
            Timer::after(LOOK).await;
        }
    }

    /// Until this peer is so.
    async fn sees(&mut self, other: PeerId, wanted: PeerState) {
        while !self.socket.update_peers().contains(&(other, wanted)) {
            Timer::after(LOOK).await;
        }
    }

    async fn hears(&mut self) -> (PeerId, Vec<u8>) {
        loop {
            if let Some((from, packet)) = self.socket.channel_mut(0).receive().pop() {
                return (from, packet.to_vec());
            }
            Timer::after(LOOK).await;
        }
    }

    fn says(&mut self, to: PeerId, text: &[u8]) {
        self.socket.channel_mut(0).send(text.to_vec().into(), to);
    }
}

async fn meet(urls: [&str; 2]) {
    let [mut one, mut two] = urls.map(Peer::begin);
    let (first, second) = (one.id().await, two.id().await);
    one.sees(second, PeerState::Connected).await;
    two.sees(first, PeerState::Connected).await;
    one.says(second, b"over there");
    assert_eq!(two.hears().await, (first, b"over there".to_vec()));
    two.says(first, b"and back");
    assert_eq!(one.hears().await, (second, b"and back".to_vec()));
    two.socket.close();
    drop(two.socket);
    two.messages.await;
    one.sees(second, PeerState::Disconnected).await;
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = &arguments[..] else {
        eprintln!("matchbox-client URL_A URL_B");
        exit(2);
    };
    smol::block_on(smol::future::or(meet([a, b]), async {
        Timer::after(PATIENCE).await;
        eprintln!("they never met, spoke and parted");
        exit(1);
    }));
}
