//! A page of somebody else's: one script from npm, at an origin of its own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PAGE: &str = "<!doctype html><meta charset=\"utf-8\"><title>A page</title><link rel=\"icon\" href=\"data:,\">\
    <body><script src=\"/script.js\"></script>";

/// A web server with an empty page that has loaded a script. Dropping it ends it.
pub struct Site {
    port: u16,
    task: JoinHandle<()>,
}

impl Site {
    /// Serves the page on a free port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn with_script(script: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let script: Arc<[u8]> = script.into();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // browsers open connections that they may never use
                let script = script.clone();
                tokio::spawn(async move { answer(client, &script).await });
            }
        });
        Ok(Self { port, task })
    }

    /// The page.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request a connection.
async fn answer(mut client: TcpStream, script: &[u8]) -> Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (kind, body) = match head.starts_with(b"GET /script.js ") {
        true => ("text/javascript", script),
        false => ("text/html", PAGE.as_bytes()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body).await?;
    Ok(client.shutdown().await?)
}

/// Installs packages (`name@version`) from npm below `under`, once, and returns their folder.
///
/// # Errors
/// When npm is missing, or cannot get them.
pub fn install(under: &Path, folder: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = under.join(folder);
    let (done, wanted) = (folder.join("installed"), packages.join(" "));
    if std::fs::read_to_string(&done).is_ok_and(|there| there == wanted) {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("package.json"), "{\"private\": true}")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--loglevel", "error"]).args(packages);
    run(npm.current_dir(&folder), "npm is not installed; on Debian: apt-get install npm")?;
    std::fs::write(done, wanted)?;
    Ok(folder)
}

/// Makes one script of an ES module with esbuild, which is among the packages in `folder`; what the module exports
/// is in the global `name`.
///
/// # Errors
/// When something cannot be found.
pub fn bundle(folder: &Path, name: &str, module: &str) -> Result<Vec<u8>> {
    std::fs::write(folder.join("module.mjs"), module)?;
    let mut esbuild = Command::new(folder.join("node_modules/.bin/esbuild"));
    esbuild.args(["module.mjs", "--bundle", "--outfile=bundle.js", "--log-level=error"]);
    esbuild.arg(format!("--global-name={name}"));
    run(esbuild.current_dir(folder), "esbuild is not among the packages")?;
    Ok(std::fs::read(folder.join("bundle.js"))?)
}

fn run(command: &mut Command, missing: &'static str) -> Result<()> {
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(missing),
        output => output.context("cannot run")?,
    };
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
