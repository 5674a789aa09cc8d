//! The signaling pods.

use rtc_operator_api::{
    RtcClusterSpec,
    spec::{AuthMode, ExternalRedis, RedisMode},
};
use serde_json::{Value, json};

use crate::controller::secrets::{CERTIFICATE, KEY, jwt_keys};

use super::{Build, Desired, KEYS_DIR, Kind, TURN_DIR, pod, redis, store};

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
    let files = files(build);
    let port = if spec.signaling.tls.is_some() { "https" } else { "http" };
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
                    {"name": port, "containerPort": PORT, "protocol": "TCP"},
                    {"name": "admin", "containerPort": ADMIN, "protocol": "TCP"},
                ],
                "readinessProbe": pod::probe("/readyz", 2, 2),
                "livenessProbe": pod::probe("/healthz", 10, 3),
                "resources": spec.signaling.resources,
                "securityContext": pod::locked_down(),
                "volumeMounts": files.mounts,
            }],
            "volumes": files.volumes,
        },
    })
}

fn files(build: &Build<'_>) -> pod::Files {
    let spec = &build.cluster.spec;
    let mut files = pod::files(build);
    if let Some(tls) = &spec.signaling.tls {
        files.secret("tls", &tls.secret_ref.name, &[CERTIFICATE, KEY]);
    }
    if let Some(keys) = jwt_keys(spec) {
        files.secret("jwt", &keys.name, &[&keys.key]);
    }
    if let Some(webhook) = &spec.signaling.webhook {
        files.secret("webhook", &webhook.secret_ref.name, &[&webhook.secret_ref.key]);
    }
    if let Some(external) = &spec.redis.external {
        store::mount(external, &mut files);
    }
    files
}

fn args(build: &Build<'_>) -> Vec<String> {
    let spec = &build.cluster.spec;
    let mut args = vec![
        format!("--listen={}:{PORT}", build.any_address()),
        format!("--admin={}:{ADMIN}", build.any_address()),
        format!("--keys={KEYS_DIR}"),
        format!("--turn-file={TURN_DIR}/{}", super::configmap::FILE),
        format!("--max-room-members={}", spec.signaling.max_room_members),
        format!("--credential-ttl={}", spec.credentials.ttl),
        format!("--drain-timeout={}", spec.signaling.drain.timeout),
    ];
    args.extend(spec.signaling.allowed_origins.iter().map(|origin| format!("--allowed-origin={origin}")));
    if spec.signaling.tls.is_some() {
        args.extend(pod::certificate_args());
    }
    args.extend(auth(spec));
    if let Some(webhook) = &spec.signaling.webhook {
        args.push(format!("--webhook-url={}", webhook.url));
        args.push(format!("--webhook-secret-file=/etc/rtc/webhook/{}", webhook.secret_ref.key));
    }
    args.extend(spec.redis.external.iter().flat_map(external_redis));
    args
}

fn auth(spec: &RtcClusterSpec) -> Vec<String> {
    let auth = &spec.signaling.auth;
    let Some(jwt) = auth.jwt.as_ref().filter(|_| auth.mode == AuthMode::Jwt) else { return Vec::new() };
    let mut args = vec!["--auth=jwt".to_owned()];
    args.extend(jwt.secret_ref.iter().map(|keys| format!("--jwt-keys=/etc/rtc/jwt/{}", keys.key)));
    args.extend(jwt.jwks_url.iter().map(|url| format!("--jwt-jwks-url={url}")));
    args.extend(jwt.issuer.iter().map(|issuer| format!("--jwt-issuer={issuer}")));
    args.extend(jwt.audience.iter().map(|audience| format!("--jwt-audience={audience}")));
    args
}

fn external_redis(external: &ExternalRedis) -> Vec<String> {
    let mut args = store::args(external, "redis");
    match external.mode {
        RedisMode::Standalone => {}
        RedisMode::Sentinel => args.push("--redis-mode=sentinel".to_owned()),
        RedisMode::Cluster => args.push("--redis-mode=cluster".to_owned()),
    }
    args
}

/// The managed Redis has no password, so that its URL may be in the environment.
fn env(build: &Build<'_>) -> Option<Value> {
    build.cluster.spec.redis.external.is_none().then(|| {
        json!([{
            "name": "RTC_SIGNALING_STORE",
            "value": redis::url(build),
        }])
    })
}
