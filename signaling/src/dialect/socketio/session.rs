//! One client of the codelab, over whichever transport it has just now.

use super::{
    SocketIo, Table,
    engine::{self, PING_INTERVAL, PING_TIMEOUT, Revision},
    packet,
};
use crate::{
    auth::gate::{Gate, Pass},
    guests::{Guest, TOO_FAST},
    hub::{Attachment, EnterError, Entered, Entering, Hub},
    metrics::OpenConnection,
    outbox::{Out, Outbox},
    parcel::Parcel,
    trace,
};
use rtc_signaling_proto::{Kind, Limits, RoomName, entry::Reason, limits::Bucket};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// A codelab room has two members.
const MEMBERS: u32 = 2;

/// A session of Engine.IO.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) sid: String,
    pub(super) revision: Revision,
    pub(super) outbox: Arc<Outbox>,
    /// Whoever has it takes from the outbox: a poll or a WebSocket.
    pub(super) reader: tokio::sync::Mutex<()>,
    /// Tells a poll to end, because the client changes to a WebSocket.
    pub(super) upgrade: Notify,
    pub(super) upgrading: AtomicBool,
    hub: Arc<Hub>,
    limits: Limits,
    join_timeout: Duration,
    host: String,
    heard: Mutex<Instant>,
    state: tokio::sync::Mutex<State>,
    /// The room, for those who put its entries into words.
    room: Mutex<Option<RoomName>>,
    ended: watch::Sender<bool>,
    table: Table,
    gate: Arc<Gate>,
    /// What it may do, once that is known.
    pass: OnceLock<Arc<Pass>>,
    guest: Guest,
    _counted: OpenConnection,
}

#[derive(Debug)]
struct State {
    at: Option<Attachment>,
    rate: Bucket,
    start: Instant,
    /// Since when it is in no room, if it is in none.
    outside: Instant,
}

impl State {
    fn may_speak(&mut self) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.rate.take(now)
    }
}

impl Session {
    pub(super) fn start(
        io: &SocketIo,
        revision: Revision,
        host: String,
        guest: Guest,
        pass: Option<Arc<Pass>>,
    ) -> Arc<Self> {
        let SocketIo { hub, table, limits, join_timeout, gate } = io;
        let rate = limits.messages_per_second;
        let session = Arc::new(Self {
            sid: crate::random::connection(),
            revision,
            outbox: Outbox::new(limits.queue_bytes),
            reader: tokio::sync::Mutex::default(),
            upgrade: Notify::new(),
            upgrading: AtomicBool::new(false),
            hub: hub.clone(),
            limits: *limits,
            join_timeout: *join_timeout,
            host,
            heard: Mutex::new(Instant::now()),
            state: tokio::sync::Mutex::new(State {
                at: None,
                rate: Bucket::new(rate, rate.saturating_mul(2)),
                start: Instant::now(),
                outside: Instant::now(),
            }),
            room: Mutex::default(),
            ended: watch::channel(false).0,
            table: table.clone(),
            gate: gate.clone(),
            pass: OnceLock::new(),
            guest,
            _counted: hub.metrics().connection("socketio"),
        });
        if let Some(pass) = pass {
            session.let_in(pass);
        }
        table.insert(&session);
        tokio::spawn(watch_over(Arc::downgrade(&session)));
        session
    }

    fn let_in(&self, pass: Arc<Pass>) {
        self.gate.watch(&pass, &self.outbox);
        // what it began with stays
        let _ = self.pass.set(pass);
    }

    /// The client connects, by the token of its option `auth` if it has shown none before.
    async fn connect(&self, token: Option<&str>) {
        if self.pass.get().is_none() {
            match self.gate.admit_token(token).await {
                Ok(pass) => self.let_in(pass),
                Err(why) => {
                    self.say(packet::refused(self.revision, &why.to_string()));
                    self.outbox.push(Out::Close(1000, "no token"));
                    return;
                }
            }
        }
        if self.revision == Revision::Four {
            self.say(packet::connected(self.revision, &self.sid));
        }
    }

