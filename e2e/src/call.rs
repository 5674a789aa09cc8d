//! Somebody in a call: a page of the demo in a browser, forced over TURN.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::browser::{Browsers, Page};
use crate::wait;

/// How long a call may take to be set up, on a machine that also runs the cluster.
const SETUP: Duration = Duration::from_secs(45);

/// One page in one room.
pub struct Caller {
    name: String,
    page: Page,
}

impl Caller {
    /// Opens the page of `room` at a signaling server, and joins.
    ///
    /// # Errors
    /// When the page does not load, or does not join in time.
    pub async fn join(browsers: &Browsers, server: &str, room: &str, name: &str) -> Result<Self> {
        let page = browsers.open(name, &format!("{server}/r/{room}?relay=1&name={name}")).await?;
        page.until(&format!("{name} to join"), SETUP, |call| call["signaling"]["phase"] == "live").await?;
        Ok(Self { name: name.to_owned(), page })
    }

    /// The user name of the TURN credential in use.
    ///
    /// # Errors
    /// When there is none.
    pub async fn turn_username(&self) -> Result<String> {
        let state = self.page.call().await?;
        state["credentials"]["username"]
            .as_str()
            .map(str::to_owned)
            .context("the page has no TURN credential")
    }

    /// Waits until new frames come from so many others, each through a relay.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn watches(&self, others: usize) -> Result<()> {
        let what = format!("{} to see {others} others through a relay", self.name);
        let before = self.frames().await?;
        wait::until(&what, SETUP, async || {
            let state = self.page.call().await?;
            let members = members(&state);
            ensure!(members.len() == others, "it sees {} others", members.len());
            for member in members {
                let name = &member["name"];
                // both sides are forced over TURN, so each sends from a relayed address
                let from = &member["pair"]["local"]["type"];
                ensure!(from == "relay", "media goes to {name} from a candidate of type {from}");
                let frames = member["framesDecoded"].as_u64().unwrap_or(0);
                let known = before.iter().find(|(id, _)| member["id"] == id.as_str()).map_or(0, |(_, n)| *n);
                ensure!(frames > known, "no frame came from {name} since {known}");
            }
            Ok(())
        })
        .await
    }

    /// Decoded frames by the id of the member they came from.
    async fn frames(&self) -> Result<Vec<(String, u64)>> {
        let state = self.page.call().await?;
        let frames = members(&state).iter().filter_map(|member| {
            Some((member["id"].as_str()?.to_owned(), member["framesDecoded"].as_u64()?))
        });
        Ok(frames.collect())
    }

    /// The id under which the room knows the member of that name.
    ///
    /// # Errors
    /// When no member has it.
    pub async fn id_of(&self, name: &str) -> Result<String> {
        let state = self.page.call().await?;
        let member = members(&state).iter().find(|member| member["name"] == name);
        let member = member.with_context(|| format!("{} sees no {name}", self.name))?;
        member["id"].as_str().map(str::to_owned).context("a member without an id")
    }

    /// Waits until the signaling session was resumed, on whatever server.
    ///
    /// # Errors
    /// When it was not in time, or only by joining anew, which the room sees.
    pub async fn has_resumed(&self) -> Result<()> {
        wait::until(&format!("{} to have resumed its session", self.name), SETUP, async || {
            let state = self.page.call().await?;
            let signaling = &state["signaling"];
            ensure!(signaling["phase"] == "live", "signaling is {}", signaling["phase"]);
            ensure!(signaling["resumed"].as_u64().unwrap_or(0) > 0, "it has not resumed: {signaling}");
            Ok(())
        })
        .await?;
        let state = self.page.call().await?;
        ensure!(state["signaling"]["rejoined"] == 0, "{} joined anew: {}", self.name, state["signaling"]);
        Ok(())
    }

    /// Begins to measure gaps between frames.
    ///
    /// # Errors
    /// When the page does not answer.
    pub async fn measure_gaps(&self) -> Result<()> {
        self.page.eval("rtc.reset()").await.map(drop)
    }

    /// The longest time between two shown frames of a member since [`measure_gaps`](Self::measure_gaps),
    /// the one that is still open included.
    ///
    /// # Errors
    /// When that member is not there, or has shown nothing.
    pub async fn longest_gap(&self, id: &str) -> Result<Duration> {
        let state = self.page.call().await?;
        let Some(member) = members(&state).iter().find(|member| member["id"] == id) else {
            bail!("{} sees no member {id} any more", self.name)
        };
        let gap =
            member["maxFrameGapMs"].as_f64().with_context(|| format!("{} showed no frame", self.name))?;
        Ok(Duration::from_secs_f64(gap / 1000.0))
    }
}

fn members(state: &Value) -> &[Value] {
    state["members"].as_array().map(Vec::as_slice).unwrap_or_default()
}
