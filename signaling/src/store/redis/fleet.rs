//! The servers that have the rooms now, and whether they can be reached.
//!
//! One task looks at them every second, and at once when somebody doubts: it asks where the rooms are, keeps
//! the connections that work, makes those that are missing, and tells the replica what changed.

use super::{
    backoff::Backoff,
    call::Caller,
    finder::Finder,
    hosting::Hosting,
    inbox::Inbox,
    node::Node,
    slots::{PARTITIONS, key},
    target::{Mode, Target},
};
use crate::store::Down;
use rtc_signaling_proto::ReplicaId;
use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// How often servers are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Doubts that come faster are taken together.
const DOUBTS: Duration = Duration::from_millis(100);

/// How long all replicas take, after an outage, to be back and renew their leases.
const REUNION: Duration = Duration::from_secs(5);

/// The servers, at one time.
pub(super) struct Map {
    servers: Vec<Result<Arc<Node>, String>>,
    /// Which of them each partition is on.
    partitions: Vec<usize>,
    /// Of all servers that work.
    pub(super) lives: Arc<str>,
}

impl Map {
    fn working(&self) -> Vec<Arc<Node>> {
        self.servers.iter().filter_map(|server| server.as_ref().ok()).cloned().collect()
    }

    fn trouble(&self) -> Option<&String> {
        self.servers.iter().find_map(|server| server.as_ref().err())
    }

    /// The server of a partition, or why it cannot be used.
    pub(super) fn node(&self, partition: usize) -> Result<&Arc<Node>, String> {
        let at = self.partitions.get(partition).and_then(|at| self.servers.get(*at));
        match at {
            Some(server) => server.as_ref().map_err(Clone::clone),
            None => Err("not connected yet".into()),
        }
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Result<&Arc<Node>, &String>> {
        self.servers.iter().map(Result::as_ref)
    }
}

struct Health {
    down: Option<Down>,
    /// When the last outage ended.
    back: Option<Instant>,
    /// Whether the replica knows.
    told: bool,
}

pub(super) struct Fleet {
    map: RwLock<Arc<Map>>,
    health: Mutex<Health>,
    /// Somebody met an error.
    doubt: Arc<Notify>,
    /// Whether the replica's channel was subscribed to once.
    pub(super) listening: watch::Sender<bool>,
    /// How many have begun.
    subscriptions: AtomicU64,
}

impl Fleet {
    pub(super) fn new() -> Arc<Self> {
        let map = Map { servers: Vec::new(), partitions: Vec::new(), lives: "".into() };
        let down = Down { since: rtc_service::clock::unix_now(), reason: "not connected yet".into() };
        Arc::new(Self {
            map: RwLock::new(Arc::new(map)),
            health: Mutex::new(Health { down: Some(down), back: None, told: false }),
            doubt: Arc::new(Notify::new()),
            listening: watch::channel(false).0,
            subscriptions: AtomicU64::new(1),
        })
    }

