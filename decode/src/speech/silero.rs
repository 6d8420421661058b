//! Silero VAD 6.2, the network for 16 kHz (<https://github.com/snakers4/silero-vad>, MIT), computed by ourselves.
//!
//! For each window of 512 samples (32 ms) behind the last 64 of the window before:
//!
//! | step | gives | how |
//! |---|---|---|
//! | spectrum | 4 x 129 | 64 samples mirrored at the end; magnitudes of 256 samples under a Hann window, every 128 |
//! | convolutions | 4 x 128, 2 x 64, 1 x 64, 1 x 128 | three taps, padded by one; the second and third take every other place; all rectified |
//! | LSTM | 128 | gates in PyTorch's order: input, forget, cell, output |
//! | output | 1 | rectified, one weight each, sigmoid |
//!
//! The published network takes its spectrum by a convolution whose weights are the window times cosines and sines; a
//! Fourier transform is the same in less time.

use std::sync::{Arc, LazyLock};

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex32};

use super::product::{Linear, Place};

/// Samples at 16 kHz that get one answer: 32 ms.
pub const WINDOW_SAMPLES: usize = 512;
/// Windows computed together, for speed: weights are read once for all of them. Answers do not depend on it.
pub const WINDOWS: usize = 8;

/// Samples of the window before that each one hears again.
const CONTEXT: usize = 64;
/// Samples of a spectrum, and of the step to the next.
const SPECTRUM: usize = 256;
const STEP: usize = 128;
/// Spectra of a window.
const SPECTRA: usize = 4;
/// Frequencies of a spectrum.
const BINS: usize = 129;
/// Numbers that the LSTM keeps, and of its gates.
const HIDDEN: usize = 128;
const GATES: usize = 4 * HIDDEN;
/// Channels of the convolutions.
const WIDE: usize = 128;
const NARROW: usize = 64;

/// The network and what it remembers of the sound so far.
pub struct Silero {
    weights: &'static Weights,
    fourier: Arc<dyn RealToComplex<f32>>,
    context: [f32; CONTEXT],
    hidden: [f32; HIDDEN],
    cell: [f32; HIDDEN],
    scratch: Box<Scratch>,
}

/// Room for the numbers of up to [`WINDOWS`] windows.
struct Scratch {
    /// Context, window, mirrored end.
    sound: [f32; CONTEXT + WINDOW_SAMPLES + CONTEXT],
    framed: [f32; SPECTRUM],
    bins: [Complex32; BINS],
    fourier: Vec<Complex32>,
    /// A window has a row of zeros, its spectra, and a row of zeros: the padding of the first convolution.
    spectra: [f32; WINDOWS * (SPECTRA + 2) * BINS],
    /// A window has a row of zeros and four places.
    first: [f32; WINDOWS * (SPECTRA + 1) * WIDE],
    second: [f32; WINDOWS * 2 * NARROW],
    third: [f32; WINDOWS * NARROW],
    fourth: [f32; WINDOWS * WIDE],
    gates: [f32; WINDOWS * GATES],
}

struct Weights {
    window: [f32; SPECTRUM],
    convolutions: [Linear; 4],
    input: Linear,
    recurrent: Linear,
    output: [f32; HIDDEN],
    output_bias: f32,
}

impl Default for Silero {
    fn default() -> Silero {
        static WEIGHTS: LazyLock<Weights> = LazyLock::new(Weights::read);
        let fourier = RealFftPlanner::new().plan_fft_forward(SPECTRUM);
        let scratch = Box::new(Scratch {
            sound: [0.0; _],
            framed: [0.0; _],
            bins: [Complex32::default(); _],
            fourier: fourier.make_scratch_vec(),
            spectra: [0.0; _],
            first: [0.0; _],
            second: [0.0; _],
            third: [0.0; _],
            fourth: [0.0; _],
            gates: [0.0; _],
        });
        Silero { weights: &WEIGHTS, fourier, context: [0.0; _], hidden: [0.0; _], cell: [0.0; _], scratch }
    }
}

impl Silero {
    /// Listens to the next windows (samples within -1 to 1) and appends the probability of speech in each.
    pub fn listen(&mut self, windows: &[[f32; WINDOW_SAMPLES]], probabilities: &mut Vec<f32>) {
        for batch in windows.chunks(WINDOWS) {
            for (number, window) in batch.iter().enumerate() {
                self.take_spectra(number, window);
            }
            self.convolve(batch.len());
            for number in 0..batch.len() {
                probabilities.push(self.remember(number));
            }
        }
    }

    fn take_spectra(&mut self, number: usize, window: &[f32; WINDOW_SAMPLES]) {
        let scratch = &mut *self.scratch;
        let (before, rest) = scratch.sound.split_at_mut(CONTEXT);
        let (middle, mirror) = rest.split_at_mut(WINDOW_SAMPLES);
        before.copy_from_slice(&self.context);
        middle.copy_from_slice(window);
        // The last sample itself is not repeated.
        for (mirrored, sample) in mirror.iter_mut().zip(window[..WINDOW_SAMPLES - 1].iter().rev()) {
            *mirrored = *sample;
        }
        self.context.copy_from_slice(&window[WINDOW_SAMPLES - CONTEXT..]);
        let rows = &mut scratch.spectra[number * (SPECTRA + 2) * BINS..][BINS..][..SPECTRA * BINS];
        for (at, row) in rows.chunks_exact_mut(BINS).enumerate() {
            let samples = &scratch.sound[at * STEP..][..SPECTRUM];
            for ((framed, sample), weight) in scratch.framed.iter_mut().zip(samples).zip(&self.weights.window)
            {
                *framed = sample * weight;
            }
            self.fourier
                .process_with_scratch(&mut scratch.framed, &mut scratch.bins, &mut scratch.fourier)
                .expect("the buffers have the lengths of the plan");
            for (magnitude, bin) in row.iter_mut().zip(&scratch.bins) {
                *magnitude = (bin.re * bin.re + bin.im * bin.im).sqrt();
            }
        }
    }

