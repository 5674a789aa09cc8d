//! Redis with Sentinel, Redis Cluster, and the signaling server as a process.

use super::*;
use rustix::process::{Pid, Signal, kill_process};
use std::{io::Write, path::Path};
use tempfile::TempDir;

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// What is ended with the test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A master, a replica of it, and a Sentinel that knows both.
pub struct Watched {
    pub master: Option<Redis>,
    pub replica: Redis,
    pub sentinel: u16,
    _sentinel: Ended,
    _dir: TempDir,
}

impl Watched {
    pub async fn start() -> Self {
        let (master, replica) = (Redis::start(), Redis::start());
        replica.command(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]).await;
        eventually("in step", async || replica.info("replication").await.contains("master_link_status:up"))
            .await;
        let dir = TempDir::new().unwrap();
        let port = free_port();
        let path = dir.path().join("sentinel.conf");
        let mut file = std::fs::File::create(&path).unwrap();
        writeln!(file, "port {port}\nbind 127.0.0.1\ndir {}", dir.path().display()).unwrap();
        writeln!(file, "sentinel monitor calls 127.0.0.1 {} 1", master.port).unwrap();
        writeln!(file, "sentinel down-after-milliseconds calls 700").unwrap();
        writeln!(file, "sentinel failover-timeout calls 5000").unwrap();
        let sentinel = Command::new("redis-server")
            .arg(&path)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let watched =
            Self { master: Some(master), replica, sentinel: port, _sentinel: Ended(sentinel), _dir: dir };
        eventually("the Sentinel knows the replica", async || {
            let url = format!("redis://127.0.0.1:{port}");
            let Ok(mut connection) =
                redis::Client::open(url).unwrap().get_multiplexed_async_connection().await
            else {
                return false;
            };
            let mut command = redis::cmd("SENTINEL");
            command.arg("REPLICAS").arg("calls");
            let replicas: Vec<Vec<String>> = command.query_async(&mut connection).await.unwrap_or_default();
            replicas.iter().flatten().any(|word| word == "slave-repl-offset")
        })
        .await;
        watched
    }

    /// With a Sentinel before it that is gone.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:1,127.0.0.1:{}/calls", self.sentinel)
    }
}

impl Redis {
    pub async fn info(&self, section: &str) -> String {
        redis::from_redis_value(self.command(&["INFO", section]).await).unwrap()
    }

    pub async fn text(&self, words: &[&str]) -> String {
        redis::from_redis_value(self.command(words).await).unwrap()
    }
}

/// Three masters; the last server is a replica of the first.
pub struct Cluster {
    pub servers: Vec<Option<Redis>>,
    _dir: TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let server = |n: usize| {
            let words = |bus: u16| {
                let own = dir.path().join(n.to_string());
                std::fs::create_dir_all(&own).unwrap();
                let own = own.display().to_string();
                [
                    "--cluster-enabled",
                    "yes",
                    "--cluster-node-timeout",
                    "1000",
                    "--dir",
                    &own,
                    "--cluster-port",
                ]
                .map(str::to_owned)
                .into_iter()
                .chain([bus.to_string(), "--cluster-replica-validity-factor".into(), "0".into()])
                .collect::<Vec<_>>()
            };
            Redis::start_with(&words(free_port()))
        };
        let servers: Vec<_> = (0..4).map(|n| Some(server(n))).collect();
        let cluster = Self { servers, _dir: dir };
        let addresses: Vec<_> = (0..3).map(|n| format!("127.0.0.1:{}", cluster.at(n).port)).collect();
        cluster.cli(&[&["create"], &*addresses.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        let last = format!("127.0.0.1:{}", cluster.at(3).port);
        let first = cluster.at(0).text(&["CLUSTER", "MYID"]).await;
        eventually("three masters", async || {
            cluster.at(0).text(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok")
        })
        .await;
        cluster.cli(&["add-node", &last, &addresses[0], "--cluster-slave", "--cluster-master-id", &first]);
        eventually("a replica", async || {
            cluster.at(3).info("replication").await.contains("master_link_status:up")
        })
        .await;
        cluster
    }

    pub fn at(&self, n: usize) -> &Redis {
        self.servers[n].as_ref().unwrap()
    }

    fn cli(&self, words: &[&str]) {
        let output = Command::new("redis-cli").arg("--cluster").args(words).arg("--cluster-yes").output();
        let output = output.expect("redis-cli is not installed; on Debian: apt-get install redis-tools");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    /// One node would do, and one that is gone does not hinder.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:1,127.0.0.1:{}", self.at(1).port)
    }

    /// Which of the masters has a room, and its slot.
    pub async fn place(&self, room: &str) -> (usize, String) {
        for n in 0..3 {
            let Some(server) = &self.servers[n] else { continue };
            let pattern = format!("rtc:*:meta:{room}");
            let keys: Vec<String> =
                redis::from_redis_value(server.command(&["KEYS", &pattern]).await).unwrap();
            if let Some(key) = keys.first() {
                let slot: u64 =
                    redis::from_redis_value(server.command(&["CLUSTER", "KEYSLOT", key]).await).unwrap();
                return (n, slot.to_string());
            }
        }
        panic!("nobody has {room}");
    }

    /// Moves a slot, key by key.
    pub async fn migrate(&self, slot: &str, from: usize, to: usize) {
        let (source, target) = (self.at(from), self.at(to));
        let (source_id, target_id) =
            (source.text(&["CLUSTER", "MYID"]).await, target.text(&["CLUSTER", "MYID"]).await);
        target.command(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &source_id]).await;
        source.command(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &target_id]).await;
        loop {
            let keys: Vec<String> =
                redis::from_redis_value(source.command(&["CLUSTER", "GETKEYSINSLOT", slot, "1"]).await)
                    .unwrap();
            let Some(key) = keys.first() else { break };
            source.command(&["MIGRATE", "127.0.0.1", &target.port.to_string(), key, "0", "2000"]).await;
        }
        for server in [target, source] {
            server.command(&["CLUSTER", "SETSLOT", slot, "NODE", &target_id]).await;
        }
    }
}

/// The signaling server as a process of its own.
pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Process {
    pub async fn start(arguments: &[&str]) -> Self {
        Self::logging(arguments, "off", Stdio::null()).await
    }

    /// Which logs what `filter` says, as JSON.
    pub async fn logging(arguments: &[&str], filter: &str, log: Stdio) -> Self {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let admin: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let child = Command::new(Path::new(env!("CARGO_BIN_EXE_rtc-signaling")))
            .args(["--listen", &address.to_string(), "--admin", &admin.to_string()])
            .args(["--log-format", "json"])
            .args(arguments)
            .env("RTC_LOG", filter)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = Self { child, address, admin };
        eventually("the process listens", async || TcpStream::connect(address).await.is_ok()).await;
        process
    }

    pub fn send(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// `/readyz`: its status and text.
    pub async fn ready(&self) -> String {
        self.ask("/readyz").await
    }

    /// What the admin port answers.
    pub async fn ask(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
