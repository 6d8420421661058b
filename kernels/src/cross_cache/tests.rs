use half::{bf16, f16};

use super::reference::{e4m3_nearest, e4m3_value, key_place, value_place};
use super::{Cache, HEAD_WIDTH, Kept, fill_slot};
use crate::testing::{Array, Number, Random, each_order};
use crate::view::Half;

/// (heads, room, positions): one position, an odd and an even number, a block's 64 and one more, the most heads, 30 seconds.
const SHAPES: &[(usize, usize, usize)] =
    &[(1, 2, 1), (6, 8, 7), (3, 70, 64), (2, 66, 65), (20, 12, 12), (2, 1_500, 1_500), (1, 1_536, 1_499)];

/// Where the number of kv at a position, head, dimension of keys (0) or values (1) belongs.
fn place(which: usize, heads: usize, room: usize, at: [usize; 3], dimension: usize) -> usize {
    if which == 0 { key_place(heads, room, at) + dimension } else { value_place(heads, room, at, dimension) }
}

/// Calls with each position, head, dimension, and which of keys and values.
fn each(heads: usize, positions: usize, mut call: impl FnMut(usize, usize, usize, usize)) {
    for position in 0..positions {
        for which in 0..2 {
            for head in 0..heads {
                for dimension in 0..HEAD_WIDTH {
                    call(position, which, head, dimension);
                }
            }
        }
    }
}

fn check_whole<T: Half + Number>((heads, room, positions): (usize, usize, usize)) {
    let (slots, slot) = (3, 1);
    let mut random = Random::new((heads * positions) as u64);
    let kv: Vec<T> = random.normal(positions * 2 * heads * HEAD_WIDTH).into_iter().map(T::of).collect();
    let untouched = T::of(-9.0);
    let mut expected = [(); 2].map(|()| vec![untouched; slots * heads * room * HEAD_WIDTH]);
    if positions % 2 == 1 {
        for head in 0..heads {
            for dimension in 0..HEAD_WIDTH {
                expected[1][value_place(heads, room, [slot, head, positions], dimension)] = T::of(0.0);
            }
        }
    }
    let mut given = kv.iter();
    each(heads, positions, |position, which, head, dimension| {
        let place = place(which, heads, room, [slot, head, position], dimension);
        expected[which][place] = *given.next().expect("as many");
    });
    let kv = Array::new(&kv);
    each_order("cross_cache", |device| {
        let mut kept = [(); 2].map(|()| Array::new(&vec![untouched; slots * heads * room * HEAD_WIDTH]));
        let [keys, values] = &mut kept;
        let whole = Kept::Whole { keys: keys.view_mut(), values: values.view_mut() };
        let mut cache = Cache { kept: whole, slots, heads, room };
        fill_slot(device, &kv.view(), positions, &mut cache, slot).unwrap();
        for (kept, expected) in kept.iter().zip(&expected) {
            let same = kept.get().iter().zip(expected).all(|(a, b)| a.value() == b.value());
            assert!(same, "the slot holds what was computed, and nothing else is touched");
        }
    });
}

fn check_bytes<T: Half + Number>((heads, room, positions): (usize, usize, usize)) {
    let (slots, slot) = (2, 1);
    let mut random = Random::new((heads * positions) as u64);
    // Heads of different magnitudes.
    let width = 2 * heads * HEAD_WIDTH;
    let kv: Vec<T> = random
        .normal(positions * width)
        .iter()
        .enumerate()
        .map(|(i, x)| T::of(x * (1.0 + (i % width / HEAD_WIDTH) as f32)))
        .collect();
    let mut greatest = vec![[0.0f64; 2]; heads];
    let mut given = kv.iter();
    each(heads, positions, |_, which, head, _| {
        greatest[head][which] = greatest[head][which].max(given.next().expect("as many").value().abs());
    });
    let device_kv = Array::new(&kv);
    each_order("cross_cache", |device| {
        let mut kept = [(); 2].map(|()| Array::new(&vec![0x55; slots * heads * room * HEAD_WIDTH]));
        let mut scales = Array::new(&vec![-1.0; slots * heads * 2]);
        let [keys, values] = &mut kept;
        let bytes =
            Kept::Bytes { keys: keys.view_mut(), values: values.view_mut(), scales: scales.view_mut() };
        let mut cache = Cache { kept: bytes, slots, heads, room };
        fill_slot(device, &device_kv.view(), positions, &mut cache, slot).unwrap();
        for (i, scale) in scales.get().iter().enumerate() {
            let (head, which) = (i / 2 % heads, i % 2);
            let expected = if i / 2 < heads { -1.0 } else { (greatest[head][which] as f32) / 448.0 };
            assert_eq!(*scale, expected, "scale {i}");
        }
        let mut touched = [(); 2].map(|()| vec![false; slots * heads * room * HEAD_WIDTH]);
        let mut given = kv.iter();
        each(heads, positions, |position, which, head, dimension| {
            let place = place(which, heads, room, [slot, head, position], dimension);
            let scale = scales.get()[(slot * heads + head) * 2 + which];
            let number = given.next().expect("as many").value() as f32 / scale;
            let code = kept[which].get()[place];
            assert_eq!(code, e4m3_nearest(f64::from(number)), "{number} of {position}, {which}, {head}");
            touched[which][place] = true;
        });
        if positions % 2 == 1 {
            for head in 0..heads {
                for dimension in 0..HEAD_WIDTH {
                    let place = value_place(heads, room, [slot, head, positions], dimension);
                    assert_eq!(kept[1].get()[place], 0, "behind the last position there is zero");
                    touched[1][place] = true;
                }
            }
        }
        for (kept, touched) in kept.iter().zip(&touched) {
            let left = kept.get().iter().zip(touched).all(|(code, touched)| *touched || *code == 0x55);
            assert!(left, "nothing else is touched");
        }
    });
}

