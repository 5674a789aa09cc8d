//! The loads, by the names they have on the command line and in results.

use crate::calls::Manner;

/// A load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// On the command line.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// Whether the two of a call are on different processes, with Redis between them.
    pub(crate) two: bool,
    /// What is done.
    pub(crate) work: Work,
}

/// What clients do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Work {
    /// Calls.
    Calls(Manner),
    /// Messages to a hundred.
    Fanout,
    /// Nothing, in rooms of two.
    Idle,
}

const KEPT: Manner = Manner { reconnect: false, rate: None };

/// All of them.
pub(crate) const LOADS: [Load; 6] = [
    Load {
        name: "one-process",
        title: "32 calls at once, connections kept",
        two: false,
        work: Work::Calls(KEPT),
    },
    Load {
        name: "reconnect",
        title: "32 calls at once, two new connections for each",
        two: false,
        work: Work::Calls(Manner { reconnect: true, ..KEPT }),
    },
    Load {
        name: "two-processes",
        title: "32 calls at once, each between two processes that share a Redis",
        two: true,
        work: Work::Calls(KEPT),
    },
    Load {
        name: "paced",
        title: "100 calls a second, each between two processes that share a Redis",
        two: true,
        work: Work::Calls(Manner { rate: Some(100.0), ..KEPT }),
    },
    Load {
        name: "fan-out",
        title: "5 rooms of 100, in each one message of 250 bytes after the other to all others",
        two: false,
        work: Work::Fanout,
    },
    Load { name: "idle", title: "idle connections in rooms of two", two: false, work: Work::Idle },
];
