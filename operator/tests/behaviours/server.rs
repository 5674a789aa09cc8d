//! One etcd, API server and controller manager for all tests of this process.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use kube::{Client, Config};
use tokio::sync::OnceCell;

static SERVER: OnceCell<Config> = OnceCell::const_new();
static AUDIT_LOG: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
static ETCD: std::sync::OnceLock<u16> = std::sync::OnceLock::new();
/// Kept to the end of the process, which is theirs too: see [`watchdog`].
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// A client of an administrator.
pub(crate) async fn client() -> Client {
    Client::try_from(config().await).unwrap()
}

/// How an administrator reaches it.
pub(crate) async fn config() -> Config {
    SERVER.get_or_init(start).await.clone()
}

/// How kubectl reaches it.
pub(crate) fn kubeconfig() -> PathBuf {
    audit_log().with_file_name("kubeconfig")
}

/// What ServiceAccounts asked for.
pub(crate) fn audit_log() -> &'static Path {
    AUDIT_LOG.get().unwrap()
}

/// Stores an object as it is, as one that was taken under an older definition: nothing checks it.
pub(crate) async fn store(key: &str, value: &serde_json::Value) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = serde_json::json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value.to_string())})
        .to_string();
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", *ETCD.get().unwrap())).await.unwrap();
    let request = format!(
        "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

pub(crate) fn binary(name: &str) -> PathBuf {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<_> = assets
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain([PathBuf::from("/usr/local/kubebuilder/bin")])
        .collect();
    let found = places.iter().map(|place| place.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: set KUBEBUILDER_ASSETS to the directory that has it"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(directory: &Path, name: &str, args: &[String]) {
    let log = std::fs::File::create(directory.join(format!("{name}.log"))).unwrap();
    let child = Command::new(binary(name))
        .args(args)
        .stdout(Stdio::null())
        .stderr(log)
        // Of its own, so that an interrupt of the tests reaches it through the watchdog alone.
        .process_group(0)
        .spawn()
        .unwrap();
    std::fs::write(directory.join(format!("{name}.pid")), child.id().to_string()).unwrap();
    let mut children = CHILDREN.lock().unwrap();
    if children.is_empty() {
        children.push(watchdog(directory));
    }
    children.push(child);
}

/// A shell that outlives the tests, however they end, and then stops what they started.
fn watchdog(directory: &Path) -> Child {
    let script = format!(
        "while kill -0 {} 2>/dev/null; do sleep 0.5; done; \
         for pid in {dir}/*.pid; do kill -KILL $(cat $pid) 2>/dev/null; done; rm -rf {dir}",
        std::process::id(),
        dir = directory.display()
    );
    Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// A key to sign ServiceAccounts' tokens with, which the API server will not start without.
fn service_account_key(directory: &Path) -> String {
    let file = directory.join("sa.key");
    let made = Command::new("openssl")
        .args(["genrsa", "-out"])
        .arg(&file)
        .arg("2048")
        .stderr(Stdio::null())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "openssl is missing: install it");
    file.display().to_string()
}

async fn start() -> Config {
    let directory = tempfile::Builder::new().prefix("rtc-operator-").tempdir().unwrap().keep();
    let (etcd, peer, api) = (free_port(), free_port(), free_port());
    ETCD.set(etcd).unwrap();
    let at = |port: u16| format!("http://127.0.0.1:{port}");
    let own = |flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
    let mut flags = own(&["--unsafe-no-fsync"]);
    flags.extend([
        format!("--data-dir={}/etcd", directory.display()),
        format!("--listen-client-urls={}", at(etcd)),
        format!("--advertise-client-urls={}", at(etcd)),
        format!("--listen-peer-urls={}", at(peer)),
        format!("--initial-advertise-peer-urls={}", at(peer)),
        format!("--initial-cluster=default={}", at(peer)),
    ]);
    spawn(&directory, "etcd", &flags);

    let token = format!("test-{}", std::process::id());
    std::fs::write(directory.join("tokens"), format!("{token},admin,admin,system:masters\n")).unwrap();
    let key = service_account_key(&directory);
    let mut flags = own(&[
        "--bind-address=127.0.0.1",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/20",
        "--disable-admission-plugins=ServiceAccount",
        "--service-account-issuer=https://kubernetes.default.svc",
    ]);
    flags.extend([
        format!("--etcd-servers={}", at(etcd)),
        format!("--secure-port={api}"),
        format!("--cert-dir={}/certs", directory.display()),
        format!("--token-auth-file={}/tokens", directory.display()),
        format!("--service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key}"),
    ]);
    let policy = directory.join("audit.json");
    let accounts = serde_json::json!({"level": "Metadata", "userGroups": ["system:serviceaccounts"]});
    let rules = serde_json::json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [accounts, {"level": "None"}],
    });
    std::fs::write(&policy, rules.to_string()).unwrap();
    let log = AUDIT_LOG.get_or_init(|| directory.join("audit.log"));
    flags.push(format!("--audit-policy-file={}", policy.display()));
    flags.push(format!("--audit-log-path={}", log.display()));
    spawn(&directory, "kube-apiserver", &flags);

    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}], \
         clusters: [{{name: a, cluster: {{server: 'https://127.0.0.1:{api}', insecure-skip-tls-verify: true}}}}], \
         users: [{{name: a, user: {{token: {token}}}}}]}}"
    );
    std::fs::write(directory.join("kubeconfig"), &kubeconfig).unwrap();
    let kubeconfig: kube::config::Kubeconfig = serde_yaml::from_str(&kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = Client::try_from(config.clone()).unwrap();
    wait_for_api(&client, &directory).await;
    let mut flags = own(&[
        "--leader-elect=false",
        "--secure-port=0",
        // Many tests at a time want more than its usual 20 requests a second.
        "--kube-api-qps=300",
        "--kube-api-burst=600",
        "--controllers=garbage-collector-controller,daemonset-controller,deployment-controller,replicaset-controller",
    ]);
    flags.push(format!("--kubeconfig={}/kubeconfig", directory.display()));
    spawn(&directory, "kube-controller-manager", &flags);
    install(&client).await;
    config
}

async fn wait_for_api(client: &Client, directory: &Path) {
    for _ in 0..600 {
        let request = kube::core::Request::new("/readyz").list(&Default::default()).unwrap();
        if client.request_text(request.map(|body| body)).await.is_ok_and(|text| text == "ok") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the API server does not become ready; see {}", directory.display());
}

async fn install(client: &Client) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let definitions = kube::Api::<CustomResourceDefinition>::all(client.clone());
    // As a newer definition might be: with a field that takes what this operator does not know.
    let mut definition = serde_json::to_value(rtc_operator_api::crd()).unwrap();
    let schema =
        definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap();
    let newer = &mut schema["signaling"]["properties"]["drain"]["properties"]["timeout"];
    *newer = serde_json::json!({"type": "string", "default": newer["default"]});
    let definition: CustomResourceDefinition = serde_json::from_value(definition).unwrap();
    definitions.create(&Default::default(), &definition).await.unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    let name = definition.metadata.name.unwrap();
    kube::runtime::wait::await_condition(definitions, &name, established).await.unwrap();
}
