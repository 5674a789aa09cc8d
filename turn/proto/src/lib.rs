//! STUN and TURN without IO: messages, allocations, permissions, the server's state machine.
