//! Every replica is replaced while people talk: nobody is seen to leave, nothing is lost, and the others are not
//! overrun.

use crate::support::{servers::Process, *};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::watch;

const REPLICAS: usize = 3;
const ROOMS: usize = 30;
/// Of which clients reconnect in the first half.
const DRAIN: Duration = Duration::from_secs(4);
/// How often each member says something.
const EVERY: Duration = Duration::from_millis(100);

/// What a load balancer knows, and when whom was sent to it again.
struct House {
    ready: watch::Sender<Vec<SocketAddr>>,
    turn: Mutex<usize>,
    moved: Mutex<Vec<Instant>>,
    over: watch::Sender<bool>,
}

impl House {
    async fn connect(&self) -> Client {
        let address = {
            let mut turn = self.turn.lock().unwrap();
            *turn += 1;
            let ready = self.ready.borrow();
            ready[*turn % ready.len()]
        };
        Client::connect(address).await
    }
}

/// One member: talks, does as it is told, and keeps count.
struct Talker {
    house: Arc<House>,
    client: Client,
    /// On its way to another replica.
    next: Option<Client>,
    go_at: Option<Instant>,
    said: u64,
    acknowledged: u64,
    /// What each other one said last.
    heard: HashMap<String, u64>,
}

impl Talker {
    fn hears(&mut self, frame: &Value) {
        match frame["type"].as_str().unwrap() {
            "signal" => {
                let last = self.heard.entry(frame["from"].as_str().unwrap().to_owned()).or_default();
                let n = frame["data"].as_u64().unwrap();
                assert_eq!(n, *last + 1, "lost, doubled or out of order");
                *last = n;
            }
            "ack" => {
                let n = frame["id"].as_u64().unwrap();
                // what was on its way when the connection was left is answered on the next one
                self.acknowledged = self.acknowledged.max(n);
            }
            "goaway" => {
                let delay = Duration::from_millis(frame["reconnectInMs"].as_u64().unwrap());
                assert!(delay <= DRAIN / 2, "{delay:?} is later than half of the drain");
                self.go_at = Some(Instant::now() + delay);
            }
            "member-joined" | "pong" => {}
            // and above all no `member-left`
            other => panic!("{other}: {frame}"),
        }
    }

    /// Goes on at another replica, with what was not answered yet.
    async fn go_on(&mut self) {
        let (joined, epoch, seq) = (self.client.joined.clone(), self.client.epoch, self.client.seq);
        let mut next = self.house.connect().await;
        next.joined = joined;
        (next.epoch, next.seq) = (epoch, seq);
        let resume = next.token();
        next.send(json!({"type": "resume", "resume": resume, "epoch": epoch, "seq": seq})).await;
        self.house.moved.lock().unwrap().push(Instant::now());
        self.next = Some(next);
        self.go_at = None;
    }

    /// What the old connection has still to say is among what the new one says.
    async fn arrive(&mut self) {
        let Some(mut next) = self.next.take() else { return };
        let resumed = next.frame().await;
        assert_eq!(resumed["type"], "resumed", "{resumed}");
        self.client = next;
        for n in self.acknowledged + 1..=self.said {
            self.client.send(json!({"type": "signal", "id": n, "data": n})).await;
        }
    }

    async fn run(mut self) -> Self {
        let mut over = self.house.over.subscribe();
        let mut tick = tokio::time::interval(EVERY);
        while !*over.borrow_and_update() || self.acknowledged < self.said {
            let go_at = self.go_at.map(tokio::time::Instant::from_std);
            tokio::select! {
                seen = self.client.next() => match seen {
                    Seen::Frame(frame) => self.hears(&frame),
                    Seen::Closed(code) => panic!("closed with {code:?} before its time"),
                },
                _ = tick.tick(), if !*over.borrow() => {
                    self.said += 1;
                    let n = self.said;
                    self.client.send(json!({"type": "signal", "id": n, "data": n})).await;
                }
                () = async { tokio::time::sleep_until(go_at.unwrap()).await }, if go_at.is_some() => {
                    self.go_on().await;
                    self.arrive().await;
                }
                _ = over.changed() => {}
            }
        }
        self
    }
}

/// The most that moved within a tenth of the time in which they should.
fn peak(moved: &[Instant]) -> usize {
    let window = DRAIN / 20;
    moved
        .iter()
        .map(|at| moved.iter().filter(|other| **other >= *at && **other - *at < window).count())
        .max()
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_are_replaced_under_load_and_no_room_notices() {
    let backend = Backend::redis();
    let url = backend.redis.as_ref().unwrap().url();
    let start = async || {
        Process::start(&["--store", &url, "--drain-timeout", "4s", "--joins-per-address", "0"]).await
    };
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(start().await);
    }
    let house = Arc::new(House {
        ready: watch::channel(replicas.iter().map(|replica| replica.address).collect()).0,
        turn: Mutex::default(),
        moved: Mutex::default(),
        over: watch::channel(false).0,
    });
    let mut talkers = Vec::new();
    for room in 0..ROOMS {
        // on two replicas, or three
        for _ in 0..2 + room % 2 {
            let mut client = house.connect().await;
            client.join(&format!("room-{room}")).await;
            talkers.push(Talker {
                house: house.clone(),
                client,
                next: None,
                go_at: None,
                said: 0,
                acknowledged: 0,
                heard: HashMap::new(),
            });
        }
    }
    let count = talkers.len();
    let talking: Vec<_> = talkers.into_iter().map(|talker| tokio::spawn(talker.run())).collect();

    for n in 0..REPLICAS {
        let fresh = start().await;
        eventually("the new one is ready", async || fresh.ready().await.starts_with("HTTP/1.1 200")).await;
        let mut old = std::mem::replace(&mut replicas[n], fresh);
        let begun = Instant::now();
        house.moved.lock().unwrap().clear();
        old.send(Signal::TERM);
        house.ready.send_replace(replicas.iter().map(|replica| replica.address).collect());
        eventually("it has ended by itself", async || old.child.try_wait().unwrap().is_some()).await;
        assert!(old.child.wait().unwrap().success());
        assert!(begun.elapsed() < DRAIN + Duration::from_secs(3), "{:?}", begun.elapsed());
        let moved = house.moved.lock().unwrap().clone();
        let (all, peak) = (moved.len(), peak(&moved));
        assert!(all >= count / REPLICAS / 2, "{all} had to move");
        assert!(peak <= all / 10 * 4 + 4, "{peak} of {all} came within a tenth of the time");
        println!("replica {n}: {all} moved in {:?}, {peak} at most in {:?}", begun.elapsed(), DRAIN / 20);
    }

    house.over.send_replace(true);
    let mut rooms: HashMap<String, Vec<Talker>> = HashMap::new();
    for talker in talking {
        let talker = talker.await.unwrap();
        rooms.entry(talker.client.joined["room"].as_str().unwrap().to_owned()).or_default().push(talker);
    }
    // everybody hears all that everybody said
    for members in rooms.values_mut() {
        let said: Vec<(String, u64)> = members.iter().map(|t| (t.client.id(), t.said)).collect();
        for talker in members {
            let own = talker.client.id();
            for (id, said) in said.iter().filter(|(id, _)| *id != own) {
                assert!(*said > 50);
                while talker.heard.get(id) != Some(said) {
                    let frame = talker.client.frame().await;
                    talker.hears(&frame);
                }
            }
            talker.client.expect_nothing().await;
        }
    }
}
