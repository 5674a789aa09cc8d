//! The Secret with the key ring and the token of the admin ports.

use k8s_openapi::ByteString;
use kube::{ResourceExt, api::DynamicObject};
use rtc_credentials::{ADMIN_TOKEN_FILE, KeyRing};
use serde_json::{Map, Value, json};

use super::{Build, Desired, Kind};

/// The annotation that keeps which request to rotate was taken up last.
pub const ROTATED_ANNOTATION: &str = "rtc-operator.dev/rotated";

/// The type of a Secret that the operator makes.
const TYPE: &str = "rtc-operator.dev/key-ring";

/// The ring as files, with the version and type of the Secret that it was read from: a change in between is an error, and
/// a type never changes.
#[must_use]
pub fn build(
    build: &Build<'_>,
    ring: &KeyRing,
    token: &str,
    rotated: Option<&str>,
    live: Option<&DynamicObject>,
) -> Desired {
    let mut data: Map<String, Value> =
        ring.to_files().into_iter().map(|(name, content)| (name, json!(ByteString(content)))).collect();
    data.insert(ADMIN_TOKEN_FILE.to_owned(), json!(ByteString(token.as_bytes().to_vec())));
    let mut object = build.object(
        Kind::Secret,
        "keys",
        "credentials",
        json!({"type": live.and_then(|live| live.data["type"].as_str()).unwrap_or(TYPE), "data": data}),
    );
    let metadata = &mut object.value["metadata"];
    if let Some(rotated) = rotated {
        metadata["annotations"] = json!({ROTATED_ANNOTATION: rotated});
    }
    if let Some(version) = live.and_then(ResourceExt::resource_version) {
        metadata["resourceVersion"] = json!(version);
    }
    object
}
