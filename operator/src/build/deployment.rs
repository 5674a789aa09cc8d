//! The signaling pods.

use rtc_operator_api::{
    RtcClusterSpec,
    spec::{AuthMode, ExternalRedis, RedisMode, SecretKeyRef},
};
use serde_json::{Value, json};

use crate::controller::secrets::{AUTHORITIES, CERTIFICATE, KEY, jwt_keys};

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
    if let Some(external) = &spec.redis.external {
        let SecretKeyRef { name, key } = &external.url_secret_ref;
        files.secret("redis", name, &[key]);
        let tls = external.tls.as_ref();
        if let Some(ca) = tls.and_then(|tls| tls.ca_secret_ref.as_ref()) {
            files.secret("redis-ca", &ca.name, &[AUTHORITIES]);
        }
        if let Some(client) = tls.and_then(|tls| tls.client_secret_ref.as_ref()) {
            files.secret("redis-client", &client.name, &[CERTIFICATE, KEY]);
        }
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
    args.extend(spec.redis.external.iter().flat_map(redis));
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

/// By files alone, which are followed: a new password needs no restart, and none is in the environment.
fn redis(external: &ExternalRedis) -> Vec<String> {
    let mut args = vec![format!("--redis-url-file=/etc/rtc/redis/{}", external.url_secret_ref.key)];
    match external.mode {
        RedisMode::Standalone => {}
        RedisMode::Sentinel => args.push("--redis-mode=sentinel".to_owned()),
        RedisMode::Cluster => args.push("--redis-mode=cluster".to_owned()),
    }
    let tls = external.tls.as_ref();
    if tls.is_some_and(|tls| tls.ca_secret_ref.is_some()) {
        args.push(format!("--redis-ca=/etc/rtc/redis-ca/{AUTHORITIES}"));
    }
    if tls.is_some_and(|tls| tls.client_secret_ref.is_some()) {
        args.push(format!("--redis-cert=/etc/rtc/redis-client/{CERTIFICATE}"));
        args.push(format!("--redis-key=/etc/rtc/redis-client/{KEY}"));
    }
    args
}

/// The managed Redis has no password, so that its URL may be in the environment.
fn env(build: &Build<'_>) -> Option<Value> {
    build.cluster.spec.redis.external.is_none().then(|| {
        json!([{
            "name": "RTC_SIGNALING_STORE",
            "value": format!("redis://{}:{}", build.object_name("redis"), super::redis::PORT),
        }])
    })
}
