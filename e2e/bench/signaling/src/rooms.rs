//! Rooms that are full: of a hundred, in which each message goes to all others, and of two, who are idle.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::calls::connect_all;
use crate::clients::Clients;
use crate::dialect::{Dialect, Heard};

/// Members of a room under fan-out.
const MEMBERS: usize = 100;
/// Rooms at once.
const ROOMS: usize = 5;
/// Bytes of a message.
const LENGTH: usize = 250;
/// When nothing comes for so long, something is lost.
const STALLED: Duration = Duration::from_secs(5);

/// Rooms of a hundred.
pub(crate) struct Fanout {
    clients: Clients,
    /// The message of each room, and who has it.
    rounds: [Round; ROOMS],
    text: String,
}

#[derive(Clone, Copy)]
struct Round {
    tag: u64,
    missing: usize,
    sent: Instant,
}

/// Deliveries, and nanoseconds from sending to each.
#[derive(Default)]
pub(crate) struct Deliveries {
    /// How long each took.
    pub(crate) latencies: Vec<u32>,
}

impl Fanout {
    /// Fills the rooms.
    ///
    /// # Errors
    /// When somebody does not get in.
    pub(crate) fn new(dialect: Dialect, server: SocketAddr) -> Result<Self> {
        let mut clients = Clients::new(dialect)?;
        enter(&mut clients, server, ROOMS * MEMBERS, MEMBERS)?;
        let idle = Round { tag: 0, missing: 0, sent: Instant::now() };
        Ok(Fanout { clients, rounds: [idle; ROOMS], text: String::new() })
    }

    /// Has one member after the other say something, in each room when all have heard the one before.
    ///
    /// # Errors
    /// When a message is lost.
    pub(crate) fn run(&mut self, time: Duration) -> Result<Deliveries> {
        let (start, mut heard) = (Instant::now(), Vec::new());
        let mut deliveries = Deliveries::default();
        while start.elapsed() < time {
            for room in 0..ROOMS {
                if self.rounds[room].missing == 0 {
                    self.say(room)?;
                }
            }
            self.clients.listen(Duration::from_millis(100), &mut heard)?;
            let now = Instant::now();
            for (number, word) in heard.drain(..) {
                let round = &mut self.rounds[number / MEMBERS];
                match word {
                    Heard::Message(tag) if tag == round.tag && round.missing > 0 => {
                        round.missing -= 1;
                        let nanos = u32::try_from((now - round.sent).as_nanos()).unwrap_or(u32::MAX);
                        deliveries.latencies.push(nanos);
                    }
                    Heard::Message(_) => bail!("a message came late or twice"),
                    Heard::Gone => bail!("the server closed a connection"),
                    _ => {}
                }
            }
            if self.rounds.iter().any(|round| round.sent.elapsed() > STALLED) {
                bail!("a message did not come to all within five seconds");
            }
        }
        Ok(deliveries)
    }

    fn say(&mut self, room: usize) -> Result<()> {
        let tag = self.rounds[room].tag + 1;
        let from = room * MEMBERS + usize::try_from(tag)? % MEMBERS;
        self.clients.dialect().message(&mut self.text, LENGTH, tag, from, from);
        self.rounds[room] = Round { tag, missing: MEMBERS - 1, sent: Instant::now() };
        self.clients.say(from, &self.text)
    }
}

/// Clients in rooms, who say nothing, until this is dropped.
pub(crate) struct Idle {
    clients: Clients,
    /// How many.
    pub(crate) count: usize,
}

impl Idle {
    /// Nobody yet.
    ///
    /// # Errors
    /// When the kernel has no more files.
    pub(crate) fn new(dialect: Dialect) -> Result<Self> {
        Ok(Idle { clients: Clients::new(dialect)?, count: 0 })
    }

    /// Connects clients until there are `count`, two to a room.
    ///
    /// # Errors
    /// When the server does not take them.
    pub(crate) fn fill(&mut self, server: SocketAddr, count: usize) -> Result<()> {
        enter(&mut self.clients, server, count, 2)?;
        self.count = count;
        Ok(())
    }
}

/// Connects clients and has each enter its room, so many in each.
fn enter(clients: &mut Clients, server: SocketAddr, count: usize, members: usize) -> Result<()> {
    connect_all(clients, count, |_| server)?;
    if !clients.dialect().has_rooms() {
        return Ok(());
    }
    let (mut begun, mut entered, mut heard) = (0, 0, Vec::new());
    let mut last = Instant::now();
    while entered < count {
        while begun < count && begun - entered < 64 {
            let join = clients.dialect().join((begun / members) as u64);
            clients.say(begun, &join)?;
            begun += 1;
        }
        clients.listen(Duration::from_millis(100), &mut heard)?;
        for (_, word) in heard.drain(..) {
            if word == Heard::Gone {
                bail!("the server closed a connection");
            }
            if word == Heard::Entered {
                (entered, last) = (entered + 1, Instant::now());
            }
        }
        if last.elapsed() > STALLED {
            bail!("{entered} of {count} got into their rooms");
        }
    }
    // What the others are told of the last to enter.
    clients.listen(Duration::from_millis(100), &mut heard)
}
