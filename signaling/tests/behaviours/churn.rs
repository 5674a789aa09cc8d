//! Members who come and go all at once hold nobody up.

use crate::support::*;
use rtc_signaling::{hub::Entering, outbox::Outbox};
use rtc_signaling_proto::entry::Reason;

on_each_store! {
    async fn a_room_that_is_entered_and_left_at_once_on_two_replicas_stands_still_for_nobody(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        // in memory a lock is held for so short a time that many are needed to meet
        let visits = if backend.redis.is_some() { 300 } else { 5000 };
        let visitors = [&a, &b, &a, &b].map(|replica| {
            let hub = replica.server.hub().clone();
            tokio::spawn(async move {
                for _ in 0..visits {
                    let entering = Entering::new("room".parse().unwrap());
                    let entered = hub.enter(entering, Outbox::new(1 << 16), |_| {}).await.unwrap();
                    hub.signal(&entered.at, None, None, "1".into()).await.unwrap();
                    hub.leave(&entered.at, Reason::Left).await;
                }
            })
        });
        // a runtime that stands still has no timers: the watch is outside of it
        let (done, over) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if over.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the rooms stand still");
                std::process::abort();
            }
        });
        futures::future::try_join_all(visitors).await.unwrap();
        done.send(()).unwrap();
        watch.join().unwrap();
        assert_eq!((a.server.hub().sessions(), b.server.hub().rooms()), (0, 0));
    }
}
