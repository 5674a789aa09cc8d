//! Helpers of the end-to-end tests.
//!
//! | module | what it is to a test |
//! | --- | --- |
//! | [`cluster`] | the Kubernetes cluster, the operator's chart, a namespace per test |
//! | [`forward`] | a local port that leads to the pod the test says |
//! | [`turn_client`] | a TURN client: does this server take this credential? |
//! | [`wait`] | conditions with a deadline and a reason |

pub mod cluster;
pub mod forward;
pub mod turn_client;
pub mod wait;
