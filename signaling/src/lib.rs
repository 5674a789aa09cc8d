//! The signaling server: rooms that outlive their pod, on one log in Redis.
