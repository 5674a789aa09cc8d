//! UDP in batches: many datagrams per system call in, trains of equal datagrams to one destination
//! per system call out.

use mio::net::UdpSocket;
use nix::{
    libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
        sockopt as option,
    },
};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use rtc_turn_proto::attributes::Icmp;
use rustix::io::Errno;
use rustix::net::{
    MMsgHdr, SendAncillaryBuffer, SendFlags,
    addr::SocketAddrArg,
    sendmmsg, sendto,
    sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery},
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

/// Messages that one system call receives at most; each may be a train of up to 64 datagrams.
const BATCH: usize = 16;
/// The longest train, and the longest datagram.
const MESSAGE: usize = 65_536;
/// The longest payload of an IPv4 datagram.
pub(crate) const MAX_DATAGRAM: usize = 65_507;
/// The most that one GSO send may carry: what fits an IPv4 packet less its headers.
const MAX_TRAIN: usize = MAX_DATAGRAM;

/// A non-blocking socket whose trains the kernel splits and joins.
#[derive(Debug)]
pub(crate) struct Udp {
    pub(crate) socket: UdpSocket,
    state: UdpSocketState,
    is_v4: bool,
    /// Whether it is bound to all of the host's addresses, so that each datagram's own counts.
    is_wildcard: bool,
    hears_errors: bool,
}

/// What the network says of a datagram that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// To whom it was sent.
    pub(crate) to: SocketAddr,
    pub(crate) icmp: Icmp,
}

