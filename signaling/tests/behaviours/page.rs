//! The page, its scripts, and QR codes.

use crate::support::*;
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
async fn a_link_becomes_a_qr_code_and_nothing_else_does() {
    let replica = Backend::memory().replica().await;
    let (status, text) = get(&replica, "/qr.svg?url=https%3A%2F%2Fa.example%2Fr%2Fx", "").await;
    assert_eq!(status, 200);
    assert!(text.contains("content-type: image/svg+xml") && text.contains("<svg"));
    assert_eq!(get(&replica, "/qr.svg?url=javascript%3Aalert(1)", "").await.0, 400);
    assert_eq!(get(&replica, &format!("/qr.svg?url=https://{}", "x".repeat(600)), "").await.0, 400);
}
