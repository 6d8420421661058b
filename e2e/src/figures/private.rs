//! A deployment to measure: durable, as `voiceforge up` starts it, with the model that hashes.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use cli::stack::{Options, Program, Stack};

/// A running deployment, gone with its data when it is stopped or dropped.
pub struct Private {
    /// Its programs.
    pub stack: Stack,
    _folder: tempfile::TempDir,
}

impl Private {
    /// Starts it with more variables for its stages.
    ///
    /// # Errors
    /// When something does not start, with the end of its log.
    pub async fn start(more: &[(&str, &str)]) -> Result<Private> {
        service::install_tls();
        let folder =
            tempfile::Builder::new().prefix("voiceforge-figures-").tempdir().context("make a folder")?;
        crate::pipeline::open_to_others(folder.path())?;
        let models = folder.path().join("models");
        std::fs::create_dir(&models).context("make a folder")?;
        let set = |name: &str, value: &str| (format!("VOICEFORGE_{name}"), value.to_owned());
        let mut variables = vec![set("MODEL", infer::hash::NAME), set("HASH_MODEL", "0ms")];
        variables.extend(more.iter().map(|(name, value)| set(name, value)));
        let options = Options { variables, ..Options::new(folder.path().join("data"), models) };
        let stack = Stack::start(options).await.context("start the deployment")?;
        Ok(Private { stack, _folder: folder })
    }

    /// The process of a program.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, program: Program) -> Result<u32> {
        let record = self.stack.record();
        let process = record.programs.get(&program).with_context(|| format!("{program} does not run"))?;
        Ok(process.pid)
    }

    /// Where a program tells its numbers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn admin(&self, program: Program) -> Result<SocketAddr> {
        let record = self.stack.record();
        let process = record.programs.get(&program).and_then(|process| process.admin);
        process.with_context(|| format!("{program} has no admin port"))
    }

    /// Stops it.
    pub async fn stop(self) {
        self.stack.stop().await;
    }
}
