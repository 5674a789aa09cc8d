//! y-webrtc: its own client, and its protocol to the letter, on two replicas.

use crate::support::{raw::Raw, *};
use serde_json::{Value, json};

async fn subscriber(replica: &Replica, topics: &[&str]) -> Raw {
    let mut client = Raw::connect(replica.address, "/y-webrtc").await;
    client.send(json!({"type": "subscribe", "topics": topics})).await;
    pong(&mut client).await;
    client
}

/// What was sent before has been dealt with, and nothing is under way.
async fn pong(client: &mut Raw) {
    client.send(json!({"type": "ping"})).await;
    client.expect(json!({"type": "pong"})).await;
}

fn publish(topic: &str, n: u32) -> Value {
    json!({"type": "publish", "topic": topic, "data": {"n": n}})
}

fn published(topic: &str, n: u32, clients: u32) -> Value {
    json!({"type": "publish", "topic": topic, "data": {"n": n}, "clients": clients})
}

on_each_store! {
    async fn unmodified_clients_share_a_document_across_replicas(backend: Backend) {
        let packages = ["y-webrtc@10.3.0", "yjs@13.6.33", "@roamhq/wrtc@0.10.0", "ws@8.23.0"];
        let packages = node::install("ywebrtc-clients", &packages);
        let (a, b) = (backend.replica().await, backend.replica().await);
        let ports = [&a, &b].map(|replica| replica.address.port().to_string());
        node::play("ywebrtc_clients/meet.cjs", &packages, &ports).await;
        eventually("all have gone", async || a.server.connections() + b.server.connections() == 0).await;
    }

    async fn a_message_reaches_every_subscriber_of_its_topic_and_its_sender(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = subscriber(&a, &["t", "u"]).await;
        let mut two = subscriber(&b, &["t"]).await;
        let mut three = subscriber(&b, &["v"]).await;
        // subscribing twice is subscribing once
        two.send(json!({"type": "subscribe", "topics": ["t", 7]})).await;
        for n in 0..20 {
            one.send(publish("t", n)).await;
        }
        for n in 0..20 {
            one.expect(published("t", n, 2)).await;
            two.expect(published("t", n, 2)).await;
        }
        // who is no subscriber may publish, and hears nothing
        three.send(publish("u", 1)).await;
        one.expect(published("u", 1, 1)).await;
        three.send(publish("nobody's", 1)).await;
        pong(&mut three).await;
        two.cut();
        eventually("it is no subscriber any more", async || {
            one.send(publish("t", 1)).await;
            one.next().await == Ok(published("t", 1, 1))
        })
        .await;
    }
}

#[tokio::test]
async fn topics_may_be_called_anything_and_belong_to_this_dialect() {
    let backend = Backend::memory();
    let replica = backend.replica().await;
    let long = "x".repeat(1000);
    let mut client = subscriber(&replica, &[&long, "a\nb", "room"]).await;
    for topic in [&long, "a\nb"] {
        client.send(publish(topic, 1)).await;
        client.expect(published(topic, 1, 1)).await;
    }
    let _native = replica.join("room").await;
    client.send(publish("room", 1)).await;
    client.expect(published("room", 1, 1)).await;
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_topics() {
    let backend = Backend::memory();
    let replica = backend.replica().await;
    let topics: Vec<String> = (0..257).map(|n| n.to_string()).collect();
    let mut client = Raw::connect(replica.address, "/y-webrtc").await;
    client.send(json!({"type": "subscribe", "topics": topics})).await;
    assert_eq!(client.closed().await, Some(4008));
    eventually("it has left them all", async || replica.server.hub().sessions() == 0).await;
}
