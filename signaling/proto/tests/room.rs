//! What holds for a room, whatever happens in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use proptest::prelude::*;
use rtc_signaling_proto::{
    Entry, Kind, MemberId, Refusal, ReplicaId, Room,
    entry::{Profile, Reason},
    ops::*,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const LIMITS: RoomLimits = RoomLimits {
    log_entries: 8,
    log_age: Duration::from_millis(400),
    log_bytes: 1 << 20,
    seen: 4,
    replica_lease: Duration::from_millis(100),
    detached_lease: Duration::from_millis(150),
};

#[derive(Clone, Debug)]
enum Op {
    Join { who: u8, on: u8 },
    Signal { who: u8, to: Option<u8>, id: u8 },
    Leave { who: u8 },
    Detach { who: u8 },
    Resume { who: u8, on: u8, back: u64 },
    Pulse { on: u8 },
    Pass { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0u8..5;
    let on = 0u8..3;
    prop_oneof![
        3 => (who.clone(), on.clone()).prop_map(|(who, on)| Op::Join { who, on }),
        6 => (who.clone(), proptest::option::of(who.clone()), 0u8..12)
            .prop_map(|(who, to, id)| Op::Signal { who, to, id }),
        1 => who.clone().prop_map(|who| Op::Leave { who }),
        2 => who.clone().prop_map(|who| Op::Detach { who }),
        3 => (who, on.clone(), 0u64..12).prop_map(|(who, on, back)| Op::Resume { who, on, back }),
        3 => on.prop_map(|on| Op::Pulse { on }),
        3 => (1u64..90).prop_map(|ms| Op::Pass { ms }),
    ]
}

fn member(who: u8) -> MemberId {
    format!("m{who}").parse().unwrap()
}

fn replica(on: u8) -> ReplicaId {
    format!("pod-{on}").parse().unwrap()
}

fn join(who: u8, on: u8, max: u32) -> Join {
    Join {
        member: member(who),
        secret: format!("s{who}"),
        holder: replica(on),
        profile: Profile::new(&member(who), None, None),
        max,
        bound: 0,
    }
}

/// Collects what a room puts out, and checks it as it comes.
#[derive(Default)]
struct Witness {
    all: Vec<Entry>,
    inside: BTreeSet<MemberId>,
}

impl Witness {
    fn drain(&mut self, room: &mut Room, max: usize) {
        while let Some(entry) = room.poll_entry() {
            if let Some(last) = self.all.last() {
                assert_eq!(entry.seq, last.seq + 1, "one total order without a hole");
            }
            match entry.kind {
                Kind::Joined => assert!(self.inside.insert(entry.from.clone()), "joined twice"),
                Kind::Left => assert!(self.inside.remove(&entry.from), "left without being inside"),
                Kind::Signal => assert!(self.inside.contains(&entry.from), "a stranger spoke"),
                Kind::Attached => assert!(self.inside.contains(&entry.from)),
            }
            self.all.push(entry);
        }
        assert!(self.inside.len() <= max, "over capacity");
        let roster: BTreeSet<MemberId> = room.view().members.into_iter().map(|m| m.id).collect();
        assert_eq!(roster, self.inside, "the log and the roster agree");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_one_order_and_the_roster_is_what_it_says(ops in proptest::collection::vec(op(), 1..120), max in 1u32..5) {
        let mut room = Room::new(LIMITS, 1, max, 0);
        let mut witness = Witness::default();
        let mut conns: BTreeMap<u8, u64> = BTreeMap::new();
        let mut requests: BTreeMap<(MemberId, String), u64> = BTreeMap::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Join { who, on } => {
                    let before = room.view();
                    match room.join(join(who, on, max), now) {
                        Joined::Entered(view) => {
                            prop_assert!(view.members.iter().any(|m| m.id == member(who)));
                            if !before.members.iter().any(|m| m.id == member(who)) {
                                conns.insert(who, 1);
                            }
                        }
                        Joined::Full { max: said } => {
                            prop_assert_eq!(said, max);
                            prop_assert_eq!(room.view().members.len(), max as usize);
                        }
                    }
                }
                Op::Signal { who, to, id } => {
                    let conn = conns.get(&who).copied().unwrap_or(1);
                    let inside = room.view().members.iter().any(|m| m.id == member(who));
                    let before = room.view().seq;
                    let signal = Signal {
                        from: member(who),
                        conn,
                        to: to.map(member),
                        id: format!("n{id}"),
                        data: "1".into(),
                    };
                    match room.signal(signal) {
                        Ok(Sent::Now(seq)) => {
                            prop_assert!(inside && seq == before + 1);
                            requests.insert((member(who), format!("n{id}")), seq);
                        }
                        Ok(Sent::Before(seq)) => {
                            prop_assert_eq!(requests.get(&(member(who), format!("n{id}"))), Some(&seq));
                            prop_assert_eq!(room.view().seq, before);
                        }
                        Err(Refusal::UnknownSession) => prop_assert!(!inside),
                        Err(Refusal::NoSuchMember) => prop_assert!(!witness.inside.contains(&member(to.unwrap()))),
                        Err(Refusal::Superseded) => prop_assert!(false, "the newest connection was fenced"),
                        Err(Refusal::Forbidden) => prop_assert!(false, "no room asks for tokens"),
                    }
                }
                Op::Leave { who } => {
                    let inside = witness.inside.contains(&member(who));
                    let left = room.leave(&member(who), conns.get(&who).copied().unwrap_or(1), Reason::Left);
                    prop_assert_eq!(left.is_ok(), inside);
                }
                Op::Detach { who } => {
                    let _ = room.detach(&member(who), conns.get(&who).copied().unwrap_or(1), &replica(0), now);
                }
                Op::Resume { who, on, back } => {
                    let at = room.view().seq.saturating_sub(back);
                    let old = conns.get(&who).copied().unwrap_or(1);
                    let resume = Resume {
                        member: member(who), secret: format!("s{who}"), holder: replica(on), epoch: 1, seq: at,
                    };
                    match room.resume(resume, now) {
                        Ok(resumed) => {
                            prop_assert_eq!(resumed.conn, old + 1);
                            conns.insert(who, resumed.conn);
                            prop_assert_eq!(
                                room.leave(&member(who), old, Reason::Left), Err(Refusal::Superseded)
                            );
                            witness.drain(&mut room, max as usize);
                            match resumed.missed {
                                Some(missed) => {
                                    let expected: Vec<Entry> =
                                        witness.all.iter().filter(|e| e.seq > at).cloned().collect();
                                    prop_assert_eq!(missed, expected);
                                }
                                None => prop_assert!(
                                    resumed.view.seq - at > LIMITS.log_entries || now >= 400,
                                    "a resync though all was still known"
                                ),
                            }
                        }
                        Err(refusal) => {
                            prop_assert_eq!(refusal, Refusal::UnknownSession);
                            prop_assert!(!witness.inside.contains(&member(who)));
                        }
                    }
                }
                Op::Pulse { on } => {
                    let _ = room.pulse(&replica(on), now);
                }
                Op::Pass { ms } => {
                    now += ms;
                    room.reap(now);
                    prop_assert!(room.next_timeout().is_none_or(|at| at > now));
                }
            }
            witness.drain(&mut room, max as usize);
        }
        // with every replica dead and every session detached, everybody leaves once and nobody stays
        now += 1000;
        room.reap(now);
        witness.drain(&mut room, max as usize);
        prop_assert!(room.is_empty());
        let of = |kind| witness.all.iter().filter(|e| e.kind == kind).count();
        prop_assert_eq!(of(Kind::Joined), of(Kind::Left));
    }
}

#[test]
fn a_wrong_secret_resumes_nothing_and_fences_nobody() {
    let mut room = Room::new(LIMITS, 1, 0, 0);
    room.join(join(1, 0, 0), 0);
    let resume = Resume { member: member(1), secret: "other".into(), holder: replica(1), epoch: 1, seq: 1 };
    assert_eq!(room.resume(resume, 0), Err(Refusal::UnknownSession));
    assert!(room.leave(&member(1), 1, Reason::Left).is_ok());
}

#[test]
fn a_store_that_lost_the_room_takes_it_over_from_its_replicas() {
    let mut room = Room::new(LIMITS, 7, 0, 0);
    let held = |who: u8, since| Held {
        member: member(who),
        secret: format!("s{who}"),
        conn: 2,
        since,
        profile: Profile::new(&member(who), None, None),
    };
    let assert = |on: u8, seq, members| Assert { holder: replica(on), epoch: 3, seq, max: 0, members };
    let first = room.assert(assert(0, 40, vec![held(0, 1)]), 8, 0);
    assert_eq!((first.epoch, first.seq), (8, 41));
    let second = room.assert(assert(1, 38, vec![held(1, 5)]), 9, 0);
    assert_eq!((second.epoch, second.seq, second.members.len()), (8, 42, 2));
    // who says it again changes nothing
    assert_eq!(room.assert(assert(1, 38, vec![held(1, 5)]), 10, 0), second);
    // and a log that went back begins anew
    let third = room.assert(Assert { epoch: 8, ..assert(1, 60, vec![held(1, 5)]) }, 11, 0);
    assert_eq!((third.epoch, third.seq, third.members.len()), (11, 60, 2));
}
