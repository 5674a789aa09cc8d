//! One server with rooms: a connection for what it is asked, one for what it passes on.

use super::{
    append::Logs,
    call::{Caller, Functions},
    inbox::Inbox,
    queue::Queue,
    slots::key,
    target::{Address, Mode, Target},
};
use redis::{
    AsyncConnectionConfig, Client, ProtocolVersion, RedisError,
    aio::{MultiplexedConnection, SendError},
};
use std::{sync::Arc, time::Duration};

/// Redis answers within a millisecond or is in trouble.
pub(super) const ANSWER: Duration = Duration::from_secs(2);

/// What a server is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: Address,
    /// In order.
    pub(super) partitions: Vec<usize>,
}

/// The connections to one server. Both work, or it counts as gone.
pub(super) struct Node {
    pub(super) place: Place,
    /// What is asked at once is sent at once, and answered in order.
    pub(super) commands: MultiplexedConnection,
    /// To the same connection.
    pub(super) writes: Queue<Functions>,
    pub(super) logs: Queue<Logs>,
    /// Of the server's data: another one when a replica takes over, or after a restart.
    pub(super) life: String,
    /// Tells it from all others of this process.
    pub(super) number: u64,
    subscription: MultiplexedConnection,
    inbox: Arc<Inbox>,
}

/// Why a server cannot be used, without secrets.
fn trouble(address: &Address, error: &RedisError) -> String {
    format!("{address}: {error}")
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER))
}

pub(super) async fn connect(client: &Client, address: &Address) -> Result<MultiplexedConnection, String> {
    let config = config();
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    connecting.await.map_err(|e| trouble(address, &e))
}

impl Node {
    /// Connects, or keeps what works of `before`.
    pub(super) async fn open(
        target: &Target,
        place: Place,
        channels: Vec<String>,
        caller: &Caller,
        before: Option<&Arc<Self>>,
        inbox: Inbox,
    ) -> Result<Arc<Self>, String> {
        let mut commands = None;
        if let Some(before) = before
            && let Ok(life) = probe(&mut before.commands.clone(), &place).await
            && life == before.life
        {
            if before.place == place && before.is_subscribed().await {
                return Ok(before.clone());
            }
            commands = Some((before.commands.clone(), life));
        }
        let (commands, life) = match commands {
            Some(commands) => commands,
            None => {
                let client = target.client(&place.address, ProtocolVersion::RESP2)?;
                let mut commands = connect(&client, &place.address).await?;
                let life = probe(&mut commands, &place).await?;
                let loaded = caller.library.load(&mut commands).await;
                loaded.map_err(|e| trouble(&place.address, &e))?;
                (commands, life)
            }
        };
        let (number, inbox) = (inbox.number, Arc::new(inbox));
        // RESP3 has one form for replies and another for what was not asked for
        let client = target.client(&place.address, ProtocolVersion::RESP3)?;
        let receiver = inbox.clone();
        let config = config().set_push_sender(move |push| {
            receiver.take(push);
            Ok::<_, SendError>(())
        });
        let mut subscription = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| trouble(&place.address, &e))?;
        let subscribe = if target.mode == Mode::Cluster { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        // Cluster takes one slot at a time
        let mut pipe = redis::pipe();
        for channel in channels {
            pipe.cmd(subscribe).arg(channel).ignore();
        }
        pipe.exec_async(&mut subscription).await.map_err(|e| trouble(&place.address, &e))?;
        let cluster = target.mode == Mode::Cluster;
        let functions =
            Functions { connection: commands.clone(), life: life.clone(), caller: caller.clone() };
        let logs = Queue::new(Logs { connection: commands.clone(), cluster });
        Ok(Arc::new(Self {
            place,
            commands,
            writes: Queue::new(functions),
            logs,
            life,
            number,
            subscription,
            inbox,
        }))
    }

    /// A connection that died without a word is found by asking it.
    async fn is_subscribed(&self) -> bool {
        let mut subscription = self.subscription.clone();
        !self.inbox.has_ended() && redis::cmd("PING").exec_async(&mut subscription).await.is_ok()
    }
}

/// Whether the server takes writes (it is a master, its disk and memory suffice, its slots are served), and
/// the life of its data.
async fn probe(connection: &mut MultiplexedConnection, place: &Place) -> Result<String, String> {
    let address = &place.address;
    let mut pipe = redis::pipe();
    pipe.cmd("INFO").arg("replication");
    if let Some(first) = place.partitions.first() {
        pipe.cmd("SET").arg(key(*first, "alive")).arg(1).arg("PX").arg(60_000).ignore();
    }
    let (info,): (String,) = pipe.query_async(connection).await.map_err(|e| trouble(address, &e))?;
    let field = |name| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    if field("role") != Some("master") {
        return Err(format!("{address}: not a master"));
    }
    // half of the id tells lives apart
    let life = field("master_replid").and_then(|id| id.get(..20));
    life.map(str::to_owned).ok_or_else(|| format!("{address}: tells no replication id"))
}
