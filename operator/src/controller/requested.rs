//! Conditions about what only some manifests ask for: there where it is asked for, and nowhere else. Pure.

use rtc_operator_api::{RtcCluster, spec::WhenStoreIsAway};
use serde_json::Value;

use super::{
    conditions::{Fact, fact},
    dereference::Observed,
};
use crate::build::{Kind, horizontalpodautoscaler::CONNECTIONS_METRIC};

/// The conditions of what a manifest asks for.
#[must_use]
pub fn facts(cluster: &RtcCluster, observed: &Observed) -> Vec<Fact> {
    [
        autoscaling(cluster, observed),
        route(cluster, observed),
        monitoring(cluster, observed),
        fleet_quota(cluster, observed),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether every TURN pod knows what users hold on the others.
fn fleet_quota(cluster: &RtcCluster, observed: &Observed) -> Option<Fact> {
    const KIND: &str = "FleetQuotaActive";
    cluster.spec.turn.fleet_quota()?;
    let told = observed.turn.iter().filter_map(|pod| Some((pod, pod.report.as_ref()?)));
    let told: Vec<_> = told.filter(|(pod, _)| !pod.terminating).collect();
    let away: Vec<_> = told
        .iter()
        .filter(|(_, report)| report.quota_store.as_ref().is_some_and(|store| !store.up))
        .map(|(pod, _)| pod.node.as_deref().unwrap_or(&pod.name))
        .collect();
    if !away.is_empty() {
        let how = match cluster.spec.turn.quotas.when_store_is_away {
            WhenStoreIsAway::Open => "go on by their own counts",
            WhenStoreIsAway::Closed => "refuse new allocations",
        };
        let more = if away.len() > 5 { format!(" and {} more", away.len() - 5) } else { String::new() };
        let message = format!(
            "TURN pods on {}{more} do not reach Redis and {how}; see their logs, and that their nodes may connect to it",
            away[..away.len().min(5)].join(", ")
        );
        return Some(fact(KIND, false, "StoreAway", message));
    }
    let counts = told.iter().filter(|(_, report)| report.quota_store.is_some()).count();
    Some(match counts {
        0 => fact(KIND, false, "Pending", "no TURN pod counts with the others yet"),
        _ if counts < told.len() => {
            let message =
                format!("{counts}/{} TURN pods count with each other; the others are older", told.len());
            fact(KIND, false, "Updating", message)
        }
        _ => fact(KIND, true, "StoreAnswers", "every TURN pod knows what users hold on the others"),
    })
}

/// Whether the Prometheus operator can take its objects.
fn monitoring(cluster: &RtcCluster, observed: &Observed) -> Option<Fact> {
    const KIND: &str = "MonitoringApplied";
    let kinds = [(Kind::ServiceMonitor, "metrics"), (Kind::PrometheusRule, "alerts")];
    let wanted: Vec<_> = kinds.into_iter().filter(|(kind, _)| kind.wanted(&cluster.spec)).collect();
    if wanted.is_empty() {
        return None;
    }
    if wanted.iter().any(|(kind, _)| observed.unserved.contains(kind.name())) {
        let message = "this cluster does not serve monitoring.coreos.com/v1; install the Prometheus operator, or its \
                       CustomResourceDefinitions at least, or set spec.monitoring to false; this is looked at again \
                       every 30s";
        return Some(fact(KIND, false, "PrometheusOperatorMissing", message));
    }
    let name = |suffix: &str| format!("{}-{suffix}", cluster.metadata.name.as_deref().unwrap_or_default());
    let named: Vec<_> =
        wanted.iter().map(|(kind, suffix)| format!("{} {}", kind.name(), name(suffix))).collect();
    let there = wanted.iter().all(|(kind, suffix)| observed.object(*kind, &name(suffix)).is_some());
    Some(match there {
        true => fact(KIND, true, "Applied", format!("there are {}", named.join(" and "))),
        false => fact(KIND, false, "Pending", format!("not there yet: {}", named.join(" and "))),
    })
}

/// What the autoscaler says of itself.
fn autoscaling(cluster: &RtcCluster, observed: &Observed) -> Option<Fact> {
    const KIND: &str = "AutoscalingActive";
    let wanted = cluster.spec.signaling.autoscaling.as_ref()?;
    let name = format!("{}-signaling", cluster.metadata.name.as_deref().unwrap_or_default());
    let autoscaler = observed.object(Kind::HorizontalPodAutoscaler, &name);
    let needs = if wanted.target_connections_per_pod.is_some() {
        format!(
            "targetConnectionsPerPod needs an adapter that serves the Pods metric {CONNECTIONS_METRIC} at \
             custom.metrics.k8s.io, such as prometheus-adapter"
        )
    } else {
        "targetCPUUtilization needs metrics-server, and a request for CPU in every container of the signaling pods"
            .to_owned()
    };
    let active =
        autoscaler.and_then(|object| condition(&object.data["status"]["conditions"], "ScalingActive"));
    Some(match active {
        None => fact(
            KIND,
            false,
            "Pending",
            format!("the HorizontalPodAutoscaler has not been looked at yet; {needs}"),
        ),
        Some(active) if active["status"] == "True" => fact(
            KIND,
            true,
            "Active",
            format!("HorizontalPodAutoscaler {name} decides how many signaling pods run"),
        ),
        Some(active) if active["reason"] == "ScalingDisabled" => fact(
            KIND,
            false,
            "ScaledToZero",
            format!(
                "Deployment {name} was scaled to 0, which an autoscaler leaves alone; scale it to 1 or more"
            ),
        ),
        Some(active) => {
            let said = active["message"].as_str().unwrap_or("it cannot read its metric");
            fact(KIND, false, "NoMetric", format!("{needs}; the HorizontalPodAutoscaler says: {said}"))
        }
    })
}

/// Whether the way in from outside is there.
fn route(cluster: &RtcCluster, observed: &Observed) -> Option<Fact> {
    const KIND: &str = "RouteReady";
    let route = cluster.spec.signaling.route.as_ref()?;
    let name = format!("{}-signaling", cluster.metadata.name.as_deref().unwrap_or_default());
    if route.gateway.is_none() {
        let there = observed.object(Kind::Ingress, &name).is_some();
        return Some(match there {
            true => fact(KIND, true, "IngressApplied", format!("Ingress {name} leads to the signaling pods")),
            false => fact(KIND, false, "Pending", format!("Ingress {name} is not there yet")),
        });
    }
    if observed.unserved.contains(Kind::HttpRoute.name()) {
        let message = "this cluster does not serve gateway.networking.k8s.io/v1 HTTPRoutes; install the \
                       CustomResourceDefinitions of the Gateway API (its standard channel, 1.0 or later) and a \
                       controller for them, or use route.ingress; this is looked at again every 30s";
        return Some(fact(KIND, false, "GatewayApiMissing", message));
    }
    let parents =
        observed.object(Kind::HttpRoute, &name).and_then(|r| r.data["status"]["parents"].as_array());
    let accepted: Vec<_> = parents
        .into_iter()
        .flatten()
        .filter_map(|parent| condition(&parent["conditions"], "Accepted"))
        .collect();
    Some(match accepted.iter().find(|accepted| accepted["status"] != "True") {
        Some(refused) => {
            let said = refused["message"].as_str().unwrap_or_default();
            fact(KIND, false, "NotAccepted", format!("a Gateway does not take HTTPRoute {name}: {said}"))
        }
        None if accepted.is_empty() => {
            let message =
                format!("no Gateway has taken HTTPRoute {name} yet; see that route.gateway.parentRefs exist");
            fact(KIND, false, "Pending", message)
        }
        None => fact(KIND, true, "Accepted", format!("every Gateway has taken HTTPRoute {name}")),
    })
}

/// One of an object's own conditions.
fn condition<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions.as_array()?.iter().find(|condition| condition["type"] == kind)
}
