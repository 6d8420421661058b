use super::kernels::{Kernels, Shared, by_isa};
use super::memory::{Aligned, Form, Layout, Memory, floats, floats_mut};
use super::portable::Portable;
use super::*;
use crate::sampling::unit;

/// Rows, stride, positions to means, scales, words.
type PackInt8 = fn(&[f32], usize, usize, &mut [f32], &mut [f32], &mut [u32]);

/// Count, queries, keys, scales to scores, stride.
type ScoreInt8 = fn(usize, &[u32], &[u32], &[f32], &mut [f32], usize);

const SIZES: [usize; 11] = [1, 2, 15, 16, 17, 31, 63, 64, 65, 1_499, 1_500];

/// Roughly normal numbers with a deviation of 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let four = |i: u32| (0..4).map(|part| unit(seed, 4 * i + part)).sum::<f64>();
    (0..count as u32).map(|i| (four(i) * 1.732 - 3.464) as f32).collect()
}

/// softmax(q Kᵀ / √width) V in f64 for one query (width) over `positions` keys and values that stand `stride` apart.
fn attention(query: &[f32], keys: &[f32], values: &[f32], stride: usize, positions: usize) -> Vec<f64> {
    let scores = scores(query, keys, stride, positions);
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<_> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mixed = |i: usize| {
        weights
            .iter()
            .enumerate()
            .map(|(key, weight)| weight / sum * f64::from(values[key * stride + i]))
            .sum()
    };
    (0..query.len()).map(mixed).collect()
}

fn scores(query: &[f32], keys: &[f32], stride: usize, positions: usize) -> Vec<f64> {
    let product =
        |key: &[f32]| -> f64 { query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum() };
    (0..positions).map(|key| product(&keys[key * stride..]) / (query.len() as f64).sqrt()).collect()
}

/// Whether each number is as near as `tolerance` times the largest expected.
#[track_caller]
fn check(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    let largest = expected.iter().fold(1e-3f64, |max, x| max.max(x.abs()));
    check_within(got, expected, tolerance * largest, what);
}

#[track_caller]
fn check_within(got: &[f32], expected: &[f64], allowed: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(*got) - expected).abs() <= allowed,
            "{what}, element {i}: {got} is not {expected}"
        );
    }
}

fn doubles(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

/// What [`Arithmetic`] states, for values (positions, width) that stand `stride` apart.
fn allowed(arithmetic: Arithmetic, values: &[f32], stride: usize, width: usize) -> f64 {
    let largest = values
        .chunks(stride)
        .flat_map(|row| &row[..width.min(row.len())])
        .fold(0f32, |max, x| max.max(x.abs()));
    let tolerance = match arithmetic {
        Arithmetic::Exact => 1e-6,
        Arithmetic::Fast => 2e-2,
    };
    tolerance * f64::from(largest)
}

/// Runs tasks on three threads, the last first.
fn on_threads(tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || (0..tasks).rev().filter(|i| i % 3 == thread).for_each(task));
        }
    });
}

/// Each instruction set gives what the plain loops give, for each number of queries and of keys.
#[test]
fn kernels_agree_with_their_twins() {
    const WIDTH: usize = 64;
    for isa in Isa::available(WIDTH).filter(|isa| isa.name() != "portable") {
        for (count, n) in SIZES.into_iter().zip((1..=BLOCK).cycle()) {
            by_isa!(isa, K => kernels_agree::<K>(count, n, isa.name()));
        }
        (1..=BLOCK).for_each(|n| by_isa!(isa, K => kernels_agree::<K>(37, n, isa.name())));
    }
}

