use half::{bf16, f16};

use super::matmul;
use crate::device::Error;
use crate::product::reference::{gelu, multiply};
use crate::product::{Output, Shape};
use crate::testing::{Array, Number, Random, close, each_order};
use crate::view::Half;

/// Small tiles: the least of everything; both sides of a tile each way; one step of depth, as many as there are stages (six) and
/// one more, and a depth that ends within a step.
const SMALL: &[(usize, usize, usize)] =
    &[(1, 8, 8), (1, 384, 72), (64, 192, 64), (65, 224, 56), (63, 72, 136), (17, 1_280, 64)];

/// Large ones, 66 of them: a row; both sides of a tile; more steps than the three stages.
const LARGE: &[(usize, usize, usize)] = &[(1, 32, 8_328), (129, 128, 4_224), (300, 72, 2_808)];

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Store,
    Gelu,
    Add,
    StoreFloat,
}

const HOWS: [How; 4] = [How::Store, How::Gelu, How::Add, How::StoreFloat];

fn check<T: Half + Number>((rows, depth, width): (usize, usize, usize), how: How, biased: bool) {
    let mut random = Random::new((rows * depth * width) as u64);
    let x: Vec<T> = random.normal(rows * depth).into_iter().map(T::of).collect();
    // As weights are: sums are of one unit or so.
    let w: Vec<T> = random.normal(width * depth).iter().map(|w| T::of(w / (depth as f32).sqrt())).collect();
    let (bias, before) = (random.normal(width), random.normal(rows * width));
    let values = |numbers: &[T]| -> Vec<f64> { numbers.iter().map(|x| x.value()).collect() };
    let (x_values, w_values) = (values(&x), values(&w));
    let mut expected = Vec::new();
    for x in x_values.chunks_exact(depth) {
        expected.extend(multiply(x, &w_values, biased.then_some(&bias[..])));
    }
    for (x, before) in expected.iter_mut().zip(&before) {
        match how {
            How::Gelu => *x = gelu(*x),
            How::Add => *x += f64::from(*before),
            How::Store | How::StoreFloat => {}
        }
    }
    let (x, w, bias) = (Array::new(&x), Array::new(&w), Array::new(&bias));
    each_order("matmul", |device| {
        let (mut halves, mut floats) = (Array::<T>::poisoned(rows * width), Array::new(&before));
        let output = match how {
            How::Store => Output::Store(halves.view_mut()),
            How::Gelu => Output::Gelu(halves.view_mut()),
            How::Add => Output::Add(floats.view_mut()),
            How::StoreFloat => Output::StoreFloat(floats.view_mut()),
        };
        let bias = biased.then(|| bias.view());
        let shape = Shape { rows, depth, width };
        matmul(device, &x.view(), &w.view(), bias.as_ref(), output, shape).unwrap();
        match how {
            How::Store | How::Gelu => close(halves.get(), &expected, T::STEP, 1e-5),
            How::Add | How::StoreFloat => close(floats.get(), &expected, 1e-6, 1e-5),
        }
    });
}

#[test]
fn small_tiles_are_those_of_the_reference() {
    for (i, shape) in SMALL.iter().enumerate() {
        check::<f16>(*shape, HOWS[i % 4], i % 2 == 0);
        check::<bf16>(*shape, HOWS[(i + 1) % 4], i % 2 == 1);
    }
}

#[test]
fn large_tiles_are_those_of_the_reference() {
    for (i, shape) in LARGE.iter().enumerate() {
        check::<f16>(*shape, HOWS[i % 4], i % 2 == 0);
    }
    check::<bf16>(LARGE[1], How::StoreFloat, true);
    check::<bf16>(LARGE[0], How::Store, false);
}

/// Rows among many are made by large tiles, alone and in few by small ones.
#[test]
fn a_row_gives_the_same_bits_beside_others() {
    let Shape { rows, depth, width } = Shape { rows: 140, depth: 96, width: 4_232 };
    let mut random = Random::new(7);
    let x: Vec<bf16> = random.normal(rows * depth).into_iter().map(bf16::of).collect();
    let w: Vec<bf16> = random.normal(width * depth).into_iter().map(bf16::of).collect();
    let w = Array::new(&w);
    each_order("matmul", |device| {
        let mut run = |first: usize, rows: usize| {
            let (x, mut y) =
                (Array::new(&x[first * depth..][..rows * depth]), Array::<f32>::poisoned(rows * width));
            let output = Output::StoreFloat(y.view_mut());
            matmul(device, &x.view(), &w.view(), None, output, Shape { rows, depth, width }).unwrap();
            y.get().to_vec()
        };
        let all = run(0, rows);
        for (first, rows) in [(0, 1), (130, 1), (60, 17)] {
            assert!(run(first, rows) == all[first * width..][..rows * width], "{rows} rows from {first}");
        }
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("matmul", |device| {
        let (halves, floats) = (Array::new(&[f16::ZERO; 1_024]), Array::new(&[0.0f32; 16]));
        let mut refuse = |rows, depth, width, skipped: usize, said: &str| {
            let mut y = Array::<f16>::poisoned(64);
            let (x, shape) = (halves.view().part(skipped..1_024).unwrap(), Shape { rows, depth, width });
            let output = Output::Store(y.view_mut());
            let refused = matmul(device, &x, &halves.view(), Some(&floats.view()), output, shape);
            let Err(refused @ Error::Contract { .. }) = refused else { panic!("{refused:?}") };
            assert!(refused.to_string().contains(said), "{refused}");
        };
        refuse(0, 32, 8, 0, "0 rows");
        refuse(1 << 40, 32, 8, 0, "1099511627776 rows");
        refuse(1, 12, 8, 0, "a depth of 12");
        refuse(1, 0, 8, 0, "a depth of 0");
        refuse(1, 32, 12, 0, "a width of 12");
        refuse(1, 32, 0, 0, "a width of 0");
        refuse(33, 32, 8, 0, "x has 1024 elements of the 1056");
        refuse(1, 32, 8, 4, "x does not begin at a multiple of 16 bytes");
        refuse(1, 64, 24, 0, "the matrix has 1024 elements of the 1536");
        refuse(1, 32, 24, 0, "the bias has 16 elements of the 24");
        refuse(9, 32, 8, 0, "the output has 64 elements of the 72");
    });
}
