//! The promise that matters most: while a call is relayed, the key ring rotates
//! twice and a signaling pod dies, and the call never stops.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use rtc_credentials::{Credential, KeyId, KeyRing};
use rtc_e2e::browser::Browsers;
use rtc_e2e::call::Caller;
use rtc_e2e::cluster::{Cluster, condition};
use rtc_e2e::forward::Forward;
use rtc_e2e::turn_client::{Allocation, Refused, allocate};
use rtc_e2e::wait;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const NAMESPACE: &str = "e2e-rotation";
const NAME: &str = "calls";
const TURN_PORT: u16 = 3480;
const SOON: Duration = Duration::from_secs(90);
const ROOM: &str = "standup";
/// The longest time without a frame that still is no interruption.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// Credentials live for 20 s, so a key is gone about 20 s after its last use.
fn manifest() -> Value {
    json!({
        "apiVersion": "rtc-operator.dev/v1alpha1",
        "kind": "RtcCluster",
        "metadata": {"name": NAME},
        "spec": {
            "signaling": {"replicas": 2},
            "turn": {
                "listeners": [
                    {"name": "udp", "transport": "UDP", "port": TURN_PORT},
                    {"name": "tcp", "transport": "TCP", "port": TURN_PORT},
                ],
                "relayPorts": {"min": 50000, "max": 50999},
                // what this test holds on to keeps no pod of a namespace that goes
                "update": {"deadline": "20s"},
            },
            // rotation is asked for by annotation here, so the interval does not matter
            "credentials": {"ttl": "20s", "rotation": {"interval": "24h", "overlap": "20s"}},
        },
    })
}

#[tokio::test]
async fn a_relayed_call_outlives_two_rotations_and_a_pod() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.install_operator().await?;
    cluster.in_namespace(NAMESPACE, async || Test { cluster: &cluster }.run().await).await
}

struct Test<'a> {
    cluster: &'a Cluster,
}

