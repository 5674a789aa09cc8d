//! Three pods, a Redis that any of them may lose, and what their clients are told.
#![allow(clippy::unwrap_used)]
use super::{
    super::requests::{Asked, request},
    *,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PODS: usize = 3;

fn pod(n: usize) -> ReplicaId {
    format!("pod-{n}").parse().unwrap()
}

fn member(n: usize) -> MemberId {
    format!("m{n}").parse().unwrap()
}

/// One word of content tells entries apart.
fn entry((epoch, seq): Place, kind: Kind, word: u64) -> Entry {
    Entry { kind, epoch, seq, from: member(0), to: None, id: word.to_string(), body: String::new() }
}

fn text(entry: &Entry) -> String {
    format!("{:?} {} {}", entry.kind, entry.id, entry.body)
}

#[derive(Debug)]
enum Write {
    Signal {
        word: u64,
    },
    /// The pod begins to host the room, or stops.
    Host {
        word: u64,
        stays: bool,
    },
    Proposal {
        proposal: Proposal,
        word: u64,
    },
    Read,
}

#[derive(Default)]
struct Pod {
    known: Known,
    subscription: u64,
    listens: bool,
    sent: VecDeque<(u64, Write)>,
    answers: VecDeque<(u64, Answer, Vec<Entry>)>,
    channel: VecDeque<(u64, Entry, bool)>,
    /// What its clients were told.
    told: BTreeMap<Place, String>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Signal(usize),
    Host(usize, bool),
    Read(usize),
    Serve(usize),
    Answer(usize),
    Lose(usize),
    Hear(usize),
    Deafen(usize),
    Subscribe(usize),
    Restart,
}

struct World {
    pods: Vec<Pod>,
    epoch: u64,
    log: Vec<Entry>,
    hosts: BTreeSet<usize>,
    tickets: u64,
    proposed: usize,
    came_true: usize,
}

impl World {
    fn new() -> Self {
        let pods = (0..PODS).map(|_| Pod { listens: true, ..Pod::default() }).collect();
        Self {
            pods,
            epoch: 7,
            log: Vec::new(),
            hosts: BTreeSet::new(),
            tickets: 0,
            proposed: 0,
            came_true: 0,
        }
    }

    fn place(&self) -> Place {
        (self.epoch, self.log.len() as u64)
    }

    fn publish(&mut self, to: usize, entry: &Entry, proposed: bool) {
        let pod = &mut self.pods[to];
        if pod.listens {
            pod.channel.push_back((pod.subscription, entry.clone(), proposed));
        }
    }

    fn append(&mut self, by: usize, kind: Kind, word: u64) -> Entry {
        let mut entry = entry((self.epoch, self.log.len() as u64 + 1), kind, word);
        if kind == Kind::Joined {
            // who comes tells where; the word is in the body
            entry = Entry { from: member(by), id: pod(by).to_string(), body: word.to_string(), ..entry };
        }
        self.log.push(entry.clone());
        for host in self.hosts.clone() {
            if host != by {
                self.publish(host, &entry, false);
            }
        }
        entry
    }

    fn permit(&self, n: usize, others: Vec<ReplicaId>) -> Permit {
        Permit {
            sender: (member(n), 1),
            members: Vec::new(),
            until: self.place().1 + 9,
            others,
            requests: Asked::Untold,
        }
    }

    fn begin(&mut self, n: usize) -> u64 {
        self.tickets += 1;
        let pod = &mut self.pods[n];
        pod.known.begin(pod.subscription, self.tickets);
        self.tickets
    }

    /// The first write of a pod is served.
    fn serve(&mut self, n: usize) {
        let Some((ticket, write)) = self.pods[n].sent.pop_front() else { return };
        let mut own = Vec::new();
        let answer = match write {
            Write::Signal { word } => {
                own.push(self.append(n, Kind::Signal, word));
                let others = self.hosts.iter().filter(|host| **host != n).map(|host| pod(*host)).collect();
                let end = self.hosts.contains(&n).then(|| self.place());
                let permit = Some(self.permit(n, others));
                Answer::Told(Told { end, own: vec![(self.place(), Effect::Nothing)], permit })
            }
            Write::Host { word, stays } => {
                if stays {
                    self.hosts.insert(n);
                }
                let kind = if stays { Kind::Joined } else { Kind::Left };
                own.push(self.append(n, kind, word));
                if !stays {
                    self.hosts.remove(&n);
                }
                let end = stays.then(|| self.place());
                let others = self.hosts.iter().filter(|host| **host != n).map(|host| pod(*host)).collect();
                let permit = stays.then(|| self.permit(n, others));
                let effects = own.iter().map(|entry| (self.place(), Effect::of(entry, true))).collect();
                Answer::Told(Told { end, own: effects, permit })
            }
            Write::Read => {
                own.clone_from(&self.log);
                let end = self.hosts.contains(&n).then(|| self.place());
                Answer::Told(Told { end, ..Told::default() })
            }
            Write::Proposal { proposal, word } => {
                let entry = entry(proposal.place, Kind::Signal, word);
                let is_next = proposal.place == (self.epoch, self.log.len() as u64 + 1);
                if is_next {
                    let mut hosts: BTreeSet<_> = proposal.others.iter().cloned().collect();
                    hosts.insert(pod(n));
                    // a room may be published to a pod that left it, and to no other
                    assert!(
                        self.hosts.iter().all(|host| hosts.contains(&pod(*host))),
                        "a host was forgotten"
                    );
                    assert!(self.hosts.contains(&n), "who does not host the room wrote to it");
                    self.log.push(entry.clone());
                    own.push(entry.clone());
                    self.came_true += 1;
                }
                for host in (0..PODS).filter(|host| proposal.others.contains(&pod(*host))) {
                    self.publish(host, &entry, true);
                }
                if is_next { Answer::Appended(proposal.place) } else { Answer::Nothing }
            }
        };
        self.pods[n].answers.push_back((ticket, answer, own));
    }

    fn step(&mut self, step: Step) {
        let mut next = Vec::new();
        let which = match step {
            Step::Signal(n) => {
                self.tickets += 1;
                let (ticket, word) = (self.tickets, self.tickets);
                let pod = &mut self.pods[n];
                let proposal = {
                    let wish = Wish { from: &member(n), conn: 1, to: None, weight: 0, request: None };
                    pod.known.propose(pod.subscription, ticket, wish, 0)
                };
                self.proposed += usize::from(proposal.is_some());
                let (ticket, write) = match proposal {
                    Some(proposal) => (ticket, Write::Proposal { proposal, word }),
                    None => (self.begin(n), Write::Signal { word }),
                };
                self.pods[n].sent.push_back((ticket, write));
                n
            }
            Step::Host(n, stays) => {
                let ticket = self.begin(n);
                self.pods[n].sent.push_back((ticket, Write::Host { word: ticket, stays }));
                n
            }
            Step::Read(n) => {
                let ticket = self.begin(n);
                self.pods[n].sent.push_back((ticket, Write::Read));
                n
            }
            Step::Serve(n) => {
                self.serve(n);
                n
            }
            Step::Answer(n) | Step::Lose(n) => {
                let Some((ticket, answer, own)) = self.pods[n].answers.pop_front() else { return };
                let pod = &mut self.pods[n];
                let lost = matches!(step, Step::Lose(_));
                if !lost {
                    for entry in own {
                        pod.told.entry((entry.epoch, entry.seq)).or_insert(text(&entry));
                    }
                }
                pod.known.end(ticket, if lost { Answer::Lost } else { answer }, &mut next);
                n
            }
            Step::Hear(n) => {
                let pod = &mut self.pods[n];
                let Some((subscription, entry, proposed)) = pod.channel.pop_front() else { return };
                pod.known.heard(subscription, entry, proposed, &mut next);
                n
            }
            Step::Deafen(n) => {
                self.pods[n].listens = false;
                n
            }
            Step::Subscribe(n) => {
                let pod = &mut self.pods[n];
                if !pod.listens {
                    (pod.listens, pod.subscription) = (true, pod.subscription + 1);
                }
                n
            }
            Step::Restart => {
                self.epoch += 1;
                self.log.clear();
                return;
            }
        };
        for next in next {
            match next {
                Next::Take(entry) => {
                    self.pods[which].told.entry((entry.epoch, entry.seq)).or_insert(text(&entry));
                }
                Next::Missing => self.step(Step::Read(which)),
            }
        }
        let epoch = self.epoch;
        for (place, word) in &self.pods[which].told {
            // what was told of an earlier life cannot be looked up any more
            if place.0 == epoch {
                let written = self.log.get(place.1 as usize - 1).map(text);
                assert_eq!(
                    written.as_ref(),
                    Some(word),
                    "pod {which} told what is not in the log at {place:?}"
                );
            }
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let pod = 0..PODS;
    prop_oneof![
        8 => pod.clone().prop_map(Step::Signal),
        1 => (pod.clone(), prop::bool::weighted(0.7)).prop_map(|(n, stays)| Step::Host(n, stays)),
        1 => pod.clone().prop_map(Step::Read),
        14 => pod.clone().prop_map(Step::Serve),
        14 => pod.clone().prop_map(Step::Answer),
        1 => pod.clone().prop_map(Step::Lose),
        14 => pod.clone().prop_map(Step::Hear),
        1 => pod.clone().prop_map(Step::Deafen),
        2 => pod.clone().prop_map(Step::Subscribe),
    ]
}

fn run(world: &mut World, steps: &[Step]) {
    for n in 0..PODS {
        for step in [Step::Host(n, true), Step::Serve(n), Step::Answer(n)] {
            world.step(step);
        }
    }
    run_on(world, steps);
}

fn run_on(world: &mut World, steps: &[Step]) {
    steps.iter().for_each(|step| world.step(*step));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_told_what_is_not_in_the_log(steps in prop::collection::vec(any_step(), 0..300)) {
        run(&mut World::new(), &steps);
    }

    #[test]
    fn also_when_the_log_begins_anew(
        steps in prop::collection::vec(prop_oneof![40 => any_step(), 1 => Just(Step::Restart)], 0..300),
    ) {
        run(&mut World::new(), &steps);
    }
}

#[test]
fn who_answers_each_other_proposes() {
    let mut world = World::new();
    let turn =
        |n| [Step::Signal(n), Step::Serve(n), Step::Answer(n), Step::Hear(0), Step::Hear(1), Step::Hear(2)];
    // the pods that began before hear of those that came later
    let hear = [0, 1, 2].map(Step::Hear).repeat(3);
    let steps: Vec<_> = hear.into_iter().chain((0..20).flat_map(|round| turn(round % 2))).collect();
    run(&mut world, &steps);
    // but when a function has to look at the log's bounds
    assert_eq!((world.proposed, world.came_true), (16, 16));
    assert_eq!(world.log.len(), PODS + 20);
    let told = |pod: &Pod| pod.told.values().rev().take(20).cloned().collect::<Vec<_>>();
    assert_eq!(told(&world.pods[0]), told(&world.pods[1]));
}

#[test]
fn of_two_proposals_with_one_number_the_first_counts() {
    let mut world = World::new();
    let hear = [0, 1, 2].map(Step::Hear).repeat(3);
    let meet =
        |n| [Step::Signal(n), Step::Serve(n), Step::Answer(n), Step::Hear(0), Step::Hear(1), Step::Hear(2)];
    let both = [Step::Signal(0), Step::Signal(1), Step::Serve(1), Step::Serve(0)];
    let heard = [Step::Hear(0), Step::Hear(1), Step::Hear(2), Step::Hear(2)];
    let answers = [Step::Answer(0), Step::Answer(1)];
    let steps: Vec<_> =
        hear.into_iter().chain(meet(0)).chain(meet(1)).chain(both).chain(heard).chain(answers).collect();
    run(&mut world, &steps);
    assert_eq!((world.proposed, world.came_true), (4, 3));
    let end = world.place();
    for pod in &world.pods {
        assert_eq!(pod.told.get(&end), world.log.last().map(text).as_ref());
    }
}

#[test]
fn a_request_is_new_to_who_knows_all_of_its_session_and_to_nobody_else() {
    let mut known = Known::default();
    let mut next = Vec::new();
    let permit_at = |seq, requests| {
        let permit =
            Permit { sender: (member(1), 1), members: Vec::new(), until: 99, others: Vec::new(), requests };
        Answer::Told(Told { end: Some((7, seq)), own: Vec::new(), permit: Some(permit) })
    };
    let permit = |requests| permit_at(1, requests);
    let wish = |request| Wish { from: &FROM, conn: 1, to: None, weight: 0, request: Some(request) };
    static FROM: std::sync::LazyLock<MemberId> = std::sync::LazyLock::new(|| member(1));
    let mut asks = |known: &mut Known, ticket, word| {
        let seq = known.place.map_or(1, |(_, seq)| seq);
        let proposed = known.propose(3, ticket, wish(word), 0).is_some();
        known.end(ticket, Answer::Nothing, &mut next);
        // a refused one takes the permit along
        known.begin(3, ticket + 1);
        known.end(ticket + 1, permit_at(seq, Asked::Untold), &mut next);
        proposed
    };
    known.begin(3, 1);
    known.end(1, permit(Asked::Untold), &mut Vec::new());
    assert!(!asks(&mut known, 2, "a"), "of a session that began elsewhere");
    known.begin(3, 4);
    known.end(4, permit(Asked::None), &mut Vec::new());
    assert!(asks(&mut known, 5, "a"));
    assert!(!asks(&mut known, 7, "a"));
    assert!(asks(&mut known, 9, "b"));
    // it says something by another replica
    let said = Entry { from: member(1), ..entry((7, 2), Kind::Signal, 0) };
    known.heard(3, said, false, &mut Vec::new());
    assert!(!asks(&mut known, 11, "c"));
    // a function tells all that it asked for
    known.begin(3, 13);
    known.end(13, permit_at(2, Asked::These(vec![request("d")])), &mut Vec::new());
    assert!(!asks(&mut known, 14, "d"));
    assert!(asks(&mut known, 16, "e"));
    // unless something else that it asked for may have come after
    known.requests.doubt(&member(1));
    known.begin(3, 18);
    known.begin(3, 19);
    known.end(19, permit_at(2, Asked::Untold), &mut Vec::new());
    known.end(18, permit_at(2, Asked::These(vec![request("f")])), &mut Vec::new());
    assert!(!asks(&mut known, 20, "g"));
    // or may have been missed, since what is passed on comes by a new subscription
    let all = || permit_at(2, Asked::None);
    known.begin(3, 22);
    known.end(22, all(), &mut Vec::new());
    known.begin(4, 23);
    known.end(23, permit_at(2, Asked::Untold), &mut Vec::new());
    assert_eq!(known.propose(4, 24, wish("h"), 0), None);
    known.begin(4, 25);
    known.end(25, all(), &mut Vec::new());
    assert!(known.propose(4, 26, wish("h"), 0).is_some());
}

#[test]
fn an_answer_by_an_earlier_subscription_says_nothing_of_what_the_present_one_hears() {
    let mut known = Known::default();
    known.begin(1, 1);
    known.begin(2, 2);
    known.end(1, Answer::Told(Told { end: Some((7, 1)), ..Told::default() }), &mut Vec::new());
    known.end(2, Answer::Nothing, &mut Vec::new());
    let mut next = Vec::new();
    known.heard(2, entry((7, 2), Kind::Signal, 0), true, &mut next);
    assert_eq!(next, [Next::Missing]);
}

#[test]
fn a_second_signal_is_not_proposed_before_the_first_is_answered() {
    let mut world = World::new();
    run(&mut world, &[0, 1, 2].map(Step::Hear).repeat(3));
    run_on(&mut world, &[Step::Signal(0), Step::Signal(0)]);
    assert_eq!(world.proposed, 1);
}
