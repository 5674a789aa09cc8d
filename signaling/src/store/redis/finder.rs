//! Which servers have the rooms: asked of Sentinels, or of the Cluster.

use super::{
    node::{Node, Place, connect},
    slots::{PARTITIONS, slot},
    target::{Address, Mode, Target},
};
use redis::{FromRedisValue, ProtocolVersion, Value, aio::MultiplexedConnection};
use std::{collections::BTreeMap, sync::Arc};

/// Finds servers. Keeps a connection to whom it asked last.
#[derive(Default)]
pub(super) struct Finder {
    asked: Option<(Address, MultiplexedConnection)>,
    complained: bool,
}

impl Finder {
    /// Where each partition is now. `nodes` are those that work: when nobody can be asked, they stay.
    pub(super) async fn find(&mut self, target: &Target, nodes: &[Arc<Node>]) -> Result<Vec<Place>, String> {
        let found = match target.mode {
            Mode::Standalone => Ok(vec![everything(target.hosts[0].clone())]),
            Mode::Sentinel => self.ask_sentinels(target).await.map(|master| vec![everything(master)]),
            Mode::Cluster => self.ask_cluster(target, nodes).await,
        };
        let reason = match found {
            Err(reason) if !nodes.is_empty() => reason,
            found => {
                self.complained = false;
                return found;
            }
        };
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(reason, "nobody tells where Redis is; going on with what works");
        }
        Ok(nodes.iter().map(|node| node.place.clone()).collect())
    }

    /// Forgets whom it knows: the target is another.
    pub(super) fn forget(&mut self) {
        self.asked = None;
    }

    async fn ask_sentinels(&mut self, target: &Target) -> Result<Address, String> {
        let mut trouble = String::new();
        if let Some((address, mut connection)) = self.asked.take()
            && let Ok(master) = master(target, &address, &mut connection).await
        {
            self.asked = Some((address, connection));
            return Ok(master);
        }
        for address in &target.hosts {
            let answer = async {
                let mut connection = connect(&target.sentinel(address, true)?, address).await;
                if connection.is_err() && target.has_password() {
                    // a Sentinel often has no password when its servers do
                    let without = connect(&target.sentinel(address, false)?, address).await;
                    connection = without.or(connection);
                }
                let mut connection = connection?;
                let master = master(target, address, &mut connection).await?;
                Ok((master, connection))
            };
            match answer.await {
                Ok((master, connection)) => {
                    self.asked = Some((address.clone(), connection));
                    return Ok(master);
                }
                Err(reason) => trouble = reason,
            }
        }
        Err(format!("no Sentinel tells who is master; the last: {trouble}"))
    }

    async fn ask_cluster(&mut self, target: &Target, nodes: &[Arc<Node>]) -> Result<Vec<Place>, String> {
        for node in nodes {
            if let Ok(places) = slots(&node.place.address, &mut node.commands.clone()).await {
                return Ok(places);
            }
        }
        let mut trouble = String::new();
        for address in &target.hosts {
            let answer = async {
                let client = target.client(address, ProtocolVersion::RESP2)?;
                slots(address, &mut connect(&client, address).await?).await
            };
            match answer.await {
                Ok(places) => return Ok(places),
                Err(reason) => trouble = reason,
            }
        }
        Err(format!("no node tells where the slots of the Cluster are; the last: {trouble}"))
    }
}

fn everything(address: Address) -> Place {
    Place { address, partitions: (0..PARTITIONS).collect() }
}

async fn master(
    target: &Target,
    address: &Address,
    connection: &mut MultiplexedConnection,
) -> Result<Address, String> {
    let service = &target.service;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let answer: Option<(String, u16)> =
        command.query_async(connection).await.map_err(|e| format!("{address}: {e}"))?;
    let (host, port) = answer.ok_or_else(|| format!("{address} knows no master named {service:?}"))?;
    Ok(Address { host, port })
}

async fn slots(address: &Address, connection: &mut MultiplexedConnection) -> Result<Vec<Place>, String> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let ranges: Vec<Vec<Value>> =
        command.query_async(connection).await.map_err(|e| format!("{address}: {e}"))?;
    let ranges: Option<Vec<Range>> = ranges.into_iter().map(|range| Range::read(range, address)).collect();
    places(&ranges.ok_or_else(|| format!("{address}: CLUSTER SLOTS has another form than expected"))?)
}

/// Slots that one server has.
#[derive(Clone, Debug)]
struct Range {
    first: u16,
    last: u16,
    master: Address,
}

impl Range {
    /// `[first, last, [host, port, …], replicas…]`; without a host it is the one that was asked.
    fn read(range: Vec<Value>, asked: &Address) -> Option<Self> {
        let mut range = range.into_iter();
        let first = u16::from_redis_value(range.next()?).ok()?;
        let last = u16::from_redis_value(range.next()?).ok()?;
        let mut master = Vec::<Value>::from_redis_value(range.next()?).ok()?.into_iter();
        let host = Option::<String>::from_redis_value(master.next()?).ok()?;
        let port = u16::from_redis_value(master.next()?).ok()?;
        let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.host.clone());
        Some(Self { first, last, master: Address { host, port } })
    }
}

fn places(ranges: &[Range]) -> Result<Vec<Place>, String> {
    let mut places = BTreeMap::<Address, Vec<usize>>::new();
    for partition in 0..PARTITIONS {
        let slot = slot(partition);
        let range = ranges.iter().find(|range| (range.first..=range.last).contains(&slot));
        let range = range.ok_or_else(|| format!("slot {slot} of the Cluster is on no server"))?;
        places.entry(range.master.clone()).or_default().push(partition);
    }
    Ok(places.into_iter().map(|(address, partitions)| Place { address, partitions }).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(first: u16, last: u16, port: u16) -> Range {
        Range { first, last, master: Address { host: "h".into(), port } }
    }

    #[test]
    fn every_partition_is_on_the_server_that_has_its_slot() {
        let found = places(&[range(0, 5460, 1), range(5461, 10922, 2), range(10923, 16383, 3)]).unwrap();
        assert_eq!(found.iter().map(|place| place.partitions.len()).sum::<usize>(), PARTITIONS);
        assert!(found[2].partitions.contains(&0), "slot 15882");
        assert!(found[1].partitions.contains(&127), "slot 5539");
        assert!(places(&[range(0, 15881, 1), range(15883, 16383, 2)]).unwrap_err().contains("15882"));
    }
}
