//! Browsers for a test: Chromium, headless, each with a profile of its own and a camera that is none.
//!
//! No flag changes how ICE works, so what connects here connects for a person.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::{ParseError, Url};

use crate::wait;

/// How long chromedriver may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

const FLAGS: [&str; 13] = [
    "--headless=new",
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,800",
];

/// A chromedriver on a port of its own. Dropping it ends it.
pub struct Browsers {
    driver: Child,
    url: String,
}

impl Browsers {
    /// Starts chromedriver, from PATH or from where `CHROMEDRIVER` says.
    ///
    /// # Errors
    /// When it cannot be started; the message says what to install.
    pub async fn launch() -> Result<Self> {
        let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".into());
        let mut driver = Command::new(&program)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!("cannot start {program}; on Debian: apt-get install chromium chromium-driver")
            })?;
        let stdout = driver.stdout.take().context("chromedriver has no standard output")?;
        let port = tokio::time::timeout(PATIENCE, announced_port(BufReader::new(stdout)))
            .await
            .context("chromedriver did not say its port in time")??;
        Ok(Self { driver, url: format!("http://127.0.0.1:{port}") })
    }

    /// Opens a browser of its own at `url`. `name` is what errors call it.
    ///
    /// # Errors
    /// When Chromium does not start, or the page does not load.
    pub async fn open(&self, name: &str, url: &str) -> Result<Page> {
        self.open_with(name, url, &[]).await
    }

    /// Opens a browser with flags of one's own, which come last.
    ///
    /// # Errors
    /// As [`Browsers::open`].
    pub async fn open_with(&self, name: &str, url: &str, more: &[&str]) -> Result<Page> {
        let profile = tempfile::tempdir().context("cannot make a profile folder")?;
        let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        flags.extend(more.iter().map(ToString::to_string));
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), json!({ "args": flags }));
        capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        capabilities.insert("timeouts".into(), json!({ "script": 30_000, "pageLoad": 30_000 }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .with_context(|| format!("cannot start a browser for {name}"))?;
        let process = client
            .capabilities()
            .and_then(|given| given.get("goog:processID"))
            .and_then(Value::as_i64)
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let page = Page { name: name.to_owned(), client, process, _profile: profile };
        page.goto(url).await?;
        Ok(page)
    }
}

impl Drop for Browsers {
    fn drop(&mut self) {
        // Tokio reaps it; the browsers end with their pages.
        let _ended_before = self.driver.start_kill();
    }
}

/// Reads what chromedriver says until it names its port.
async fn announced_port(mut output: BufReader<tokio::process::ChildStdout>) -> Result<u16> {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).await? == 0 {
            bail!("chromedriver ended before it listened; it said: {said}");
        }
        if let Some((_, rest)) = line.split_once("started successfully on port ") {
            let port = rest.trim().trim_end_matches('.').parse()?;
            // Its later words are of no use, but a full pipe would stop it.
            tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::sink()).await });
            return Ok(port);
        }
        said.push_str(&line);
    }
}

/// One browser with one page. Dropping it ends the browser.
pub struct Page {
    name: String,
    client: Client,
    process: Option<Pid>,
    _profile: TempDir,
}

impl Page {
    /// Loads another page.
    ///
    /// # Errors
    /// When it does not load.
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| format!("{}: cannot load {url}", self.name))
    }

    /// Runs the body of an async function in the page and returns what it returns, as JSON:
    /// `return (await rtc.snapshot()).members.length`.
    ///
    /// # Errors
    /// When it throws, or does not return within 30 s.
    pub async fn eval(&self, body: &str) -> Result<Value> {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             (async () => {{ {body} }})().then(
               (value) => done({{ value: value ?? null }}),
               (error) => done({{ error: String(error?.stack ?? error) }}));"
        );
        let mut answer = self
            .client
            .execute_async(&script, Vec::new())
            .await
            .with_context(|| format!("{}: cannot run {body}", self.name))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{}: {body} threw {error}", self.name);
        }
        Ok(answer["value"].take())
    }

    /// What `rtc.snapshot()` tells of the call; see signaling/web/automation.js.
    ///
    /// # Errors
    /// As [`Page::eval`].
    pub async fn call(&self) -> Result<Value> {
        self.eval("return await rtc.snapshot()").await
    }

    /// Asks `condition` of the call's state until it holds, and returns that state.
    ///
    /// # Errors
    /// When `within` is over. The message has `what`, the last state, and the page's console.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let met = wait::until(what, within, async || {
            let call = self.call().await?;
            if condition(&call) { Ok(call) } else { Err(anyhow!("the call is {call:#}")) }
        });
        match met.await {
            Ok(call) => Ok(call),
            Err(error) => {
                let console = self.console().await.unwrap_or_else(|e| vec![format!("unreadable: {e:#}")]);
                Err(error.context(format!("{}; its console: {}", self.name, console.join("\n"))))
            }
        }
    }

    /// Sends a command of the DevTools protocol: `Network.emulateNetworkConditions`, with its parameters.
    ///
    /// # Errors
    /// When the browser does not know it.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        let what = || format!("{}: {command} failed", self.name);
        self.client.issue_cmd(DevTools(command.to_owned(), parameters)).await.with_context(what)
    }

    /// What the page wrote to its console since the last time this was asked.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn console(&self) -> Result<Vec<String>> {
        let log = self.client.issue_cmd(ConsoleLog).await.context("no console log")?;
        let entries = log.as_array().map(Vec::as_slice).unwrap_or_default();
        let line = |entry: &Value| {
            format!(
                "{}: {}",
                entry["level"].as_str().unwrap_or_default(),
                entry["message"].as_str().unwrap_or_default()
            )
        };
        Ok(entries.iter().map(line).collect())
    }

    /// Writes a PNG of what the page shows.
    ///
    /// # Errors
    /// When the browser is gone, or the file cannot be written.
    pub async fn screenshot(&self, file: &Path) -> Result<()> {
        let png = self.client.screenshot().await.with_context(|| format!("{}: no screenshot", self.name))?;
        ensure!(png.starts_with(b"\x89PNG"), "{}: the screenshot is no PNG", self.name);
        tokio::fs::write(file, png).await.with_context(|| format!("cannot write {}", file.display()))
    }

    /// Ends the browser as a person would, so that the page can say goodbye.
    ///
    /// # Errors
    /// When the browser is gone already.
    pub async fn close(self) -> Result<()> {
        self.client.clone().close().await.with_context(|| format!("{}: cannot close", self.name))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            let _ended_before = kill_process(process, Signal::KILL);
        }
    }
}

/// Chromedriver's own way to the DevTools protocol.
#[derive(Debug)]
struct DevTools(String, Value);

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "cmd": self.0, "params": self.1 }).to_string()))
    }
}

/// Chromedriver's own command for the console, which WebDriver does not have.
#[derive(Debug)]
struct ConsoleLog;

impl WebDriverCompatibleCommand for ConsoleLog {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}
