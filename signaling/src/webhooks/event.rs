//! What is sent of a piece of news.

use crate::store::news::News;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rtc_signaling_proto::Kind;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// A request's id and body, the same however often it is made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) body: String,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    room: &'a str,
    epoch: u64,
    seq: u64,
    members: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// In the order in which they are sent: a room opens with its first member, and closes with its last one.
pub(super) fn events(news: &News) -> Vec<Event> {
    match (news.entry.kind, news.members) {
        (Kind::Joined, 1) => vec![event("room.opened", news), event("member.joined", news)],
        (Kind::Joined, _) => vec![event("member.joined", news)],
        (Kind::Left, 0) => vec![event("member.left", news), event("room.closed", news)],
        (Kind::Left, _) => vec![event("member.left", news)],
        (Kind::Signal | Kind::Attached, _) => Vec::new(),
    }
}

fn event(kind: &'static str, news: &News) -> Event {
    let News { at, room, members, entry, .. } = news;
    let member = match kind {
        "member.joined" => Some(format!("{{{}}}", entry.body)),
        "member.left" => Some(format!("{{\"id\":\"{}\"}}", entry.from)),
        _ => None,
    };
    let data = Data {
        room: room.as_str(),
        epoch: entry.epoch,
        seq: entry.seq,
        members: *members,
        member: member.and_then(|member| RawValue::from_string(member).ok()),
        reason: (kind == "member.left").then_some(entry.id.as_str()),
    };
    let at = i64::try_from(*at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let body = Body { kind, timestamp: at.unwrap_or_default().to_string(), data };
    let place = format!("{room}\n{}\n{}\n{kind}", entry.epoch, entry.seq);
    let id = format!("msg_{}", BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(place)[..18]));
    // nothing in it can fail to be written
    Event { id, body: serde_json::to_string(&body).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::news::Place;
    use rtc_signaling_proto::{
        Entry, MemberId,
        entry::{Draft, Profile, Reason},
    };

    fn news(draft: Draft, body: &str, members: u64) -> News {
        let entry = Entry { body: body.into(), ..draft.number(7, 3) };
        let place = Place { part: 0, id: (1, 0) };
        News { place, at: 1_790_000_000_120, room: "r".parse().unwrap(), members, entry }
    }

    #[test]
    fn a_room_opens_before_its_first_member_and_closes_after_its_last() {
        let a: MemberId = "aa".parse().unwrap();
        let profile = Profile::new(&a, Some("\"Ada\""), None).of_user("u1");
        let came =
            events(&news(Draft::joined(&a, &"pod-a-1".parse().unwrap(), &profile), profile.as_str(), 1));
        assert_eq!(
            came[0].body,
            "{\"type\":\"room.opened\",\"timestamp\":\"2026-09-21T14:13:20.12Z\",\"data\":{\"room\":\"r\",\"epoch\":7,\
             \"seq\":3,\"members\":1}}"
        );
        assert_eq!(
            came[1].body,
            "{\"type\":\"member.joined\",\"timestamp\":\"2026-09-21T14:13:20.12Z\",\"data\":{\"room\":\"r\",\"epoch\":7,\
             \"seq\":3,\"members\":1,\"member\":{\"id\":\"aa\",\"name\":\"\\\"Ada\\\"\",\"user\":\"u1\"}}}"
        );
        let went = events(&news(Draft::left(&a, Reason::Lost), "", 0));
        assert_eq!(
            went[0].body,
            "{\"type\":\"member.left\",\"timestamp\":\"2026-09-21T14:13:20.12Z\",\"data\":{\"room\":\"r\",\"epoch\":7,\
             \"seq\":3,\"members\":0,\"member\":{\"id\":\"aa\"},\"reason\":\"lost\"}}"
        );
        assert!(went[1].body.contains("room.closed"));
        assert_eq!(events(&news(Draft::left(&a, Reason::Lost), "", 2)).len(), 1);
    }

    #[test]
    fn an_id_is_of_its_event_alone_and_the_same_again() {
        let a: MemberId = "aa".parse().unwrap();
        let profile = Profile::new(&a, None, None);
        let came =
            || events(&news(Draft::joined(&a, &"pod-a-1".parse().unwrap(), &profile), profile.as_str(), 1));
        assert_eq!(came(), came());
        assert_ne!(came()[0].id, came()[1].id);
        let mut later = news(Draft::joined(&a, &"pod-a-1".parse().unwrap(), &profile), profile.as_str(), 2);
        later.entry.seq += 1;
        assert_ne!(events(&later)[0].id, came()[1].id);
    }
}
