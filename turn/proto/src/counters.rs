//! What a server counts. Plain numbers: a worker owns them, and publishes copies.

use crate::error_code::ErrorCode;

macro_rules! drops {
    ($($(#[$doc:meta])* $name:ident = $label:literal;)*) => {
        /// Why a packet went nowhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Drop { $($(#[$doc])* $name,)* }

        impl Drop {
            /// All of them, in the order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// A label for metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

drops! {
    /// Neither STUN nor ChannelData, or an indication that is malformed.
    Malformed = "malformed";
    /// A message that no client sends, such as a response.
    Unexpected = "unexpected";
    /// DTLS of no association, and no ClientHello.
    NoAssociation = "no_association";
    /// A trusted load balancer's connection without a PROXY header.
    NoProxyHeader = "no_proxy_header";
    /// Data without an allocation.
    NoAllocation = "no_allocation";
    /// ChannelData of a channel that is not bound.
    NoChannel = "no_channel";
    /// Data for a client that is between two addresses.
    ClientAway = "client_away";
    /// Data to or from a peer without a permission.
    NoPermission = "no_permission";
    /// The peer policy says no.
    PeerDenied = "peer_denied";
    /// An unauthenticated source has had its share of errors.
    ErrorBudget = "error_budget";
    /// The driver could not send it.
    SendFailed = "send_failed";
    /// A slow client's queue is full.
    QueueFull = "queue_full";
    /// More than its allocation may relay in a second.
    BandwidthQuota = "bandwidth_quota";
    /// Longer than a message may be.
    TooLong = "too_long";
}

/// Packets, and the bytes of their payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub packets: u64,
    /// Bytes of application data.
    pub bytes: u64,
}

impl Traffic {
    /// Counts one more datagram.
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// The count of a server's doings since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// From clients to peers, by [`crate::Transport`]'s index.
    pub to_peers: [Traffic; 4],
    /// From peers to clients, by [`crate::Transport`]'s index.
    pub to_clients: [Traffic; 4],
    /// Allocations that began.
    pub allocations: u64,
    /// Allocations that are live.
    pub live: u64,
    /// Times that a client has taken its allocation to another address (RFC 8016).
    pub moves: u64,
    /// Binding requests that were answered.
    pub bindings: u64,
    /// Error responses by [`ErrorCode`]'s index.
    pub errors: [u64; ErrorCode::ALL.len()],
    /// Packets dropped by [`Drop`]'s index.
    pub drops: [u64; Drop::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            to_peers: Default::default(),
            to_clients: Default::default(),
            allocations: 0,
            live: 0,
            moves: 0,
            bindings: 0,
            errors: [0; ErrorCode::ALL.len()],
            drops: [0; Drop::ALL.len()],
        }
    }
}

impl Counters {
    /// Counts a dropped packet.
    pub fn dropped(&mut self, why: Drop) {
        self.drops[why as usize] += 1;
    }

    /// How many packets were dropped for that reason.
    #[must_use]
    pub fn drops_of(&self, why: Drop) -> u64 {
        self.drops[why as usize]
    }

    /// How many error responses of that code were sent.
    #[must_use]
    pub fn errors_of(&self, code: ErrorCode) -> u64 {
        self.errors[code as usize]
    }
}
