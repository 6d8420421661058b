use half::{bf16, f16};

use super::{BINS, Band, DeviceTables, HOP, Tables, Window, Workspace, log_mel, reference};
use crate::testing::{Array, Emulator, Number, Random, close, each_order};
use crate::view::Half;

/// Bands that overlap, the first of one bin, the last up to the last bin.
fn bands_of(mels: usize) -> Vec<(usize, Vec<f32>)> {
    let step = (BINS - 1) as f32 / mels as f32;
    (0..mels)
        .map(|i| {
            let first = (i as f32 * step) as usize;
            let count = if i == 0 { 1 } else { (2.0 * step) as usize + 1 + i % 3 };
            let count = if i + 1 == mels { BINS - first } else { count.min(BINS - first) };
            (first, (0..count).map(|j| 0.02 / (1.0 + j as f32)).collect())
        })
        .collect()
}

/// Tones over noise, some of it silent.
fn sound(samples: usize, seed: u64) -> Vec<i16> {
    let noise = Random::new(seed).normal(samples);
    noise
        .iter()
        .enumerate()
        .map(|(i, noise)| {
            let tone = (i as f64 * (0.05 + 0.1 * seed as f64)).sin() * 9_000.0;
            let loud = if i / 3_000 % 3 == 1 { 0.0 } else { 1.0 };
            (loud * (tone + f64::from(*noise) * 300.0)) as i16
        })
        .collect()
}

struct Given {
    bands: Vec<(usize, Vec<f32>)>,
    numbers: Array<f32>,
    placed: Array<Band>,
}

impl Given {
    fn new(mels: usize) -> Given {
        let bands = bands_of(mels);
        let tables = Tables::new(&bands).unwrap();
        Given { bands, numbers: Array::new(&tables.numbers), placed: Array::new(&tables.bands) }
    }

    fn tables(&self) -> DeviceTables<'_> {
        DeviceTables { numbers: self.numbers.view(), bands: self.placed.view() }
    }

    fn mels(&self) -> usize {
        self.bands.len()
    }

    /// The spectrogram, and the same in f32 from what one kernel leaves for the other.
    fn run<T: Half + Number>(
        &self,
        device: &mut Emulator,
        pcm: &[i16],
        windows: &[Window],
    ) -> (Vec<T>, Vec<f32>) {
        let rows = windows.last().map_or(0, |window| (window.row + window.frames) as usize);
        let parts = windows.iter().map(Window::parts).max().unwrap();
        let (pcm, on_device) = (Array::new(pcm), Array::new(windows));
        let mut logs = Array::<f32>::poisoned(rows * self.mels());
        let mut loudest = Array::<f32>::poisoned(windows.len() * parts);
        let mut spectrogram = Array::<T>::poisoned(rows * self.mels());
        let mut workspace = Workspace { logs: logs.view_mut(), loudest: loudest.view_mut() };
        let (view, to) = (on_device.view(), &mut spectrogram.view_mut());
        log_mel(device, &pcm.view(), windows, &view, self.tables(), &mut workspace, to).unwrap();
        let mut exact = vec![0.0; rows * self.mels()];
        for (i, window) in windows.iter().enumerate() {
            let heard = (window.samples as usize / HOP).saturating_sub(window.from as usize);
            let heard = heard.min(window.heard as usize).min(window.frames as usize);
            let top = loudest.get()[i * parts..][..window.parts()].iter().copied().fold(f32::MIN, f32::max);
            let first = window.row as usize * self.mels();
            for (exact, log) in exact[first..][..heard * self.mels()].iter_mut().zip(&logs.get()[first..]) {
                *exact = (log.max(top - 8.0) + 4.0) / 4.0;
            }
        }
        (spectrogram.get().to_vec(), exact)
    }

    /// What a window of a segment is.
    fn expected(&self, pcm: &[i16], window: &Window) -> Vec<f64> {
        let all = reference::log_mel(pcm, &self.bands);
        let mut of_window = vec![0.0; window.frames as usize * self.mels()];
        let from = (window.from as usize * self.mels()).min(all.len());
        let heard = (window.heard.min(window.frames) as usize * self.mels()).min(all.len() - from);
        of_window[..heard].copy_from_slice(&all[from..from + heard]);
        of_window
    }
}

/// Segments one behind the other, each with a window (from, heard, frames) and rows that are nobody's in front of it.
fn check<T: Half + Number>(mels: usize, segments: &[(usize, (u32, u32, u32))]) {
    let given = Given::new(mels);
    let (mut pcm, mut windows, mut sounds) = (Vec::new(), Vec::new(), Vec::new());
    let mut row = 0;
    for (i, (samples, (from, heard, frames))) in segments.iter().enumerate() {
        let own = sound(*samples, i as u64 + 1);
        row += i as u32;
        let first = pcm.len() as u32;
        windows.push(Window {
            pcm: first,
            samples: *samples as u32,
            from: *from,
            heard: *heard,
            row,
            frames: *frames,
        });
        row += frames;
        pcm.extend(&own);
        // Loud, so that a read behind the end shows.
        pcm.resize(pcm.len().next_multiple_of(8) + 8, i16::MAX);
        sounds.push(own);
    }
    each_order("log_mel", |device| {
        let (all, exact) = given.run::<T>(device, &pcm, &windows);
        let mut nobody = vec![true; all.len()];
        for (window, own) in windows.iter().zip(&sounds) {
            let expected = given.expected(own, window);
            let of_window = window.row as usize * mels..(window.row + window.frames) as usize * mels;
            // The front end's own tolerance, in f32; behind it the rounding.
            close(&exact[of_window.clone()], &expected, 0.0, 1e-4);
            close(&all[of_window.clone()], &expected, T::STEP, 1e-4);
            nobody[of_window].fill(false);
        }
        let untouched = all.iter().zip(nobody).all(|(x, nobody)| !nobody || x.value().is_nan());
        assert!(untouched, "what no window has is left as it was");
    });
}

