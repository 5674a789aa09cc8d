use k8s_openapi::api::networking::v1::Ingress;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::json;

use crate::world::{World, define};

impl World {
    async fn signaling_endpoints(&self) -> Vec<String> {
        self.cluster().await.status.and_then(|status| status.endpoints).unwrap_or_default().signaling
    }

    async fn until_route(&self, reason: &str, part: &str) {
        self.until(reason, async || {
            self.condition("RouteReady")
                .await
                .is_some_and(|(_, is, message)| is == reason && message.contains(part))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_leads_to_the_service_until_it_is_taken_away() {
    let world = World::new("ingress", 1).await;
    let ingress = json!({"className": "nginx", "host": "calls.example.com", "tlsSecretName": "calls-tls"});
    world.apply(json!({"signaling": {"route": {"ingress": ingress}}})).await;
    world.ready().await;
    world.until_route("IngressApplied", "calls-signaling").await;
    let ingresses = world.api::<Ingress>();
    let spec = json!(ingresses.get("calls-signaling").await.unwrap().spec);
    assert_eq!(spec["ingressClassName"], "nginx");
    assert_eq!(spec["rules"][0]["host"], "calls.example.com");
    let backend = &spec["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(*backend, json!({"name": "calls-signaling", "port": {"name": "http"}}));
    assert_eq!(spec["tls"], json!([{"hosts": ["calls.example.com"], "secretName": "calls-tls"}]));
    assert_eq!(world.signaling_endpoints().await[0], "https://calls.example.com");

    world.apply(json!({})).await;
    world.until("none", async || ingresses.get_opt("calls-signaling").await.unwrap().is_none()).await;
    world.until("the Service alone", async || world.signaling_endpoints().await.len() == 1).await;
    assert!(world.condition("RouteReady").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_used_from_when_its_api_is_installed() {
    let world = World::new("gateway", 1).await;
    let gateway =
        json!({"parentRefs": [{"name": "public", "namespace": "infra"}], "hostnames": ["calls.example.com"]});
    world.apply(json!({"signaling": {"route": {"gateway": gateway}}})).await;
    // All else runs without it.
    world.ready().await;
    world.until_route("GatewayApiMissing", "install the CustomResourceDefinitions").await;

    let (group, kind) = ("gateway.networking.k8s.io", "HTTPRoute");
    define(&world.client, group, "v1", kind, "httproutes").await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    let routes = Api::<DynamicObject>::namespaced_with(world.client.clone(), &world.namespace, &resource);
    world.reconcile(1).await;
    world
        .until("a route", async || routes.get_opt("calls-signaling").await.is_ok_and(|found| found.is_some()))
        .await;
    world.until_route("Pending", "parentRefs").await;
    let spec = routes.get("calls-signaling").await.unwrap().data["spec"].clone();
    assert_eq!(spec["parentRefs"], gateway["parentRefs"]);
    assert_eq!(spec["rules"][0]["backendRefs"], json!([{"name": "calls-signaling", "port": 80}]));
    assert_eq!(world.signaling_endpoints().await[0], "calls.example.com");

    let said = |status: &str| {
        json!({"status": {"parents": [{"conditions": [
            {"type": "Accepted", "status": status, "message": "no such listener"}
        ]}]}})
    };
    for (status, reason) in [("False", "NotAccepted"), ("True", "Accepted")] {
        let patch = Patch::Merge(said(status));
        routes.patch_status("calls-signaling", &PatchParams::default(), &patch).await.unwrap();
        world.reconcile(1).await;
        world.until_route(reason, "HTTPRoute calls-signaling").await;
    }
    world.apply(json!({})).await;
    world.until("none", async || routes.get_opt("calls-signaling").await.unwrap().is_none()).await;
}
