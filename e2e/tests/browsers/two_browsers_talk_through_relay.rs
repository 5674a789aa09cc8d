//! Two people, each on another signaling replica, whose networks let nothing through but TURN.

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::PublicKeyData;
use rtc_e2e::browser::{Browsers, Page};
use rtc_e2e::up::Up;
use serde_json::Value;
use tempfile::TempDir;

use crate::{WITHIN, alone};

#[tokio::test]
async fn over_udp_and_over_tcp() {
    let _alone = alone().await;
    let up = Up::start("examples/quickstart.yaml").await.unwrap();
    let [ours, theirs, ..] = up.ready.signaling.as_slice() else {
        panic!("quickstart.yaml has two signaling replicas, but `rtc up` names {:?}", up.ready.signaling);
    };
    let browsers = Browsers::launch().await.unwrap();
    for transport in ["udp", "tcp"] {
        let page = |replica: &str, name: &str| {
            let base = replica.replacen("ws", "http", 1);
            format!(
                "{}/r/relay-{transport}?relay=1&transport={transport}&name={name}",
                base.trim_end_matches('/')
            )
        };
        let ada = browsers.open("Ada", &page(ours, "Ada")).await.unwrap();
        let grace = browsers.open("Grace", &page(theirs, "Grace")).await.unwrap();

        for one in [&ada, &grace] {
            let call = one.until("pictures of the other", WITHIN, sees_the_other).await.unwrap();
            assert_relayed(&call, transport);
        }
        chat_passes(&ada, &grace, "Can you hear me?").await;
        chat_passes(&grace, &ada, "I can.").await;
        a_snapshot_passes(&ada, &grace).await;

        assert_eq!(ada.call().await.unwrap()["troubles"], Value::Array(vec![]));
        ada.close().await.unwrap();
        grace.close().await.unwrap();
    }
}

/// A certificate for 127.0.0.1 in a folder, and how Chromium is told to trust its key.
fn certificate() -> (TempDir, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names.push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tls.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, &key.subject_public_key_info());
    (folder, format!("--ignore-certificate-errors-spki-list={}", BASE64_STANDARD.encode(hash)))
}

#[tokio::test]
async fn over_tls() {
    let _alone = alone().await;
    let (folder, trust) = certificate();
    let manifest = folder.path().join("manifest.yaml");
    let spec = "apiVersion: rtc-operator.dev/v1alpha1\nkind: RtcCluster\nmetadata: {name: calls}\nspec:\n  \
        turn: {listeners: [{name: tls, transport: TLS, port: 5349, tls: {secretRef: {name: turn-tls}}}]}\n";
    std::fs::write(&manifest, spec).unwrap();
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name).display().to_string());
    let flags = ["--port", "0", "--turn-port", "0", "--turn-tls-cert", &cert, "--turn-tls-key", &key];
    let up = Up::start_with(&manifest, &flags).await.unwrap();
    assert!(up.ready.turn.iter().all(|uri| uri.starts_with("turns:")), "{:?}", up.ready.turn);
    let browsers = Browsers::launch().await.unwrap();
    let base = up.ready.demo.trim_end_matches('/');
    let page = |name: &str| format!("{base}/r/relay-tls?relay=1&name={name}");

    // who does not trust the certificate finds no relay
    let eve = browsers.open("Eve", &page("Eve")).await.unwrap();
    let ada = browsers.open_with("Ada", &page("Ada"), &[&trust]).await.unwrap();
    let refused = |call: &Value| {
        let troubles = call["troubles"].as_array().map(Vec::as_slice).unwrap_or_default();
        troubles.iter().any(|trouble| trouble["code"] == "relay_unreachable")
    };
    eve.until("no relay", WITHIN, refused).await.unwrap();
    eve.close().await.unwrap();

    let grace = browsers.open_with("Grace", &page("Grace"), &[&trust]).await.unwrap();
    for one in [&ada, &grace] {
        let call = one.until("pictures of the other", WITHIN, sees_the_other).await.unwrap();
        assert_relayed(&call, "tls");
    }
}

fn sees_the_other(call: &Value) -> bool {
    let members = call["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [other] = members else { return false };
    other["framesDecoded"].as_u64() > Some(10)
        && other["framesShown"].as_u64() > Some(5)
        && other["bytesReceived"].as_u64() > Some(10_000)
        && !other["pair"].is_null()
}

/// What the browser itself says of the pair in use, and of where its TURN server is.
fn assert_relayed(call: &Value, transport: &str) {
    let pair = &call["members"][0]["pair"];
    assert_eq!(pair["local"]["type"], "relay", "{call:#}");
    assert_eq!(pair["local"]["relayProtocol"], transport, "{call:#}");
    // Both force it, so the other side is seen at a relay too.
    assert!(matches!(pair["remote"]["type"].as_str(), Some("relay" | "prflx")), "{call:#}");
    assert!(call["credentials"]["secondsLeft"].as_i64() > Some(0), "{call:#}");
    assert!(call["credentials"].get("credential").is_none(), "a page must not tell its credential");
}

async fn chat_passes(from: &Page, to: &Page, text: &str) {
    from.eval(&format!("rtc.say({})", Value::from(text))).await.unwrap();
    to.until("the message", WITHIN, |call| {
        call["messages"].as_array().is_some_and(|all| {
            all.iter().filter(|message| message["text"] == text && message["mine"] == false).count() == 1
        })
    })
    .await
    .unwrap();
}

async fn a_snapshot_passes(from: &Page, to: &Page) {
    let outcome = from.eval("return await rtc.share()").await.unwrap();
    assert_eq!(outcome[0]["error"], Value::Null, "{outcome}");
    let sent = from.call().await.unwrap()["files"][0].clone();
    let call = to
        .until("the snapshot", WITHIN, |call| call["files"].as_array().is_some_and(|files| !files.is_empty()))
        .await
        .unwrap();
    let got = &call["files"][0];
    assert_eq!(got["type"], "image/jpeg");
    assert_eq!((&got["name"], &got["size"]), (&sent["name"], &sent["size"]));
    let drawn = to
        .eval("const image = document.querySelector('#gallery img'); await image.decode(); return image.naturalWidth")
        .await
        .unwrap();
    assert!(drawn.as_u64() > Some(100), "the picture does not draw: {drawn}");
}
