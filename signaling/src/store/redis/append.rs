//! Signals that are appended by commands instead of a function, each if the log is as its writer knows it (see
//! [`known`](super::known)).

use super::{inbox, known::Proposal, queue::Server, slots::push_key};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, Value, aio::MultiplexedConnection};
use rtc_signaling_proto::{ReplicaId, RoomName};

/// About what a command takes but for what is written.
const MORE: usize = 128;

/// A signal to append.
pub(super) struct Append {
    pub(super) room: RoomName,
    pub(super) partition: usize,
    pub(super) proposal: Proposal,
    /// As in the log.
    pub(super) line: String,
}

/// The logs of one server.
pub(super) struct Logs {
    pub(super) connection: MultiplexedConnection,
    /// A server of Redis Cluster.
    pub(super) cluster: bool,
}

impl Server for Logs {
    type Write = Append;
    /// Whether it was appended: not if the log is another one, or ends elsewhere.
    type Answer = bool;

    async fn ask(&self, writes: &[Append]) -> Result<Vec<bool>, RedisError> {
        let mut connection = self.connection.clone();
        let pipeline = self.pipeline(writes);
        let commands = pipeline.len();
        // the answer of a transaction comes after one to each command
        let (skipped, count) = if pipeline.is_transaction() { (commands + 1, 1) } else { (0, commands) };
        let answers = match connection.send_packed_commands(&pipeline, skipped, count).await {
            Ok(mut answers) if pipeline.is_transaction() => match answers.pop() {
                Some(Value::Array(each)) => each,
                // it was refused as a whole, as by a Cluster whose slot has left
                Some(Value::ServerError(_)) => Vec::new(),
                _ => return Err((ErrorKind::UnexpectedReturnType, "a transaction without answers").into()),
            },
            Ok(answers) => answers,
            // a command of it was refused before it began: nothing of it was done
            Err(error)
                if pipeline.is_transaction()
                    && matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) =>
            {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut appended = answers.iter().map(|answer| matches!(answer, Value::BulkString(_)));
        Ok(writes.iter().map(|_| appended.next().unwrap_or(false)).collect())
    }

    fn bytes(write: &Append) -> usize {
        write.line.len() * (1 + write.proposal.others.len())
    }

    fn apart(&self, write: &Append) -> Option<usize> {
        self.cluster.then_some(write.partition)
    }
}

impl Logs {
    /// First what is appended, then what is published: to each replica one message.
    fn pipeline(&self, writes: &[Append]) -> Pipeline {
        let mut messages: Vec<(&ReplicaId, String)> = Vec::new();
        let mut pipeline = Pipeline::with_capacity(writes.len() + 2);
        let bytes: usize = writes.iter().map(|write| write.line.len() + MORE).sum();
        let (mut word, mut number) = (String::with_capacity(MORE), itoa::Buffer::new());
        for Append { room, partition, proposal: Proposal { place, others }, line } in writes {
            let mut add = Cmd::with_capacity(6, line.len() + MORE);
            word.clear();
            push_key(&mut word, *partition, "log:");
            word.push_str(room.as_str());
            add.arg("XADD").arg(&word).arg("NOMKSTREAM");
            word.clear();
            word.push_str(number.format(place.0));
            word.push('-');
            word.push_str(number.format(place.1));
            add.arg(&word).arg("e").arg(line);
            pipeline.add_command(add);
            for other in others.iter() {
                let at = messages.iter().position(|(to, _)| *to == other).unwrap_or_else(|| {
                    messages.push((other, String::with_capacity(bytes)));
                    messages.len() - 1
                });
                inbox::propose(&mut messages[at].1, room, *partition, *place, line);
            }
        }
        if !messages.is_empty() {
            // A server that appends nothing publishes nothing either, whatever its reason; but for logs that have gone on,
            // or are no more.
            pipeline.atomic();
        }
        for (other, message) in messages {
            word.clear();
            let publish = match writes.first() {
                Some(first) if self.cluster => {
                    push_key(&mut word, first.partition, "to:");
                    "SPUBLISH"
                }
                _ => {
                    word.push_str("rtc:to:");
                    "PUBLISH"
                }
            };
            word.push_str(other.as_str());
            let mut command = Cmd::with_capacity(3, message.len() + MORE);
            command.arg(publish).arg(&word).arg(message);
            pipeline.add_command(command);
        }
        pipeline
    }
}
