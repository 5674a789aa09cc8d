use serde_json::json;

use crate::world::{Operator, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_operator_takes_over_at_once() {
    let mut world = World::new("lease", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let second = Operator::start(&world.client, &world.namespace, "second");
    let leads = async |operator: &Operator| {
        operator.get("/status").await.is_some_and(|answer| answer.contains("\"leader\":true"))
    };
    world.until("it answers", async || second.get("/readyz").await.is_some()).await;
    world.reconcile(2).await;
    assert!(!leads(&second).await);
    world.operator.take().unwrap().stop().await;
    world.until("it leads", async || leads(&second).await).await;
    world.operator = Some(second);
    world.apply(json!({"signaling": {"replicas": 3}})).await;
    world.until("3 replicas", async || world.deployment().await.spec.unwrap().replicas == Some(3)).await;
}
