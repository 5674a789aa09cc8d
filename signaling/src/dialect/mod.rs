//! The protocols that clients speak, each a thin translation onto the same rooms.
//!
//! | dialect | where a client points it | its rooms |
//! | --- | --- | --- |
//! | [`native`] | `ws://HOST/v1/connect` | by name |
//! | [`socketio`] | `io('http://HOST')` | by name, the same |
//! | `peerjs` | `new Peer(id, {host, port, path: '/'})` | one for each id, under its key |
//! | `ywebrtc` | `signaling: ['ws://HOST/y-webrtc']` | one for each topic |
//! | `matchbox` | `WebRtcSocket::new_reliable("ws://HOST/matchbox/ROOM?next=2")` | by name, or one for each group |
//!
//! The last three say what only their own kind understands, so no other dialect enters their rooms.

pub(crate) mod matchbox;
pub mod native;
pub(crate) mod peerjs;
pub mod socketio;
pub(crate) mod ywebrtc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rtc_signaling_proto::RoomName;
use sha2::{Digest, Sha256};

/// A dialect's own room, whatever its clients call it: names that are too long, or have control characters,
/// are known by their hash.
fn room(dialect: &str, parts: &[&str]) -> RoomName {
    RoomName::scoped(dialect, parts).unwrap_or_else(|_| {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        // an empty part, which only this name has in front, tells it from those that are no hashes
        let text = BASE64_URL_SAFE_NO_PAD.encode(hash.finalize());
        RoomName::from_stored(&format!("{dialect}\u{1f}\u{1f}{text}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_room_and_no_two_share_one() {
        let long = "x".repeat(300);
        let parts: [&[&str]; 7] =
            [&["a"], &["a", "b"], &["ab"], &["a\u{1f}b"], &[&long], &[&long, "b"], &["a", "\n"]];
        let rooms: std::collections::HashSet<RoomName> = parts.iter().map(|parts| room("d", parts)).collect();
        assert_eq!(rooms.len(), parts.len());
        assert!(rooms.iter().all(|room| room.as_str().len() <= 128));
    }
}
