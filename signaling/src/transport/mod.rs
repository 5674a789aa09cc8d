//! How frames travel.

pub mod websocket;
