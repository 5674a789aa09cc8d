//! Binding a port, with an error that helps.

use std::{io, net::SocketAddr};
use tokio::net::TcpListener;

/// A port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({transport}): {hint}")]
pub struct BindError {
    /// What was asked for.
    pub address: SocketAddr,
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// What went wrong and what to do.
    pub hint: String,
    /// The operating system's error.
    pub source: io::Error,
}

impl BindError {
    /// Explains `source`; `flag` is the flag that sets this address, such as `--listen`.
    #[must_use]
    pub fn new(address: SocketAddr, transport: &'static str, flag: &str, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => {
                format!("the port is in use by another program; end it, or choose another port with {flag}")
            }
            io::ErrorKind::PermissionDenied => format!(
                "no permission; choose a port from 1024 up with {flag}, or allow the low port with \
                 `sysctl net.ipv4.ip_unprivileged_port_start`"
            ),
            io::ErrorKind::AddrNotAvailable => {
                format!("this machine has no such address; choose one that it has with {flag}")
            }
            _ => format!("{source}; choose another address with {flag}"),
        };
        Self { address, transport, hint, source }
    }
}

/// Listens on TCP at `address`, which `flag` had set. Port 0 picks a free one.
///
/// # Errors
/// [`BindError`] names the port and the flag.
pub async fn listen_tcp(address: SocketAddr, flag: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|e| BindError::new(address, "tcp", flag, e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_names_the_port_and_the_flag() {
        let first = listen_tcp(([127, 0, 0, 1], 0).into(), "--listen").await.unwrap();
        let address = first.local_addr().unwrap();
        let error = listen_tcp(address, "--listen").await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");
    }
}
