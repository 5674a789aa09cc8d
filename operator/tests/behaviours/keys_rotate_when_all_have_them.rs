use rtc_credentials::KeyRing;
use rtc_operator_api::{REVOKE_ANNOTATION, ROTATE_ANNOTATION, status::KeyRingStatus};
use serde_json::json;

use crate::world::World;

impl World {
    async fn ring(&self) -> KeyRingStatus {
        self.cluster().await.status.and_then(|status| status.key_ring).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_key_waits_for_the_last_pod() {
    let world = World::new("rotation", 2).await;
    world.apply(json!({})).await;
    world.ready().await;
    let first = world.ring().await.signing;
    let late = world.kubelet.nodes[1].clone();
    world.kubelet.set_late(&late, true);
    world.annotate(ROTATE_ANNOTATION, "1").await;
    world.until("1/2", async || world.ring().await.acknowledged == "1/2").await;
    let (is, reason, message) = world.condition("KeyRingInSync").await.unwrap();
    assert_eq!((is.as_str(), reason.as_str()), ("False", "PodsLate"));
    assert!(message.contains("calls-turn-"), "{message}");
    world.reconcile(3).await;
    assert_eq!(world.ring().await.signing, first);

    world.kubelet.set_late(&late, false);
    world.until("another key signs", async || world.ring().await.signing != first).await;
    // The old one verifies until the last of its credentials has expired.
    world
        .until("the old one retires", async || {
            world.ring().await.keys.iter().any(|key| key.id == first && key.not_after.is_some())
        })
        .await;
    let events = world.events().await;
    assert!(["KeyStaged", "KeySigning"].iter().all(|reason| events.iter().any(|event| event == reason)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_interval_turns_the_ring_by_itself() {
    let world = World::new("interval", 1).await;
    let rotation = json!({"interval": "3s", "overlap": "1s"});
    world.apply(json!({"credentials": {"ttl": "1s", "rotation": rotation}})).await;
    world.ready().await;
    let first = world.ring().await.signing;
    world
        .until("the first key is gone", async || {
            let ring = world.ring().await;
            !ring.keys.is_empty() && ring.keys.iter().all(|key| key.id != first)
        })
        .await;
    assert!(world.events().await.iter().any(|event| event == "KeyRetired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_key_is_revoked_at_once() {
    let world = World::new("revoke", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let leaked = world.ring().await.signing;
    world.annotate(REVOKE_ANNOTATION, &leaked).await;
    world.until("another key signs", async || world.ring().await.signing != leaked).await;
    assert!(!world.secret().await.unwrap().data.unwrap().contains_key(&leaked));
    world.until("KeyRevoked", async || world.events().await.iter().any(|event| event == "KeyRevoked")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_secret_loses_no_key_that_can_still_be_read() {
    let world = World::new("edited", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let first = world.ring().await.signing;
    world.annotate(ROTATE_ANNOTATION, "1").await;
    world.until("another key signs", async || world.ring().await.signing != first).await;
    world.ready().await;
    let stored = async || {
        let data = world.secret().await.unwrap().data.unwrap();
        data.into_iter().map(|(name, text)| (name, text.0)).collect::<std::collections::BTreeMap<_, _>>()
    };
    let mut before = stored().await;
    let nonsense = json!({".ring.json": "bm9uc2Vuc2U="});
    // Its state is lost, then unreadable.
    for edit in [json!({".ring.json": null}), nonsense] {
        let revision = world.ring().await.revision;
        let patch = kube::api::Patch::Merge(json!({"data": edit}));
        let secrets = world.api::<k8s_openapi::api::core::v1::Secret>();
        secrets.patch("calls-keys", &Default::default(), &patch).await.unwrap();
        world
            .until(("it is mended", &edit), async || {
                let ring = KeyRing::from_files(&stored().await);
                let mended = ring.is_ok_and(|ring| ring.revision > 0 && ring.signing().is_some());
                mended && world.ring().await.revision > revision
            })
            .await;
        let after = stored().await;
        for (name, secret) in before.iter().filter(|(name, _)| !name.starts_with('.')) {
            assert_eq!(after.get(name), Some(secret), "{name} after {edit}");
        }
        world.ready().await;
        before = stored().await;
    }
}

/// As `static-auth-secret` of a coturn whose credentials are still about.
#[tokio::test(flavor = "multi_thread")]
async fn an_existing_secret_is_adopted_without_a_gap() {
    let world = World::new("adopt", 1).await;
    let secrets = world.api::<k8s_openapi::api::core::v1::Secret>();
    let theirs = json!({"metadata": {"name": "calls-keys"}, "stringData": {"coturn": "north-by-northwest"}});
    secrets.create(&Default::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();
    world.apply(json!({})).await;
    let command = "kubectl annotate secret calls-keys rtc-operator.dev/adopt=calls";
    world
        .until("it says how to adopt it", async || {
            world
                .condition("Degraded")
                .await
                .is_some_and(|(_, reason, message)| reason == "NameTaken" && message.contains(command))
        })
        .await;
    let untouched = world.secret().await.unwrap();
    assert_eq!(untouched.data.unwrap().len(), 1);

    let annotate = json!({"metadata": {"annotations": {rtc_operator_api::ADOPT_ANNOTATION: "calls"}}});
    secrets.patch("calls-keys", &Default::default(), &kube::api::Patch::Merge(annotate)).await.unwrap();
    world.ready().await;
    assert_eq!(world.ring().await.signing, "coturn");
    assert_eq!(world.secret().await.unwrap().data.unwrap()["coturn"].0, b"north-by-northwest");
    assert!(world.events().await.iter().any(|event| event == "KeysAdopted"));

    // It verifies on while the next one signs, and is gone when it is revoked, though it was not put in by us.
    world.annotate(ROTATE_ANNOTATION, "1").await;
    world.until("another key signs", async || world.ring().await.signing != "coturn").await;
    assert!(world.secret().await.unwrap().data.unwrap().contains_key("coturn"));
    world.annotate(REVOKE_ANNOTATION, "coturn").await;
    world
        .until("it is gone", async || !world.secret().await.unwrap().data.unwrap().contains_key("coturn"))
        .await;
    world.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_secret_comes_back_above_what_pods_have_read() {
    let world = World::new("lost", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let before = world.ring().await.revision;
    let secrets = world.api::<k8s_openapi::api::core::v1::Secret>();
    secrets.delete("calls-keys", &Default::default()).await.unwrap();
    world.until("it is back", async || world.secret().await.is_some()).await;
    world.until("a higher revision", async || world.ring().await.revision > before).await;
    world
        .until("KeyRingRebuilt", async || world.events().await.iter().any(|event| event == "KeyRingRebuilt"))
        .await;
    world.ready().await;
}
