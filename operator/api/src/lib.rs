//! The RtcCluster custom resource: types, schema, rules and defaults.
//!
//! - [`RtcCluster`] and [`RtcClusterSpec`] are the manifest, with every default ([`spec`]).
//! - [`status`] is what the operator reports back.
//! - [`rules`] are the sentences that a spec must fulfil, once as CEL for the API server and once in Rust.
//! - [`manifest`] reads a manifest from a file and says what to write instead when it is wrong.
//! - [`crd`] is the CustomResourceDefinition, as kept in `crds/`.
//!
//! There is no client and no runtime in here, so `rtc up` can read the same manifests without a cluster.

pub mod crd;
pub mod duration;
pub mod manifest;
pub mod rules;
pub mod spec;
pub mod status;

pub use crd::{crd, crd_yaml};
pub use duration::Duration;
pub use manifest::{ManifestError, from_yaml};
pub use rules::{Violation, validate};
pub use spec::{RtcCluster, RtcClusterSpec};
pub use status::RtcClusterStatus;

/// The annotation whose every new value starts a key rotation at once.
pub const ROTATE_ANNOTATION: &str = "rtc-operator.dev/rotate";
/// The annotation that names the id of a leaked key, to stop verifying it at once.
pub const REVOKE_ANNOTATION: &str = "rtc-operator.dev/revoke-key";
/// The annotation of a Secret `NAME-keys` that you made, with `NAME` as its value: its keys become the first ones of the
/// RtcCluster's ring. Each entry is a key, its name the key's id, such as coturn's `static-auth-secret`.
pub const ADOPT_ANNOTATION: &str = "rtc-operator.dev/adopt";
/// The annotation of a node that lists the addresses under which clients reach it, separated by commas.
/// `spec.turn.addresses.annotationKey` names another one.
pub const ADDRESS_ANNOTATION: &str = "rtc-operator.dev/address";
