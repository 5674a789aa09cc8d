use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SecretKeyRef, SecretRef, resources};

/// Where the rooms are kept. Without `external`, a small Redis is run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Redis {
    /// A single Redis pod without persistence, for trying out: when it restarts, members rejoin their rooms.
    /// This is what runs when `redis` is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedRedis>,
    /// A Redis that you run. Excludes `managed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalRedis>,
}

/// A single Redis pod without persistence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ManagedRedis {
    /// The image to run.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Requests and limits of the Redis container.
    pub resources: ResourceRequirements,
}

impl Default for ManagedRedis {
    fn default() -> Self {
        Self { image: "redis:7".to_owned(), resources: resources("50m", "64Mi") }
    }
}

/// A Redis that you run: version 7 or later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExternalRedis {
    /// The key of a Secret that holds the URL: `redis://[user:password@]host:port[/database]`, or `rediss://`
    /// for TLS; with `Sentinel` `redis://[user:password@]sentinel[:port],…/service`, and with `Cluster`
    /// `redis://[user:password@]host[:port],…`. A changed URL or password is used without a restart.
    pub url_secret_ref: SecretKeyRef,
    /// How that Redis is run: `Standalone`, `Sentinel` or `Cluster`.
    #[serde(default)]
    pub mode: RedisMode,
    /// Certificates for `rediss://` beyond those of public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
}

impl ExternalRedis {
    /// The Secret whose `ca.crt` signs its certificate, if one is named.
    #[must_use]
    pub fn ca(&self) -> Option<&SecretRef> {
        self.tls.as_ref()?.ca_secret_ref.as_ref()
    }

    /// The Secret with the certificate to show to it, if one is named.
    #[must_use]
    pub fn client(&self) -> Option<&SecretRef> {
        self.tls.as_ref()?.client_secret_ref.as_ref()
    }
}

/// How a Redis is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RedisMode {
    /// One address, be it a single server or a service that fails over behind it.
    #[default]
    Standalone,
    /// Sentinels name the primary.
    Sentinel,
    /// Redis Cluster.
    Cluster,
}

/// Certificates for a connection to Redis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RedisTls {
    /// A Secret whose `ca.crt` signs the server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretRef>,
    /// A Secret with `tls.crt` and `tls.key` for servers that ask for a client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
}