fn kernels_agree<K: Kernels>(count: usize, n: usize, isa: &str) {
    const WIDTH: usize = 64;
    let stride = count.div_ceil(LANES) * LANES;
    let what = |kernel: &str| format!("{kernel} on {isa}, {n} queries, {count} keys");
    let rows = numbers(count * WIDTH, 1);
    let queries = numbers(n * WIDTH, 2);

    let pack_f32 = |pack: fn(&[f32], usize, usize, usize, &mut [f32])| {
        let mut packed = vec![f32::NAN; stride * WIDTH];
        pack(&rows, WIDTH, count, WIDTH, &mut packed);
        packed
    };
    let keys = pack_f32(Portable::pack_keys_f32);
    let values = pack_f32(Portable::pack_values_f32);
    assert_eq!(keys, pack_f32(K::pack_keys_f32), "{}", what("pack_keys_f32"));
    assert_eq!(values, pack_f32(K::pack_values_f32), "{}", what("pack_values_f32"));
    let pack_bf16 = |pack: fn(&[f32], usize, usize, usize, &mut [u32])| {
        let mut packed = vec![!0; stride / 2 * WIDTH];
        pack(&rows, WIDTH, count, WIDTH, &mut packed);
        packed
    };
    let values_bf16 = pack_bf16(Portable::pack_values_bf16);
    assert_eq!(values_bf16, pack_bf16(K::pack_values_bf16), "{}", what("pack_values_bf16"));
    let pack_keys = |pack: PackInt8| {
        let (mut mean, mut scales) = (vec![f32::NAN; WIDTH], vec![f32::NAN; stride]);
        let mut packed = vec![!0; stride * WIDTH / 4];
        pack(&rows, WIDTH, count, &mut mean, &mut scales, &mut packed);
        (mean, scales, packed)
    };
    let (means, key_scales, keys_int8) = pack_keys(Portable::pack_keys_int8);
    assert_eq!(
        (means, key_scales.clone(), keys_int8.clone()),
        pack_keys(K::pack_keys_int8),
        "{}",
        what("keys")
    );
    let pack_values = |pack: PackInt8| {
        let (mut mean, mut scales) = (vec![f32::NAN; WIDTH], vec![f32::NAN; WIDTH]);
        let mut packed = vec![!0; stride * WIDTH / 4];
        pack(&rows, WIDTH, count, &mut mean, &mut scales, &mut packed);
        (mean, scales, packed)
    };
    let (_, _, values_int8) = pack_values(Portable::pack_values_int8);
    assert_eq!(
        pack_values(Portable::pack_values_int8),
        pack_values(K::pack_values_int8),
        "{}",
        what("values")
    );
    let quantise = |quantise: fn(usize, &[f32], &mut [u32], &mut [f32])| {
        let (mut words, mut scales) = (vec![!0; n * WIDTH / 4], vec![f32::NAN; n]);
        quantise(n, &queries, &mut words, &mut scales);
        (words, scales)
    };
    let (words, _) = quantise(Portable::quantise_queries);
    assert_eq!(quantise(Portable::quantise_queries), quantise(K::quantise_queries), "{}", what("quantise"));

    let score = |score: fn(usize, &[f32], &[f32], &mut [f32], usize)| {
        let mut scores = vec![f32::NAN; n * stride];
        score(n, &queries, &keys, &mut scores, stride);
        scores
    };
    let scores = score(Portable::score_f32);
    check(&score(K::score_f32), &doubles(&scores), 1e-6, &what("score_f32"));
    let score = |score: ScoreInt8| {
        let mut scores = vec![f32::NAN; n * stride];
        score(n, &words, &keys_int8, &key_scales, &mut scores, stride);
        scores
    };
    assert_eq!(score(Portable::score_int8), score(K::score_int8), "{}", what("score_int8"));

    // What lies beyond the last key is never looked at.
    let row = |seed: u64| {
        let mut row = numbers(stride, seed);
        row[count..].fill(f32::NAN);
        row
    };
    let (mut one, mut two) = (row(3), row(3));
    let sums = [Portable::exponentiate_f32(&mut one, count), K::exponentiate_f32(&mut two, count)];
    check(&two, &doubles(&one), 1e-6, &what("exponentiate_f32"));
    check(&sums[1..], &doubles(&sums[..1]), 1e-6, &what("sum of exponentiate_f32"));
    let weights = [one, two].concat().repeat(n.div_ceil(2));

    let (mut one, mut two) = (row(4), row(4));
    let sums =
        [Portable::exponentiate_bf16(&mut one, count, 1.3), K::exponentiate_bf16(&mut two, count, 1.3)];
    let halves = |row: &[f32]| -> Vec<f32> {
        let words = row[..stride / 2].iter().map(|x| x.to_bits());
        words.flat_map(|word| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]).collect()
    };
    check(&halves(&two), &doubles(&halves(&one)), 4e-3, &what("exponentiate_bf16"));
    check(&sums[1..], &doubles(&sums[..1]), 1e-6, &what("sum of exponentiate_bf16"));
    let weights_bf16 = [one, two].concat().repeat(n.div_ceil(2));

    let (mut one, mut two) = (row(5), row(5));
    let sums = [Portable::exponentiate_u16(&mut one, count, 1.3), K::exponentiate_u16(&mut two, count, 1.3)];
    let wholes = |row: &[f32]| -> Vec<f32> {
        let tile = |words: &[f32; 8]| {
            let bytes = |part: usize| words[part * 4..][..4].iter().flat_map(|x| x.to_bits().to_le_bytes());
            bytes(0)
                .zip(bytes(1))
                .map(|(high, low)| f32::from(high) * 256.0 + f32::from(low))
                .collect::<Vec<_>>()
        };
        row[..stride / 2].as_chunks::<8>().0.iter().flat_map(tile).collect()
    };
    check(&wholes(&two), &doubles(&wholes(&one)), 2e-5, &what("exponentiate_u16"));
    check(&sums[1..], &[f64::from(wholes(&two).iter().sum::<f32>())], 1e-6, &what("sum of exponentiate_u16"));
    let weights_u16 = [one, two].concat().repeat(n.div_ceil(2));

    let mix = |mix: fn(usize, &[f32], usize, &[f32], &mut [f32])| {
        let mut out = vec![f32::NAN; n * WIDTH];
        mix(n, &weights, stride, &values[..count * WIDTH], &mut out);
        out
    };
    check(&mix(K::mix_f32), &doubles(&mix(Portable::mix_f32)), 1e-6, &what("mix_f32"));
    let mix = |mix: fn(usize, &[f32], usize, &[u32], &mut [f32]), weights: &[f32], values: &[u32]| {
        let mut out = vec![f32::NAN; n * WIDTH];
        mix(n, weights, stride, values, &mut out);
        out
    };
    let expected = doubles(&mix(Portable::mix_bf16, &weights_bf16, &values_bf16));
    check(&mix(K::mix_bf16, &weights_bf16, &values_bf16), &expected, 1e-5, &what("mix_bf16"));
    let expected = doubles(&mix(Portable::mix_int8, &weights_u16, &values_int8));
    check(&mix(K::mix_int8, &weights_u16, &values_int8), &expected, 1e-6, &what("mix_int8"));
}

