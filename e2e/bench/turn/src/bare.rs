//! The floor: a forwarder with the sockets of a TURN server (one for clients, one per
//! allocation) and nothing but batched system calls between them. No TURN, no
//! permissions, no timers. In its second form trains of datagrams pass as one message.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::client::SERVER;
use crate::sys::{self, BATCH, Message, Outgoing, Received, Sender};

/// The first bytes of a control message; data of the bench never starts with 0xff.
const CONTROL: &[u8; 4] = b"\xffBAR";

/// Asks the forwarder for a relay and, when given, names its peer; the relay's address.
///
/// # Errors
/// When there is no answer to five attempts.
pub(crate) fn ask(socket: &UdpSocket, peer: Option<SocketAddrV4>) -> Result<SocketAddrV4> {
    let mut question = CONTROL.to_vec();
    if let Some(peer) = peer {
        question.extend(peer.ip().octets());
        question.extend(peer.port().to_be_bytes());
    }
    let mut answer = [0; 64];
    for _ in 0..5 {
        if socket.send(&question).is_ok() {
            match socket.recv(&mut answer) {
                Ok(6) if answer.starts_with(CONTROL) => {
                    let port = u16::from_be_bytes([answer[4], answer[5]]);
                    return Ok(SocketAddrV4::new(*SERVER.ip(), port));
                }
                _ => {}
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!("the bare forwarder does not answer")
}

struct Relay {
    socket: UdpSocket,
    client: SocketAddrV4,
    peer: Option<SocketAddrV4>,
}

struct Forwarder {
    clients: UdpSocket,
    relays: Vec<Relay>,
    by_client: HashMap<SocketAddrV4, usize, ahash::RandomState>,
    epoll: rustix::fd::OwnedFd,
    offload: bool,
    sender: Sender,
}

const CLIENTS: u64 = u64::MAX;

/// Forwards on [`SERVER`] until killed.
///
/// # Errors
/// When the sockets cannot be had.
pub(crate) fn run(offload: bool) -> Result<()> {
    let clients = UdpSocket::bind(SERVER).context("the forwarder's socket")?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &clients, epoll::EventData::new_u64(CLIENTS), epoll::EventFlags::IN)?;
    if offload {
        sys::enable_gro(clients.as_fd())?;
    }
    let mut forwarder = Forwarder {
        clients,
        relays: Vec::new(),
        by_client: HashMap::default(),
        epoll,
        offload,
        sender: Sender::new(),
    };
    let mut received = Received::new();
    let mut events = Vec::with_capacity(BATCH);
    loop {
        events.clear();
        epoll::wait(&forwarder.epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            match event.data.u64() {
                CLIENTS => {
                    received.receive(forwarder.clients.as_fd()).ok();
                    forwarder.forward_to_peers(&received)?;
                }
                relay => {
                    let index = relay as usize;
                    received.receive(forwarder.relays[index].socket.as_fd()).ok();
                    forwarder.forward_to_client(index, &received);
                }
            }
        }
    }
}

impl Forwarder {
    /// Sends each run of messages of one client by one call, from the client's relay.
    fn forward_to_peers(&mut self, received: &Received) -> Result<()> {
        let mut run: Vec<Message<'_>> = Vec::with_capacity(BATCH);
        for message in received.messages() {
            if message.data.starts_with(CONTROL) {
                self.control(message)?;
                continue;
            }
            if run.first().is_some_and(|first| first.from != message.from) {
                self.forward_run(&run);
                run.clear();
            }
            run.push(message);
        }
        self.forward_run(&run);
        Ok(())
    }

    fn forward_run(&mut self, run: &[Message<'_>]) {
        let Some(index) = run.first().and_then(|first| self.by_client.get(&first.from)) else { return };
        let relay = &self.relays[*index];
        let Some(to) = relay.peer else { return };
        let messages =
            run.iter().map(|message| Outgoing { data: message.data, segment: message.segment, to });
        // A full queue drops, as the network does; the receiver's count tells.
        self.sender.send(relay.socket.as_fd(), messages).ok();
    }

    fn forward_to_client(&mut self, index: usize, received: &Received) {
        let to = self.relays[index].client;
        let messages =
            received.messages().map(|message| Outgoing { data: message.data, segment: message.segment, to });
        self.sender.send(self.clients.as_fd(), messages).ok();
    }

    fn control(&mut self, message: Message<'_>) -> Result<()> {
        let index = match self.by_client.get(&message.from) {
            Some(index) => *index,
            None => self.add(message.from).context("a relay's socket")?,
        };
        let relay = &mut self.relays[index];
        if let [_, _, _, _, a, b, c, d, high, low] = *message.data {
            relay.peer = Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])));
        }
        let port = relay.socket.local_addr()?.port().to_be_bytes();
        self.clients.send_to(&[CONTROL.as_slice(), &port].concat(), message.from)?;
        Ok(())
    }

    fn add(&mut self, client: SocketAddrV4) -> io::Result<usize> {
        let socket = UdpSocket::bind((*SERVER.ip(), 0))?;
        if self.offload {
            sys::enable_gro(socket.as_fd())?;
        }
        let index = self.relays.len();
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        self.relays.push(Relay { socket, client, peer: None });
        self.by_client.insert(client, index);
        Ok(index)
    }
}
