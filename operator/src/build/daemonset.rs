//! The TURN pods, on the network of their nodes.

use k8s_openapi::api::core::v1::Toleration;
use rtc_operator_api::spec::{AddressFamily, Listener, Update, UpdateStrategy, WhenStoreIsAway};
use serde_json::{Value, json};

use crate::controller::secrets::{CERTIFICATE, KEY, turn_certificate};

use super::{
    ADMIN_PORT_ANNOTATION, Build, Desired, KEYS_DIR, Kind, TEMPLATE_LABEL, TURN_DIR, fingerprint, pod, redis,
    store,
};

/// How long a pod may take, in seconds, that is deleted although it has calls.
pub const CUT: u32 = 30;

/// How long a pod may take that anybody deletes, in seconds: the DaemonSet's controller does at once when the node
/// is no longer selected, and the calls there may go on as long as during an update. A pod without calls ends at once.
fn grace(update: &Update) -> u64 {
    match update.strategy {
        UpdateStrategy::Drain => update.deadline.as_secs().max(CUT.into()),
        UpdateStrategy::Immediate => CUT.into(),
    }
}

/// The DaemonSet of the TURN pods.
#[must_use]
pub fn build(build: &Build<'_>) -> Desired {
    let mut template = template(build);
    pod::customise(&mut template, build.cluster.spec.turn.pod_template.as_ref());
    let mut template = pod::compact(template);
    // Pods carry what they were made from, so that outdated ones are known without the controller's revisions.
    template["metadata"]["labels"][TEMPLATE_LABEL] =
        json!(format!("{:016x}", fingerprint(&template.to_string())));
    build.object(
        Kind::DaemonSet,
        "turn",
        "turn",
        json!({"spec": {
            "revisionHistoryLimit": 1,
            // The operator replaces pods itself, once their allocations have ended.
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": build.selector("turn")},
            "template": template,
        }}),
    )
}

/// What the pods of a DaemonSet tolerate.
#[must_use]
pub fn tolerations(daemonset: &Value) -> Vec<Toleration> {
    let list = daemonset["spec"]["template"]["spec"]["tolerations"].clone();
    serde_json::from_value(list).unwrap_or_default()
}

/// The label that pods of a DaemonSet's current template have.
#[must_use]
pub fn template_of(daemonset: &Value) -> &str {
    daemonset["spec"]["template"]["metadata"]["labels"][TEMPLATE_LABEL].as_str().unwrap_or_default()
}

fn template(build: &Build<'_>) -> Value {
    let spec = &build.cluster.spec;
    let turn = &spec.turn;
    let mut files = if turn.relays() { pod::files(build) } else { pod::admin_token(build) };
    if let Some(secret) = turn_certificate(spec) {
        files.secret("tls", &secret.name, &[CERTIFICATE, KEY]);
    }
    if let Some(external) = spec.redis.external.as_ref().filter(|_| turn.fleet_quota().is_some()) {
        store::mount(external, &mut files);
    }
    let pull_secrets: Vec<_> = spec.image.pull_secrets.iter().map(|s| json!({"name": s.name})).collect();
    let mut ports: Vec<_> = turn
        .listeners
        .iter()
        .map(|listener| {
            let protocol = if listener.transport.over_udp() { "UDP" } else { "TCP" };
            json!({"name": listener.name, "containerPort": listener.port, "hostPort": listener.port, "protocol": protocol})
        })
        .collect();
    let admin = admin_port(build);
    // Named as host ports, so that the scheduler keeps two clusters from one port of a node, and says so.
    ports.push(json!({"name": "admin", "containerPort": admin, "hostPort": admin, "protocol": "TCP"}));
    let privileged = turn.listeners.iter().any(Listener::is_privileged);
    let mut security = pod::locked_down();
    if privileged {
        security["capabilities"]["add"] = json!(["NET_BIND_SERVICE"]);
    }
    json!({
        "metadata": {"labels": build.labels("turn")},
        "spec": {
            "serviceAccountName": build.object_name("turn"),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "imagePullSecrets": pull_secrets,
            "hostNetwork": true,
            "dnsPolicy": "ClusterFirstWithHostNet",
            "securityContext": pod::security(if privileged { 0 } else { pod::UID }),
            "terminationGracePeriodSeconds": grace(&turn.update),
            "nodeSelector": turn.placement.node_selector,
            "tolerations": turn.placement.tolerations,
            "affinity": turn.placement.affinity,
            "containers": [{
                "name": "turn",
                "image": build.image,
                "imagePullPolicy": spec.image.pull_policy.as_str(),
                "command": ["rtc-turn"],
                // So that the status can say why it does not start: another process has its port, say.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "args": args(build),
                "env": [
                    {"name": "HOST_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}},
                    {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}},
                ],
                "ports": ports,
                "readinessProbe": pod::probe("/readyz", 2, 3),
                "livenessProbe": pod::probe("/healthz", 10, 3),
                "resources": turn.resources,
                "securityContext": security,
                "volumeMounts": files.mounts,
            }],
            "volumes": files.volumes,
        },
    })
}

