//! People in real browsers stay in their call, whatever their networks and their reload buttons do.

use std::time::Duration;

use anyhow::ensure;
use rtc_e2e::browser::{Browsers, Page};
use rtc_e2e::network::{Network, Weather};
use rtc_e2e::up::Up;
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
        let one = alone().await;
        let up = Up::start("examples/quickstart.yaml").await.unwrap();
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
