//! A flow: two sockets and a relay between them, ready for data both ways.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use anyhow::{Context, Result};

use crate::client::{self, CHANNEL, Dialect, PEERS, Session};
use crate::sys;

/// Bytes of a ChannelData header (RFC 8656 section 12.4).
pub(crate) const CHANNEL_HEADER: usize = 4;
/// Bytes of the receive buffers of the tool's own sockets: the tool loses nothing.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// One socket of a flow.
pub(crate) struct End {
    /// Connected to the server, or to the relayed address.
    pub(crate) socket: UdpSocket,
    /// Bytes that go before each payload, in and out: a ChannelData header, or nothing.
    pub(crate) header: usize,
}

/// Who is at the other side of the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Other {
    /// A plain socket, which sends to the relayed address.
    Peer,
    /// A second client of the same server, which has an allocation too.
    Client,
}

/// Sets up flow `number`; end 0 is the client, end 1 the other side.
///
/// # Errors
/// When the server refuses or does not answer.
pub(crate) fn open(dialect: Dialect, number: usize, other: Other) -> Result<[End; 2]> {
    let mut session = Session::open(dialect, 2 * number).context("a client's socket")?;
    let relayed = session.allocate()?;
    let header = match dialect {
        Dialect::Turn => CHANNEL_HEADER,
        Dialect::Bare => 0,
    };
    let far = match other {
        Other::Peer => {
            let socket = client::socket(PEERS, relayed).context("a peer's socket")?;
            session.bind(client::local(&socket)?)?;
            End { socket, header: 0 }
        }
        Other::Client => {
            let mut second = Session::open(dialect, 2 * number + 1).context("a client's socket")?;
            let other_relayed = second.allocate()?;
            session.bind(other_relayed)?;
            second.bind(relayed)?;
            End { socket: second.into_socket(), header }
        }
    };
    let ends = [End { socket: session.into_socket(), header }, far];
    for end in &ends {
        end.socket.set_nonblocking(true)?;
        sys::enlarge_receive_buffer(end.socket.as_fd(), RECEIVE_BUFFER);
        // As a network card's offload would: a train the server sends as one stays one.
        sys::enable_gro(end.socket.as_fd()).context("UDP_GRO")?;
    }
    Ok(ends)
}

/// Writes the ChannelData header of a payload of `length` bytes.
pub(crate) fn write_header(buffer: &mut [u8], length: usize) {
    buffer[..2].copy_from_slice(&CHANNEL.to_be_bytes());
    buffer[2..4].copy_from_slice(&(length as u16).to_be_bytes());
}
