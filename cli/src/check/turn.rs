//! One STUN or TURN server, as a client meets it: its answer, an allocation, and data through it.

use super::{PATIENCE, link::Link, report::Report, uri::IceUri};
use anyhow::{Context, bail};
use rtc_credentials::IceServer;
use rtc_turn_proto::{
    channel_data,
    client::{Answer, Client},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// RFC 8656, section 12: the first channel number.
const CHANNEL: u16 = 0x4000;
/// Datagrams that go through the relay, one after the other.
const ECHOES: u32 = 20;
/// How long to wait for one answer before the request is sent again (RFC 8489, section 6.2.1).
const RETRANSMIT: Duration = Duration::from_millis(500);

pub(crate) async fn check(uri: &IceUri, server: Option<&IceServer>, tls: &TlsConnector, report: &mut Report) {
    let begun = Instant::now();
    let mut link = match within(Link::open(uri, tls)).await {
        Ok(link) => link,
        Err(error) => return report.broken(uri, "connect", format!("{error:#}")),
    };
    if link.is_stream() {
        report.works(uri, "connect", Some(begun.elapsed()), "");
    }
    let username = server.and_then(|server| server.username.clone()).unwrap_or_default();
    let password = server.and_then(|server| server.credential.clone()).unwrap_or_default();
    let mut client = Client::new(username, password, rtc_service::clock::unix_now());
    let begun = Instant::now();
    match within(ask(&mut link, &mut client, Client::binding)).await {
        Ok(_) => report.works(uri, "binding", Some(begun.elapsed()), "STUN answers"),
        Err(error) => return report.broken(uri, "binding", format!("{error:#}")),
    }
    if uri.relays {
        relay(uri, &mut link, &mut client, report).await;
    }
}

/// An allocation that relays to itself, which crosses the relay both ways, and its end.
async fn relay(uri: &IceUri, link: &mut Link, client: &mut Client, report: &mut Report) {
    let begun = Instant::now();
    let relayed = match within(ask(link, client, Client::allocate)).await {
        Ok(Some(relayed)) => relayed,
        Ok(None) => return report.broken(uri, "allocate", "the server names no relayed address"),
        Err(error) => return report.broken(uri, "allocate", format!("{error:#}")),
    };
    report.works(uri, "allocate", Some(begun.elapsed()), format!("relayed address {relayed}"));
    match within(echo(link, client, relayed)).await {
        Ok(median) => report.works(uri, "relay", Some(median), "median round trip through the relay"),
        Err(error) => report.broken(uri, "relay", format!("{error:#}")),
    }
    if let Err(error) = within(ask(link, client, |c| c.refresh(0))).await {
        report.broken(uri, "release", format!("{error:#}"));
    }
}

async fn echo(link: &mut Link, client: &mut Client, relayed: SocketAddr) -> anyhow::Result<Duration> {
    ask(link, client, |c| c.channel_bind(CHANNEL, relayed))
        .await
        .context("the relay refuses its own address")?;
    let mut times = Vec::new();
    for number in 0..ECHOES {
        let mut packet = Vec::new();
        channel_data::write(CHANNEL, &number.to_be_bytes(), link.is_stream(), &mut packet);
        let begun = Instant::now();
        link.send(&packet).await?;
        loop {
            let received = link.receive().await?;
            if channel_data::parse(&received).is_some_and(|(_, payload)| payload == number.to_be_bytes()) {
                times.push(begun.elapsed());
                break;
            }
        }
    }
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing came back")
}

/// Sends a request until it is decided on; again when it is lost or challenged.
async fn ask(
    link: &mut Link,
    client: &mut Client,
    request: impl Fn(&mut Client) -> Vec<u8>,
) -> anyhow::Result<Option<SocketAddr>> {
    let mut packet = request(client);
    link.send(&packet).await?;
    loop {
        let received = match timeout(RETRANSMIT, link.receive()).await {
            Ok(received) => received?,
            Err(_) if link.is_stream() => continue,
            Err(_) => {
                link.send(&packet).await?;
                continue;
            }
        };
        match client.read(&received) {
            Answer::Success { relayed, .. } => return Ok(relayed),
            Answer::Refused(401) => {
                bail!("401: the server does not take the credential that signaling handed out")
            }
            Answer::Refused(code) => bail!("the server refuses with {code}"),
            Answer::Challenged => {
                packet = request(client);
                link.send(&packet).await?;
            }
            _ => {}
        }
    }
}

async fn within<T>(step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(PATIENCE, step).await.unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
}