impl Udp {
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let udp = Self {
            socket: UdpSocket::from_std(socket),
            state,
            is_v4: address.is_ipv4(),
            is_wildcard: address.ip().is_unspecified(),
            hears_errors: false,
        };
        udp.want_no_more_than_needed()?;
        // quinn-udp forbids fragments, as QUIC must; TURN relays what it gets (RFC 8656, section 14)
        udp.set_dont_fragment(false)?;
        Ok(udp)
    }

    /// quinn-udp asks for what QUIC needs to know of each datagram. Here nobody reads its time of
    /// arrival, which the kernel would take for every packet of the host, nor its ECN bits, nor the
    /// address that it was sent to where that is the socket's.
    fn want_no_more_than_needed(&self) -> io::Result<()> {
        let fd = self.socket.as_fd();
        setsockopt(&fd, option::ReceiveTimestampns, &false)?;
        if self.is_v4 {
            sockopt::set_ip_recvtos(fd, false)?;
            setsockopt(&fd, option::Ipv4PacketInfo, &self.is_wildcard)?;
        } else {
            sockopt::set_ipv6_recvtclass(fd, false)?;
            setsockopt(&fd, option::Ipv6RecvPacketInfo, &self.is_wildcard)?;
        }
        Ok(())
    }

    /// Has the kernel keep ICMP errors, for [`Self::lost`].
    pub(crate) fn hear_errors(&mut self) -> io::Result<()> {
        if self.is_v4 {
            setsockopt(&self.socket, option::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&self.socket, option::Ipv6RecvErr, &true)?;
        }
        self.hears_errors = true;
        Ok(())
    }

    /// The next datagram that the network says was lost; `None` at the end of the kernel's queue.
    pub(crate) fn lost(&self) -> Option<Lost> {
        let mut control = nix::cmsg_space!([u8; 64]);
        let mut none = [0; 1];
        loop {
            let mut buffer = [IoSliceMut::new(&mut none)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let message = recvmsg::<SockaddrStorage>(fd, &mut buffer, Some(&mut control), flags).ok()?;
            // what this host says without having asked the network is no ICMP
            let error = message.cmsgs().ok()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4RecvErr(e, _) if e.ee_origin == SO_EE_ORIGIN_ICMP => Some(e),
                ControlMessageOwned::Ipv6RecvErr(e, _) if e.ee_origin == SO_EE_ORIGIN_ICMP6 => Some(e),
                _ => None,
            });
            let (Some(error), Some(to)) = (error, message.address.as_ref().and_then(to_std)) else {
                continue;
            };
            let (kind, code) = (error.ee_type, error.ee_code);
            // RFC 8656, section 18.13
            let too_big = if self.is_v4 { (kind, code) == (3, 4) } else { kind == 2 };
            let mtu = if too_big { error.ee_info } else { 0 };
            return Some(Lost { to, icmp: Icmp { kind, code, mtu } });
        }
    }

    fn set_dont_fragment(&self, on: bool) -> io::Result<()> {
        let fd = self.socket.as_fd();
        if self.is_v4 {
            let how = if on { Ipv4PathMtuDiscovery::PROBE } else { Ipv4PathMtuDiscovery::DONT };
            sockopt::set_ip_mtu_discover(fd, how)?;
        } else {
            let how = if on { Ipv6PathMtuDiscovery::PROBE } else { Ipv6PathMtuDiscovery::DONT };
            sockopt::set_ipv6_mtu_discover(fd, how)?;
        }
        Ok(())
    }

    /// Sends datagrams of `segment` bytes each, the last maybe shorter. With no control message that is not
    /// needed: quinn-udp adds the ECN bits to each, and the kernel then looks at all of them.
    fn send_train(&self, train: &Train, contents: &[u8]) -> io::Result<()> {
        // naming the source costs a route per datagram
        let source = train.source.filter(|_| self.is_wildcard);
        if source.is_none() && train.count == 1 {
            sendto(self.socket.as_fd(), contents, SendFlags::empty(), &train.destination)?;
            return Ok(());
        }
        let segment = train.segment as u16;
        let segments = ControlMessage::UdpGsoSegments(&segment);
        let (v4, v6);
        let all = match source {
            None => [segments, segments],
            Some(IpAddr::V4(ip)) => {
                let none = in_addr { s_addr: 0 };
                let from = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                v4 = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: none };
                [ControlMessage::Ipv4PacketInfo(&v4), segments]
            }
            Some(IpAddr::V6(ip)) => {
                v6 = in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: in6_addr { s6_addr: ip.octets() } };
                [ControlMessage::Ipv6PacketInfo(&v6), segments]
            }
        };
        let wanted = &all[usize::from(source.is_none())..1 + usize::from(train.count > 1)];
        let (fd, to) = (self.socket.as_raw_fd(), SockaddrStorage::from(train.destination));
        sendmsg(fd, &[IoSlice::new(contents)], wanted, MsgFlags::empty(), Some(&to))?;
        Ok(())
    }

    /// Returns how many datagrams the system did not take.
    fn send(&self, train: &Train, buffer: &[u8]) -> u64 {
        let contents = &buffer[train.start..train.end];
        if train.dont_fragment {
            let _ = self.set_dont_fragment(true);
        }
        let failed = match self.send_train(train, contents) {
            Ok(()) => 0,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => train.count as u64,
            // it may be what an earlier datagram met, told to the next one that leaves
            Err(_) => self.send_each(train, contents),
        };
        if train.dont_fragment {
            let _ = self.set_dont_fragment(false);
        }
        failed
    }

    /// Sends the datagrams of several trains of one by one system call. Returns how many the system did not take.
    fn send_singles(&self, trains: &[Train], buffer: &[u8]) -> u64 {
        let contents = |train: &Train| &buffer[train.start..train.end];
        let slices: Vec<_> = trains.iter().map(|train| [IoSlice::new(contents(train))]).collect();
        let addresses: Vec<_> = trains.iter().map(|train| train.destination.as_any()).collect();
        let mut control: Vec<_> = trains.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let parts = addresses.iter().zip(&slices).zip(&mut control);
        let mut messages: Vec<_> = parts
            .map(|((address, slice), control)| MMsgHdr::new_with_addr(address, slice, control))
            .collect();
        let (mut done, mut failed) = (0, 0);
        while done < messages.len() {
            match sendmmsg(self.socket.as_fd(), &mut messages[done..], SendFlags::empty()) {
                Ok(sent) => done += sent.max(1),
                Err(error) => {
                    failed += match error {
                        Errno::AGAIN => 1,
                        // as above
                        _ => self.send_each(&trains[done], contents(&trains[done])),
                    };
                    done += 1;
                }
            }
        }
        failed
    }

    /// Again, one by one, when the system does not take the train as a whole.
    fn send_each(&self, train: &Train, contents: &[u8]) -> u64 {
        let single = Train { count: 1, ..*train };
        if contents.is_empty() {
            return u64::from(self.send_train(&single, contents).is_err());
        }
        let failed = contents.chunks(train.segment.max(1)).filter(|c| self.send_train(&single, c).is_err());
        failed.count() as u64
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}

