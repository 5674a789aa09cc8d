//! One command and one manifest give a whole cluster within a minute; editing
//! the manifest changes it; deleting the manifest leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use rtc_credentials::KeyRing;
use rtc_e2e::cluster::{Cluster, OPERATOR_NAMESPACE, condition, repository_root};
use rtc_e2e::turn_client::{Refused, allocate};
use rtc_e2e::wait;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "e2e-manifest";
/// The name in examples/rtccluster.yaml.
const NAME: &str = "calls";
/// How long the pods of a change may take.
const SOON: Duration = Duration::from_secs(90);

#[tokio::test]
async fn from_nothing_to_a_cluster_and_back() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.uninstall_operator().await?;
    cluster
        .in_namespace(NAMESPACE, async || {
            let test = Test { cluster: &cluster };
            test.install().await.context("installing")?;
            test.every_node_relays().await.context("TURN on every node")?;
            test.columns_tell_the_state().await.context("kubectl get rtc")?;
            test.edits_take_effect().await.context("editing the manifest")?;
            test.deleting_leaves_nothing().await.context("deleting the manifest")
        })
        .await
}

struct Test<'a> {
    cluster: &'a Cluster,
}

impl Test<'_> {
    async fn install(&self) -> Result<()> {
        let started = Instant::now();
        let left = || Duration::from_secs(60).saturating_sub(started.elapsed());
        self.cluster.install_operator().await?;
        let manifest = std::fs::read_to_string(repository_root().join("examples/rtccluster.yaml"))?;
        self.cluster.apply(NAMESPACE, &manifest).await?;
        wait::until("the condition Ready within a minute of `helm install`", left(), async || {
            condition(&self.rtc().await?, "Ready")
        })
        .await?;
        println!("Ready {:.1} s after `helm install` began", started.elapsed().as_secs_f64());
        wait::until("all of it within a minute of `helm install`", left(), async || {
            self.everything_is_there().await
        })
        .await?;
        println!("all of it {:.1} s after `helm install` began", started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn everything_is_there(&self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.cluster.client.clone(), OPERATOR_NAMESPACE);
        let leases = leases.list(&ListParams::default()).await?;
        let held = |lease: &Lease| lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.is_some());
        ensure!(leases.iter().any(held), "no operator holds a lease in {OPERATOR_NAMESPACE}");

        let ring = self.key_ring().await?;
        ensure!(ring.signing().is_some(), "no key of the ring signs");

        let signaling: Deployment = self.owned("signaling").await?;
        let ready = signaling.status.as_ref().and_then(|status| status.ready_replicas);
        ensure!(ready == Some(2), "{ready:?} signaling pods are ready, not 2");
        let redis: Deployment = self.owned("redis").await?;
        ensure!(
            redis.status.as_ref().and_then(|status| status.ready_replicas) == Some(1),
            "Redis is not ready"
        );

        let service: Service = self.owned("signaling").await?;
        let slices = self.api::<EndpointSlice>().list(&ListParams::default()).await?;
        let behind = slices.iter().filter(|slice| {
            slice.labels().get("kubernetes.io/service-name") == service.metadata.name.as_ref()
        });
        let behind = behind.flat_map(|slice| &slice.endpoints);
        let ready = behind.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count();
        ensure!(ready == 2, "{ready} pods are behind the signaling Service, not 2");

        let nodes = self.cluster.schedulable_nodes().await?;
        let wanted: BTreeSet<String> = nodes.iter().map(ResourceExt::name_any).collect();
        let daemons: DaemonSet = self.owned("turn").await?;
        let status = daemons.status.context("the DaemonSet has no status")?;
        ensure!(
            status.number_ready as usize == wanted.len(),
            "{} TURN pods are ready on {} nodes",
            status.number_ready,
            wanted.len()
        );
        let mut on = BTreeSet::new();
        for pod in self.pods("turn").await? {
            let spec = pod.spec.context("a pod without a spec")?;
            ensure!(spec.host_network == Some(true), "a TURN pod is not on its node's network");
            ensure!(spec.automount_service_account_token == Some(false), "a TURN pod has an API token");
            on.insert(spec.node_name.context("a pod without a node")?);
        }
        ensure!(on == wanted, "TURN pods run on {on:?}, not on {wanted:?}");

        let rtc = self.rtc().await?;
        for kind in ["SignalingAvailable", "TurnAvailable", "AddressesResolved", "KeyRingInSync"] {
            condition(&rtc, kind)?;
        }
        ensure!(
            rtc.data.pointer("/status/observedGeneration").and_then(Value::as_i64) == rtc.metadata.generation,
            "status.observedGeneration is behind"
        );
        for node in &nodes {
            let name = node.name_any();
            let listed =
                rtc.data.pointer("/status/nodes").and_then(Value::as_array).context("no status.nodes")?;
            let listed = listed.iter().find(|entry| entry["node"] == name.as_str());
            let listed = listed.with_context(|| format!("{name} is not in status.nodes"))?;
            ensure!(listed["state"] == "Serving", "{name} is {}", listed["state"]);
            let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
            let internal = addresses.into_iter().flatten().find(|address| address.type_ == "InternalIP");
            let internal = internal.context("a node without an InternalIP")?.address.as_str();
            let advertised = listed["addresses"].as_array().context("no addresses")?;
            ensure!(
                advertised.iter().any(|a| a == internal),
                "{name} advertises {advertised:?}, not {internal}"
            );
        }
        Ok(())
    }

    /// A credential of the ring is taken on every node, and a forged one on none.
    async fn every_node_relays(&self) -> Result<()> {
        let ring = self.key_ring().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let credential = rtc_credentials::mint(&ring, "somebody", Duration::from_secs(60), now)?;
        for address in self.advertised().await? {
            let server = SocketAddr::new(address, 3478);
            let good = allocate(server, &credential.username, &credential.password).await?;
            let mut good =
                good.map_err(|refused| anyhow!("{server} refused a good credential: {refused:?}"))?;
            ensure!(good.refresh(0).await? == Ok(()), "{server} does not end an allocation");
            let forged = allocate(server, &credential.username, "forged").await?.err();
            ensure!(forged == Some(Refused(401)), "{server} answered a forged credential with {forged:?}");
        }
        Ok(())
    }

    async fn columns_tell_the_state(&self) -> Result<()> {
        let turn = self.cluster.schedulable_nodes().await?.len();
        let all = format!("{turn}/{turn}");
        // a cluster is Ready when enough signaling pods are, and the last one may be on its way
        wait::until("kubectl to print the state in columns", SOON, async || {
            let table = self.cluster.kubectl(["--namespace", NAMESPACE, "get", "rtc"]).await?;
            let (head, row) = table.split_once('\n').context("kubectl printed no row")?;
            for column in ["READY", "SIGNALING", "TURN", "DRAINING", "KEYS", "NEXT ROTATION", "AGE"] {
                ensure!(head.contains(column), "no column {column} in:\n{table}");
            }
            let cells: Vec<&str> = row.split_whitespace().collect();
            ensure!(cells[..6] == [NAME, "True", "2/2", &all, "0", &all], "unexpected cells in:\n{table}");
            Ok(())
        })
        .await
    }

    async fn edits_take_effect(&self) -> Result<()> {
        self.edit(json!({"signaling": {"replicas": 3, "resources": {"requests": {"memory": "48Mi"}}}}))
            .await?;
        wait::until("three signaling pods that ask for 48Mi", SOON, async || {
            let pods = self.pods("signaling").await?;
            let asks = |pod: &Pod| {
                let requests =
                    pod.spec.as_ref().and_then(|s| s.containers[0].resources.as_ref()?.requests.as_ref());
                requests.and_then(|requests| requests.get("memory")).is_some_and(|memory| memory.0 == "48Mi")
            };
            let good = pods.iter().filter(|pod| asks(pod) && is_ready(pod)).count();
            ensure!(good == 3 && pods.len() == 3, "{good} of {} pods", pods.len());
            let rtc = self.rtc().await?;
            let ready = &rtc.data["status"]["signaling"]["ready"];
            ensure!(ready == 3, "status.signaling.ready is {ready}");
            Ok(())
        })
        .await?;

        // TURN pods are replaced one after the other, and serve on the new port
        let listeners = json!([
            {"name": "udp", "transport": "UDP", "port": 3479},
            {"name": "tcp", "transport": "TCP", "port": 3479},
        ]);
        self.edit(json!({"turn": {"listeners": listeners}})).await?;
        wait::until("TURN on the new port of every node", SOON * 2, async || {
            let rtc = self.rtc().await?;
            condition(&rtc, "Ready")?;
            let current = rtc.data.pointer("/status/observedGeneration").and_then(Value::as_i64);
            ensure!(current == rtc.metadata.generation, "the edit has not been seen yet");
            let endpoints = rtc.data.pointer("/status/endpoints/turn").and_then(Value::as_array);
            let endpoints = endpoints.context("no status.endpoints.turn")?;
            ensure!(
                endpoints.iter().all(|uri| uri.as_str().is_some_and(|uri| uri.contains(":3479"))),
                "status.endpoints.turn is {endpoints:?}"
            );
            for address in self.advertised().await? {
                let answer = allocate(SocketAddr::new(address, 3479), "nobody", "nothing").await?.err();
                ensure!(answer == Some(Refused(401)), "{address} answered {answer:?}");
            }
            Ok(())
        })
        .await
    }

    async fn deleting_leaves_nothing(&self) -> Result<()> {
        self.cluster.kubectl(["--namespace", NAMESPACE, "delete", "rtc", NAME, "--timeout=90s"]).await?;
        let kinds =
            self.cluster.kubectl(["api-resources", "--namespaced", "--verbs=list,delete", "-o=name"]).await?;
        // events tell what was, and are not made for the cluster
        let kinds = kinds.lines().filter(|kind| !kind.starts_with("events")).collect::<Vec<_>>().join(",");
        wait::until("nothing to be left", SOON, async || {
            let args = ["--namespace", NAMESPACE, "get", kinds.as_str(), "-o=name", "--ignore-not-found"];
            let left = self.cluster.kubectl(args).await?;
            // what every namespace has
            let own = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
            let left: Vec<_> = left.lines().filter(|object| !own.contains(object)).collect();
            ensure!(left.is_empty(), "left: {}", left.join(", "));
            Ok(())
        })
        .await
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.cluster.client.clone(), NAMESPACE)
    }

    async fn rtc(&self) -> Result<DynamicObject> {
        Ok(self.cluster.rtc_clusters(NAMESPACE).get(NAME).await?)
    }

    /// The object of a kind that serves a component of the cluster.
    async fn owned<K>(&self, component: &str) -> Result<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let name = format!("{NAME}-{component}");
        self.api::<K>()
            .get(&name)
            .await
            .with_context(|| format!("no {} {name}", K::kind(&K::DynamicType::default())))
    }

    async fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        let labels = format!("app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}");
        let pods = self.api::<Pod>().list(&ListParams::default().labels(&labels)).await?;
        Ok(pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    async fn key_ring(&self) -> Result<KeyRing> {
        let secret: Secret = self.owned("keys").await?;
        let data = secret.data.unwrap_or_default();
        Ok(KeyRing::from_files(&data.into_iter().map(|(name, bytes)| (name, bytes.0)).collect())?)
    }

    /// The addresses that status.nodes advertises.
    async fn advertised(&self) -> Result<Vec<IpAddr>> {
        let rtc = self.rtc().await?;
        let nodes = rtc.data.pointer("/status/nodes").and_then(Value::as_array).context("no status.nodes")?;
        let addresses = nodes.iter().filter_map(|node| node["addresses"][0].as_str());
        let addresses: Vec<IpAddr> = addresses.map(str::parse).collect::<Result<_, _>>()?;
        ensure!(!addresses.is_empty(), "no node has an address");
        Ok(addresses)
    }

    async fn edit(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.cluster.rtc_clusters(NAMESPACE).patch(NAME, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
