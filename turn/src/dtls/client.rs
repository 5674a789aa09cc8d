//! A client's end, for a server that asks itself whether it is ready.

use super::Config;
use dimpl::{Dtls, Output};
use std::{collections::VecDeque, io, sync::Arc, time::Instant};
use tokio::{net::UdpSocket, time::sleep_until};

/// A session of a client over a connected socket. It does not look at the certificate that it is
/// shown, but that the server holds its key: the connection is to itself.
#[derive(Debug)]
pub(crate) struct Link {
    socket: UdpSocket,
    dtls: Dtls,
    established: bool,
    due: Instant,
    received: VecDeque<Vec<u8>>,
}

impl Link {
    pub(crate) async fn connect(socket: UdpSocket, config: &Config) -> io::Result<Self> {
        let now = Instant::now();
        // nobody asks for the client's certificate, but the engine wants to have one
        let mut dtls = Dtls::new_12(Arc::clone(&config.engine), config.certificate.clone(), now);
        dtls.set_active(true);
        dtls.handle_timeout(now).map_err(io::Error::other)?;
        let mut link = Self { socket, dtls, established: false, due: now, received: VecDeque::new() };
        link.drain().await?;
        while !link.established {
            link.step().await?;
        }
        Ok(link)
    }

    pub(crate) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.dtls.send_application_data(message).map_err(io::Error::other)?;
        self.drain().await
    }

    pub(crate) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(message) = self.received.pop_front() {
                return Ok(message);
            }
            self.step().await?;
        }
    }

    /// Says goodbye, so that the server need not wait for the silence.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.dtls.close().map_err(io::Error::other)?;
        self.drain().await
    }

    async fn step(&mut self) -> io::Result<()> {
        let mut datagram = vec![0; 1 << 16];
        tokio::select! {
            length = self.socket.recv(&mut datagram) => {
                let length = length?;
                self.dtls.handle_timeout(Instant::now()).map_err(io::Error::other)?;
                self.dtls.handle_packet(&datagram[..length]).map_err(io::Error::other)?;
            }
            () = sleep_until(self.due.into()) => {
                self.dtls.handle_timeout(Instant::now()).map_err(io::Error::other)?;
            }
        }
        self.drain().await
    }

    async fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => {
                    self.socket.send(datagram).await?;
                }
                Output::ApplicationData(message) => self.received.push_back(message.to_vec()),
                Output::Connected => self.established = true,
                Output::CloseNotify => return Err(io::ErrorKind::UnexpectedEof.into()),
                Output::Timeout(at) => {
                    self.due = at;
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}
