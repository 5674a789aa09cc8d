//! The store in memory and the store on Redis answer alike, whatever they are asked.

use crate::support::*;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use rtc_signaling::{
    parcel::Parcel,
    store::{Listener, Shared, Store, StoreError, memory::MemoryRooms, redis::RedisRooms},
};
use rtc_signaling_proto::{
    MemberId, ReplicaId, RoomName,
    entry::{Profile, Reason},
    ops::*,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

const LIMITS: RoomLimits = RoomLimits {
    log_entries: 20,
    log_age: Duration::from_secs(3600),
    log_bytes: 12_000,
    // more than are asked for: replicas may remember some for longer
    seen: 100,
    replica_lease: Duration::from_millis(400),
    detached_lease: Duration::from_millis(400),
};

#[derive(Clone, Debug)]
enum Op {
    Join { who: u8, on: usize, max: u32, bound: u32 },
    Prove { who: u8, secret: bool },
    Signal { who: u8, conn: u64, to: Option<u8>, id: u8 },
    Post { who: u8, to: Option<u8>, id: u8 },
    Close,
    Leave { who: u8, conn: u64 },
    Detach { who: u8, conn: u64, on: usize },
    Resume { who: u8, on: usize, back: u64, secret: bool },
    Read { back: u64 },
    Pulse,
    Assert { who: u8, on: usize, conn: u64, ahead: u64 },
    Lapse,
}

fn op() -> impl Strategy<Value = Op> {
    let (who, on, conn) = (0u8..4, 0usize..2, 0u64..4);
    prop_oneof![
        6 => (who.clone(), on.clone(), 0u32..4, prop_oneof![4 => Just(0u32), 1 => Just(2)])
            .prop_map(|(who, on, max, bound)| Op::Join { who, on, max, bound }),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, secret)| Op::Prove { who, secret }),
        12 => (who.clone(), 0u64..3, proptest::option::of(who.clone()), 0u8..8)
            .prop_map(|(who, conn, to, id)| Op::Signal { who, conn, to, id }),
        4 => (who.clone(), proptest::option::of(who.clone()), 0u8..8)
            .prop_map(|(who, to, id)| Op::Post { who, to, id }),
        1 => Just(Op::Close),
        2 => (who.clone(), conn.clone()).prop_map(|(who, conn)| Op::Leave { who, conn }),
        2 => (who.clone(), conn.clone(), on.clone()).prop_map(|(who, conn, on)| Op::Detach { who, conn, on }),
        4 => (who.clone(), on.clone(), 0u64..30, any::<bool>())
            .prop_map(|(who, on, back, secret)| Op::Resume { who, on, back, secret }),
        2 => (0u64..30).prop_map(|back| Op::Read { back }),
        2 => Just(Op::Pulse),
        1 => (who, on, conn, prop_oneof![3 => Just(0u64), 1 => 1u64..5])
            .prop_map(|(who, on, conn, ahead)| Op::Assert { who, on, conn, ahead }),
        1 => Just(Op::Lapse),
    ]
}

fn member(who: u8) -> MemberId {
    format!("m{who}").parse().unwrap()
}

/// One that may come again, or one that a server made.
fn request(id: u8) -> String {
    format!("{}{id}", if id == 0 { 'u' } else { 'n' })
}

/// Some that weigh something in the log, and some that do not.
fn data(id: u8) -> String {
    if id.is_multiple_of(3) { format!("\"{}\"", "é".repeat(700)) } else { "{\"é\":[1]}".into() }
}

fn profile(who: u8) -> Profile {
    Profile::new(&member(who), Some("n\u{2028} \"é"), None)
}

/// Every entry of the room as it was announced, by number.
#[derive(Default)]
struct Heard(Mutex<BTreeMap<(u64, u64), String>>);

impl Listener for Heard {
    fn entry(&self, _: &RoomName, parcel: &Arc<Parcel>) {
        self.0.lock().unwrap().insert((parcel.epoch, parcel.seq), parcel.frame.to_string());
    }
    fn missing(&self, _: &RoomName) {}
    fn gap(&self) {}
    fn health(&self, _: Option<u64>) {}
}

/// Two replicas on one kind of store.
struct Side {
    stores: [Store; 2],
    replicas: [ReplicaId; 2],
    heard: Arc<Heard>,
    /// Epochs differ between stores: they are compared by the order in which they come.
    epochs: Vec<u64>,
    /// How often the session of each may have ended.
    ended: [u32; 4],
}

