//! Pods: what of them the planner needs to know, and what they say of themselves.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use super::{
    poll::{self, SignalingReport, TurnReport},
    watched::{Reports, Watched},
};
use crate::build::{FILES_ANNOTATION, TEMPLATE_LABEL};

/// The annotation of a TURN pod that keeps since when it drains, in Unix seconds.
pub const DRAINING_ANNOTATION: &str = "rtc-operator.dev/draining-since";

/// A TURN pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnPod {
    /// Its name.
    pub name: String,
    /// The node that it runs on, or shall.
    pub node: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether its container runs.
    pub running: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// The label of the template that it was made from.
    pub template: String,
    /// Which files its kubelet was told of.
    pub files: String,
    /// Since when it drains, in Unix seconds.
    pub draining_since: Option<u64>,
    /// Why it does not run, if its scheduler or kubelet says so.
    pub trouble: Option<String>,
    /// Where its admin port is.
    pub admin: Option<(IpAddr, u16)>,
    /// What it says of itself; `None` when it does not answer.
    pub report: Option<TurnReport>,
}

impl TurnPod {
    /// Allocations that it reports.
    #[must_use]
    pub fn allocations(&self) -> i64 {
        self.report.as_ref().map_or(0, |report| report.allocations)
    }
}

/// A signaling pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SignalingPod {
    /// Its name.
    pub name: String,
    /// Whether its container runs, so that it may sign credentials.
    pub running: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Which files its kubelet was told of.
    pub files: String,
    /// Where its admin port is.
    pub admin: Option<(IpAddr, u16)>,
    /// What it says of itself; `None` when it does not answer.
    pub report: Option<SignalingReport>,
}

/// The node of a pod, also of one that a DaemonSet made for a node that has not taken it yet.
fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.node_name.clone().or_else(|| {
        let node = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = &node.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        fields
            .filter(|field| field.key == "metadata.name")
            .find_map(|field| field.values.as_ref()?.first().cloned())
    })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// What the scheduler or the kubelet complains of, and what the program said last.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled =
        status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(why) = unscheduled.and_then(|condition| condition.message.clone()) {
        return Some(why);
    }
    let container = status.container_statuses.iter().flatten().find(|container| !container.ready)?;
    let ended = [&container.state, &container.last_state];
    let ended = ended.into_iter().find_map(|state| state.as_ref()?.terminated.as_ref());
    let said = ended.filter(|ended| ended.exit_code != 0).and_then(|ended| ended.message.as_deref());
    // Of a log's end, its last line.
    if let Some(line) = said.and_then(|text| text.trim().lines().next_back()) {
        return Some(line.to_owned());
    }
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| *reason != "ContainerCreating")?;
    Some(format!("{reason}: {}", waiting.message.as_deref().unwrap_or("see the pod's events")))
}

fn admin(pod: &Pod) -> Option<(IpAddr, u16)> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let ports = pod.spec.as_ref()?.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let port = ports.into_iter().find(|port| port.name.as_deref() == Some("admin"))?.container_port;
    Some((ip, u16::try_from(port).ok()?))
}

pub(super) fn turn_pod(pod: &Pod) -> TurnPod {
    TurnPod {
        name: pod.name_any(),
        node: node_of(pod),
        ready: is_ready(pod),
        running: is_running(pod),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        template: pod.labels().get(TEMPLATE_LABEL).cloned().unwrap_or_default(),
        files: pod.annotations().get(FILES_ANNOTATION).cloned().unwrap_or_default(),
        draining_since: pod.annotations().get(DRAINING_ANNOTATION).and_then(|since| since.parse().ok()),
        trouble: trouble(pod),
        admin: admin(pod),
        report: None,
    }
}

pub(super) fn signaling_pod(pod: &Pod) -> SignalingPod {
    SignalingPod {
        name: pod.name_any(),
        running: is_running(pod),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        files: pod.annotations().get(FILES_ANNOTATION).cloned().unwrap_or_default(),
        admin: admin(pod),
        report: None,
    }
}

/// How pods are asked.
pub(super) struct Asking<'a> {
    pub(super) namespace: &'a str,
    pub(super) token: &'a str,
    pub(super) watched: &'a Watched,
    /// Whether what was told a moment ago will do, where it is as it shall be.
    pub(super) glance: bool,
    /// What they are to know.
    pub(super) ring: u64,
    pub(super) fleet: Option<&'a str>,
}

impl Asking<'_> {
    pub(super) async fn turn(&self, mut pod: TurnPod) -> TurnPod {
        let settled = |report: &TurnReport| {
            let learnt = report.external.as_ref().is_none_or(|external| external.error.is_none());
            report.ring.revision >= self.ring && !report.draining && pod.draining_since.is_none() && learnt
        };
        let admin = pod.admin.filter(|_| pod.running);
        pod.report = self.report(&self.watched.turn_reports, &pod.name, admin, settled).await;
        pod
    }

    pub(super) async fn signaling(&self, mut pod: SignalingPod) -> SignalingPod {
        let settled = |report: &SignalingReport| {
            report.ring.revision >= self.ring && report.fleet_revision.as_deref() == self.fleet
        };
        let admin = pod.admin.filter(|_| pod.running);
        pod.report = self.report(&self.watched.signaling_reports, &pod.name, admin, settled).await;
        pod
    }

    /// What a pod says of itself, or said a moment ago, if that will do.
    async fn report<T: Clone + DeserializeOwned>(
        &self,
        reports: &Reports<T>,
        pod: &str,
        admin: Option<(IpAddr, u16)>,
        settled: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let recent = reports.recent(self.namespace, pod).filter(|report| self.glance && settled(report));
        if recent.is_some() {
            return recent;
        }
        let (ip, port) = admin?;
        match poll::status(ip, port, self.token).await {
            Ok(report) => {
                reports.note(self.namespace, pod, &report);
                Some(report)
            }
            Err(error) => {
                tracing::debug!(pod, %error, "no status");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn told(container: Value) -> Option<String> {
        let mut container = container;
        let fields = json!({"name": "turn", "ready": false, "image": "", "imageID": "", "restartCount": 1});
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let pod = json!({"status": {"containerStatuses": [container]}});
        trouble(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_a_program_said_last_tells_more_than_that_it_is_started_again() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let ended = |code: i32, message: &str| json!({"terminated": {"exitCode": code, "message": message}});
        let port = "INFO starting\nrtc-turn: cannot listen on udp://0.0.0.0:3478: Address in use\n";
        let both = told(json!({"state": waiting, "lastState": ended(1, port)}));
        assert_eq!(both.as_deref(), Some("rtc-turn: cannot listen on udp://0.0.0.0:3478: Address in use"));
        let silent = told(json!({"state": waiting, "lastState": ended(137, "")}));
        assert_eq!(silent.as_deref(), Some("CrashLoopBackOff: back-off 10s"));
        // One that has drained ends well.
        assert_eq!(told(json!({"state": {"running": {}}, "lastState": ended(0, "drained")})), None);
        assert_eq!(told(json!({"state": {"waiting": {"reason": "ContainerCreating"}}})), None);
    }
}
