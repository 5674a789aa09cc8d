//! How TURN pods are replaced without cutting calls: pure.
//!
//! ```text
//! outdated ─► marked: out of turn.json ─► all signaling pods know ─► told to drain ─► no allocations ─► deleted
//!                                                                         └──── or the deadline ────────┘
//! ```
//!
//! Since when a pod drains is kept on the pod itself, so another operator goes on where this one stopped.

use std::collections::BTreeMap;

use rtc_operator_api::{
    Duration,
    spec::{Update, UpdateStrategy},
};

use crate::controller::pods::TurnPod;

/// A pod that signaling has not let go of within this time (seconds) is told to drain all the same.
pub const HANDOVER: u64 = 30;

/// The next thing to do with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Note that it drains from now on, which takes it out of service.
    Mark,
    /// Put it back into service: it is up to date again.
    Unmark,
    /// Tell it to refuse new allocations and to end within that many seconds.
    Drain(u64),
    /// Delete it; so many calls are cut.
    Delete {
        /// Allocations that it still has.
        cut: i64,
    },
}

/// What to do with which pod, by its name.
#[must_use]
pub fn plan(
    pods: &[TurnPod],
    template: &str,
    spec: &Update,
    signaling_knows: bool,
    now: u64,
) -> BTreeMap<String, Move> {
    let outdated = |pod: &TurnPod| pod.template != template;
    let present: Vec<_> = pods.iter().filter(|pod| !pod.terminating).collect();
    if spec.strategy == UpdateStrategy::Immediate {
        let all = present.iter().filter(|pod| outdated(pod));
        return all.map(|pod| (pod.name.clone(), Move::Delete { cut: pod.allocations() })).collect();
    }
    let mut moves = BTreeMap::new();
    // A pod on its way out is as unavailable as one that is not ready.
    let mut unavailable =
        pods.iter().filter(|pod| pod.terminating || pod.draining_since.is_some() || !pod.ready).count();
    let budget = usize::try_from(spec.max_unavailable).unwrap_or(1);
    let mut ordered = present;
    ordered.sort_by(|a, b| a.node.cmp(&b.node));
    for pod in ordered {
        let next = match pod.draining_since {
            Some(since) => continue_drain(pod, outdated(pod), since, spec.deadline, signaling_knows, now),
            None if !outdated(pod) => None,
            // Nobody can be on a pod that neither is ready nor answers.
            None if !pod.ready && pod.report.is_none() => Some(Move::Delete { cut: 0 }),
            // It counts as unavailable already.
            None if !pod.ready => Some(Move::Mark),
            None if unavailable < budget => {
                unavailable += 1;
                Some(Move::Mark)
            }
            None => None,
        };
        moves.extend(next.map(|next| (pod.name.clone(), next)));
    }
    moves
}

