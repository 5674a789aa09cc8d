//! Helpers of the end-to-end tests: clusters, browsers, clients.
