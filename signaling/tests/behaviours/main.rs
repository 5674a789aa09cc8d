//! Real servers on loopback, a real Redis, and what clients see of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
mod support;

mod api;
mod auth;
mod auth_dialects;
mod bad_frames;
mod churn;
mod drain;
mod guests;
mod heavy_log;
mod ice;
mod logs;
mod matchbox;
mod page;
mod peerjs;
mod redis_batches;
mod redis_faults;
mod redis_modes;
mod redis_outage;
mod redis_proposals;
mod redis_rotation;
mod reference;
mod resume;
mod rolling_restart;
mod rooms;
mod slow_reader;
mod socketio;
mod store_model;
mod tls;
mod transports;
mod webhooks;
mod ywebrtc;
