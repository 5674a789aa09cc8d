//! PeerJS's messages, without IO.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{json, value::RawValue};

/// What a client sends. The server says whom it is from.
#[derive(Deserialize)]
pub(super) struct Sent<'a> {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) dst: Option<String>,
    #[serde(borrow, default, deserialize_with = "given")]
    pub(super) payload: Option<&'a RawValue>,
}

/// `null` is a payload like others.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Kinds that are passed on.
const PASSED: [&str; 4] = ["OFFER", "ANSWER", "CANDIDATE", "LEAVE"];

/// What is to be done about a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Pass it on.
    Pass {
        dst: String,
        /// What the other client gets.
        text: String,
        /// Whether it is kept for one who is not there.
        keep: bool,
    },
    /// The client gives its id up.
    Leave,
    /// It says only that the client is there, or nothing that PeerJS knows.
    Nothing,
}

/// Reads a message of client `src`.
pub(super) fn read(text: &str, src: &str) -> Step {
    #[derive(Serialize)]
    struct Passed<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        src: &'a str,
        dst: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a RawValue>,
    }
    let Ok(Sent { kind, dst, payload }) = serde_json::from_str::<Sent<'_>>(text) else {
        return Step::Nothing;
    };
    match dst.filter(|dst| !dst.is_empty()) {
        Some(dst) if PASSED.contains(&kind.as_str()) => {
            let passed = Passed { kind: &kind, src, dst: &dst, payload };
            match serde_json::to_string(&passed) {
                Ok(text) => Step::Pass { keep: kind != "LEAVE", text, dst },
                Err(_) => Step::Nothing,
            }
        }
        None if kind == "LEAVE" => Step::Leave,
        _ => Step::Nothing,
    }
}

/// The first message of a client whose id is its own.
pub(super) const OPEN: &str = r#"{"type":"OPEN"}"#;
/// Somebody else has the id.
pub(super) const TAKEN: &str = r#"{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}"#;
pub(super) const NO_PARAMETERS: &str = "No id, token, or key supplied to websocket server";
pub(super) const BAD_KEY: &str = "Invalid key provided";
pub(super) const NO_PLACE: &str = "Server has reached its concurrent user limit";

/// Why a client cannot stay.
pub(super) fn error(why: &str) -> String {
    json!({"type": "ERROR", "payload": {"msg": why}}).to_string()
}

/// `missing` did not come to read what `to` sent.
pub(super) fn expire(missing: &str, to: &str) -> String {
    json!({"type": "EXPIRE", "src": missing, "dst": to}).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_client_cannot_speak_for_another() {
        let text = r#"{"type":"OFFER","src":"mallory","dst":"bob","payload":{"sdp":"v=0\r\n"},"x":1}"#;
        let Step::Pass { dst, text, keep } = read(text, "alice") else { panic!() };
        let passed: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({"type": "OFFER", "src": "alice", "dst": "bob", "payload": {"sdp": "v=0\r\n"}});
        assert_eq!((dst.as_str(), keep, passed), ("bob", true, expected));
    }

    #[test]
    fn only_what_peers_say_to_each_other_is_passed_on() {
        for text in [
            r#"{"type":"HEARTBEAT"}"#,
            r#"{"type":"OPEN","dst":"bob"}"#,
            r#"{"type":"EXPIRE","dst":"bob"}"#,
            r#"{"type":"OFFER"}"#,
            r#"{"type":"OFFER","dst":""}"#,
            "[]",
            "",
        ] {
            assert_eq!(read(text, "alice"), Step::Nothing, "{text}");
        }
        assert_eq!(read(r#"{"type":"LEAVE"}"#, "alice"), Step::Leave);
        let leave = read(r#"{"type":"LEAVE","dst":"bob"}"#, "alice");
        assert!(matches!(leave, Step::Pass { keep: false, .. }), "{leave:?}");
    }
}
