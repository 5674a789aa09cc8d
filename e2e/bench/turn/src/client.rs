//! A session with a server: the few requests that set up a flow, one after another,
//! in TURN or in the bare forwarder's own words.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::bare;
use crate::stun::{Answer, Challenge, Method, Request, User};

/// The static secret all servers are started with.
pub(crate) const SECRET: &str = "bench-static-secret";
/// The realm all servers are started with.
pub(crate) const REALM: &str = "bench";
/// Where every server listens, and the address of its relays.
pub(crate) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3478);
/// The relay ports of every server; more than the default range, for 20,000 allocations.
pub(crate) const RELAY_PORTS: (u16, u16) = (10_000, 65_535);
/// The address of clients' sockets.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The address of peers' sockets.
pub(crate) const PEERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// The one channel each client binds.
pub(crate) const CHANNEL: u16 = 0x4000;

/// What a server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// TURN over UDP with REST credentials.
    Turn,
    /// The forwarder without TURN; see [`bare`].
    Bare,
}

/// A client's socket and what the server has told it.
pub(crate) struct Session {
    socket: UdpSocket,
    dialect: Dialect,
    user: User,
    challenge: Option<Challenge>,
    requests: u64,
}

/// When the minted users' credentials expire, in Unix seconds: a day from now.
pub(crate) fn expiry() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()) + 86_400
}

/// A socket of `address`, connected to `to`.
///
/// # Errors
/// As the system calls.
pub(crate) fn socket(address: Ipv4Addr, to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

impl Session {
    /// A session of the user with this number, from a socket of its own.
    ///
    /// # Errors
    /// When there are no more sockets.
    pub(crate) fn open(dialect: Dialect, number: usize) -> io::Result<Self> {
        let socket = socket(CLIENTS, SERVER)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let user = User::mint(SECRET, number, expiry());
        Ok(Session { socket, dialect, user, challenge: None, requests: (number as u64) << 16 })
    }

    /// The socket, for data.
    pub(crate) fn into_socket(self) -> UdpSocket {
        self.socket
    }

    /// Whether the server answers at all.
    pub(crate) fn answers(&mut self) -> bool {
        match self.dialect {
            Dialect::Turn => self.exchange(Method::Binding, |request| request).is_ok(),
            Dialect::Bare => self.allocate().is_ok(),
        }
    }

    /// Makes an allocation for UDP over IPv4; its relayed address.
    ///
    /// # Errors
    /// When the server refuses, or answers nothing to five attempts.
    pub(crate) fn allocate(&mut self) -> Result<SocketAddrV4> {
        if self.dialect == Dialect::Bare {
            return bare::ask(&self.socket, None);
        }
        let relayed = self.exchange(Method::Allocate, Request::udp)?;
        relayed.context("the answer to Allocate has no XOR-RELAYED-ADDRESS of IPv4")
    }

    /// Binds [`CHANNEL`] to `peer`.
    ///
    /// # Errors
    /// As [`Session::allocate`].
    pub(crate) fn bind(&mut self, peer: SocketAddrV4) -> Result<()> {
        if self.dialect == Dialect::Bare {
            return bare::ask(&self.socket, Some(peer)).map(drop);
        }
        self.exchange(Method::ChannelBind, |request| request.channel(CHANNEL, peer)).map(drop)
    }

    fn exchange(
        &mut self,
        method: Method,
        fill: impl Fn(Request) -> Request,
    ) -> Result<Option<SocketAddrV4>> {
        let mut buffer = [0; 2048];
        for _ in 0..5 {
            self.requests += 1;
            let request = fill(Request::new(method, self.requests)).finish(self.challenge.as_ref());
            self.socket.send(&request).or_else(unless_refused)?;
            let answer = loop {
                match self.socket.recv(&mut buffer) {
                    Ok(length) => {
                        if let Some(answer) = Answer::read(&buffer[..length], self.requests) {
                            break Some(answer);
                        }
                    }
                    Err(error) => {
                        unless_refused(error)?;
                        break None;
                    }
                }
            };
            match answer.as_ref().map(Answer::error) {
                None => {}
                Some(None) => return Ok(answer.and_then(|answer| answer.relayed())),
                Some(Some(401 | 438)) => {
                    self.challenge = answer.and_then(|answer| Challenge::from_answer(&answer, &self.user));
                }
                Some(Some(code)) => bail!("{method:?} was refused with {code}"),
            }
        }
        bail!("{method:?} to {} had no answer that counts", peer_name(&self.socket))
    }
}

// A server that is not up yet shows as a refused connection or a timeout: try again.
fn unless_refused(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            std::thread::sleep(Duration::from_millis(20));
            Ok(0)
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(0),
        _ => Err(error),
    }
}

fn peer_name(socket: &UdpSocket) -> String {
    socket.peer_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// The IPv4 address a socket is bound to.
///
/// # Errors
/// As `getsockname`.
pub(crate) fn local(socket: &UdpSocket) -> Result<SocketAddrV4> {
    match socket.local_addr()? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is not IPv4"),
    }
}
