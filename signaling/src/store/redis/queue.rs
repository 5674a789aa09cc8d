//! Writes on their way to one server.
//!
//! What is asked while an answer is awaited goes together, in one call, and so does what else is ready to be asked when the
//! first of them is: so a server that has much to do has fewer calls, and one that has little is asked at once, by whoever
//! wants to write. Nothing waits for company that is not there.

use redis::RedisError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::{runtime::Handle, sync::oneshot};

/// Writes of one call; a server does nothing else meanwhile.
const TOGETHER: usize = 128;
/// Bytes of one call, but for the last write of it.
const BYTES: usize = 256 << 10;

/// How a server is asked for several writes at once.
pub(super) trait Server: Send + Sync + 'static {
    type Write: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// As many answers as writes.
    fn ask(
        &self,
        writes: &[Self::Write],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, RedisError>> + Send;

    /// How long it is.
    fn bytes(write: &Self::Write) -> usize;

    /// The partition of its room, where a call must be about one.
    fn apart(&self, write: &Self::Write) -> Option<usize>;
}

/// What came of a write: why it was not answered, if it was not, and what it was, to ask again.
pub(super) type Answered<S> = Result<<S as Server>::Answer, (RedisError, <S as Server>::Write)>;

/// Those who want to write.
pub(super) struct Queue<S: Server>(Arc<Inner<S>>);

struct Inner<S: Server> {
    server: S,
    runtime: Handle,
    line: Mutex<Line<S>>,
}

struct Line<S: Server> {
    /// A call is under way; who sent it sees to those who wait.
    busy: bool,
    waiting: Vec<Waiting<S>>,
}

struct Waiting<S: Server> {
    write: S::Write,
    answer: oneshot::Sender<Answered<S>>,
}

impl<S: Server> Line<S> {
    fn wait(&mut self, at: usize, write: S::Write) -> oneshot::Receiver<Answered<S>> {
        let (answer, answered) = oneshot::channel();
        self.waiting.insert(at, Waiting { write, answer });
        answered
    }
}

/// Who has it sends. Given up, it passes on to those who wait.
struct Turn<'a, S: Server>(&'a Arc<Inner<S>>);

impl<S: Server> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.busy = !line.waiting.is_empty();
        if line.busy {
            // where this is dropped there may be no runtime around
            self.0.runtime.spawn(self.0.clone().work_off());
        }
    }
}

impl<S: Server> Queue<S> {
    /// Must be called in a runtime.
    pub(super) fn new(server: S) -> Self {
        let line = Mutex::new(Line { busy: false, waiting: Vec::new() });
        Self(Arc::new(Inner { server, runtime: Handle::current(), line }))
    }

    /// Writes, together with what others want to write: now, or when the call that is under way has ended. `None` when
    /// the answer does not come.
    pub(super) async fn write(&self, write: S::Write) -> Option<Answered<S>> {
        let in_line = {
            let mut line = self.0.line();
            let last = line.waiting.len();
            if std::mem::replace(&mut line.busy, true) { Err(line.wait(last, write)) } else { Ok(write) }
        };
        let write = match in_line {
            Ok(write) => write,
            Err(answered) => return answered.await.ok(),
        };
        let turn = Turn(&self.0);
        // Whoever else has something to do now gets it done first: what that wants to be written comes along, where
        // it would have waited for the answer.
        tokio::task::yield_now().await;
        let in_line = {
            let mut line = self.0.line();
            if line.waiting.is_empty() { Ok(write) } else { Err(line.wait(0, write)) }
        };
        let write = match in_line {
            Ok(write) => write,
            Err(answered) => {
                // this may be given up, which must not harm the others
                drop(turn);
                return answered.await.ok();
            }
        };
        // who waits for others is smaller by it
        match Box::pin(self.0.server.ask(std::slice::from_ref(&write))).await {
            Ok(answers) => answers.into_iter().next().map(Ok),
            Err(error) => {
                self.0.give_up_on(&error);
                Some(Err((error, write)))
            }
        }
    }
}

impl<S: Server> Inner<S> {
    fn line(&self) -> MutexGuard<'_, Line<S>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until nobody waits.
    async fn work_off(self: Arc<Self>) {
        let _turn = Turn(&self);
        loop {
            self.gather().await;
            let mut waiting = {
                let mut line = self.line();
                let most = line.waiting.len().min(TOGETHER);
                line.waiting.drain(..most).collect::<Vec<_>>()
            };
            if waiting.is_empty() {
                return;
            }
            // stable, so that writes of one room keep their order
            waiting.sort_by_key(|waiting| self.server.apart(&waiting.write));
            let mut calls = Vec::new();
            while let Some(first) = waiting.first() {
                let partition = self.server.apart(&first.write);
                let of_one_call = waiting.partition_point(|w| self.server.apart(&w.write) == partition);
                let rest = waiting.split_off(fitting(&waiting).min(of_one_call));
                calls.push(self.answer(std::mem::replace(&mut waiting, rest)));
            }
            futures::future::join_all(calls).await;
        }
    }

    /// As long as more comes.
    async fn gather(&self) {
        let mut waiting = 0;
        loop {
            let now = self.line().waiting.len();
            if now == waiting || now >= TOGETHER {
                return;
            }
            waiting = now;
            tokio::task::yield_now().await;
        }
    }

