//! Many clients, and many who pretend to be: what they cost is bounded, and comes back.

use crate::common::{SECRET, TestClient, address, config, eventually, namespace, single, start, within};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rtc_credentials::{Transport, mint};
use rtc_service::clock::unix_now;
use rtc_turn::Handle;
use rtc_turn_proto::client::{Answer, Client};
use rustix::process::{Resource, getrlimit};
use std::{
    collections::HashMap,
    fs,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// As many as one machine is to hold.
const MANY: u64 = 20_000;
/// Open files that are not for allocations.
const OTHERS: u64 = 500;
/// Memory for one allocation, in bytes.
const EACH: u64 = 4096;

/// One socket that sends from, and hears at, any address of this host.
struct Crowd {
    socket: UdpSocket,
    state: UdpSocketState,
    server: SocketAddr,
}

impl Crowd {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:4000").unwrap();
        let state = UdpSocketState::new((&socket).into()).unwrap();
        let _ = state.set_recv_buffer_size((&socket).into(), 4 << 20);
        Self { socket, state, server }
    }

    fn send(&self, from: Ipv4Addr, contents: &[u8]) {
        let (destination, src_ip) = (self.server, Some(IpAddr::V4(from)));
        let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip };
        while let Err(e) = self.state.try_send((&self.socket).into(), &transmit) {
            assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "{e}");
        }
    }

    /// The next datagram, and whom it is for.
    fn receive(&self, patience: Duration) -> Option<(Ipv4Addr, Vec<u8>)> {
        let until = Instant::now() + patience;
        let (mut buffer, mut meta) = (vec![0; 2048], [RecvMeta::default()]);
        loop {
            let received =
                self.state.recv((&self.socket).into(), &mut [IoSliceMut::new(&mut buffer)], &mut meta);
            if received.is_ok() {
                buffer.truncate(meta[0].len);
                let Some(IpAddr::V4(to)) = meta[0].dst_ip else { panic!("{meta:?}") };
                return Some((to, buffer));
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Asks for all of these clients, a few at a time, and returns what they were answered.
    fn ask(
        &self,
        clients: &mut HashMap<Ipv4Addr, Client>,
        f: impl Fn(&mut Client) -> Vec<u8>,
    ) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(clients.len());
        let mut waiting = Vec::new();
        let mut todo: Vec<_> = clients.keys().copied().collect();
        while !todo.is_empty() || !waiting.is_empty() {
            while waiting.len() < 64
                && let Some(from) = todo.pop()
            {
                self.send(from, &f(clients.get_mut(&from).unwrap()));
                waiting.push(from);
            }
            let (to, reply) = self.receive(Duration::from_secs(10)).expect("an answer");
            waiting.retain(|from| *from != to);
            match clients.get_mut(&to).unwrap().read(&reply) {
                Answer::Challenged => todo.push(to),
                answer => answers.push(answer),
            }
        }
        answers
    }

    /// Sends a bare request from each of these addresses, a few of them unanswered at a time, and
    /// returns how many were answered.
    fn flood(&self, sources: impl Iterator<Item = Ipv4Addr>, patience: Duration) -> u32 {
        let mut stranger = Client::new("1:a", "b", 1);
        let (mut answered, mut waiting) = (0, 0);
        let mut wait = |waiting: &mut u32, at_most| {
            while *waiting > at_most {
                let reply = self.receive(patience);
                answered += u32::from(reply.is_some());
                *waiting = reply.map_or(0, |_| *waiting - 1);
            }
        };
        for source in sources {
            self.send(source, &stranger.allocate());
            waiting += 1;
            wait(&mut waiting, 64);
        }
        wait(&mut waiting, 0);
        answered
    }
}

fn client(n: u64) -> Client {
    let credential = mint(&single(), "load", Duration::from_secs(3600), unix_now()).unwrap();
    Client::new(credential.username, credential.password, n)
}

/// The memory that this process has in use, in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How many allocations this process may have sockets for: 20,000, or what its limit leaves.
fn many() -> u64 {
    rtc_turn::raise_open_files();
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let many = MANY.min(limit.saturating_sub(OTHERS));
    assert!(many >= MANY / 2, "{limit} open files are too few: raise `ulimit -Hn`");
    many
}

async fn server(relay_ports: &str) -> Handle {
    let listen = vec!["udp://10.0.0.1:3478".parse().unwrap(), "tcp://10.0.0.1:3478".parse().unwrap()];
    start(rtc_turn::Config { listen, relay_ports: relay_ports.parse().unwrap(), ..config() }).await
}

fn udp(server: &Handle) -> Crowd {
    Crowd::new(address(server, Transport::Udp))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_allocations_are_held_in_bounded_memory_and_given_back() {
    if !namespace::enter("load::twenty_thousand_allocations_are_held_in_bounded_memory_and_given_back") {
        return;
    }
    let many = many();
    let server = server("10000-65535").await;
    let crowd = udp(&server);
    let source = |n: u64| Ipv4Addr::from(0x0A01_0000 + n as u32);
    // what is allocated once, and what the clients themselves take, is not for the allocations
    let mut few: HashMap<_, _> = (0..100).map(|n| (source(many + n), client(many + n))).collect();
    crowd.ask(&mut few, Client::allocate);
    crowd.ask(&mut few, |c| c.refresh(0));
    let mut clients: HashMap<_, _> = (0..many).map(|n| (source(n), client(n))).collect();
    // a refusal leaves each client with its challenge
    assert!(crowd.ask(&mut clients, |c| c.refresh(0)).iter().all(|a| *a == Answer::Refused(437)));
    eventually("nothing to be held", || server.status()["users"]["load"].is_null()).await;
    let (memory_before, descriptors_before) = (memory(), descriptors());

    let answers = crowd.ask(&mut clients, Client::allocate);
    assert!(answers.iter().all(|a| matches!(a, Answer::Success { relayed: Some(_), .. })));
    let each = memory().saturating_sub(memory_before) / many;
    assert!(each <= EACH, "{each} bytes for one allocation");
    assert!(descriptors() >= descriptors_before + many as usize);
    eventually("all to be counted", || server.status()["users"]["load"] == many).await;

    let answers = crowd.ask(&mut clients, |c| c.refresh(0));
    assert!(answers.iter().all(|a| matches!(a, Answer::Success { lifetime: Some(0), .. })));
    eventually("all to end", || server.status()["users"]["load"].is_null()).await;
    // a probe of readiness may hold some just now
    eventually("the sockets to be closed", || descriptors() <= descriptors_before + 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_strangers_leave_nothing_and_keep_nobody_out() {
    if !namespace::enter("load::a_hundred_thousand_strangers_leave_nothing_and_keep_nobody_out") {
        return;
    }
    const STRANGERS: u32 = 100_000;
    let server = server("50000-60000").await;
    let crowd = udp(&server);
    // each from an address of its own, over all networks of 10.0.0.0/8
    let source = |n: u32| Ipv4Addr::from(0x0A00_0000 | n.wrapping_mul(40_503) & 0x00FF_FFFF);
    let second = Duration::from_secs(1);
    let first = crowd.flood((0..5000).map(source), second);
    let before = (memory(), descriptors());
    let answered = first + crowd.flood((5000..STRANGERS).map(source), second);
    let grown = memory().saturating_sub(before.0);
    assert!(grown < 1 << 20, "{grown} bytes for strangers");
    // a probe of readiness may hold some just now
    assert!(descriptors() <= before.1 + 8);
    assert!(answered > STRANGERS / 100 * 99, "{answered}: nobody spent the others' budget");
    let status = server.status();
    assert!(
        status["users"].as_object().unwrap().keys().all(|user| user.starts_with("rtc-readiness")),
        "{status}"
    );

    // one network spends its own, at once
    let (greedy, began) = (|n: u32| Ipv4Addr::from(0x0A09_0900 | n & 0xFF), Instant::now());
    let replies = crowd.flood((0..10_000).map(greedy), Duration::from_millis(2));
    // each worker has the burst of 1,000, and then 500 a second
    let most = 2.0 * (1000.0 + 500.0 * (began.elapsed().as_secs_f64() + 1.0));
    assert!(f64::from(replies) <= most.min(9000.0), "{replies} in {:?}", began.elapsed());
    // of three in other networks one at most has the bad luck to share a bucket with the greedy one
    let began = Instant::now();
    let honest = [[10, 77, 1, 1], [10, 78, 1, 1], [10, 79, 1, 1]].map(Ipv4Addr::from);
    let served = honest.into_iter().filter(|from| {
        let mut client = client(u64::from(from.to_bits()));
        (0..2).any(|_| {
            crowd.send(*from, &client.allocate());
            // what the greedy one is still owed is not for this client
            let reply = std::iter::from_fn(|| crowd.receive(second)).find(|(to, _)| to == from);
            reply.is_some_and(|(_, reply)| matches!(client.read(&reply), Answer::Success { .. }))
        })
    });
    assert!(served.count() >= 2);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn relay_ports_that_run_out_answer_508_until_one_comes_back() {
    // below the ports that the system picks, and those of other tests
    let relay_ports = "28000-28007".parse().unwrap();
    let server = start(rtc_turn::Config { workers: 1, relay_ports, ..config() }).await;
    let ring = single();
    let mut held = Vec::new();
    loop {
        let mut client = TestClient::connect(&server, Transport::Udp, &ring, "alice").await;
        match client.ask(Client::allocate).await {
            Answer::Success { .. } => held.push(client),
            answer => break assert_eq!(answer, Answer::Refused(508)),
        }
    }
    // the probe of readiness may hold some just now
    assert!((5..=8).contains(&held.len()), "{}", held.len());
    let mut gone = held.pop().unwrap();
    assert!(matches!(gone.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
    let mut next = TestClient::connect(&server, Transport::Tcp, &ring, "bob").await;
    within("a port", async { while !matches!(next.ask(Client::allocate).await, Answer::Success { .. }) {} })
        .await;
    assert!(matches!(held[0].ask(|c| c.refresh(600)).await, Answer::Success { .. }), "others go on");
}

#[tokio::test]
async fn the_program_takes_all_the_open_files_that_it_may_have() {
    let program = env!("CARGO_BIN_EXE_rtc-turn");
    let listen = ["--listen", "udp://127.0.0.1:0", "--relay-address", "127.0.0.1", "--secret", SECRET];
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -Sn 256; exec \"$0\" \"$@\"", program])
        .args(listen)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", child.id().unwrap());
    let raised = || {
        let text = fs::read_to_string(&limits).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let mut limits = line.split_whitespace().skip(3);
        limits.next() == limits.next()
    };
    eventually("the limit to be raised", raised).await;
    child.kill().await.unwrap();
}
