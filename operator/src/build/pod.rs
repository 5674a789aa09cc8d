//! What all pods have in common: how they are locked down, and how the manifest's own wishes are merged in.

use rtc_credentials::ADMIN_TOKEN_FILE;
use rtc_operator_api::spec::PodTemplate;
use serde_json::{Map, Value, json};

use super::Build;
use crate::controller::secrets::{CERTIFICATE, KEY};

/// The user that the image's programs run as.
pub const UID: i64 = 65532;

/// The security context of a container that needs nothing.
#[must_use]
pub fn locked_down() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// The security context of a pod that runs as `uid`.
#[must_use]
pub fn security(uid: i64) -> Value {
    json!({
        "runAsNonRoot": uid != 0,
        "runAsUser": uid,
        "runAsGroup": uid,
        "fsGroup": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// A probe of the admin port.
#[must_use]
pub fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "admin"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    })
}

/// Where the certificate that clients are shown is mounted.
const TLS_DIR: &str = "/etc/rtc/tls";

/// What a container reads from files.
pub struct Files {
    /// The volumes of the pod.
    pub volumes: Vec<Value>,
    /// Where the container has them. Never by subPath: such a mount never changes.
    pub mounts: Vec<Value>,
}

impl Files {
    /// Mounts some keys of a Secret, as files of that name, at `/etc/rtc/NAME`.
    pub fn secret(&mut self, name: &str, secret: &str, keys: &[&str]) {
        let items: Vec<_> = keys.iter().map(|key| json!({"key": key, "path": key})).collect();
        self.volumes.push(
            json!({"name": name, "secret": {"secretName": secret, "defaultMode": 0o440, "items": items}}),
        );
        self.mounts.push(json!({"name": name, "mountPath": format!("/etc/rtc/{name}"), "readOnly": true}));
    }
}

/// The token of the admin port alone, for pods that need no keys.
#[must_use]
pub fn admin_token(build: &Build<'_>) -> Files {
    let mut files = Files { volumes: Vec::new(), mounts: Vec::new() };
    files.secret("keys", &build.object_name("keys"), &[ADMIN_TOKEN_FILE]);
    files
}

/// The mounted key ring and fleet.
#[must_use]
pub fn files(build: &Build<'_>) -> Files {
    Files {
        volumes: vec![
            json!({"name": "keys", "secret": {"secretName": build.object_name("keys"), "defaultMode": 0o440}}),
            json!({"name": "turn", "configMap": {"name": build.object_name("turn"), "defaultMode": 0o444}}),
        ],
        mounts: vec![
            json!({"name": "keys", "mountPath": super::KEYS_DIR, "readOnly": true}),
            json!({"name": "turn", "mountPath": super::TURN_DIR, "readOnly": true}),
        ],
    }
}

/// The flags that name the certificate that clients are shown.
#[must_use]
pub fn certificate_args() -> [String; 2] {
    [format!("--tls-cert={TLS_DIR}/{CERTIFICATE}"), format!("--tls-key={TLS_DIR}/{KEY}")]
}

/// Merges what the manifest says of pods into a template of the operator. Labels of the operator stay.
pub fn customise(template: &mut Value, user: Option<&PodTemplate>) {
    let Some(user) = user else { return };
    let own = template["metadata"].clone();
    merge(
        &mut template["metadata"],
        json!({"labels": user.metadata.labels, "annotations": user.metadata.annotations}),
    );
    merge(&mut template["metadata"], own);
    merge(&mut template["spec"], Value::Object(user.spec.clone()));
}

/// Merges `over` into `base`: objects field by field, lists of named things by name, other lists by appending,
/// and all else replaced.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(Value::Array(list)) if value.is_array() => merge_list(&key, list, value),
                    Some(field) => merge(field, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn merge_list(field: &str, base: &mut Vec<Value>, over: Value) {
    // As in the strategic merge of the API server.
    let key = match field {
        "volumeMounts" => "mountPath",
        "ports" => "containerPort",
        _ => "name",
    };
    let Value::Array(over) = over else { return };
    for item in over {
        let name = item.get(key).cloned();
        match base.iter_mut().find(|old| name.is_some() && old.get(key) == name.as_ref()) {
            Some(old) => merge(old, item),
            None => base.push(item),
        }
    }
}

/// Takes out fields that say nothing, which the API server would not keep.
#[must_use]
pub fn compact(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k, compact(v)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(compact).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_name_is_merged_by_it_and_what_has_none_is_appended() {
        let mut template = json!({
            "metadata": {"labels": {"a": "ours"}},
            "spec": {"containers": [{"name": "turn", "image": "x", "env": [{"name": "A", "value": "1"}]}],
                     "tolerations": [{"key": "a"}]}
        });
        let user = PodTemplate {
            metadata: rtc_operator_api::spec::PodTemplateMetadata {
                labels: [("a".into(), "theirs".into()), ("b".into(), "theirs".into())].into(),
                annotations: Default::default(),
            },
            spec: json!({
                "containers": [{"name": "turn", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
                               {"name": "side", "image": "y"}],
                "tolerations": [{"key": "b"}],
                "priorityClassName": "high"
            })
            .as_object()
            .cloned()
            .unwrap_or_default(),
        };
        customise(&mut template, Some(&user));
        assert_eq!(
            template,
            json!({
                "metadata": {"labels": {"a": "ours", "b": "theirs"}, "annotations": {}},
                "spec": {
                    "containers": [
                        {"name": "turn", "image": "x",
                         "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
                        {"name": "side", "image": "y"}
                    ],
                    "tolerations": [{"key": "a"}, {"key": "b"}],
                    "priorityClassName": "high"
                }
            })
        );
    }
}
