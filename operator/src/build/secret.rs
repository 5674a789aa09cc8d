//! The Secret with the key ring and the token of the admin ports.

use k8s_openapi::ByteString;
use rtc_credentials::{ADMIN_TOKEN_FILE, KeyRing};
use serde_json::{Map, Value, json};

use super::{Build, Desired, Kind};

/// The annotation that keeps which request to rotate was taken up last.
pub const ROTATED_ANNOTATION: &str = "rtc-operator.dev/rotated";

/// The ring as files, with the version that it was read at, so that a change in between is an error.
#[must_use]
pub fn build(
    build: &Build<'_>,
    ring: &KeyRing,
    token: &str,
    rotated: Option<&str>,
    version: Option<&str>,
) -> Desired {
    let mut data: Map<String, Value> =
        ring.to_files().into_iter().map(|(name, content)| (name, json!(ByteString(content)))).collect();
    data.insert(ADMIN_TOKEN_FILE.to_owned(), json!(ByteString(token.as_bytes().to_vec())));
    let mut object = build.object(
        Kind::Secret,
        "keys",
        "credentials",
        json!({"type": "rtc-operator.dev/key-ring", "data": data}),
    );
    let metadata = &mut object.value["metadata"];
    if let Some(rotated) = rotated {
        metadata["annotations"] = json!({ROTATED_ANNOTATION: rotated});
    }
    if let Some(version) = version {
        metadata["resourceVersion"] = json!(version);
    }
    object
}