impl Test<'_> {
    async fn run(&self) -> Result<()> {
        self.cluster.apply(NAMESPACE, &manifest().to_string()).await?;
        let pods_before = wait::until("TURN and two signaling pods", SOON, async || {
            condition(&self.rtc().await?, "Ready")?;
            let pods = self.signaling_pods().await?;
            ensure!(pods.len() == 2, "{} signaling pods are ready", pods.len());
            Ok(pods)
        })
        .await?;
        let first_ring = self.key_ring().await?;
        let first_key = first_ring.signing().context("no key signs")?.id.clone();

        // two people on two signaling pods, relayed and nothing else
        let [one, other] = &pods_before[..] else { bail!("not two pods") };
        let ways = [self.forward(one).await?, self.forward(other).await?];
        let browsers = Browsers::launch().await?;
        let alice = Caller::join(&browsers, &ways[0].url(), ROOM, "alice").await?;
        let bob = Caller::join(&browsers, &ways[1].url(), ROOM, "bob").await?;
        let pages = [&alice, &bob];
        for page in pages {
            page.watches(1).await?;
        }
        let username = alice.turn_username().await?;
        ensure!(username != bob.turn_username().await?, "both callers got the credential of {username}");
        let ids = [bob.id_of("alice").await?, alice.id_of("bob").await?];

        // a client that holds an allocation of the first key on every node; it refreshes
        // when the test says so, where a browser does every few minutes
        let mut held = self.hold_allocations(&first_ring).await?;
        for page in pages {
            page.measure_gaps().await?;
        }

        let second_key = self.rotate(&first_key).await.context("the first rotation")?;

        // a signaling pod dies without a word; its client finds the other one
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete(one, &at_once).await?;
        ways[0].lead_to(other);
        alice.has_resumed().await?;

        let third_key = self.rotate(&second_key).await.context("the second rotation")?;
        self.is_gone(&first_key).await?;

        // the first key opens nothing any more, and what it opened lives on
        for allocation in &mut held {
            let refreshed = allocation.refresh(600).await?;
            ensure!(refreshed == Ok(()), "a live allocation was refused its refresh: {refreshed:?}");
        }
        let late = mint(&first_ring)?;
        for server in self.servers().await? {
            let answer = allocate(server, &late.username, &late.password).await?.err();
            ensure!(
                answer == Some(Refused(401)),
                "{server} answered a retired key's credential with {answer:?}"
            );
        }

        // the call went on, between the members it began with
        for (page, id) in [(&alice, &ids[1]), (&bob, &ids[0])] {
            page.watches(1).await?;
            let gap = page.longest_gap(id).await?;
            println!("longest time without a frame: {gap:?}");
            ensure!(gap <= LONGEST_GAP, "the call stood still for {gap:?}");
        }

        // somebody new comes in on the dead pod's successor, with a credential of the new key
        let successor = wait::until("the dead pod's successor", SOON, async || {
            let pods = self.signaling_pods().await?;
            pods.into_iter().find(|pod| !pods_before.contains(pod)).context("no new signaling pod is ready")
        })
        .await?;
        let way = self.forward(&successor).await?;
        let carol = Caller::join(&browsers, &way.url(), ROOM, "carol").await?;
        for page in [&alice, &bob, &carol] {
            page.watches(2).await?;
        }
        let ring = self.key_ring().await?;
        let key = ring.get(&third_key).context("the signing key is not in the ring")?;
        let (username, credential) = turn_credential(&way.url()).await?;
        let expected = rtc_credentials::password(&key.secret, &username);
        ensure!(credential == expected, "a new caller's credential is not of the key that signs");
        Ok(())
    }

    /// Asks for a rotation and waits until the next key signs. Returns it.
    async fn rotate(&self, before: &KeyId) -> Result<KeyId> {
        let now = unix_now()?;
        let patch =
            json!({"metadata": {"annotations": {"rtc-operator.dev/rotate": format!("{before}-{now}")}}});
        let clusters = self.cluster.rtc_clusters(NAMESPACE);
        clusters.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await?;
        wait::until(&format!("a key after {before} to sign"), SOON, async || {
            let signing = self.key_ring().await?.signing().context("no key signs")?.id.clone();
            ensure!(signing != *before, "{before} still signs");
            let status = self.rtc().await?;
            condition(&status, "KeyRingInSync")?;
            ensure!(status.data["status"]["keyRing"]["signing"] == signing.as_str(), "status is behind");
            Ok(signing)
        })
        .await
    }

    /// Waits until a key is in no ring any more: not in the Secret, and not in a TURN pod.
    async fn is_gone(&self, key: &KeyId) -> Result<()> {
        wait::until(&format!("the key {key} to be gone"), SOON, async || {
            ensure!(self.key_ring().await?.get(key).is_none(), "it is still in the ring");
            condition(&self.rtc().await?, "KeyRingInSync")
        })
        .await
    }

    async fn hold_allocations(&self, ring: &KeyRing) -> Result<Vec<Allocation>> {
        let credential = mint(ring)?;
        let mut held = Vec::new();
        for server in self.servers().await? {
            let allocated = allocate(server, &credential.username, &credential.password).await?;
            held.push(
                allocated.map_err(|refused| anyhow!("{server} refused a good credential: {refused:?}"))?,
            );
        }
        Ok(held)
    }

    /// The TURN servers, as status.nodes advertises them.
    async fn servers(&self) -> Result<BTreeSet<SocketAddr>> {
        let rtc = self.rtc().await?;
        let nodes = rtc.data.pointer("/status/nodes").and_then(Value::as_array).context("no status.nodes")?;
        let addresses = nodes.iter().filter_map(|node| node["addresses"][0].as_str());
        let servers = addresses.map(|address| Ok(SocketAddr::new(address.parse::<IpAddr>()?, TURN_PORT)));
        let servers = servers.collect::<Result<BTreeSet<_>>>()?;
        ensure!(!servers.is_empty(), "no node has an address");
        Ok(servers)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), NAMESPACE)
    }

    /// The names of the signaling pods that are ready.
    async fn signaling_pods(&self) -> Result<Vec<String>> {
        let labels = format!("app.kubernetes.io/instance={NAME},app.kubernetes.io/component=signaling");
        let pods = self.pods().list(&ListParams::default().labels(&labels)).await?;
        let ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            pod.metadata.deletion_timestamp.is_none()
                && conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        Ok(pods.iter().filter(|pod| ready(pod)).map(ResourceExt::name_any).collect())
    }

    async fn forward(&self, pod: &str) -> Result<Forward> {
        Forward::open(self.pods(), pod, 8080).await
    }

    async fn rtc(&self) -> Result<DynamicObject> {
        Ok(self.cluster.rtc_clusters(NAMESPACE).get(NAME).await?)
    }

    async fn key_ring(&self) -> Result<KeyRing> {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        let data = secrets.get(&format!("{NAME}-keys")).await?.data.unwrap_or_default();
        Ok(KeyRing::from_files(&data.into_iter().map(|(name, bytes)| (name, bytes.0)).collect())?)
    }
}

/// A credential that does not expire during the test, so that only its key can.
fn mint(ring: &KeyRing) -> Result<Credential> {
    Ok(rtc_credentials::mint(ring, "a-client-of-the-test", Duration::from_secs(3600), unix_now()?)?)
}

/// The user name and the credential that a signaling server gives to somebody who joins a room.
async fn turn_credential(server: &str) -> Result<(String, String)> {
    let url = format!("{}/v1/connect", server.replacen("http", "ws", 1));
    let (mut socket, _) = connect_async(url).await?;
    socket.send(Message::text(json!({"type": "join", "room": "another"}).to_string())).await?;
    while let Some(frame) = socket.next().await {
        let Message::Text(text) = frame? else { continue };
        let frame: Value = serde_json::from_str(&text)?;
        if frame["type"] == "joined" {
            let servers = frame["iceServers"].as_array().context("joined without iceServers")?;
            let turn = servers.iter().find(|server| server["credential"].is_string());
            let turn = turn.with_context(|| format!("no credential in {servers:?}"))?;
            let text =
                |key: &str| turn[key].as_str().map(str::to_owned).context("iceServers of another shape");
            return Ok((text("username")?, text("credential")?));
        }
    }
    bail!("the signaling server closed before it said joined")
}

fn unix_now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
