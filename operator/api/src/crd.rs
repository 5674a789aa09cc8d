//! The CustomResourceDefinition: the schema that the types give, made structural, with the rules in it.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{RtcCluster, rules};

/// The CustomResourceDefinition of `RtcCluster`.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    // What the tests below have seen succeed has no input that could make it fail.
    serde_json::from_value(definition().clone()).unwrap_or_else(|_| RtcCluster::crd())
}

/// [`crd`] as YAML, as kept in `crds/rtcclusters.yaml`.
#[must_use]
pub fn crd_yaml() -> String {
    let head = "# Generated from operator/api by `rtc crd`. Change the types there, not this file.\n";
    let body = serde_yaml::to_string(definition()).unwrap_or_default();
    format!("{head}{body}")
}

/// The schema of the spec alone.
pub(crate) fn spec_schema() -> Value {
    definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// What `kubectl get rtc` shows.
fn columns() -> Value {
    let column = |name: &str, kind: &str, path: &str, description: &str| json!({"name": name, "type": kind, "jsonPath": path, "description": description});
    json!([
        column(
            "Ready",
            "string",
            ".status.conditions[?(@.type==\"Ready\")].status",
            "Whether clients can join rooms and relay."
        ),
        column(
            "Signaling",
            "string",
            ".status.signaling.summary",
            "Signaling pods that are ready, of those wanted."
        ),
        column(
            "TURN",
            "string",
            ".status.turn.summary",
            "TURN pods that are ready, of the nodes that want one."
        ),
        column(
            "Draining",
            "integer",
            ".status.turn.draining",
            "TURN pods that take no new allocations and wait for theirs to end."
        ),
        column(
            "Keys",
            "string",
            ".status.keyRing.acknowledged",
            "Serving TURN pods that have the current key ring, of all that serve."
        ),
        // Not of type date: kubectl shows dates as ages, and this one lies ahead.
        column(
            "Next rotation",
            "string",
            ".status.keyRing.nextRotation",
            "When the next key will be staged."
        ),
        column("Age", "date", ".metadata.creationTimestamp", "Since when this resource exists."),
    ])
}

fn definition() -> &'static Value {
    static DEFINITION: LazyLock<Value> = LazyLock::new(build);
    &DEFINITION
}

fn build() -> Value {
    let mut crd = json!(RtcCluster::crd());
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = columns();
    let root = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    structural(root);
    // A manifest may leave the spec out altogether.
    root["properties"]["spec"]["default"] = json!({});
    if let Some(root) = root.as_object_mut() {
        root.remove("required");
    }
    for rule in rules::RULES {
        let mut at = &mut *root;
        for step in rule.path.split('.') {
            at = &mut at["properties"][step];
        }
        add_rule(at, rule.cel, rule.message);
    }
    add_rule(root, rules::NAME_RULE.0, rules::NAME_RULE.1);
    add_rule(root, rules::REALM_RULE.0, rules::REALM_RULE.1);
    root["properties"]["status"]["properties"]["conditions"]["x-kubernetes-list-type"] = json!("map");
    root["properties"]["status"]["properties"]["conditions"]["x-kubernetes-list-map-keys"] = json!(["type"]);
    crd
}

fn add_rule(schema: &mut Value, rule: &str, message: &str) {
    let entry = json!({"rule": rule, "message": message});
    match schema.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut) {
        Some(list) => list.push(entry),
        None => schema["x-kubernetes-validations"] = json!([entry]),
    }
}

/// Takes out what the API server refuses or warns of: closed objects (it prunes by itself), `null` beside absent,
/// and formats that only Rust has.
fn structural(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.get("additionalProperties") == Some(&Value::Bool(false)) {
        object.remove("additionalProperties");
    }
    object.remove("nullable");
    if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        object.remove("format");
        object.entry("minimum").or_insert(json!(0));
    }
    for key in ["minimum", "maximum"] {
        if let Some(number) = object.get(key).and_then(Value::as_f64).filter(|number| number.fract() == 0.0) {
            #[expect(clippy::cast_possible_truncation, reason = "bounds are small whole numbers")]
            object.insert(key.to_owned(), json!(number as i64));
        }
    }
    // Lines of the source are no lines of the text; paragraphs are.
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text =
            text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    // A page on the arithmetic of quantities, at every one of them.
    if object.contains_key("x-kubernetes-int-or-string") {
        object.remove("description");
    }
    if let Some(default) = object.get_mut("default") {
        drop_empty(default);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            structural(inner);
        }
    }
}

/// Defaults are given per field; what is null or empty need not be said.
fn drop_empty(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(drop_empty);
        let kept: Map<String, Value> =
            std::mem::take(fields).into_iter().filter(|(_, value)| !value.is_null()).collect();
        *fields = kept;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::RtcClusterSpec;

    #[test]
    fn the_file_in_crds_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds/rtcclusters.yaml");
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(file == crd_yaml(), "crds/rtcclusters.yaml is not up to date: run `cargo xtask crds`");
    }

    #[test]
    fn is_a_definition_that_keeps_its_rules() {
        let crd = crd();
        let version = json!(crd.spec.versions[0]);
        let turn = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["turn"];
        assert_eq!(turn["x-kubernetes-validations"].as_array().map(Vec::len), Some(7));
        assert_eq!(version["additionalPrinterColumns"].as_array().map(Vec::len), Some(7));
        assert_eq!(crd.spec.names.short_names, Some(vec!["rtc".to_owned()]));
    }

    /// Applies the schema's defaults as the API server does: a missing field first, then inside of it.
    fn with_defaults(schema: &Value, value: &mut Value) {
        let Some(fields) = value.as_object_mut() else { return };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(default) = property.get("default")
                && !fields.contains_key(name)
            {
                fields.insert(name.clone(), default.clone());
            }
            if let Some(field) = fields.get_mut(name) {
                with_defaults(property, field);
            }
        }
    }

    #[test]
    fn defaults_in_the_schema_are_those_of_the_types() {
        let mut value = json!({});
        with_defaults(&spec_schema(), &mut value);
        let by_schema: RtcClusterSpec = serde_json::from_value(value).unwrap();
        let by_types: RtcClusterSpec = serde_json::from_value(json!({})).unwrap();
        assert_eq!(by_schema, by_types);
        assert_eq!(by_types, RtcClusterSpec::default());
    }

    /// The README has every field: what is part of Kubernetes' own types is left to Kubernetes.
    #[test]
    fn the_readme_names_every_field() {
        fn walk(schema: &Value, names: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                names.push(name.clone());
                if !["resources", "tolerations", "affinity", "podTemplate"].contains(&name.as_str()) {
                    walk(property, names);
                    walk(&property["items"], names);
                }
            }
        }
        let readme = include_str!("../../README.md");
        let words: Vec<_> = readme.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let mut names = Vec::new();
        walk(&spec_schema(), &mut names);
        names.retain(|name| !words.contains(&name.as_str()));
        assert_eq!(names, Vec::<String>::new(), "missing in operator/README.md");
    }

    /// Every field reads as documentation in `kubectl explain`.
    #[test]
    fn every_field_is_described() {
        fn walk(schema: &Value, path: &str, missing: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                if property["description"].as_str().is_none_or(str::is_empty) {
                    missing.push(path.clone());
                }
                walk(property, &path, missing);
                walk(&property["items"], &path, missing);
            }
        }
        let mut missing = Vec::new();
        walk(&spec_schema(), "spec", &mut missing);
        missing.retain(|path| !path.contains("ffinity"));
        assert_eq!(missing, Vec::<String>::new());
    }
}
