//! News on Redis, and the replica that leads.

use super::{
    RedisStore,
    library::malformed,
    slots::{PARTITIONS, key},
};
use crate::store::{
    Outcome, StoreError,
    news::{AT_ONCE, Cursor, Found, News, Place},
};
use redis::{Cmd, FromRedisValue};
use rtc_signaling_proto::{Entry, RoomName};
use std::{sync::Arc, time::Duration};

/// Where the leader stands.
const LEADER: usize = 0;
const LEAD: &str = "
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";
const RESIGN: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end";

/// A stream's entry: its id, and names and values.
type Line = (String, Vec<String>);

impl RedisStore {
    async fn ask_leader<T: FromRedisValue>(&self, script: &str, lease: Duration) -> Outcome<T> {
        let milliseconds = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(1).arg(key(LEADER, "leader")).arg(self.replica.as_str()).arg(milliseconds);
        let answers = self.ask(&[(LEADER, eval)]).await?;
        answers.into_iter().next().ok_or_else(malformed)
    }

    pub(in crate::store) async fn lead(&self, lease: Duration) -> Outcome<bool> {
        self.ask_leader(LEAD, lease).await
    }

    pub(in crate::store) async fn resign(&self) -> Outcome<()> {
        self.ask_leader(RESIGN, Duration::ZERO).await
    }

    pub(in crate::store) async fn read_news(&self, cursor: &mut Cursor) -> Outcome<Found> {
        let lengths = (0..PARTITIONS).map(|part| {
            let mut length = redis::cmd("XLEN");
            length.arg(key(part, "news"));
            (part, length)
        });
        let lengths: Vec<u64> = self.ask(&lengths.collect::<Vec<_>>()).await?;
        let some: Vec<usize> = (0..PARTITIONS).filter(|part| lengths[*part] > 0).collect();
        let range = |part| {
            let (time, count) = cursor.of(part).id;
            let mut range = redis::cmd("XRANGE");
            range.arg(key(part, "news")).arg(format!("{time}-{}", count + 1)).arg("+");
            range.arg("COUNT").arg(AT_ONCE);
            (part, range)
        };
        let ranges: Vec<_> = some.iter().copied().map(range).collect();
        let lines: Vec<Vec<Line>> = self.ask(&ranges).await?;
        let mut found = Found { waiting: lengths.iter().sum(), ..Found::default() };
        for (part, lines) in some.into_iter().zip(lines) {
            for line in lines {
                let (number, news) = parse(part, &line).ok_or_else(malformed)?;
                found.lost += cursor.of(part).take(news.place.id, number);
                found.news.push(news);
            }
        }
        Ok(found)
    }

    pub(in crate::store) async fn drop_news(&self, places: &[Place]) -> Outcome<()> {
        let delete = |place: &Place| {
            let mut delete = redis::cmd("XDEL");
            delete.arg(key(place.part, "news")).arg(format!("{}-{}", place.id.0, place.id.1));
            (place.part, delete)
        };
        let deletes: Vec<_> = places.iter().map(delete).collect();
        self.ask::<u64>(&deletes).await.map(drop)
    }

    /// The answer to each command, which is for a partition: one round trip to each server.
    async fn ask<T: FromRedisValue>(&self, commands: &[(usize, Cmd)]) -> Outcome<Vec<T>> {
        self.begun().await;
        let map = self.fleet.map();
        let mut answers: Vec<Option<T>> = commands.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..commands.len()).collect();
        while let Some(first) = open.first() {
            let node = map.node(commands[*first].0).map_err(StoreError::Unavailable)?;
            let is_there = |at: &usize| map.node(commands[*at].0).is_ok_and(|other| Arc::ptr_eq(node, other));
            let (there, others): (Vec<usize>, _) = open.iter().partition(|at| is_there(at));
            let mut pipe = redis::pipe();
            for at in &there {
                pipe.add_command(commands[*at].1.clone());
            }
            let mut connection = node.commands.clone();
            let answered = pipe.query_async::<Vec<T>>(&mut connection).await;
            for (at, answer) in there.into_iter().zip(answered.map_err(|e| self.unavailable(&e))?) {
                answers[at] = Some(answer);
            }
            open = others;
        }
        answers.into_iter().collect::<Option<_>>().ok_or_else(malformed)
    }
}

/// As an act writes it; with its number.
fn parse(part: usize, (id, fields): &Line) -> Option<(u64, News)> {
    let [_, number, _, at, _, room, _, members, _, record] = &fields[..] else { return None };
    let (time, count) = id.split_once('-')?;
    let news = News {
        place: Place { part, id: (time.parse().ok()?, count.parse().ok()?) },
        at: at.parse().ok()?,
        room: RoomName::from_stored(room),
        members: members.parse().ok()?,
        entry: Entry::from_record(record)?,
    };
    Some((number.parse().ok()?, news))
}