/// Exponentials of far apart, equal and single scores.
#[test]
fn exponentials_of_extreme_scores() {
    for isa in Isa::available(64) {
        by_isa!(isa, K => {
            let mut row = [0.0; LANES];
            row[..3].copy_from_slice(&[-1e30, 5.0, f32::NEG_INFINITY]);
            assert_eq!(K::exponentiate_f32(&mut row, 3), 1.0, "{}", isa.name());
            assert_eq!(row[1], 1.0);
            assert!(row[0] < 1e-37 && row[2] < 1e-37);
            let mut row = [-3.0; 2 * LANES];
            assert_eq!(K::exponentiate_f32(&mut row, 30), 30.0);
            assert_eq!(row[30..], [0.0; 2]);
            let mut row = [7.0; LANES];
            assert_eq!(K::exponentiate_u16(&mut row, 1, 2.0), 65_535.0);
            let mut row = [7.0; LANES];
            assert_eq!(K::exponentiate_bf16(&mut row, 16, 0.0), 16.0);
        });
    }
}

#[track_caller]
fn check_window(heads: Heads, positions: usize, arithmetic: Arithmetic, isa: Isa) {
    let width = heads.layer_width();
    let qkv = numbers(positions * 3 * width, positions as u64);
    let mut mixed = vec![f32::NAN; positions * width];
    let mut attention_of = WindowAttention::with_isa(heads, positions, arithmetic, isa);
    // What was there before leaves no trace.
    attention_of.attend(&numbers(qkv.len(), 9), &mut mixed, &in_order);
    attention_of.attend(&qkv, &mut mixed, &on_threads);
    // Some queries of each size are enough: they do not know of each other.
    for position in (0..positions).step_by(1 + positions / 70).chain([positions - 1]) {
        for head in 0..heads.count {
            let at = |part: usize| &qkv[part * width + head * heads.width..];
            let query = &at(0)[position * 3 * width..][..heads.width];
            let expected = attention(query, at(1), at(2), 3 * width, positions);
            let got = &mixed[position * width + head * heads.width..][..heads.width];
            let what =
                format!("{arithmetic:?} on {}, {positions} positions, position {position}", isa.name());
            check_within(got, &expected, allowed(arithmetic, at(2), 3 * width, heads.width), &what);
        }
    }
}

#[test]
fn a_window_attends_to_itself() {
    for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
        for isa in Isa::available(64) {
            for positions in SIZES {
                check_window(Heads { count: 2, width: 64 }, positions, arithmetic, isa);
            }
        }
        for width in [16, 48, 128] {
            check_window(Heads { count: 3, width }, 77, arithmetic, Isa::best(width));
        }
    }
}

/// The result of a window without positions is nothing.
#[test]
fn an_empty_window_is_nothing() {
    WindowAttention::new(Heads { count: 1, width: 64 }, 10, Arithmetic::Fast).attend(&[], &mut [], &in_order);
}

