//! The system calls that no safe crate offers: `recvmmsg` and `sendmmsg` with
//! segmentation offload. All of the bench's `unsafe` is here; every block rests
//! on buffers this module owns.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages per system call, of the tool and of the bare forwarder alike.
pub(crate) const BATCH: usize = 32;
/// Bytes per message: what a coalesced train of datagrams can hold at most.
const SLOT: usize = 65_536;
/// Room for one `UDP_GRO` or `UDP_SEGMENT` control message.
const CONTROL: usize = 64;

/// Datagrams received by one call, and the storage the kernel wrote them to.
pub(crate) struct Received {
    data: Vec<u8>,
    control: Vec<[u64; CONTROL / 8]>,
    names: Vec<libc::sockaddr_in>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    filled: usize,
}

/// One message of a batch: a datagram, or a train of equal ones that the kernel coalesced.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    /// The datagrams' bytes, end to end.
    pub(crate) data: &'a [u8],
    /// Bytes of each datagram of the train; the last may be shorter.
    pub(crate) segment: usize,
    /// Who sent it.
    pub(crate) from: SocketAddrV4,
}

impl Received {
    /// Storage for one batch, allocated once.
    pub(crate) fn new() -> Self {
        // SAFETY: all-zero is a valid value of these C structures.
        let (name, header, iovec) = unsafe { (zeroed(), zeroed(), zeroed()) };
        let mut batch = Received {
            data: vec![0; BATCH * SLOT],
            control: vec![[0; CONTROL / 8]; BATCH],
            names: vec![name; BATCH],
            iovecs: vec![iovec; BATCH],
            headers: vec![header; BATCH],
            filled: 0,
        };
        for index in 0..BATCH {
            batch.iovecs[index] =
                libc::iovec { iov_base: batch.data[index * SLOT..].as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut batch.headers[index].msg_hdr;
            header.msg_iov = &raw mut batch.iovecs[index];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut batch.names[index]).cast();
            header.msg_control = batch.control[index].as_mut_ptr().cast();
        }
        batch
    }

    /// Receives what is queued, up to a batch, without waiting; the number of messages, 0 when none.
    ///
    /// # Errors
    /// Any but `EAGAIN`; an ICMP error queued on the socket is reported once.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            header.msg_hdr.msg_controllen = CONTROL;
        }
        // SAFETY: every header points at storage that `self` owns, whose heap blocks never move.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.filled = 0;
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        }
        self.filled = count as usize;
        Ok(self.filled)
    }

    /// The messages of the last call.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        (0..self.filled).map(|index| {
            let length = self.headers[index].msg_len as usize;
            let data = &self.data[index * SLOT..index * SLOT + length];
            let name = &self.names[index];
            Message {
                data,
                segment: segment_size(&self.headers[index].msg_hdr).unwrap_or(length).max(1),
                from: SocketAddrV4::new(
                    Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)),
                    u16::from_be(name.sin_port),
                ),
            }
        })
    }
}

fn segment_size(header: &libc::msghdr) -> Option<usize> {
    if header.msg_controllen < size_of::<libc::cmsghdr>() {
        return None;
    }
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed control messages.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(header);
        if control.is_null()
            || (*control).cmsg_level != libc::SOL_UDP
            || (*control).cmsg_type != libc::UDP_GRO
        {
            return None;
        }
        let size = libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned();
        usize::try_from(size).ok()
    }
}

/// One message to send: bytes, the size of its segments, and where to.
pub(crate) struct Outgoing<'a> {
    /// The datagrams' bytes, end to end.
    pub(crate) data: &'a [u8],
    /// Bytes of each datagram; `data.len()` for a single one.
    pub(crate) segment: usize,
    /// The receiver.
    pub(crate) to: SocketAddrV4,
}

/// Storage of headers for [`Sender::send`].
pub(crate) struct Sender {
    control: Vec<[u64; CONTROL / 8]>,
    names: Vec<libc::sockaddr_in>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Sender {
    /// Storage for one batch, allocated once.
    pub(crate) fn new() -> Self {
        // SAFETY: all-zero is a valid value of these C structures.
        let (name, header, iovec) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Sender {
            control: vec![[0; CONTROL / 8]; BATCH],
            names: vec![name; BATCH],
            iovecs: vec![iovec; BATCH],
            headers: vec![header; BATCH],
        }
    }

    /// Sends up to [`BATCH`] messages by one call and returns how many went.
    ///
    /// # Errors
    /// As `sendmmsg`: that of the first message, when not even that one went.
    pub(crate) fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = Outgoing<'a>>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (index, message) in messages.take(BATCH).enumerate() {
            self.names[index] = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: message.to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*message.to.ip()).to_be() },
                sin_zero: [0; 8],
            };
            self.iovecs[index] = libc::iovec {
                iov_base: message.data.as_ptr().cast_mut().cast(),
                iov_len: message.data.len(),
            };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            header.msg_iov = &raw mut self.iovecs[index];
            header.msg_iovlen = 1;
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
            if message.segment < message.data.len() {
                header.msg_control = self.control[index].as_mut_ptr().cast();
                // SAFETY: the control block is larger than one header and a u16.
                unsafe {
                    header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
                    let control = libc::CMSG_FIRSTHDR(header);
                    (*control).cmsg_level = libc::SOL_UDP;
                    (*control).cmsg_type = libc::UDP_SEGMENT;
                    (*control).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                    libc::CMSG_DATA(control).cast::<u16>().write_unaligned(message.segment as u16);
                }
            }
            count = index + 1;
        }
        // SAFETY: the headers point at `self`'s storage and at `messages`' bytes, which outlive the
        // call; sendmmsg only reads them.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as u32)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the kernel hand over trains of datagrams as one message.
///
/// # Errors
/// When the kernel is older than 5.0.
pub(crate) fn enable_gro(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Makes every send of more than `segment` bytes a train of datagrams of that size.
///
/// # Errors
/// When the kernel is older than 4.18.
pub(crate) fn set_segment(socket: BorrowedFd<'_>, segment: usize) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, segment as i32)
}

/// A receive buffer that loses nothing while the tool is away; past the system's limit where allowed.
pub(crate) fn enlarge_receive_buffer(socket: BorrowedFd<'_>, bytes: i32) {
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        // Without the privilege the limit of the system holds; losses are counted either way.
        let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
    }
}
