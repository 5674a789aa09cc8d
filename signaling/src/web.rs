//! The demo page and the browser client, as they were when this was built; and QR codes for them.

use axum::{
    Router,
    extract::{Path, Query},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use qrcode::{EcLevel, QrCode, render::svg};
use rust_embed::RustEmbed;
use serde::Deserialize;

#[derive(RustEmbed)]
#[folder = "web/"]
#[include = "*.html"]
#[include = "*.js"]
#[include = "*.css"]
#[include = "*.svg"]
#[include = "*.png"]
#[include = "*.webmanifest"]
#[exclude = "*/*"]
struct Pages;

/// Nothing but this server's own scripts runs; connections may go to other replicas.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
    media-src 'self' blob:; connect-src 'self' ws: wss: http: https:; manifest-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// The longest text of a QR code; a denser one is hard to read for phones.
const QR_BYTES: usize = 512;

/// What a person finds where the page would be, which knows of no tokens.
const GUARDED: &str = "This is a signaling server that asks for a token.\n\n\
    Get one from the application that uses this server: a signed JWT whose `sub` says who you are and whose \
    `rooms` say where you may go. Then connect:\n\n\
    \x20   new WebSocket('wss://HOST/v1/connect', ['rtc.v1', 'rtc.bearer.' + token])\n\n\
    or show it as `Authorization: Bearer TOKEN`, or as `?access_token=TOKEN` with every other kind of client.\n";

/// The routes of the page; of a server that is `guarded`, those of its scripts and a word on tokens.
pub fn router<S: Clone + Send + Sync + 'static>(guarded: bool) -> Router<S> {
    let page = move |headers: HeaderMap| async move {
        if guarded { GUARDED.into_response() } else { file("index.html", &headers) }
    };
    Router::new().route("/", get(page)).route("/r/{room}", get(page)).route("/qr.svg", get(qr)).route(
        "/{file}",
        get(|Path(name): Path<String>, headers: HeaderMap| async move { file(&name, &headers) }),
    )
}

fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webmanifest" => "application/manifest+json",
        _ => return None,
    })
}

fn file(name: &str, asked: &HeaderMap) -> Response {
    let (Some(page), Some(kind)) = (Pages::get(name), content_type(name)) else {
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    };
    let hash = page.metadata.sha256_hash();
    let tag =
        format!("\"{:016x}\"", hash.iter().take(8).fold(0_u64, |tag, byte| tag << 8 | u64::from(*byte)));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // asked for again at each visit, so that a page and a client of one version meet
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let same = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    if same {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, page.data).into_response()
}

#[derive(Deserialize)]
struct Qr {
    url: String,
}

async fn qr(Query(Qr { url }): Query<Qr>) -> Response {
    let is_link = url.starts_with("http://") || url.starts_with("https://");
    let code = (is_link && url.len() <= QR_BYTES)
        .then(|| QrCode::with_error_correction_level(&url, EcLevel::M).ok())
        .flatten();
    let Some(code) = code else {
        let how = format!("give ?url= a link (http or https) of at most {QR_BYTES} bytes\n");
        return (StatusCode::BAD_REQUEST, how).into_response();
    };
    let image = code.render::<svg::Color<'_>>().min_dimensions(240, 240).build();
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, image).into_response()
}
