use super::*;
use crate::sampling::unit;

/// Numbers in -1..1 that a seed fixes.
fn random(seed: u64, count: usize) -> Vec<f32> {
    (0..count).map(|i| (unit(seed, i as u32) * 2.0 - 1.0) as f32).collect()
}

/// What this processor has, the portable loops first.
fn sets() -> Vec<Isa> {
    match Isa::detect() {
        Isa::Avx512 => vec![Isa::Portable, Isa::Avx2, Isa::Avx512],
        Isa::Avx2 => vec![Isa::Portable, Isa::Avx2],
        Isa::Portable => vec![Isa::Portable],
    }
}

/// Inputs and outputs, few and many, whole panels and parts of them.
const SIZES: [[usize; 2]; 7] = [[1, 1], [3, 5], [64, 64], [65, 7], [130, 33], [48, 129], [200, 384]];

struct Packed {
    size: [usize; 2],
    bytes: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
    panels: Vec<f32>,
    halves: Vec<bf16>,
    bias: Vec<f32>,
}

impl Packed {
    fn new(weights: &[f32], size: [usize; 2], bias: &[f32]) -> Packed {
        let padded = size[0].div_ceil(PANEL) * PANEL;
        let mut packed = Packed {
            size,
            bytes: vec![1; padded * size[1].div_ceil(4) * 4],
            scales: vec![1.0; padded],
            offsets: vec![1; padded],
            panels: vec![1.0; padded * size[1]],
            halves: vec![bf16::ONE; padded * size[1]],
            bias: vec![0.0; padded],
        };
        pack_int8(weights, size, &mut packed.bytes, &mut packed.scales, &mut packed.offsets);
        pack_f32(weights, size, &mut packed.panels);
        pack_bf16(weights, size, &mut packed.halves);
        packed.bias[..size[0]].copy_from_slice(bias);
        packed
    }

    fn int8(&self) -> Linear<'_> {
        let weights = Weights::Int8 { panels: &self.bytes, scales: &self.scales, offsets: &self.offsets };
        Linear { inputs: self.size[1], outputs: self.size[0], weights, bias: &self.bias }
    }

    fn f32(&self) -> Linear<'_> {
        let weights = Weights::F32 { panels: &self.panels };
        Linear { inputs: self.size[1], outputs: self.size[0], weights, bias: &self.bias }
    }
}

impl Packed {
    fn bf16(&self) -> Linear<'_> {
        Linear { weights: Weights::Bf16 { panels: &self.halves }, ..self.f32() }
    }
}

/// Weights rounded to bf16: the nearest number whose lower half is zero, ties to even, by its bits.
fn rounded(weights: &[f32]) -> Vec<f32> {
    let round = |x: &f32| {
        let bits = x.to_bits();
        f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
    };
    weights.iter().map(round).collect()
}

struct Quantised {
    bytes: Vec<u8>,
    stride: usize,
    scales: Vec<f32>,
}

impl Quantised {
    fn new(isa: Isa, x: &[f32], inputs: usize) -> Quantised {
        let stride = inputs.div_ceil(4) * 4 + 8;
        let rows = x.len() / inputs;
        let (mut bytes, mut scales) = (vec![0; rows * stride], vec![0.0; rows]);
        for ((x, bytes), scale) in x.chunks(inputs).zip(bytes.chunks_mut(stride)).zip(&mut scales) {
            *scale = quantise(isa, x, bytes);
        }
        Quantised { bytes, stride, scales }
    }

    fn rows(&self) -> Rows<'_> {
        Rows::Int8 { bytes: &self.bytes, stride: self.stride, scales: &self.scales }
    }
}

/// What becomes of an exact product.
fn finished(exact: f64, before: f32, store: Store) -> f64 {
    match store {
        Store::Set => exact,
        Store::Add => exact + f64::from(before),
        Store::Gelu => {
            let mut x = [exact as f32];
            math::gelu(&mut x);
            f64::from(x[0])
        }
    }
}

#[test]
fn the_table_of_the_activation_is_the_exact_one() {
    for i in -90_000..=90_000 {
        let x = i as f32 / 10_000.0;
        let (mut a, mut b) = ([x], [x]);
        gelu::activate(&mut a);
        math::gelu(&mut b);
        assert!((a[0] - b[0]).abs() < 2e-6, "{x}: {a:?} {b:?}");
    }
    let mut far = [f32::MIN, f32::MAX, -1e9, 0.0];
    gelu::activate(&mut far);
    assert!(far[0].abs() < 1e-6 && far[1] == f32::MAX && far[2].abs() < 1e-6 && far[3].abs() < 1e-6);
}

