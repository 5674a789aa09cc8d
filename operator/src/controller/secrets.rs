//! The Secrets that a manifest names: what must be in them, whether it is, and until when certificates are valid.
//!
//! Pods that need one wait until it is there: a pod that cannot mount it would take the place of one that runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use kube::ResourceExt;
use rtc_operator_api::{
    RtcCluster, RtcClusterSpec,
    spec::{AuthMode, SecretKeyRef, SecretRef, Transport},
};
use x509_parser::prelude::{GeneralName, SubjectPublicKeyInfo, parse_x509_pem};

use super::{
    conditions::{Fact, fact},
    dereference::Observed,
    plan::PlannedNode,
};
use crate::build::fingerprint;

/// The certificate's file in a Secret of type `kubernetes.io/tls`.
pub const CERTIFICATE: &str = "tls.crt";
/// The key's file in a Secret of type `kubernetes.io/tls`.
pub const KEY: &str = "tls.key";
/// The authorities' file, as cert-manager names it.
pub const AUTHORITIES: &str = "ca.crt";
/// The field of the certificate that TURN pods show.
const TURN_TLS: &str = "spec.turn.listeners.tls";
const EVERYBODY: &[Component] = &[Component::Signaling, Component::Turn];
/// A certificate that ends within this time, in seconds, should have been renewed.
const SOON: i64 = 14 * 24 * 3600;

/// Whose pods need something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The signaling pods.
    Signaling,
    /// The TURN pods.
    Turn,
}

/// A Secret that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub secret: String,
    /// What must be in it.
    pub keys: Vec<String>,
    /// The field that names it.
    pub field: &'static str,
    /// Whose pods mount it.
    pub components: &'static [Component],
}

/// A Secret as far as it matters here: nothing that is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Its version.
    pub version: String,
    /// The names in it that have a content.
    pub keys: BTreeSet<String>,
    /// Its `tls.crt`, or why that is none.
    pub certificate: Option<Result<Certificate, String>>,
}

/// What is read from a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Valid from then on, in Unix seconds.
    pub from: i64,
    /// Valid until then, in Unix seconds.
    pub until: i64,
    /// The addresses that it names.
    pub addresses: Vec<IpAddr>,
    /// Whether its key is one that DTLS can be served with: ECDSA, of P-256 or P-384.
    pub dtls: bool,
}

/// What keeps pods from being made or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The reason of conditions.
    pub reason: &'static str,
    /// What is missing, and what to do.
    pub message: String,
}

/// The Secrets that a spec names.
#[must_use]
pub fn expected(spec: &RtcClusterSpec) -> Vec<Expected> {
    const SIGNALING: &[Component] = &[Component::Signaling];
    const TURN: &[Component] = &[Component::Turn];
    let mut all = Vec::new();
    let mut expect = |secret: &str, keys: &[&str], field, components| {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        all.push(Expected { secret: secret.to_owned(), keys, field, components });
    };
    let pair = [CERTIFICATE, KEY];
    if let Some(secret) = turn_certificate(spec) {
        expect(&secret.name, &pair, TURN_TLS, TURN);
    }
    if let Some(tls) = &spec.signaling.tls {
        expect(&tls.secret_ref.name, &pair, "spec.signaling.tls", SIGNALING);
    }
    if let Some(keys) = jwt_keys(spec) {
        expect(&keys.name, &[&keys.key], "spec.signaling.auth.jwt.secretRef", SIGNALING);
    }
    if let Some(webhook) = &spec.signaling.webhook {
        let secret = &webhook.secret_ref;
        expect(&secret.name, &[&secret.key], "spec.signaling.webhook.secretRef", SIGNALING);
    }
    if let Some(external) = &spec.redis.external {
        let both = if spec.turn.fleet_quota().is_some() { EVERYBODY } else { SIGNALING };
        let url = &external.url_secret_ref;
        expect(&url.name, &[&url.key], "spec.redis.external.urlSecretRef", both);
        if let Some(ca) = external.ca() {
            expect(&ca.name, &[AUTHORITIES], "spec.redis.external.tls.caSecretRef", both);
        }
        if let Some(client) = external.client() {
            expect(&client.name, &pair, "spec.redis.external.tls.clientSecretRef", both);
        }
    }
    all
}

/// The keys that tokens are checked with, where a Secret holds them.
#[must_use]
pub fn jwt_keys(spec: &RtcClusterSpec) -> Option<&SecretKeyRef> {
    let auth = &spec.signaling.auth;
    auth.jwt.as_ref().filter(|_| auth.mode == AuthMode::Jwt)?.secret_ref.as_ref()
}

