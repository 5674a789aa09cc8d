//! The ConfigMap with `turn.json`: which TURN nodes there are; and that of the nodes that a status has no room for.

use rtc_credentials::Fleet;
use serde_json::json;

use super::{Build, Desired, Kind};
use crate::controller::{conditions, plan::PlannedNode};

/// The file's name.
pub const FILE: &str = "turn.json";

/// The fleet as a file.
#[must_use]
pub fn build(build: &Build<'_>, fleet: &Fleet) -> Desired {
    build.object(Kind::ConfigMap, "turn", "turn", json!({"data": {FILE: fleet.to_json()}}))
}

/// As many nodes as a status lists: one that all watch must stay small.
pub const MOST_NODES: usize = 64;

/// Every node with its state, where there are more than a status lists. What changes with every call is left out.
#[must_use]
pub fn nodes(build: &Build<'_>, nodes: &[PlannedNode]) -> Option<Desired> {
    (nodes.len() > MOST_NODES).then(|| {
        let lines: Vec<_> = nodes
            .iter()
            .map(|node| {
                let (state, reason) = (node.state(), conditions::why(node));
                let reason = (!reason.is_empty()).then_some(reason);
                json!({"node": node.node, "addresses": node.addresses, "state": state, "reason": reason})
                    .to_string()
            })
            .collect();
        // A line for each, which `kubectl get -o yaml` shows as lines.
        build.object(Kind::ConfigMap, "nodes", "turn", json!({"data": {"nodes.jsonl": lines.join("\n")}}))
    })
}
