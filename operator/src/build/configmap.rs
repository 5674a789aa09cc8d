//! The ConfigMap with `turn.json`: which TURN nodes there are.

use rtc_credentials::Fleet;
use serde_json::json;

use super::{Build, Desired, Kind};

/// The file's name.
pub const FILE: &str = "turn.json";

/// The fleet as a file.
#[must_use]
pub fn build(build: &Build<'_>, fleet: &Fleet) -> Desired {
    build.object(Kind::ConfigMap, "turn", "turn", json!({"data": {FILE: fleet.to_json()}}))
}
