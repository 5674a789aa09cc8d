//! The demo page and the browser client, as they were when this was built; QR codes and tokens for them.

use crate::auth::Mint;
use axum::{
    Router,
    extract::{Path, Query},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use qrcode::{EcLevel, QrCode, render::svg};
use rtc_service::clock::unix_now;
use rtc_signaling_proto::{MemberId, RoomName};
use rust_embed::RustEmbed;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

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

/// Whoever the page is without a token of its own.
const GUEST: &str = "guest";

/// Who has tokens for the page.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// None are needed.
    Unneeded,
    /// Somebody else: the page asks its visitor for one.
    Elsewhere,
    /// This server, for everybody who asks.
    Here(Arc<Mint>),
}

/// The routes of the page.
pub fn router<S: Clone + Send + Sync + 'static>(tokens: Tokens) -> Router<S> {
    let page = async |headers: HeaderMap| file("index.html", &headers);
    Router::new()
        .route("/", get(page))
        .route("/r/{room}", get(page))
        .route("/qr.svg", get(qr))
        .route("/token", get(async move |asked: Query<Asked>| token(&tokens, asked.0)))
        .route(
            "/{file}",
            get(|Path(name): Path<String>, headers: HeaderMap| async move { file(&name, &headers) }),
        )
}

#[derive(Deserialize)]
struct Asked {
    room: String,
    /// Who asked before, so that it stays the same: a word.
    user: Option<String>,
}

/// A token for the page, for one room: 200 with it; 204 where none is needed, 401 where somebody else has them.
fn token(tokens: &Tokens, asked: Asked) -> Response {
    let once = [(header::CACHE_CONTROL, "no-store")];
    match tokens {
        Tokens::Unneeded => (StatusCode::NO_CONTENT, once).into_response(),
        Tokens::Elsewhere => {
            let how = "get a token from the application that uses this server\n";
            (StatusCode::UNAUTHORIZED, once, [(header::WWW_AUTHENTICATE, "Bearer")], how).into_response()
        }
        Tokens::Here(mint) => {
            let user =
                asked.user.map_or_else(|| Ok(crate::random::member()), |user| user.parse::<MemberId>());
            let (Ok(user), Ok(room)) = (user, asked.room.parse::<RoomName>()) else {
                return (StatusCode::BAD_REQUEST, "give ?room= a room's name, and user= a word\n")
                    .into_response();
            };
            let claims = json!({"room": room.as_str()});
            let token = mint.token(&format!("{GUEST}-{}", user.as_str()), &claims, unix_now());
            (once, token).into_response()
        }
    }
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
