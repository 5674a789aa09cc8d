//! The loads, by name.

use crate::flow::Other;
use crate::traffic::{Rate, Shape};

/// One way to load a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Its name on the command line and in results.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    /// What is done.
    pub(crate) work: Work,
}

/// What a load does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Data through flows.
    Relay {
        /// How many flows, each with sockets of its own.
        flows: usize,
        /// Who is at the other end.
        other: Other,
        /// What is sent.
        shape: Shape,
    },
    /// Allocations made and deleted.
    Churn,
    /// Allocations that do nothing.
    Idle {
        /// How many.
        allocations: usize,
    },
}

// Windows are sized so that all that is under way fits a socket's default receive buffer
// (212,992 bytes, of which a small packet takes 768 and one of 1,200 bytes 2,304).
const SMALL: Shape = Shape { payload: 120, train: 1, rate: Rate::Window(128) };
const LARGE: Shape = Shape { payload: 1200, train: 1, rate: Rate::Window(64) };
const TRAINS: Shape = Shape { payload: 1200, train: 8, rate: Rate::Window(80) };
const PACED: Shape = Shape { payload: 120, train: 1, rate: Rate::PerSecond(20_000) };
const BETWEEN_CLIENTS: Shape = Shape { payload: 120, train: 1, rate: Rate::Window(64) };

const fn relay(flows: usize, other: Other, shape: Shape) -> Work {
    Work::Relay { flows, other, shape }
}

/// Every load, in the order of running.
pub(crate) const LOADS: [Load; 9] = [
    Load { name: "one-flow", title: "1 flow, 120 B, saturated", work: relay(1, Other::Peer, SMALL) },
    Load {
        name: "flows-100-small",
        title: "100 flows, 120 B, saturated",
        work: relay(100, Other::Peer, SMALL),
    },
    Load {
        name: "flows-100-large",
        title: "100 flows, 1200 B, saturated",
        work: relay(100, Other::Peer, LARGE),
    },
    Load {
        name: "flows-1000",
        title: "1,000 flows, 120 B, saturated",
        work: relay(1000, Other::Peer, SMALL),
    },
    Load {
        name: "trains",
        title: "100 flows, trains of 8 packets of 1200 B, saturated",
        work: relay(100, Other::Peer, TRAINS),
    },
    Load {
        name: "paced",
        title: "100 flows, 120 B, 20,000 packets/s in all",
        work: relay(100, Other::Peer, PACED),
    },
    Load {
        name: "client-to-client",
        title: "100 flows, 120 B, both ends clients of the server, saturated",
        work: relay(100, Other::Client, BETWEEN_CLIENTS),
    },
    Load { name: "churn", title: "allocate and delete", work: Work::Churn },
    Load { name: "idle", title: "idle allocations", work: Work::Idle { allocations: 20_000 } },
];
