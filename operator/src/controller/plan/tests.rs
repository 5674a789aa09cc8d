#![allow(clippy::unwrap_used)]
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use rtc_operator_api::RtcClusterStatus;
use serde_json::{Value, json};

use super::*;
use crate::controller::{
    conditions::{self, Counts},
    pods::SignalingPod,
    poll::{SignalingReport, SignalingRing, TurnReport, TurnRing},
    validate::validate,
};

const IMAGE: &str = "rtc:test";

fn cluster() -> RtcCluster {
    let mut cluster = RtcCluster::new("calls", Default::default());
    cluster.metadata.namespace = Some("default".into());
    cluster.metadata.uid = Some("uid".into());
    cluster
}

fn decide(cluster: &RtcCluster, observed: &Observed) -> Plan {
    plan(cluster, observed, &validate(cluster), IMAGE, "rtc-system").unwrap()
}

fn find<'a>(plan: &'a Plan, kind: Kind, name: &str) -> &'a Desired {
    plan.objects.iter().find(|object| object.kind == kind && object.name == name).unwrap()
}

/// What is read after a plan was applied and pods came up on `nodes`, with everything read.
fn after(plan: &Plan, nodes: &[&str], now: u64) -> Observed {
    let mut observed = Observed { now, ..Observed::default() };
    let mut files = plan.ring.ring.to_files();
    files.insert(rtc_credentials::ADMIN_TOKEN_FILE.into(), plan.ring.token.clone().into_bytes());
    observed.ring = crate::rotation::Stored { files: Some(files), rotated: plan.ring.rotated.clone() };
    let json = find(plan, Kind::ConfigMap, "calls-turn").value["data"]["turn.json"].as_str().unwrap();
    let fleet = Fleet::from_json(json.as_bytes()).unwrap();
    let keys = plan.ring.ring.keys.iter().map(|key| key.id.to_string()).collect();
    let ring = TurnRing { revision: plan.ring.ring.revision, keys };
    for (index, name) in nodes.iter().enumerate() {
        observed.turn.push(TurnPod {
            name: format!("turn-{name}"),
            node: Some((*name).to_owned()),
            ready: true,
            running: true,
            template: plan.template.clone(),
            files: plan.files.clone(),
            report: Some(TurnReport { ring: ring.clone(), ..TurnReport::default() }),
            ..TurnPod::default()
        });
        let address = format!("192.0.2.{}", index + 1);
        let node = json!({
            "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}
        });
        observed.nodes.insert((*name).to_owned(), serde_json::from_value(node).unwrap());
    }
    observed.signaling.push(SignalingPod {
        name: "signaling".into(),
        running: true,
        files: plan.files.clone(),
        report: Some(SignalingReport {
            ring: SignalingRing { revision: plan.ring.ring.revision },
            fleet_revision: Some(fleet.revision.clone()),
            connections: 0,
        }),
        ..SignalingPod::default()
    });
    observed.fleet = Some(fleet);
    observed
}

/// Plans until nothing changes any more.
fn settled(cluster: &RtcCluster, nodes: &[&str], now: u64) -> (Plan, Observed) {
    let mut plan = decide(cluster, &Observed { now, ..Observed::default() });
    for _ in 0..5 {
        let observed = after(&plan, nodes, now);
        plan = decide(cluster, &observed);
    }
    let observed = after(&plan, nodes, now);
    (plan, observed)
}

