//! The signaling protocol without IO: frames, sessions, rooms.