fn continue_drain(
    pod: &TurnPod,
    outdated: bool,
    since: u64,
    deadline: Duration,
    signaling_knows: bool,
    now: u64,
) -> Option<Move> {
    // The clock was set back: begin anew rather than wait until the old time comes again.
    if since > now {
        return Some(Move::Mark);
    }
    let left = deadline.as_secs().saturating_sub(now - since);
    let told = pod.report.as_ref().map(|report| report.draining);
    match told {
        // It was never told, so it can go on as if nothing had been.
        Some(false) if !outdated => Some(Move::Unmark),
        None if !outdated && pod.ready => Some(Move::Unmark),
        _ if left == 0 => Some(Move::Delete { cut: pod.allocations() }),
        None if pod.ready => None,
        None => Some(Move::Delete { cut: 0 }),
        Some(true) if pod.allocations() == 0 => Some(Move::Delete { cut: 0 }),
        Some(true) => None,
        Some(false) if signaling_knows || now - since >= HANDOVER => Some(Move::Drain(left)),
        Some(false) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::controller::poll::TurnReport;

    fn pod(name: &str, template: &str) -> TurnPod {
        TurnPod {
            name: name.into(),
            node: Some(name.into()),
            ready: true,
            running: true,
            template: template.into(),
            report: Some(TurnReport::default()),
            ..TurnPod::default()
        }
    }

    fn only(moves: &BTreeMap<String, Move>) -> Vec<(&str, Move)> {
        moves.iter().map(|(name, next)| (name.as_str(), *next)).collect()
    }

    #[test]
    fn a_pod_leaves_signaling_then_drains_then_goes() {
        let spec = Update::default();
        let mut pods = vec![pod("a", "old"), pod("b", "old")];
        assert_eq!(only(&plan(&pods, "new", &spec, true, 100)), [("a", Move::Mark)]);
        pods[0].draining_since = Some(100);
        assert_eq!(only(&plan(&pods, "new", &spec, false, 101)), []);
        assert_eq!(only(&plan(&pods, "new", &spec, true, 101)), [("a", Move::Drain(3599))]);
        pods[0].report = Some(TurnReport { allocations: 2, draining: true, ..Default::default() });
        assert_eq!(only(&plan(&pods, "new", &spec, true, 102)), []);
        pods[0].report = Some(TurnReport { draining: true, ..Default::default() });
        assert_eq!(only(&plan(&pods, "new", &spec, true, 103)), [("a", Move::Delete { cut: 0 })]);
    }

    #[test]
    fn the_deadline_cuts_what_is_left_and_says_how_much() {
        let mut pods = vec![pod("a", "old")];
        pods[0].draining_since = Some(100);
        pods[0].report = Some(TurnReport { allocations: 2, draining: true, ..Default::default() });
        let spec = Update::default();
        assert_eq!(only(&plan(&pods, "new", &spec, true, 3699)), []);
        assert_eq!(only(&plan(&pods, "new", &spec, true, 3700)), [("a", Move::Delete { cut: 2 })]);
    }

    #[test]
    fn a_template_that_is_taken_back_puts_the_node_back() {
        let mut pods = vec![pod("a", "same")];
        pods[0].draining_since = Some(100);
        assert_eq!(only(&plan(&pods, "same", &Update::default(), true, 101)), [("a", Move::Unmark)]);
    }

    #[test]
    fn immediate_deletes_all_at_once() {
        let spec = Update { strategy: UpdateStrategy::Immediate, ..Update::default() };
        let pods = vec![pod("a", "old"), pod("b", "new"), pod("c", "old")];
        let moves = plan(&pods, "new", &spec, true, 1);
        assert_eq!(only(&moves), [("a", Move::Delete { cut: 0 }), ("c", Move::Delete { cut: 0 })]);
    }

    #[test]
    fn a_new_template_that_does_not_start_stops_the_rollout() {
        let mut pods = vec![pod("a", "new"), pod("b", "old")];
        pods[0].ready = false;
        assert_eq!(only(&plan(&pods, "new", &Update::default(), true, 1)), []);
    }

    proptest! {
        /// A whole rollout, with pods and signaling that answer late: never more out of service than allowed,
        /// no call cut before its deadline, and it ends.
        #[test]
        fn a_rollout_keeps_its_promises(
            calls in prop::collection::vec(0u64..200, 1..6),
            max in 1i32..3,
            lag in 0u64..5,
            deadline in 50u64..150,
        ) {
            let spec = Update { max_unavailable: max, deadline: Duration::from_secs(deadline), ..Update::default() };
            let mut pods: Vec<_> = (0..calls.len()).map(|i| pod(&format!("n{i}"), "old")).collect();
            let mut back_at = vec![None; calls.len()];
            for now in 1_000..10_000 {
                for (i, pod) in pods.iter_mut().enumerate() {
                    if back_at[i].is_some_and(|at| now >= at) && !pod.ready {
                        pod.ready = true;
                        pod.report = Some(TurnReport::default());
                    }
                    if pod.template == "old"
                        && let Some(report) = &mut pod.report
                    {
                        report.allocations = i64::from(now < 1_000 + calls[i]);
                    }
                }
                let knows = pods.iter().all(|p| p.draining_since.is_none_or(|since| now >= since + lag));
                for (name, next) in plan(&pods, "new", &spec, knows, now) {
                    let i: usize = name[1..].parse().unwrap_or_default();
                    match next {
                        Move::Mark => pods[i].draining_since = Some(now),
                        Move::Unmark => prop_assert!(false, "nothing was taken back"),
                        Move::Drain(_) => {
                            if let Some(report) = &mut pods[i].report { report.draining = true; }
                        }
                        Move::Delete { cut } => {
                            let since = pods[i].draining_since.unwrap_or(now);
                            prop_assert!(cut == 0 || now >= since + deadline);
                            prop_assert_eq!(cut, pods[i].allocations());
                            pods[i] = pod(&name, "new");
                            pods[i].ready = false;
                            pods[i].report = None;
                            back_at[i] = Some(now + 3);
                        }
                    }
                }
                let out = pods.iter().filter(|p| !p.ready || p.draining_since.is_some()).count();
                prop_assert!(out <= usize::try_from(max).unwrap_or_default());
            }
            prop_assert!(pods.iter().all(|p| p.template == "new" && p.ready));
        }
    }
}
