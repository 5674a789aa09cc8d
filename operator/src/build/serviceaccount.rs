//! ServiceAccounts that can do nothing: the pods have no token.

use serde_json::json;

use super::{Build, Desired, Kind};

/// One for each component's pods.
#[must_use]
pub fn build(build: &Build<'_>, component: &str) -> Desired {
    build.object(Kind::ServiceAccount, component, component, json!({"automountServiceAccountToken": false}))
}
