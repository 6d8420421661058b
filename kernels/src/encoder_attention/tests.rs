use half::{bf16, f16};

use super::reference::attention;
use super::{HEAD_WIDTH, Window, encoder_attention};
use crate::testing::{Array, Emulator, Number, Random, close, each_order};
use crate::view::Half;

/// Windows of these lengths, with as many positions before each that belong to nobody.
fn windows_of(lengths: &[(u32, u32)]) -> Vec<Window> {
    let mut end = 0;
    lengths
        .iter()
        .map(|(gap, length)| {
            let first = end + gap;
            end = first + length;
            Window { first, length: *length }
        })
        .collect()
}

fn end_of(windows: &[Window]) -> usize {
    windows.last().map_or(0, |window| (window.first + window.length) as usize)
}

/// qkv of one window. Every other query is four times one of the keys at which tiles, warps and blocks end, so that nearly all of
/// its weight is there.
fn numbers<T: Number>(seed: u64, length: usize, heads: usize) -> Vec<T> {
    let width = heads * HEAD_WIDTH;
    let mut qkv = Random::new(seed).normal(length * 3 * width);
    let edges = [length - 1, 0, length / 2, length.min(65) - 1, length.min(64) - 1, length.min(129) - 1];
    for position in (0..length).step_by(2) {
        for head in 0..heads {
            let edge = edges[(position / 2 + head) % edges.len()];
            for i in head * HEAD_WIDTH..(head + 1) * HEAD_WIDTH {
                qkv[position * 3 * width + i] = 4.0 * qkv[edge * 3 * width + width + i];
            }
        }
    }
    qkv.into_iter().map(T::of).collect()
}

/// qkv of all windows, and no numbers between them.
fn packed<T: Number>(windows: &[Window], heads: usize) -> Vec<T> {
    let row = 3 * heads * HEAD_WIDTH;
    let mut qkv = vec![T::of(f32::NAN); end_of(windows) * row];
    for window in windows {
        let of_window = numbers::<T>(u64::from(window.length), window.length as usize, heads);
        qkv[window.first as usize * row..][..of_window.len()].copy_from_slice(&of_window);
    }
    qkv
}

fn run<T: Half + Number>(device: &mut Emulator, qkv: &[T], windows: &[Window], heads: usize) -> Vec<T> {
    let (qkv, on_device) = (Array::new(qkv), Array::new(windows));
    let mut mixed = Array::<T>::poisoned(end_of(windows) * heads * HEAD_WIDTH);
    encoder_attention(device, &qkv.view(), windows, &on_device.view(), &mut mixed.view_mut(), heads).unwrap();
    mixed.get().to_vec()
}

fn check<T: Half + Number>(heads: usize, lengths: &[(u32, u32)]) {
    let (windows, width) = (windows_of(lengths), heads * HEAD_WIDTH);
    let qkv = packed::<T>(&windows, heads);
    let values: Vec<f64> = qkv.iter().map(|x| x.value()).collect();
    let rows = |window: &Window, row: usize| {
        window.first as usize * row..(window.first + window.length) as usize * row
    };
    let expected: Vec<Vec<f64>> =
        windows.iter().map(|window| attention(&values[rows(window, 3 * width)], heads)).collect();
    each_order("encoder_attention", |device| {
        let mixed = run(device, &qkv, &windows, heads);
        let mut nobody = vec![true; mixed.len()];
        for (window, expected) in windows.iter().zip(&expected) {
            // Weights are rounded too.
            close(&mixed[rows(window, width)], expected, T::STEP, T::STEP);
            nobody[rows(window, width)].fill(false);
        }
        let untouched = mixed.iter().zip(nobody).all(|(x, nobody)| !nobody || x.value().is_nan());
        assert!(untouched, "what no window has is left as it was");
    });
}

#[test]
fn positions_attend_to_their_window() {
    // One position; both sides of a tile of keys, of a warp's queries and of a block's.
    check::<f16>(1, &[(0, 1)]);
    check::<f16>(1, &[(0, 31), (0, 63), (0, 64), (0, 65)]);
    check::<f16>(2, &[(3, 127), (0, 129), (1, 33)]);
    check::<bf16>(1, &[(0, 128), (70, 192), (0, 2)]);
    check::<bf16>(2, &[(0, 97), (0, 16)]);
}

