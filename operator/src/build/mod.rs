//! The objects of an RtcCluster: one file per kind. Pure: the same inputs give the same bytes.

pub mod configmap;
pub mod daemonset;
pub mod deployment;
pub mod horizontalpodautoscaler;
pub mod httproute;
pub mod ingress;
pub mod networkpolicy;
pub mod pod;
pub mod poddisruptionbudget;
pub mod prometheusrule;
pub mod redis;
pub mod secret;
pub mod service;
pub mod serviceaccount;
pub mod servicemonitor;
pub mod store;

use kube::core::{ApiResource, GroupVersionKind};
use rtc_operator_api::{RtcCluster, RtcClusterSpec, spec::AddressFamily};
use serde_json::{Value, json};

/// The label, and part of every selector, that names the RtcCluster.
pub const CLUSTER_LABEL: &str = "rtc-operator.dev/cluster";
/// The label that says what an object is for: `signaling`, `turn`, `redis` or `credentials`.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Selects everything that the operator made.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by=rtc-operator";
/// The label of a pod that tells which template it was made from.
pub const TEMPLATE_LABEL: &str = "rtc-operator.dev/template";
/// The annotation of a pod that tells its kubelet to look at the mounted files again.
pub const FILES_ANNOTATION: &str = "rtc-operator.dev/files";
/// The annotation of an RtcCluster that sets the admin port of its TURN pods on their nodes.
pub const ADMIN_PORT_ANNOTATION: &str = "rtc-operator.dev/turn-admin-port";
/// Where the key ring is mounted.
pub const KEYS_DIR: &str = "/etc/rtc/keys";
/// Where `turn.json` is mounted.
pub const TURN_DIR: &str = "/etc/rtc/turn";

/// A kind of object that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// core/v1
    ServiceAccount,
    /// core/v1
    Secret,
    /// core/v1
    ConfigMap,
    /// core/v1
    Service,
    /// apps/v1
    Deployment,
    /// apps/v1
    DaemonSet,
    /// policy/v1
    PodDisruptionBudget,
    /// autoscaling/v2
    HorizontalPodAutoscaler,
    /// networking.k8s.io/v1
    Ingress,
    /// networking.k8s.io/v1
    NetworkPolicy,
    /// gateway.networking.k8s.io/v1, where the Gateway API is installed
    HttpRoute,
    /// monitoring.coreos.com/v1, where the Prometheus operator is installed
    ServiceMonitor,
    /// monitoring.coreos.com/v1, where the Prometheus operator is installed
    PrometheusRule,
}

impl Kind {
    /// The API group and version.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::ServiceAccount | Self::Secret | Self::ConfigMap | Self::Service => "v1",
            Self::Deployment | Self::DaemonSet => "apps/v1",
            Self::PodDisruptionBudget => "policy/v1",
            Self::HorizontalPodAutoscaler => "autoscaling/v2",
            Self::Ingress | Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::HttpRoute => "gateway.networking.k8s.io/v1",
            Self::ServiceMonitor | Self::PrometheusRule => "monitoring.coreos.com/v1",
        }
    }

    /// The kind as objects name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::Ingress => "Ingress",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::HttpRoute => "HTTPRoute",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::PrometheusRule => "PrometheusRule",
        }
    }

    /// As a client asks for it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (group, version) = self.api_version().rsplit_once('/').unwrap_or(("", self.api_version()));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.name()))
    }

    /// Whether a spec has objects of this kind. Those of most kinds are always there.
    #[must_use]
    pub fn wanted(self, spec: &RtcClusterSpec) -> bool {
        let route = spec.signaling.route.as_ref();
        match self {
            Self::HorizontalPodAutoscaler => spec.signaling.autoscaling.is_some(),
            Self::Ingress => route.is_some_and(|route| route.ingress.is_some()),
            Self::HttpRoute => route.is_some_and(|route| route.gateway.is_some()),
            Self::ServiceMonitor => spec.monitoring.service_monitor,
            Self::PrometheusRule => spec.monitoring.rules,
            _ => true,
        }
    }
}

/// An object as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of its fields that the operator decides on.
    pub value: Value,
}

/// What every builder needs.
pub struct Build<'a> {
    /// The resource.
    pub cluster: &'a RtcCluster,
    /// Its name.
    pub name: &'a str,
    /// The image of the signaling and TURN pods.
    pub image: String,
    /// The address families of the cluster's pods and Services, the first one that of the nodes.
    pub families: Vec<AddressFamily>,
}

impl<'a> Build<'a> {
    /// For a cluster, with the operator's own image for where the spec names none.
    #[must_use]
    pub fn new(cluster: &'a RtcCluster, own_image: &str) -> Self {
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        Self { cluster, name, image: image(cluster, own_image), families: vec![AddressFamily::IPv4] }
    }

    /// The same, in a cluster that gives a Service these families.
    #[must_use]
    pub fn in_families_of(mut self, service: Option<&Value>) -> Self {
        let families = service.map(|service| service["spec"]["ipFamilies"].clone());
        let families = families.and_then(|families| serde_json::from_value(families).ok());
        self.families = families.filter(|list: &Vec<_>| !list.is_empty()).unwrap_or(self.families);
        self
    }

    /// What a pod listens on to be reached by every address that it has.
    #[must_use]
    pub fn any_address(&self) -> &'static str {
        // A node whose kernel knows no IPv6 must not be asked for it.
        if self.families.contains(&AddressFamily::IPv6) { "[::]" } else { "0.0.0.0" }
    }

    /// The name of the object for a component.
    #[must_use]
    pub fn object_name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name)
    }

    /// What selects a component's pods.
    #[must_use]
    pub fn selector(&self, component: &str) -> Value {
        json!({CLUSTER_LABEL: self.name, COMPONENT_LABEL: component})
    }

    /// All labels of a component's objects.
    #[must_use]
    pub fn labels(&self, component: &str) -> Value {
        json!({
            CLUSTER_LABEL: self.name,
            COMPONENT_LABEL: component,
            "app.kubernetes.io/name": if component == "redis" { "redis".to_owned() } else { format!("rtc-{component}") },
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/managed-by": "rtc-operator",
        })
    }

    /// Puts type, name, labels and owner around an object's own fields.
    #[must_use]
    pub fn object(&self, kind: Kind, suffix: &str, component: &str, body: Value) -> Desired {
        let name = self.object_name(suffix);
        let mut value = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": {
                "name": name,
                "namespace": self.cluster.metadata.namespace,
                "labels": self.labels(component),
                // Deleting the RtcCluster deletes all of it; no finalizer is needed.
                "ownerReferences": [{
                    "apiVersion": "rtc-operator.dev/v1alpha1",
                    "kind": "RtcCluster",
                    "name": self.name,
                    "uid": self.cluster.metadata.uid,
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
        });
        pod::merge(&mut value, body);
        Desired { kind, name, value }
    }
}

fn image(cluster: &RtcCluster, own: &str) -> String {
    let image = &cluster.spec.image;
    // A colon after the last slash begins a tag; before it, a registry's port.
    let (own_name, own_tag) = match own.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => match own.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((name, tag)) => (name, Some(tag)),
            None => (own, None),
        },
    };
    let name = image.repository.as_deref().unwrap_or(own_name);
    match image.tag.as_deref().or(own_tag) {
        Some(digest) if digest.starts_with("sha256:") => format!("{name}@{digest}"),
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    }
}

/// A short name for a content, the same in every process (FNV-1a, 64 bits).
#[must_use]
pub fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