impl Side {
    fn new(shared: &Shared, case: usize) -> Self {
        let heard = Arc::new(Heard::default());
        let listener: Arc<dyn Listener> = heard.clone();
        let replicas = ["a", "b"].map(|name| format!("pod-{name}-{case}").parse::<ReplicaId>().unwrap());
        let stores = replicas.clone().map(|replica| shared.open(replica, Arc::downgrade(&listener)));
        stores.iter().for_each(Store::begin);
        Self { stores, replicas, heard, epochs: Vec::new(), ended: [0; 4] }
    }

    fn name(&mut self, epoch: u64) -> usize {
        let known = self.epochs.iter().position(|e| *e == epoch);
        known.unwrap_or_else(|| {
            assert!(self.epochs.iter().all(|e| *e < epoch), "epochs rise");
            self.epochs.push(epoch);
            self.epochs.len() - 1
        })
    }

    fn view(&mut self, mut view: View) -> String {
        view.members.sort_by(|a, b| a.id.cmp(&b.id));
        format!("{} {} {:?}", self.name(view.epoch), view.seq, view.members)
    }

    fn entries(&mut self, entries: &[rtc_signaling_proto::Entry]) -> String {
        let mut text = String::new();
        for e in entries {
            let frame = e.frame().replace(&e.epoch.to_string(), "EPOCH");
            text += &format!(
                "{} {:?} {} {} {:?} {} {frame};",
                self.name(e.epoch),
                e.kind,
                e.seq,
                e.from,
                e.to,
                e.id
            );
        }
        text
    }

    /// Where the room stands; (0, 0) without one.
    async fn head(&mut self, room: &RoomName) -> (u64, u64) {
        self.stores[0].view(room).await.unwrap().map_or((0, 0), |view| (view.epoch, view.seq))
    }

    /// A session's own: no two have one name, other than in these rooms.
    fn request(&self, who: u8, id: u8) -> String {
        format!("{}g{}", request(id), self.ended[usize::from(who)])
    }

    async fn act(&mut self, room: &RoomName, op: &Op) -> String {
        let answer = self.do_act(room, op).await;
        match op {
            Op::Leave { who, .. } => self.ended[usize::from(*who)] += 1,
            Op::Close | Op::Lapse => self.ended.iter_mut().for_each(|ended| *ended += 1),
            _ => {}
        }
        answer
    }

    async fn do_act(&mut self, room: &RoomName, op: &Op) -> String {
        let head = self.head(room).await;
        let refused = |error: StoreError| match error {
            StoreError::Refused(refusal) => format!("{refusal:?}"),
            StoreError::Unavailable(reason) => panic!("{reason}"),
        };
        match op.clone() {
            Op::Join { who, on, max, bound } => {
                let join = Join {
                    member: member(who),
                    secret: format!("s{who}"),
                    holder: self.replicas[on].clone(),
                    profile: profile(who),
                    max,
                    bound,
                };
                match self.stores[on].join(room, &join).await.unwrap() {
                    Joined::Entered(view) => self.view(view),
                    full => format!("{full:?}"),
                }
            }
            Op::Prove { who, secret } => {
                let secret = if secret { format!("s{who}") } else { "forged".into() };
                let proven = self.stores[0].prove(room, &member(who), &secret).await;
                proven.map_or_else(refused, |()| "proven".into())
            }
            Op::Signal { who, conn, to, id } => {
                let signal = Signal {
                    from: member(who),
                    conn,
                    to: to.map(member),
                    id: self.request(who, id),
                    data: data(id),
                };
                let sent = self.stores[0].signal(room, &signal).await;
                sent.map_or_else(refused, |sent| format!("{sent:?}"))
            }
            Op::Close => self.stores[1].close(room).await.map_or_else(refused, |()| "closed".into()),
            Op::Post { who, to, id } => {
                // nobody's name
                let from = format!("poster{who}").parse().unwrap();
                let post = Post { from, to: to.map(member), id: request(id), data: "[]".into() };
                let sent = self.stores[1].post(room, &post).await;
                sent.map_or_else(refused, |sent| format!("{sent:?}"))
            }
            Op::Leave { who, conn } => {
                let left = self.stores[0].leave(room, &member(who), conn, Reason::Kicked).await;
                left.map_or_else(refused, |seq| seq.to_string())
            }
            Op::Detach { who, conn, on } => {
                let detached = self.stores[on].detach(room, &member(who), conn).await;
                detached.map_or_else(refused, |()| "detached".into())
            }
            Op::Resume { who, on, back, secret } => {
                let resume = Resume {
                    member: member(who),
                    secret: if secret { format!("s{who}") } else { "forged".into() },
                    holder: self.replicas[on].clone(),
                    epoch: head.0,
                    seq: head.1.saturating_sub(back),
                };
                match self.stores[on].resume(room, &resume).await {
                    Ok(Resumed { conn, since, view, missed }) => {
                        let missed = missed.map(|entries| self.entries(&entries));
                        format!("{conn} {since} {} {missed:?}", self.view(view))
                    }
                    Err(error) => refused(error),
                }
            }
            Op::Read { back } => {
                match self.stores[0].read(room, head.0, head.1.saturating_sub(back)).await.unwrap() {
                    Read::Entries(entries) => self.entries(&entries),
                    Read::Lost => "lost".into(),
                }
            }
            Op::Pulse => {
                let mut text = String::new();
                for on in 0..2 {
                    let pulse = self.stores[on].pulse(std::slice::from_ref(room)).await.unwrap();
                    text += &match pulse[0] {
                        Pulse::Kept { epoch, seq } => format!("{} {seq};", self.name(epoch)),
                        Pulse::Lapsed { epoch } => format!("lapsed {};", self.name(epoch)),
                        Pulse::Gone => "gone;".into(),
                    };
                }
                text
            }
            Op::Assert { who, on, conn, ahead } => {
                let held = Held {
                    member: member(who),
                    secret: format!("s{who}"),
                    conn: conn.max(1),
                    since: 1,
                    profile: profile(who),
                };
                let (epoch, seq) = (head.0, head.1 + ahead);
                let holder = self.replicas[on].clone();
                let assert = Assert { holder, epoch, seq, max: 0, members: vec![held] };
                let view = self.stores[on].assert(room, &assert).await.unwrap();
                self.view(view)
            }
            Op::Lapse => {
                // long enough for every lease, and then some for the slower clock
                tokio::time::sleep(LIMITS.replica_lease + Duration::from_millis(60)).await;
                self.stores[1].reap().await.unwrap();
                match self.stores[0].view(room).await.unwrap() {
                    Some(view) => self.view(view),
                    None => "gone".into(),
                }
            }
        }
    }

