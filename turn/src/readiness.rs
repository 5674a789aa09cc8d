//! Readiness: a real allocation that relays to itself, through the sockets that clients use.

use crate::{dtls, tls};
use ipnet::IpNet;
use rtc_credentials::{KeyRing, Secret, Transport, mint};
use rtc_service::clock::unix_now;
use rtc_turn_proto::{
    Family, Method, attributes,
    channel_data::{self, Channels},
    client::{Answer, Client},
    framing::{self, Frame},
    is_stream,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a lost datagram is sent again.
const ATTEMPTS: u32 = 3;
const CHANNEL: u16 = 0x4000;
const PAYLOAD: &[u8] = b"is anybody there?";

/// Why the server is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("the probe's socket: {0}")]
    Io(#[from] std::io::Error),
    #[error("no answer to {0} within {PATIENCE:?}")]
    Silence(&'static str),
    #[error("{0} was answered with {1:?}")]
    Refused(&'static str, Answer),
    #[error(
        "no relay port could be opened: is --relay-address one of this host, and are --relay-ports free?"
    )]
    NoPorts,
    #[error("no credential for the probe: {0}")]
    Credential(#[from] rtc_credentials::MintError),
}

enum Link {
    Udp(UdpSocket),
    Dtls(Box<dtls::Link>),
    Stream(Box<dyn Stream>, Vec<u8>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Link {
    async fn open(at: &At<'_>) -> std::io::Result<Self> {
        let (transport, server) = (at.transport, reachable(at.address));
        if is_stream(transport) {
            let mut stream = TcpStream::connect(server).await?;
            let own = stream.local_addr()?.ip();
            if at.proxies.iter().any(|network| network.contains(&own)) {
                stream.write_all(b"PROXY UNKNOWN\r\n").await?;
            }
            let stream: Box<dyn Stream> = match transport {
                Transport::Tls => Box::new(tls::connect_to_itself(stream, server.ip()).await?),
                _ => Box::new(stream),
            };
            return Ok(Self::Stream(stream, Vec::new()));
        }
        let any = if server.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(server).await?;
        Ok(match at.dtls.filter(|_| transport == Transport::Dtls) {
            Some(config) => Self::Dtls(Box::new(dtls::Link::connect(socket, config).await?)),
            None => Self::Udp(socket),
        })
    }

    async fn send(&mut self, packet: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(packet).await.map(|_| ()),
            Self::Dtls(link) => link.send(packet).await,
            Self::Stream(stream, _) => {
                stream.write_all(packet).await?;
                // ChannelData is padded on a stream (RFC 8656, section 12.5)
                let padding = packet.len().next_multiple_of(4) - packet.len();
                stream.write_all(&[0; 3][..padding]).await?;
                stream.flush().await
            }
        }
    }

    /// Says goodbye where silence would be waited for.
    async fn close(&mut self) -> Result<(), NotReady> {
        match self {
            Self::Dtls(link) => Ok(link.close().await?),
            Self::Udp(_) | Self::Stream(..) => Ok(()),
        }
    }

    async fn receive(&mut self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = vec![0; 2048];
                let length = socket.recv(&mut buffer).await?;
                buffer.truncate(length);
                Ok(buffer)
            }
            Self::Dtls(link) => link.receive().await,
            Self::Stream(stream, held) => loop {
                if let Frame::Whole(frame) = framing::next(held, Channels::Rfc8656) {
                    let frame = frame.to_vec();
                    held.drain(..frame.len());
                    return Ok(frame);
                }
                if stream.read_buf(held).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            },
        }
    }
}

/// A wildcard is listened on, not sent to.
fn reachable(server: SocketAddr) -> SocketAddr {
    match server.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), server.port()),
        _ => server,
    }
}

/// Where a server is, as a client sees it.
#[derive(Debug)]
pub(crate) struct At<'a> {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    /// For DTLS.
    pub(crate) dtls: Option<&'a dtls::Config>,
    /// Who has to send a PROXY header, which may be this host.
    pub(crate) proxies: &'a [IpNet],
}

impl At<'_> {
    async fn open(&self) -> Result<Link, NotReady> {
        let link = timeout(PATIENCE, Link::open(self)).await;
        Ok(link.map_err(|_| NotReady::Silence("a connection"))??)
    }
}

/// Asks for its own address, as the clients of a server without TURN do.
pub(crate) async fn probe_binding(server: &At<'_>) -> Result<(), NotReady> {
    let mut link = server.open().await?;
    let mut client = Client::new("", "", unix_now());
    match ask(&mut link, &mut client, "Binding", Client::binding).await? {
        Answer::Success { .. } => link.close().await,
        answer => Err(NotReady::Refused("Binding", answer)),
    }
}

/// Allocates, binds a channel to the allocation's own relayed address, sends through it, and ends the
/// allocation. A server whose quotas or ports are used up is ready: it does what it should. One that holds nothing has
/// not used up its ports: it cannot open them.
pub(crate) async fn probe(
    server: &At<'_>,
    family: Family,
    holds_any: bool,
    secret: &Secret,
    name: &str,
) -> Result<(), NotReady> {
    let ring = KeyRing::single(secret.clone());
    // no user of another server's too, so that no quota of the fleet is in its way
    let user = format!("rtc-readiness-{name}");
    let credential = mint(&ring, &user, Duration::from_secs(60), unix_now())?;
    let mut client = Client::new(credential.username, credential.password, unix_now());
    let mut link = server.open().await?;
    let allocate = |client: &mut Client| {
        client.request(Method::ALLOCATE, |w| {
            w.raw(attributes::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            w.raw(attributes::REQUESTED_ADDRESS_FAMILY, &[family.number(), 0, 0, 0]);
        })
    };
    let relayed = match ask(&mut link, &mut client, "Allocate", allocate).await? {
        Answer::Success { relayed: Some(relayed), .. } => relayed,
        Answer::Refused(486) => return Ok(()),
        Answer::Refused(508) if holds_any => return Ok(()),
        Answer::Refused(508) => return Err(NotReady::NoPorts),
        answer => return Err(NotReady::Refused("Allocate", answer)),
    };
    let result = echo(&mut link, &mut client, relayed).await;
    ask(&mut link, &mut client, "Refresh", |c| c.refresh(0)).await?;
    link.close().await?;
    result
}

async fn echo(link: &mut Link, client: &mut Client, relayed: SocketAddr) -> Result<(), NotReady> {
    let bound = ask(link, client, "ChannelBind", |c| c.channel_bind(CHANNEL, relayed)).await?;
    if !matches!(bound, Answer::Success { .. }) {
        return Err(NotReady::Refused("ChannelBind", bound));
    }
    let mut packet = Vec::new();
    channel_data::write(CHANNEL, PAYLOAD, false, &mut packet);
    for _ in 0..ATTEMPTS {
        link.send(&packet).await?;
        if let Ok(answer) = timeout(PATIENCE, link.receive()).await
            && channel_data::parse(&answer?) == Some((CHANNEL, PAYLOAD))
        {
            return Ok(());
        }
    }
    Err(NotReady::Silence("data to its own relayed address"))
}

async fn ask(
    link: &mut Link,
    client: &mut Client,
    what: &'static str,
    request: impl Fn(&mut Client) -> Vec<u8>,
) -> Result<Answer, NotReady> {
    for _ in 0..ATTEMPTS {
        link.send(&request(client)).await?;
        let Ok(packet) = timeout(PATIENCE, link.receive()).await else { continue };
        match client.read(&packet?) {
            Answer::Challenged => {}
            answer => return Ok(answer),
        }
    }
    Err(NotReady::Silence(what))
}
