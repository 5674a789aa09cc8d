//! The chart's own roles, bound to its ServiceAccount, and what the API server's audit log shows to be used of them.

use std::{collections::BTreeSet, process::Command, time::Duration};

use kube::{
    Api, Client, Config, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, TypeMeta},
};
use rtc_operator_api::ROTATE_ANNOTATION;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    server,
    world::{Operator, World},
};

/// A verb on a resource of a group.
type Right = (String, String, String);

/// What the chart grants, by the kind of its role and namespace.
async fn install(world: &World, release: &str, all: bool) -> BTreeSet<Right> {
    let namespaces = if all { "[]".to_owned() } else { format!("[\"{}\"]", world.namespace) };
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/rtc-operator");
    let output = Command::new(server::binary("helm"))
        .args(["template", release, chart, "--kube-version", "1.34.0", "--namespace", &world.namespace])
        .args(["--set-json", &format!("watchNamespaces={namespaces}")])
        .args(["--show-only", "templates/rbac.yaml", "--show-only", "templates/serviceaccount.yaml"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut granted = BTreeSet::new();
    for document in serde_yaml::Deserializer::from_slice(&output.stdout) {
        let object = Value::deserialize(document).unwrap();
        if object.is_null() {
            continue;
        }
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words =
                |name: &str| rule[name].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned());
            for group in words("apiGroups") {
                for resource in words("resources") {
                    granted.extend(words("verbs").map(|verb| (group.clone(), resource.clone(), verb)));
                }
            }
        }
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let TypeMeta { api_version, kind } = object.types.clone().unwrap();
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> = match kind.starts_with("Cluster") {
            true => Api::all_with(world.client.clone(), &resource),
            false => Api::namespaced_with(world.client.clone(), &world.namespace, &resource),
        };
        let params = PatchParams::apply("helm").force();
        api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await.unwrap();
    }
    granted
}

/// A client with a token of the chart's ServiceAccount.
async fn account(world: &World, name: &str) -> Client {
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = world.api();
    let request =
        serde_json::from_value(json!({"spec": {"audiences": [], "expirationSeconds": 3600}})).unwrap();
    let token = accounts.create_token_request(name, &Default::default(), &request).await.unwrap();
    let mut config: Config = server::config().await;
    config.auth_info = Default::default();
    config.auth_info.token = Some(token.status.unwrap().token.into());
    Client::try_from(config).unwrap()
}

/// Everything that an operator does in its life.
async fn live(world: &World) {
    world.apply(json!({})).await;
    world.ready().await;
    world.annotate(ROTATE_ANNOTATION, "1").await;
    world
        .until("rotated", async || {
            let ring = world.cluster().await.status.and_then(|status| status.key_ring).unwrap_or_default();
            ring.keys.iter().any(|key| key.not_after.is_some())
        })
        .await;
    // Every kind of object is made, and taken away again.
    let more = json!({
        "signaling": {
            "autoscaling": {"targetConnectionsPerPod": 1000},
            "route": {"ingress": {"host": "calls.example.com"}}
        },
        "turn": {"relayPorts": {"min": 50000, "max": 60000}},
        "monitoring": {"serviceMonitor": true, "rules": true}
    });
    world.apply(more).await;
    world.scale(2).await;
    world.ready().await;
    let gateway = json!({"parentRefs": [{"name": "edge"}], "hostnames": ["calls.example.com"]});
    world
        .apply(json!({
            "signaling": {"replicas": 1, "route": {"gateway": gateway}},
            "redis": {"external": {"urlSecretRef": {"name": "redis", "key": "url"}}},
            "networkPolicies": {"enabled": false}
        }))
        .await;
    world
        .until("it is seen", async || {
            let cluster = world.cluster().await;
            cluster.status.is_some_and(|status| status.observed_generation == cluster.metadata.generation)
        })
        .await;
    world.reconcile(2).await;
    world.apply(json!({"signaling": {"replicas": 1}})).await;
    world.reconcile(2).await;
    world.ready().await;
    // The log is written as answers are.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// What an account asked for, and was refused, as the audit log has it.
fn audited(account: &str) -> (BTreeSet<Right>, Vec<String>) {
    let (mut used, mut denied) = (BTreeSet::new(), Vec::new());
    for line in std::fs::read_to_string(server::audit_log()).unwrap().lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        if entry["user"]["username"] != account
            || entry["stage"] != "ResponseComplete" && entry["verb"] != "watch"
        {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &entry["objectRef"];
        let mut resource = text(&object["resource"]);
        if let Some(sub) = object["subresource"].as_str() {
            resource = format!("{resource}/{sub}");
        }
        if entry["responseStatus"]["code"] == 403 {
            denied.push(format!("{} {}", text(&entry["verb"]), text(&entry["requestURI"])));
        }
        used.insert((text(&object["apiGroup"]), resource, text(&entry["verb"])));
    }
    (used, denied)
}

async fn compare(name: &str, all: bool) {
    let mut world = World::without_operator(name, 1).await;
    let release = format!("{name}-rtc-operator");
    let granted = install(&world, &release, all).await;
    let client = account(&world, &release).await;
    // It keeps to its namespace in both, since other tests have theirs.
    world.operator = Some(Operator::start(&client, &world.namespace, "operator"));
    live(&world).await;
    let operator = world.operator.take().unwrap();
    operator.stop().await;
    let (used, denied) = audited(&format!("system:serviceaccount:{}:{release}", world.namespace));
    assert!(denied.is_empty(), "{denied:#?}");
    let only_granted: Vec<_> = granted.difference(&used).filter(|right| !by_others(right)).collect();
    assert!(only_granted.is_empty(), "granted and not used: {only_granted:#?}");
    let only_used: Vec<_> = used.difference(&granted).collect();
    assert!(only_used.is_empty(), "used and not granted: {only_used:#?}");
}

/// What the log cannot show here. An owner reference that blocks deletion needs its right where the admission plugin
/// OwnerReferencesPermissionEnforcement is on. Server-side apply needs `create` for what is not there yet, and is a
/// `patch` in the log. And kinds that are not installed are only looked for.
fn by_others((group, resource, verb): &Right) -> bool {
    let created = ["secrets", "events", "leases"].contains(&resource.as_str());
    resource == "rtcclusters/finalizers"
        || verb == "create" && !created
        || ["gateway.networking.k8s.io", "monitoring.coreos.com"].contains(&group.as_str()) && verb != "get"
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_grants_what_is_used_and_no_more() {
    compare("rights", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_namespace_is_kept_with_its_roles_alone() {
    compare("own-rights", false).await;
}