    /// Something came from the client.
    pub(super) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn quiet(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whether it is in no room for longer than it may.
    async fn is_too_late(&self) -> bool {
        let state = self.state.lock().await;
        state.at.is_none() && state.outside.elapsed() >= self.join_timeout
    }

    pub(super) fn is_over(&self) -> bool {
        *self.ended.borrow()
    }

    fn say(&self, packet: String) {
        self.outbox.push(Out::Text(packet.into()));
    }

    fn emit(&self, name: &str, arguments: &[Value]) {
        self.say(packet::event(name, arguments));
    }

    /// `log`, as the codelab's server explains itself to its students.
    fn log(&self, words: &[Value]) {
        let mut line = vec![json!("Message from server:")];
        line.extend_from_slice(words);
        self.emit("log", &[Value::Array(line)]);
    }

    /// The first packets of the session.
    pub(super) fn greet(&self, upgrades: &[&str]) -> Vec<String> {
        let mut packets = vec![self.revision.open(&self.sid, upgrades)];
        if self.revision == Revision::Three {
            packets.push(packet::connected(self.revision, &self.sid));
        }
        packets
    }

    /// A packet came from the client; packets are dealt with one after the other. Returns false when the
    /// session is over.
    pub(super) async fn receive(self: &Arc<Self>, text: &str) -> bool {
        self.hear();
        let mut state = self.state.lock().await;
        if self.is_over() {
            return false;
        }
        // who sends too fast waits, and so does what it sends next
        while !state.may_speak() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let fine = text.len() <= self.limits.frame_bytes
            && match engine::read(text) {
                engine::Received::Ping(data) => {
                    self.say(format!("3{data}"));
                    true
                }
                engine::Received::Message(message) => {
                    let request = trace::request("socketio", None, None);
                    trace::told(request, self.message(&mut state, packet::read(message))).await
                }
                engine::Received::Pong | engine::Received::Noop | engine::Received::Upgrade => true,
                engine::Received::Close | engine::Received::Bad => false,
            };
        drop(state);
        if !fine {
            self.end().await;
        }
        fine
    }

    async fn message(&self, state: &mut State, received: packet::Received) -> bool {
        match received {
            packet::Received::Connect(token) => self.connect(token.as_deref()).await,
            packet::Received::ConnectElsewhere(namespace) => {
                self.say(packet::no_namespace(self.revision, &namespace));
            }
            packet::Received::Event { name, arguments } => self.event(state, &name, &arguments).await,
            packet::Received::Ignored => {}
            // the client ends the session below by itself, and may poll until then
            packet::Received::Disconnect => self.leave(state, Reason::Left).await,
            packet::Received::Bad => return false,
        }
        true
    }

    async fn event(&self, state: &mut State, name: &str, arguments: &[Value]) {
        let Some(pass) = self.pass.get() else { return };
        let first = arguments.first();
        match name {
            "create or join" => {
                self.hub.metrics().message("socketio", "join");
                trace::kind("join");
                let room = match first {
                    Some(Value::String(room)) => room.clone(),
                    Some(other) => other.to_string(),
                    None => String::new(),
                };
                self.log(&[json!(format!("Received request to create or join room {room}"))]);
                match room.parse() {
                    Ok(_) if !pass.admits(&room) => {
                        self.log(&[json!(
                            "This token does not let into that room; get one whose `rooms` names it"
                        )]);
                    }
                    Ok(room) => self.create_or_join(state, room).await,
                    Err(error) => self.log(&[json!(format!("{error}"))]),
                }
            }
            "message" => {
                self.hub.metrics().message("socketio", "signal");
                trace::kind("signal");
                let data = first.unwrap_or(&Value::Null);
                self.log(&[json!("Client said: "), data.clone()]);
                let Some(at) = &state.at else { return };
                if !pass.may_publish() {
                    return self.log(&[json!("This token permits no sending")]);
                }
                if let Err(error) = self.hub.signal(at, None, None, data.to_string()).await {
                    self.log(&[json!(format!("{error}"))]);
                }
            }
            "ipaddr" => self.emit("ipaddr", &[json!(self.host)]),
            "bye" => {
                self.hub.metrics().message("socketio", "leave");
                trace::kind("leave");
                self.leave(state, Reason::Left).await;
            }
            _ => {}
        }
    }

    async fn create_or_join(&self, state: &mut State, room: RoomName) {
        if state.at.as_ref().is_some_and(|at| at.room == room) {
            self.log(&[json!(format!("You are in room {room} already"))]);
            return;
        }
        if !self.guest.may_join() {
            self.log(&[json!(TOO_FAST)]);
            return;
        }
        self.leave(state, Reason::Left).await;
        let grant = self.pass.get().and_then(|pass| pass.grant());
        let user = grant.as_ref().map(|grant| grant.subject.as_str());
        let entering = Entering { user, max: MEMBERS, bound: MEMBERS, ..Entering::new(room.clone()) };
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = Some(room.clone());
        // what the room says must come after the answer
        let entered = self.hub.enter(entering, self.outbox.clone(), |entered| self.answer(entered)).await;
        match entered {
            Ok(entered) => state.at = Some(entered.at),
            Err(EnterError::Full { .. }) => self.emit("full", &[json!(room)]),
            Err(error @ EnterError::TooManyRooms { .. }) => self.log(&[json!(error.to_string())]),
            Err(EnterError::Store(error)) => {
                tracing::warn!(%error, "a client of the codelab is told to try again");
                self.log(&[json!("the rooms cannot be reached now; try again in a few seconds")]);
            }
        }
    }

    fn answer(&self, entered: &Entered) {
        let (room, id) = (json!(entered.at.room), json!(self.sid));
        let verb = if entered.view.members.len() > 1 { "joined" } else { "created" };
        self.log(&[json!(format!("Client ID {} {verb} room {}", self.sid, entered.at.room))]);
        self.emit(verb, &[room.clone(), id]);
        if verb == "created" {
            // the article's client waits for this one
            self.emit("empty", &[room]);
        } else {
            self.emit("ready", &[]);
        }
    }

    async fn leave(&self, state: &mut State, why: Reason) {
        if let Some(at) = state.at.take() {
            self.hub.leave(&at, why).await;
            state.outside = Instant::now();
            self.outbox.clear_parcels();
        }
    }

    /// The session is over: its member leaves at once, for this dialect knows no resuming.
    pub(super) async fn end(self: &Arc<Self>) {
        if self.ended.send_replace(true) {
            return;
        }
        self.table.remove(&self.sid);
        self.outbox.push(Out::Close(1000, "over"));
        let mut state = self.state.lock().await;
        self.leave(&mut state, Reason::Lost).await;
    }

    /// The packets for something that the rooms say; empty when this dialect has no word for it.
    pub(super) fn words(&self, out: &Out) -> Vec<String> {
        match out {
            Out::Text(packet) => vec![packet.to_string()],
            Out::Parcel(parcel) => self.parcel(parcel),
            Out::Close(..) => vec![engine::CLOSE.to_owned()],
            // No client of the codelab knows of these.
            Out::Resync { .. } | Out::Degraded(_) | Out::Recovered | Out::Goaway(_) | Out::Expiring(_) => {
                Vec::new()
            }
        }
    }

    fn parcel(&self, parcel: &Parcel) -> Vec<String> {
        match parcel.kind {
            Kind::Signal => {
                parcel.data().map(|data| packet::raw_event("message", data)).into_iter().collect()
            }
            Kind::Joined => {
                let room = self.room.lock().unwrap_or_else(PoisonError::into_inner).clone();
                vec![packet::event("join", &[json!(room)]), packet::event("ready", &[])]
            }
            // `bye` is a message of the other client's.
            Kind::Left | Kind::Attached => Vec::new(),
        }
    }
}

/// Pings a client of revision 4, and ends a session of which nothing is heard.
async fn watch_over(session: Weak<Session>) {
    loop {
        tokio::time::sleep(Duration::from_millis(PING_INTERVAL)).await;
        let Some(session) = session.upgrade() else { return };
        if session.is_over() {
            return;
        }
        if session.is_too_late().await {
            session.hub.metrics().refused("never_joined");
            session.end().await;
            return;
        }
        if session.quiet() >= Duration::from_millis(PING_INTERVAL + PING_TIMEOUT) {
            session.end().await;
            return;
        }
        if session.revision == Revision::Four {
            session.say(engine::PING.to_owned());
        }
    }
}

impl Session {
    /// A poll that ends early, because the client changes to a WebSocket or has gone.
    pub(super) fn set_upgrading(&self, upgrading: bool) {
        self.upgrading.store(upgrading, Ordering::Relaxed);
        if upgrading {
            self.upgrade.notify_waiters();
        }
    }
}