/// The Secret with the certificate of the TURN pods' listeners.
#[must_use]
pub fn turn_certificate(spec: &RtcClusterSpec) -> Option<&SecretRef> {
    let mut listeners = spec.turn.listeners.iter().filter(|listener| listener.transport.needs_tls());
    listeners.find_map(|listener| Some(&listener.tls.as_ref()?.secret_ref))
}

/// Keeps of a Secret what matters here.
#[must_use]
pub fn given(secret: &Secret) -> Given {
    let data: BTreeMap<_, _> = secret.data.iter().flatten().filter(|(_, text)| !text.0.is_empty()).collect();
    Given {
        version: secret.resource_version().unwrap_or_default(),
        certificate: data.get(&CERTIFICATE.to_owned()).map(|ByteString(pem)| certificate(pem)),
        keys: data.into_keys().cloned().collect(),
    }
}

fn certificate(pem: &[u8]) -> Result<Certificate, String> {
    let (_, pem) = parse_x509_pem(pem).map_err(|_| "it is not PEM".to_owned())?;
    let parsed = pem.parse_x509().map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(Certificate {
        from: parsed.validity().not_before.timestamp(),
        until: parsed.validity().not_after.timestamp(),
        addresses: names.filter_map(address).collect(),
        dtls: dtls_can_use(parsed.public_key()),
    })
}

/// As rtc-turn does, which does not start with another one.
fn dtls_can_use(key: &SubjectPublicKeyInfo<'_>) -> bool {
    // RFC 5480, sections 2.1.1 and 2.1.1.1
    const ECDSA: &str = "1.2.840.10045.2.1";
    const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let curve = curve.map(|curve| curve.to_id_string());
    key.algorithm.algorithm.to_id_string() == ECDSA && curve.is_some_and(|id| CURVES.contains(&id.as_str()))
}

fn address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
}

/// What keeps the pods of a component from being made or changed, with what to do about it.
#[must_use]
pub fn missing(cluster: &RtcCluster, observed: &Observed, component: Component) -> Option<Lack> {
    lacks(cluster, observed, |expected| expected.components.contains(&component))
}

fn lacks(cluster: &RtcCluster, observed: &Observed, which: impl Fn(&Expected) -> bool) -> Option<Lack> {
    let all = expected(&cluster.spec).into_iter().filter(which);
    let all: Vec<_> = all.filter_map(|expected| lack(cluster, observed, &expected)).collect();
    let messages: Vec<_> = all.iter().map(|lack| lack.message.as_str()).collect();
    Some(Lack { reason: all.first()?.reason, message: messages.join("; ") })
}

fn lack(cluster: &RtcCluster, observed: &Observed, expected: &Expected) -> Option<Lack> {
    let Expected { secret, keys, field, .. } = expected;
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
    let is_certificate = keys[0] == CERTIFICATE;
    let missing = |message: String| Some(Lack { reason: "SecretMissing", message });
    let Some(given) = observed.given.get(secret) else {
        let make = if is_certificate {
            format!(
                "let cert-manager make it, or `kubectl create secret tls {secret} -n {namespace} --cert=FILE --key=FILE`"
            )
        } else {
            let files: String = keys.iter().map(|key| format!(" --from-file={key}=FILE")).collect();
            format!("`kubectl create secret generic {secret} -n {namespace}{files}`")
        };
        return missing(format!("{field}: there is no Secret {secret}; {make}"));
    };
    let lacks: Vec<_> = keys.iter().filter(|key| !given.keys.contains(*key)).map(String::as_str).collect();
    if !lacks.is_empty() {
        return missing(format!(
            "{field}: Secret {secret} has no {}; it needs {}",
            lacks.join(", "),
            keys.join(", ")
        ));
    }
    match &given.certificate {
        Some(Err(why)) if is_certificate => {
            missing(format!("{field}: {CERTIFICATE} of Secret {secret} is no certificate: {why}"))
        }
        Some(Ok(certificate)) if *field == TURN_TLS && serves_dtls(&cluster.spec) => {
            (!certificate.dtls).then(|| Lack {
                reason: "KeyNotForDtls",
                message: format!(
                    "{field}: the certificate of Secret {secret} has a key that DTLS cannot be served with; issue it with \
                     an ECDSA key of P-256 or P-384, in a Certificate of cert-manager `privateKey: {{algorithm: ECDSA}}`"
                ),
            })
        }
        _ => None,
    }
}

