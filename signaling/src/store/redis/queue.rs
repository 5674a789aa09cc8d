//! Writes on their way to one server.
//!
//! What is asked while an answer is awaited goes together, in one call: so a server that has much to do has fewer
//! calls, and one that has little is asked at once. Nothing waits for company.

use super::{
    library::{FIRST_KEYS, Library, PART_KEYS, ROOM_KEYS},
    slots::key,
};
use redis::{Cmd, ErrorKind, RedisError, Value, aio::MultiplexedConnection};
use rtc_signaling_proto::{ReplicaId, RoomName};
use std::{fmt, fmt::Write as _, sync::Arc};
use tokio::sync::{mpsc, oneshot};

/// Writes of one call; a server does nothing else meanwhile.
const TOGETHER: usize = 128;
/// Bytes of one call, but for the last write of it.
const BYTES: usize = 256 << 10;

/// Arguments, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    text: String,
    ends: Vec<usize>,
}

impl Words {
    pub(super) fn new(act: &str) -> Self {
        Self::default().with(act)
    }

    pub(super) fn push(&mut self, word: &str) {
        self.text.push_str(word);
        self.ends.push(self.text.len());
    }

    #[must_use]
    pub(super) fn with(mut self, word: &str) -> Self {
        self.push(word);
        self
    }

    #[must_use]
    pub(super) fn show(mut self, word: impl fmt::Display) -> Self {
        // writing to a String cannot fail
        let _ = write!(self.text, "{word}");
        self.ends.push(self.text.len());
        self
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, end)| self.text.get(start..*end))
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) room: RoomName,
    pub(super) partition: usize,
    /// The act and what it takes.
    pub(super) words: Words,
    /// Of all servers that work.
    pub(super) lives: Arc<str>,
    pub(super) answer: oneshot::Sender<Result<Value, Failed>>,
}

/// Why a write was not answered; with what it was, to ask again.
pub(super) type Failed = (RedisError, Words);

/// Whom the answers are for.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) replica: ReplicaId,
    pub(super) library: Arc<Library>,
    /// News of a partition that are kept; 0 for none.
    pub(super) news: usize,
}

pub(super) type Queue = mpsc::UnboundedSender<Write>;

/// Passes writes on until the queue is dropped.
pub(super) fn start(connection: MultiplexedConnection, life: String, caller: Caller) -> Queue {
    let (queue, mut waiting) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut writes: Vec<Write> = Vec::new();
        while waiting.recv_many(&mut writes, TOGETHER).await > 0 {
            let mut unanswered = None;
            if caller.library.all_keys {
                // Redis Cluster takes one slot at a time
                writes.sort_by_key(|write| write.partition);
                let mut calls = Vec::new();
                while let Some(first) = writes.first() {
                    let of_one = writes.partition_point(|write| write.partition == first.partition);
                    let call = take(&mut writes, of_one);
                    calls.push(send(&connection, &life, &caller, call));
                }
                let answered = futures::future::join_all(calls).await;
                unanswered = answered.into_iter().find_map(Result::err);
            }
            while !writes.is_empty() && unanswered.is_none() {
                let call = take(&mut writes, TOGETHER);
                unanswered = send(&connection, &life, &caller, call).await.err();
            }
            if let Some(error) = unanswered {
                // who waited behind these has waited as long, and would once more
                while let Ok(write) = waiting.try_recv() {
                    writes.push(write);
                }
                fail(std::mem::take(&mut writes), &error);
            }
        }
    });
    queue
}

/// The first writes, as many as fit into one call.
fn take(writes: &mut Vec<Write>, most: usize) -> Vec<Write> {
    let rest = writes.split_off(fitting(writes).min(most));
    std::mem::replace(writes, rest)
}

fn fail(writes: Vec<Write>, error: &RedisError) {
    for Write { words, answer, .. } in writes {
        // who asked may be gone
        let _ = answer.send(Err((error.clone(), words)));
    }
}

/// How many of the first fit into one call.
fn fitting(writes: &[Write]) -> usize {
    let mut bytes = 0;
    let over = writes.iter().position(|write| {
        bytes += write.words.text.len();
        bytes > BYTES
    });
    over.map_or(writes.len(), |over| over.max(1))
}

/// Answers each write; an error when the server did not say anything.
async fn send(
    connection: &MultiplexedConnection,
    life: &str,
    caller: &Caller,
    writes: Vec<Write>,
) -> Result<(), RedisError> {
    let call = call(life, caller, &writes);
    let mut connection = connection.clone();
    let answered = connection.send_packed_command(&call).await;
    let error = match answered {
        Ok(Value::Array(answers)) if answers.len() == writes.len() => {
            for (write, answer) in writes.into_iter().zip(answers) {
                let _ = write.answer.send(Ok(answer));
            }
            return Ok(());
        }
        Ok(Value::ServerError(error)) => error.into(),
        Ok(_) => (ErrorKind::UnexpectedReturnType, "not as many answers as writes").into(),
        Err(error) => error,
    };
    fail(writes, &error);
    if error.is_io_error() || error.is_timeout() { Err(error) } else { Ok(()) }
}

fn call(life: &str, caller: &Caller, writes: &[Write]) -> Cmd {
    let Caller { replica, library, news } = caller;
    let mut call = redis::cmd("FCALL");
    let each = if library.all_keys { ROOM_KEYS.len() + PART_KEYS.len() } else { FIRST_KEYS };
    call.arg(&library.function).arg(writes.len() * each);
    let mut name = String::new();
    for Write { room, partition, .. } in writes {
        let keys = if library.all_keys { &ROOM_KEYS[..] } else { &ROOM_KEYS[..FIRST_KEYS] };
        for part in keys {
            name.clear();
            let _ = write!(name, "rtc:{{p{partition}}}:{part}:{room}");
            call.arg(&name);
        }
        if library.all_keys {
            for part in PART_KEYS {
                call.arg(key(*partition, part));
            }
        }
    }
    let channel = match writes.first() {
        Some(first) if library.all_keys => key(first.partition, "to:"),
        _ => "rtc:to:".to_owned(),
    };
    let lives = writes.last().map_or("", |write| &write.lives);
    call.arg(replica.as_str()).arg(life).arg(lives).arg(channel).arg(*news);
    for write in writes {
        for word in write.words.iter() {
            call.arg(word);
        }
    }
    call
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(bytes: usize) -> Write {
        Write {
            room: "r".parse().unwrap(),
            partition: 0,
            words: Words::new(&"x".repeat(bytes)),
            lives: "".into(),
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn a_call_has_as_many_writes_as_fit_and_one_at_least() {
        let sizes = |sizes: &[usize]| fitting(&sizes.iter().map(|size| write(*size)).collect::<Vec<_>>());
        assert_eq!(sizes(&[10, 10, 10]), 3);
        assert_eq!(sizes(&[BYTES - 20, 10, 10, 1]), 3);
        assert_eq!(sizes(&[BYTES + 1, 10]), 1);
    }

    #[test]
    fn words_read_back_as_they_were_put() {
        let words = Words::new("join").with("").show(17).with("é\n");
        assert_eq!(words.iter().collect::<Vec<_>>(), ["join", "", "17", "é\n"]);
    }
}
