//! The floor's way to its other process: Redis pub/sub, and nothing else. One connection (RESP3), what is published in one
//! turn of the runtime by one write, no log, nothing that waits for an answer.

use std::cell::RefCell;
use std::io::{ErrorKind, Result, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

/// A connection to Redis that hears one channel and publishes to another.
pub(crate) struct Link {
    socket: TcpStream,
    other: String,
    out: RefCell<Vec<u8>>,
}

/// Of what Redis says, as much as is looked at.
enum Reply<'a> {
    Text(&'a [u8]),
    Several(Vec<Reply<'a>>),
    Other,
}

impl Link {
    /// Connects and subscribes to one's own channel.
    ///
    /// # Errors
    /// When Redis is not there.
    pub(crate) async fn open(redis: SocketAddr, own: &str, other: &str) -> Result<Rc<Self>> {
        let socket = TcpStream::connect(redis).await?;
        socket.set_nodelay(true)?;
        socket.try_write(format!("HELLO 3\r\nSUBSCRIBE {own}\r\n").as_bytes())?;
        Ok(Rc::new(Self { socket, other: other.to_owned(), out: RefCell::default() }))
    }

    /// Publishes a text for a room. Must be called in a `LocalSet`.
    pub(crate) fn publish(self: &Rc<Self>, room: &str, text: &[u8]) {
        let mut out = self.out.borrow_mut();
        if out.is_empty() {
            tokio::task::spawn_local(self.clone().flush());
        }
        let Self { other, .. } = &**self;
        let (channel, length) = (other.len(), room.len() + 1 + text.len());
        // Writing to a Vec cannot fail.
        let _ = write!(out, "*3\r\n$7\r\nPUBLISH\r\n${channel}\r\n{other}\r\n${length}\r\n{room}\n");
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    }

    /// Once all that is ready has had its turn.
    async fn flush(self: Rc<Self>) {
        tokio::task::yield_now().await;
        while !self.out.borrow().is_empty() && self.socket.writable().await.is_ok() {
            let mut out = self.out.borrow_mut();
            match self.socket.try_write(&out) {
                Ok(count) => drop(out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Calls with each room and text that was published to this process, until the connection ends.
    pub(crate) async fn listen(self: Rc<Self>, heard: impl Fn(&str, &[u8])) {
        let (mut bytes, mut scratch) = (Vec::new(), vec![0; 1 << 16]);
        while self.socket.readable().await.is_ok() {
            match self.socket.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(count) => bytes.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            let mut rest = bytes.as_slice();
            while let Some((reply, after)) = reply(rest) {
                if let Reply::Several(parts) = reply
                    && let [Reply::Text(b"message"), _, Reply::Text(message)] = parts.as_slice()
                    && let Some(end) = message.iter().position(|byte| *byte == b'\n')
                    && let Ok(room) = std::str::from_utf8(&message[..end])
                {
                    heard(room, &message[end + 1..]);
                }
                rest = after;
            }
            let used = bytes.len() - rest.len();
            bytes.drain(..used);
        }
    }
}

/// The first reply, if all of it is there, and what comes after it.
fn reply(bytes: &[u8]) -> Option<(Reply<'_>, &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (line, mut rest) = (&bytes[..end], &bytes[end + 2..]);
    let (kind, line) = line.split_first()?;
    let length = || std::str::from_utf8(line).ok()?.parse::<usize>().ok();
    let several = match kind {
        b'$' => {
            let length = length()?;
            return (rest.len() >= length + 2).then(|| (Reply::Text(&rest[..length]), &rest[length + 2..]));
        }
        b'*' | b'>' => length()?,
        b'%' => 2 * length()?,
        _ => return Some((Reply::Other, rest)),
    };
    let mut parts = Vec::with_capacity(several);
    for _ in 0..several {
        let (part, after) = reply(rest)?;
        parts.push(part);
        rest = after;
    }
    Some((Reply::Several(parts), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_push_is_found_between_answers_once_it_is_whole() {
        let text = b":1\r\n%1\r\n$5\r\nproto\r\n:3\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\nr\nhi\r\n";
        let (_, rest) = reply(text).unwrap();
        let (map, rest) = reply(rest).unwrap();
        assert!(matches!(map, Reply::Several(parts) if parts.len() == 2));
        assert!(reply(&rest[..rest.len() - 1]).is_none());
        let (push, rest) = reply(rest).unwrap();
        let Reply::Several(parts) = push else { panic!("a push has parts") };
        assert!(matches!(parts[..], [Reply::Text(b"message"), _, Reply::Text(b"r\nhi")]));
        assert!(rest.is_empty());
    }
}
