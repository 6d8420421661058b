//! Measures the log-mel spectrogram on this machine, on one thread: median milliseconds for 30 s of sound.
//!
//! `cargo run --release -p infer --example features`

use std::hint::black_box;
use std::time::Instant;

use infer::features::Features;

fn main() {
    let pcm: Vec<i16> = (0i64..480_000).map(|i| ((i * i / 50) % 16_001 - 8_000) as i16).collect();
    for mels in [80, 128] {
        let features = Features::new(mels);
        let mut milliseconds: Vec<_> = (0..51)
            .map(|_| {
                let started = Instant::now();
                black_box(features.compute(black_box(&pcm)));
                started.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        milliseconds.sort_by(f64::total_cmp);
        println!("{mels} bands: {:.2} ms", milliseconds[25]);
    }
}
