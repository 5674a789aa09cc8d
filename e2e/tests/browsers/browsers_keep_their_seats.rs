//! People in real browsers stay in their call, whatever their networks and their reload buttons do.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use rtc_e2e::browser::{Browsers, Page};
use rtc_e2e::network::{Network, Weather};
use rtc_e2e::up::{self, Up};
use rtc_e2e::wait;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::MutexGuard;

use crate::{WITHIN, alone};

const FILM: &str = "film.y4m";

/// A camera with few and small pictures, since these are about who sees whom: a film for Chromium to play.
fn small_camera() -> TempDir {
    const PIXELS: usize = 160 * 120;
    let folder = tempfile::tempdir().unwrap();
    let mut film = b"YUV4MPEG2 W160 H120 F5:1 Ip A1:1 C420jpeg\n".to_vec();
    for picture in 0..10_u8 {
        film.extend_from_slice(b"FRAME\n");
        film.extend((0..PIXELS).map(|at| picture.wrapping_mul(20).wrapping_add((at % 160) as u8)));
        film.extend(std::iter::repeat_n(128, PIXELS / 2));
    }
    std::fs::write(folder.path().join(FILM), film).unwrap();
    folder
}

struct House {
    up: Up,
    browsers: Browsers,
    camera: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl House {
    async fn open() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml");
        Self::open_with(&manifest, &[]).await
    }

    /// With a manifest, and flags of `rtc up`, of its own.
    async fn open_with(manifest: &Path, flags: &[&str]) -> Self {
        let one = alone().await;
        let flags = [&["--port", "0", "--turn-port", "0"], flags].concat();
        let up = Up::start_with(manifest, &flags).await.unwrap();
        let camera = small_camera();
        Self { up, browsers: Browsers::launch().await.unwrap(), camera, _one: one }
    }

    /// The page of a replica.
    fn replica(&self, n: usize) -> String {
        let all = &self.up.ready.signaling;
        all[n % all.len()].replacen("ws", "http", 1).trim_end_matches('/').to_owned()
    }

    /// Where TURN listens for TCP.
    fn turn_over_tcp(&self) -> String {
        let uri = self.up.ready.turn.iter().find_map(|uri| uri.strip_suffix("?transport=tcp")).unwrap();
        uri.trim_start_matches("turn:").to_owned()
    }

    /// Somebody on the page at `server`; `how` is the page's query.
    async fn enters(&self, server: &str, room: &str, name: &str, how: &str) -> Page {
        self.enters_after("", server, room, name, how).await
    }

    /// The same, after a script has run in the page.
    async fn enters_after(&self, script: &str, server: &str, room: &str, name: &str, how: &str) -> Page {
        let film = self.camera.path().join(FILM);
        let camera = format!("--use-file-for-fake-video-capture={}", film.display());
        let page = self.browsers.open_with(name, "about:blank", &[&camera]).await.unwrap();
        let source = json!({ "source": script });
        page.devtools("Page.addScriptToEvaluateOnNewDocument", source).await.unwrap();
        page.goto(&format!("{server}/r/{room}?name={name}{how}")).await.unwrap();
        page.until(&format!("{name} to be in"), WITHIN, |call| call["signaling"]["phase"] == "live")
            .await
            .unwrap();
        // who leaves from now on, and how often signaling was lost
        let watch = "window.left = []; window.lost = 0;
            rtc.call.on('member-left', ({ member, reason }) => window.left.push([member.name, reason]));
            rtc.call.on('lost', () => { window.lost += 1; });";
        page.eval(watch).await.unwrap();
        page
    }
}