fn serves_dtls(spec: &RtcClusterSpec) -> bool {
    spec.turn.listeners.iter().any(|listener| listener.transport == Transport::Dtls)
}

/// Differs whenever a Secret that the spec names does; empty when it names none.
#[must_use]
pub fn version(observed: &Observed) -> String {
    if observed.given.is_empty() {
        return String::new();
    }
    let versions: Vec<_> = observed.given.values().map(|given| given.version.as_str()).collect();
    format!("-{:08x}", fingerprint(&versions.join(" ")) >> 32)
}

/// The certificates that pods show to others, by Secret.
pub fn certificates<'a>(
    cluster: &RtcCluster,
    observed: &'a Observed,
) -> impl Iterator<Item = (String, &'a Certificate)> + use<'a> {
    expected(&cluster.spec).into_iter().filter(|expected| expected.keys[0] == CERTIFICATE).filter_map(
        |expected| {
            let given = observed.given.get(&expected.secret)?;
            Some((expected.secret, given.certificate.as_ref()?.as_ref().ok()?))
        },
    )
}

/// Whether what the manifest names is there, and whether its certificates are valid.
#[must_use]
pub fn facts(cluster: &RtcCluster, observed: &Observed, nodes: &[PlannedNode]) -> Vec<Fact> {
    let expected = expected(&cluster.spec);
    if expected.is_empty() {
        return Vec::new();
    }
    let resolved = match lacks(cluster, observed, |_| true) {
        None => fact(
            "SecretsResolved",
            true,
            "Resolved",
            "every Secret that the manifest names has what is needed",
        ),
        Some(lack) => {
            let message = format!("{}; until then the pods that need it stay as they are", lack.message);
            fact("SecretsResolved", false, lack.reason, message)
        }
    };
    let mut facts = vec![resolved];
    if expected.iter().any(|expected| expected.keys[0] == CERTIFICATE) {
        facts.push(validity(cluster, observed, nodes));
    }
    facts
}

fn validity(cluster: &RtcCluster, observed: &Observed, nodes: &[PlannedNode]) -> Fact {
    const KIND: &str = "CertificatesValid";
    let now = i64::try_from(observed.now).unwrap_or(i64::MAX);
    let mut all: Vec<_> = certificates(cluster, observed).collect();
    all.sort_by_key(|(_, certificate)| certificate.until);
    let Some((secret, first)) = all.first() else {
        return fact(KIND, false, "NoCertificate", "see condition SecretsResolved");
    };
    let until = Timestamp::from_second(first.until).unwrap_or(Timestamp::MAX);
    if first.until <= now {
        let message =
            format!("the certificate of Secret {secret} ended at {until}; renew it: clients refuse it");
        return fact(KIND, false, "Expired", message);
    }
    if let Some((secret, later)) = all.iter().find(|(_, certificate)| certificate.from > now) {
        let from = Timestamp::from_second(later.from).unwrap_or(Timestamp::MAX);
        let message = format!("the certificate of Secret {secret} is not valid before {from}");
        return fact(KIND, false, "NotYetValid", message);
    }
    if let Some(message) = unnamed(cluster, observed, nodes) {
        return fact(KIND, false, "AddressNotNamed", message);
    }
    // Issuers that give short-lived ones renew them late; two thirds of the life is when cert-manager does.
    let soon = SOON.min((first.until - first.from) / 5);
    if first.until - now < soon {
        let message =
            format!("the certificate of Secret {secret} ends at {until}, and should have been renewed");
        return fact(KIND, true, "EndsSoon", message);
    }
    fact(KIND, true, "Valid", format!("the first to end is that of Secret {secret}, at {until}"))
}

/// Nodes whose addresses the TURN pods' certificate does not name. Clients are given addresses, and compare.
fn unnamed(cluster: &RtcCluster, observed: &Observed, nodes: &[PlannedNode]) -> Option<String> {
    let secret = &turn_certificate(&cluster.spec)?.name;
    let certificate = observed.given.get(secret)?.certificate.as_ref()?.as_ref().ok()?;
    let mut addresses = nodes.iter().flat_map(|node| &node.addresses);
    let address = addresses.find(|address| !certificate.addresses.contains(address))?;
    Some(format!(
        "the certificate of Secret {secret} does not name {address}, so that browsers refuse turns:{address}; issue it \
         with the addresses of all TURN nodes (IP SANs)"
    ))
}

#[cfg(test)]
mod tests;