#[test]
fn all_heads_of_the_largest_models_attend() {
    check::<f16>(20, &[(0, 5), (0, 66)]);
    check::<bf16>(20, &[(0, 40)]);
}

#[test]
fn a_long_window_attends() {
    check::<f16>(1, &[(0, 613)]);
}

#[test]
fn a_window_gives_the_same_bits_alone_and_among_others() {
    let (heads, row) = (2, 3 * 2 * HEAD_WIDTH);
    let windows = windows_of(&[(0, 130), (0, 7), (5, 65)]);
    let qkv = packed::<bf16>(&windows, heads);
    each_order("encoder_attention", |device| {
        let all = run(device, &qkv, &windows, heads);
        for window in &windows {
            let (first, length) = (window.first as usize, window.length as usize);
            let alone = [Window { first: 0, length: window.length }];
            let mixed = run(device, &qkv[first * row..][..length * row], &alone, heads);
            assert_eq!(mixed, all[first * row / 3..][..length * row / 3], "{window:?}");
        }
    });
}

/// The launch is for longer windows than stand on the device, and for one that has none.
#[test]
fn a_recorded_launch_serves_shorter_windows() {
    let windows = windows_of(&[(0, 40), (260, 3)]);
    let greatest = windows_of(&[(0, 300), (0, 300)]);
    let qkv = packed::<f16>(&greatest, 1);
    each_order("encoder_attention", |device| {
        let given = Array::new(&qkv);
        let on_device = Array::new(&[windows[0], Window { first: 300, length: 0 }]);
        let mut mixed = Array::<f16>::poisoned(600 * HEAD_WIDTH);
        let view = on_device.view();
        encoder_attention(device, &given.view(), &greatest, &view, &mut mixed.view_mut(), 1).unwrap();
        let short = run(device, &qkv[..40 * 3 * HEAD_WIDTH], &windows[..1], 1);
        assert_eq!(mixed.get()[..40 * HEAD_WIDTH], short);
        assert!(mixed.get()[40 * HEAD_WIDTH..].iter().all(|x| x.is_nan()));
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("encoder_attention", |device| {
        let numbers = Array::new(&[f16::ZERO; 4 * 3 * HEAD_WIDTH]);
        let mut refuse = |windows: &[(u32, u32)], heads: usize, said: &str| {
            let windows: Vec<Window> =
                windows.iter().map(|(first, length)| Window { first: *first, length: *length }).collect();
            let on_device = Array::new(&windows[..windows.len().min(2)]);
            let mut mixed = Array::<f16>::poisoned(3 * HEAD_WIDTH);
            let (view, mixed) = (on_device.view(), &mut mixed.view_mut());
            let refused =
                encoder_attention(device, &numbers.view(), &windows, &view, mixed, heads).unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
        };
        refuse(&[(0, 1)], 0, "1 windows of 0 heads");
        refuse(&[(0, 1), (1, 0)], 1, "window 1 is 0 positions from 1 on");
        refuse(&[(0, 2), (1, 1)], 1, "window 1 is 1 positions from 1 on, behind one that ends at 2");
        refuse(&[(0, 1), (1, 1), (2, 1)], 1, "the windows on the device has 2 elements of the 3");
        refuse(&[(4, 1)], 1, "qkv has 768 elements of the 960");
        refuse(&[(0, 3), (3, 1)], 1, "mixed has 192 elements of the 256");
        refuse(&[(1, u32::MAX)], 1, "4294967296 positions");
        let (misplaced, windows) = (numbers.view().part(4..200).unwrap(), [Window { first: 0, length: 1 }]);
        let (on_device, mut mixed) = (Array::new(&windows), Array::<f16>::poisoned(HEAD_WIDTH));
        let (view, mut to) = (on_device.view(), mixed.view_mut());
        let refused = encoder_attention(device, &misplaced, &windows, &view, &mut to, 1).unwrap_err();
        assert!(refused.to_string().contains("does not begin at a multiple of 16"), "{refused}");
        assert_eq!(encoder_attention(device, &numbers.view(), &[], &view, &mut to, 1), Ok(()), "no windows");
    });
}
