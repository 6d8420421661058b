use half::{bf16, f16};

use super::reference::convolve;
use super::{Weights, Window, conv};
use crate::device::Error;
use crate::testing::{Array, Emulator, Number, Random, close, each_order};
use crate::view::Half;

/// Windows of so many frames, with gaps of so many frames and positions in front of each.
fn windows_of(lengths: &[u32], gap: u32) -> Vec<Window> {
    let (mut frame, mut position) = (0, 0);
    lengths
        .iter()
        .map(|frames| {
            let window = Window { frame: frame + gap, frames: *frames, position: position + gap };
            (frame, position) = (window.frame + frames, window.position + window.positions() as u32);
            window
        })
        .collect()
}

/// A model's weights.
struct Stem<T> {
    first: Array<T>,
    first_bias: Array<f32>,
    second: Array<T>,
    second_bias: Array<f32>,
    positions: Array<f32>,
    mels: usize,
    width: usize,
}

impl<T: Half + Number> Stem<T> {
    fn new(mels: usize, width: usize, positions: usize, random: &mut Random) -> Stem<T> {
        let mut matrix = |channels: usize| {
            let scale = (3.0 * channels as f32).sqrt();
            let numbers = random.normal(width * 3 * channels);
            Array::new(&numbers.iter().map(|w| T::of(w / scale)).collect::<Vec<T>>())
        };
        let (first, second) = (matrix(mels), matrix(width));
        let mut floats = |count: usize| Array::new(&random.normal(count));
        let (first_bias, second_bias, positions) = (floats(width), floats(width), floats(positions * width));
        Stem { first, first_bias, second, second_bias, positions, mels, width }
    }

    fn weights(&self) -> Weights<'_, T> {
        Weights {
            first: self.first.view(),
            first_bias: self.first_bias.view(),
            second: self.second.view(),
            second_bias: self.second_bias.view(),
            positions: self.positions.view(),
            mels: self.mels,
            width: self.width,
        }
    }

    /// (hidden, x) of the windows, poisoned where there is none.
    fn run(&self, device: &mut Emulator, mel: &[T], windows: &[Window]) -> (Array<T>, Array<f32>) {
        let last = windows.last().unwrap();
        let (frames, positions) = (last.frame + last.frames, last.position as usize + last.positions());
        let (mel, on_device) = (Array::new(mel), Array::new(windows));
        let mut hidden = Array::<T>::poisoned(frames as usize * self.width);
        let mut x = Array::<f32>::poisoned(positions * self.width);
        let (view, weights) = (on_device.view(), self.weights());
        conv(device, &mel.view(), windows, &view, weights, &mut hidden.view_mut(), &mut x.view_mut())
            .unwrap();
        (hidden, x)
    }
}

fn values<T: Number>(numbers: &[T]) -> Vec<f64> {
    numbers.iter().map(|x| x.value()).collect()
}

/// What is in no window is no number, so that a read of it shows.
fn spectrum<T: Number>(windows: &[Window], mels: usize, random: &mut Random) -> Vec<T> {
    let last = windows.last().unwrap();
    let mut mel = vec![T::of(f32::NAN); (last.frame + last.frames) as usize * mels];
    for window in windows {
        let numbers = random.normal(window.frames as usize * mels);
        let part = &mut mel[window.frame as usize * mels..][..numbers.len()];
        part.iter_mut().zip(numbers).for_each(|(to, number)| *to = T::of(number));
    }
    mel
}

fn check<T: Half + Number>((mels, width): (usize, usize), lengths: &[u32], gap: u32) {
    let mut random = Random::new((mels * width + lengths.len()) as u64);
    let windows = windows_of(lengths, gap);
    let longest = windows.iter().map(Window::positions).max().unwrap();
    let stem = Stem::<T>::new(mels, width, longest, &mut random);
    let mel = spectrum::<T>(&windows, mels, &mut random);
    let (w, second) = (values(stem.first.get()), values(stem.second.get()));
    each_order("conv", |device| {
        let (hidden, x) = stem.run(device, &mel, &windows);
        let (mut frame, mut position) = (0, 0);
        for window in &windows {
            let frames = window.frame as usize..(window.frame + window.frames) as usize;
            let mel = values(&mel[frames.start * mels..frames.end * mels]);
            let of_window = &hidden.get()[frames.start * width..frames.end * width];
            close(of_window, &convolve(&mel, mels, &w, stem.first_bias.get(), 1), T::STEP, 1e-5);
            // From what the first one left, rounded as it is.
            let mut expected = convolve(&values(of_window), width, &second, stem.second_bias.get(), 2);
            expected.iter_mut().zip(stem.positions.get()).for_each(|(x, place)| *x += f64::from(*place));
            let positions = window.position as usize..window.position as usize + window.positions();
            close(&x.get()[positions.start * width..positions.end * width], &expected, 1e-6, 1e-5);
            // What lies between windows is left alone.
            let before = &hidden.get()[frame * width..frames.start * width];
            assert!(before.iter().all(|x| x.value().is_nan()), "frames before {window:?}");
            let before = &x.get()[position * width..positions.start * width];
            assert!(before.iter().all(|x| x.is_nan()), "positions before {window:?}");
            (frame, position) = (frames.end, positions.end);
        }
    });
}

