//! The scripts that write a room, and what they answer: a list of words.

use crate::store::{Outcome, StoreError};
use redis::Script;
use rtc_signaling_proto::{
    Entry, Refusal,
    entry::Profile,
    ops::{Present, Read, Sent, View},
};
use std::{str::FromStr, sync::LazyLock, vec::IntoIter};

/// All scripts.
pub(super) struct Scripts {
    pub(super) join: Script,
    pub(super) prove: Script,
    pub(super) signal: Script,
    pub(super) post: Script,
    pub(super) leave: Script,
    pub(super) close: Script,
    pub(super) detach: Script,
    pub(super) resume: Script,
    pub(super) read: Script,
    pub(super) view: Script,
    pub(super) pulse: Script,
    pub(super) assert: Script,
    pub(super) reap: Script,
}

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("prelude.lua"), "\n", include_str!($file)))
    };
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    join: script!("join.lua"),
    prove: script!("prove.lua"),
    signal: script!("signal.lua"),
    post: script!("post.lua"),
    leave: script!("leave.lua"),
    close: script!("close.lua"),
    detach: script!("detach.lua"),
    resume: script!("resume.lua"),
    read: script!("read.lua"),
    view: script!("view.lua"),
    pulse: script!("pulse.lua"),
    assert: script!("assert.lua"),
    reap: script!("reap.lua"),
});

/// A script's answer, read from the front.
pub(super) struct Reply(IntoIter<String>);

impl Reply {
    pub(super) fn new(words: Vec<String>) -> Self {
        Self(words.into_iter())
    }

    pub(super) fn refused(&self) -> Option<Refusal> {
        match self.0.as_slice().first()?.as_str() {
            "unknown" => Some(Refusal::UnknownSession),
            "superseded" => Some(Refusal::Superseded),
            "nobody" => Some(Refusal::NoSuchMember),
            _ => None,
        }
    }

    pub(super) fn word(&mut self) -> Outcome<String> {
        self.0.next().ok_or_else(malformed)
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Outcome<T> {
        self.word()?.parse().map_err(|_| malformed())
    }

    pub(super) fn view(&mut self) -> Outcome<View> {
        let (epoch, seq) = (self.number()?, self.number()?);
        let count: usize = self.number()?;
        let mut member = || {
            let id = self.number()?;
            let since = self.number()?;
            Ok(Present { id, since, profile: Profile::from_stored(self.word()?) })
        };
        let members = (0..count).map(|_| member()).collect::<Outcome<_>>()?;
        Ok(View { epoch, seq, members })
    }

    pub(super) fn sent(&mut self) -> Outcome<Sent> {
        match self.word()?.as_str() {
            "before" => Ok(Sent::Before(self.number()?)),
            _ => Ok(Sent::Now(self.number()?)),
        }
    }

    pub(super) fn entries(&mut self) -> Outcome<Read> {
        match self.word()?.as_str() {
            "known" => {
                let entries = self.0.by_ref().map(|record| Entry::from_record(&record));
                entries.collect::<Option<_>>().map(Read::Entries).ok_or_else(malformed)
            }
            _ => Ok(Read::Lost),
        }
    }
}

fn malformed() -> StoreError {
    StoreError::Unavailable("a script of another version answered; use one version on one Redis".into())
}
