//! A TURN client over UDP that asks one thing: does this server take this credential, now and later?

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rtc_turn_proto::client::{Answer, Client};
use tokio::net::UdpSocket;

/// How long one answer may take before the request is sent again, and how often it is sent
/// (RFC 8489, section 6.2.1, without the doubling: the server is on the next bridge).
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: usize = 6;

/// The transaction id's place in a message (RFC 8489, section 5).
const TRANSACTION: std::ops::Range<usize> = 8..20;

/// The error code that a server refused a request with (RFC 8489, section 14.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub u16);

/// An allocation that lives on a server, until its lifetime is over or it is ended.
pub struct Allocation {
    socket: UdpSocket,
    server: SocketAddr,
    client: Client,
    relayed: Option<SocketAddr>,
}

/// Asks the server at `server` for an allocation with a long-term credential
/// (RFC 8656, section 7.1).
///
/// # Errors
/// When the server does not answer, or answers what no TURN server may. A refusal is
/// no such error.
pub async fn allocate(
    server: SocketAddr,
    username: &str,
    password: &str,
) -> Result<Result<Allocation, Refused>> {
    let local: SocketAddr = if server.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    // the port is one of a kind on this machine while the socket lives
    let seed = socket.local_addr()?.port().into();
    let mut allocation =
        Allocation { socket, server, client: Client::new(username, password, seed), relayed: None };
    Ok(allocation.ask(Client::allocate).await?.map(|relayed| {
        allocation.relayed = relayed;
        allocation
    }))
}

impl Allocation {
    /// Asks for `lifetime` seconds more; with 0 the allocation ends (RFC 8656, section 8).
    ///
    /// # Errors
    /// As [`allocate`].
    pub async fn refresh(&mut self, lifetime: u32) -> Result<Result<(), Refused>> {
        Ok(self.ask(|client| client.refresh(lifetime)).await?.map(|_| ()))
    }

    /// Sends a datagram to its own relayed address, and waits until it is back: the relay is crossed both ways.
    ///
    /// # Errors
    /// When the server refuses its own address as a peer, or the datagram does not come back.
    pub async fn echo(&mut self) -> Result<()> {
        let relayed = self.relayed.context("the server named no relayed address")?;
        if let Err(refused) = self.ask(|client| client.create_permission(relayed)).await? {
            bail!("{} refuses its own address as a peer: {refused:?}", self.server);
        }
        let mut received = vec![0; 2048];
        for _ in 0..TRIES {
            let datagram = self.client.send(relayed, b"hello");
            self.socket.send(&datagram).await?;
            let back = tokio::time::timeout(PATIENCE, async {
                loop {
                    let length = self.socket.recv(&mut received).await?;
                    if matches!(self.client.read(&received[..length]), Answer::Data(_, data) if data == b"hello")
                    {
                        return Ok::<_, std::io::Error>(());
                    }
                }
            });
            if let Ok(Ok(())) = back.await {
                return Ok(());
            }
        }
        bail!("{} does not relay", self.server)
    }

    /// Sends a request until it is decided on; again when the server challenges it first.
    async fn ask(
        &mut self,
        request: impl Fn(&mut Client) -> Vec<u8>,
    ) -> Result<Result<Option<SocketAddr>, Refused>> {
        // a first challenge, and a stale nonce (RFC 8489, sections 9.2.4 and 9.2.5)
        for _ in 0..3 {
            let request = request(&mut self.client);
            let response = self.exchange(&request).await?;
            match self.client.read(&response) {
                Answer::Success { relayed, .. } => return Ok(Ok(relayed)),
                Answer::Refused(code) => return Ok(Err(Refused(code))),
                Answer::Challenged => {}
                _ => {
                    bail!("{} answered what is no answer", self.server)
                }
            }
        }
        bail!("{} challenges its own new nonce", self.server)
    }

    /// The response to a request, which is sent again while there is none.
    async fn exchange(&self, request: &[u8]) -> Result<Vec<u8>> {
        let mut response = vec![0; 2048];
        for _ in 0..TRIES {
            // an ICMP error of an earlier try may surface here; the next try tells
            let _ = self.socket.send(request).await;
            let received = tokio::time::timeout(PATIENCE, async {
                loop {
                    let length = self.socket.recv(&mut response).await?;
                    // not a second response to a request that was sent twice
                    if response[..length].get(TRANSACTION) == request.get(TRANSACTION) {
                        return Ok::<_, std::io::Error>(length);
                    }
                }
            });
            if let Ok(Ok(length)) = received.await {
                response.truncate(length);
                return Ok(response);
            }
        }
        bail!("{} does not answer TURN over UDP", self.server)
    }
}
