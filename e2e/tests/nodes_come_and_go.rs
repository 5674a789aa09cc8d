//! A cluster with everything encrypted keeps its promises while its nodes are cordoned, tainted, taken out of the
//! pool and shared, and while its signaling pods are scaled in and replaced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams};
use rtc_credentials::KeyRing;
use rtc_e2e::certificates::Authority;
use rtc_e2e::cluster::{Cluster, condition};
use rtc_e2e::forward::Forward;
use rtc_e2e::member::{Connection, Door, Member};
use rtc_e2e::turn_client::{Allocation, Refused, allocate};
use rtc_e2e::{up, wait};
use serde_json::{Value, json};
use tokio::process::Command;

const NAMESPACE: &str = "e2e-nodes";
const NAME: &str = "calls";
/// The label of the nodes of the pool.
const POOL: &str = "e2e.rtc-operator.dev/turn";
const TAINT: &str = "e2e.rtc-operator.dev/leaving=soon:NoSchedule";
const NO_TAINT: &str = "e2e.rtc-operator.dev/leaving-";
const TURN_PORT: u16 = 3482;
const TLS_PORT: u16 = 5352;
const SOON: Duration = Duration::from_secs(120);
/// How long clients may still be sent to a node that is about to go. The design asks for 2 s; this is a busy machine.
const OUT: Duration = Duration::from_secs(8);

fn manifest(name: &str, listeners: &Value, relay_ports: (u16, u16), signaling: &Value) -> String {
    let (min, max) = relay_ports;
    json!({
        "apiVersion": "rtc-operator.dev/v1alpha1",
        "kind": "RtcCluster",
        "metadata": {"name": name},
        "spec": {
            "signaling": signaling,
            "turn": {
                "placement": {"nodeSelector": {POOL: "yes"}},
                "listeners": listeners,
                "relayPorts": {"min": min, "max": max},
                // a namespace that goes does not wait for calls
                "update": {"deadline": "1m"},
            },
        },
    })
    .to_string()
}

fn encrypted() -> String {
    let tls = json!({"secretRef": {"name": "turn-tls"}});
    let listeners = json!([
        {"name": "udp", "transport": "UDP", "port": TURN_PORT},
        {"name": "tcp", "transport": "TCP", "port": TURN_PORT},
        {"name": "tls", "transport": "TLS", "port": TLS_PORT, "tls": tls},
        {"name": "dtls", "transport": "DTLS", "port": TLS_PORT, "tls": tls},
    ]);
    let front =
        json!({"replicas": 2, "tls": {"secretRef": {"name": "front-tls"}}, "drain": {"timeout": "10s"}});
    manifest(NAME, &listeners, (52000, 52999), &front)
}

#[tokio::test]
async fn nodes_and_pods_come_and_go_under_live_calls() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.install_operator().await?;
    let mut nodes = Vec::new();
    for node in cluster.schedulable_nodes().await? {
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let internal = addresses.into_iter().find(|address| address.type_ == "InternalIP");
        nodes.push((node.name_any(), internal.context("a node without an InternalIP")?.address.clone()));
    }
    ensure!(nodes.len() > 1, "this test needs two nodes that take pods");
    let test = Test { cluster: &cluster, authority: Authority::new()?, nodes };
    let outcome = cluster
        .in_namespace(NAMESPACE, async || {
            timed("TLS", test.all_of_it_is_encrypted()).await?;
            timed("certificates", test.a_certificate_is_renewed_in_place()).await?;
            timed("cordon and taint", test.a_node_that_takes_no_pods_keeps_its_calls()).await?;
            timed("pool", test.a_node_that_leaves_the_pool_ends_its_calls_first()).await?;
            timed("two clusters", test.two_clusters_share_nodes_by_other_ports()).await?;
            timed("signaling", test.members_keep_their_seats()).await
        })
        .await;
    test.put_nodes_back().await;
    outcome
}

