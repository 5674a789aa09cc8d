//! What every program of the house shares: configuration, logs, the admin port, shutdown.
