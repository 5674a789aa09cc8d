//! Socket.IO's packets within Engine.IO's messages, without IO. Source: `socketio/socket.io-protocol`.

use super::engine::Revision;
use serde_json::{Value, json};

/// What a client's message says.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    /// To the default namespace, with what the client's option `auth` has under `token`.
    Connect(Option<String>),
    /// To a namespace that there is not.
    ConnectElsewhere(String),
    Disconnect,
    Event {
        name: String,
        /// What follows the name.
        arguments: Vec<Value>,
    },
    /// An acknowledgement, or something for another namespace: nothing to do.
    Ignored,
    /// Something that cannot be understood, or binary: the session ends.
    Bad,
}

pub(super) fn read(message: &str) -> Received {
    let Some(kind) = message.chars().next() else { return Received::Bad };
    let rest = &message[kind.len_utf8()..];
    let (namespace, rest) = match rest.strip_prefix('/') {
        None => ("", rest),
        Some(named) => named.split_once(',').unwrap_or((named, "")),
    };
    // a query may follow the namespace in protocol 4
    let namespace = namespace.split('?').next().unwrap_or_default();
    match (kind, namespace) {
        ('0', "") => Received::Connect(token(rest)),
        ('0', other) => Received::ConnectElsewhere(other.chars().take(64).collect()),
        ('1', "") => Received::Disconnect,
        ('2', "") => {
            // an id before the arguments asks for an acknowledgement, which this dialect never gives
            let arguments = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            match serde_json::from_str::<Vec<Value>>(arguments) {
                Ok(mut arguments) if arguments.first().is_some_and(Value::is_string) => {
                    let name = arguments.remove(0).as_str().unwrap_or_default().to_owned();
                    Received::Event { name, arguments }
                }
                _ => Received::Bad,
            }
        }
        ('1' | '2' | '3', _) => Received::Ignored,
        _ => Received::Bad,
    }
}

fn token(auth: &str) -> Option<String> {
    let auth: Value = serde_json::from_str(auth).ok()?;
    auth["token"].as_str().map(str::to_owned)
}

/// An event as an Engine.IO packet.
pub(super) fn event(name: &str, arguments: &[Value]) -> String {
    let all: Vec<&Value> = arguments.iter().collect();
    let mut words = vec![json!(name)];
    words.extend(all.into_iter().cloned());
    format!("42{}", Value::Array(words))
}

/// An event whose one argument is JSON already.
pub(super) fn raw_event(name: &str, argument: &str) -> String {
    format!("42[{},{argument}]", json!(name))
}

/// That the client is connected to the default namespace.
pub(super) fn connected(revision: Revision, sid: &str) -> String {
    match revision {
        Revision::Three => "40".to_owned(),
        Revision::Four => format!("40{}", json!({"sid": sid})),
    }
}

/// That the client may not connect to the default namespace.
pub(super) fn refused(revision: Revision, why: &str) -> String {
    match revision {
        Revision::Three => format!("44{}", json!(why)),
        Revision::Four => format!("44{}", json!({"message": why})),
    }
}

/// That there is no such namespace.
pub(super) fn no_namespace(revision: Revision, namespace: &str) -> String {
    let how = match revision {
        Revision::Three => json!("Invalid namespace"),
        Revision::Four => json!({"message": "Invalid namespace"}),
    };
    format!("44/{namespace},{how}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_the_protocol_has_them() {
        let event = |name: &str, arguments| Received::Event { name: name.into(), arguments };
        for (message, expected) in [
            ("0", Received::Connect(None)),
            ("0{\"token\":1}", Received::Connect(None)),
            ("0{\"token\":\"a\"}", Received::Connect(Some("a".into()))),
            ("0/admin,", Received::ConnectElsewhere("admin".into())),
            ("0/admin?x=1,", Received::ConnectElsewhere("admin".into())),
            ("1", Received::Disconnect),
            ("2[\"create or join\",\"foo\"]", event("create or join", vec![json!("foo")])),
            ("213[\"a\",1,null]", event("a", vec![json!(1), json!(null)])),
            ("2/admin,[\"a\"]", Received::Ignored),
            ("31[]", Received::Ignored),
            ("2[]", Received::Bad),
            ("2[1]", Received::Bad),
            ("2{", Received::Bad),
            ("51-[\"a\",{\"_placeholder\":true,\"num\":0}]", Received::Bad),
            ("", Received::Bad),
        ] {
            assert_eq!(read(message), expected, "{message}");
        }
    }
}
