//! A private deployment, as `voiceforge up` starts it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use servers::process::Signal;

use crate::{cargo, stop};

/// `voiceforge up` in the background.
pub struct Up {
    child: Child,
    data: PathBuf,
    /// The address of its API.
    pub url: String,
}

impl Up {
    /// Starts it with its data in `data`, and waits until it is ready.
    pub fn start(data: &Path, models: &Path, postgres: &Path) -> Result<Up> {
        let mut up = Command::new(voiceforge());
        up.args(["up", "--data"]).arg(data).arg("--models").arg(models);
        up.env("VOICEFORGE_POSTGRES_BIN", postgres);
        // Its own group: Ctrl-C comes to this program, which stops it in order.
        up.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = up.spawn().context("run voiceforge up")?;
        let stdout = child.stdout.take().context("read what voiceforge up says")?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if let Some(url) =
                lines.find_map(|line| line.strip_prefix("ready ").map(|url| url.trim().to_owned()))
            {
                let _ = tell.send(url);
            }
            // What it says later is read and dropped, so that it never blocks on a full pipe.
            lines.for_each(drop);
        });
        let mut up = Up { child, data: data.to_owned(), url: String::new() };
        loop {
            match told.recv_timeout(Duration::from_millis(100)) {
                Ok(url) => {
                    up.url = url;
                    return Ok(up);
                }
                Err(RecvTimeoutError::Timeout) if stop::asked() => bail!("stopped before it was ready"),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = up.child.wait()?;
                    let logs = up.data.join("logs");
                    bail!(
                        "`voiceforge up` ended ({status}) before it was ready; the logs are in {}",
                        logs.display()
                    )
                }
            }
        }
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Stops it in order.
    pub fn stop(&mut self) -> Result<()> {
        servers::Identity::of(self.child.id()).signal(Signal::SIGTERM);
        let status = self.child.wait()?;
        if !status.success() {
            bail!(
                "`voiceforge up` did not end well ({status}); the logs are in {}",
                self.data.join("logs").display()
            );
        }
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            servers::Identity::of(self.child.id()).signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// The command that people type.
pub fn voiceforge() -> PathBuf {
    cargo::programs().join("voiceforge")
}