fn members(call: &Value) -> &[Value] {
    call["members"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// New pictures come from so many others.
async fn sees(page: &Page, others: usize) {
    let before = page.call().await.unwrap();
    let known = |id: &Value| {
        let member = members(&before).iter().find(|member| &member["id"] == id);
        member.map_or(0, |member| member["framesDecoded"].as_u64().unwrap_or(0))
    };
    page.until(&format!("new pictures of {others}"), WITHIN, |call| {
        let fresh = |member: &&Value| {
            // a connection that was made anew counts from zero
            let frames = member["framesDecoded"].as_u64().unwrap_or(0);
            member["state"] == "connected" && frames > 2 && frames != known(&member["id"])
        };
        members(call).len() == others && members(call).iter().filter(fresh).count() == others
    })
    .await
    .unwrap();
}

async fn nobody_left(page: &Page) {
    assert_eq!(page.eval("return window.left").await.unwrap(), json!([]), "somebody was seen to leave");
}

#[tokio::test]
async fn five_people_all_see_each_other() {
    let house = House::open().await;
    let mut people = Vec::new();
    for (n, name) in ["Ada", "Grace", "Katherine", "Hedy", "Radia"].iter().enumerate() {
        people.push(house.enters(&house.replica(n), "five", name, "").await);
    }
    for person in &people {
        sees(person, 4).await;
    }
    // a word reaches everybody once, over the data channels
    people[0].eval("rtc.say('hello')").await.unwrap();
    for person in &people[1..] {
        let heard = |call: &Value| {
            let all = call["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
            all.iter().filter(|message| message["text"] == "hello").count() == 1
        };
        person.until("the word", WITHIN, heard).await.unwrap();
        nobody_left(person).await;
    }
}

#[tokio::test]
async fn a_reload_keeps_the_seat() {
    let house = House::open().await;
    let ada = house.enters(&house.replica(0), "reload", "Ada", "").await;
    let grace = house.enters(&house.replica(1), "reload", "Grace", "").await;
    // the first of the two is the one who waits for offers, the second makes them
    for (who, other) in [(&ada, &grace), (&grace, &ada)] {
        sees(who, 1).await;
        sees(other, 1).await;
        let id = who.call().await.unwrap()["id"].clone();
        who.eval("window.before = true; setTimeout(() => location.reload())").await.unwrap();
        wait::until("the page to be another one, in the call", WITHIN, async || {
            let fresh = who.eval("return !window.before && rtc.call?.signaling.phase === 'live'").await?;
            ensure!(fresh == true, "it is not");
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(who.call().await.unwrap()["id"], id, "the reload took another seat");
        sees(who, 1).await;
        sees(other, 1).await;
        assert_eq!(other.eval("return window.left ?? []").await.unwrap(), json!([]), "the reload was seen");
        who.eval(
            "window.left = []; rtc.call.on('member-left', ({ member }) => window.left.push(member.name))",
        )
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn ten_seconds_without_a_network_are_made_good() {
    let house = House::open().await;
    let signaling = Network::to(&house.replica(0)).await.unwrap();
    let turn = house.turn_over_tcp();
    let media = Network::to(&format!("http://{turn}")).await.unwrap();
    // Ada's packets to TURN take this network too; nothing else of the page is another
    let detour = format!(
        "const Own = RTCPeerConnection;
         const lead = (config) => JSON.parse(JSON.stringify(config).replaceAll({turn:?}, {:?}));
         window.RTCPeerConnection = class extends Own {{
           constructor(config) {{ super(lead(config)); }}
           setConfiguration(config) {{ super.setConfiguration(lead(config)); }}
         }};",
        media.address()
    );
    let how = "&relay=1&transport=tcp";
    let ada = house.enters_after(&detour, &signaling.url(), "loss", "Ada", how).await;
    let grace = house.enters(&house.replica(1), "loss", "Grace", how).await;
    sees(&ada, 1).await;
    sees(&grace, 1).await;
    let id = ada.call().await.unwrap()["id"].clone();

    let set = |cut: bool| [&signaling, &media].map(|one| one.set(Weather { cut, ..Weather::default() }));
    set(true);
    let begun = tokio::time::Instant::now();
    ada.until("the media to stop", WITHIN, |call| members(call)[0]["state"] == "interrupted").await.unwrap();
    let frames = ada.call().await.unwrap()["members"][0]["framesDecoded"].clone();
    tokio::time::sleep_until(begun + Duration::from_secs(10)).await;
    assert_eq!(ada.call().await.unwrap()["members"][0]["framesDecoded"], frames, "the network was not lost");

    set(false);
    sees(&ada, 1).await;
    sees(&grace, 1).await;
    let after = ada.call().await.unwrap();
    assert_eq!(after["id"], id);
    assert_eq!((&after["signaling"]["phase"], &after["signaling"]["rejoined"]), (&json!("live"), &json!(0)));
    nobody_left(&ada).await;
    nobody_left(&grace).await;
}

#[tokio::test]
async fn where_websockets_are_broken_people_talk_all_the_same() {
    let house = House::open().await;
    let streams = Network::to(&house.replica(0)).await.unwrap();
    streams.set(Weather { refuses_websockets: true, ..Weather::default() });
    let polls = Network::to(&house.replica(1)).await.unwrap();
    polls.set(Weather { refuses_websockets: true, keeps_streams: true, ..Weather::default() });
    let ada = house.enters(&streams.url(), "walls", "Ada", "").await;
    let grace = house.enters(&polls.url(), "walls", "Grace", "").await;
    let hedy = house.enters(&house.replica(0), "walls", "Hedy", "").await;
    for (page, transport) in [(&ada, "stream"), (&grace, "poll"), (&hedy, "websocket")] {
        sees(page, 2).await;
        assert_eq!(page.call().await.unwrap()["signaling"]["transport"], transport);
    }
    // and they say goodbye
    grace.eval("rtc.call.leave()").await.unwrap();
    for page in [&ada, &hedy] {
        page.until("Grace to be gone", WITHIN, |call| members(call).len() == 1).await.unwrap();
        assert_eq!(page.eval("return window.left").await.unwrap(), json!([["Grace", "left"]]));
    }
}

const GUARDED: &str = "apiVersion: rtc-operator.dev/v1alpha1\nkind: RtcCluster\nmetadata: {name: calls}\n\
    spec: {signaling: {auth: {mode: JWT, jwt: {secretRef: {name: jwt, key: secret}}}}}\n";

#[tokio::test]
async fn two_offer_at_once_before_they_have_a_channel_of_their_own() {
    let house = House::open().await;
    let mut collisions = 0;
    // how close together the two are is chance
    for round in 0..6 {
        let room = format!("collision-{round}");
        let ada = house.enters(&house.replica(0), &room, "Ada", "").await;
        // she does not leave the first offer to who comes later, as she would
        ada.eval("rtc.call.on('member-joined', () => rtc.call.restartIce())").await.unwrap();
        let grace = house.enters(&house.replica(1), &room, "Grace", "").await;
        for page in [&ada, &grace] {
            sees(page, 1).await;
            let call = page
                .until("the data channel", WITHIN, |call| members(call)[0]["channelOpen"] == true)
                .await
                .unwrap();
            assert_eq!(members(&call)[0]["counts"]["recreated"], 0);
            assert_eq!(call["troubles"], json!([]));
            nobody_left(page).await;
            collisions += members(&call)[0]["counts"]["collisions"].as_u64().unwrap();
        }
        if collisions > 0 {
            return;
        }
    }
    panic!("their offers never crossed");
}

#[tokio::test]
async fn two_negotiate_at_once_and_need_no_server_for_it() {
    let house = House::open().await;
    let signaling = Network::to(&house.replica(0)).await.unwrap();
    let ada = house.enters(&signaling.url(), "glare", "Ada", "").await;
    let grace = house.enters(&house.replica(1), "glare", "Grace", "").await;
    for page in [&ada, &grace] {
        sees(page, 1).await;
        page.until("the data channel", WITHIN, |call| members(call)[0]["channelOpen"] == true).await.unwrap();
    }
    let counts =
        async |page: &Page, what: &str| members(&page.call().await.unwrap())[0]["counts"][what].clone();
    let before = [counts(&ada, "signalsOverSignaling").await, counts(&grace, "signalsOverSignaling").await];
    // Ada's server is out of reach, and each of them offers while the other does
    signaling.set(Weather { cut: true, ..Weather::default() });
    let name =
        "const line = () => rtc.call.peer(rtc.call.members[0].id).connection.currentLocalDescription.sdp
            .match(/a=ice-ufrag:(.*)/)[1];";
    let ufrag = async |page: &Page| page.eval(&format!("{name} return line()")).await.unwrap();
    for _ in 0..4 {
        let old = [ufrag(&ada).await, ufrag(&grace).await];
        let at = "const at = Date.now() + 300; setTimeout(() => rtc.call.restartIce(), at - Date.now())";
        let (one, two) = tokio::join!(ada.eval(at), grace.eval(at));
        one.and(two).unwrap();
        for (page, old) in [&ada, &grace].into_iter().zip(old) {
            wait::until("another path, agreed on", WITHIN, async || {
                let settled = format!("{name} return line() !== {old} && rtc.call.peer(rtc.call.members[0].id).connection.signalingState === 'stable'");
                ensure!(page.eval(&settled).await? == true, "not yet");
                Ok(())
            })
            .await
            .unwrap();
        }
    }
    for (page, before) in [&ada, &grace].into_iter().zip(before) {
        sees(page, 1).await;
        assert_eq!(counts(page, "signalsOverSignaling").await, before, "a server was asked");
        assert!(counts(page, "signalsOverChannel").await.as_u64() > Some(4));
        assert_eq!(counts(page, "recreated").await, 0);
        assert_eq!(page.call().await.unwrap()["troubles"], json!([]));
        nobody_left(page).await;
    }
}

#[tokio::test]
async fn tokens_and_credentials_are_renewed_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("manifest.yaml");
    let brief = "spec: {credentials: {ttl: 10s, rotation: {interval: 1h, overlap: 1m}}, signaling:";
    std::fs::write(&manifest, GUARDED.replace("spec: {signaling:", brief)).unwrap();
    let house = House::open_with(&manifest, &["--token-ttl", "6s"]).await;
    let ada = house.enters(&house.replica(0), "tokens", "Ada", "&relay=1").await;
    let grace = house.enters(&house.replica(1), "tokens", "Grace", "&relay=1&signaling=stream").await;
    for page in [&ada, &grace] {
        sees(page, 1).await;
        let before = page.call().await.unwrap();
        let expires = |call: &Value| call["token"]["expires"].as_u64().unwrap();
        assert_eq!(before["token"]["source"], "server");
        // beyond the end of the first one, and the five seconds that clocks may differ
        page.until("a third token", WITHIN, |call| expires(call) > expires(&before) + 11).await.unwrap();
        let credentials = |call: &Value| call["credentials"]["expires"].as_u64().unwrap();
        page.until("fresh credentials, twice", WITHIN, |call| credentials(call) > credentials(&before) + 10)
            .await
            .unwrap();
        sees(page, 1).await;
        let after = page.call().await.unwrap();
        let peer = &members(&after)[0];
        assert_eq!((&peer["counts"]["iceRestarts"], &peer["counts"]["recreated"]), (&json!(0), &json!(0)));
        assert!(after["credentials"]["secondsLeft"].as_i64() > Some(0));
        assert_eq!(after["id"], before["id"]);
        assert_eq!((&after["state"], &after["token"]["user"]), (&json!("call"), &before["token"]["user"]));
        assert_eq!(page.eval("return window.lost").await.unwrap(), 0, "signaling was lost");
        nobody_left(page).await;
    }
    let told = ada.eval("return document.querySelector('#token-facts').innerText").await.unwrap();
    assert!(told.as_str().unwrap().contains("guest-"), "{told}");
}

#[tokio::test]
async fn who_has_no_token_is_asked_for_one_and_a_link_may_bring_it() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("manifest.yaml");
    std::fs::write(&manifest, GUARDED).unwrap();
    // of several keys the page is given no tokens
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let secret = keys.join("one");
    std::fs::write(&secret, "a secret of this test, long enough to be one").unwrap();
    let house = House::open_with(&manifest, &["--jwt-keys", keys.to_str().unwrap()]).await;
    let token = |room: &'static str, ttl: &'static str| {
        let secret = secret.to_str().unwrap().to_owned();
        async move {
            let flags =
                ["--secret-file", &secret, "--user", "ada", "--room", room, "--ttl", ttl, "--name", "Ada L"];
            up::token(&flags).await.unwrap()
        }
    };
    let room = format!("{}/r/guarded", house.replica(0));
    let page = house.browsers.open("Ada", &room).await.unwrap();
    let state =
        async |wanted: &str| page.until(wanted, WITHIN, |call| call["state"] == wanted).await.unwrap();
    state("token").await;
    // for another room, typed in
    let typed = token("elsewhere", "1h").await;
    let fill = format!(
        "document.querySelector('#token-text').value = '{typed}'; document.querySelector('#token-form button').click()"
    );
    page.eval(&fill).await.unwrap();
    state("over").await;
    assert_eq!(page.call().await.unwrap()["error"]["code"], "forbidden");
    page.eval("document.querySelector('#again').click()").await.unwrap();
    state("token").await;
    // by a link, which does not keep it; and a reload has it all the same
    let good = token("guarded", "1h").await;
    page.goto("about:blank").await.unwrap();
    page.goto(&format!("{room}#token={good}")).await.unwrap();
    for _ in 0..2 {
        page.until("to be in", WITHIN, |call| call["signaling"]["phase"] == "live").await.unwrap();
        assert_eq!(page.eval("return location.href").await.unwrap(), json!(room));
        let call = page.call().await.unwrap();
        assert_eq!((&call["token"]["user"], &call["token"]["source"]), (&json!("ada"), &json!("given")));
        assert!(!call.to_string().contains(&good));
        page.goto(&room).await.unwrap();
    }
    // one that comes to its end and cannot be renewed ends the call, and says so
    let brief = token("guarded", "1s").await;
    page.goto("about:blank").await.unwrap();
    page.goto(&format!("{room}#token={brief}")).await.unwrap();
    state("over").await;
    let code = page.call().await.unwrap()["error"]["code"].clone();
    assert!(code == "expired" || code == "unauthorized", "{code}");
}
