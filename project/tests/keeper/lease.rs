//! One keeper at a time does a chore, however long it takes.

use std::sync::Arc;
use std::time::Duration;

use project::keeper::lease::Lease;
use streams::SharedLog;
use streams::memory::MemoryLog;
use tokio::time::sleep;

const LENGTH: Duration = Duration::from_secs(30);

fn lease(holder: &str) -> Lease<'_> {
    Lease { chore: "sweep", holder, length: LENGTH }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_outlasts_its_lease_keeps_it() {
    let log: SharedLog = Arc::new(MemoryLog::new(1));
    let long = async {
        sleep(LENGTH * 10).await;
        lease("b").hold(&log, async {}).await
    };
    assert_eq!(lease("a").hold(&log, long).await, Some(None), "done, and the other had to stay out");
    sleep(LENGTH).await;
    assert_eq!(lease("b").hold(&log, async { 7 }).await, Some(7), "whoever is silent has lost it");
}

/// As where Redis lost its data, and another keeper was the first to ask.
#[tokio::test(start_paused = true)]
async fn a_turn_ends_where_the_lease_is_anothers() {
    let log: SharedLog = Arc::new(MemoryLog::new(1));
    let lapsed = Lease { length: Duration::ZERO, ..lease("a") };
    let work = async {
        assert!(log.lease("sweep", "b", LENGTH).await.unwrap());
        sleep(LENGTH).await;
    };
    assert_eq!(lapsed.hold(&log, work).await, None);
}
