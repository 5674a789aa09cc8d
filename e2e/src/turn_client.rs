//! A TURN client that asks one thing: does this server take this credential, now and later?

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rtc_turn_proto::attributes::{self, Error};
use rtc_turn_proto::integrity::{LongTermKey, PasswordAlgorithm};
use rtc_turn_proto::message::{Class, Message, Method, TransactionId, Writer};
use tokio::net::UdpSocket;

/// How long one answer may take before the request is sent again, and how often it is sent
/// (RFC 8489, section 6.2.1, without the doubling: the server is on the next bridge).
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: usize = 6;

/// The error code that a server refused a request with (RFC 8489, section 14.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub u16);

/// An allocation that lives on a server, until its lifetime is over or it is ended.
pub struct Allocation {
    client: Client,
    credential: Credential,
}

/// What requests are signed with (RFC 8489, section 9.2.2).
struct Credential {
    username: String,
    key: LongTermKey,
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

/// Asks the server at `server` over UDP for an allocation with a long-term credential
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
    let mut client = Client { socket, server, transaction: 0 };
    let transport = |request: &mut Writer<'_>| {
        request.raw(attributes::REQUESTED_TRANSPORT, &UDP);
    };

    // a first request without a credential is answered with what to compute it from
    let challenge = client.ask(Method::ALLOCATE, transport).await?;
    let challenge = Message::parse(&challenge)?;
    if refusal(&challenge)? != Some(Refused(401)) {
        bail!(
            "{server} answered a request without a credential with {:?}, not with 401",
            refusal(&challenge)?
        );
    }
    let realm = challenge.raw(attributes::REALM).context("401 without REALM")?.to_vec();
    let nonce = challenge.raw(attributes::NONCE).context("401 without NONCE")?.to_vec();
    let key = LongTermKey::new(PasswordAlgorithm::Md5, username.as_bytes(), &realm, password.as_bytes());
    let credential = Credential { username: username.to_owned(), key, realm, nonce };

    let mut allocation = Allocation { client, credential };
    Ok(allocation.signed(Method::ALLOCATE, transport).await?.map(|()| allocation))
}

impl Allocation {
    /// Asks for `lifetime` seconds more; with 0 the allocation ends (RFC 8656, section 8).
    ///
    /// # Errors
    /// As [`allocate`].
    pub async fn refresh(&mut self, lifetime: u32) -> Result<Result<(), Refused>> {
        let fill = move |request: &mut Writer<'_>| {
            request.u32(attributes::LIFETIME, lifetime);
        };
        self.signed(Method::REFRESH, fill).await
    }

    /// Sends a signed request; once more with the server's new nonce when the former is stale
    /// (RFC 8489, section 9.2.5).
    async fn signed(
        &mut self,
        method: Method,
        fill: impl Fn(&mut Writer<'_>),
    ) -> Result<Result<(), Refused>> {
        for _ in 0..2 {
            let Credential { username, key, realm, nonce } = &self.credential;
            let signed = |request: &mut Writer<'_>| {
                fill(request);
                request.raw(attributes::USERNAME, username.as_bytes());
                request.raw(attributes::REALM, realm).raw(attributes::NONCE, nonce);
                request.integrity_sha1(key.expose());
            };
            let answer = self.client.ask(method, signed).await?;
            let answer = Message::parse(&answer)?;
            match refusal(&answer)? {
                Some(Refused(438)) => {
                    self.credential.nonce =
                        answer.raw(attributes::NONCE).context("438 without NONCE")?.to_vec();
                }
                Some(refused) => return Ok(Err(refused)),
                None => return Ok(Ok(())),
            }
        }
        bail!("{} finds its own new nonce stale", self.client.server)
    }
}

/// REQUESTED-TRANSPORT for UDP (RFC 8656, section 18.7): the protocol's number and three zeros.
const UDP: [u8; 4] = [17, 0, 0, 0];

/// The error code of a response, or none when it is a success.
fn refusal(response: &Message<'_>) -> Result<Option<Refused>> {
    match response.class() {
        Class::Success => Ok(None),
        Class::Error => match response.get::<Error>() {
            Ok(Some(Error(code))) => Ok(Some(Refused(code))),
            _ => bail!("an error response without ERROR-CODE"),
        },
        class => bail!("a {class:?} in place of a response"),
    }
}

struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    transaction: u64,
}

impl Client {
    /// Sends a request until it is answered.
    async fn ask(&mut self, method: Method, fill: impl Fn(&mut Writer<'_>)) -> Result<Vec<u8>> {
        self.transaction += 1;
        let mut id = TransactionId([0; 12]);
        id.0[..4].copy_from_slice(&std::process::id().to_be_bytes());
        id.0[4..].copy_from_slice(&self.transaction.to_be_bytes());
        let mut request = Vec::new();
        fill(&mut Writer::new(&mut request, Class::Request, method, id));

        let mut answer = vec![0; 2048];
        for _ in 0..TRIES {
            // an ICMP error of an earlier try may surface here; the next try tells
            let _ = self.socket.send(&request).await;
            let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut answer)).await;
            let Ok(Ok(length)) = received else { continue };
            let response = Message::parse(&answer[..length])?;
            if response.id() == id {
                answer.truncate(length);
                return Ok(answer);
            }
        }
        bail!("{} does not answer TURN over UDP", self.server)
    }
}
