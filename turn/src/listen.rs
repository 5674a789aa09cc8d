//! Listening sockets: one per worker and address, so that the kernel spreads clients by five-tuple.

use crate::settings::Listen;
use rtc_credentials::Transport;
use rtc_service::net::BindError;
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr};

/// What the kernel may queue for a worker, in bytes, if it lets us.
const RECEIVE_BUFFER: usize = 4 << 20;

/// One worker's socket of a listener.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    pub(crate) socket: Socket,
}

/// Binds each listener once per worker: the outer vector is by worker.
pub(crate) fn bind_all(listen: &[Listen], workers: u16) -> Result<Vec<Vec<Bound>>, BindError> {
    let mut by_worker: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    for listen in listen {
        let mut address = listen.address;
        for (index, sockets) in by_worker.iter_mut().enumerate() {
            let socket = bind(listen.transport, address, index == 0).map_err(|e| {
                let name = crate::settings::transport_name(listen.transport);
                BindError::new(address, name, "--listen", e)
            })?;
            // port 0 becomes the port that the first worker got
            address = socket.local_addr().ok().and_then(|a| a.as_socket()).unwrap_or(address);
            sockets.push(Bound { transport: listen.transport, address, socket });
        }
    }
    Ok(by_worker)
}

/// The first socket is bound without SO_REUSEPORT, so that it fails when another server has the port,
/// and then lets the other workers' sockets join it. With the option set before, a second server
/// would start, and take half of the clients, in silence.
fn bind(transport: Transport, address: SocketAddr, first: bool) -> io::Result<Socket> {
    let stream = transport == Transport::Tcp;
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