async fn timed(what: &str, step: impl Future<Output = Result<()>>) -> Result<()> {
    let started = Instant::now();
    step.await.with_context(|| what.to_owned())?;
    println!("{what}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

struct Test<'a> {
    cluster: &'a Cluster,
    authority: Authority,
    /// Names and addresses.
    nodes: Vec<(String, String)>,
}

impl Test<'_> {
    async fn all_of_it_is_encrypted(&self) -> Result<()> {
        for (node, _) in &self.nodes {
            self.cluster.kubectl(["label", "node", node, &format!("{POOL}=yes"), "--overwrite"]).await?;
        }
        self.certify().await?;
        let front = self.authority.secret("front-tls", &["localhost".to_owned()])?;
        self.cluster.apply(NAMESPACE, &front.to_string()).await?;
        self.cluster.apply(NAMESPACE, &encrypted()).await?;
        self.all_serve(NAME).await?;
        for kind in ["SecretsResolved", "CertificatesValid", "SignalingAvailable"] {
            condition(&self.rtc(NAME).await?, kind)?;
        }

        // as a person would look, who trusts the authority
        let trusted = tempfile::NamedTempFile::new()?;
        std::fs::write(trusted.path(), &self.authority.pem)?;
        let door = self.door();
        let pod = door.ready().await?.into_iter().next().context("no signaling pod is ready")?;
        let way = Forward::open(door.pods, &pod, 8080).await?;
        let signaling = way.url().replacen("http", "https", 1);
        let mut flags = vec!["--signaling".to_owned(), signaling];
        for (_, address) in &self.nodes {
            for uri in [
                format!("turns:{address}:{TLS_PORT}?transport=tcp"),
                format!("turn:{address}:{TURN_PORT}?transport=tcp"),
                format!("turn:{address}:{TURN_PORT}?transport=udp"),
            ] {
                flags.extend(["--turn".to_owned(), uri]);
            }
        }
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let (sound, report) = up::check_trusting(&flags, trusted.path()).await?;
        ensure!(sound, "`rtc check` found: {report:#}");
        Ok(())
    }

    async fn a_certificate_is_renewed_in_place(&self) -> Result<()> {
        let server = SocketAddr::new(self.nodes[0].1.parse()?, TLS_PORT);
        let before = self.authority.shown_by(server).await?;
        let pods = self.turn_pods(NAME).await?;
        let started = Instant::now();
        self.certify().await?;
        wait::until("the new certificate to be served", Duration::from_secs(60), async || {
            ensure!(self.authority.shown_by(server).await? != before, "it is still the old one");
            Ok(())
        })
        .await?;
        println!("a renewed certificate was served after {:.1} s", started.elapsed().as_secs_f64());
        ensure!(self.turn_pods(NAME).await? == pods, "a TURN pod was replaced or restarted");
        Ok(())
    }

    async fn a_node_that_takes_no_pods_keeps_its_calls(&self) -> Result<()> {
        let (node, address) = &self.nodes[0];
        let mut call = self.call(address).await?;
        let mut client = self.client().await?;
        let pods = self.turn_pods(NAME).await?;
        let ways: [(&str, Vec<&str>, Vec<&str>); 2] = [
            ("cordon", vec!["cordon", node], vec!["uncordon", node]),
            ("taint", vec!["taint", "node", node, TAINT], vec!["taint", "node", node, NO_TAINT]),
        ];
        for (what, away, back) in ways {
            self.cluster.kubectl(away).await?;
            let out = client.names(address, false).await?;
            println!("{what}: out of iceServers after {:.2} s", out.as_secs_f64());
            ensure!(out < OUT, "clients were sent to a node for {out:?} after a {what}");
            wait::until("the status to say so", SOON, async || {
                let entry = self.node(NAME, node).await?;
                ensure!(entry["state"] == "Draining", "{entry}");
                Ok(entry)
            })
            .await?;
            call.echo().await.context("while clients are not sent there")?;
            ensure!(call.refresh(600).await? == Ok(()), "a live allocation was refused its refresh");
            self.cluster.kubectl(back).await?;
            let back = client.names(address, true).await?;
            println!("{what}: back in iceServers after {:.2} s", back.as_secs_f64());
            self.all_serve(NAME).await?;
        }
        ensure!(self.turn_pods(NAME).await? == pods, "a TURN pod was replaced or restarted");
        ensure!(call.refresh(0).await? == Ok(()), "the call could not end");
        Ok(())
    }

    async fn a_node_that_leaves_the_pool_ends_its_calls_first(&self) -> Result<()> {
        let (node, address) = &self.nodes[0];
        let mut call = self.call(address).await?;
        let mut client = self.client().await?;
        self.cluster.kubectl(["label", "node", node, &format!("{POOL}-")]).await?;
        let out = client.names(address, false).await?;
        println!("pool: out of iceServers after {:.2} s", out.as_secs_f64());
        ensure!(out < OUT, "clients were sent to a node for {out:?} after it left the pool");
        // what is there goes on, and nothing new begins
        wait::stays("the call", Duration::from_secs(5), async || call.echo().await).await?;
        let refused = self.allocation(address).await?.err();
        ensure!(refused.is_some(), "a new call began on a node that is about to go");
        let entry = self.node(NAME, node).await?;
        ensure!(entry["state"] == "Draining", "{entry}");

        ensure!(call.refresh(0).await? == Ok(()), "the call could not end");
        let ended = Instant::now();
        wait::until("the pod to be gone", SOON, async || {
            let pods = self.turn_pods(NAME).await?;
            ensure!(pods.iter().all(|pod| !pod.ends_with(node)), "{pods:?}");
            ensure!(self.node(NAME, node).await.is_err(), "the status names the node");
            Ok(())
        })
        .await?;
        println!("pool: the pod was gone {:.1} s after its last call", ended.elapsed().as_secs_f64());

        self.cluster.kubectl(["label", "node", node, &format!("{POOL}=yes")]).await?;
        let back = client.names(address, true).await?;
        println!("pool: used {:.1} s after it came back", back.as_secs_f64());
        self.call(address).await?.echo().await
    }

    async fn two_clusters_share_nodes_by_other_ports(&self) -> Result<()> {
        // as on nodes outside of kind, where not everybody may bind port 443
        let mut before = Vec::new();
        for (node, _) in &self.nodes {
            let value = docker(["exec", node, "sysctl", "-n", UNPRIVILEGED]).await?;
            before.push((node, value.trim().to_owned()));
            docker(["exec", node, "sysctl", "-w", &format!("{UNPRIVILEGED}=1024")]).await?;
        }
        let outcome = self.second_cluster().await;
        for (node, value) in before {
            docker(["exec", node, "sysctl", "-w", &format!("{UNPRIVILEGED}={value}")]).await?;
        }
        outcome
    }

    async fn second_cluster(&self) -> Result<()> {
        const SECOND: &str = "second";
        let (node, address) = &self.nodes[0];
        let front = json!({"replicas": 1});
        let taken = json!([{"name": "udp", "transport": "UDP", "port": TURN_PORT}]);
        self.cluster.apply(NAMESPACE, &manifest(SECOND, &taken, (53000, 53099), &front)).await?;
        let entry = wait::until("the status to name the port's node", SOON, async || {
            let entry = self.node(SECOND, node).await?;
            let reason = entry["reason"].as_str().unwrap_or_default();
            ensure!(entry["state"] == "Excluded" && reason.contains("port"), "{entry}");
            Ok(entry)
        })
        .await?;
        println!("a port that is taken: {}", entry["reason"]);

        let free = json!([
            {"name": "udp", "transport": "UDP", "port": TURN_PORT + 1},
            {"name": "web", "transport": "TCP", "port": 443},
        ]);
        self.cluster.apply(NAMESPACE, &manifest(SECOND, &free, (53000, 53099), &front)).await?;
        self.all_serve(SECOND).await?;
        self.all_serve(NAME).await?;
        tokio::net::TcpStream::connect((address.as_str(), 443)).await.context("port 443")?;
        let rtc = self.rtc(SECOND).await?;
        let conditions = rtc.data["status"]["conditions"].as_array().context("no conditions")?;
        let admitted = conditions.iter().find(|condition| condition["type"] == "PodSecurityAdmitted");
        let admitted = admitted.context("no PodSecurityAdmitted")?;
        ensure!(admitted["status"] == "True" && admitted["reason"] == "AdmittedAsRoot", "{admitted}");
        self.cluster.kubectl(["delete", "rtc", SECOND, "--namespace", NAMESPACE]).await?;
        Ok(())
    }

    async fn members_keep_their_seats(&self) -> Result<()> {
        let door = self.door();
        let mut members = Vec::new();
        for number in 0..6 {
            members.push(Member::join(&door, number, "standup").await?);
        }
        let scale = async |replicas: &str| {
            self.cluster
                .kubectl(["scale", "rtc", NAME, "--namespace", NAMESPACE, "--replicas", replicas])
                .await
        };
        let before = door.ready().await?;
        scale("1").await?;
        self.signaling(1).await?;
        scale("2").await?;
        self.signaling(2).await?;
        let deployment = format!("deployment/{NAME}-signaling");
        self.cluster.kubectl(["rollout", "restart", &deployment, "--namespace", NAMESPACE]).await?;
        self.cluster
            .kubectl(["rollout", "status", &deployment, "--namespace", NAMESPACE, "--timeout", "120s"])
            .await?;
        wait::until("the old pods to be gone", SOON, async || {
            let pods = self.pods("signaling", NAME).await?;
            ensure!(pods.len() == 2, "{} signaling pods", pods.len());
            ensure!(pods.iter().all(|pod| !before.contains(&pod.name_any())), "an old pod is there");
            Ok(())
        })
        .await?;
        // everybody moved at least once, and hears the others now
        let heard: Vec<_> = members.iter().map(|member| member.told.heard.load(Relaxed)).collect();
        wait::until("everyone to be heard by everyone", SOON, async || {
            for (member, before) in members.iter().zip(&heard) {
                let heard = member.told.heard.load(Relaxed) - before;
                ensure!(heard > 2 * members.len(), "{:?} heard {heard} since", member.told);
            }
            Ok(())
        })
        .await?;
        for member in &members {
            let told = &member.told;
            ensure!(told.left.load(Relaxed) == 0, "somebody was told to have left: {told:?}");
            ensure!(told.forgotten.load(Relaxed) == 0, "somebody lost the seat: {told:?}");
            ensure!(told.resumed.load(Relaxed) > 0, "somebody was never moved: {told:?}");
        }
        Ok(())
    }

    /// Puts a new certificate for all nodes into the Secret of the TURN listeners.
    async fn certify(&self) -> Result<()> {
        let addresses: Vec<_> = self.nodes.iter().map(|(_, address)| address.clone()).collect();
        let secret = self.authority.secret("turn-tls", &addresses)?;
        self.cluster.apply(NAMESPACE, &secret.to_string()).await?;
        Ok(())
    }

    /// Leaves the cluster's nodes as they were.
    async fn put_nodes_back(&self) {
        for (node, _) in &self.nodes {
            // what is not there cannot be taken away
            let _ = self.cluster.kubectl(["uncordon", node]).await;
            let _ = self.cluster.kubectl(["taint", "node", node, NO_TAINT]).await;
            let _ = self.cluster.kubectl(["label", "node", node, &format!("{POOL}-")]).await;
        }
    }

    async fn all_serve(&self, name: &str) -> Result<()> {
        wait::until("every node of the pool to serve", SOON, async || {
            let rtc = self.rtc(name).await?;
            condition(&rtc, "Ready")?;
            let current = rtc.data.pointer("/status/observedGeneration").and_then(Value::as_i64);
            ensure!(current == rtc.metadata.generation, "the status is behind");
            for (node, _) in &self.nodes {
                let entry = self.node(name, node).await?;
                ensure!(entry["state"] == "Serving", "{entry}");
            }
            let pods = self.pods("turn", name).await?.len();
            ensure!(pods == self.nodes.len(), "{pods} TURN pods");
            Ok(())
        })
        .await
    }

    async fn signaling(&self, count: usize) -> Result<()> {
        wait::until("the signaling pods", SOON, async || {
            let pods = self.pods("signaling", NAME).await?.len();
            let ready = self.door().ready().await?.len();
            ensure!(pods == count && ready == count, "{pods} signaling pods, {ready} of them ready");
            Ok(())
        })
        .await
    }

    /// What the status says of a node.
    async fn node(&self, name: &str, node: &str) -> Result<Value> {
        let rtc = self.rtc(name).await?;
        let nodes = rtc.data.pointer("/status/nodes").and_then(Value::as_array).context("no status.nodes")?;
        let entry = nodes.iter().find(|entry| entry["node"] == node);
        entry.cloned().with_context(|| format!("{node} is not in status.nodes"))
    }

    /// A client of signaling that asks for `iceServers` again and again.
    async fn client(&self) -> Result<Client> {
        let mut connection = self.door().open(0).await?;
        connection.send(json!({"type": "join", "room": "waiting"})).await?;
        connection.until("joined").await?;
        Ok(Client(connection))
    }

    /// An allocation on a node that relays.
    async fn call(&self, address: &str) -> Result<Allocation> {
        let mut call =
            self.allocation(address).await?.map_err(|refused| anyhow!("{address} refused: {refused:?}"))?;
        call.echo().await?;
        Ok(call)
    }

    async fn allocation(&self, address: &str) -> Result<Result<Allocation, Refused>> {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        let data = secrets.get(&format!("{NAME}-keys")).await?.data.unwrap_or_default();
        let ring = KeyRing::from_files(&data.into_iter().map(|(name, bytes)| (name, bytes.0)).collect())?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let credential = rtc_credentials::mint(&ring, "a-client", Duration::from_secs(3600), now)?;
        let server = SocketAddr::new(address.parse()?, TURN_PORT);
        allocate(server, &credential.username, &credential.password).await
    }

    fn door(&self) -> Door {
        let labels = format!("app.kubernetes.io/instance={NAME},app.kubernetes.io/component=signaling");
        let pods = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        Door { pods, labels, tls: Some(self.authority.connector.clone()) }
    }

    async fn pods(&self, component: &str, name: &str) -> Result<Vec<Pod>> {
        let labels = format!("app.kubernetes.io/instance={name},app.kubernetes.io/component={component}");
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        Ok(pods.list(&ListParams::default().labels(&labels)).await?.items)
    }

    /// Each TURN pod with the number of its restarts, and its node.
    async fn turn_pods(&self, name: &str) -> Result<Vec<String>> {
        let described = |pod: Pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let restarts: i32 = statuses.map(|container| container.restart_count).sum();
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            format!("{}, restarted {restarts} times, on {node}", pod.name_any())
        };
        let mut pods: Vec<_> = self.pods("turn", name).await?.into_iter().map(described).collect();
        pods.sort();
        Ok(pods)
    }

    async fn rtc(&self, name: &str) -> Result<DynamicObject> {
        Ok(self.cluster.rtc_clusters(NAMESPACE).get(name).await?)
    }
}

/// The port below which Linux lets nobody but root listen.
const UNPRIVILEGED: &str = "net.ipv4.ip_unprivileged_port_start";

/// Runs a command in a node of kind.
async fn docker<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let output = Command::new("docker").args(args).output().await.context("cannot start docker")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

struct Client(Connection);

impl Client {
    /// How long it took until `iceServers` had an address, or had it no more.
    async fn names(&mut self, address: &str, wanted: bool) -> Result<Duration> {
        let started = Instant::now();
        while started.elapsed() < SOON {
            self.0.send(json!({"type": "ice"})).await?;
            let answer = self.0.until("ice").await?;
            let needle = format!(":{address}:");
            if answer["iceServers"].to_string().contains(&needle) == wanted {
                return Ok(started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("clients were sent to {address}: {}, for {} s", !wanted, SOON.as_secs())
    }
}