/// Where a worker receives into. The memory is touched only as far as datagrams fill it.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Box<[u8]>,
    meta: [RecvMeta; BATCH],
    count: usize,
}

/// A train that was received: datagrams of equal size from one source, the last maybe shorter.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: Option<IpAddr>,
    contents: &'a [u8],
    stride: usize,
}

impl<'a> Received<'a> {
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (mut rest, stride, mut empty) = (self.contents, self.stride.max(1), self.contents.is_empty());
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return std::mem::take(&mut empty).then_some(rest);
            }
            let (datagram, tail) = rest.split_at(stride.min(rest.len()));
            rest = tail;
            Some(datagram)
        })
    }

    pub(crate) fn count(&self) -> u64 {
        (self.contents.len().div_ceil(self.stride.max(1))).max(1) as u64
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BATCH * MESSAGE].into(), meta: [RecvMeta::default(); BATCH], count: 0 }
    }

    /// Receives what there is, up to a batch. `false` when the socket's queue is empty now, so that
    /// another call would only find that out: an edge-triggered poll tells when there is more.
    pub(crate) fn receive(&mut self, udp: &Udp) -> io::Result<bool> {
        self.count = 0;
        let mut chunks = self.buffer.chunks_mut(MESSAGE);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        match udp.state.recv(UdpSockRef::from(&udp.socket), &mut slices, &mut self.meta) {
            Ok(count) => {
                self.count = count;
                Ok(count == BATCH)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // what a datagram that was sent met; what was received still waits
            Err(_) if udp.hears_errors => Ok(true),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn trains(&self) -> impl Iterator<Item = Received<'_>> {
        self.meta[..self.count].iter().zip(self.buffer.chunks(MESSAGE)).map(|(meta, buffer)| Received {
            from: meta.addr,
            to: meta.dst_ip,
            contents: &buffer[..meta.len],
            stride: meta.stride,
        })
    }
}

/// Which of a worker's sockets a train leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// A listener, by index.
    Listener(usize),
    /// A relay socket, by id.
    Relay(usize),
}

#[derive(Clone, Copy, Debug)]
struct Train {
    via: Via,
    destination: SocketAddr,
    source: Option<IpAddr>,
    dont_fragment: bool,
    /// Where its bytes are in the buffer.
    start: usize,
    end: usize,
    /// Every datagram's length, except that the last may be shorter, after which none may follow.
    segment: usize,
    count: usize,
    open: bool,
}

impl Train {
    /// Whether it is one datagram like any other.
    fn is_single(&self) -> bool {
        self.count == 1 && !self.dont_fragment
    }
}

/// Datagrams on their way out. A payload is copied once, to where it is sent from.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    buffer: Vec<u8>,
    trains: Vec<Train>,
}

impl Outbox {
    /// Adds the datagram that `write` appends; nothing when that is `false`.
    pub(crate) fn push(
        &mut self,
        via: Via,
        destination: SocketAddr,
        source: Option<IpAddr>,
        dont_fragment: bool,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        let start = self.buffer.len();
        if !write(&mut self.buffer) {
            self.buffer.truncate(start);
            return;
        }
        let length = self.buffer.len() - start;
        if let Some(last) = self.trains.last_mut()
            && last.open
            && last.via == via
            && last.destination == destination
            && last.source == source
            && last.dont_fragment == dont_fragment
            && length > 0
            && length <= last.segment
            && last.end - last.start + length <= MAX_TRAIN
            && last.count < 64
        {
            last.end += length;
            last.count += 1;
            last.open = length == last.segment;
            return;
        }
        self.trains.push(Train {
            via,
            destination,
            source,
            dont_fragment,
            start,
            end: start + length,
            segment: length,
            count: 1,
            open: length > 0,
        });
    }