#[test]
fn segments_become_frames() {
    // A segment shorter than a frame, one that ends with a block's last frame, one a frame longer.
    check::<f16>(80, &[(170, (0, 3_000, 4)), (15 * 160, (0, 3_000, 16)), (16 * 160 + 159, (0, 3_000, 20))]);
    check::<bf16>(128, &[(5_003, (0, 3_000, 40))]);
}

#[test]
fn windows_are_parts_of_their_segment() {
    // In the middle, of few heard frames, behind the end.
    check::<f16>(80, &[(6_400, (13, 3_000, 12)), (6_405, (3, 5, 30)), (1_600, (40, 3_000, 6))]);
}

#[test]
fn the_fewest_bands_do() {
    check::<bf16>(8, &[(1_000, (0, 3_000, 10))]);
}

#[test]
fn silence_is_the_floor() {
    let given = Given::new(80);
    each_order("log_mel", |device| {
        let window = Window { pcm: 0, samples: 800, from: 0, heard: 3_000, row: 0, frames: 6 };
        let (all, _) = given.run::<f16>(device, &[0; 800], &[window]);
        let expected = [vec![-1.5; 5 * 80], vec![0.0; 80]].concat();
        close(&all, &expected, f16::STEP, 0.0);
    });
}

#[test]
fn a_window_gives_the_same_bits_alone_and_among_others() {
    let given = Given::new(80);
    let pcm = [sound(4_000, 1), sound(2_400, 2)].concat();
    let windows = [
        Window { pcm: 0, samples: 4_000, from: 2, heard: 3_000, row: 0, frames: 30 },
        Window { pcm: 4_000, samples: 2_400, from: 0, heard: 3_000, row: 33, frames: 15 },
    ];
    each_order("log_mel", |device| {
        let (all, _) = given.run::<f16>(device, &pcm, &windows);
        for (window, own) in windows.iter().zip([&pcm[..4_000], &pcm[4_000..]]) {
            let alone = [Window { pcm: 0, row: 0, ..*window }];
            let (alone, _) = given.run::<f16>(device, own, &alone);
            assert_eq!(alone, all[window.row as usize * 80..][..alone.len()], "{window:?}");
        }
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    let bands = |mels: usize| vec![(0, vec![1.0]); mels];
    for (bands, said) in [
        (bands(0), "0 bands; it takes multiples of 8 up to 128"),
        (bands(81), "81 bands"),
        (bands(136), "136 bands"),
        ([bands(7), vec![(200, vec![1.0, 1.0])]].concat(), "band 7 has 2 bins from 200 on, of 201"),
    ] {
        let refused = Tables::new(&bands).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    let given = Given::new(8);
    each_order("log_mel", |device| {
        let pcm = Array::new(&[0i16; 400]);
        let refuse = |device: &mut Emulator, windows: &[Window], said: &str| {
            let on_device = Array::new(&windows[..windows.len().min(2)]);
            let mut logs = Array::<f32>::poisoned(9 * 8);
            let mut loudest = Array::<f32>::poisoned(2);
            let mut spectrogram = Array::<f16>::poisoned(8 * 8);
            let mut workspace = Workspace { logs: logs.view_mut(), loudest: loudest.view_mut() };
            let (view, to) = (on_device.view(), &mut spectrogram.view_mut());
            let refused =
                log_mel(device, &pcm.view(), windows, &view, given.tables(), &mut workspace, to).unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
        };
        let window = Window { pcm: 0, samples: 400, from: 0, heard: 9, row: 0, frames: 4 };
        refuse(device, &[Window { pcm: 4, samples: 8, ..window }], "window 0 is of 8 samples from 4 on");
        refuse(device, &[Window { pcm: 8, ..window }], "window 0 is of 400 samples from 8 on, of 400");
        refuse(device, &[Window { frames: 0, ..window }], "window 0 is 0 rows from 0 on");
        refuse(
            device,
            &[window, Window { row: 3, ..window }],
            "window 1 is 4 rows from 3 on, behind one that ends at 4",
        );
        let three = [window, Window { row: 4, ..window }, Window { row: 8, frames: 1, ..window }];
        refuse(device, &three, "the windows on the device has 2 elements of the 3");
        refuse(
            device,
            &[Window { frames: 10, ..window }],
            "the workspace's logarithms has 72 elements of the 80",
        );
        refuse(device, &[Window { frames: 9, ..window }], "the spectrogram has 64 elements of the 72");
    });
}
