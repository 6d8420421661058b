//! Segments for models that this worker does not have.

use streams::Log;

use super::order::{Bench, SHARD};
use super::*;

#[tokio::test(start_paused = true)]
async fn work_for_another_workers_model_costs_no_attempt_while_that_worker_is_there() {
    let mut bench = Bench::new().await;
    bench.model.sha256 = "weights of another worker".to_owned();
    let work = bench.cut(1, false, &[0]).await;
    let note = ModelNote {
        name: bench.model.name.clone(),
        sha256: bench.model.sha256.clone(),
        multilingual: false,
        languages: vec!["en".to_owned()],
    };
    // Longer than all attempts take.
    let there = Duration::from_secs(40);
    bench.log.announce_model(&note, there).await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(bench.texts(1).await.is_empty());
    assert!(began.elapsed() > there, "given up after {:?}", began.elapsed());
    let fact = bench.log.facts(SHARD).pop().unwrap();
    let Ok(events::Decoded::Known(fact)) = events::decode(fact.field("event").unwrap()) else { panic!() };
    let Event::SegmentFailed(failed) = fact.event else { panic!("{fact:?}") };
    assert_eq!(
        (fact.recording, failed.cause.code.as_str(), failed.attempts),
        (work.recording, "model_missing", 5)
    );
}
