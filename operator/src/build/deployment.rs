//! The signaling pods.

use serde_json::{Value, json};

use super::{Build, Desired, KEYS_DIR, Kind, TURN_DIR, pod};

pub(super) const PORT: u16 = 8080;
pub(super) const ADMIN: u16 = 9642;

/// The Deployment of the signaling pods.
#[must_use]
pub fn build(build: &Build<'_>) -> Desired {
    let spec = &build.cluster.spec.signaling;
    let mut template = template(build);
    pod::customise(&mut template, spec.pod_template.as_ref());
    build.object(
        Kind::Deployment,
        "signaling",
        "signaling",
        pod::compact(json!({"spec": {
            // Where the load decides, the field is the autoscaler's.
            "replicas": spec.autoscaling.is_none().then_some(spec.replicas),
            "revisionHistoryLimit": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": build.selector("signaling")},
            "template": template,
        }})),
    )
}

fn template(build: &Build<'_>) -> Value {
    let spec = &build.cluster.spec;
    let (volumes, mounts) = pod::files(build);
    let pull_secrets: Vec<_> = spec.image.pull_secrets.iter().map(|s| json!({"name": s.name})).collect();
    json!({
        "metadata": {"labels": build.labels("signaling")},
        "spec": {
            "serviceAccountName": build.object_name("signaling"),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "imagePullSecrets": pull_secrets,
            "securityContext": pod::security(pod::UID),
            // Beyond the drain, so that the last of it is not cut.
            "terminationGracePeriodSeconds": spec.signaling.drain.timeout.as_secs().saturating_add(10),
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": build.selector("signaling")},
            }],
            "containers": [{
                "name": "signaling",
                "image": build.image,
                "imagePullPolicy": spec.image.pull_policy.as_str(),
                "command": ["rtc-signaling"],
                "args": args(build),
                "env": env(build),
                "ports": [
                    {"name": "http", "containerPort": PORT, "protocol": "TCP"},
                    {"name": "admin", "containerPort": ADMIN, "protocol": "TCP"},
                ],
                "readinessProbe": pod::probe("/readyz", 2, 2),
                "livenessProbe": pod::probe("/healthz", 10, 3),
                "resources": spec.signaling.resources,
                "securityContext": pod::locked_down(),
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}

fn args(build: &Build<'_>) -> Vec<String> {
    let spec = &build.cluster.spec;
    let mut args = vec![
        format!("--listen=0.0.0.0:{PORT}"),
        format!("--admin=0.0.0.0:{ADMIN}"),
        format!("--keys={KEYS_DIR}"),
        format!("--turn-file={TURN_DIR}/{}", super::configmap::FILE),
        format!("--max-room-members={}", spec.signaling.max_room_members),
        format!("--credential-ttl={}", spec.credentials.ttl),
        format!("--drain-timeout={}", spec.signaling.drain.timeout),
    ];
    args.extend(spec.signaling.allowed_origins.iter().map(|origin| format!("--allowed-origin={origin}")));
    args
}

/// The store is given in the environment, since its URL may hold a password.
fn env(build: &Build<'_>) -> Value {
    match &build.cluster.spec.redis.external {
        Some(external) => json!([{
            "name": "RTC_SIGNALING_STORE",
            "valueFrom": {"secretKeyRef": {"name": external.url_secret_ref.name, "key": external.url_secret_ref.key}},
        }]),
        None => json!([{
            "name": "RTC_SIGNALING_STORE",
            "value": format!("redis://{}:6379", build.object_name("redis")),
        }]),
    }
}
