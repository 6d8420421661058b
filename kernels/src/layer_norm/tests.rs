use half::{bf16, f16};

use super::reference::normalise;
use super::{Norm, layer_norm};
use crate::device::Error;
use crate::testing::{Array, Number, Random, close, each_order};
use crate::view::Half;

/// (rows, width): one row, a block's rows and one more, every width of Whisper, widths that end within a load.
const SHAPES: &[(usize, usize)] =
    &[(1, 384), (4, 512), (5, 4), (3, 132), (9, 768), (2, 1_024), (6, 1_280), (1, 1_276)];

fn check<T: Half + Number>(rows: usize, width: usize, with_delta: bool) {
    let mut random = Random::new((rows * width) as u64);
    // Far from zero, so that a variance from sums of squares would be wrong.
    let x: Vec<f32> = random.normal(rows * width).iter().map(|x| x + 30.0).collect();
    let delta: Vec<T> = random.normal(rows * width).into_iter().map(T::of).collect();
    let (gamma, beta) = (Array::new(&random.normal(width)), Array::new(&random.normal(width)));
    each_order("layer_norm", |device| {
        let mut given = Array::new(&x);
        let mut y = Array::<T>::poisoned(rows * width);
        let deltas = Array::new(&delta);
        let norm = Norm { gamma: gamma.view(), beta: beta.view() };
        let deltas = with_delta.then(|| deltas.view());
        layer_norm(device, &mut given.view_mut(), deltas.as_ref(), norm, &mut y.view_mut(), width).unwrap();
        for row in 0..rows {
            let at = row * width..(row + 1) * width;
            let sums: Vec<f64> = x[at.clone()]
                .iter()
                .zip(&delta[at.clone()])
                .map(|(x, delta)| f64::from(*x) + if with_delta { delta.value() } else { 0.0 })
                .collect();
            close(&given.get()[at.clone()], &sums, 1e-6, 0.0);
            close(&y.get()[at], &normalise(&sums, gamma.get(), beta.get()), T::STEP, 1e-4);
        }
    });
}

#[test]
fn rows_are_normalised() {
    for (rows, width) in SHAPES {
        check::<f16>(*rows, *width, false);
        check::<bf16>(*rows, *width, true);
    }
}

#[test]
fn a_residual_is_added_first() {
    for (rows, width) in [(5, 384), (3, 1_280)] {
        check::<f16>(rows, width, true);
    }
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("layer_norm", |device| {
        let numbers = Array::new(&[0.0f32; 64]);
        let norm = Norm { gamma: numbers.view(), beta: numbers.view() };
        let mut y = Array::<f16>::poisoned(64);
        for (len, width, said) in [
            (60, 6, "rows of 6 values"),
            (2_600, 1_300, "rows of 1300 values"),
            (60, 8, "not rows of 8"),
            (128, 128, "gamma has 64 elements of the 128"),
            (128, 16, "y has 64 elements of the 128"),
        ] {
            let mut x = Array::new(&vec![0.0f32; len]);
            let refused = layer_norm(device, &mut x.view_mut(), None, norm, &mut y.view_mut(), width);
            let Err(refused @ Error::Contract { .. }) = refused else { panic!("{refused:?}") };
            assert!(refused.to_string().contains(said), "{refused}");
        }
    });
}
