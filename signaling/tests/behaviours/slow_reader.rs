//! One who does not read costs nobody but itself.

use crate::support::*;
use rtc_signaling_proto::Limits;
use serde_json::json;
use std::time::Duration;

fn queued(replica: &Replica) -> u64 {
    let metrics = replica.server.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("rtc_signaling_queue_bytes "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_closed_as_resumable_and_nobody_else_notices() {
    let limits = Limits { messages_per_second: 100_000, queue_bytes: 256 << 10, ..Limits::default() };
    let replica = Replica::start(Backend::memory().builder().limits(limits)).await;
    let mut slow = replica.join("r").await;
    let mut quick = replica.join("r").await;
    let mut speaker = replica.join("r").await;
    quick.expect("member-joined").await;
    slow.until("member-joined").await;
    let (epoch, seq) = (slow.epoch, slow.seq);

    // more than the socket's buffers and the queue hold together
    let filler = "x".repeat(60_000);
    let (mut sent, mut most) = (0_u64, 0);
    let slow_readers = || replica.server.metrics().contains("rtc_signaling_slow_readers_total 1");
    while !slow_readers() {
        speaker.send(json!({"type": "signal", "id": sent, "data": [sent, filler]})).await;
        speaker.until("ack").await;
        let got = quick.expect("signal").await;
        assert_eq!(got["data"][0], sent, "the quick one gets everything at once");
        sent += 1;
        assert!(sent < 2000, "the slow reader was never closed");
        most = most.max(queued(&replica));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(slow.closed().await, Some(4002));
    assert!(most > 60_000 && most <= 256 << 10, "{most} bytes were told of a queue that ran over");
    assert_eq!(queued(&replica), 0);
    // nothing was lost: it resumes from what it had before it stopped reading, or is told that it cannot
    let mut back = replica.connect().await;
    back.send(json!({"type": "resume", "resume": slow.token(), "epoch": epoch, "seq": slow.seq.max(seq)}))
        .await;
    back.expect("resumed").await;
    while back.seq < quick.seq {
        back.expect("signal").await;
    }
    speaker.send(json!({"type": "signal", "data": "end"})).await;
    assert_eq!(quick.expect("signal").await["data"], "end");
    assert_eq!(back.expect("signal").await["data"], "end");
}
