//! What Prometheus sees of the operator.

use std::{sync::atomic::AtomicI64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::figures::Figures;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// The operator's counters. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    reconciles: Counter,
    errors: Family<Reason, Counter>,
    duration: Histogram,
    writes: Family<Kind, Counter>,
    leader: Gauge<i64, AtomicI64>,
    pub(crate) figures: Figures,
}

impl Metrics {
    /// Registers the counters.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Counter::default(),
            errors: Family::default(),
            duration: Histogram::new([0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
            writes: Family::default(),
            leader: Gauge::default(),
            figures: Figures::default(),
        };
        registry.register_collector(Box::new(metrics.figures.clone()));
        registry.register("rtc_operator_reconciles", "Reconciles that ended", metrics.reconciles.clone());
        registry.register("rtc_operator_reconcile_errors", "Reconciles that failed", metrics.errors.clone());
        registry.register(
            "rtc_operator_reconcile_duration_seconds",
            "How long a reconcile takes",
            metrics.duration.clone(),
        );
        registry.register("rtc_operator_writes", "Objects applied", metrics.writes.clone());
        registry.register("rtc_operator_leader", "1 while this operator leads", metrics.leader.clone());
        metrics
    }

    pub(crate) fn reconciled(&self, took: Duration, error: Option<&'static str>) {
        self.reconciles.inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(reason) = error {
            self.errors.get_or_create(&Reason { reason }).inc();
        }
    }

    pub(crate) fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Whether this operator leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader.get() == 1
    }
}
