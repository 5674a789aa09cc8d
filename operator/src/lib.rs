//! The controller that keeps RtcClusters as their manifests say.
