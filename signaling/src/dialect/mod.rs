//! The protocols that clients speak, each a thin translation onto the same rooms.

pub mod native;
pub mod socketio;
