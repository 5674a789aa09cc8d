//! What is worth an event: transitions, never states.

use std::collections::{BTreeMap, BTreeSet};

use kube::{
    Resource,
    runtime::events::{Event, EventType},
};
use rtc_credentials::RotationEvent;
use rtc_operator_api::{
    RtcCluster, RtcClusterStatus,
    status::{NodeState, NodeStatus},
};

use super::{
    Context,
    apply::Outcome,
    plan::{Plan, Reason},
};
use crate::drain::Move;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether somebody should look.
    pub warning: bool,
    /// A name, such as `KeyStaged`.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

fn news_of(warning: bool, reason: &'static str, note: String) -> News {
    News { warning, reason, note }
}

/// What has happened since the status was last written.
#[must_use]
pub fn news(cluster: &RtcCluster, new: &RtcClusterStatus, plan: &Plan, outcome: &Outcome) -> Vec<News> {
    let old = cluster.status.clone().unwrap_or_default();
    let mut news = Vec::new();
    if outcome.ring {
        let rebuilt = plan.ring.rebuilt.iter();
        news.extend(rebuilt.map(|reason| {
            let note = format!("{reason}; a new key signs, and credentials of lost keys are refused");
            news_of(true, "KeyRingRebuilt", note)
        }));
        if let Some(key) = plan.ring.ring.signing().filter(|_| plan.ring.adopted) {
            let note = format!("the keys of the Secret are the first of the ring, and {} signs", key.id);
            news.push(news_of(false, "KeysAdopted", note));
        }
        news.extend(plan.ring.events.iter().filter_map(of_rotation));
    }
    for (pod, next) in plan.moves.iter().filter(|(pod, _)| outcome.moved.contains(pod)) {
        let node =
            plan.nodes.iter().find(|node| node.pod == **pod).map_or(pod.as_str(), |node| node.node.as_str());
        news.extend(of_move(node, *next));
    }
    let nameless = plan.nodes.iter().filter(|node| matches!(node.reason, Some(Reason::Address(_))));
    let nameless = nameless.map(|node| node.node.as_str()).collect();
    of_nodes(&old.nodes, &new.nodes, &nameless, &mut news);
    of_conditions(&old, new, &mut news);
    news
}

fn of_rotation(event: &RotationEvent) -> Option<News> {
    Some(match event {
        RotationEvent::Staged(id) => {
            news_of(false, "KeyStaged", format!("key {id} is on its way to the TURN pods"))
        }
        RotationEvent::Signing(id) => news_of(false, "KeySigning", format!("key {id} signs from now on")),
        RotationEvent::Retired(id) => {
            news_of(false, "KeyRetired", format!("key {id} verifies nothing any more"))
        }
        RotationEvent::Revoked(id) => news_of(
            true,
            "KeyRevoked",
            format!("key {id} was revoked: clients with its credentials must ask for new ones"),
        ),
        RotationEvent::Retiring(..) => return None,
    })
}

fn of_move(node: &str, next: Move) -> Option<News> {
    Some(match next {
        Move::Mark => news_of(
            false,
            "NodeDraining",
            format!("{node} takes no new allocations; its TURN pod is replaced when the last has ended"),
        ),
        Move::Delete { cut: 0 } => {
            news_of(false, "NodeDrained", format!("the TURN pod of {node} is being replaced"))
        }
        Move::Delete { cut } => news_of(
            true,
            "NodeDrained",
            format!("the TURN pod of {node} is being replaced at its deadline, with {cut} allocations left"),
        ),
        Move::Unmark | Move::Drain(_) => return None,
    })
}

/// `nameless` are the nodes without an address.
fn of_nodes(old: &[NodeStatus], new: &[NodeStatus], nameless: &BTreeSet<&str>, news: &mut Vec<News>) {
    let old: BTreeMap<_, _> = old.iter().map(|node| (&node.node, node)).collect();
    for node in new {
        let before = old.get(&node.node);
        let served = before.is_some_and(|before| before.state == NodeState::Serving);
        // One that had none before is news when it is another reason why.
        let told = before.is_some_and(|before| before.addresses.is_empty() && before.reason == node.reason);
        let nameless = nameless.contains(node.node.as_str()) && !told;
        if node.state == NodeState::Excluded && (served || nameless) {
            let reason = node.reason.as_deref().unwrap_or_default();
            news.push(news_of(
                true,
                "NodeExcluded",
                format!("clients are not sent to {}: {reason}", node.node),
            ));
        }
        if let Some(before) = before.filter(|before| {
            !before.addresses.is_empty() && !node.addresses.is_empty() && before.addresses != node.addresses
        }) {
            let (from, to) = (before.addresses.join(", "), node.addresses.join(", "));
            news.push(news_of(false, "AddressChanged", format!("{}: {from} -> {to}", node.node)));
        }
    }
}

fn of_conditions(old: &RtcClusterStatus, new: &RtcClusterStatus, news: &mut Vec<News>) {
    let of = |status: &RtcClusterStatus, kind: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind).cloned()
    };
    if let Some(now) = of(new, "Degraded").filter(|now| now.status == "True")
        && of(old, "Degraded").is_none_or(|before| before.status != "True" || before.reason != now.reason)
    {
        news.push(news_of(true, "Degraded", now.message));
    }
    if let (Some(before), Some(now)) = (of(old, "Ready"), of(new, "Ready"))
        && before.status != now.status
    {
        let (warning, reason) = if now.status == "True" { (false, "Ready") } else { (true, "NotReady") };
        news.push(news_of(warning, reason, now.message));
    }
}

/// Publishes an event; that it could not be is only logged.
pub async fn publish(context: &Context, cluster: &RtcCluster, news: &News) {
    let mut note = news.note.clone();
    // The API server takes no longer ones.
    while note.len() > 1000 {
        note.pop();
    }
    let event = Event {
        type_: if news.warning { EventType::Warning } else { EventType::Normal },
        reason: news.reason.to_owned(),
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &cluster.object_ref(&())).await {
        tracing::warn!(%error, reason = news.reason, "cannot publish an event");
    }
}
