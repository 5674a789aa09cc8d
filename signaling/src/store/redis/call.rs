//! Writes of rooms by functions: one call for several.

use super::{
    library::{Library, PART_KEYS, ROOM_KEYS},
    queue::Server,
    slots::key,
};
use redis::{Cmd, ErrorKind, RedisError, Value, aio::MultiplexedConnection};
use rtc_signaling_proto::{ReplicaId, RoomName};
use std::{fmt, fmt::Write as _, sync::Arc};

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

/// Whom the answers are for.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) replica: ReplicaId,
    pub(super) library: Arc<Library>,
    /// News of a partition that are kept; 0 for none.
    pub(super) news: usize,
}

/// The functions of one server.
pub(super) struct Functions {
    pub(super) connection: MultiplexedConnection,
    pub(super) life: String,
    pub(super) caller: Caller,
}

impl Server for Functions {
    type Write = Write;
    type Answer = Value;

    async fn ask(&self, writes: &[Write]) -> Result<Vec<Value>, RedisError> {
        let call = call(&self.life, &self.caller, writes);
        match self.connection.clone().send_packed_command(&call).await? {
            Value::Array(answers) if answers.len() == writes.len() => Ok(answers),
            Value::ServerError(error) => Err(error.into()),
            _ => Err((ErrorKind::UnexpectedReturnType, "not as many answers as writes").into()),
        }
    }

    fn bytes(write: &Write) -> usize {
        write.words.text.len()
    }

    fn apart(&self, write: &Write) -> Option<usize> {
        // Redis Cluster takes one slot at a time
        self.caller.library.all_keys.then_some(write.partition)
    }
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
    use super::*;

    #[test]
    fn words_read_back_as_they_were_put() {
        let words = Words::new("join").with("").show(17).with("é\n");
        assert_eq!(words.iter().collect::<Vec<_>>(), ["join", "", "17", "é\n"]);
    }
}
