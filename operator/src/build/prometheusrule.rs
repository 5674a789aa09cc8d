//! Alerts, each with what to do.

use serde_json::{Value, json};

use super::{Build, Desired, Kind, servicemonitor::labels};

/// The rules, where the manifest asks for them.
#[must_use]
pub fn build(build: &Build<'_>) -> Option<Desired> {
    build.cluster.spec.monitoring.rules.then(|| {
        let rules: Vec<_> = alerts(build).into_iter().map(|alert| rule(build, alert)).collect();
        build.object(
            Kind::PrometheusRule,
            "alerts",
            "metrics",
            json!({
                "metadata": {"labels": labels(build)},
                "spec": {"groups": [{"name": format!("rtc-{}", build.name), "rules": rules}]},
            }),
        )
    })
}

struct Alert {
    name: &'static str,
    expression: String,
    minutes: u32,
    severity: &'static str,
    summary: &'static str,
    advice: String,
}

fn rule(build: &Build<'_>, alert: Alert) -> Value {
    let namespace = build.cluster.metadata.namespace.as_deref().unwrap_or_default();
    json!({
        "alert": alert.name,
        "expr": alert.expression,
        "for": format!("{}m", alert.minutes),
        "labels": {"severity": alert.severity, "rtc_namespace": namespace, "rtc_cluster": build.name},
        "annotations": {
            "summary": format!("{} ({namespace}/{})", alert.summary, build.name),
            "description": alert.advice,
        },
    })
}

/// What is asked of pods goes by the labels that every scrape of pods has; what is asked of the operator by its
/// own.
fn alerts(build: &Build<'_>) -> Vec<Alert> {
    let (name, spec) = (build.name, &build.cluster.spec);
    let namespace = build.cluster.metadata.namespace.as_deref().unwrap_or_default();
    let turn = format!("namespace=\"{namespace}\",pod=~\"{name}-turn-[a-z0-9]{{5}}\"");
    let signaling = format!("namespace=\"{namespace}\",pod=~\"{name}-signaling-[a-z0-9]+-[a-z0-9]{{5}}\"");
    let own = format!("rtc_namespace=\"{namespace}\",rtc_cluster=\"{name}\"");
    let describe = format!("`kubectl describe rtc {name} -n {namespace}`");
    let room = spec.turn.allocations_per_node();
    let overdue =
        spec.credentials.rotation.interval.as_secs() + spec.credentials.rotation.overlap.as_secs() * 2;
    vec![
        Alert {
            name: "RtcTurnNoneServes",
            expression: format!("rtc_operator_turn_nodes{{{own},state=\"Serving\"}} == 0"),
            minutes: 5,
            severity: "critical",
            summary: "No TURN node serves",
            advice: format!("Calls that need a relay fail. {describe} names each node with the reason."),
        },
        Alert {
            name: "RtcTurnCapacityLow",
            expression: format!(
                "sum(rtc_turn_allocations{{{turn}}}) / (count(rtc_turn_allocations{{{turn}}}) * {room}) > 0.8"
            ),
            minutes: 10,
            severity: "warning",
            summary: "TURN nodes are more than 80 % full",
            advice: format!(
                "Add nodes that match spec.turn.placement. Each takes {room} allocations, by spec.turn.relayPorts and \
                 spec.turn.quotas.allocations: widen these where a node has processor and network to spare."
            ),
        },
        Alert {
            name: "RtcTurnRefuses",
            expression: format!(
                "sum by (pod) (rate(rtc_turn_errors_total{{{turn},code=\"508\"}}[5m])) > 0"
            ),
            minutes: 5,
            severity: "critical",
            summary: "A TURN pod has no room for allocations",
            advice: "Add nodes that match spec.turn.placement, or raise spec.turn.quotas.allocations.".to_owned(),
        },
        Alert {
            name: "RtcTurnDrops",
            expression: format!(
                "sum by (pod, reason) \
                 (rate(rtc_turn_drops_total{{{turn},reason=~\"send_failed|queue_full\"}}[5m])) > 10"
            ),
            minutes: 10,
            severity: "warning",
            summary: "A TURN pod drops packets of calls",
            advice: "The node's network or processor is full. Add nodes that match spec.turn.placement, or raise \
                     spec.turn.resources."
                .to_owned(),
        },
        Alert {
            name: "RtcKeyRingLate",
            expression: format!(
                "max(rtc_turn_ring_revision{{{turn}}}) - min(rtc_turn_ring_revision{{{turn}}}) > 0"
            ),
            minutes: 10,
            severity: "warning",
            summary: "A TURN pod has not read the key ring",
            advice: format!(
                "Keys do not rotate until it has. Condition KeyRingInSync in {describe} names it; look at its kubelet, \
                 or delete the pod."
            ),
        },
        Alert {
            name: "RtcKeyRotationOverdue",
            expression: format!("time() - rtc_operator_key_rotation_timestamp_seconds{{{own}}} > {overdue}"),
            minutes: 10,
            severity: "warning",
            summary: "The key that signs credentials is overdue to be replaced",
            advice: format!("See conditions KeyRingInSync, Paused and Degraded in {describe}."),
        },
        Alert {
            name: "RtcCertificate",
            expression: format!(
                "rtc_operator_condition{{{own},type=\"CertificatesValid\",reason=\"EndsSoon\"}} == 1 \
                 or rtc_operator_condition{{{own},type=\"CertificatesValid\"}} == 0"
            ),
            minutes: 15,
            severity: "warning",
            summary: "A certificate ends soon or is not valid",
            advice: format!(
                "Condition CertificatesValid in {describe} names the Secret. A renewed one is served without a restart."
            ),
        },
        Alert {
            name: "RtcRedisDown",
            expression: format!("rtc_signaling_store_up{{{signaling}}} == 0"),
            minutes: 2,
            severity: "critical",
            summary: "A signaling pod cannot reach Redis",
            advice: "Members on one pod go on with each other; rooms over several pods are apart until Redis is back. See \
                     that Redis runs, its Secret has the right URL and password, and policies let signaling pods in."
                .to_owned(),
        },
        Alert {
            name: "RtcDegraded",
            expression: format!("rtc_operator_condition{{{own},type=\"Degraded\"}} == 1"),
            minutes: 15,
            severity: "warning",
            summary: "The operator cannot do what the manifest asks for",
            advice: format!("Condition Degraded in {describe} says why, and what to write instead."),
        },
    ]
}