#[test]
fn int8_gives_the_same_bits_on_every_instruction_set_and_for_any_number_of_rows() {
    let team = Team::new(2);
    for (case, size) in SIZES.into_iter().enumerate() {
        let [outputs, inputs] = size;
        let weights = random(case as u64, outputs * inputs);
        let packed = Packed::new(&weights, size, &random(100, outputs));
        let x = random(200 + case as u64, 17 * inputs);
        let before = random(300, 17 * outputs);
        for store in [Store::Set, Store::Add, Store::Gelu] {
            let mut expected: Option<Vec<f32>> = None;
            for isa in sets() {
                let quantised = Quantised::new(isa, &x, inputs);
                for rows in 1..=17 {
                    let mut y = before[..rows * outputs].to_vec();
                    packed.int8().apply(isa, &team, quantised.rows(), rows, &mut y, store);
                    let expected = expected.get_or_insert_with(|| {
                        let mut y = before.clone();
                        let packed = packed.int8();
                        packed.apply(Isa::Portable, &team, quantised.rows(), 17, &mut y, store);
                        y
                    });
                    assert_eq!(y, expected[..rows * outputs], "{size:?}, {rows} rows, {isa:?}, {store:?}");
                }
            }
            // And it is the product, as near as bytes come: half a step of x for each weight and the other way round.
            for (i, y) in expected.unwrap().iter().enumerate() {
                let (row, output) = (i / outputs, i % outputs);
                let (x, w) = (&x[row * inputs..][..inputs], &weights[output * inputs..][..inputs]);
                let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let exact = exact + f64::from(packed.bias[output]);
                let exact = finished(exact, before[i], store);
                assert!((exact - f64::from(*y)).abs() < inputs as f64 / 120.0, "{size:?} {i}: {y} {exact}");
            }
        }
    }
}

#[test]
fn f32_gives_a_row_the_same_bits_beside_any_others() {
    for (case, size) in SIZES.into_iter().enumerate() {
        let [outputs, inputs] = size;
        let weights = random(case as u64, outputs * inputs);
        let packed = Packed::new(&weights, size, &random(100, outputs));
        let x = random(200 + case as u64, 60 * inputs);
        let before = random(300, 60 * outputs);
        for (isa, threads) in sets().into_iter().zip([1, 2, 3]) {
            let team = Team::new(threads);
            for store in [Store::Set, Store::Add, Store::Gelu] {
                let mut all = before.clone();
                let rows = Rows::F32 { values: &x, stride: inputs };
                packed.f32().apply(isa, &team, rows, 60, &mut all, store);
                for row in 0..60 {
                    let mut alone = before[row * outputs..][..outputs].to_vec();
                    let values = Rows::F32 { values: &x[row * inputs..], stride: inputs };
                    packed.f32().apply(isa, &team, values, 1, &mut alone, store);
                    assert_eq!(alone, all[row * outputs..][..outputs], "{size:?} row {row} {isa:?}");
                }
                for (i, y) in all.iter().enumerate() {
                    let (row, output) = (i / outputs, i % outputs);
                    let (x, w) = (&x[row * inputs..][..inputs], &weights[output * inputs..][..inputs]);
                    let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    let exact = exact + f64::from(packed.bias[output]);
                    let exact = finished(exact, before[i], store);
                    assert!((exact - f64::from(*y)).abs() < 1e-4, "{size:?} {i}: {y} {exact}");
                }
            }
        }
    }
}

/// bf16 has two twins: the same loops with the rounded weights in f32, to the bit, and the plain loops.
#[test]
fn bf16_gives_what_f32_gives_with_rounded_weights() {
    for (case, size) in SIZES.into_iter().enumerate() {
        let [outputs, inputs] = size;
        let weights = random(case as u64, outputs * inputs);
        let bias = random(100, outputs);
        let packed = Packed::new(&weights, size, &bias);
        let wide = Packed::new(&rounded(&weights), size, &bias);
        let x = random(200 + case as u64, 60 * inputs);
        let before = random(300, 60 * outputs);
        let team = Team::new(2);
        for store in [Store::Set, Store::Add, Store::Gelu] {
            for rows in (1..=TILE + 1).chain([60]) {
                let apply = |layer: Linear<'_>, isa| {
                    let mut y = before[..rows * outputs].to_vec();
                    layer.apply(isa, &team, Rows::F32 { values: &x, stride: inputs }, rows, &mut y, store);
                    y
                };
                let plain = apply(packed.bf16(), Isa::Portable);
                for isa in sets() {
                    let got = apply(packed.bf16(), isa);
                    assert_eq!(got, apply(wide.f32(), isa), "{size:?}, {rows} rows, {isa:?}, {store:?}");
                    let near = got.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-4);
                    assert!(near, "{size:?}, {rows} rows, {isa:?}, {store:?}");
                }
            }
        }
    }
}

#[test]
fn a_row_of_the_weights_is_what_was_packed() {
    for size in SIZES {
        let [outputs, inputs] = size;
        let weights = random(7, outputs * inputs);
        let packed = Packed::new(&weights, size, &vec![0.0; outputs]);
        let mut row = vec![0.0; inputs];
        for (output, expected) in weights.chunks(inputs).enumerate() {
            packed.f32().row(output, &mut row);
            assert_eq!(row, expected);
            packed.bf16().row(output, &mut row);
            assert_eq!(row, rounded(expected));
            packed.int8().row(output, &mut row);
            let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() <= largest / 253.0));
        }
    }
}

#[test]
fn zeros_are_zeros() {
    let packed = Packed::new(&[0.0; 12], [3, 4], &[1.0, 2.0, 3.0]);
    let x = Quantised::new(Isa::detect(), &[0.0; 4], 4);
    assert_eq!((x.bytes[..4].to_vec(), x.scales[0]), (vec![128; 4], 0.0));
    let mut y = [0.0; 3];
    packed.int8().apply(Isa::detect(), &Team::new(1), x.rows(), 1, &mut y, Store::Set);
    assert_eq!(y, [1.0, 2.0, 3.0]);
}
