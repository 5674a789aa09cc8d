//! Many WebSocket clients on one thread, as lean as can be, so that the generator is not what is measured.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::dialect::{Dialect, Heard};
use crate::ws::{self, opcode};

/// Clients, by their numbers.
pub(crate) struct Clients {
    dialect: Dialect,
    poll: Poll,
    events: Events,
    clients: Vec<Option<Client>>,
    scratch: Vec<u8>,
    frame: Vec<u8>,
}

struct Client {
    socket: TcpStream,
    /// What is not yet a whole frame, or head.
    input: Vec<u8>,
    /// What did not fit into the socket.
    output: Vec<u8>,
    open: bool,
}

impl Clients {
    /// None yet, of a server's dialect.
    ///
    /// # Errors
    /// When the kernel has no more files.
    pub(crate) fn new(dialect: Dialect) -> Result<Self> {
        Ok(Clients {
            dialect,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            scratch: vec![0; 1 << 16],
            frame: Vec::new(),
        })
    }

    /// What they speak.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Connects client `number`; [`Heard::Ready`] follows.
    ///
    /// # Errors
    /// When there is no file or port for it.
    pub(crate) fn connect(&mut self, number: usize, server: SocketAddr) -> Result<()> {
        let mut socket = TcpStream::connect(server).context("connecting to the server")?;
        // Or the kernel keeps the second of two frames back until the first is confirmed.
        socket.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(number), interest)?;
        let output = ws::request(&self.dialect.path(number));
        if self.clients.len() <= number {
            self.clients.resize_with(number + 1, || None);
        }
        self.clients[number] = Some(Client { socket, input: Vec::new(), output, open: false });
        Ok(())
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) fn say(&mut self, number: usize, text: &str) -> Result<()> {
        self.send(number, opcode::TEXT, text.as_bytes())
    }

    /// Asks the server to close; [`Heard::Gone`] follows.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) fn close(&mut self, number: usize) -> Result<()> {
        self.send(number, opcode::CLOSE, &1000u16.to_be_bytes())
    }

    fn send(&mut self, number: usize, opcode: u8, payload: &[u8]) -> Result<()> {
        let client = self.clients.get_mut(number).and_then(Option::as_mut).context("the client is gone")?;
        self.frame.clear();
        ws::masked(&mut self.frame, opcode, payload);
        client.write(&self.frame)
    }

    /// Waits for what the server says, at most for a time, and puts it into `heard`.
    ///
    /// # Errors
    /// When a handshake is refused or a frame is none.
    pub(crate) fn listen(&mut self, patience: Duration, heard: &mut Vec<(usize, Heard)>) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            let number = event.token().0;
            let Some(slot) = self.clients.get_mut(number) else { continue };
            let Some(client) = slot else { continue };
            if event.is_writable() && !client.output.is_empty() {
                client.flush()?;
            }
            let closed = event.is_read_closed();
            if (event.is_readable() || closed)
                && !client.read(self.dialect, number, closed, &mut self.scratch, heard)?
            {
                *slot = None;
                heard.push((number, Heard::Gone));
            }
        }
        Ok(())
    }
}

impl Client {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                // Not connected yet, or the socket is full: its event follows.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to the server"),
            }
        }
        Ok(())
    }

    /// Reads all there is; false when the server has closed, of which `closed` is the first sign.
    fn read(
        &mut self,
        dialect: Dialect,
        number: usize,
        closed: bool,
        scratch: &mut [u8],
        heard: &mut Vec<(usize, Heard)>,
    ) -> Result<bool> {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    if self.input.is_empty() {
                        let used = self.take(dialect, number, &scratch[..count], heard)?;
                        self.input.extend_from_slice(&scratch[used..count]);
                    } else {
                        self.input.extend_from_slice(&scratch[..count]);
                        let input = std::mem::take(&mut self.input);
                        let used = self.take(dialect, number, &input, heard)?;
                        self.input.extend_from_slice(&input[used..]);
                    }
                    // Less than asked for is all there is, unless its end follows.
                    if count < scratch.len() && !closed {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error).context("reading from the server"),
            }
        }
    }

    /// Takes whole frames off the start; how many bytes they had.
    fn take(
        &mut self,
        dialect: Dialect,
        number: usize,
        bytes: &[u8],
        heard: &mut Vec<(usize, Heard)>,
    ) -> Result<usize> {
        let mut used = 0;
        if !self.open {
            let Some(end) = ws::head_end(bytes) else { return Ok(0) };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                bail!("the server refused a WebSocket: {}", String::from_utf8_lossy(&bytes[..end]));
            }
            self.open = true;
            used = end;
            if dialect.ready_at_once() {
                heard.push((number, Heard::Ready));
            }
        }
        while let Some(frame) = ws::parse(&bytes[used..])? {
            let payload = &bytes[used + frame.start..used + frame.end];
            used += frame.end;
            match frame.opcode {
                opcode::TEXT => match dialect.hear(payload) {
                    Heard::Answer(text) => {
                        let mut answer = Vec::new();
                        ws::masked(&mut answer, opcode::TEXT, text.as_bytes());
                        self.write(&answer)?;
                    }
                    Heard::Refused => bail!("the server refuses: {}", String::from_utf8_lossy(payload)),
                    Heard::Noise => {}
                    word => heard.push((number, word)),
                },
                opcode::PING => {
                    let mut pong = Vec::new();
                    ws::masked(&mut pong, opcode::PONG, payload);
                    self.write(&pong)?;
                }
                _ => {}
            }
        }
        Ok(used)
    }
}
