use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// The time-limited credentials that clients get for TURN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Credentials {
    /// For how long a credential may start new allocations. An allocation that lives may go on beyond it.
    pub ttl: Duration,
    /// How often the key that signs credentials is replaced.
    pub rotation: Rotation,
}

impl Default for Credentials {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(3600), rotation: Rotation::default() }
    }
}

/// How often the key that signs credentials is replaced. `kubectl annotate rtc/NAME
/// rtc-operator.dev/rotate="$(date)"` replaces it at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Rotation {
    /// The time from one key to the next.
    pub interval: Duration,
    /// For how long a key still verifies after it has signed its last credential: at least `ttl`, so that no
    /// credential dies early, and less than `interval`.
    pub overlap: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { interval: Duration::from_secs(24 * 3600), overlap: Duration::from_secs(2 * 3600) }
    }
}
