//! The signaling protocol without IO: frames, sessions, rooms.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: time (milliseconds) and random
//! identifiers are arguments, and what should be sent is a return value.
//!
//! | module | idea |
//! | --- | --- |
//! | [`names`] | room names, member ids, request ids, resume tokens, and what they may contain |
//! | [`client`] | what a client says, and why a frame is refused |
//! | [`server`] | what the server answers |
//! | [`entry`] | one line of a room's log: the header that a pod routes by, and the frame that clients get |
//! | [`ops`] | what is asked of a room, and what comes back |
//! | [`room`] | a room: members, leases, capacity and one ordered log |
//! | [`session`] | one connection: which frame means what, and when |
//! | [`limits`] | sizes and rates |

pub mod client;
pub mod entry;
pub mod limits;
pub mod names;
pub mod ops;
pub mod room;
pub mod server;
pub mod session;

pub use client::{ClientFrame, FrameError};
pub use entry::{Entry, Kind};
pub use limits::Limits;
pub use names::{MemberId, NameError, ReplicaId, RequestId, ResumeToken, RoomName};
pub use ops::Refusal;
pub use room::Room;
pub use session::{Command, Session, Step};

/// Close codes of the native protocol's WebSocket.
pub mod close {
    /// The server restarts; resume elsewhere (RFC 6455's registry).
    pub const RESTART: u16 = 1012;
    /// A frame over the hard limit (RFC 6455, section 7.4.1).
    pub const TOO_BIG: u16 = 1009;
    /// Another connection resumed this session.
    pub const SUPERSEDED: u16 = 4001;
    /// This client read too slowly; resumable.
    pub const SLOW: u16 = 4002;
    /// Nothing was heard of this client for too long; resumable.
    pub const IDLE: u16 = 4003;
    /// Somebody removed this member; not resumable.
    pub const KICKED: u16 = 4004;
    /// The token has expired; resumable with a fresh one of the same subject.
    pub const EXPIRED: u16 = 4005;
    /// This client broke the protocol again and again.
    pub const PROTOCOL: u16 = 4008;
}
