use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::world::{World, define};

const GROUP: &str = "monitoring.coreos.com";

impl World {
    fn monitoring(&self, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    async fn until_monitoring(&self, reason: &str) {
        self.until(reason, async || {
            self.condition("MonitoringApplied").await.is_some_and(|(_, is, _)| is == reason)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_and_alerts_are_there_while_they_are_asked_for() {
    let world = World::new("monitoring", 2).await;
    let labels = json!({"release": "prometheus", "app.kubernetes.io/managed-by": "me"});
    let asked = json!({"monitoring": {"serviceMonitor": true, "rules": true, "labels": labels}});
    world.apply(asked.clone()).await;
    // All else runs without the Prometheus operator.
    world.ready().await;
    world.until_monitoring("PrometheusOperatorMissing").await;

    define(&world.client, GROUP, "v1", "ServiceMonitor", "servicemonitors").await;
    define(&world.client, GROUP, "v1", "PrometheusRule", "prometheusrules").await;
    world.reconcile(1).await;
    world.until_monitoring("Applied").await;
    let (monitors, rules) = (world.monitoring("ServiceMonitor"), world.monitoring("PrometheusRule"));
    let monitor = monitors.get("calls-metrics").await.unwrap();
    assert_eq!(monitor.labels()["release"], "prometheus");
    assert_eq!(monitor.labels()["app.kubernetes.io/managed-by"], "rtc-operator");
    // It selects the Service, whose one port is that of the pods' admin ports.
    let services = world.api::<Service>();
    let service = services.get("calls-metrics").await.unwrap();
    let wanted = monitor.data["spec"]["selector"]["matchLabels"].as_object().unwrap();
    assert!(
        wanted.iter().all(|(name, value)| service.labels().get(name).map(String::as_str) == value.as_str())
    );
    let spec = json!(service.spec);
    assert_eq!(spec["clusterIP"], "None");
    assert_eq!(spec["ports"][0]["targetPort"], "admin");
    assert_eq!(spec["ports"][0]["name"], monitor.data["spec"]["endpoints"][0]["port"]);

    let alerts = rules.get("calls-alerts").await.unwrap().data["spec"]["groups"][0]["rules"].clone();
    for alert in alerts.as_array().unwrap() {
        let text = |field: &str| alert.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert!(
            !text("/annotations/description").is_empty() && !text("/annotations/summary").is_empty(),
            "{alert}"
        );
        assert!(text("/expr").contains(&world.namespace), "{alert}");
    }

    // What alerts ask of the operator is there to be asked.
    world.kubelet.set_allocations(&world.kubelet.nodes[0], 7);
    let own = format!("rtc_namespace=\"{}\",rtc_cluster=\"calls\"", world.namespace);
    let metrics = async || world.operator.as_ref().unwrap().get("/metrics").await.unwrap();
    let has = async |line: String| metrics().await.lines().any(|has| has == line);
    world.until("allocations", async || has(format!("rtc_operator_turn_allocations{{{own}}} 7")).await).await;
    assert!(has(format!("rtc_operator_turn_capacity{{{own}}} 32768")).await, "{}", metrics().await);
    assert!(has(format!("rtc_operator_turn_nodes{{state=\"Serving\",{own}}} 2")).await);
    assert!(has(format!("rtc_operator_condition{{type=\"Ready\",reason=\"Available\",{own}}} 1")).await);
    assert!(metrics().await.contains(&format!("rtc_operator_key_rotation_timestamp_seconds{{{own}}} ")));
    let capacity = world.cluster().await.status.unwrap().turn.unwrap().capacity;
    assert_eq!(capacity, 2 * 16384);

    // Nothing is written while nothing changes, and what others add stays.
    let label = Patch::Merge(json!({"metadata": {"labels": {"team": "calls"}}}));
    monitors.patch("calls-metrics", &PatchParams::default(), &label).await.unwrap();
    let version = monitors.get("calls-metrics").await.unwrap().resource_version();
    world.reconcile(3).await;
    assert_eq!(monitors.get("calls-metrics").await.unwrap().resource_version(), version);

    world.apply(json!({"monitoring": {"rules": true}})).await;
    world.until("no monitor", async || monitors.get_opt("calls-metrics").await.unwrap().is_none()).await;
    world.until("no Service", async || services.get_opt("calls-metrics").await.unwrap().is_none()).await;
    assert!(rules.get_opt("calls-alerts").await.unwrap().is_some());
    world.apply(json!({})).await;
    world.until("no alerts", async || rules.get_opt("calls-alerts").await.unwrap().is_none()).await;
    world
        .until("nothing to say", async || {
            world.condition("Ready").await.is_some() && world.condition("MonitoringApplied").await.is_none()
        })
        .await;
}
