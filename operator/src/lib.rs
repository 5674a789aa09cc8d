//! The controller that keeps RtcClusters as their manifests say.
//!
//! - [`run`] watches and wires; [`controller`] is one reconcile, as a pipeline of steps.
//! - [`build`] makes the objects, one file per kind.
//! - [`addresses`], [`drain`] and [`rotation`] decide, without any IO.
//! - [`lease`] lets one of several operators act; [`metrics`] counts.

pub mod addresses;
pub mod args;
pub mod build;
pub mod controller;
pub mod drain;
pub mod figures;
pub mod lease;
pub mod metrics;
pub mod rotation;
pub mod run;