    /// From the spectra of some windows to what sound adds to the gates of each.
    fn convolve(&mut self, windows: usize) {
        let Scratch { spectra, first, second, third, fourth, gates, .. } = &mut *self.scratch;
        let [conv1, conv2, conv3, conv4] = &self.weights.convolutions;
        // Neighbouring rows follow each other, so three taps are one long row.
        let places = each::<SPECTRA>(|window, place| Place {
            from: (window * (SPECTRA + 2) + place) * BINS,
            to: (window * (SPECTRA + 1) + 1 + place) * WIDE,
        });
        conv1.rectified(spectra, &places[..windows * SPECTRA], first);
        let places = each::<2>(|window, place| Place {
            from: (window * (SPECTRA + 1) + 2 * place) * WIDE,
            to: (window * 2 + place) * NARROW,
        });
        conv2.rectified(first, &places[..windows * 2], second);
        let places = each::<1>(|window, _| Place { from: window * 2 * NARROW, to: window * NARROW });
        conv3.rectified(second, &places[..windows], third);
        let places = each::<1>(|window, _| Place { from: window * NARROW, to: window * WIDE });
        conv4.rectified(third, &places[..windows], fourth);
        let places = each::<1>(|window, _| Place { from: window * WIDE, to: window * GATES });
        self.weights.input.apply(fourth, &places[..windows], gates);
    }

    /// Moves the memory over one window; returns its probability.
    fn remember(&mut self, number: usize) -> f32 {
        let gates = &mut self.scratch.gates[number * GATES..][..GATES];
        self.weights.recurrent.add(&self.hidden, gates);
        let (input, rest) = gates.split_at(HIDDEN);
        let (forget, rest) = rest.split_at(HIDDEN);
        let (candidate, output) = rest.split_at(HIDDEN);
        for at in 0..HIDDEN {
            self.cell[at] = sigmoid(forget[at]) * self.cell[at] + sigmoid(input[at]) * tanh(candidate[at]);
            self.hidden[at] = sigmoid(output[at]) * tanh(self.cell[at]);
        }
        let sum: f32 = self.hidden.iter().zip(&self.weights.output).map(|(h, w)| h.max(0.0) * w).sum();
        sigmoid(sum + self.weights.output_bias)
    }
}

impl Weights {
    /// Takes the weights from the numbers of `weights/`, whose README tells their order.
    fn read() -> Weights {
        let bytes = include_bytes!("../../weights/silero-vad-16k.f32");
        let (numbers, _) = bytes.as_chunks();
        let mut numbers = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let mut take = |count: usize| -> Vec<f32> { numbers.by_ref().take(count).collect() };
        let mut convolution = |channels: usize, outputs: usize, taps: std::ops::Range<usize>| {
            let (weights, bias) = (take(outputs * channels * 3), take(outputs));
            // Published as outputs x channels x taps; a row here holds one tap after the other.
            Linear::pack(channels * taps.len(), bias, |output, input| {
                weights[(output * channels + input % channels) * 3 + taps.start + input / channels]
            })
        };
        // Where only padding would be heard, the taps are left out.
        let convolutions = [
            convolution(BINS, WIDE, 0..3),
            convolution(WIDE, NARROW, 0..3),
            convolution(NARROW, NARROW, 1..3),
            convolution(NARROW, WIDE, 1..2),
        ];
        let (input, recurrent) = (take(GATES * HIDDEN), take(GATES * HIDDEN));
        let bias = take(GATES).iter().zip(take(GATES)).map(|(a, b)| a + b).collect();
        let output = take(HIDDEN).try_into().expect("the file holds a weight for each");
        let output_bias = take(1)[0];
        Weights {
            window: std::array::from_fn(|n| {
                (0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / SPECTRUM as f64).cos()) as f32
            }),
            convolutions,
            input: Linear::pack(HIDDEN, bias, |output, at| input[output * HIDDEN + at]),
            recurrent: Linear::pack(HIDDEN, vec![0.0; GATES], |output, at| recurrent[output * HIDDEN + at]),
            output,
            output_bias,
        }
    }
}

/// The places of all windows, so many in each.
fn each<const PLACES: usize>(place: impl Fn(usize, usize) -> Place) -> [Place; WINDOWS * SPECTRA] {
    std::array::from_fn(|at| place(at / PLACES, at % PLACES))
}

fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// e to the power of x, to 7 digits and without a call, so that many are computed side by side.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding this makes a float of its rounded whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    // What is left lies within half a ln 2, which is taken off in two parts for its digits.
    let rest = x - power * 0.693_359_4 + power * 2.121_944_4e-4;
    let series = 1.0
        + rest
            * (1.0
                + rest
                    * (0.5
                        + rest
                            * (0.166_666_65
                                + rest * (0.041_665_8 + rest * (0.008_333_45 + rest * 0.001_398_2)))));
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

#[cfg(test)]
mod tests;
