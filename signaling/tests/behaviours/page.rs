//! The page, its scripts, and QR codes.

use crate::{
    auth,
    support::{token, *},
};
use rtc_signaling::auth::Mint;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn get(replica: &Replica, path: &str, more: &str) -> (u16, String) {
    let mut socket = tokio::net::TcpStream::connect(replica.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{more}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    (text[9..12].parse().unwrap(), text)
}

#[tokio::test]
async fn the_page_is_served_at_its_root_and_for_each_room_under_a_strict_policy() {
    let replica = Backend::memory().replica().await;
    for path in ["/", "/r/some%20room", "/index.html"] {
        let (status, text) = get(&replica, path, "").await;
        assert_eq!(status, 200, "{path}");
        assert!(text.contains("content-type: text/html"), "{path}");
        assert!(text.contains("default-src 'none'; script-src 'self'"), "{path}");
    }
    let (status, text) = get(&replica, "/client.js", "").await;
    assert_eq!(status, 200);
    assert!(text.contains("content-type: text/javascript"));
    let tag = text.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned();
    let (status, _) = get(&replica, "/client.js", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!(status, 304);
    for path in
        ["/none.js", "/package.json", "/README.md", "/test", "/..%2fCargo.toml", "/test%2fsession.test.js"]
    {
        assert_eq!(get(&replica, path, "").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn the_npm_package_has_all_that_it_imports_and_its_types_say_what_is_there() {
    let packages = node::install("web-types", &["typescript@5.9.3"]);
    let scratch = tempfile::tempdir().unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/web").to_owned();
    node::play("web_clients/package.mjs", &packages, &[folder, scratch.path().display().to_string()]).await;
}

#[tokio::test]
async fn a_link_becomes_a_qr_code_and_nothing_else_does() {
    let replica = Backend::memory().replica().await;
    let (status, text) = get(&replica, "/qr.svg?url=https%3A%2F%2Fa.example%2Fr%2Fx", "").await;
    assert_eq!(status, 200);
    assert!(text.contains("content-type: image/svg+xml") && text.contains("<svg"));
    assert_eq!(get(&replica, "/qr.svg?url=javascript%3Aalert(1)", "").await.0, 400);
    assert_eq!(get(&replica, &format!("/qr.svg?url=https://{}", "x".repeat(600)), "").await.0, 400);
}

#[tokio::test]
async fn the_page_gets_tokens_only_where_it_was_said_so_each_for_one_room() {
    let backend = Backend::memory();
    let open = backend.replica().await;
    assert_eq!(get(&open, "/token?room=r", "").await.0, 204);
    let guarded = auth::guarded(&backend).await;
    let (status, text) = get(&guarded, "/token?room=r", "").await;
    assert!(status == 401 && text.contains("www-authenticate: Bearer"), "{text}");
    // a person with a token of an application has the page too
    assert!(get(&guarded, "/r/r", "").await.1.contains("<html"));

    let mint = Arc::new(Mint::new("secret", token::SECRET, Duration::from_secs(60)).unwrap());
    let builder = backend.builder().auth(auth::Keys::secret().policy()).page_tokens(mint);
    let replica = Replica::start(builder).await;
    let (status, text) = get(&replica, "/token?room=a%20room&user=u-1", "").await;
    assert!(status == 200 && text.contains("cache-control: no-store"), "{text}");
    let given = text.rsplit_once("\r\n\r\n").unwrap().1;
    let connect =
        async || Client::connect_at(replica.address, &format!("/v1/connect?access_token={given}")).await;
    let (mut one, mut two) = (connect().await, connect().await);
    one.send(json!({"type": "join", "room": "another"})).await;
    assert_eq!(one.expect("error").await["code"], "forbidden");
    one.join("a room").await;
    assert_eq!(two.join("a room").await["members"][0]["user"], "guest-u-1");
    // nobody is made a user of the application's
    for (asked, status) in [("room=", 400), ("user=u", 400), ("room=r&user=a%20b", 400)] {
        assert_eq!(get(&replica, &format!("/token?{asked}"), "").await.0, status, "{asked}");
    }
}