    /// Sends everything. Returns how many datagrams the system did not take.
    pub(crate) fn flush<'s>(&mut self, socket: impl Fn(Via) -> Option<&'s Udp>) -> u64 {
        let mut failed = 0;
        for run in self.trains.chunk_by(|a, b| a.via == b.via && a.is_single() && b.is_single()) {
            let Some(udp) = run.first().and_then(|train| socket(train.via)) else {
                failed += run.iter().map(|train| train.count as u64).sum::<u64>();
                continue;
            };
            if run.len() > 1 && !udp.is_wildcard {
                failed += udp.send_singles(run, &self.buffer);
            } else {
                failed += run.iter().map(|train| udp.send(train, &self.buffer)).sum::<u64>();
            }
        }
        self.trains.clear();
        self.buffer.clear();
        failed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::{Duration, Instant};

    fn socket() -> (Udp, SocketAddr) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (Udp::new(socket).unwrap(), address)
    }

    /// Sends datagrams of these sizes in one flush, and returns the sizes that arrive, by train.
    fn sizes_received(sizes: &[usize]) -> Vec<Vec<usize>> {
        let ((sender, _), (receiver, to)) = (socket(), socket());
        let mut outbox = Outbox::default();
        for (n, size) in sizes.iter().enumerate() {
            outbox.push(Via::Relay(0), to, None, false, |out| {
                out.extend(std::iter::repeat_n(n as u8, *size));
                true
            });
        }
        outbox.push(Via::Relay(0), to, None, false, |out| {
            out.extend_from_slice(b"not to be sent");
            false
        });
        assert_eq!(outbox.flush(|_| Some(&sender)), 0);
        let (mut inbox, mut trains) = (Inbox::new(), Vec::new());
        let (mut count, until) = (0, Instant::now() + Duration::from_secs(5));
        while count < sizes.len() && Instant::now() < until {
            inbox.receive(&receiver).unwrap();
            for train in inbox.trains() {
                assert_eq!(train.datagrams().count() as u64, train.count());
                let mut received = Vec::new();
                for datagram in train.datagrams() {
                    assert!(datagram.iter().all(|byte| usize::from(*byte) == count), "in order");
                    received.push(datagram.len());
                    count += 1;
                }
                trains.push(received);
            }
        }
        trains
    }

    #[test]
    fn equal_datagrams_travel_as_a_train_that_a_shorter_one_ends() {
        let trains = sizes_received(&[100, 100, 100, 40, 100, 200, 200, 0, 0, 7]);
        assert_eq!(trains.concat(), [100, 100, 100, 40, 100, 200, 200, 0, 0, 7]);
        assert_eq!(trains[0], [100, 100, 100, 40], "one system call each way");
    }

    #[test]
    fn a_wildcard_socket_answers_from_where_it_was_asked() {
        for (any, ip) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "::1"), ("127.0.0.7:0", "127.0.0.7")] {
            let server = std::net::UdpSocket::bind(any).unwrap();
            let to = SocketAddr::new(ip.parse().unwrap(), server.local_addr().unwrap().port());
            let client =
                std::net::UdpSocket::bind(if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let server = Udp::new(server).unwrap();
            let (mut inbox, mut outbox) = (Inbox::new(), Outbox::default());
            client.send_to(b"where?", to).unwrap();
            let until = Instant::now() + Duration::from_secs(5);
            while inbox.count == 0 && Instant::now() < until {
                inbox.receive(&server).unwrap();
            }
            let train = inbox.trains().next().unwrap();
            assert_eq!(train.to, server.is_wildcard.then_some(to.ip()), "{any}");
            outbox.push(Via::Listener(0), train.from, Some(to.ip()), false, |out| {
                out.extend_from_slice(b"here");
                true
            });
            assert_eq!(outbox.flush(|_| Some(&server)), 0);
            assert_eq!(client.recv_from(&mut [0; 10]).unwrap(), (4, to), "{any}");
        }
    }

    #[test]
    fn a_train_is_never_longer_than_a_packet_may_be() {
        // two trains and a bit; more would not fit the receiver's queue
        let sizes = [1400; 100];
        assert_eq!(sizes_received(&sizes).concat(), sizes);
        let sizes = [65_507, 65_507, 10];
        assert_eq!(sizes_received(&sizes).concat(), sizes);
    }
}
