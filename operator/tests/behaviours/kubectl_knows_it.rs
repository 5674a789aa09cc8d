//! What people type.

use std::process::{Command, Output};

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use crate::{server, world::World};

fn kubectl(args: &[&str]) -> Output {
    let mut command = Command::new(server::binary("kubectl"));
    command.arg("--kubeconfig").arg(server::kubeconfig()).args(args).output().unwrap()
}

fn told(args: &[&str]) -> String {
    let output = kubectl(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn tell(args: &[&str]) -> String {
    let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let told = move || told(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(told).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_get_and_scale_work() {
    let world = World::new("kubectl", 1).await;
    world.apply(json!({})).await;
    let namespace = world.namespace.as_str();
    tell(&["wait", "-n", namespace, "rtc/calls", "--for=condition=Ready", "--timeout=60s"]).await;
    world.ready().await;
    let table = tell(&["get", "-n", namespace, "rtc"]).await;
    let (head, row) = table.split_once('\n').unwrap();
    let words: Vec<_> = head.split_whitespace().collect();
    assert_eq!(words, ["NAME", "READY", "SIGNALING", "TURN", "DRAINING", "KEYS", "NEXT", "ROTATION", "AGE"]);
    let cells: Vec<_> = row.split_whitespace().take(6).collect();
    assert_eq!(cells, ["calls", "True", "2/2", "1/1", "0", "1/1"]);

    tell(&["scale", "-n", namespace, "rtc/calls", "--replicas=3"]).await;
    world.until("3 replicas", async || world.deployment().await.spec.unwrap().replicas == Some(3)).await;
    world.ready().await;
    // What an autoscaler of people's own would read.
    let scale = tell(&["get", "-n", namespace, "rtc/calls", "--subresource=scale", "-o=json"]).await;
    let scale: serde_json::Value = serde_json::from_str(&scale).unwrap();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(3), &json!(3)));
    let selector = scale["status"]["selector"].as_str().unwrap();
    let selected = kube::api::ListParams::default().labels(selector);
    assert_eq!(world.api::<k8s_openapi::api::core::v1::Pod>().list(&selected).await.unwrap().items.len(), 3);
    let deployments = world.api::<Deployment>();
    assert_eq!(deployments.list(&Default::default()).await.unwrap().items.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_reads_like_documentation() {
    server::client().await;
    // The API server may still be working on what it tells of a definition that was just made.
    let mut text = String::new();
    for _ in 0..600 {
        let output =
            tokio::task::spawn_blocking(|| kubectl(&["explain", "rtc.spec.turn.addresses"])).await.unwrap();
        text = String::from_utf8(output.stdout).unwrap();
        if text.contains("stunServer") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for part in
        ["GROUP:      rtc-operator.dev", "Under which addresses clients reach the nodes.", "stunServer"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let all = tell(&["explain", "rtc", "--recursive"]).await;
    assert!(all.contains("fleetAllocationsPerUser") && all.contains("drainDeadline"), "{all}");
}
