#![allow(clippy::unwrap_used, clippy::panic)]
mod arguments;

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn with(repository: Option<&str>, tag: Option<&str>) -> String {
    let mut cluster = RtcCluster::new("calls", Default::default());
    cluster.spec.image.repository = repository.map(Into::into);
    cluster.spec.image.tag = tag.map(Into::into);
    image(&cluster, "registry:5000/rtc/operator:0.1.0")
}

#[test]
fn the_image_is_the_operators_own_but_for_what_the_spec_says() {
    assert_eq!(with(None, None), "registry:5000/rtc/operator:0.1.0");
    assert_eq!(with(None, Some("0.2.0")), "registry:5000/rtc/operator:0.2.0");
    assert_eq!(with(Some("a/b"), None), "a/b:0.1.0");
    assert_eq!(with(Some("a/b"), Some("sha256:00")), "a/b@sha256:00");
}

/// An object that is built for a spec.
fn built(spec: Value, of: impl Fn(&Build<'_>) -> Desired) -> Value {
    let object = json!({
        "apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster",
        "metadata": {"name": "calls", "namespace": "rtc"}, "spec": spec
    });
    let cluster: RtcCluster = serde_json::from_value(object).unwrap();
    of(&Build::new(&cluster, "rtc:test")).value
}

/// The pod that a workload makes.
fn pod_of(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

fn args(workload: &Value) -> Vec<&str> {
    let args = pod_of(workload)["containers"][0]["args"].as_array().unwrap();
    args.iter().filter_map(Value::as_str).collect()
}

/// Where a container has the files of a Secret, and which of them.
fn mounted<'a>(workload: &'a Value, secret: &str) -> (&'a str, Vec<&'a str>) {
    let pod = pod_of(workload);
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["secret"]["secretName"] == secret).unwrap();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
    assert!(mount["readOnly"] == true && mount["subPath"].is_null());
    let items = volume["secret"]["items"].as_array().unwrap();
    (mount["mountPath"].as_str().unwrap(), items.iter().filter_map(|item| item["path"].as_str()).collect())
}

#[test]
fn turn_listeners_with_tls_share_one_mounted_certificate() {
    let tls = json!({"secretRef": {"name": "turn-tls"}});
    let listeners = json!([
        {"name": "udp", "transport": "UDP", "port": 3478},
        {"name": "tls", "transport": "TLS", "port": 5349, "tls": tls},
        {"name": "dtls", "transport": "DTLS", "port": 5349, "tls": tls}
    ]);
    let turn = built(json!({"turn": {"listeners": listeners}}), daemonset::build);
    let args = args(&turn);
    for expected in [
        "--listen=udp://0.0.0.0:3478",
        "--listen=tls://0.0.0.0:5349",
        "--listen=dtls://0.0.0.0:5349",
        "--tls-cert=/etc/rtc/tls/tls.crt",
        "--tls-key=/etc/rtc/tls/tls.key",
    ] {
        assert!(args.contains(&expected), "{expected} in {args:?}");
    }
    assert_eq!(mounted(&turn, "turn-tls"), ("/etc/rtc/tls", vec!["tls.crt", "tls.key"]));
    let ports = pod_of(&turn)["containers"][0]["ports"].as_array().unwrap();
    assert_eq!(ports[2]["protocol"], "UDP");
}

#[test]
fn quotas_are_given_in_the_units_of_the_server() {
    let quotas = json!({"allocations": 500, "allocationsPerUser": 3, "bandwidthPerAllocation": 312_500});
    let turn = built(json!({"turn": {"quotas": quotas}}), daemonset::build);
    let with = ["--total-quota=500", "--user-quota=3", "--bandwidth-quota=312500"];
    assert!(with.iter().all(|flag| args(&turn).contains(flag)));
    let turn = built(json!({}), daemonset::build);
    assert!(args(&turn).iter().all(|flag| !flag.contains("quota")));
}