#[test]
fn windows_become_positions() {
    // One frame, two, odd and even; both sides of a tile of frames and of positions; gaps and none.
    check::<f16>((80, 64), &[1], 0);
    check::<bf16>((128, 72), &[2, 1, 65, 64, 3, 128, 130], 0);
    check::<f16>((80, 136), &[63, 131], 3);
}

/// So many that large tiles take them.
#[test]
fn many_windows_become_positions() {
    let mut lengths = vec![2; 65];
    lengths.extend([258, 1]);
    check::<f16>((80, 8), &lengths, 1);
    check::<bf16>((8, 16), &lengths, 0);
}

#[test]
fn a_window_gives_the_same_bits_beside_others() {
    let mut lengths = vec![3; 70];
    lengths[40] = 140;
    let (windows, mels, width) = (windows_of(&lengths, 0), 16, 24);
    let mut random = Random::new(11);
    let stem = Stem::<f16>::new(mels, width, 70, &mut random);
    let mel = spectrum::<f16>(&windows, mels, &mut random);
    each_order("conv", |device| {
        let all = stem.run(device, &mel, &windows).1;
        for i in [0, 40, 69] {
            let window = windows[i];
            let mel = &mel[window.frame as usize * mels..][..window.frames as usize * mels];
            let alone = stem.run(device, mel, &[Window { frame: 0, position: 0, ..window }]).1;
            let among = &all.get()[window.position as usize * width..][..window.positions() * width];
            assert_eq!(alone.get(), among, "window {i}");
        }
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("conv", |device| {
        let stem = Stem::<f16>::new(8, 8, 4, &mut Random::new(1));
        let mel = Array::new(&[f16::ZERO; 12 * 8]);
        let mut refuse = |weights: Weights<'_, f16>, windows: &[Window], said: &str| {
            let on_device = Array::new(&[Window { frame: 0, frames: 0, position: 0 }; 2]);
            let (mut hidden, mut x) = (Array::<f16>::poisoned(11 * 8), Array::<f32>::poisoned(5 * 8));
            let (view, hidden, x) = (on_device.view(), &mut hidden.view_mut(), &mut x.view_mut());
            let refused = conv(device, &mel.view(), windows, &view, weights, hidden, x);
            let Err(refused @ Error::Contract { .. }) = refused else { panic!("{refused:?}") };
            assert!(refused.to_string().contains(said), "{refused}");
        };
        let (good, window) = (stem.weights(), Window { frame: 0, frames: 3, position: 0 });
        refuse(Weights { mels: 12, ..good }, &[window], "12 bands to 8 values");
        refuse(Weights { width: 0, ..good }, &[window], "8 bands to 0 values");
        refuse(Weights { mels: 16, ..good }, &[window], "the first matrix has 192 elements of the 384");
        refuse(Weights { second: good.second.part(0..100).unwrap(), ..good }, &[window], "the second matrix");
        refuse(Weights { first_bias: good.first_bias.part(0..7).unwrap(), ..good }, &[window], "first bias");
        refuse(
            Weights { second_bias: good.second_bias.part(0..7).unwrap(), ..good },
            &[window],
            "second bias",
        );
        refuse(good, &[Window { frames: 9, ..window }], "window 0 has 9 frames; there are 4 positions");
        refuse(good, &[Window { frames: 0, ..window }], "window 0 has 0 frames");
        refuse(good, &[window, Window { frame: 2, position: 2, ..window }], "window 1 shares frames");
        refuse(good, &[window, Window { frame: 3, position: 1, ..window }], "window 1 shares frames");
        refuse(good, &[window; 3], "3 windows, 2 on the device");
        refuse(good, &[Window { frame: 10, ..window }], "mel has 96 elements of the 104");
        refuse(good, &[Window { frame: 9, ..window }], "hidden has 88 elements of the 96");
        refuse(good, &[Window { position: 4, ..window }], "x has 40 elements of the 48");
    });
}
