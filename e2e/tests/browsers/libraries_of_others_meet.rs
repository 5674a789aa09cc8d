//! PeerJS and y-webrtc as they come from npm, in pages of another origin, each at another signaling replica.

use anyhow::ensure;
use rtc_e2e::browser::{Browsers, Page};
use rtc_e2e::site::{self, Site};
use rtc_e2e::up::Up;
use rtc_e2e::wait;
use serde_json::{Value, json};
use url::Url;

use crate::{WITHIN, alone};

/// Real addresses among the candidates, instead of names that only multicast resolves, are for pages that may
/// use the camera (RFC 8828, section 5.2, mode 1).
const CAMERA: &str =
    "window.camera = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 160 } });";

/// Waits until a JavaScript expression holds in the page.
async fn holds(page: &Page, what: &str, expression: &str) {
    let met = wait::until(what, WITHIN, async || {
        let is = page.eval(&format!("return {expression}")).await?;
        ensure!(is == true, "it is {is}");
        Ok(())
    });
    if let Err(error) = met.await {
        panic!("{error:#}; the console: {:#?}", page.console().await);
    }
}

fn replicas(up: &Up) -> [Url; 2] {
    let urls: Vec<Url> = up.ready.signaling.iter().map(|url| url.parse().unwrap()).collect();
    let [ours, theirs, ..] = urls.as_slice() else { panic!("there are not two replicas: {urls:?}") };
    [ours.clone(), theirs.clone()]
}

/// Somebody with PeerJS who answers whoever calls; `id` is JavaScript, `undefined` to be given one.
async fn peer(browsers: &Browsers, site: &Site, name: &str, id: &str, replica: &Url) -> (Page, String) {
    let page = browsers.open(name, &site.url()).await.unwrap();
    let options = json!({
        "host": replica.host_str(), "port": replica.port(), "path": "/", "config": { "iceServers": [] },
    });
    let script = format!(
        "{CAMERA}
        window.heard = [];
        window.links = [];
        window.listen = (link) => {{
          links.push(link);
          link.on('data', (data) => heard.push(data));
        }};
        window.show = (stream) => {{
          window.video = Object.assign(document.createElement('video'), {{ srcObject: stream, muted: true }});
          document.body.append(video);
          video.play();
        }};
        window.peer = new Peer({id}, {options});
        peer.on('connection', listen);
        peer.on('call', (call) => {{ call.on('stream', show); call.answer(camera); }});
        return await new Promise((resolve, reject) => peer.on('open', resolve).on('error', reject));"
    );
    let id = page.eval(&script).await.unwrap();
    (page, id.as_str().unwrap().to_owned())
}

#[tokio::test]
async fn peers_of_peerjs_exchange_data_and_pictures() {
    let _alone = alone().await;
    let library = site::install(env!("CARGO_TARGET_TMPDIR").as_ref(), "peerjs", &["peerjs@1.5.5"]).unwrap();
    let script = std::fs::read(library.join("node_modules/peerjs/dist/peerjs.min.js")).unwrap();
    let site = Site::with_script(script).await.unwrap();
    let up = Up::start("examples/quickstart.yaml").await.unwrap();
    let [ours, theirs] = replicas(&up);
    let browsers = Browsers::launch().await.unwrap();

    let (ada, id) = peer(&browsers, &site, "Ada", "'ada'", &ours).await;
    assert_eq!(id, "ada");
    let (grace, _) = peer(&browsers, &site, "Grace", "undefined", &theirs).await;

    grace.eval("const link = peer.connect('ada'); link.on('open', () => listen(link))").await.unwrap();
    for page in [&ada, &grace] {
        holds(page, "the data connection", "links.length === 1 && links[0].open").await;
    }
    for (from, to, word) in [(&ada, &grace, json!({ "n": [1, "é😀"] })), (&grace, &ada, json!("two"))] {
        from.eval(&format!("links[0].send({word})")).await.unwrap();
        holds(to, "the word", &format!("JSON.stringify(heard) === JSON.stringify([{word}])")).await;
    }

    grace.eval("peer.call('ada', camera).on('stream', show)").await.unwrap();
    for page in [&ada, &grace] {
        holds(page, "pictures", "window.video?.getVideoPlaybackQuality().totalVideoFrames > 5").await;
        let tracks = page.eval("return video.srcObject.getTracks().map(({ kind }) => kind).sort()").await;
        assert_eq!(tracks.unwrap(), json!(["audio", "video"]));
    }
}

/// Somebody who writes into a document that is shared over a replica.
async fn writer(browsers: &Browsers, site: &Site, name: &str, replica: &Url) -> Page {
    let page = browsers.open(name, &site.url()).await.unwrap();
    let signaling = replica.join("/y-webrtc").unwrap();
    let script = format!(
        "{CAMERA}
        window.doc = new shared.Doc();
        window.text = doc.getText('text');
        window.provider = new shared.WebrtcProvider('minutes', doc, {{
          signaling: ['{signaling}'], password: 'secret', peerOpts: {{ config: {{ iceServers: [] }} }},
        }});
        return provider.signalingUrls.length"
    );
    assert_eq!(page.eval(&script).await.unwrap(), Value::from(1));
    page
}

#[tokio::test]
async fn documents_of_y_webrtc_become_one() {
    let _alone = alone().await;
    let packages = ["y-webrtc@10.3.0", "yjs@13.6.33", "esbuild@0.28.2"];
    let library = site::install(env!("CARGO_TARGET_TMPDIR").as_ref(), "y-webrtc", &packages).unwrap();
    let exports = "export { Doc } from 'yjs'; export { WebrtcProvider } from 'y-webrtc';";
    let site = Site::with_script(site::bundle(&library, "shared", exports).unwrap()).await.unwrap();
    let up = Up::start("examples/quickstart.yaml").await.unwrap();
    let [ours, theirs] = replicas(&up);
    let browsers = Browsers::launch().await.unwrap();

    let ada = writer(&browsers, &site, "Ada", &ours).await;
    // before anybody is there to read it
    ada.eval("text.insert(0, 'Present: Ada')").await.unwrap();
    let grace = writer(&browsers, &site, "Grace", &theirs).await;
    holds(&grace, "what was written before", "String(text) === 'Present: Ada'").await;
    grace.eval("text.insert(text.length, ', Grace')").await.unwrap();
    holds(&ada, "what Grace wrote", "String(text) === 'Present: Ada, Grace'").await;
    // at the same time, in the same place
    ada.eval("text.insert(0, 'A')").await.unwrap();
    grace.eval("text.insert(0, 'G')").await.unwrap();
    for page in [&ada, &grace] {
        holds(page, "both letters", "/^(AG|GA)Present: Ada, Grace$/.test(String(text))").await;
        // and not by a BroadcastChannel, which would need no server
        holds(page, "one peer", "provider.room.webrtcConns.size === 1 && provider.room.bcConns.size === 0")
            .await;
    }
    let [one, other] = [&ada, &grace].map(|page| page.eval("return String(text)"));
    assert_eq!(one.await.unwrap(), other.await.unwrap());
}
