//! Measures the speech detector on this machine, on one thread: milliseconds for a minute of sound.
//!
//! `cargo run --release -p decode --example speech`

use std::hint::black_box;
use std::time::Instant;

use decode::speech::{BATCH_SAMPLES, Detector};

fn main() {
    let sound: Vec<i16> = (0i64..960_000).map(|i| ((i * i / 50) % 16_001 - 8_000) as i16).collect();
    let mut milliseconds: Vec<_> = (0..15)
        .map(|_| {
            let (mut detector, mut frames) = (Detector::default(), Vec::new());
            let started = Instant::now();
            for batch in sound.chunks(BATCH_SAMPLES) {
                detector.listen(black_box(batch), &mut frames);
            }
            black_box(&frames);
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    milliseconds.sort_by(f64::total_cmp);
    println!("{:.1} ms", milliseconds[7]);
}