    fn heard(&mut self) -> Vec<String> {
        let heard = std::mem::take(&mut *self.heard.0.lock().unwrap());
        let name = |((epoch, seq), frame): ((u64, u64), String)| {
            format!("{} {seq} {}", self.name(epoch), frame.replace(&epoch.to_string(), "EPOCH"))
        };
        heard.into_iter().map(name).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stores_answer_alike() {
    let redis = Redis::start();
    let mut runner = TestRunner::default();
    let cases = proptest::collection::vec(op(), 40..80);
    for case in 0..24 {
        let ops = cases.new_tree(&mut runner).unwrap().current();
        let room: RoomName = format!("room {case} {{p}}").parse().unwrap();
        let mut memory = Side::new(&Shared::Memory(MemoryRooms::new(LIMITS)), case);
        let shared = Shared::Redis(RedisRooms::new(&redis.url(), LIMITS).unwrap());
        let mut on_redis = Side::new(&shared, case);
        for store in memory.stores.iter().chain(&on_redis.stores) {
            store.host(&room).await.unwrap();
        }
        let mut done = Vec::new();
        for op in ops {
            done.push(op.clone());
            let expected = memory.act(&room, &op).await;
            let got = on_redis.act(&room, &op).await;
            assert_eq!(got, expected, "case {case} after {done:#?}");
        }
        let expected = memory.heard();
        let mut got = Vec::new();
        eventually("everything was announced", async || {
            got.extend(on_redis.heard());
            got.len() >= expected.len()
        })
        .await;
        assert_eq!(got, expected, "case {case} after {done:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_known_again_for_as_long_as_there_are_no_more_than_the_limit() {
    let redis = Redis::start();
    let limits = RoomLimits { seen: 3, ..RoomLimits::default() };
    let shared = Shared::Redis(RedisRooms::new(&redis.url(), limits).unwrap());
    for shared in [Shared::Memory(MemoryRooms::new(limits)), shared] {
        let side = Side::new(&shared, 0);
        let room: RoomName = "r".parse().unwrap();
        let holder = side.replicas[0].clone();
        let join =
            Join { member: member(0), secret: "s".into(), holder, profile: profile(0), max: 0, bound: 0 };
        side.stores[0].join(&room, &join).await.unwrap();
        let post = async |id| {
            let post = Post { from: member(1), to: None, id: request(id), data: "[]".into() };
            side.stores[0].post(&room, &post).await.unwrap()
        };
        for id in 1..=3 {
            assert_eq!(post(id).await, Sent::Now(u64::from(id) + 1));
        }
        // the first of the next generation
        assert_eq!(post(4).await, Sent::Now(5));
        assert_eq!(post(1).await, Sent::Before(2));
        for id in 5..=7 {
            post(id).await;
        }
        assert_eq!(post(4).await, Sent::Before(5));
        assert_eq!(post(1).await, Sent::Now(9));
    }
}
