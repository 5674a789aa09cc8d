//! One connection that is subscribed to the channels of the rooms that a replica hosts.
//!
//! The set of wanted channels is kept here and restored after each reconnect, whatever the client library
//! promises; after it, the replica is told that it may have missed entries.

use super::{ANSWER, after};
use crate::{
    parcel::Parcel,
    store::{Listener, Outcome, StoreError},
};
use futures::StreamExt;
use redis::{
    Client, Msg, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use rtc_signaling_proto::{Entry, RoomName};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

/// Commands that are taken together, so that their subscriptions cost one round trip.
const BATCH: usize = 256;

enum Command {
    Host(RoomName, String, oneshot::Sender<()>),
    Unhost(String),
}

#[derive(Debug)]
pub(super) struct Subscriber(mpsc::UnboundedSender<Command>);

impl Subscriber {
    pub(super) fn start(
        client: Arc<Client>,
        listener: Weak<dyn Listener>,
        begin: watch::Receiver<bool>,
    ) -> (Self, AbortHandle) {
        let (sender, commands) = mpsc::unbounded_channel();
        let task = Task { client, listener, commands, wanted: HashMap::new(), waiting: Vec::new() };
        (Self(sender), tokio::spawn(after(begin, task.run())).abort_handle())
    }

    pub(super) fn host(&self, room: RoomName, channel: String) -> impl Future<Output = Outcome<()>> + use<> {
        let (done, confirmed) = oneshot::channel();
        let sent = self.0.send(Command::Host(room, channel, done));
        async move {
            let ended = || StoreError::Unavailable("the subscriber has ended".into());
            sent.map_err(|_| ended())?;
            confirmed.await.map_err(|_| ended())
        }
    }

    pub(super) fn unhost(&self, channel: String) {
        // an error means that the task has ended, and its subscriptions with it
        let _ = self.0.send(Command::Unhost(channel));
    }
}

struct Task {
    client: Arc<Client>,
    listener: Weak<dyn Listener>,
    commands: mpsc::UnboundedReceiver<Command>,
    wanted: HashMap<String, RoomName>,
    /// Those who wait for a subscription to be confirmed.
    waiting: Vec<oneshot::Sender<()>>,
}

/// Why a connection's life ended.
enum End {
    Lost,
    Over,
}

impl Task {
    async fn run(mut self) {
        let mut pause = Duration::from_millis(50);
        loop {
            match tokio::time::timeout(ANSWER, self.client.get_async_pubsub()).await {
                Ok(Ok(connection)) => {
                    let (sink, stream) = connection.split();
                    match self.serve(sink, stream).await {
                        End::Over => return,
                        End::Lost => tracing::warn!("the subscription to Redis was lost; renewing it"),
                    }
                    pause = Duration::from_millis(50);
                }
                Ok(Err(error)) => tracing::debug!(%error, "cannot subscribe to Redis"),
                Err(_) => tracing::debug!("cannot subscribe to Redis: no answer in time"),
            }
            if self.listener.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(crate::random::jitter(pause)).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn serve(&mut self, mut sink: PubSubSink, mut stream: PubSubStream) -> End {
        let channels: Vec<String> = self.wanted.keys().cloned().collect();
        if self.subscribe(&mut sink, channels).await.is_err() {
            return End::Lost;
        }
        let Some(listener) = self.listener.upgrade() else { return End::Over };
        listener.gap();
        drop(listener);
        let mut batch = Vec::new();
        // A connection that died without a word is found by asking it.
        let mut probe = tokio::time::interval(Duration::from_secs(3));
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.deliver(&message),
                    None => return End::Lost,
                },
                count = self.commands.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return End::Over;
                    }
                    if self.obey(&mut sink, batch.drain(..)).await.is_err() {
                        return End::Lost;
                    }
                }
                _ = probe.tick() => {
                    let pong = tokio::time::timeout(ANSWER, sink.ping::<redis::Value>()).await;
                    if !matches!(pong, Ok(Ok(_))) {
                        return End::Lost;
                    }
                }
            }
        }
    }

    async fn obey(
        &mut self,
        sink: &mut PubSubSink,
        commands: impl Iterator<Item = Command>,
    ) -> Result<(), ()> {
        let mut changed: Vec<String> = Vec::new();
        for command in commands {
            match command {
                Command::Host(room, channel, done) => {
                    self.waiting.push(done);
                    if self.wanted.insert(channel.clone(), room).is_none() {
                        changed.push(channel);
                    }
                }
                Command::Unhost(channel) => {
                    if self.wanted.remove(&channel).is_some() {
                        changed.push(channel);
                    }
                }
            }
        }
        let (subscribe, unsubscribe): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|channel| self.wanted.contains_key(channel));
        if !unsubscribe.is_empty() {
            bounded(sink.unsubscribe(unsubscribe)).await?;
        }
        self.subscribe(sink, subscribe).await
    }

    async fn subscribe(&mut self, sink: &mut PubSubSink, channels: Vec<String>) -> Result<(), ()> {
        for channels in channels.chunks(BATCH) {
            bounded(sink.subscribe(channels)).await?;
        }
        for done in self.waiting.drain(..) {
            // nobody may wait any more
            let _ = done.send(());
        }
        Ok(())
    }

    fn deliver(&self, message: &Msg) {
        let Some(room) = self.wanted.get(message.get_channel_name()) else { return };
        let record = message.get_payload::<String>().ok();
        let entry = record.as_deref().and_then(Entry::from_record);
        match (entry, self.listener.upgrade()) {
            (Some(entry), Some(listener)) => listener.entry(room, &Arc::new(Parcel::from(entry))),
            // the number that is missing now will be read from the log
            (None, _) => tracing::warn!(%room, "not an entry of a room's log"),
            (_, None) => {}
        }
    }
}

async fn bounded(act: impl Future<Output = RedisResult<()>>) -> Result<(), ()> {
    match tokio::time::timeout(ANSWER, act).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(()),
    }
}
