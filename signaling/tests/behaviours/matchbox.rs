//! matchbox on two replicas: its own socket, and the rest in the words of its own protocol crate.

use crate::support::{clients, raw::Raw, *};
use matchbox_protocol::{JsonPeerEvent as Event, JsonPeerRequest as Request, PeerId};
use serde_json::{Value, json};
use std::{collections::HashSet, time::Duration};

struct Peer {
    raw: Raw,
    id: PeerId,
}

impl Peer {
    async fn connect(replica: &Replica, path: &str) -> Self {
        let mut raw = Raw::connect(replica.address, &format!("/matchbox/{path}")).await;
        match serde_json::from_value(raw.next().await.unwrap()).unwrap() {
            Event::IdAssigned(id) => Self { raw, id },
            other => panic!("{other:?} before an id"),
        }
    }

    async fn event(&mut self) -> Event {
        serde_json::from_value(self.raw.next().await.expect("closed")).unwrap()
    }

    async fn expect(&mut self, event: Event) {
        assert_eq!(self.event().await, event);
    }

    async fn signal(&mut self, receiver: PeerId, data: Value) {
        self.raw.send(serde_json::to_value(Request::Signal { receiver, data }).unwrap()).await;
    }

    /// What comes next is what another one sends now.
    async fn hears_nothing_but(&mut self, other: &mut Self) {
        other.signal(self.id, json!("now")).await;
        self.expect(Event::Signal { sender: other.id, data: json!("now") }).await;
    }
}

/// Until so many pairs have met: one of each is told of the other, once.
async fn meet(mut peers: Vec<Peer>, pairs: usize) -> HashSet<(PeerId, PeerId)> {
    let mut met = HashSet::new();
    while met.len() < pairs {
        let events = peers.iter_mut().map(|peer| Box::pin(async { (peer.id, peer.event().await) }));
        match futures::future::select_all(events).await.0 {
            (one, Event::NewPeer(other)) => {
                assert!(!met.contains(&(other, one)) && met.insert((one, other)), "met twice");
            }
            (_, other) => panic!("{other:?}"),
        }
    }
    met
}

on_each_store! {
    async fn unmodified_sockets_meet_across_replicas(backend: Backend) {
        let program = tokio::task::spawn_blocking(clients::matchbox).await.unwrap();
        let (a, b) = (backend.replica().await, backend.replica().await);
        // in a room, and as strangers
        for path in ["own", "strangers?next=2"] {
            let urls = [&a, &b].map(|replica| format!("ws://{}/matchbox/{path}", replica.address));
            let mut both = std::process::Command::new(&program);
            both.args(urls);
            clients::play(both).await;
        }
        eventually("both have gone", async || a.server.connections() + b.server.connections() == 0).await;
    }

    async fn peers_of_a_room_meet_and_nobody_else_does(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = Peer::connect(&a, "room%2Fwith%20a%20name").await;
        let mut elsewhere = Peer::connect(&a, "another").await;
        let mut two = Peer::connect(&b, "room%2Fwith%20a%20name").await;
        one.expect(Event::NewPeer(two.id)).await;
        two.raw.send(serde_json::to_value(Request::KeepAlive).unwrap()).await;
        for n in 0..20 {
            one.signal(two.id, json!({"Offer": "é😀", "n": n})).await;
        }
        for n in 0..20 {
            two.expect(Event::Signal { sender: one.id, data: json!({"Offer": "é😀", "n": n}) }).await;
        }
        // across rooms, to nobody, and nonsense
        elsewhere.signal(one.id, json!("spy")).await;
        two.signal(PeerId(uuid::Uuid::nil()), json!(1)).await;
        two.raw.send(json!({"Signal": 7})).await;
        one.hears_nothing_but(&mut two).await;
        let left = two.id;
        two.raw.cut();
        one.expect(Event::PeerLeft(left)).await;
    }

    async fn strangers_come_into_groups_as_they_arrive(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let path = "room?next=3";
        let mut groups = Vec::new();
        for _ in 0..3 {
            let mut first = Peer::connect(&a, path).await;
            let mut second = Peer::connect(&b, path).await;
            first.expect(Event::NewPeer(second.id)).await;
            let third = Peer::connect(&a, path).await;
            first.expect(Event::NewPeer(third.id)).await;
            second.expect(Event::NewPeer(third.id)).await;
            groups.push([first, second, third]);
        }
        // others in other sizes
        let mut pair = Peer::connect(&a, "room?next=2").await;
        let mate = Peer::connect(&b, "room?next=2").await;
        pair.expect(Event::NewPeer(mate.id)).await;
        // a place in a complete group stays empty, and nobody is told
        let [mut first, mut second, third] = groups.remove(0);
        third.raw.cut();
        eventually("it has gone", async || a.server.connections() + b.server.connections() == 10).await;
        let mut stranger = Peer::connect(&a, path).await;
        let mut next = Peer::connect(&b, path).await;
        stranger.expect(Event::NewPeer(next.id)).await;
        next.hears_nothing_but(&mut stranger).await;
        second.hears_nothing_but(&mut first).await;
        first.hears_nothing_but(&mut second).await;
    }

    async fn a_group_whose_first_member_leaves_is_found_all_the_same(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let first = Peer::connect(&a, "room?next=3").await;
        let mut second = Peer::connect(&b, "room?next=3").await;
        let gone = first.id;
        first.raw.cut();
        second.expect(Event::PeerLeft(gone)).await;
        let third = Peer::connect(&a, "room?next=3").await;
        let fourth = Peer::connect(&b, "room?next=3").await;
        let met = meet(vec![second, third, fourth], 3).await;
        assert_eq!(met.len(), 3);
    }

    async fn all_that_come_at_once_are_matched(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let replicas = [&a, &b];
        let peers = (0..12).map(|n| Peer::connect(replicas[n % 2], "rush?next=2"));
        let peers = futures::future::join_all(peers).await;
        let met = meet(peers, 6).await;
        let matched: HashSet<PeerId> = met.iter().flat_map(|(one, other)| [*one, *other]).collect();
        assert_eq!(matched.len(), 12, "one was matched twice: {met:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_a_killed_replica_leaves_once() {
    let limits = rtc_signaling_proto::ops::RoomLimits {
        replica_lease: Duration::from_millis(800),
        ..rtc_signaling_proto::ops::RoomLimits::default()
    };
    let backend = Backend::redis_with(limits);
    let mortal = Mortal::start(backend.builder());
    let survivor = backend.replica().await;
    let first = Peer::connect(&mortal.replica, "room?next=3").await;
    let mut second = Peer::connect(&survivor, "room?next=3").await;
    mortal.kill();
    second.expect(Event::PeerLeft(first.id)).await;
    let third = Peer::connect(&survivor, "room?next=3").await;
    let fourth = Peer::connect(&survivor, "room?next=3").await;
    meet(vec![second, third, fourth], 3).await;
}

#[tokio::test]
async fn a_group_of_nobody_is_refused() {
    let replica = Backend::memory().replica().await;
    for path in ["/matchbox/room?next=0", "/matchbox/room?next=x"] {
        assert_eq!(Raw::try_connect(replica.address, path).await.err().unwrap(), 400);
    }
}
