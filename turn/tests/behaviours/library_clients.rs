//! The clients of pion/turn, aioice and aiortc, unmodified, by every transport that they have: `go`, and
//! Debian's packages python3 and python3-venv.

use crate::common::{address, certificate, config, echo_peer_at, single, start};
use rcgen::SanType;
use rtc_credentials::{Transport, mint};
use rtc_service::clock::unix_now;
use rtc_turn::{Config, Handle};
use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

/// Longer than a compiler needs that has nothing yet.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOPBACKS: [&str; 2] = ["127.0.0.1", "[::1]"];

fn folder(client: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "clients", client].iter().collect()
}

/// Where what is built stays for the next run.
fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

async fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr], folder: &Path, how: &str) -> String {
    let mut command = Command::new(&program);
    command.args(arguments).current_dir(folder).kill_on_drop(true);
    let program = program.as_ref();
    let output = timeout(PATIENCE, command.output()).await.expect("an end");
    let output = output.unwrap_or_else(|e| panic!("{program:?}: {e}; install {how}"));
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?} {arguments:?} ({how}): {text}");
    text
}

/// A server on that loopback address that relays both families, and its certificate.
async fn server(ip: &str) -> (Handle, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    certificate::issue_with(dir.path(), |params| {
        params.subject_alt_names =
            ["127.0.0.1", "::1"].map(|ip| SanType::IpAddress(ip.parse().unwrap())).into();
    });
    let listen = ["udp", "tcp", "tls"].map(|transport| format!("{transport}://{ip}:0"));
    let listen: Vec<_> = listen.iter().map(String::as_str).collect();
    let both = Config {
        relay: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        allow: vec!["127.0.0.1/32".parse().unwrap(), "::1/128".parse().unwrap()],
        ..config()
    };
    (start(certificate::with_certificate(dir.path(), &listen, both)).await, dir)
}

const TRANSPORTS: [(Transport, &str); 3] =
    [(Transport::Udp, "udp"), (Transport::Tcp, "tcp"), (Transport::Tls, "tls")];

#[tokio::test]
async fn pions_client_relays_over_udp_tcp_and_tls_in_either_family() {
    let program = built("pion-client");
    let build = ["build", "-trimpath", "-buildvcs=false", "-o"].map(OsStr::new);
    run("go", &[&build[..], &[program.as_os_str(), OsStr::new(".")]].concat(), &folder("pion"), "Go").await;
    for ip in LOOPBACKS {
        let (server, dir) = server(ip).await;
        // it asks for its own family
        let peer = echo_peer_at(&format!("{ip}:0")).await.to_string();
        for (transport, name) in TRANSPORTS {
            let who = mint(&single(), "pion", Duration::from_secs(600), unix_now()).unwrap();
            let at = address(&server, transport).to_string();
            let arguments = ["-transport", name, "-server", &at, "-peer", &peer];
            let who = ["-user", &who.username, "-password", &who.password, "-ca", "tls.crt"];
            let arguments: Vec<_> = arguments.iter().chain(&who).map(OsStr::new).collect();
            let text = run(&program, &arguments, dir.path(), "Go").await;
            assert!(text.contains("echoed 20 of 20"), "{name} {ip}: {text}");
        }
    }
}

#[tokio::test]
async fn aioices_client_relays_over_udp_tcp_and_tls_in_either_family() {
    let python = python("aioice").await;
    let client = folder("aioice").join("client.py");
    for ip in LOOPBACKS {
        let (server, dir) = server(ip).await;
        // it knows no families, so it gets IPv4
        let peer = echo_peer_at("127.0.0.1:0").await;
        for (transport, name) in TRANSPORTS {
            let who = mint(&single(), "aioice", Duration::from_secs(600), unix_now()).unwrap();
            let parts = |at: SocketAddr| [at.ip().to_string(), at.port().to_string()];
            let ([host, port], [peer, peer_port]) = (parts(address(&server, transport)), parts(peer));
            let text = [name, &host, &port, &who.username, &who.password, &peer, &peer_port, "tls.crt"];
            let arguments: Vec<_> = [client.as_os_str()].into_iter().chain(text.map(OsStr::new)).collect();
            let text = run(&python, &arguments, dir.path(), "python3").await;
            assert!(text.contains("echoed 20 of 20"), "{name} {ip}: {text}");
        }
    }
}

/// WebRTC from end to end: ICE, DTLS and SCTP between two peers that know no other way than the relay.
#[tokio::test]
async fn aiortcs_peers_call_each_other_by_relays_alone_over_udp_tcp_and_tls() {
    let python = python("aiortc").await;
    let call = folder("aiortc").join("call.py");
    let (server, dir) = server("127.0.0.1").await;
    let uri = |transport, scheme, over| format!("{scheme}:{}?transport={over}", address(&server, transport));
    let uris = [
        uri(Transport::Udp, "turn", "udp"),
        uri(Transport::Tcp, "turn", "tcp"),
        uri(Transport::Tls, "turns", "tcp"),
    ];
    for uri in uris {
        let who = mint(&single(), "aiortc", Duration::from_secs(600), unix_now()).unwrap();
        // it has no setting for whom to trust; OpenSSL has
        let trusted = OsStr::new("SSL_CERT_FILE=tls.crt");
        let arguments = [trusted, python.as_os_str(), call.as_os_str()].into_iter();
        let arguments: Vec<_> =
            arguments.chain([&uri, &who.username, &who.password].map(OsStr::new)).collect();
        let text = run("env", &arguments, dir.path(), "python3").await;
        assert!(text.contains("echoed 20 of 20"), "{uri}: {text}");
    }
}

/// A Python of the test's own that has a client's library.
async fn python(client: &str) -> PathBuf {
    let how = "Debian's packages python3 and python3-venv";
    let wanted = std::fs::read_to_string(folder(client).join("requirements.txt")).unwrap();
    let home = built(&format!("{client}-{}", wanted.trim().replace("==", "-")));
    let (python, done) = (home.join("bin/python"), home.join("done"));
    if !done.exists() {
        let venv = ["-m", "venv", "--clear"].map(OsStr::new);
        run("python3", &[&venv[..], &[home.as_os_str()]].concat(), &folder(client), how).await;
        let install =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
        run(&python, &install.map(OsStr::new), &folder(client), how).await;
        std::fs::write(done, "").unwrap();
    }
    python
}
