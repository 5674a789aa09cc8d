//! Listening sockets: one per worker and address, so that the kernel spreads clients by five-tuple.

use crate::settings::Listen;
use rtc_credentials::{PortRange, Transport};
use rtc_service::net::BindError;
use rtc_turn_proto::Behaviour;
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr};

/// What the kernel may queue for a worker, in bytes, if it lets us.
const RECEIVE_BUFFER: usize = 4 << 20;

/// How many of the system's picks for port 0 may be relay ports. Of the default ranges four in ten are.
const PICKS: usize = 64;

/// One worker's socket of a listener.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    pub(crate) socket: Socket,
}

/// Whether a second address makes four sockets with the first UDP listener's (RFC 5780, section 6).
pub(crate) fn pairs(listen: &[Listen], second: SocketAddr) -> bool {
    listen.iter().find(|l| l.transport == Transport::Udp).is_some_and(|Listen { address: first, .. }| {
        let specific = |address: &SocketAddr| !address.ip().is_unspecified();
        first.is_ipv4() == second.is_ipv4()
            && specific(first)
            && specific(&second)
            && first.ip() != second.ip()
            && (first.port() != second.port() || first.port() == 0)
    })
}

/// Binds the other three sockets of the first UDP listener and a second address (RFC 5780, section 6),
/// after all others. Returns what the protocol is to know of the four.
pub(crate) fn bind_alternate(
    by_worker: &mut [Vec<Bound>],
    second: SocketAddr,
    relay_ports: PortRange,
) -> Result<Option<Behaviour>, BindError> {
    let Some(bound) = by_worker.first() else { return Ok(None) };
    let Some(link) = bound.iter().position(|b| b.transport == Transport::Udp) else { return Ok(None) };
    let (first, next) = (bound[link].address, bound.len() as u64);
    let mut port = second.port();
    for (ip, same_port) in [(first.ip(), false), (second.ip(), true), (second.ip(), false)] {
        let address = SocketAddr::new(ip, if same_port { first.port() } else { port });
        let error = |e| BindError::new(address, "udp", "--alternate-address", e);
        let address = bind_shared(by_worker, Transport::Udp, address, relay_ports).map_err(error)?;
        if !same_port {
            port = address.port();
        }
    }
    let second = SocketAddr::new(second.ip(), port);
    Ok(Some(Behaviour::new(first, second, [link as u64, next, next + 1, next + 2])))
}

/// Binds each listener once per worker: the outer vector is by worker. Port 0 becomes a free port that
/// is not relayed from.
pub(crate) fn bind_all(
    listen: &[Listen],
    workers: u16,
    relay_ports: PortRange,
) -> Result<Vec<Vec<Bound>>, BindError> {
    let mut by_worker: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    for &Listen { transport, address } in listen {
        let error = |e| BindError::new(address, crate::settings::transport_name(transport), "--listen", e);
        bind_shared(&mut by_worker, transport, address, relay_ports).map_err(error)?;
    }
    Ok(by_worker)
}

/// Binds an address once per worker. Returns it with its port.
fn bind_shared(
    by_worker: &mut [Vec<Bound>],
    transport: Transport,
    address: SocketAddr,
    relay_ports: PortRange,
) -> io::Result<SocketAddr> {
    let (first, address) = bind_first(transport, address, relay_ports)?;
    let mut first = Some(first);
    for sockets in by_worker {
        let socket = match first.take() {
            Some(socket) => socket,
            None => bind(transport, address, false)?,
        };
        sockets.push(Bound { transport, address, socket });
    }
    Ok(address)
}

fn bind_first(
    transport: Transport,
    address: SocketAddr,
    relay_ports: PortRange,
) -> io::Result<(Socket, SocketAddr)> {
    // held until the search ends, so that the system does not pick them again
    let mut refused = Vec::new();
    while refused.len() < PICKS {
        let socket = bind(transport, address, true)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        if address.port() != 0 || !relay_ports.contains(bound.port()) {
            return Ok((socket, bound));
        }
        refused.push(socket);
    }
    Err(io::Error::other(format!("all ports that the system picks are in the relay ports {relay_ports}")))
}

/// The first socket is bound without SO_REUSEPORT, so that it fails when another server has the port,
/// and then lets the other workers' sockets join it. With the option set before, a second server
/// would start, and take half of the clients, in silence.
fn bind(transport: Transport, address: SocketAddr, first: bool) -> io::Result<Socket> {
    let stream = rtc_turn_proto::is_stream(transport);
    let (kind, protocol) = if stream { (Type::STREAM, Protocol::TCP) } else { (Type::DGRAM, Protocol::UDP) };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if stream {
        socket.set_reuse_address(true)?;
    } else {
        // the kernel grants what net.core.rmem_max allows
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let _ = socket.set_send_buffer_size(RECEIVE_BUFFER);
    }
    if !first {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if first {
        socket.set_reuse_port(true)?;
    }
    if stream {
        socket.listen(1024)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bind_any(relay_ports: &str) -> Result<Vec<u16>, BindError> {
        let listen = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"].map(|url| url.parse().unwrap());
        let workers = bind_all(&listen, 2, relay_ports.parse().unwrap())?;
        let ports = |worker: &Vec<Bound>| worker.iter().map(|b| b.address.port()).collect::<Vec<_>>();
        assert_eq!(ports(&workers[0]), ports(&workers[1]), "workers share a listener's port");
        Ok(ports(&workers[0]))
    }

    #[test]
    fn port_0_becomes_a_port_that_is_not_relayed_from() {
        // most of what Linux picks by default is in this range
        for _ in 0..20 {
            let ports = bind_any("40000-65535").unwrap();
            assert!(ports.iter().all(|port| *port != 0 && *port < 40_000), "{ports:?}");
        }
    }

    #[test]
    fn relay_ports_that_leave_none_to_pick_are_named() {
        let error = bind_any("1024-65535").unwrap_err().to_string();
        assert!(error.contains("1024-65535") && error.contains("--listen"), "{error}");
    }
}
