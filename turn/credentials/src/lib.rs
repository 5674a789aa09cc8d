//! What a client is handed to be relayed, and how a server checks it.
//!
//! A TURN server and the signaling pods that mint for it share a [`KeyRing`]: named [`Secret`]s, of
//! which one signs and all verify. A [`Credential`] is *time-limited*: its username carries its own
//! expiry and its password is an HMAC of that username, so that the TURN server verifies it without
//! asking anybody ("A REST API For Access To TURN Services", draft-uberti-behave-turn-rest-00, the
//! scheme that coturn calls `use-auth-secret`).
//!
//! | module | idea |
//! | --- | --- |
//! | [`secret`] | bytes that are never printed, wiped after use |
//! | [`key`] | a named secret and where it is in its life |
//! | [`ring`] | all keys at one revision, and their form as a directory of files |
//! | [`rotate`] | how a ring moves on, without ever signing what nobody verifies |
//! | [`rest`] | minting and checking time-limited credentials |
//! | [`fleet`] | which TURN nodes there are, and where they listen |
//! | [`ice`] | the `iceServers` that a browser is given |
//!
//! Nothing here knows the time: callers pass it, in seconds since the Unix epoch.

pub mod fleet;
pub mod ice;
pub mod key;
pub mod rest;
pub mod ring;
pub mod rotate;
pub mod secret;

pub use fleet::{Fleet, FleetError, FleetListener, FleetNode, PortRange, Transport};
pub use ice::{IceServer, ice_servers};
pub use key::{Key, KeyId, KeyIdError, KeyState};
pub use rest::{Credential, MintError, UsernameError, mint, parse_username, password};
pub use ring::{ADMIN_TOKEN_FILE, KeyRing, RING_FILE, RingError};
pub use rotate::{Acknowledged, Policy, RotationEvent, Step, Waiting, advance};
pub use secret::{Secret, SecretError};
