//! How pods are told of the Redis that the manifest names: by files alone, which are followed, so that a new password
//! needs no restart, and none is in an argument or the environment.

use rtc_operator_api::spec::{ExternalRedis, SecretKeyRef};

use super::pod::Files;
use crate::controller::secrets::{AUTHORITIES, CERTIFICATE, KEY};

/// Mounts what is needed to reach it.
pub fn mount(external: &ExternalRedis, files: &mut Files) {
    let SecretKeyRef { name, key } = &external.url_secret_ref;
    files.secret("redis", name, &[key]);
    if let Some(ca) = external.ca() {
        files.secret("redis-ca", &ca.name, &[AUTHORITIES]);
    }
    if let Some(client) = external.client() {
        files.secret("redis-client", &client.name, &[CERTIFICATE, KEY]);
    }
}

/// The flags that name those files, each beginning with `prefix`.
#[must_use]
pub fn args(external: &ExternalRedis, prefix: &str) -> Vec<String> {
    let mut args = vec![format!("--{prefix}-url-file=/etc/rtc/redis/{}", external.url_secret_ref.key)];
    if external.ca().is_some() {
        args.push(format!("--{prefix}-ca=/etc/rtc/redis-ca/{AUTHORITIES}"));
    }
    if external.client().is_some() {
        args.push(format!("--{prefix}-cert=/etc/rtc/redis-client/{CERTIFICATE}"));
        args.push(format!("--{prefix}-key=/etc/rtc/redis-client/{KEY}"));
    }
    args
}
