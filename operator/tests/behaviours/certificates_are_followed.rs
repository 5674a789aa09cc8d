use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Pod, Secret, Service},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use rtc_credentials::Transport;
use rtc_operator::build::FILES_ANNOTATION;
use serde_json::json;

use crate::world::World;

impl World {
    /// Puts a certificate for addresses into a Secret.
    async fn certify(&self, secret: &str, addresses: &[&str]) {
        let names: Vec<_> = addresses.iter().map(|address| (*address).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        self.put_certificate(secret, &made.cert.pem(), &made.signing_key.serialize_pem()).await;
    }

    async fn put_certificate(&self, secret: &str, certificate: &str, key: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": key}
        });
        let params = PatchParams::apply("user").force();
        self.api::<Secret>().patch(secret, &params, &Patch::Apply(&object)).await.unwrap();
    }

    async fn until_condition(&self, kind: &str, status: &str, reason: &str, part: &str) {
        self.until((kind, reason), async || {
            self.condition(kind)
                .await
                .is_some_and(|(is, why, message)| is == status && why == reason && message.contains(part))
        })
        .await;
    }

    /// What the TURN pods' kubelets were told of.
    async fn told(&self) -> Vec<String> {
        let turn = kube::api::ListParams::default().labels("app.kubernetes.io/component=turn");
        let pods = self.api::<Pod>().list(&turn).await.unwrap().items;
        pods.iter().filter_map(|pod| pod.annotations().get(FILES_ANNOTATION).cloned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_waits_for_its_certificate_and_follows_it() {
    let world = World::new("certificates", 1).await;
    let tls = json!({"secretRef": {"name": "turn-tls"}});
    let spec = json!({"turn": {"listeners": [
        {"name": "udp", "transport": "UDP", "port": 3478},
        {"name": "tls", "transport": "TLS", "port": 5349, "tls": tls},
        {"name": "dtls", "transport": "DTLS", "port": 5349, "tls": tls}
    ]}});
    world.apply(spec.clone()).await;
    let command = "kubectl create secret tls turn-tls";
    world.until_condition("SecretsResolved", "False", "SecretMissing", command).await;
    world.until_condition("TurnAvailable", "False", "SecretMissing", command).await;
    world.until_condition("Degraded", "True", "SecretMissing", "turn-tls").await;
    // Signaling does not need it, and runs.
    world
        .until("signaling", async || {
            world.condition("SignalingAvailable").await.is_some_and(|(is, ..)| is == "True")
        })
        .await;
    assert!(world.api::<DaemonSet>().get_opt("calls-turn").await.unwrap().is_none());

    // As cert-manager makes it unless it is told otherwise: TURN pods would not start with it.
    let rsa = include_str!("../../src/controller/secrets/rsa.pem");
    world.put_certificate("turn-tls", rsa, "its key is not looked at").await;
    world
        .until_condition("SecretsResolved", "False", "KeyNotForDtls", "privateKey: {algorithm: ECDSA}")
        .await;
    world.until_condition("Ready", "False", "KeyNotForDtls", "turn-tls").await;
    assert!(world.api::<DaemonSet>().get_opt("calls-turn").await.unwrap().is_none());

    world.certify("turn-tls", &["198.51.100.1"]).await;
    world.ready().await;
    // Clients are given the node's address, which the certificate must name.
    world.until_condition("CertificatesValid", "False", "AddressNotNamed", "192.0.2.1").await;
    let fleet = world.fleet().await;
    let encrypted =
        fleet.listeners.iter().filter(|l| matches!(l.transport, Transport::Tls | Transport::Dtls));
    assert_eq!(encrypted.count(), 2);
    let endpoints = world.cluster().await.status.unwrap().endpoints.unwrap().turn;
    assert!(endpoints.contains(&"turns:192.0.2.1:5349?transport=tcp".to_owned()), "{endpoints:?}");
    assert!(endpoints.contains(&"turns:192.0.2.1:5349?transport=udp".to_owned()), "{endpoints:?}");

    // As cert-manager renews it: no pod is replaced, and its kubelet is told to look.
    let (generation, told) = (world.daemonset().await.metadata.generation, world.told().await);
    world.certify("turn-tls", &["192.0.2.1"]).await;
    world.reconcile(1).await;
    world.until_condition("CertificatesValid", "True", "Valid", "turn-tls").await;
    world.until("kubelets to be told", async || world.told().await != told).await;
    assert_eq!(world.daemonset().await.metadata.generation, generation);

    // Whoever takes it away takes no pod away.
    world.api::<Secret>().delete("turn-tls", &Default::default()).await.unwrap();
    world.reconcile(1).await;
    world.until_condition("SecretsResolved", "False", "SecretMissing", command).await;
    assert_eq!(world.daemonset().await.metadata.generation, generation);
    assert!(world.condition("Ready").await.is_some_and(|(is, ..)| is == "True"));
    assert_eq!(world.fleet().await.nodes.iter().filter(|node| node.serving).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn signaling_serves_tls_behind_port_443() {
    let world = World::new("signaling-tls", 1).await;
    world.certify("front", &["calls.example.com"]).await;
    world.apply(json!({"signaling": {"tls": {"secretRef": {"name": "front"}}}})).await;
    world.ready().await;
    world.until_condition("CertificatesValid", "True", "Valid", "front").await;
    let services: Api<Service> = world.api();
    let port = services.get("calls-signaling").await.unwrap().spec.unwrap().ports.unwrap().remove(0);
    assert_eq!((port.port, port.app_protocol.as_deref()), (443, Some("https")));
    let endpoints = world.cluster().await.status.unwrap().endpoints.unwrap().signaling;
    assert_eq!(endpoints, [format!("https://calls-signaling.{}.svc", world.namespace)]);
    // And back.
    world.apply(json!({})).await;
    world
        .until("plain", async || {
            let service = services.get("calls-signaling").await.unwrap();
            service.spec.unwrap().ports.unwrap()[0].port == 80
        })
        .await;
    world
        .until("nothing to say", async || {
            world.condition("Ready").await.is_some() && world.condition("SecretsResolved").await.is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_redis_and_keys_of_tokens_change_without_a_restart() {
    let world = World::new("secrets", 1).await;
    let secret = |value: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backends"},
               "stringData": {"url": format!("rediss://:{value}@redis:6379"), "jwks.json": "{\"keys\": []}"}})
    };
    let params = PatchParams::apply("user").force();
    let secrets = world.api::<Secret>();
    secrets.patch("backends", &params, &Patch::Apply(&secret("north"))).await.unwrap();
    world
        .apply(json!({
            "signaling": {"auth": {"mode": "JWT", "jwt": {"secretRef": {"name": "backends", "key": "jwks.json"}}}},
            "redis": {"external": {"urlSecretRef": {"name": "backends", "key": "url"}, "mode": "Cluster"}}
        }))
        .await;
    let settled = world.ready().await;
    let degraded = settled.status.unwrap().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!(degraded.reason, "AsExpected");
    let deployment = json!(world.deployment().await);
    assert!(!deployment.to_string().contains("north"));
    let args = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
    for flag in
        ["--redis-mode=cluster", "--redis-url-file=/etc/rtc/redis/url", "--jwt-keys=/etc/rtc/jwt/jwks.json"]
    {
        assert!(args.as_array().unwrap().contains(&json!(flag)), "{args}");
    }
    let (generation, told) = (world.deployment().await.metadata.generation, world.told().await);
    secrets.patch("backends", &params, &Patch::Apply(&secret("south"))).await.unwrap();
    world.reconcile(1).await;
    world.until("kubelets to be told", async || world.told().await != told).await;
    assert_eq!(world.deployment().await.metadata.generation, generation);

    // A key that is gone is named, and what runs goes on.
    let without = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backends"},
                         "stringData": {"url": "redis://redis"}});
    secrets.delete("backends", &Default::default()).await.unwrap();
    secrets.patch("backends", &params, &Patch::Apply(&without)).await.unwrap();
    world.reconcile(1).await;
    world
        .until_condition("SecretsResolved", "False", "SecretMissing", "Secret backends has no jwks.json")
        .await;
    assert_eq!(world.deployment().await.metadata.generation, generation);
}
