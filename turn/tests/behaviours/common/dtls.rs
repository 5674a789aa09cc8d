//! A client's end of DTLS over a UDP socket, which may lose what it sends and receives.

use dimpl::{Dtls, DtlsCertificate, Output};
use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration, time::Instant};
use tokio::{net::UdpSocket, time::sleep_until};

pub struct DtlsClient {
    pub socket: UdpSocket,
    pub dtls: Dtls,
    /// The certificate that the server showed, as DER.
    pub shown: Vec<u8>,
    pub closed: bool,
    pub received: VecDeque<Vec<u8>>,
    established: bool,
    due: Instant,
    /// Each datagram of the handshake, by its number, sent and received alike, is lost if this says so.
    lose: fn(u32) -> bool,
    count: u32,
}

impl DtlsClient {
    pub async fn connect(server: SocketAddr) -> Self {
        Self::over(UdpSocket::bind("127.0.0.1:0").await.unwrap(), server, |_| false).await
    }

    pub async fn over(socket: UdpSocket, server: SocketAddr, lose: fn(u32) -> bool) -> Self {
        let mut client = Self::begin(socket, server, lose).await;
        while !client.established {
            client.step().await.unwrap();
        }
        client
    }

    /// Sends the first ClientHello.
    pub async fn begin(socket: UdpSocket, server: SocketAddr, lose: fn(u32) -> bool) -> Self {
        socket.connect(server).await.unwrap();
        let made = rcgen::generate_simple_self_signed(["client.example.org".to_owned()]).unwrap();
        let certificate = DtlsCertificate {
            certificate: made.cert.der().to_vec(),
            private_key: made.signing_key.serialize_der(),
        };
        let config = dimpl::Config::builder()
            .with_crypto_provider(dimpl::crypto::rust_crypto::default_provider())
            .flight_start_rto(Duration::from_millis(100))
            .flight_retries(8)
            .build()
            .unwrap();
        let now = Instant::now();
        let mut dtls = Dtls::new_12(Arc::new(config), certificate, now);
        dtls.set_active(true);
        dtls.handle_timeout(now).unwrap();
        let (shown, received) = (Vec::new(), VecDeque::new());
        let mut client = Self {
            socket,
            dtls,
            shown,
            closed: false,
            received,
            established: false,
            due: now,
            lose,
            count: 0,
        };
        client.drain().await;
        client
    }

    pub async fn send(&mut self, message: &[u8]) {
        self.dtls.send_application_data(message).unwrap();
        self.drain().await;
    }

    pub async fn receive(&mut self) -> Vec<u8> {
        loop {
            if let Some(message) = self.received.pop_front() {
                return message;
            }
            self.step().await.unwrap();
        }
    }

    pub async fn close(&mut self) {
        self.dtls.close().unwrap();
        self.drain().await;
    }

    /// Waits for a datagram or a timer, and does what is due.
    pub async fn step(&mut self) -> io::Result<()> {
        let mut datagram = vec![0; 1 << 16];
        tokio::select! {
            length = self.socket.recv(&mut datagram) => {
                let length = length?;
                self.dtls.handle_timeout(Instant::now()).map_err(io::Error::other)?;
                if !self.is_lost() {
                    self.dtls.handle_packet(&datagram[..length]).map_err(io::Error::other)?;
                }
            }
            () = sleep_until(self.due.into()) => {
                self.dtls.handle_timeout(Instant::now()).map_err(io::Error::other)?;
            }
        }
        self.drain().await;
        Ok(())
    }

    fn is_lost(&mut self) -> bool {
        self.count += 1;
        !self.established && (self.lose)(self.count)
    }

    async fn drain(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => {
                    self.count += 1;
                    if self.established || !(self.lose)(self.count) {
                        self.socket.send(datagram).await.unwrap();
                    }
                }
                Output::ApplicationData(message) => self.received.push_back(message.to_vec()),
                Output::Connected => self.established = true,
                Output::PeerCert(certificate) => self.shown = certificate.to_vec(),
                Output::CloseNotify => self.closed = true,
                Output::Timeout(at) => {
                    self.due = at;
                    return;
                }
                _ => {}
            }
        }
    }
}
