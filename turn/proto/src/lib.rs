//! STUN and TURN without IO: messages, allocations, permissions, the server's state machine.
//!
//! Nothing here opens a socket or reads a clock. A driver passes in packets and the time, and does
//! what it is told:
//!
//! 1. [`Server::handle_client`] for each message of a client. The [`ClientAction`] says whether to
//!    send the reply, to relay the payload to a peer, or to open a relay socket and report back with
//!    [`Server::relay_opened`], which gives the next action.
//! 2. [`Server::route_from_peer`] once for a train of datagrams that one peer sent to one relay
//!    socket, then [`Server::encode_to_client`] for each of them.
//!    [`Server::icmp_from_peer`] where the network says that a datagram was lost.
//! 3. After any call, [`Server::poll_closed`] until it is `None`: those relay sockets are to be closed.
//!    Where an allocation is for TCP, likewise [`Server::poll_closed_connection`] and
//!    [`Server::poll_notice`]; [`Server::connected`], [`Server::accepted`] and
//!    [`Server::connection_gone`] tell of its connections with peers.
//! 4. [`Server::handle_timeout`] when [`Server::poll_timeout`] has passed.
//!
//! One [`Server`] belongs to one worker and shares nothing on a packet's way with another: each has
//! its part of the relay ports, and what they have in common, the nonces' secret, the
//! [`Quotas`] and the [`Reservations`], is touched only where an allocation begins or ends; [`Mobility`]
//! where a client has changed its address, and may come to any of them.
//!
//! [`dtls`] is the door of a DTLS listener: whom to ask for a cookie. [`proxy_protocol`] is what a load
//! balancer says before a stream.
//!
//! The codec stands alone: [`Message`] and [`Writer`], [`channel_data`], [`framing`] for streams,
//! and [`client`], which is what a prober or a test needs of a client.

mod address;
pub mod attributes;
mod bandwidth;
mod budget;
pub mod channel_data;
pub mod client;
mod counters;
pub mod dtls;
mod error_code;
pub mod framing;
pub mod integrity;
mod message;
mod mobility;
mod nonce;
mod peers;
mod ports;
pub mod proxy_protocol;
mod quotas;
mod reservations;
mod server;

pub use attributes::{ConnectionId, Family};
pub use budget::{Rate, source_prefix};
pub use counters::{Counters, Drop, Traffic};
pub use error_code::ErrorCode;
pub use integrity::{LongTermKey, PasswordAlgorithm};
pub use message::{Class, Message, Method, ParseError, TransactionId, Writer};
pub use mobility::Mobility;
pub use nonce::Nonces;
pub use peers::{PeerPolicy, Verdict};
pub use quotas::{Elsewhere, Limits, Quotas};
pub use reservations::Reservations;
pub use rtc_credentials::{PortRange, Transport};
pub use server::{
    Behaviour, ClientAction, Config, Flow, Now, OpenRelay, PeerRoute, RelayAddresses, RelayId, Server, Share,
    is_stream,
};
