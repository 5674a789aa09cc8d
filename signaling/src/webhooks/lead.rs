//! The replica that leads reads the news, and tells them room by room.

use super::{Webhooks, event::events};
use crate::{
    hub::Hub,
    metrics::Metrics,
    store::{
        Outcome,
        news::{Cursor, News, Place},
    },
};
use rtc_signaling_proto::RoomName;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};

/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Requests under way.
const AT_ONCE: usize = 32;
/// With so many news that were read and not told, no more are read.
const ENOUGH: usize = 4096;
/// How long a replica that ends tells news that others would tell too.
const HANDOVER: Duration = Duration::from_secs(5);
/// What is left for them when a drain took all its time.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What sends the events of one replica, while it leads.
pub(crate) struct Sender {
    webhooks: Webhooks,
    hub: Weak<Hub>,
    metrics: Arc<Metrics>,
    /// For how long a replica leads that says nothing.
    lease: Duration,
    permits: Semaphore,
    looks: watch::Sender<Looked>,
    over: watch::Sender<bool>,
}

/// What the last look at the store came to.
#[derive(Clone, Copy, Default)]
struct Looked {
    count: u64,
    /// Nothing was left to do.
    idle: bool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.webhooks.fmt(f)
    }
}

/// While a replica leads.
#[derive(Default)]
struct Term {
    cursor: Cursor,
    tellers: JoinSet<()>,
    desk: Arc<Mutex<Desk>>,
}

/// News that were read, less those that the store has forgotten.
#[derive(Default)]
struct Desk {
    /// A room is here for as long as somebody tells its news.
    rooms: HashMap<RoomName, VecDeque<News>>,
    count: usize,
    told: Vec<Place>,
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sender {
    pub(crate) fn start(webhooks: Webhooks, hub: &Arc<Hub>, lease: Duration) -> Arc<Self> {
        let sender = Arc::new(Self {
            webhooks,
            hub: Arc::downgrade(hub),
            metrics: hub.metrics().clone(),
            lease,
            permits: Semaphore::new(AT_ONCE),
            looks: watch::Sender::default(),
            over: watch::Sender::default(),
        });
        tokio::spawn(sender.clone().run());
        sender
    }

    /// Tells what there is, for as long as there is time; then others lead.
    pub(crate) async fn finish(&self, deadline: Instant) {
        let now = Instant::now();
        let shared = self.hub.upgrade().is_some_and(|hub| hub.store().kind() == "redis");
        let end = if shared { deadline.min(now + HANDOVER) } else { deadline }.max(now + LAST_WORDS);
        let before = self.looks.borrow().count;
        // the look that is under way may have begun too early
        let done =
            async { self.looks.subscribe().wait_for(|l| l.idle && l.count >= before + 2).await.map(drop) };
        if tokio::time::timeout_at(end, done).await.is_err() {
            tracing::warn!(shared, "not every webhook was sent in time");
        }
        self.over.send_replace(true);
        // until it has let go of the lead
        let _ = tokio::time::timeout(LAST_WORDS, self.over.closed()).await;
    }

    async fn run(self: Arc<Self>) {
        let mut over = self.over.subscribe();
        let mut term: Option<Term> = None;
        let mut led = Instant::now();
        while !*over.borrow_and_update() {
            let Some(hub) = self.hub.upgrade() else { return };
            let asked = Instant::now();
            match self.look(&hub, &mut term).await {
                Ok(idle) => {
                    led = asked;
                    self.looks.send_modify(|looked| *looked = Looked { count: looked.count + 1, idle });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot look for news");
                    if led.elapsed() > self.lease {
                        term = None;
                    }
                }
            }
            drop(hub);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = over.changed() => {}
            }
        }
        if let (Some(term), Some(hub)) = (term, self.hub.upgrade()) {
            let told = std::mem::take(&mut lock(&term.desk).told);
            // those who tell must not go on beside the next leader
            drop(term);
            let resigned = async {
                hub.store().drop_news(&told).await?;
                hub.store().resign().await
            };
            if let Err(error) = resigned.await {
                tracing::debug!(%error, "cannot let go of the lead; it will run out");
            }
        }
    }

    /// Returns whether there is nothing left to do here.
    async fn look(self: &Arc<Self>, hub: &Hub, term: &mut Option<Term>) -> Outcome<bool> {
        let store = hub.store();
        if !store.lead(self.lease).await? {
            *term = None;
            self.metrics.webhook_queue(0);
            return Ok(true);
        }
        let term = term.get_or_insert_default();
        while term.tellers.try_join_next().is_some() {}
        let told = lock(&term.desk).told.clone();
        if !told.is_empty() {
            store.drop_news(&told).await?;
            let mut desk = lock(&term.desk);
            desk.told.drain(..told.len());
            desk.count -= told.len();
        }
        if lock(&term.desk).count >= ENOUGH {
            return Ok(false);
        }
        let found = store.read_news(&mut term.cursor).await?;
        self.metrics.webhook("dropped", found.lost);
        self.metrics.webhook_queue(found.waiting);
        let mut desk = lock(&term.desk);
        for news in found.news {
            desk.count += 1;
            let room = news.room.clone();
            let is_told = desk.rooms.contains_key(&room);
            desk.rooms.entry(room.clone()).or_default().push_back(news);
            if !is_told {
                term.tellers.spawn(self.clone().tell(room, term.desk.clone()));
            }
        }
        Ok(desk.count == 0)
    }

    /// Tells a room's news, one after the other.
    async fn tell(self: Arc<Self>, room: RoomName, desk: Arc<Mutex<Desk>>) {
        loop {
            let news = {
                let mut desk = lock(&desk);
                let Some(news) = desk.rooms.get_mut(&room).and_then(VecDeque::pop_front) else {
                    desk.rooms.remove(&room);
                    return;
                };
                news
            };
            let age = Duration::from_millis(rtc_service::clock::unix_millis().saturating_sub(news.at));
            let end = Instant::now() + self.webhooks.patience.saturating_sub(age);
            for event in events(&news) {
                self.webhooks.deliver(&event, end, &self.permits, &self.metrics).await;
            }
            lock(&desk).told.push(news.place);
        }
    }
}
