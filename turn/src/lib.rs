//! The TURN server: one worker per core, batched UDP, keys that rotate under live calls.
