use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rtc_operator_api::{
    RtcCluster, from_yaml,
    rules::{NAME_RULE, REALM_RULE, RULES},
};
use serde_json::{Value, json};

use crate::{server, world};

fn manifest(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster", "metadata": {"name": name}, "spec": spec})
}

/// For every rule a spec that breaks it and no other, by a part of its message.
fn breaking() -> Vec<(&'static str, Value)> {
    let udp = |name: &str, port: u16| json!({"name": name, "transport": "UDP", "port": port});
    let listeners = |list: &[Value]| json!({"turn": {"listeners": list}});
    let tls = |secret: &str| json!({"secretRef": {"name": secret}});
    let scaling = |value: Value| json!({"signaling": {"autoscaling": value}});
    vec![
        ("ttl must be 1s or more", json!({"credentials": {"ttl": "0s"}})),
        ("rotation.overlap must be at least ttl", json!({"credentials": {"ttl": "3h"}})),
        ("rotation.interval must be longer", json!({"credentials": {"rotation": {"interval": "2h"}}})),
        ("min must not be above max", json!({"turn": {"relayPorts": {"min": 5000, "max": 4999}}})),
        ("have the same name", listeners(&[udp("a", 1), udp("a", 2)])),
        ("share a port", listeners(&[udp("a", 1), udp("b", 1)])),
        ("is inside relayPorts", listeners(&[udp("a", 50000)])),
        ("needs a certificate", listeners(&[json!({"name": "a", "transport": "DTLS", "port": 1})])),
        (
            "is not encrypted",
            listeners(&[json!({"name": "a", "transport": "UDP", "port": 1, "tls": tls("a")})]),
        ),
        (
            "different certificates",
            listeners(&[
                json!({"name": "a", "transport": "TLS", "port": 1, "tls": tls("a")}),
                json!({"name": "b", "transport": "DTLS", "port": 1, "tls": tls("b")}),
            ]),
        ),
        (
            "mode STUNOnly needs a listener",
            json!({"turn": {"mode": "STUNOnly", "listeners": [{"name": "a", "transport": "TCP", "port": 1}]}}),
        ),
        ("families names one twice", json!({"turn": {"addresses": {"families": ["IPv6", "IPv6"]}}})),
        ("jwksURL is no URL", json!({"signaling": {"auth": {"mode": "JWT", "jwt": {"jwksURL": "issuer"}}}})),
        (
            "replicas and autoscaling exclude each other",
            json!({"signaling": {"replicas": 3, "autoscaling": {"targetCPUUtilization": 50}}}),
        ),
        ("minReplicas must not be above", scaling(json!({"minReplicas": 11, "targetCPUUtilization": 50}))),
        ("autoscaling needs one target", scaling(json!({}))),
        ("mode JWT needs jwt", json!({"signaling": {"auth": {"mode": "JWT"}}})),
        ("jwt needs one source of keys", json!({"signaling": {"auth": {"mode": "JWT", "jwt": {}}}})),
        ("route needs one kind", json!({"signaling": {"route": {}}})),
        (
            "managed and external exclude each other",
            json!({"redis": {"managed": {}, "external": {"urlSecretRef": {"name": "a", "key": "b"}}}}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_refuse_with_advice_on_the_server_and_without_one() {
    let clusters = Api::<kube::api::DynamicObject>::default_namespaced_with(
        server::client().await,
        &kube::core::ApiResource::erase::<RtcCluster>(&()),
    );
    let cases = breaking();
    assert_eq!(cases.len(), RULES.len(), "every rule has a case");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let refusals = world::all(cases.iter().map(|(_, spec)| {
        let object = serde_json::from_value(manifest("calls", spec)).unwrap();
        let (clusters, dry) = (&clusters, &dry);
        async move { clusters.create(dry, &object).await.expect_err("refused").to_string() }
    }))
    .await;
    for ((part, spec), refusal) in cases.iter().zip(refusals) {
        let rule = RULES.iter().find(|rule| rule.message.contains(part)).unwrap();
        assert!(refusal.contains(rule.message) && refusal.contains(rule.path), "{part}: {refusal}");
        let others = RULES.iter().filter(|other| other.message != rule.message);
        assert!(others.into_iter().all(|other| !refusal.contains(other.message)), "{part}: {refusal}");
        let local = from_yaml(&manifest("calls", spec).to_string()).unwrap_err().to_string();
        assert_eq!(local, format!("{}: {}", rule.path, rule.message));
    }
    let valid = [
        json!({}),
        json!({"credentials": {"ttl": "10s", "rotation": {"interval": "20s", "overlap": "10s"}}}),
        json!({"signaling": {"autoscaling": {"targetCPUUtilization": 50}}}),
        json!({"redis": {"external": {"urlSecretRef": {"name": "a", "key": "b"}}}}),
        json!({"signaling": {"auth": {"mode": "JWT", "jwt": {"jwksURL": "https://a.example.com/jwks"}}}}),
        json!({"turn": {"listeners": [
            {"name": "a", "transport": "TLS", "port": 1, "tls": {"secretRef": {"name": "a"}}},
            {"name": "b", "transport": "DTLS", "port": 1, "tls": {"secretRef": {"name": "a"}}},
            {"name": "c", "transport": "UDP", "port": 2}
        ]}}),
        json!({"turn": {"listeners": [{"name": "a", "transport": "UDP", "port": 443},
                                      {"name": "b", "transport": "TCP", "port": 443}]}}),
    ];
    for spec in valid {
        let object = serde_json::from_value(manifest("calls", &spec)).unwrap();
        clusters.create(&dry, &object).await.unwrap();
        from_yaml(&manifest("calls", &spec).to_string()).unwrap();
    }
    let object = serde_json::from_value(manifest("a.b", &json!({}))).unwrap();
    let refusal = clusters.create(&dry, &object).await.unwrap_err().to_string();
    assert!(refusal.contains(NAME_RULE.1), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_realm_stays_while_allocations_live() {
    let clusters = Api::<RtcCluster>::default_namespaced(server::client().await);
    let object = serde_json::from_value(manifest("realm", &json!({}))).unwrap();
    clusters.create(&PostParams::default(), &object).await.unwrap();
    let merge = PatchParams::default();
    let change = |realm: &str| Patch::Merge(json!({"spec": {"turn": {"realm": realm}}}));
    clusters.patch("realm", &merge, &change("first")).await.unwrap();
    let allocations = |count: i64| Patch::Merge(json!({"status": {"turn": {"allocations": count}}}));
    clusters.patch_status("realm", &merge, &allocations(1)).await.unwrap();
    let refusal = clusters.patch("realm", &merge, &change("second")).await.unwrap_err().to_string();
    assert!(refusal.contains(REALM_RULE.1), "{refusal}");
    clusters.patch_status("realm", &merge, &allocations(0)).await.unwrap();
    clusters.patch("realm", &merge, &change("second")).await.unwrap();
}
