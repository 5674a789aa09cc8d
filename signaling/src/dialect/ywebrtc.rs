//! y-webrtc: each topic is a room, and a connection is a member of every one that it subscribes to.
//!
//! | client | server |
//! | --- | --- |
//! | `subscribe` `unsubscribe` with `topics` | nothing |
//! | `publish` with `topic`, `data` | the same with `clients`, the number of subscribers, to all of them, the sender too |
//! | `ping` | `pong` |

use crate::{
    arrival::{Arrival, sized},
    auth::gate::Pass,
    guests::{Guest, TOO_FAST},
    hub::{Attachment, EnterError, Entering, Hub},
    outbox::{Out, Outbox},
    server::Replica,
    trace,
    transport::text::{self, Talk},
};
use axum::{
    Router,
    extract::ws::{Utf8Bytes, WebSocketUpgrade},
    response::Response,
    routing::get,
};
use rtc_signaling_proto::{Kind, MemberId, RoomName, close, entry::Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::{collections::HashMap, sync::Arc};
use tracing::Instrument;

const DIALECT: &str = "y-webrtc";
/// Topics of one connection.
const TOPICS: usize = 256;
/// Try again later (RFC 6455's registry).
const LATER: u16 = 1013;

/// The routes of this dialect.
pub(crate) fn router() -> Router<Replica> {
    Router::new().route("/y-webrtc", get(connect)).route("/y-webrtc/", get(connect))
}

async fn connect(arrival: Arrival, upgrade: WebSocketUpgrade) -> Response {
    let Arrival { server, guest, pass, span } = arrival;
    let (hub, line) = (server.hub().clone(), server.line(DIALECT, &pass));
    sized(upgrade).on_upgrade(async move |socket| {
        let _counted = hub.metrics().connection(DIALECT);
        let subscriber = Subscriber {
            sender: crate::random::member(),
            numbers: 0,
            topics: HashMap::new(),
            outbox: line.outbox.clone(),
            guest,
            pass,
            hub,
        };
        text::serve(socket, subscriber, line).instrument(span).await;
    })
}

fn room(topic: &str) -> RoomName {
    super::room("y-webrtc", &[topic])
}

#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    topics: Vec<Value>,
    topic: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Published<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    clients: usize,
}

struct Subscriber {
    hub: Arc<Hub>,
    guest: Guest,
    pass: Arc<Pass>,
    outbox: Arc<Outbox>,
    topics: HashMap<String, Attachment>,
    /// As whom it publishes: no member, for it hears itself.
    sender: MemberId,
    numbers: u64,
}

impl Talk for Subscriber {
    async fn hear(&mut self, text: &str) {
        let Ok(Sent { kind, topics, topic, data }) = serde_json::from_str::<Sent<'_>>(text) else { return };
        let topics = topics.iter().filter_map(Value::as_str);
        match kind.as_str() {
            "subscribe" => {
                trace::kind("join");
                for topic in topics {
                    if !self.subscribe(topic).await {
                        return;
                    }
                }
            }
            "unsubscribe" => {
                trace::kind("leave");
                for topic in topics {
                    if let Some(at) = self.topics.remove(topic) {
                        self.hub.metrics().message(DIALECT, "leave");
                        self.hub.leave(&at, Reason::Left).await;
                    }
                }
            }
            "publish" => {
                trace::kind("signal");
                if let Some(topic) = topic.filter(|topic| !topic.is_empty()) {
                    self.publish(&topic, data).await;
                }
            }
            "ping" => drop(self.outbox.push(Out::Text(Utf8Bytes::from_static(r#"{"type":"pong"}"#)))),
            _ => {}
        }
    }

    fn words(&mut self, out: &Out) -> Vec<Utf8Bytes> {
        match out {
            Out::Text(text) => vec![text.clone()],
            Out::Parcel(parcel) if parcel.kind == Kind::Signal => {
                parcel.data().map(Into::into).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn is_in(&self) -> bool {
        !self.topics.is_empty()
    }

    async fn leave(&mut self) {
        for (_, at) in self.topics.drain() {
            self.hub.leave(&at, Reason::Lost).await;
        }
    }
}

impl Subscriber {
    /// Returns false when the connection is over for it: this dialect has no other word for an error, and
    /// its clients connect again.
    async fn subscribe(&mut self, topic: &str) -> bool {
        if self.topics.contains_key(topic) {
            return true;
        }
        self.hub.metrics().message(DIALECT, "join");
        if self.topics.len() >= TOPICS {
            return self.close(close::PROTOCOL, "a connection has at most 256 topics");
        }
        if !self.guest.may_join() {
            return self.close(LATER, TOO_FAST);
        }
        if !self.pass.admits(topic) {
            return self.close(close::PROTOCOL, "this token does not let into one of these topics");
        }
        let grant = self.pass.grant();
        let user = grant.as_ref().map(|grant| grant.subject.as_str());
        match self
            .hub
            .enter(Entering { user, ..Entering::new(room(topic)) }, self.outbox.clone(), |_| {})
            .await
        {
            Ok(entered) => {
                self.topics.insert(topic.to_owned(), entered.at);
                true
            }
            Err(EnterError::Full { .. }) => self.close(LATER, "this topic has as many clients as it may"),
            Err(EnterError::TooManyRooms { .. }) => {
                self.close(LATER, "this server has as many topics as it may; try again later")
            }
            Err(EnterError::Store(error)) => {
                tracing::warn!(%error, "a client of y-webrtc is told to try again");
                self.close(LATER, "the rooms cannot be reached now; try again in a few seconds")
            }
        }
    }

    fn close(&self, code: u16, reason: &'static str) -> bool {
        self.outbox.push(Out::Close(code, reason));
        false
    }

    async fn publish(&mut self, topic: &str, data: Option<&RawValue>) {
        self.hub.metrics().message(DIALECT, "signal");
        if !self.pass.admits(topic) || !self.pass.may_publish() {
            return;
        }
        let room = room(topic);
        let clients = match self.hub.members(&room) {
            Some(clients) => clients,
            None => self.hub.store().view(&room).await.ok().flatten().map_or(0, |view| view.members.len()),
        };
        let Ok(message) = serde_json::to_string(&Published { kind: "publish", topic, data, clients }) else {
            return;
        };
        self.numbers += 1;
        let sent = self.hub.post(&room, &self.sender, format!("p{}", self.numbers), message).await;
        if let Err(error) = sent {
            // a topic that nobody subscribes to, or whose other subscribers cannot be reached now
            tracing::debug!(%error, "a message of y-webrtc did not reach everybody");
        }
    }
}
