//! The signaling server: rooms that outlive their pod, on one log in Redis.
//!
//! | module | idea |
//! | --- | --- |
//! | [`settings`] | flags, environment and configuration file |
//! | [`server`] | a replica: its routes, its connections, its drain |
//! | [`transport`] | how frames travel |
//! | [`dialect`] | the protocols that clients speak, translated onto the same rooms |
//! | [`hub`] | one replica's sessions and their rooms |
//! | [`store`] | where rooms are kept: in this process, or on Redis |
//! | [`outbox`], [`parcel`] | what waits for one client |
//! | [`ice`] | `iceServers` with fresh credentials |
//! | [`auth`] | who may connect, and what they may do |
//! | `api` | what a backend may do with rooms |
//! | [`guests`] | how many connections and joins an address may have |
//! | [`tls`] | certificates that are renewed under open connections |
//! | [`webhooks`] | telling a backend who comes and goes |
//! | [`web`] | the demo page |
//! | [`admin`], [`drain`], [`metrics`], `trace` | for whoever runs it |
//!
//! To embed replicas in a process, give them one [`store::Shared`]:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! use rtc_signaling::{Server, ice::NoIce, store::{Shared, memory::MemoryRooms}};
//! use std::{sync::Arc, time::Duration};
//!
//! let rooms = Shared::Memory(MemoryRooms::default());
//! let first = Server::builder(rooms.clone(), Arc::new(NoIce)).name("one").start();
//! let second = Server::builder(rooms, Arc::new(NoIce)).name("two").start();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let serving = tokio::spawn(async move { first.serve(listener).await });
//! second.drain(Some(Duration::from_secs(1))).await;
//! serving.abort();
//! # Ok(()) }
//! ```

pub mod admin;
mod api;
mod arrival;
pub mod auth;
pub mod dialect;
pub mod drain;
pub mod guests;
mod http;
pub mod hub;
pub mod ice;
pub mod metrics;
pub mod outbox;
pub mod parcel;
mod random;
pub mod server;
pub mod settings;
pub mod store;
pub mod tls;
mod trace;
pub mod transport;
pub mod web;
pub mod webhooks;

pub use server::Server;
pub use settings::Settings;
