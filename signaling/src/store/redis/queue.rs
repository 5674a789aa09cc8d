//! Writes on their way to one server.
//!
//! What is asked while an answer is awaited goes together, in one call: so a server that has much to do has fewer
//! calls, and one that has little is asked at once, by whoever wants to write. Nothing waits for company.

use super::{
    library::{Library, PART_KEYS, ROOM_KEYS},
    slots::key,
};
use redis::{Cmd, ErrorKind, RedisError, Value, aio::MultiplexedConnection};
use rtc_signaling_proto::{ReplicaId, RoomName};
use std::{
    fmt,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{runtime::Handle, sync::oneshot};

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

/// What is asked of a room.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) room: RoomName,
    pub(super) partition: usize,
    /// The act, or whose signal it is and for whom; and what it takes.
    pub(super) words: Words,
    /// Of all servers that work.
    pub(super) lives: Arc<str>,
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

/// Those who want to write.
#[derive(Clone)]
pub(super) struct Queue(Arc<Inner>);

struct Inner {
    connection: MultiplexedConnection,
    life: String,
    caller: Caller,
    runtime: Handle,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    /// A call is under way; who sent it sees to those who wait.
    busy: bool,
    waiting: Vec<Waiting>,
}

struct Waiting {
    write: Write,
    answer: oneshot::Sender<Result<Value, Failed>>,
}

/// Who has it sends. Given up, it passes on to those who wait.
struct Turn<'a>(&'a Arc<Inner>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.busy = !line.waiting.is_empty();
        if line.busy {
            // where this is dropped there may be no runtime around
            self.0.runtime.spawn(self.0.clone().work_off());
        }
    }
}

impl Queue {
    /// Must be called in a runtime.
    pub(super) fn new(connection: MultiplexedConnection, life: String, caller: Caller) -> Self {
        Self(Arc::new(Inner { connection, life, caller, runtime: Handle::current(), line: Mutex::default() }))
    }

    /// Writes: at once when no call is under way, and otherwise with all others that wait for its end. `None` when the
    /// answer does not come.
    pub(super) async fn write(&self, write: Write) -> Option<Result<Value, Failed>> {
        let in_line = {
            let mut line = self.0.line();
            if std::mem::replace(&mut line.busy, true) {
                let (answer, answered) = oneshot::channel();
                line.waiting.push(Waiting { write, answer });
                Err(answered)
            } else {
                Ok(write)
            }
        };
        let write = match in_line {
            Ok(write) => write,
            Err(answered) => return answered.await.ok(),
        };
        let _turn = Turn(&self.0);
        match self.0.ask(std::slice::from_ref(&write)).await {
            Ok(answers) => answers.into_iter().next().map(Ok),
            Err(error) => {
                self.0.give_up_on(&error);
                Some(Err((error, write.words)))
            }
        }
    }
}

impl Inner {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until nobody waits.
    async fn work_off(self: Arc<Self>) {
        let _turn = Turn(&self);
        loop {
            let mut waiting = {
                let mut line = self.line();
                let most = line.waiting.len().min(TOGETHER);
                line.waiting.drain(..most).collect::<Vec<_>>()
            };
            if waiting.is_empty() {
                return;
            }
            if self.caller.library.all_keys {
                // Redis Cluster takes one slot at a time
                waiting.sort_by_key(|waiting| waiting.write.partition);
            }
            let mut calls = Vec::new();
            while let Some(first) = waiting.first() {
                let of_one_call = match self.caller.library.all_keys {
                    true => waiting.partition_point(|w| w.write.partition == first.write.partition),
                    false => waiting.len(),
                };
                let rest = waiting.split_off(fitting(&waiting).min(of_one_call));
                calls.push(self.answer(std::mem::replace(&mut waiting, rest)));
            }
            futures::future::join_all(calls).await;
        }
    }

    async fn answer(&self, waiting: Vec<Waiting>) {
        let (writes, answers): (Vec<_>, Vec<_>) = waiting.into_iter().map(|w| (w.write, w.answer)).unzip();
        // who asked may be gone
        match self.ask(&writes).await {
            Ok(values) => {
                answers.into_iter().zip(values).for_each(|(answer, value)| drop(answer.send(Ok(value))))
            }
            Err(error) => {
                self.give_up_on(&error);
                let failed = writes.into_iter().map(|write| Err((error.clone(), write.words)));
                answers.into_iter().zip(failed).for_each(|(answer, failed)| drop(answer.send(failed)));
            }
        }
    }

    /// Who waited behind a call that was not answered has waited as long, and would once more.
    fn give_up_on(&self, error: &RedisError) {
        if !error.is_io_error() && !error.is_timeout() {
            return;
        }
        for Waiting { write, answer } in std::mem::take(&mut self.line().waiting) {
            let _ = answer.send(Err((error.clone(), write.words)));
        }
    }

    /// As many answers as writes.
    async fn ask(&self, writes: &[Write]) -> Result<Vec<Value>, RedisError> {
        let call = call(&self.life, &self.caller, writes);
        match self.connection.clone().send_packed_command(&call).await? {
            Value::Array(answers) if answers.len() == writes.len() => Ok(answers),
            Value::ServerError(error) => Err(error.into()),
            _ => Err((ErrorKind::UnexpectedReturnType, "not as many answers as writes").into()),
        }
    }
}

/// How many of the first fit into one call.
fn fitting(waiting: &[Waiting]) -> usize {
    let mut bytes = 0;
    let over = waiting.iter().position(|waiting| {
        bytes += waiting.write.words.text.len();
        bytes > BYTES
    });
    over.map_or(waiting.len(), |over| over.max(1))
}

/// One call: the keys, where they are wanted; a word that all writes have in common; and the words of each, the first of
/// which begins with the first key of its room.
fn call(life: &str, caller: &Caller, writes: &[Write]) -> Cmd {
    let Caller { replica, library, news } = caller;
    let mut call = redis::cmd("FCALL");
    call.arg(&library.function);
    let mut word = String::new();
    if library.all_keys {
        call.arg(writes.len() * (ROOM_KEYS.len() + PART_KEYS.len()));
        for Write { room, partition, .. } in writes {
            for part in ROOM_KEYS {
                word.clear();
                let _ = write!(word, "rtc:{{p{partition}}}:{part}:{room}");
                call.arg(&word);
            }
            for part in PART_KEYS {
                call.arg(key(*partition, part));
            }
        }
    } else {
        call.arg(0);
    }
    let channel = match writes.first() {
        Some(first) if library.all_keys => key(first.partition, "to:"),
        _ => "rtc:to:".to_owned(),
    };
    let lives = writes.last().map_or("", |write| &write.lives);
    word.clear();
    let _ = write!(word, "{replica}\n{life}\n{lives}\n{channel}\n{news}");
    call.arg(&word);
    for Write { room, partition, words, .. } in writes {
        let mut words = words.iter();
        word.clear();
        let _ = write!(word, "rtc:{{p{partition}}}:meta:{room}\n{}", words.next().unwrap_or_default());
        call.arg(&word);
        for word in words {
            call.arg(word);
        }
    }
    call
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn waiting(bytes: usize) -> Waiting {
        let write = Write {
            room: "r".parse().unwrap(),
            partition: 0,
            words: Words::new(&"x".repeat(bytes)),
            lives: "".into(),
        };
        Waiting { write, answer: oneshot::channel().0 }
    }

    #[test]
    fn a_call_has_as_many_writes_as_fit_and_one_at_least() {
        let sizes = |sizes: &[usize]| fitting(&sizes.iter().map(|size| waiting(*size)).collect::<Vec<_>>());
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