fn args(build: &Build<'_>) -> Vec<String> {
    let turn = &build.cluster.spec.turn;
    // One socket per family: an IPv4 client is then seen by its own address.
    let any = turn.addresses.families.iter().map(|family| match family {
        AddressFamily::IPv4 => "0.0.0.0",
        AddressFamily::IPv6 => "[::]",
    });
    let mut args: Vec<_> = turn
        .listeners
        .iter()
        .flat_map(|l| any.clone().map(|any| format!("--listen={}://{any}:{}", l.transport.scheme(), l.port)))
        .collect();
    let host = match build.families.first() {
        Some(AddressFamily::IPv6) => "[$(HOST_IP)]",
        _ => "$(HOST_IP)",
    };
    args.extend([
        format!("--keys={KEYS_DIR}"),
        format!("--admin={host}:{}", admin_port(build)),
        // Within the grace period, so that the last allocations end by refusal rather than by a kill.
        format!("--drain-timeout={}s", grace(&turn.update).saturating_sub(5)),
    ]);
    args.extend(turn.addresses.asked().map(|server| format!("--external-stun={server}")));
    if turn_certificate(&build.cluster.spec).is_some() {
        args.extend(pod::certificate_args());
    }
    if !turn.relays() {
        args.push("--stun-only".to_owned());
        return args;
    }
    args.extend([
        "--relay-address=$(HOST_IP)".to_owned(),
        format!("--relay-ports={}-{}", turn.relay_ports.min, turn.relay_ports.max),
        format!("--realm={}", turn.realm),
        format!("--fleet-file={TURN_DIR}/{}", super::configmap::FILE),
        "--node=$(NODE_NAME)".to_owned(),
    ]);
    args.extend(turn.peers.allow.iter().map(|range| format!("--allow-peer={}", range.as_str())));
    args.extend(turn.peers.deny.iter().map(|range| format!("--deny-peer={}", range.as_str())));
    if turn.quotas.allocations > 0 {
        args.push(format!("--total-quota={}", turn.quotas.allocations));
    }
    if turn.quotas.allocations_per_user > 0 {
        args.push(format!("--user-quota={}", turn.quotas.allocations_per_user));
    }
    if let Some(quota) = turn.fleet_quota() {
        args.push(format!("--fleet-user-quota={quota}"));
        args.push(format!(
            "--quota-fail={}",
            if turn.quotas.when_store_is_away == WhenStoreIsAway::Open { "open" } else { "closed" }
        ));
        match &build.cluster.spec.redis.external {
            Some(external) => args.extend(store::args(external, "quota-redis")),
            // It has no password, so that its URL may be an argument.
            None => args.push(format!("--quota-store={}", redis::url(build))),
        }
    }
    if turn.quotas.bandwidth_per_allocation > 0 {
        args.push(format!("--bandwidth-quota={}", turn.quotas.bandwidth_per_allocation));
    }
    args
}

/// The admin port on the nodes: as annotated, or one that another RtcCluster on the same nodes is unlikely to
/// have, outside of the relayed and the listening ports.
#[must_use]
pub fn admin_port(build: &Build<'_>) -> u16 {
    let annotations = build.cluster.metadata.annotations.iter().flatten();
    let annotated =
        annotations.filter(|(key, _)| *key == ADMIN_PORT_ANNOTATION).find_map(|(_, port)| port.parse().ok());
    if let Some(port) = annotated.filter(|port| *port > 0) {
        return port;
    }
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 8_000;
    let turn = &build.cluster.spec.turn;
    let taken = |port: u16| {
        (turn.relay_ports.min..=turn.relay_ports.max).contains(&port)
            || turn.listeners.iter().any(|listener| listener.port == port)
    };
    let namespace = build.cluster.metadata.namespace.as_deref().unwrap_or_default();
    let start = fingerprint(&format!("{namespace}/{}", build.name)) % u64::from(COUNT);
    let start = u16::try_from(start).unwrap_or_default();
    let candidates = (0..COUNT).map(|step| FIRST + (start + step) % COUNT);
    // A relay range over all of these leaves the conventional one.
    candidates.into_iter().find(|port| !taken(*port)).unwrap_or(9641)
}
