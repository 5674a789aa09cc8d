#![allow(clippy::unwrap_used, clippy::panic)]
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

fn cluster(spec: serde_json::Value) -> RtcCluster {
    let object = json!({
        "apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster",
        "metadata": {"name": "calls", "namespace": "rtc"}, "spec": spec
    });
    serde_json::from_value(object).unwrap()
}

fn with_tls() -> RtcCluster {
    let tls = json!({"secretRef": {"name": "turn-tls"}});
    cluster(json!({"turn": {"listeners": [
        {"name": "udp", "transport": "UDP", "port": 3478},
        {"name": "tls", "transport": "TLS", "port": 5349, "tls": tls},
        {"name": "dtls", "transport": "DTLS", "port": 5349, "tls": tls}
    ]}}))
}

fn secret(data: &[(&str, &[u8])]) -> Secret {
    let data =
        data.iter().map(|(name, content)| ((*name).to_owned(), ByteString(content.to_vec()))).collect();
    Secret { data: Some(data), ..Secret::default() }
}

/// A certificate for addresses, from some days before now until some days after.
fn pem(addresses: &[&str], from: i64, until: i64) -> String {
    let names: Vec<_> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    let day = |days: i64| {
        let at = Timestamp::from_second(i64::try_from(NOW).unwrap() + days * DAY).unwrap();
        let at = at.to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(i32::from(at.year()), at.month().unsigned_abs(), at.day().unsigned_abs())
    };
    (parameters.not_before, parameters.not_after) = (day(-from), day(until));
    let key = rcgen::KeyPair::generate().unwrap();
    parameters.self_signed(&key).unwrap().pem()
}

fn observed(secrets: &[(&str, Secret)]) -> Observed {
    let given = secrets.iter().map(|(name, secret)| ((*name).to_owned(), given(secret))).collect();
    Observed { now: NOW, given, ..Observed::default() }
}

fn nodes(address: &str) -> Vec<PlannedNode> {
    vec![PlannedNode {
        node: "w1".into(),
        pod: "turn-w1".into(),
        addresses: vec![address.parse().unwrap()],
        serving: true,
        reason: None,
        stun: None,
    }]
}

/// The reason and message of `CertificatesValid`.
fn judged(pem: &str) -> (bool, &'static str, String) {
    let observed = observed(&[("turn-tls", secret(&[(CERTIFICATE, pem.as_bytes()), (KEY, b"key")]))]);
    let facts = facts(&with_tls(), &observed, &nodes("192.0.2.1"));
    let fact = facts.into_iter().find(|fact| fact.kind == "CertificatesValid").unwrap();
    (fact.is, fact.reason, fact.message)
}

#[test]
fn a_manifest_that_names_no_secret_has_no_condition_about_them() {
    let cluster = cluster(json!({}));
    assert!(expected(&cluster.spec).is_empty());
    assert!(facts(&cluster, &Observed::default(), &[]).is_empty());
    assert_eq!(version(&Observed::default()), "");
}

#[test]
fn every_secret_that_a_field_names_is_expected() {
    let cluster = cluster(json!({
        "signaling": {
            "tls": {"secretRef": {"name": "a"}},
            "auth": {"mode": "JWT", "jwt": {"secretRef": {"name": "b", "key": "jwks.json"}}}
        },
        "redis": {"external": {
            "urlSecretRef": {"name": "c", "key": "url"},
            "tls": {"caSecretRef": {"name": "d"}, "clientSecretRef": {"name": "e"}}
        }}
    }));
    let names: Vec<_> =
        expected(&cluster.spec).iter().map(|e| format!("{} {}", e.secret, e.keys.join(","))).collect();
    assert_eq!(names, ["a tls.crt,tls.key", "b jwks.json", "c url", "d ca.crt", "e tls.crt,tls.key"]);
}