#[test]
fn queries_attend_to_the_sound() {
    let heads = Heads { count: 2, width: 64 };
    let width = heads.layer_width();
    for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
        for isa in Isa::available(64) {
            for (positions, rows) in SIZES.into_iter().zip([1, 2, 3, 5, 6, 7, 11, 12, 13, 16, 17]) {
                let kv = numbers(positions * 2 * width, 1);
                let queries = numbers(rows * width, 2);
                let mut cache = SoundCache::with_isa(heads, 1_500, arithmetic, isa);
                cache.store(&numbers(1_500 * 2 * width, 3), &in_order);
                cache.store(&kv, &on_threads);
                let mut out = vec![f32::NAN; queries.len()];
                cache.attend(&queries, &mut out);
                for row in 0..rows {
                    let mut alone = vec![f32::NAN; width];
                    cache.attend(&queries[row * width..][..width], &mut alone);
                    assert_eq!(
                        alone,
                        out[row * width..][..width],
                        "a query's result does not depend on others"
                    );
                    for head in 0..heads.count {
                        let query = &queries[row * width + head * 64..][..64];
                        let (keys, values) = (&kv[head * 64..], &kv[width + head * 64..]);
                        let what =
                            format!("{arithmetic:?} on {}, {positions} positions, row {row}", isa.name());
                        let expected = attention(query, keys, values, 2 * width, positions);
                        let allowed = allowed(arithmetic, values, 2 * width, 64);
                        check_within(&alone[head * 64..][..64], &expected, allowed, &what);
                        let mut got = vec![f32::NAN; positions];
                        cache.scores(head, &queries[row * width..][..width], &mut got);
                        let expected = scores(query, keys, 2 * width, positions);
                        let allowed = if arithmetic == Arithmetic::Exact { 1e-5 } else { 5e-2 };
                        check_within(&got, &expected, allowed, &format!("scores, {what}"));
                    }
                }
            }
        }
    }
}

/// A mean far from zero, a few elements far larger than the rest, values of one sign: as the states of a trained model.
#[test]
fn outliers_stay_in_bounds() {
    let heads = Heads { count: 1, width: 64 };
    let positions = 300;
    let mut kv = numbers(positions * 128, 1);
    for row in kv.chunks_exact_mut(128) {
        row[..64].iter_mut().enumerate().for_each(|(i, x)| *x += if i % 9 == 0 { 30.0 } else { -1.0 });
        row[64 + 5] = row[64 + 5] * 0.1 + 4.0;
    }
    let queries = numbers(17 * 64, 2);
    for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
        let mut cache = SoundCache::new(heads, positions, arithmetic);
        cache.store(&kv, &in_order);
        let mut out = vec![f32::NAN; queries.len()];
        cache.attend(&queries, &mut out);
        for (query, out) in queries.chunks_exact(64).zip(out.chunks_exact(64)) {
            let expected = attention(query, &kv, &kv[64..], 128, positions);
            check_within(out, &expected, allowed(arithmetic, &kv[64..], 128, 64), &format!("{arithmetic:?}"));
        }
    }
}

/// Many windows of many lengths in one step give what each gives alone.
#[test]
fn windows_share_a_step() {
    let heads = Heads { count: 3, width: 64 };
    let width = heads.layer_width();
    let caches: Vec<_> = [7, 1_500, 33]
        .into_iter()
        .map(|positions| {
            let mut cache = SoundCache::new(heads, positions, Arithmetic::Fast);
            cache.store(&numbers(positions * 2 * width, positions as u64), &in_order);
            cache
        })
        .collect();
    let queries = numbers(12 * width, 5);
    let mut out = vec![f32::NAN; queries.len()];
    let jobs: Vec<_> =
        caches.iter().zip([0..1, 1..9, 10..12]).map(|(cache, rows)| Job { cache, rows }).collect();
    attend_all(&jobs, &queries, &mut out, &on_threads);
    for Job { cache, rows } in &jobs {
        let part = rows.start * width..rows.end * width;
        let mut alone = vec![f32::NAN; part.len()];
        cache.attend(&queries[part.clone()], &mut alone);
        assert_eq!(alone, out[part]);
    }
    assert!(out[9 * width..10 * width].iter().all(|x| x.is_nan()), "a row that hears nothing is left alone");
}

#[test]
#[should_panic = "the jobs' rows ascend"]
fn overlapping_rows_are_refused() {
    let mut cache = SoundCache::new(Heads { count: 1, width: 64 }, 1, Arithmetic::Exact);
    cache.store(&[1.0; 128], &in_order);
    let jobs = [0..2, 1..3].map(|rows| Job { cache: &cache, rows });
    attend_all(&jobs, &[0.0; 3 * 64], &mut [0.0; 3 * 64], &in_order);
}