    pub(super) fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    pub(super) fn down(&self) -> Option<Down> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).down.clone()
    }

    /// Whether an outage has ended just now: other replicas may not have come back yet.
    pub(super) fn is_just_back(&self) -> bool {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.back.is_some_and(|back| back.elapsed() < REUNION)
    }

    /// Looks after the servers for as long as the listener lives.
    pub(super) async fn keep(
        self: Arc<Self>,
        mut targets: watch::Receiver<Target>,
        caller: Caller,
        hosting: Arc<Hosting>,
    ) {
        let (mut finder, mut backoff) = (Finder::default(), Backoff::default());
        let mut current = targets.borrow_and_update().clone();
        let mut refused = String::new();
        loop {
            let wanted = targets.borrow_and_update().clone();
            let mut before = self.map().working();
            if wanted != current {
                finder.forget();
                let map = self.look(&wanted, &mut finder, &[], &caller, &hosting).await;
                match map.trouble() {
                    Some(reason) if self.down().is_none() => {
                        if refused != *reason {
                            tracing::warn!(
                                reason,
                                "Redis cannot be used as newly configured; the old way works"
                            );
                            refused.clone_from(reason);
                        }
                        finder.forget();
                    }
                    // nothing is lost, or all is well
                    _ => {
                        tracing::info!("using Redis as newly configured");
                        current = wanted;
                        before = self.install(map, &hosting).working();
                    }
                }
            }
            let map = self.look(&current, &mut finder, &before, &caller, &hosting).await;
            let map = self.install(map, &hosting);
            let now = Instant::now();
            let pause = match map.trouble() {
                None => {
                    backoff.worked(now);
                    LOOK
                }
                Some(_) => backoff.failed(now),
            };
            if !self.report(map.trouble(), &hosting) {
                return;
            }
            let working = map.trouble().is_none();
            tokio::select! {
                () = tokio::time::sleep(crate::random::jitter(pause)) => {}
                () = self.doubt.notified(), if working => {
                    // what failed has to be looked at soon, but no faster than this
                    tokio::time::sleep_until(now + DOUBTS).await;
                }
                Ok(()) = targets.changed() => backoff = Backoff::default(),
            }
        }
    }

    /// Finds the servers, and connects to those that no connection of `before` works for.
    async fn look(
        &self,
        target: &Target,
        finder: &mut Finder,
        before: &[Arc<Node>],
        caller: &Caller,
        hosting: &Arc<Hosting>,
    ) -> Map {
        let places = match finder.find(target, before).await {
            Ok(places) => places,
            Err(reason) => {
                let (servers, partitions) = (vec![Err(reason)], vec![0; PARTITIONS]);
                return Map { servers, partitions, lives: "".into() };
            }
        };
        let mut partitions = vec![0; PARTITIONS];
        for (at, place) in places.iter().enumerate() {
            for partition in &place.partitions {
                partitions[*partition] = at;
            }
        }
        let open = places.into_iter().map(|place| {
            let known = before.iter().find(|node| node.place.address == place.address);
            let channels = match target.mode {
                Mode::Cluster => {
                    place.partitions.iter().map(|p| key(*p, &of_replica(&caller.replica))).collect()
                }
                _ => vec![format!("rtc:{}", of_replica(&caller.replica))],
            };
            let number = self.subscriptions.fetch_add(1, Ordering::Relaxed);
            let (hosting, doubt) = (hosting.clone(), self.doubt.clone());
            let inbox = Inbox { hosting, number, doubt, ended: false.into() };
            Node::open(target, place, channels, caller, known, inbox)
        });
        let servers = futures::future::join_all(open).await;
        let lives: Vec<_> = servers.iter().flatten().map(|node| node.life.as_str()).collect();
        let lives = lives.join(",").into();
        Map { servers, partitions, lives }
    }

    fn install(&self, map: Map, hosting: &Hosting) -> Arc<Map> {
        let map = Arc::new(map);
        let before = {
            let mut current = self.map.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, map.clone())
        };
        let known = before.working();
        let is_new = |node: &Arc<Node>| !known.iter().any(|known| Arc::ptr_eq(known, node));
        if map.working().iter().any(is_new) {
            if map.trouble().is_none() {
                self.listening.send_replace(true);
            }
            if let Some(listener) = hosting.listener() {
                listener.gap();
            }
        }
        map
    }

    /// Says how it is, once; false when nobody is there to hear it.
    fn report(&self, trouble: Option<&String>, hosting: &Hosting) -> bool {
        let Some(listener) = hosting.listener() else { return false };
        let now = rtc_service::clock::unix_now();
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match (trouble, health.down.clone()) {
            (Some(reason), down) => {
                if !down.as_ref().is_some_and(|down| down.reason == *reason && health.told) {
                    tracing::warn!(reason, "Redis cannot be used; rooms go on within this replica");
                }
                let since = down.map_or(now, |down| down.since);
                health.down = Some(Down { since, reason: reason.clone() });
                if !std::mem::replace(&mut health.told, true) {
                    drop(health);
                    listener.health(Some(since));
                }
            }
            (None, Some(down)) => {
                health.down = None;
                health.back = health.told.then(Instant::now);
                if std::mem::replace(&mut health.told, false) {
                    drop(health);
                    tracing::info!(seconds = now.saturating_sub(down.since), "Redis is back");
                    listener.health(None);
                }
            }
            (None, None) => {}
        }
        true
    }
}

/// What a replica's channel ends with.
fn of_replica(replica: &ReplicaId) -> String {
    format!("to:{replica}")
}
