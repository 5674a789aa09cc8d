//! Key rings and time-limited TURN credentials: mint, verify, rotate.
