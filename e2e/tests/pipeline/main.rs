//! The whole pipeline, as its users and its operators see it.

mod bad_input;
mod deletion;
mod faults;
mod replay;
mod sight;
mod use_it;

use std::time::Duration;

use anyhow::Result;
use e2e::Pipeline;

/// How long a recording may take on a busy machine: a lease of 15 s, restarts, and the model.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs a test on a stack of its own. One at a time: a stack takes the whole machine.
fn on_a_stack<F, Fut>(variables: &[(&str, &str)], test: F)
where
    F: FnOnce(Pipeline) -> Fut,
    Fut: Future<Output = Result<Pipeline>>,
{
    static MACHINE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _machine = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let Some(pipeline) = Pipeline::start(variables).await.unwrap_or_else(|e| panic!("{e:#}")) else {
            return;
        };
        let pipeline = test(pipeline).await.unwrap_or_else(|e| panic!("{e:#}"));
        pipeline.stack.stop().await;
    });
}
