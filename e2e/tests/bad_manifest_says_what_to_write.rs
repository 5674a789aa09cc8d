//! A manifest with a mistake in it is refused by the API server, and what
//! kubectl prints names the field and what to write instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use anyhow::{Result, ensure};
use rtc_e2e::cluster::Cluster;

/// A mistake in the spec, and words that the refusal must have.
struct Mistake {
    spec: &'static str,
    says: &'static [&'static str],
}

const MISTAKES: &[Mistake] = &[
    // an unknown key
    Mistake { spec: "{turn: {listners: []}}", says: &["unknown field", "spec.turn.listners"] },
    // a wrong type
    Mistake {
        spec: "{signaling: {replicas: two}}",
        says: &["spec.signaling.replicas", "must be of type integer"],
    },
    // a value out of a list
    Mistake {
        spec: "{turn: {listeners: [{name: udp, transport: QUIC, port: 3478}]}}",
        says: &["spec.turn.listeners[0].transport", "QUIC", "\"UDP\"", "\"TLS\""],
    },
    // no length of time
    Mistake { spec: "{credentials: {ttl: soon}}", says: &["spec.credentials.ttl"] },
    // a number out of bounds
    Mistake {
        spec: "{turn: {listeners: [{name: udp, transport: UDP, port: 70000}]}}",
        says: &["spec.turn.listeners[0].port", "65535"],
    },
    // rules between fields
    Mistake {
        spec: "{credentials: {ttl: 3h, rotation: {overlap: 2h}}}",
        says: &["spec.credentials", "raise overlap or lower ttl"],
    },
    Mistake {
        spec: "{turn: {relayPorts: {min: 60000, max: 50000}}}",
        says: &["spec.turn.relayPorts", "write for example {min: 49152, max: 65535}"],
    },
    Mistake {
        spec: "{turn: {listeners: [{name: a, transport: UDP, port: 3478}, {name: b, transport: UDP, port: 3478}]}}",
        says: &["spec.turn", "UDP and DTLS need different ports"],
    },
    Mistake {
        spec: "{turn: {listeners: [{name: udp, transport: UDP, port: 50000}]}}",
        says: &["spec.turn", "move the port out of the range"],
    },
    Mistake {
        spec: "{turn: {listeners: [{name: tls, transport: TLS, port: 5349}]}}",
        says: &["spec.turn", "write tls: {secretRef: {name: SECRET}}"],
    },
    Mistake { spec: "{signaling: {auth: {mode: JWT}}}", says: &["spec.signaling.auth", "needs jwt"] },
];

#[tokio::test]
async fn kubectl_names_the_field_and_what_to_write() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.install_operator().await?;
    let namespace = "e2e-bad-manifest";
    cluster
        .in_namespace(namespace, async || {
            let mut wrong = Vec::new();
            for Mistake { spec, says } in MISTAKES {
                match cluster.apply(namespace, &manifest(spec)).await {
                    Ok(_) => wrong.push(format!("{spec} was accepted")),
                    Err(refusal) => {
                        let refusal = refusal.to_string();
                        let lacks = says.iter().filter(|words| !refusal.contains(*words)).collect::<Vec<_>>();
                        if !lacks.is_empty() {
                            wrong
                                .push(format!("{spec} was refused without saying {lacks:?}:\n    {refusal}"));
                        }
                    }
                }
            }
            ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            // the same manifest without a mistake is taken, so it was the mistakes that were refused
            cluster.apply(namespace, &manifest("{paused: true}")).await?;
            Ok(())
        })
        .await
}

fn manifest(spec: &str) -> String {
    format!(
        "{{apiVersion: rtc-operator.dev/v1alpha1, kind: RtcCluster, metadata: {{name: calls}}, spec: {spec}}}"
    )
}
