//! Real browsers, in one program, since each test starts a cluster and keeps a machine busy alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod browsers_keep_their_seats;
mod libraries_of_others_meet;
mod two_browsers_talk_through_relay;

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

const WITHIN: Duration = Duration::from_secs(60);

/// Who may go on has the machine alone.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}
