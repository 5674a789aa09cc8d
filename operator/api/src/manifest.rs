//! Reading a manifest from a file, with errors that say where and what to write.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{RtcCluster, Violation, rules, validate};

/// Why a text is not a manifest of an RtcCluster.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not YAML.
    #[error("not YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// None of its documents is an RtcCluster.
    #[error(
        "no RtcCluster in here; begin with `apiVersion: rtc-operator.dev/v1alpha1` and `kind: RtcCluster`"
    )]
    Missing,
    /// It has more than one RtcCluster.
    #[error("{0} RtcClusters in here; keep one per file")]
    Many(usize),
    /// Another version of the API.
    #[error("apiVersion: `{0}` is not known here; write rtc-operator.dev/v1alpha1")]
    Version(String),
    /// A field is unknown, missing or of the wrong type.
    #[error("{path}: {message}")]
    Field {
        /// Where, such as `spec.turn.listeners[0].port`.
        path: String,
        /// What is wrong, and which fields or values there are.
        message: String,
    },
    /// The fields are well formed, but break rules.
    #[error("{}", list(.0))]
    Rules(Vec<Violation>),
}

fn list(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads the one RtcCluster among the documents of a manifest; the name is `rtc` where there is none.
///
/// # Errors
/// The first thing that is wrong with its form, or else every rule that it breaks, each with its path and with
/// what to write instead.
pub fn from_yaml(text: &str) -> Result<RtcCluster, ManifestError> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        if value["kind"] == "RtcCluster" {
            found.push(value);
        }
    }
    let count = found.len();
    let (Some(mut manifest), true) = (found.pop(), count <= 1) else {
        return Err(if count == 0 { ManifestError::Missing } else { ManifestError::Many(count) });
    };
    let version = manifest["apiVersion"].as_str().unwrap_or_default();
    if version != "rtc-operator.dev/v1alpha1" {
        return Err(ManifestError::Version(version.to_owned()));
    }
    if let Some(unknown) = manifest
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::keys)
        .find(|key| !["apiVersion", "kind", "metadata", "spec", "status"].contains(&key.as_str()))
    {
        let message = "unknown field; a manifest has apiVersion, kind, metadata and spec".to_owned();
        return Err(ManifestError::Field { path: unknown.clone(), message });
    }
    // The API server owns the status; one that was exported with the rest says nothing here.
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("status");
        fields.entry("metadata").or_insert_with(|| json!({}));
    }
    if manifest["metadata"]["name"].is_null() && manifest["metadata"].is_object() {
        manifest["metadata"]["name"] = json!("rtc");
    }
    if manifest["spec"].is_null() {
        manifest["spec"] = json!({});
    }
    // From text, so that the path of an error is known down to the field.
    let text = manifest.to_string();
    let cluster: RtcCluster =
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(&text)).map_err(field)?;
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let violations: Vec<_> = rules::validate_name(name).into_iter().chain(validate(&cluster.spec)).collect();
    if violations.is_empty() { Ok(cluster) } else { Err(ManifestError::Rules(violations)) }
}

fn field(error: serde_path_to_error::Error<serde_json::Error>) -> ManifestError {
    let path = error.path().to_string();
    let message = error.into_inner().to_string();
    // The position is one in the text made above, which nobody has.
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    ManifestError::Field { path, message }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(spec: &str) -> Result<RtcCluster, String> {
        let head = "apiVersion: rtc-operator.dev/v1alpha1\nkind: RtcCluster\nmetadata: {name: calls}\n";
        from_yaml(&format!("{head}{spec}")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_spec_works_and_so_does_none() {
        assert_eq!(read("spec: {}").unwrap(), read("").unwrap());
        assert_eq!(read("").unwrap().spec, crate::RtcClusterSpec::default());
    }

    #[test]
    fn an_unknown_field_is_named_with_its_path_and_those_there_are() {
        let error = read("spec: {turn: {relayPort: {min: 1}}}").unwrap_err();
        assert!(
            error.starts_with("spec.turn.relayPort: unknown field `relayPort`, expected one of `mode`"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        let error = read("spec: {turn: {listeners: [{name: a, transport: UDP, port: many}]}}").unwrap_err();
        assert!(error.starts_with("spec.turn.listeners[0].port: invalid type: string \"many\""), "{error}");
        let error = read("spec: {credentials: {ttl: 1d}}").unwrap_err();
        assert_eq!(
            error,
            "spec.credentials.ttl: `1d` is not a length of time; write for example 90s, 15m or 1h30m"
        );
        let error = read("spec: {turn: {listeners: [{name: a, transport: SCTP, port: 1}]}}").unwrap_err();
        assert!(error.contains("expected one of `UDP`, `TCP`, `TLS`, `DTLS`"), "{error}");
        let error = read("spec: {turn: {peers: {allow: [10.0.0.0]}}}").unwrap_err();
        assert!(error.starts_with("spec.turn.peers.allow[0]: `10.0.0.0` is not an address range"), "{error}");
    }

    #[test]
    fn every_broken_rule_is_named_with_what_to_write() {
        let error =
            read("spec: {credentials: {ttl: 3h}, turn: {relayPorts: {min: 3000, max: 2000}}}").unwrap_err();
        assert!(error.contains("spec.credentials: rotation.overlap must be at least ttl"), "{error}");
        assert!(error.contains("spec.turn.relayPorts: min must not be above max"), "{error}");
    }

    #[test]
    fn bounds_of_the_schema_hold_without_a_server() {
        let error = read("spec: {signaling: {replicas: -1}}").unwrap_err();
        assert_eq!(error, "spec.signaling.replicas: -1 is too low; write 0 or more");
        let error = read("spec: {turn: {listeners: []}}").unwrap_err();
        assert!(error.contains("spec.turn.listeners: has 0 entries; write 1 or more"), "{error}");
        let error = read("spec: {turn: {listeners: [{name: A, transport: UDP, port: 1}]}}").unwrap_err();
        assert!(error.contains("`A` is not a name"), "{error}");
    }

    #[test]
    fn other_documents_are_passed_over_and_a_second_cluster_is_not() {
        let one = "apiVersion: rtc-operator.dev/v1alpha1\nkind: RtcCluster\n";
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
        assert_eq!(
            from_yaml(&format!("{namespace}---\n{one}")).unwrap().metadata.name.as_deref(),
            Some("rtc")
        );
        assert!(matches!(from_yaml(&format!("{one}---\n{one}")), Err(ManifestError::Many(2))));
        assert!(matches!(from_yaml(namespace), Err(ManifestError::Missing)));
        let old = "apiVersion: rtc-operator.dev/v1\nkind: RtcCluster\n";
        assert!(matches!(from_yaml(old), Err(ManifestError::Version(_))));
    }

    #[test]
    fn a_name_that_no_service_can_have_is_refused() {
        let head = "apiVersion: rtc-operator.dev/v1alpha1\nkind: RtcCluster\n";
        for name in ["Calls", "a.b", "9a", "a-", "a".repeat(51).as_str()] {
            let error = from_yaml(&format!("{head}metadata: {{name: {name}}}")).unwrap_err().to_string();
            assert!(error.starts_with("metadata.name: must be at most 50"), "{error}");
        }
    }

    #[test]
    fn the_examples_are_manifests() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
        for name in ["quickstart.yaml", "rtccluster.yaml"] {
            let text = std::fs::read_to_string(format!("{directory}/{name}")).unwrap();
            from_yaml(&text).unwrap_or_else(|error| unreachable!("{name}: {error}"));
        }
    }
}