#[test]
fn signaling_with_tls_is_led_to_by_a_port_of_its_own() {
    let spec = json!({"signaling": {
        "tls": {"secretRef": {"name": "front"}},
        "route": {"ingress": {"host": "calls.example.com"}}
    }});
    let deployment = built(spec.clone(), deployment::build);
    assert!(args(&deployment).contains(&"--tls-cert=/etc/rtc/tls/tls.crt"));
    assert!(args(&deployment).contains(&"--tls-key=/etc/rtc/tls/tls.key"));
    assert_eq!(mounted(&deployment, "front").0, "/etc/rtc/tls");
    let container = &pod_of(&deployment)["containers"][0];
    assert_eq!(container["ports"][0]["name"], "https");
    // The admin port stays as it is, and with it the probes.
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": "admin"}));
    let service = built(spec.clone(), service::build);
    let port = json!([{"name": "https", "port": 443, "targetPort": "https", "protocol": "TCP", "appProtocol": "https"}]);
    assert_eq!(service["spec"]["ports"], port);
    let ingress = built(spec, |build| ingress::build(build).unwrap());
    let backend = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(backend["port"]["name"], "https");
}

#[test]
fn tokens_are_checked_by_mounted_keys_or_by_the_issuers() {
    let auth = |jwt: Value| json!({"signaling": {"auth": {"mode": "JWT", "jwt": jwt}}});
    let keys =
        auth(json!({"secretRef": {"name": "keys", "key": "jwks.json"}, "issuer": "me", "audience": "calls"}));
    let deployment = built(keys, deployment::build);
    for flag in ["--auth=jwt", "--jwt-keys=/etc/rtc/jwt/jwks.json", "--jwt-issuer=me", "--jwt-audience=calls"]
    {
        assert!(args(&deployment).contains(&flag), "{flag}");
    }
    assert_eq!(mounted(&deployment, "keys"), ("/etc/rtc/jwt", vec!["jwks.json"]));

    for (url, port) in [("https://a.example.com/jwks", 443), ("http://a:8080/jwks", 8080), ("http://a/", 80)]
    {
        let issuer = auth(json!({"jwksURL": url}));
        let deployment = built(issuer.clone(), deployment::build);
        assert!(args(&deployment).contains(&format!("--jwt-jwks-url={url}").as_str()));
        let policy =
            built(issuer, |build| networkpolicy::build(build, "rtc-system", &BTreeSet::new()).remove(0));
        let last = policy["spec"]["egress"].as_array().and_then(|list| list.last()).unwrap();
        assert_eq!(*last, json!({"ports": [{"port": port, "protocol": "TCP"}]}));
    }
    // Whoever is anonymous needs no keys, be they named or not.
    let open = json!({"signaling": {"auth": {"jwt": {"secretRef": {"name": "keys", "key": "a"}}}}});
    assert!(args(&built(open, deployment::build)).iter().all(|flag| !flag.contains("jwt")));
}

#[test]
fn an_external_redis_is_named_by_files_alone() {
    let redis = json!({
        "urlSecretRef": {"name": "redis", "key": "url"}, "mode": "Sentinel",
        "tls": {"caSecretRef": {"name": "ca"}, "clientSecretRef": {"name": "client"}}
    });
    let deployment = built(json!({"redis": {"external": redis}}), deployment::build);
    for flag in [
        "--redis-url-file=/etc/rtc/redis/url",
        "--redis-mode=sentinel",
        "--redis-ca=/etc/rtc/redis-ca/ca.crt",
        "--redis-cert=/etc/rtc/redis-client/tls.crt",
        "--redis-key=/etc/rtc/redis-client/tls.key",
    ] {
        assert!(args(&deployment).contains(&flag), "{flag}");
    }
    assert!(pod_of(&deployment)["containers"][0]["env"].is_null());
    assert_eq!(mounted(&deployment, "redis"), ("/etc/rtc/redis", vec!["url"]));
    assert_eq!(mounted(&deployment, "ca"), ("/etc/rtc/redis-ca", vec!["ca.crt"]));
    let policies = json!({"redis": {"external": {"urlSecretRef": {"name": "redis", "key": "url"}}}});
    let policy =
        built(policies, |build| networkpolicy::build(build, "rtc-system", &BTreeSet::new()).remove(0));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
}

