//! TLS by the server itself, with certificates that are renewed under open connections.

use crate::support::*;
use futures::{SinkExt, StreamExt};
use rtc_signaling::tls::Tls;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

struct Certificate(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Certificate {
    fn new() -> Self {
        Self(rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap())
    }

    fn write(&self, dir: &Path) {
        std::fs::write(dir.join("tls.crt"), self.0.cert.pem()).unwrap();
        std::fs::write(dir.join("tls.key"), self.0.signing_key.serialize_pem()).unwrap();
    }

    /// A client that trusts this one alone.
    async fn connect(&self, replica: &Replica) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.cert.der().to_vec())).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpStream::connect(replica.address).await?;
        let name = "localhost".try_into().unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, socket);
        tokio::time::timeout(PATIENCE, connecting).await.unwrap()
    }

    async fn join(&self, replica: &Replica) -> WebSocketStream<TlsStream<TcpStream>> {
        let stream = self.connect(replica).await.unwrap();
        let (mut socket, _) = client_async("wss://localhost/v1/connect", stream).await.unwrap();
        socket.send(Message::text(r#"{"type":"join","room":"r"}"#)).await.unwrap();
        assert!(next(&mut socket).await.contains("joined"));
        socket
    }
}

async fn next(socket: &mut WebSocketStream<TlsStream<TcpStream>>) -> String {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    message.unwrap().unwrap().into_text().unwrap().to_string()
}

#[tokio::test]
async fn a_renewed_certificate_is_for_those_who_come_and_nobody_has_to_go() {
    let (dir, backend) = (tempfile::tempdir().unwrap(), Backend::memory());
    let (old, new) = (Certificate::new(), Certificate::new());
    let files = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    old.write(dir.path());
    let tls = Tls::from_files(&files.0, &files.1).unwrap();
    let replica = Replica::start(backend.builder().tls(tls)).await;
    let mut early = old.join(&replica).await;
    assert!(new.connect(&replica).await.is_err());
    // one who never begins its session is in nobody's way, nor is one who speaks plain HTTP
    let _silent = TcpStream::connect(replica.address).await.unwrap();
    // a certificate without its key changes nothing
    std::fs::write(&files.0, new.0.cert.pem()).unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(old.connect(&replica).await.is_ok());
    new.write(dir.path());
    eventually("the new one is shown", async || new.connect(&replica).await.is_ok()).await;
    assert!(old.connect(&replica).await.is_err());
    let _late = new.join(&replica).await;
    assert!(next(&mut early).await.contains("member-joined"));
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let files = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let error = |files: &(PathBuf, PathBuf)| Tls::from_files(&files.0, &files.1).unwrap_err().to_string();
    assert!(error(&files).contains("--tls-cert"));
    Certificate::new().write(dir.path());
    std::fs::write(&files.1, Certificate::new().0.signing_key.serialize_pem()).unwrap();
    assert!(error(&files).contains("belong together"));
}
