//! Many faults at once.

use std::time::Duration;

use e2e::faults::run::{Options, clips, run};

/// Two minutes, a fault of every kind. Another seed: `VOICEFORGE_TEST_SEED`; many and longer: `cargo xtask faults`.
#[test]
fn every_kind_of_fault_in_two_minutes() {
    let _machine = super::machine();
    let Some(clips) = clips() else { return };
    let seed = std::env::var("VOICEFORGE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    let options = Options { seed, length: Duration::from_secs(120), rows: Vec::new(), clips };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let report = runtime.block_on(run(&options)).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("{report}");
    assert!(report.is_good(), "seed {seed}: see above");
}
