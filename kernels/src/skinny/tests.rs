use half::{bf16, f16};

use super::{Input, skinny};
use crate::layer_norm::{Norm, reference::normalise};
use crate::product::reference::{gelu, multiply};
use crate::product::{Output, Shape};
use crate::testing::{Array, Number, Random, close, each_order};
use crate::view::Half;

/// One row and all; both sides of a tile of rows; one step of depth and less than a whole turn of all warps; more columns
/// than a tile and not a multiple; more tiles than blocks.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 384, 48),
    (8, 64, 16),
    (9, 1_280, 17),
    (16, 1_280, 33),
    (16, 384, 1),
    (2, 512, 16 * 264 + 5),
    (5, 1_536, 40),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Store,
    Gelu,
    Add,
    StoreFloat,
}

fn check<T: Half + Number>(
    (rows, depth, width): (usize, usize, usize),
    normed: bool,
    how: How,
    biased: bool,
) {
    let mut random = Random::new((rows * depth * width) as u64);
    let stream = random.normal(rows * depth);
    let plain: Vec<T> = stream.iter().map(|x| T::of(*x)).collect();
    // As weights are: sums are of one unit or so.
    let w: Vec<T> = random.normal(width * depth).iter().map(|w| T::of(w / (depth as f32).sqrt())).collect();
    let (bias, before) = (random.normal(width), random.normal(rows * width));
    let (gamma, beta) = (random.normal(depth), random.normal(depth));
    let w_values: Vec<f64> = w.iter().map(|w| w.value()).collect();
    let mut expected = Vec::new();
    for row in 0..rows {
        let at = row * depth..(row + 1) * depth;
        let x: Vec<f64> = if normed {
            let stream: Vec<f64> = stream[at].iter().map(|x| f64::from(*x)).collect();
            // Rounded as the kernel rounds what it multiplies.
            normalise(&stream, &gamma, &beta).iter().map(|x| T::of(*x as f32).value()).collect()
        } else {
            plain[at].iter().map(|x| x.value()).collect()
        };
        let product = multiply(&x, &w_values, biased.then_some(&bias[..]));
        expected.extend(product.iter().enumerate().map(|(column, x)| match how {
            How::Gelu => gelu(*x),
            How::Add => x + f64::from(before[row * width + column]),
            How::Store | How::StoreFloat => *x,
        }));
    }
    let (stream, plain, w) = (Array::new(&stream), Array::new(&plain), Array::new(&w));
    let (bias, gamma, beta) = (Array::new(&bias), Array::new(&gamma), Array::new(&beta));
    each_order("skinny", |device| {
        let input = || {
            let norm = Norm { gamma: gamma.view(), beta: beta.view() };
            if normed { Input::Normed(stream.view(), norm) } else { Input::Plain(plain.view()) }
        };
        let (mut halves, mut floats) = (Array::<T>::poisoned(rows * width), Array::new(&before));
        let output = match how {
            How::Store => Output::Store(halves.view_mut()),
            How::Gelu => Output::Gelu(halves.view_mut()),
            How::Add => Output::Add(floats.view_mut()),
            How::StoreFloat => Output::StoreFloat(floats.view_mut()),
        };
        let bias = biased.then(|| bias.view());
        skinny(device, input(), &w.view(), bias.as_ref(), output, Shape { rows, depth, width }).unwrap();
        // A normalised value on the edge of two numbers may be rounded the other way than in f64.
        let rounding = if normed { T::STEP * 0.3 } else { 1e-5 };
        match how {
            How::Store | How::Gelu => close(halves.get(), &expected, T::STEP, rounding),
            How::Add | How::StoreFloat => close(floats.get(), &expected, 1e-6, rounding),
        }
    });
}

#[test]
fn products_are_those_of_the_reference() {
    for (i, shape) in SHAPES.iter().enumerate() {
        let how = [How::Store, How::Gelu, How::Add, How::StoreFloat][i % 4];
        check::<f16>(*shape, false, how, i % 2 == 0);
    }
    check::<bf16>(SHAPES[2], false, How::Gelu, true);
    check::<bf16>(SHAPES[0], false, How::Add, true);
}

#[test]
fn the_residual_stream_is_normalised_first() {
    for (i, shape) in SHAPES.iter().take(6).enumerate() {
        let how = [How::StoreFloat, How::Store, How::Gelu, How::Add][i % 4];
        check::<f16>(*shape, true, how, i % 2 == 1);
    }
    check::<bf16>(SHAPES[3], true, How::Store, true);
    check::<bf16>(SHAPES[0], true, How::StoreFloat, false);
}

#[test]
fn a_row_gives_the_same_bits_beside_others() {
    let Shape { rows, depth, width } = Shape { rows: 8, depth: 384, width: 20 };
    let mut random = Random::new(7);
    let x: Vec<f16> = random.normal(rows * depth).into_iter().map(f16::of).collect();
    let w: Vec<f16> = random.normal(width * depth).into_iter().map(f16::of).collect();
    let w = Array::new(&w);
    each_order("skinny", |device| {
        let mut run = |rows: usize, x: &[f16]| {
            let (x, mut y) = (Array::new(x), Array::<f32>::poisoned(rows * width));
            let shape = Shape { rows, depth, width };
            let output = Output::StoreFloat(y.view_mut());
            skinny(device, Input::Plain(x.view()), &w.view(), None, output, shape).unwrap();
            y.get().to_vec()
        };
        let all = run(rows, &x);
        for row in 0..rows {
            assert_eq!(run(1, &x[row * depth..][..depth]), all[row * width..][..width], "row {row}");
        }
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("skinny", |device| {
        let (halves, floats) = (Array::new(&[f16::ZERO; 1_024]), Array::new(&[0.0f32; 1_024]));
        let mut refuse = |rows, depth, width, normed, said: &str| {
            let norm = Norm { gamma: floats.view(), beta: floats.view() };
            let input = if normed { Input::Normed(floats.view(), norm) } else { Input::Plain(halves.view()) };
            let mut y = Array::<f16>::poisoned(16);
            let shape = Shape { rows, depth, width };
            let refused =
                skinny(device, input, &halves.view(), None, Output::Store(y.view_mut()), shape).unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
        };
        refuse(17, 64, 1, false, "17 rows");
        refuse(0, 64, 1, false, "0 rows");
        refuse(1, 96, 1, false, "a depth of 96");
        refuse(1, 64, 17, false, "the matrix has 1024 elements of the 1088");
        refuse(2, 64, 9, false, "the output has 16 elements of the 18");
        refuse(16, 128, 1, true, "the input has 1024 elements of the 2048");
    });
}
