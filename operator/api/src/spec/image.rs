use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;

/// The container image of the signaling and TURN pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Image {
    /// The repository, for example `ghcr.io/rtc-operator/rtc-operator`. The default is the operator's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub repository: Option<String>,
    /// The tag, or a digest as `sha256:…`. The default is the operator's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tag: Option<String>,
    /// When a node asks the registry for the image: `IfNotPresent`, `Always` or `Never`.
    pub pull_policy: PullPolicy,
    /// Secrets of type `kubernetes.io/dockerconfigjson` to pull with, in the namespace of the RtcCluster.
    #[schemars(length(max = 16))]
    pub pull_secrets: Vec<SecretRef>,
}

/// When a node asks the registry for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Only when the node does not have it yet.
    #[default]
    IfNotPresent,
    /// Whenever a container starts.
    Always,
    /// Never: the image must be on the node.
    Never,
}

impl PullPolicy {
    /// The name that pods use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}
