//! The scripts that write a room, and what they answer: a list of words.

use crate::store::{Outcome, StoreError};
use redis::{RedisResult, aio::MultiplexedConnection};
use rtc_signaling_proto::{
    Entry, Refusal,
    entry::Profile,
    ops::{Present, Read, Sent, View},
};
use std::{str::FromStr, sync::LazyLock, vec::IntoIter};

/// A script, and the name that Redis gives it.
pub(super) struct Script {
    text: &'static str,
    pub(super) hash: String,
}

macro_rules! scripts {
    ($($name:ident $file:literal),*) => {
        /// All scripts.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)*
        }

        pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($name: Script::new(concat!(
                include_str!("prelude.lua"),
                "\nlocal function act()\n",
                include_str!($file),
                "\nend\nreturn finish(act())\n"
            )),)*
        });

        impl Scripts {
            fn all(&self) -> Vec<&Script> {
                vec![$(&self.$name,)*]
            }
        }
    };
}

scripts! {
    join "join.lua", prove "prove.lua", signal "signal.lua", post "post.lua", leave "leave.lua", close "close.lua",
    detach "detach.lua", resume "resume.lua", read "read.lua", view "view.lua", pulse "pulse.lua", assert "assert.lua",
    reap "reap.lua"
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// Gives a server all scripts, so that each call names one.
pub(super) async fn load(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut pipe = redis::pipe();
    for script in SCRIPTS.all() {
        pipe.cmd("SCRIPT").arg("LOAD").arg(script.text).ignore();
    }
    pipe.exec_async(connection).await
}

/// A script's answer, read from the front.
pub(super) struct Reply(IntoIter<String>);

impl Reply {
    pub(super) fn new(words: Vec<String>) -> Self {
        Self(words.into_iter())
    }

    /// What the script appended, which comes before its answer.
    pub(super) fn written(&mut self) -> Outcome<Vec<Entry>> {
        let count: usize = self.number()?;
        (0..count).map(|_| Entry::from_record(&self.word()?).ok_or_else(malformed)).collect()
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

    /// Whether the same was sent before, or the place in the log.
    pub(super) fn sent(&mut self) -> Outcome<Result<(u64, u64), Sent>> {
        match self.word()?.as_str() {
            "before" => Ok(Err(Sent::Before(self.number()?))),
            _ => Ok(Ok((self.number()?, self.number()?))),
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

pub(super) fn malformed() -> StoreError {
    StoreError::Unavailable("a script of another version answered; use one version on one Redis".into())
}
