//! What Prometheus sees of each RtcCluster: gauges, for as long as it is looked at.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use rtc_operator_api::{RtcClusterStatus, status::NodeState};

use crate::controller::plan::PlannedNode;

/// A cluster that was not looked at for this long is gone: it is looked at every 30 s, and after failures within
/// two minutes.
const FORGET: Duration = Duration::from_secs(300);

/// The gauges of all clusters. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Figures(Arc<Mutex<BTreeMap<Key, Figure>>>);

/// Namespace and name.
type Key = (String, String);

#[derive(Clone, Debug)]
struct Figure {
    at: Instant,
    nodes: [(NodeState, i64); 3],
    capacity: i64,
    allocations: i64,
    rotated: Option<i64>,
    certificates: Vec<(String, i64)>,
    conditions: Vec<(String, String, bool)>,
}

impl Figures {
    /// Takes what is known of a cluster from now on.
    pub fn note(
        &self,
        (namespace, name): (&str, &str),
        status: &RtcClusterStatus,
        nodes: &[PlannedNode],
        certificates: Vec<(String, i64)>,
    ) {
        let count = |state| {
            let count = nodes.iter().filter(|node| node.state() == state).count();
            (state, i64::try_from(count).unwrap_or(i64::MAX))
        };
        let turn = status.turn.clone().unwrap_or_default();
        let rotated = status.key_ring.as_ref().and_then(|ring| ring.last_rotation.as_ref());
        let figure = Figure {
            at: Instant::now(),
            nodes: [NodeState::Serving, NodeState::Draining, NodeState::Excluded].map(count),
            capacity: turn.capacity,
            allocations: turn.allocations,
            rotated: rotated.map(|time| time.0.as_second()),
            certificates,
            conditions: status
                .conditions
                .iter()
                .map(|condition| {
                    (condition.type_.clone(), condition.reason.clone(), condition.status == "True")
                })
                .collect(),
        };
        self.lock().insert((namespace.to_owned(), name.to_owned()), figure);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Figure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Further labels and a value.
type Row = (Vec<(&'static str, String)>, i64);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut figures = self.lock();
        figures.retain(|_, figure| figure.at.elapsed() < FORGET);
        let encoder = &mut encoder;
        family(encoder, "turn_nodes", "Nodes that run a TURN pod, by state", &figures, |figure| {
            figure
                .nodes
                .iter()
                .map(|(state, count)| (vec![("state", format!("{state:?}"))], *count))
                .collect()
        })?;
        let about = "Allocations that the serving TURN nodes can hold";
        family(encoder, "turn_capacity", about, &figures, |figure| vec![(Vec::new(), figure.capacity)])?;
        family(encoder, "turn_allocations", "Allocations that live", &figures, |figure| {
            vec![(Vec::new(), figure.allocations)]
        })?;
        let about = "When the key that signs credentials began to";
        family(encoder, "key_rotation_timestamp_seconds", about, &figures, |figure| {
            figure.rotated.iter().map(|at| (Vec::new(), *at)).collect()
        })?;
        let about = "When the certificate of a Secret ends";
        family(encoder, "certificate_end_timestamp_seconds", about, &figures, |figure| {
            let certificates = figure.certificates.iter();
            certificates.map(|(secret, until)| (vec![("secret", secret.clone())], *until)).collect()
        })?;
        let about = "Conditions of the status: 1 for True, 0 for False";
        family(encoder, "condition", about, &figures, |figure| {
            let conditions = figure.conditions.iter();
            conditions
                .map(|(kind, reason, is)| {
                    (vec![("type", kind.clone()), ("reason", reason.clone())], i64::from(*is))
                })
                .collect()
        })
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figures: &BTreeMap<Key, Figure>,
    rows: impl Fn(&Figure) -> Vec<Row>,
) -> fmt::Result {
    let name = format!("rtc_operator_{name}");
    let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for ((namespace, cluster), figure) in figures {
        for (mut labels, value) in rows(figure) {
            labels.push(("rtc_namespace", namespace.clone()));
            labels.push(("rtc_cluster", cluster.clone()));
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
