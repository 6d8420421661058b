//! What the rooms' tests share: the emulator in each order of threads, seeded numbers, comparisons.

use crate::source::UNITS;

pub use crate::emulator::{Array, Emulator};

/// Orders in which the threads of a block run: ascending, descending, shuffled. A result that differs between them hangs
/// on luck.
const ORDERS: [u32; 3] = [0, 1, 20_261_123];

/// Runs a test of an op on the emulator in each order; says so and skips where there is no compiler.
pub fn each_order(op: &str, mut test: impl FnMut(&mut Emulator)) {
    assert!(UNITS.iter().any(|unit| unit.name == op), "{op} is listed in source.rs");
    ORDERS.into_iter().map_while(Emulator::open).for_each(|mut emulator| test(&mut emulator));
}

/// A number of any type, as a value.
pub trait Number: Copy {
    /// Half the distance of two neighbours at 1.
    const STEP: f64;
    /// The nearest.
    fn of(value: f32) -> Self;
    /// What it is.
    fn value(self) -> f64;
}

impl Number for f32 {
    const STEP: f64 = 6.0e-8;
    fn of(value: f32) -> f32 {
        value
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}

impl Number for half::f16 {
    const STEP: f64 = 4.9e-4;
    fn of(value: f32) -> half::f16 {
        half::f16::from_f32(value)
    }
    fn value(self) -> f64 {
        self.to_f64()
    }
}

impl Number for half::bf16 {
    const STEP: f64 = 3.95e-3;
    fn of(value: f32) -> half::bf16 {
        half::bf16::from_f32(value)
    }
    fn value(self) -> f64 {
        self.to_f64()
    }
}

/// Checks each number: within `relative` of the expected one, or within `absolute` beside that.
#[track_caller]
pub fn close<T: Number>(got: &[T], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let got = got.value();
        // Written so that what is no number is not close to anything.
        let is_close = (got - expected).abs() <= relative * expected.abs() + absolute;
        assert!(is_close, "element {i}: {got}, not {expected}");
    }
}

/// Seeded numbers.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A whole number (SplitMix64).
    pub fn whole(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f32 {
        (self.whole() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Of mean 0 and variance 1, about: the sum of twelve.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (0..12).map(|_| self.unit()).sum::<f32>() - 6.0).collect()
    }
}

mod emulator;