#[test]
#[should_panic = "1 to 16 positions fit, not 17"]
fn too_many_positions_are_refused() {
    let mut memory = Memory::new(Heads { count: 1, width: 64 }, 16, Form::F32, Isa::best(64));
    memory.store(&[0.0; 17 * 128], Layout { stride: 128, keys: 0, values: 64 }, 17, &in_order);
}

/// Several tokens at once give bitwise what one at a time gives, which is the sum over the tokens before.
#[test]
fn tokens_attend_to_those_before() {
    let heads = Heads { count: 2, width: 64 };
    let width = heads.layer_width();
    let tokens = 70;
    let qkv = numbers(tokens * 3 * width, 1);
    for isa in Isa::available(64) {
        let mut alone = vec![f32::NAN; tokens * width];
        let mut cache = TextCache::with_isa(heads, 3, 448, isa);
        for (position, (qkv, out)) in
            qkv.chunks_exact(3 * width).zip(alone.chunks_exact_mut(width)).enumerate()
        {
            cache.attend(&[TextItem { row: 1, position }], qkv, out, &in_order);
        }
        for position in 0..tokens {
            for head in 0..heads.count {
                let at = |part: usize| &qkv[part * width + head * 64..];
                let query = &at(0)[position * 3 * width..][..64];
                let expected = attention(query, at(1), at(2), 3 * width, position + 1);
                let got = &alone[position * width + head * 64..][..64];
                check_within(
                    got,
                    &expected,
                    allowed(Arithmetic::Exact, at(2), 3 * width, 64),
                    &format!("position {position} on {}", isa.name()),
                );
            }
        }
        let mut together = vec![f32::NAN; tokens * width];
        let mut cache = TextCache::with_isa(heads, 3, 448, isa);
        let item = |position| TextItem { row: 2, position };
        for part in [0..4, 4..5, 5..tokens] {
            let items: Vec<_> = part.clone().map(item).collect();
            let out = &mut together[part.start * width..part.end * width];
            cache.attend(&items, &qkv[part.start * 3 * width..part.end * 3 * width], out, &on_threads);
        }
        assert_eq!(alone, together, "on {}", isa.name());
    }
}

/// Rows at any position share a step, and a copied row goes on as the one that it was copied from.
#[test]
fn rows_share_a_step() {
    let heads = Heads { count: 3, width: 64 };
    let width = heads.layer_width();
    let lengths = [3, 100, 17];
    let prompt = |row: usize| numbers(lengths[row] * 3 * width, 10 + row as u64);
    let mut cache = TextCache::new(heads, 5, 448);
    for (row, length) in lengths.into_iter().enumerate() {
        let items: Vec<_> = (0..length).map(|position| TextItem { row, position }).collect();
        cache.attend(&items, &prompt(row), &mut vec![0.0; length * width], &in_order);
    }
    cache.copy_rows(&[(0, 3, 3), (1, 0, 100), (2, 4, 17), (3, 1, 0)], &mut Vec::new());
    // Rows 3, 0 and 4 are now what rows 0, 1 and 2 were.
    let items = [(3, 3), (0, 100), (4, 17), (4, 18)].map(|(row, position)| TextItem { row, position });
    let qkv = numbers(items.len() * 3 * width, 4);
    let mut mixed = vec![f32::NAN; items.len() * width];
    cache.attend(&items, &qkv, &mut mixed, &on_threads);
    for (i, source) in [0, 1, 2, 2].into_iter().enumerate() {
        let mut rows = prompt(source);
        rows.extend_from_slice(&qkv[if i == 3 { 2 } else { i } * 3 * width..(i + 1) * 3 * width]);
        let positions = rows.len() / (3 * width);
        for head in 0..heads.count {
            let at = |part: usize| &rows[part * width + head * 64..];
            let query = &at(0)[(positions - 1) * 3 * width..][..64];
            let expected = attention(query, at(1), at(2), 3 * width, positions);
            let allowed = allowed(Arithmetic::Exact, at(2), 3 * width, 64);
            check_within(&mixed[i * width + head * 64..][..64], &expected, allowed, &format!("item {i}"));
        }
    }
}

#[test]
fn memory_begins_at_a_line() {
    let mut words = Aligned::new(37);
    assert_eq!((words.words().len(), words.words().as_ptr() as usize % 64), (37, 0));
    floats_mut(words.words_mut())[36] = 1.5;
    assert_eq!(floats(words.words())[35..], [0.0, 1.5]);
}