#[test]
fn a_slot_holds_what_was_computed() {
    for shape in SHAPES {
        check_whole::<f16>(*shape);
    }
    check_whole::<bf16>(SHAPES[3]);
}

#[test]
fn a_slot_of_bytes_holds_the_nearest() {
    for shape in &SHAPES[..5] {
        check_bytes::<f16>(*shape);
        check_bytes::<bf16>(*shape);
    }
    check_bytes::<f16>((1, 1_500, 1_500));
}

#[test]
fn zeros_stay_zeros_and_what_is_no_number_shows() {
    each_order("cross_cache", |device| {
        let mut fill = |number: f32| {
            let kv = Array::new(&[T::of(number); 2 * HEAD_WIDTH * 3]);
            let mut kept = [(); 2].map(|()| Array::new(&[0x55; 4 * HEAD_WIDTH]));
            let mut scales = Array::new(&[-1.0; 2]);
            let [keys, values] = &mut kept;
            let bytes =
                Kept::Bytes { keys: keys.view_mut(), values: values.view_mut(), scales: scales.view_mut() };
            let mut cache = Cache { kept: bytes, slots: 1, heads: 1, room: 4 };
            fill_slot(device, &kv.view(), 3, &mut cache, 0).unwrap();
            e4m3_value(kept[0].get()[70]) * f64::from(scales.get()[0])
        };
        type T = bf16;
        assert_eq!(fill(0.0), 0.0);
        assert_eq!(fill(1e-38), 0.0);
        assert_eq!(fill(-448.0), -448.0);
        assert!(fill(f32::NAN).is_nan() && fill(f32::INFINITY).is_nan());
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("cross_cache", |device| {
        let kv = Array::new(&[f16::ZERO; 4 * HEAD_WIDTH]);
        let mut refuse = |room, positions, slot, scales: Option<usize>, said: &str| {
            let mut whole = [(); 2].map(|()| Array::new(&[f16::ZERO; 8 * HEAD_WIDTH]));
            let mut bytes = [(); 2].map(|()| Array::new(&[0; 8 * HEAD_WIDTH]));
            let mut factors = Array::new(&vec![0.0; scales.unwrap_or(0)]);
            let kept = if scales.is_some() {
                let [keys, values] = &mut bytes;
                Kept::Bytes { keys: keys.view_mut(), values: values.view_mut(), scales: factors.view_mut() }
            } else {
                let [keys, values] = &mut whole;
                Kept::Whole { keys: keys.view_mut(), values: values.view_mut() }
            };
            let mut cache = Cache { kept, slots: 2, heads: 1, room };
            let refused = fill_slot(device, &kv.view(), positions, &mut cache, slot).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        };
        refuse(4, 2, 2, None, "2 positions in slot 2 of 2 slots");
        refuse(4, 5, 0, None, "5 positions in slot 0");
        refuse(4, 0, 0, None, "0 positions in slot 0");
        refuse(4, 3, 0, None, "kv has 256 elements of the 384");
        refuse(3, 2, 0, None, "room for 3 positions");
        refuse(6, 2, 0, None, "the cache of keys has 512 elements of the 768");
        refuse(4, 2, 0, Some(3), "the scales has 3 elements of the 4");
    });
}
