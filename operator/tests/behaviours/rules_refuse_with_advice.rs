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

/// A rule by a part of its message, a spec that breaks it and no other, and that spec as the message has it written.
struct Case {
    part: &'static str,
    refused: Value,
    taken: Value,
}

fn cases() -> Vec<Case> {
    let case = |part: &'static str, refused: Value, taken: Value| Case { part, refused, taken };
    let listener =
        |name: &str, transport: &str, port: u16| json!({"name": name, "transport": transport, "port": port});
    let udp = |name: &str, port: u16| listener(name, "UDP", port);
    let listeners = |list: &[Value]| json!({"turn": {"listeners": list}});
    let with_tls = |mut listener: Value, secret: &str| {
        listener["tls"] = json!({"secretRef": {"name": secret}});
        listener
    };
    let credentials = |value: Value| json!({"credentials": value});
    let addresses = |value: Value| json!({"turn": {"addresses": value}});
    let scaling = |value: Value| json!({"signaling": {"autoscaling": value}});
    let auth = |value: Value| json!({"signaling": {"auth": value}});
    let jwks = |url: &str| auth(json!({"mode": "JWT", "jwt": {"jwksURL": url}}));
    let secret = json!({"name": "a", "key": "b"});
    let webhook = |url: &str| json!({"signaling": {"webhook": {"url": url, "secretRef": secret}}});
    let counting = |mode: &str| {
        json!({"turn": {"quotas": {"fleetAllocationsPerUser": 4}},
               "redis": {"external": {"mode": mode, "urlSecretRef": secret}}})
    };
    let stun_only = |transport: &str| json!({"turn": {"mode": "STUNOnly", "listeners": [listener("a", transport, 3478)]}});
    let stun = "stun.example.com:3478";
    vec![
        case("ttl must be 1s or more", credentials(json!({"ttl": "0s"})), credentials(json!({"ttl": "1h"}))),
        case(
            "rotation.overlap must be at least ttl",
            credentials(json!({"ttl": "3h"})),
            credentials(json!({"ttl": "3h", "rotation": {"overlap": "3h"}})),
        ),
        case(
            "rotation.interval must be longer",
            credentials(json!({"rotation": {"interval": "2h"}})),
            credentials(json!({"rotation": {"interval": "2h1s"}})),
        ),
        case(
            "min must not be above max",
            json!({"turn": {"relayPorts": {"min": 5000, "max": 4999}}}),
            json!({"turn": {"relayPorts": {"min": 5000, "max": 5000}}}),
        ),
        case(
            "have the same name",
            listeners(&[udp("a", 1), udp("a", 2)]),
            listeners(&[udp("a", 1), udp("b", 2)]),
        ),
        case(
            "share a port",
            listeners(&[udp("a", 443), udp("b", 443)]),
            listeners(&[udp("a", 443), listener("b", "TCP", 443)]),
        ),
        case("is inside relayPorts", listeners(&[udp("a", 50000)]), listeners(&[udp("a", 49151)])),
        case(
            "needs a certificate",
            listeners(&[listener("a", "DTLS", 1)]),
            listeners(&[with_tls(listener("a", "DTLS", 1), "a")]),
        ),
        case(
            "is not encrypted",
            listeners(&[with_tls(udp("a", 1), "a")]),
            listeners(&[with_tls(listener("a", "TLS", 1), "a")]),
        ),
        case(
            "different certificates",
            listeners(&[with_tls(listener("a", "TLS", 1), "a"), with_tls(listener("b", "DTLS", 1), "b")]),
            listeners(&[with_tls(listener("a", "TLS", 1), "a"), with_tls(listener("b", "DTLS", 1), "a")]),
        ),
        case("mode STUNOnly needs a listener", stun_only("TCP"), stun_only("UDP")),
        case(
            "families names one twice",
            addresses(json!({"families": ["IPv6", "IPv6"]})),
            addresses(json!({"families": ["IPv6", "IPv4"]})),
        ),
        case(
            "stunServer is no host and port",
            addresses(json!({"stunServer": "stun.example.com"})),
            addresses(json!({"stunServer": "[2001:db8::1]:3478"})),
        ),
        case(
            "stunServer is never asked",
            addresses(json!({"stunServer": stun, "order": ["Annotation"]})),
            addresses(json!({"stunServer": stun, "order": ["Annotation", "NodeExternalIP", "STUN"]})),
        ),
        case(
            "url must be https://",
            webhook("http://backend.example.com/hooks"),
            webhook("http://backend.calls.svc/hooks"),
        ),
        case("needs one Redis that all TURN pods reach", counting("Sentinel"), counting("Standalone")),
        case("jwksURL is no URL", jwks("issuer"), jwks("https://issuer.example.com/.well-known/jwks.json")),
        case(
            "replicas and autoscaling exclude each other",
            json!({"signaling": {"replicas": 3, "autoscaling": {"targetCPUUtilization": 50}}}),
            scaling(json!({"minReplicas": 3, "targetCPUUtilization": 50})),
        ),
        case(
            "minReplicas must not be above",
            scaling(json!({"minReplicas": 11, "targetCPUUtilization": 50})),
            scaling(json!({"minReplicas": 11, "maxReplicas": 11, "targetCPUUtilization": 50})),
        ),
        case(
            "autoscaling needs one target",
            scaling(json!({})),
            scaling(json!({"targetConnectionsPerPod": 1000})),
        ),
        case(
            "mode JWT needs jwt",
            auth(json!({"mode": "JWT"})),
            auth(json!({"mode": "JWT", "jwt": {"secretRef": secret}})),
        ),
        case(
            "jwt needs one source of keys",
            auth(json!({"mode": "JWT", "jwt": {}})),
            auth(json!({"mode": "JWT", "jwt": {"secretRef": secret}})),
        ),
        case(
            "route needs one kind",
            json!({"signaling": {"route": {}}}),
            json!({"signaling": {"route": {"ingress": {"host": "calls.example.com"}}}}),
        ),
        case(
            "managed and external exclude each other",
            json!({"redis": {"managed": {}, "external": {"urlSecretRef": secret}}}),
            json!({"redis": {"external": {"urlSecretRef": secret}}}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_refuse_with_advice_on_the_server_and_without_one() {
    let clusters = Api::<kube::api::DynamicObject>::default_namespaced_with(
        server::client().await,
        &kube::core::ApiResource::erase::<RtcCluster>(&()),
    );
    let cases = cases();
    assert_eq!(cases.len(), RULES.len(), "every rule has a case");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let answers = world::all(cases.iter().map(|case| {
        let object = |spec| serde_json::from_value(manifest("calls", spec)).unwrap();
        let (refused, taken) = (object(&case.refused), object(&case.taken));
        let (clusters, dry) = (&clusters, &dry);
        async move {
            let refusal = clusters.create(dry, &refused).await.expect_err("refused").to_string();
            (refusal, clusters.create(dry, &taken).await)
        }
    }))
    .await;
    for (Case { part, refused, taken }, (refusal, answer)) in cases.iter().zip(answers) {
        let rule = RULES.iter().find(|rule| rule.message.contains(part)).unwrap();
        assert!(refusal.contains(rule.message) && refusal.contains(rule.path), "{part}: {refusal}");
        let others = RULES.iter().filter(|other| other.message != rule.message);
        assert!(others.into_iter().all(|other| !refusal.contains(other.message)), "{part}: {refusal}");
        let local = from_yaml(&manifest("calls", refused).to_string()).unwrap_err().to_string();
        assert_eq!(local, format!("{}: {}", rule.path, rule.message));
        answer.unwrap_or_else(|error| panic!("{part}: {error}"));
        from_yaml(&manifest("calls", taken).to_string()).unwrap();
    }
    for url in [
        "https://user@example.com/",
        "http://backend/",
        "ftp://a.example.com/",
        "https://",
        "http://a.b.svc:x/",
    ] {
        let spec = json!({"signaling": {"webhook": {"url": url, "secretRef": {"name": "a", "key": "b"}}}});
        let object = serde_json::from_value(manifest("calls", &spec)).unwrap();
        let refusal = clusters.create(&dry, &object).await.expect_err(url).to_string();
        assert!(refusal.contains("url must be https://"), "{url}: {refusal}");
        assert!(from_yaml(&manifest("calls", &spec).to_string()).is_err(), "{url}");
    }
    for spec in
        [json!({}), json!({"credentials": {"ttl": "10s", "rotation": {"interval": "20s", "overlap": "10s"}}})]
    {
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
