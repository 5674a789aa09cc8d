//! Helpers of the end-to-end tests.
//!
//! | module | what it is to a test |
//! | --- | --- |
//! | [`browser`] | real browsers with a camera that is none, and what their pages say |
//! | [`call`] | somebody in a call, forced over TURN |
//! | [`certificates`] | an authority, and who trusts it |
//! | [`cluster`] | the Kubernetes cluster, the operator's chart, a namespace per test |
//! | [`forward`] | a local port that leads to the pod the test says |
//! | [`member`] | members of a room who come back, and remember what they were told |
//! | [`network`] | a way to a server that breaks, forbids WebSockets or keeps streams back |
//! | [`site`] | a page of somebody else's with a library from npm |
//! | [`turn_client`] | a TURN client: does this server take this credential? |
//! | [`up`] | `rtc up`: a whole cluster on this machine |
//! | [`wait`] | conditions with a deadline and a reason |

pub mod browser;
pub mod call;
pub mod certificates;
pub mod cluster;
pub mod forward;
pub mod member;
pub mod network;
pub mod site;
pub mod turn_client;
pub mod up;
pub mod wait;
