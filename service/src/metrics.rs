//! Prometheus text (OpenMetrics 1.0, by `prometheus-client`).

pub use prometheus_client;
use prometheus_client::{encoding::text::encode, registry::Registry};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `/metrics` answers.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut out = String::new();
    // writing to a String does not fail
    let _ = encode(&mut out, registry);
    out
}