#[test]
fn a_managed_redis_is_all_that_signaling_reaches_beside_dns() {
    let policies = |build: &Build<'_>, which: usize| {
        networkpolicy::build(build, "rtc-system", &BTreeSet::new()).remove(which)
    };
    let signaling = built(json!({}), |build| policies(build, 0));
    let out = signaling["spec"]["egress"].as_array().unwrap();
    assert_eq!(out.len(), 2);
    assert!(out[0]["to"].is_null() && out[0]["ports"][0] == json!({"port": 53, "protocol": "UDP"}));
    assert_eq!(out[1]["to"][0]["podSelector"]["matchLabels"][COMPONENT_LABEL], "redis");
    let redis = built(json!({}), |build| policies(build, 1));
    assert_eq!(redis["spec"]["egress"], json!([]));
}

#[test]
fn webhooks_are_signed_by_a_mounted_secret_and_let_out() {
    let webhook = |url: &str| json!({"signaling": {"webhook": {"url": url, "secretRef": {"name": "hook", "key": "s"}}}});
    let deployment = built(webhook("https://a.example.com/hooks"), deployment::build);
    for flag in ["--webhook-url=https://a.example.com/hooks", "--webhook-secret-file=/etc/rtc/webhook/s"] {
        assert!(args(&deployment).contains(&flag), "{flag}");
    }
    assert_eq!(mounted(&deployment, "hook"), ("/etc/rtc/webhook", vec!["s"]));
    let inside =
        json!({"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "backend"}}}]});
    let port = |port: u16| json!({"ports": [{"port": port, "protocol": "TCP"}]});
    for (url, expected) in [
        ("https://a.example.com/hooks", port(443)),
        ("https://a.example.com:8443/hooks", port(8443)),
        // The Service's port need not be the pods'.
        ("http://hooks.backend.svc/a", inside.clone()),
        ("http://hooks.backend.svc.cluster.local:8080", inside),
    ] {
        let policy = built(webhook(url), |build| {
            networkpolicy::build(build, "rtc-system", &BTreeSet::new()).remove(0)
        });
        let last = policy["spec"]["egress"].as_array().and_then(|list| list.last()).unwrap();
        assert_eq!(*last, expected, "{url}");
    }
}

#[test]
fn a_quota_of_the_fleet_leads_turn_pods_to_redis() {
    let quotas = json!({"fleetAllocationsPerUser": 4, "whenStoreIsAway": "Closed"});
    let turn = built(json!({"turn": {"quotas": quotas}}), daemonset::build);
    for flag in ["--fleet-user-quota=4", "--quota-fail=closed", "--quota-store=redis://calls-redis:6379"] {
        assert!(args(&turn).contains(&flag), "{flag} in {:?}", args(&turn));
    }
    let nodes = BTreeSet::from(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
    let redis = |spec: Value| {
        let policy = built(spec, |build| networkpolicy::build(build, "rtc-system", &nodes).remove(1));
        policy["spec"]["ingress"][0]["from"].as_array().unwrap()[1..].to_vec()
    };
    let blocks = ["192.0.2.1/32", "2001:db8::1/128"].map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
    assert_eq!(redis(json!({"turn": {"quotas": quotas}})), blocks);
    assert!(redis(json!({})).is_empty());

    let external =
        json!({"urlSecretRef": {"name": "redis", "key": "url"}, "tls": {"caSecretRef": {"name": "ca"}}});
    let turn = built(json!({"turn": {"quotas": quotas}, "redis": {"external": external}}), daemonset::build);
    for flag in ["--quota-redis-url-file=/etc/rtc/redis/url", "--quota-redis-ca=/etc/rtc/redis-ca/ca.crt"] {
        assert!(args(&turn).contains(&flag), "{flag}");
    }
    assert_eq!(mounted(&turn, "redis"), ("/etc/rtc/redis", vec!["url"]));
    // STUN alone counts nothing.
    let stun = built(json!({"turn": {"mode": "STUNOnly", "quotas": quotas}}), daemonset::build);
    assert!(args(&stun).iter().all(|flag| !flag.contains("quota")));
}

#[test]
fn capacity_is_what_the_relay_ports_and_the_quota_leave() {
    let expression = |spec: Value| {
        let rule = built(spec, |build| prometheusrule::build(build).unwrap());
        let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap().clone();
        let low = rules.iter().find(|rule| rule["alert"] == "RtcTurnCapacityLow").unwrap();
        low["expr"].as_str().unwrap().to_owned()
    };
    let rules = json!({"rules": true});
    assert!(expression(json!({"monitoring": rules})).ends_with("* 16384) > 0.8"));
    let ports = json!({"relayPorts": {"min": 50000, "max": 50099}});
    assert!(expression(json!({"monitoring": rules, "turn": ports})).ends_with("* 100) > 0.8"));
    let quota = json!({"quotas": {"allocations": 500}});
    assert!(expression(json!({"monitoring": rules, "turn": quota})).ends_with("* 500) > 0.8"));
}

#[test]
fn turn_pods_listen_on_every_family_that_clients_are_given() {
    let listens = |families: Value| {
        let addresses = json!({"turn": {"addresses": {"families": families}}});
        let turn = built(addresses, daemonset::build);
        let all: Vec<_> =
            args(&turn).iter().filter_map(|flag| flag.strip_prefix("--listen=")).map(str::to_owned).collect();
        all
    };
    assert_eq!(listens(json!(["IPv4"])), ["udp://0.0.0.0:3478", "tcp://0.0.0.0:3478"]);
    assert_eq!(listens(json!(["IPv6"])), ["udp://[::]:3478", "tcp://[::]:3478"]);
    assert_eq!(listens(json!(["IPv4", "IPv6"])).len(), 4);
}

#[test]
fn admin_ports_and_signaling_are_in_the_families_of_the_cluster() {
    let flags = |families: Value, of: fn(&Build<'_>) -> Desired| {
        let service = json!({"spec": {"ipFamilies": families}});
        let cluster = RtcCluster::new("calls", Default::default());
        let build = Build::new(&cluster, "rtc:test").in_families_of(Some(&service));
        args(&of(&build).value).join(" ")
    };
    let four = json!(["IPv4"]);
    assert!(flags(four.clone(), daemonset::build).contains("--admin=$(HOST_IP):"));
    assert!(flags(four, deployment::build).contains("--listen=0.0.0.0:8080 --admin=0.0.0.0:9642"));
    let six = json!(["IPv6"]);
    assert!(flags(six.clone(), daemonset::build).contains("--admin=[$(HOST_IP)]:"));
    assert!(flags(six, deployment::build).contains("--listen=[::]:8080 --admin=[::]:9642"));
    // Nodes are known by the first one; a Service has both.
    let both = json!(["IPv4", "IPv6"]);
    assert!(flags(both.clone(), daemonset::build).contains("--admin=$(HOST_IP):"));
    assert!(flags(both, deployment::build).contains("--listen=[::]:8080"));
}

#[test]
fn a_turn_pod_that_anybody_deletes_may_end_its_calls() {
    let pod = |update: Value| built(json!({"turn": {"update": update}}), daemonset::build);
    let turn = pod(json!({"deadline": "15m"}));
    assert_eq!(pod_of(&turn)["terminationGracePeriodSeconds"], 900);
    assert!(args(&turn).contains(&"--drain-timeout=895s"));
    for short in [json!({"strategy": "Immediate"}), json!({"deadline": "1s"})] {
        assert_eq!(pod_of(&pod(short))["terminationGracePeriodSeconds"], daemonset::CUT);
    }
}