    async fn answer(&self, waiting: Vec<Waiting<S>>) {
        let (writes, answers): (Vec<_>, Vec<_>) = waiting.into_iter().map(|w| (w.write, w.answer)).unzip();
        // who asked may be gone
        match self.server.ask(&writes).await {
            Ok(values) => {
                answers.into_iter().zip(values).for_each(|(answer, value)| drop(answer.send(Ok(value))));
            }
            Err(error) => {
                self.give_up_on(&error);
                let failed = writes.into_iter().map(|write| Err((error.clone(), write)));
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
            let _ = answer.send(Err((error.clone(), write)));
        }
    }
}

/// How many of the first fit into one call.
fn fitting<S: Server>(waiting: &[Waiting<S>]) -> usize {
    let mut bytes = 0;
    let over = waiting.iter().position(|waiting| {
        bytes += S::bytes(&waiting.write);
        bytes > BYTES
    });
    over.map_or(waiting.len(), |over| over.max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };
    use tokio::sync::Semaphore;

    /// Answers with how many were asked together, once it may.
    #[derive(Default)]
    struct Counts {
        asked: AtomicUsize,
        held: Option<Semaphore>,
    }

    impl Server for Counts {
        type Write = usize;
        type Answer = usize;

        async fn ask(&self, writes: &[usize]) -> Result<Vec<usize>, RedisError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if let Some(held) = &self.held {
                held.acquire().await.unwrap().forget();
            }
            Ok(vec![writes.len(); writes.len()])
        }

        fn bytes(write: &usize) -> usize {
            *write
        }

        fn apart(&self, _: &usize) -> Option<usize> {
            None
        }
    }

    async fn together(queue: &Queue<Counts>, how_many: usize) -> Vec<usize> {
        let writes = (0..how_many).map(|_| queue.write(1));
        futures::future::join_all(writes).await.into_iter().map(|answer| answer.unwrap().unwrap()).collect()
    }

    #[tokio::test]
    async fn what_is_ready_at_once_is_one_call() {
        let queue = Queue::new(Counts::default());
        assert_eq!(together(&queue, 1).await, [1]);
        assert_eq!(together(&queue, 5).await, [5; 5]);
        let most = together(&queue, TOGETHER + 5).await;
        assert_eq!(most[..TOGETHER], [TOGETHER; TOGETHER]);
        assert_eq!(most[TOGETHER..], [5; 5]);
        assert_eq!(queue.0.server.asked.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn what_comes_while_a_call_is_under_way_goes_together_at_its_end() {
        let queue = Queue::new(Counts { held: Some(Semaphore::new(0)), ..Counts::default() });
        let asked = async |calls| {
            while queue.0.server.asked.load(Ordering::Relaxed) < calls {
                tokio::task::yield_now().await;
            }
        };
        let later = async {
            asked(1).await;
            let release = async {
                tokio::task::yield_now().await;
                queue.0.server.held.as_ref().unwrap().add_permits(2);
            };
            futures::join!(together(&queue, 3), release).0
        };
        assert_eq!(futures::join!(together(&queue, 1), later), (vec![1], vec![3; 3]));
    }

    #[tokio::test]
    async fn what_becomes_ready_while_others_are_gathered_comes_along() {
        let queue = Queue::new(Counts::default());
        // the first to write is the last to be looked at
        let writes = (0..6).rev().map(async |turns| {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            queue.write(1).await.unwrap().unwrap()
        });
        assert_eq!(futures::future::join_all(writes).await, [6; 6]);
    }

    #[tokio::test]
    async fn one_that_is_given_up_harms_no_other() {
        // with others that came along: before it has sent, when they have been told to, and with the call under way; and with
        // a call of its own under way
        for (alone, with_others) in [(0, 1), (0, 2), (0, 3), (2, 1)] {
            let queue = Queue::new(Counts { held: Some(Semaphore::new(0)), ..Counts::default() });
            let mut first = Box::pin(queue.write(1));
            for _ in 0..alone {
                assert!(futures::poll!(&mut first).is_pending());
                tokio::task::yield_now().await;
            }
            assert_eq!(queue.0.server.asked.load(Ordering::Relaxed), usize::from(alone > 0));
            let mut others = Box::pin(together(&queue, 2));
            for _ in 0..with_others {
                assert!(futures::poll!(&mut first).is_pending());
                assert!(futures::poll!(&mut others).is_pending());
                tokio::task::yield_now().await;
            }
            drop(first);
            queue.0.server.held.as_ref().unwrap().add_permits(2);
            let answered = tokio::time::timeout(Duration::from_secs(5), others).await;
            assert_eq!(answered.unwrap().len(), 2, "after {alone} and {with_others}");
        }
    }

    #[test]
    fn a_call_has_as_many_writes_as_fit_and_one_at_least() {
        let waiting = |bytes: &usize| Waiting::<Counts> { write: *bytes, answer: oneshot::channel().0 };
        let sizes = |sizes: &[usize]| fitting(&sizes.iter().map(waiting).collect::<Vec<_>>());
        assert_eq!(sizes(&[10, 10, 10]), 3);
        assert_eq!(sizes(&[BYTES - 20, 10, 10, 1]), 3);
        assert_eq!(sizes(&[BYTES + 1, 10]), 1);
    }
}
