//! The floor: a relay on tokio that knows WebSocket frames and rooms, and nothing else; of two, each publishes whatever is
//! said to the other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{ErrorKind, Result};
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::link::Link;
use crate::ws::{self, opcode};

/// What all connections share: one thread serves them, and reads into one buffer.
#[derive(Default)]
struct Relay {
    rooms: RefCell<HashMap<String, Vec<Rc<TcpStream>>>>,
    scratch: RefCell<Vec<u8>>,
    frame: RefCell<Vec<u8>>,
    link: Option<Rc<Link>>,
}

struct Connection {
    relay: Rc<Relay>,
    socket: Rc<TcpStream>,
    /// What is not yet a whole frame.
    rest: Vec<u8>,
    open: bool,
    room: String,
}

/// Serves until it is killed.
///
/// # Errors
/// When the port is taken, or Redis is not there.
pub(crate) fn run(listen: SocketAddr, redis: Option<SocketAddr>, seat: u8) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let link = match redis {
            Some(redis) => Some(Link::open(redis, &channel(seat), &channel(seat ^ 1)).await?),
            None => None,
        };
        let listener = TcpListener::bind(listen).await?;
        let relay = Rc::new(Relay { link, ..Relay::default() });
        if let Some(link) = relay.link.clone() {
            let relay = relay.clone();
            // one that is gone is not the others' trouble
            tokio::task::spawn_local(link.listen(move |room, text| drop(relay.tell(room, text, None))));
        }
        relay.scratch.borrow_mut().resize(1 << 16, 0);
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let (relay, socket) = (relay.clone(), Rc::new(socket));
            let rest = Vec::new();
            let connection = Connection { relay, socket, rest, open: false, room: String::new() };
            tokio::task::spawn_local(connection.serve());
        }
    })
}

fn channel(seat: u8) -> String {
    format!("relay-{seat}")
}

impl Relay {
    /// To the members of a room that are here, but one.
    fn tell(&self, room: &str, text: &[u8], but: Option<&Rc<TcpStream>>) -> Result<()> {
        let mut frame = self.frame.borrow_mut();
        frame.clear();
        ws::plain(&mut frame, opcode::TEXT, text);
        let rooms = self.rooms.borrow();
        let members = rooms.get(room).map(Vec::as_slice).unwrap_or_default();
        for other in members.iter().filter(|other| but.is_none_or(|but| !Rc::ptr_eq(other, but))) {
            // One who does not read is no member of a floor.
            other.try_write(&frame)?;
        }
        Ok(())
    }
}

impl Connection {
    async fn serve(mut self) {
        while self.socket.readable().await.is_ok() && matches!(self.read(), Ok(true)) {}
        self.leave();
    }

    fn read(&mut self) -> Result<bool> {
        let relay = self.relay.clone();
        let mut scratch = relay.scratch.borrow_mut();
        let count = match self.socket.try_read(&mut scratch) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        if self.rest.is_empty() {
            let used = self.take(&mut scratch[..count])?;
            self.rest.extend_from_slice(&scratch[used..count]);
        } else {
            self.rest.extend_from_slice(&scratch[..count]);
            let mut input = std::mem::take(&mut self.rest);
            let used = self.take(&mut input)?;
            self.rest.extend_from_slice(&input[used..]);
        }
        Ok(true)
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut used = 0;
        if !self.open {
            let Some(end) = ws::head_end(bytes) else { return Ok(0) };
            let answer =
                ws::response(&String::from_utf8_lossy(&bytes[..end])).ok_or(ErrorKind::InvalidData)?;
            self.socket.try_write(answer.as_bytes())?;
            self.open = true;
            used = end;
        }
        while let Some(frame) = ws::parse(&bytes[used..]).map_err(std::io::Error::other)? {
            let payload = &mut bytes[used + frame.start..used + frame.end];
            used += frame.end;
            if let Some(mask) = frame.mask {
                payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            }
            if frame.opcode != opcode::TEXT {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            self.obey(payload)?;
        }
        Ok(used)
    }

    fn obey(&mut self, text: &[u8]) -> Result<()> {
        match text.split_first() {
            Some((b'j', room)) => {
                self.room = String::from_utf8_lossy(room).into_owned();
                self.others(b"p")?;
                self.relay.rooms.borrow_mut().entry(self.room.clone()).or_default().push(self.socket.clone());
                self.answer(b"j")
            }
            Some((b'm', _)) => self.others(text),
            Some((b'l', _)) => {
                self.leave();
                self.answer(b"l")
            }
            _ => Ok(()),
        }
    }

    fn answer(&self, text: &[u8]) -> Result<()> {
        let mut frame = self.relay.frame.borrow_mut();
        frame.clear();
        ws::plain(&mut frame, opcode::TEXT, text);
        self.socket.try_write(&frame).map(drop)
    }

    fn others(&self, text: &[u8]) -> Result<()> {
        if let Some(link) = &self.relay.link {
            link.publish(&self.room, text);
        }
        self.relay.tell(&self.room, text, Some(&self.socket))
    }

    fn leave(&mut self) {
        let room = std::mem::take(&mut self.room);
        let mut rooms = self.relay.rooms.borrow_mut();
        if let Some(members) = rooms.get_mut(&room) {
            members.retain(|member| !Rc::ptr_eq(member, &self.socket));
            if members.is_empty() {
                rooms.remove(&room);
            }
        }
    }
}