#[test]
fn what_is_missing_is_named_with_the_command_that_makes_it() {
    let cluster = with_tls();
    let missing = |observed: &Observed| super::missing(&cluster, observed, Component::Turn);
    let why = missing(&Observed::default()).unwrap().message;
    assert!(why.contains("spec.turn.listeners.tls: there is no Secret turn-tls"), "{why}");
    assert!(why.contains("kubectl create secret tls turn-tls -n rtc --cert=FILE --key=FILE"), "{why}");
    assert_eq!(super::missing(&cluster, &Observed::default(), Component::Signaling), None);

    let half = observed(&[("turn-tls", secret(&[(CERTIFICATE, b"x"), (KEY, b"")]))]);
    assert!(missing(&half).unwrap().message.contains("Secret turn-tls has no tls.key"));
    let wrong = observed(&[("turn-tls", secret(&[(CERTIFICATE, b"x"), (KEY, b"key")]))]);
    assert!(missing(&wrong).unwrap().message.contains("is no certificate: it is not PEM"));
    let pem = pem(&["192.0.2.1"], 1, 90);
    let whole = observed(&[("turn-tls", secret(&[(CERTIFICATE, pem.as_bytes()), (KEY, b"key")]))]);
    assert_eq!(missing(&whole), None);
}

#[test]
fn a_certificate_says_until_when_and_for_whom_it_is_good() {
    let (is, reason, message) = judged(&pem(&["192.0.2.1"], 1, 90));
    assert!(is && reason == "Valid" && message.contains("Secret turn-tls, at 2027-"), "{message}");
    assert_eq!(judged(&pem(&["192.0.2.1"], 30, 7)).1, "EndsSoon");
    // One that lives for a week is renewed late, and that is well.
    assert_eq!(judged(&pem(&["192.0.2.1"], 3, 4)).1, "Valid");
    let (is, reason, message) = judged(&pem(&["192.0.2.1"], 30, -1));
    assert!(!is && reason == "Expired" && message.contains("renew it"), "{message}");
    assert_eq!(judged(&pem(&["192.0.2.1"], -2, 30)).1, "NotYetValid");
    let (is, reason, message) = judged(&pem(&["turn.example.com", "192.0.2.9"], 1, 90));
    assert!(!is && reason == "AddressNotNamed" && message.contains("does not name 192.0.2.1"), "{message}");
}

#[test]
fn nothing_secret_is_kept() {
    let kept = given(&secret(&[("url", b"redis://:north@redis")]));
    assert!(!format!("{kept:?}").contains("north"));
}

#[test]
fn a_new_version_of_a_secret_is_told_to_the_kubelets() {
    let at = |version: &str| {
        let mut observed = observed(&[("a", secret(&[("url", b"x")]))]);
        observed.given.get_mut("a").unwrap().version = version.to_owned();
        super::version(&observed)
    };
    assert_eq!(at("1"), at("1"));
    assert_ne!(at("1"), at("2"));
}

#[test]
fn an_rsa_certificate_waits_where_dtls_is_served_and_nowhere_else() {
    // Made by: openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=turn -days 36500 -addext subjectAltName=IP:192.0.2.1
    const RSA: &[u8] = include_bytes!("rsa.pem");
    let observed = observed(&[("turn-tls", secret(&[(CERTIFICATE, RSA), (KEY, b"key")]))]);
    let lack = missing(&with_tls(), &observed, Component::Turn).unwrap();
    assert_eq!(lack.reason, "KeyNotForDtls");
    assert!(
        lack.message.contains("Secret turn-tls") && lack.message.contains("privateKey: {algorithm: ECDSA}")
    );
    let facts = facts(&with_tls(), &observed, &nodes("192.0.2.1"));
    let resolved = facts.iter().find(|fact| fact.kind == "SecretsResolved").unwrap();
    assert!(!resolved.is && resolved.reason == "KeyNotForDtls", "{}", resolved.message);

    let mut without = with_tls();
    without.spec.turn.listeners.retain(|listener| listener.transport != Transport::Dtls);
    assert_eq!(missing(&without, &observed, Component::Turn), None);
}

#[test]
fn keys_of_both_curves_that_dtls_takes_are_taken() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let made =
            rcgen::CertificateParams::new(["192.0.2.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let taken = certificate(made.pem().as_bytes()).unwrap().dtls;
        assert_eq!(taken, algorithm != &rcgen::PKCS_ED25519);
    }
}
