//! A client's way to a TURN server: datagrams, or frames of a stream.

use super::uri::IceUri;
use anyhow::{Context, bail};
use rtc_credentials::Transport;
use rtc_turn_proto::{
    channel_data::Channels,
    framing::{self, Frame},
};
use rustls::pki_types::ServerName;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use tokio_rustls::TlsConnector;

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open way to a server.
pub(crate) enum Link {
    Datagrams(UdpSocket),
    Frames(Box<dyn Stream>, Vec<u8>),
}

impl Link {
    pub(crate) async fn open(uri: &IceUri, tls: &TlsConnector) -> anyhow::Result<Self> {
        let lookup = tokio::net::lookup_host((uri.host.as_str(), uri.port)).await;
        let mut found = lookup.with_context(|| format!("cannot look up {}", uri.host))?;
        let server = found.next().with_context(|| format!("{} has no address", uri.host))?;
        let connect = async || TcpStream::connect(server).await.context("cannot connect");
        Ok(match uri.transport {
            Transport::Udp => {
                let any: SocketAddr = match server {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(server).await?;
                Self::Datagrams(socket)
            }
            Transport::Tcp => Self::Frames(Box::new(connect().await?), Vec::new()),
            Transport::Tls => {
                let name = ServerName::try_from(uri.host.clone())?;
                let stream = tls.connect(name, connect().await?).await.context("the TLS handshake failed")?;
                Self::Frames(Box::new(stream), Vec::new())
            }
            Transport::Dtls => bail!("`rtc check` speaks no DTLS; check the TLS listener"),
        })
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Frames(..))
    }

    pub(crate) async fn send(&mut self, packet: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Datagrams(socket) => socket.send(packet).await.map(|_| ()),
            Self::Frames(stream, _) => {
                stream.write_all(packet).await?;
                stream.flush().await
            }
        }
    }

    pub(crate) async fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Datagrams(socket) => {
                let mut buffer = vec![0; 2048];
                let length = socket.recv(&mut buffer).await?;
                buffer.truncate(length);
                Ok(buffer)
            }
            Self::Frames(stream, held) => loop {
                match framing::next(held, Channels::Rfc8656) {
                    Frame::Whole(frame) => {
                        let frame = frame.to_vec();
                        held.drain(..frame.len());
                        return Ok(frame);
                    }
                    Frame::Broken => bail!("the server sent what is neither STUN nor ChannelData"),
                    Frame::Partial => {}
                }
                if stream.read_buf(held).await? == 0 {
                    bail!("the server closed the connection");
                }
            },
        }
    }
}