#[test]
fn nothing_is_privileged_and_no_pod_has_a_token() {
    let plan = decide(&cluster(), &Observed::default());
    let pods = plan.objects.iter().filter(|o| matches!(o.kind, Kind::Deployment | Kind::DaemonSet));
    let mut seen = 0;
    for object in pods {
        seen += 1;
        let pod = &object.value["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "{}", object.name);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().unwrap() {
            assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
            assert!(container["resources"]["requests"]["cpu"].is_string());
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn redis_answers_signaling_alone_and_admin_ports_those_who_ask_for_a_living() {
    let plan = decide(&cluster(), &Observed::default());
    let ingress = |name: &str| find(&plan, Kind::NetworkPolicy, name).value["spec"]["ingress"].clone();
    let from = json!([{"podSelector": {"matchLabels": {
        "rtc-operator.dev/cluster": "calls", "app.kubernetes.io/component": "signaling"
    }}}]);
    assert_eq!(ingress("calls-redis"), json!([{"ports": [{"port": 6379, "protocol": "TCP"}], "from": from}]));
    let namespaces = |label: &str, value: &str| json!({"namespaceSelector": {"matchLabels": {label: value}}});
    let admin = json!([
        namespaces("kubernetes.io/metadata.name", "rtc-system"),
        namespaces("rtc-operator.dev/monitoring", "true")
    ]);
    assert_eq!(
        ingress("calls-signaling"),
        json!([{"ports": [{"port": 8080, "protocol": "TCP"}]},
               {"ports": [{"port": 9642, "protocol": "TCP"}], "from": admin}])
    );
    let mut without = cluster();
    without.spec.network_policies.enabled = false;
    let plan = decide(&without, &Observed::default());
    assert!(plan.objects.iter().all(|object| object.kind != Kind::NetworkPolicy));
}

#[test]
fn a_node_serves_once_its_pod_has_the_key_that_signs() {
    let (plan, mut observed) = settled(&cluster(), &["w1", "w2"], 100);
    assert!(plan.nodes.iter().all(|node| node.serving));
    assert!(plan.refresh.is_empty());
    assert_eq!(plan.requeue, RESYNC);
    // One that is new and has not read the ring does not.
    observed.fleet.as_mut().unwrap().nodes.retain(|node| node.node == "w1");
    observed.turn[1].report = Some(TurnReport::default());
    let plan = decide(&cluster(), &observed);
    assert_eq!(plan.nodes[1].reason, Some(Reason::Keys));
}

#[test]
fn a_node_serves_once_its_pod_tells_peers_the_address_that_clients_are_sent_to() {
    let (_, mut observed) = settled(&cluster(), &["w1", "w2"], 100);
    observed.fleet.as_mut().unwrap().nodes.retain(|node| node.node == "w1");
    let mut reason = |advertised: &str| {
        observed.turn[1].report.as_mut().unwrap().relay_addresses = vec![advertised.parse().unwrap()];
        let plan = decide(&cluster(), &observed);
        (plan.nodes[1].reason.clone(), plan.requeue)
    };
    assert_eq!(reason("10.0.0.7"), (Some(Reason::Unread), WAITING));
    assert_eq!(reason("192.0.2.2").0, None);
    // a family that clients are not sent to
    assert_eq!(reason("2001:db8::1").0, None);
    // One that serves is not taken out while its new address is being read.
    observed.fleet.as_mut().unwrap().nodes[0].serving = true;
    observed.turn[0].report.as_mut().unwrap().relay_addresses = vec!["10.0.0.7".parse().unwrap()];
    assert!(decide(&cluster(), &observed).nodes[0].serving);
}

#[test]
fn turn_is_available_once_signaling_pods_send_clients_there_and_stays_so() {
    let (_, mut observed) = settled(&cluster(), &["w1"], 100);
    let available = |cluster: &RtcCluster, observed: &Observed| {
        let plan = decide(cluster, observed);
        let facts = conditions::facts(cluster, observed, &plan, &validate(cluster), Counts::default(), None);
        let facts = conditions::conditions(facts, &[], None, &Time(Timestamp::UNIX_EPOCH));
        let turn = facts.iter().find(|condition| condition.type_ == "TurnAvailable").unwrap();
        (turn.reason.clone(), plan.requeue, facts)
    };
    let (reason, requeue, settled) = available(&cluster(), &observed);
    assert_eq!((reason.as_str(), requeue), ("NodesServe", RESYNC));
    observed.signaling[0].report.as_mut().unwrap().fleet_revision = Some("older".into());
    let (reason, requeue, _) = available(&cluster(), &observed);
    assert_eq!((reason.as_str(), requeue), ("NotHandedOut", WAITING));
    let mut before = cluster();
    before.status = Some(RtcClusterStatus { conditions: settled, ..RtcClusterStatus::default() });
    assert_eq!(available(&before, &observed).0, "NodesServe");
}

#[test]
fn a_revoked_key_takes_no_node_out_while_none_has_the_next() {
    let (_, observed) = settled(&cluster(), &["w1", "w2"], 100);
    let leaked = observed.turn[0].report.as_ref().unwrap().ring.keys[0].clone();
    let mut asked = cluster();
    asked.metadata.annotations = Some([(REVOKE_ANNOTATION.to_owned(), leaked)].into());
    assert!(decide(&asked, &observed).nodes.iter().all(|node| node.serving));
}

#[test]
fn the_same_world_gives_the_same_plan() {
    let (first, observed) = settled(&cluster(), &["w1"], 100);
    let again = decide(&cluster(), &observed);
    assert_eq!(first.objects, again.objects);
    assert!(again.moves.is_empty() && again.refresh.is_empty() && again.remove.is_empty());
}

#[test]
fn a_changed_template_takes_one_node_out_before_anything_else() {
    let (_, observed) = settled(&cluster(), &["w1", "w2"], 100);
    let mut changed = cluster();
    changed.spec.turn.realm = "other".into();
    let plan = decide(&changed, &observed);
    assert_eq!(plan.moves, [("turn-w1".to_owned(), Move::Mark)].into());
    let serving: Vec<_> = plan.nodes.iter().map(|node| node.serving).collect();
    assert_eq!(serving, [false, true]);
    // It stays a legitimate peer of the others.
    let text = find(&plan, Kind::ConfigMap, "calls-turn").value["data"]["turn.json"].as_str().unwrap();
    assert_eq!(Fleet::from_json(text.as_bytes()).unwrap().nodes.len(), 2);
}

#[test]
fn a_cordoned_node_gets_no_new_clients_and_keeps_its_pod() {
    let (_, mut observed) = settled(&cluster(), &["w1"], 100);
    std::sync::Arc::make_mut(observed.nodes.get_mut("w1").unwrap()).spec =
        Some(k8s_openapi::api::core::v1::NodeSpec { unschedulable: Some(true), ..Default::default() });
    let plan = decide(&cluster(), &observed);
    assert_eq!(plan.nodes[0].reason, Some(Reason::Cordoned("the node is cordoned".into())));
    assert!(plan.moves.is_empty());
}

#[test]
fn a_taint_that_turn_pods_do_not_tolerate_is_as_good_as_a_cordon() {
    let serves = |taint: Value, tolerations: Value| {
        let mut tolerant = cluster();
        tolerant.spec.turn.placement.tolerations = serde_json::from_value(tolerations).unwrap();
        let (_, mut observed) = settled(&tolerant, &["w1"], 100);
        let spec = json!({"taints": [taint]});
        std::sync::Arc::make_mut(observed.nodes.get_mut("w1").unwrap()).spec =
            Some(serde_json::from_value(spec).unwrap());
        let plan = decide(&tolerant, &observed);
        assert!(plan.moves.is_empty());
        plan.nodes[0].serving
    };
    let taint = json!({"key": "pool", "value": "old", "effect": "NoSchedule"});
    assert!(!serves(taint.clone(), json!([])));
    let scaled_down = json!({"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"});
    assert!(!serves(scaled_down, json!([{"key": "pool", "operator": "Exists"}])));
    assert!(!serves(taint.clone(), json!([{"key": "pool", "value": "new"}])));
    assert!(!serves(taint.clone(), json!([{"key": "pool", "value": "old", "effect": "NoExecute"}])));
    assert!(serves(taint.clone(), json!([{"key": "pool", "operator": "Equal", "value": "old"}])));
    assert!(serves(taint, json!([{"operator": "Exists"}])));
    // What is no matter of scheduling, or of the node's health.
    assert!(serves(json!({"key": "pool", "effect": "PreferNoSchedule"}), json!([])));
    assert!(serves(json!({"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}), json!([])));
}

#[test]
fn pods_are_told_of_new_files_and_only_then() {
    let (plan, mut observed) = settled(&cluster(), &["w1"], 100);
    assert!(plan.refresh.is_empty());
    observed.turn[0].files = "old".into();
    assert_eq!(decide(&cluster(), &observed).refresh, ["turn-w1"]);
}

#[test]
fn an_external_redis_takes_the_managed_one_away() {
    let (_, mut observed) = settled(&cluster(), &["w1"], 100);
    let existing =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "calls-redis"}});
    let key = ("Deployment", "calls-redis".to_owned());
    observed.objects.insert(key, serde_json::from_value(existing).unwrap());
    let mut external = cluster();
    external.spec.redis.external = Some(Default::default());
    assert_eq!(decide(&external, &observed).remove, [(Kind::Deployment, "calls-redis".to_owned())]);
    assert!(decide(&cluster(), &observed).remove.is_empty());
}

#[test]
fn two_clusters_have_different_admin_ports_outside_of_the_relayed_ones() {
    let port = |name: &str, min: u16| {
        let mut cluster = cluster();
        cluster.metadata.name = Some(name.into());
        cluster.spec.turn.relay_ports = spec::PortRange { min, max: 65535 };
        daemonset::admin_port(&Build::new(&cluster, IMAGE))
    };
    assert_ne!(port("a", 49152), port("b", 49152));
    assert!(port("a", 20_001) == 20_000 || port("a", 20_001) == 9641);
}

#[test]
fn a_low_port_gets_the_one_capability_that_it_needs() {
    let mut low = cluster();
    low.spec.turn.listeners[1].port = 443;
    let plan = decide(&low, &Observed::default());
    let pod = &find(&plan, Kind::DaemonSet, "calls-turn").value["spec"]["template"]["spec"];
    let expected = json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]});
    assert_eq!(pod["containers"][0]["securityContext"]["capabilities"], expected);
}

#[test]
fn a_certificate_that_is_not_there_leaves_everything_as_it_runs() {
    let (before, mut observed) = settled(&cluster(), &["w1", "w2"], 100);
    for kind in [Kind::DaemonSet, Kind::Deployment] {
        for object in before.objects.iter().filter(|object| object.kind == kind) {
            let live = serde_json::from_value(object.value.clone()).unwrap();
            observed.objects.insert((kind.name(), object.name.clone()), live);
        }
    }
    let mut encrypted = cluster();
    let tls = spec::Tls { secret_ref: spec::SecretRef { name: "turn-tls".into() } };
    let listener = spec::Listener {
        name: "tls".into(),
        transport: spec::Transport::Tls,
        port: 5349,
        tls: Some(tls.clone()),
    };
    encrypted.spec.turn.listeners.push(listener);
    encrypted.spec.signaling.tls = Some(tls);
    let plan = decide(&encrypted, &observed);
    assert!(plan.moves.is_empty() && plan.remove.is_empty() && plan.nodes.iter().all(|node| node.serving));
    let workloads = plan.objects.iter().filter(|o| matches!(o.kind, Kind::DaemonSet | Kind::Deployment));
    let names: Vec<_> = workloads.map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["calls-redis"]);
    let text = find(&plan, Kind::ConfigMap, "calls-turn").value["data"]["turn.json"].as_str().unwrap();
    assert_eq!(Fleet::from_json(text.as_bytes()).unwrap().listeners.len(), 2);
    assert!(plan.turn_waits.is_some() && plan.signaling_waits.is_some() && plan.requeue == SECRETS);
}

#[test]
fn more_nodes_than_a_status_lists_are_in_a_config_map() {
    let names: Vec<_> = (0..70).map(|index| format!("w{index}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let listed = |plan: &Plan| {
        let map = plan.objects.iter().find(|object| object.name == "calls-nodes")?;
        Some(map.value["data"]["nodes.jsonl"].as_str().unwrap().lines().count())
    };
    let (plan, mut observed) = settled(&cluster(), &names, 100);
    assert_eq!(listed(&plan), Some(70));
    // Calls come and go without a write.
    let before = find(&plan, Kind::ConfigMap, "calls-nodes").clone();
    observed.turn[3].report.as_mut().unwrap().allocations = 9;
    assert_eq!(*find(&decide(&cluster(), &observed), Kind::ConfigMap, "calls-nodes"), before);
    let (plan, _) = settled(&cluster(), &names[..64], 100);
    assert_eq!(listed(&plan), None);
}
