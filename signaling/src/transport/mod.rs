//! How frames travel.

pub(crate) mod text;
pub mod websocket;
