//! Products of a matrix of weights with many rows of numbers, as fast as the processor's vectors allow.

/// Outputs computed side by side: a vector of AVX-512, two of AVX2, four of SSE or NEON.
const LANES: usize = 16;
/// Rows, or panels, computed at once: enough sums under way to hide that an addition takes a few cycles.
const TILE: usize = 4;

/// A panel's numbers for one input.
type Lane = [f32; LANES];

/// A linear layer: `outputs x inputs` weights and a bias for each output.
///
/// Each sum is taken in the order of the inputs, whatever is computed beside it: a row's results do not depend on the
/// other rows, nor on how wide the vectors are. (They do on whether products are rounded before they are added, which
/// only processors without fused multiply-add do.)
pub struct Linear {
    inputs: usize,
    outputs: usize,
    /// Panels of 16 outputs; in each, for every input, the weights of these outputs.
    panels: Vec<Lane>,
    bias: Vec<f32>,
    processor: Processor,
}

/// What the vectors of this processor can do.
#[derive(Clone, Copy)]
enum Processor {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Any,
}

/// Where a row of inputs begins, and where its outputs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First of the inputs.
    pub from: usize,
    /// First of the outputs.
    pub to: usize,
}

impl Linear {
    /// Packs weights that `weight(output, input)` tells. There is one output for each number of `bias`, and their
    /// number is a multiple of 16.
    pub fn pack(inputs: usize, bias: Vec<f32>, weight: impl Fn(usize, usize) -> f32) -> Linear {
        let outputs = bias.len();
        assert_eq!(outputs % LANES, 0, "outputs fill whole panels");
        let panels = (0..outputs / LANES)
            .flat_map(|panel| (0..inputs).map(move |input| (panel * LANES, input)))
            .map(|(first, input)| std::array::from_fn(|lane| weight(first + lane, input)))
            .collect();
        Linear { inputs, outputs, panels, bias, processor: Processor::here() }
    }

    /// For each place the outputs of the row that begins at `from`, negative ones replaced by 0.
    pub fn rectified(&self, rows: &[f32], places: &[Place], out: &mut [f32]) {
        self.multiply::<true>(rows, places, out);
    }

    /// For each place the outputs of the row that begins at `from`.
    pub fn apply(&self, rows: &[f32], places: &[Place], out: &mut [f32]) {
        self.multiply::<false>(rows, places, out);
    }

    /// Adds to `out` the products of a single row; the bias is left out.
    pub fn add(&self, row: &[f32], out: &mut [f32]) {
        match self.processor {
            // SAFETY: the processor was asked whether it has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx512 => unsafe { self.add_avx512(row, out) },
            // SAFETY: the processor was asked whether it has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx2 => unsafe { self.add_avx2(row, out) },
            // SAFETY: `Lane` needs nothing of the processor.
            Processor::Any => unsafe { self.add_with::<Lane>(row, out) },
        }
    }

    fn multiply<const RECTIFY: bool>(&self, rows: &[f32], places: &[Place], out: &mut [f32]) {
        match self.processor {
            // SAFETY: the processor was asked whether it has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx512 => unsafe { self.multiply_avx512::<RECTIFY>(rows, places, out) },
            // SAFETY: the processor was asked whether it has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx2 => unsafe { self.multiply_avx2::<RECTIFY>(rows, places, out) },
            // SAFETY: `Lane` needs nothing of the processor.
            Processor::Any => unsafe { self.multiply_with::<Lane, RECTIFY>(rows, places, out) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn add_avx512(&self, row: &[f32], out: &mut [f32]) {
        // SAFETY: this function is only called where there is AVX-512.
        unsafe { self.add_with::<x86::Wide>(row, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn add_avx2(&self, row: &[f32], out: &mut [f32]) {
        // SAFETY: this function is only called where there are AVX2 and FMA.
        unsafe { self.add_with::<x86::Pair>(row, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn multiply_avx512<const RECTIFY: bool>(&self, rows: &[f32], places: &[Place], out: &mut [f32]) {
        // SAFETY: this function is only called where there is AVX-512.
        unsafe { self.multiply_with::<x86::Wide, RECTIFY>(rows, places, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn multiply_avx2<const RECTIFY: bool>(&self, rows: &[f32], places: &[Place], out: &mut [f32]) {
        // SAFETY: this function is only called where there are AVX2 and FMA.
        unsafe { self.multiply_with::<x86::Pair, RECTIFY>(rows, places, out) }
    }

    /// # Safety
    /// The processor has what `V` needs.
    #[inline(always)]
    unsafe fn multiply_with<V: Vector, const RECTIFY: bool>(
        &self,
        rows: &[f32],
        places: &[Place],
        out: &mut [f32],
    ) {
        // A panel stays in the first-level cache while all rows go by.
        let panels = self.panels.chunks_exact(self.inputs).zip(self.bias.as_chunks().0);
        for (number, (panel, bias)) in panels.enumerate() {
            for places in places.chunks(TILE) {
                // The last tile repeats its last row.
                let place = |at: usize| places[at.min(places.len() - 1)];
                let tile: [&[f32]; TILE] = std::array::from_fn(|at| &rows[place(at).from..][..self.inputs]);
                // SAFETY: the caller vouches for the processor.
                let mut sums = [unsafe { V::load(bias) }; TILE];
                for (input, weights) in panel.iter().enumerate() {
                    for (sum, row) in sums.iter_mut().zip(&tile) {
                        // SAFETY: the caller vouches for the processor.
                        *sum = unsafe { sum.plus(weights, row[input]) };
                    }
                }
                for (place, sum) in places.iter().zip(sums) {
                    let out = &mut out[place.to + number * LANES..][..LANES];
                    // SAFETY: the caller vouches for the processor.
                    for (out, sum) in out.iter_mut().zip(unsafe { sum.lanes() }) {
                        *out = if RECTIFY { sum.max(0.0) } else { sum };
                    }
                }
            }
        }
    }

    /// # Safety
    /// The processor has what `V` needs.
    #[inline(always)]
    unsafe fn add_with<V: Vector>(&self, row: &[f32], out: &mut [f32]) {
        let row = &row[..self.inputs];
        let out = &mut out[..self.outputs];
        let several = self.panels.chunks(self.inputs * TILE).zip(out.chunks_mut(LANES * TILE));
        for (panels, out) in several {
            // The last tile repeats its last panel.
            let last = panels.len() / self.inputs - 1;
            let tile: [&[Lane]; TILE] =
                std::array::from_fn(|at| &panels[at.min(last) * self.inputs..][..self.inputs]);
            // SAFETY: the caller vouches for the processor.
            let mut sums = [unsafe { V::load(&[0.0; LANES]) }; TILE];
            for (input, x) in row.iter().enumerate() {
                for (sum, panel) in sums.iter_mut().zip(&tile) {
                    // SAFETY: the caller vouches for the processor.
                    *sum = unsafe { sum.plus(&panel[input], *x) };
                }
            }
            for (out, sum) in out.chunks_mut(LANES).zip(sums) {
                // SAFETY: the caller vouches for the processor.
                for (out, sum) in out.iter_mut().zip(unsafe { sum.lanes() }) {
                    *out += sum;
                }
            }
        }
    }
}

impl Processor {
    fn here() -> Processor {
        #[cfg(target_arch = "x86_64")]
        {
            let fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if fused && is_x86_feature_detected!("avx512f") {
                return Processor::Avx512;
            }
            if fused {
                return Processor::Avx2;
            }
        }
        Processor::Any
    }
}

/// Sixteen numbers in registers.
///
/// # Safety
/// Each function may only be called where the processor has the instructions of the type, and becomes them only where
/// it is inlined into a function that enables them.
trait Vector: Copy {
    unsafe fn load(lanes: &Lane) -> Self;
    /// `self + weights * x`, rounded once where the processor can.
    unsafe fn plus(self, weights: &Lane, x: f32) -> Self;
    unsafe fn lanes(self) -> Lane;
}

impl Vector for Lane {
    #[inline(always)]
    unsafe fn load(lanes: &Lane) -> Lane {
        *lanes
    }

    #[inline(always)]
    unsafe fn plus(self, weights: &Lane, x: f32) -> Lane {
        // Without an instruction for it, `mul_add` is a slow function.
        const FUSED: bool = cfg!(target_arch = "aarch64");
        std::array::from_fn(
            |at| {
                if FUSED { weights[at].mul_add(x, self[at]) } else { weights[at] * x + self[at] }
            },
        )
    }

    #[inline(always)]
    unsafe fn lanes(self) -> Lane {
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lane, Vector};

    /// A vector of AVX-512.
    #[derive(Clone, Copy)]
    pub struct Wide(__m512);

    impl Vector for Wide {
        #[inline(always)]
        unsafe fn load(lanes: &Lane) -> Wide {
            // SAFETY: the caller vouches for the processor; a lane holds what is read.
            Wide(unsafe { _mm512_loadu_ps(lanes.as_ptr()) })
        }

        #[inline(always)]
        unsafe fn plus(self, weights: &Lane, x: f32) -> Wide {
            // SAFETY: the caller vouches for the processor; a lane holds what is read.
            Wide(unsafe { _mm512_fmadd_ps(_mm512_loadu_ps(weights.as_ptr()), _mm512_set1_ps(x), self.0) })
        }

        #[inline(always)]
        unsafe fn lanes(self) -> Lane {
            let mut lanes: Lane = [0.0; _];
            // SAFETY: the caller vouches for the processor; a lane has room for what is written.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), self.0) };
            lanes
        }
    }

    /// Two vectors of AVX2.
    #[derive(Clone, Copy)]
    pub struct Pair(__m256, __m256);

    impl Vector for Pair {
        #[inline(always)]
        unsafe fn load(lanes: &Lane) -> Pair {
            let (first, second) = lanes.split_at(8);
            // SAFETY: the caller vouches for the processor; each half holds what is read.
            unsafe { Pair(_mm256_loadu_ps(first.as_ptr()), _mm256_loadu_ps(second.as_ptr())) }
        }

        #[inline(always)]
        unsafe fn plus(self, weights: &Lane, x: f32) -> Pair {
            // SAFETY: the caller vouches for the processor.
            unsafe {
                let (Pair(first, second), x) = (Pair::load(weights), _mm256_set1_ps(x));
                Pair(_mm256_fmadd_ps(first, x, self.0), _mm256_fmadd_ps(second, x, self.1))
            }
        }

        #[inline(always)]
        unsafe fn lanes(self) -> Lane {
            let mut lanes: Lane = [0.0; _];
            let (first, second) = lanes.split_at_mut(8);
            // SAFETY: the caller vouches for the processor; each half has room for what is written.
            unsafe {
                _mm256_storeu_ps(first.as_mut_ptr(), self.0);
                _mm256_storeu_ps(second.as_mut_ptr(), self.1);
            }
            lanes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(inputs: usize, outputs: usize) -> Linear {
        let bias = (0..outputs).map(|output| output as f32).collect();
        Linear::pack(inputs, bias, |output, input| (output * 3 + input * 5) as f32 % 7.0 - 3.0)
    }

    fn expected(layer: &Linear, row: &[f32], output: usize) -> f32 {
        let weight = |input: usize| (output * 3 + input * 5) as f32 % 7.0 - 3.0;
        (0..layer.inputs).map(|input| weight(input) * row[input]).sum::<f32>() + output as f32
    }

    #[test]
    fn rows_become_their_products_wherever_they_lie() {
        // Whole numbers: every order of adding gives the same.
        let rows: Vec<f32> = (0..100).map(|x| (x * 11 % 13) as f32 - 6.0).collect();
        for outputs in [16, 48, 80] {
            let layer = layer(9, outputs);
            for count in [1, 3, 4, 7] {
                let places: Vec<Place> =
                    (0..count).map(|at| Place { from: at * 5, to: (count - 1 - at) * outputs }).collect();
                let (mut plain, mut rectified) = (vec![0.0; count * outputs], vec![0.0; count * outputs]);
                layer.apply(&rows, &places, &mut plain);
                layer.rectified(&rows, &places, &mut rectified);
                for place in places {
                    for output in 0..outputs {
                        let expected = expected(&layer, &rows[place.from..], output);
                        assert_eq!(plain[place.to + output], expected);
                        assert_eq!(rectified[place.to + output], expected.max(0.0));
                    }
                }
            }
            let mut added = vec![1.0; outputs];
            layer.add(&rows, &mut added);
            for (output, added) in added.iter().enumerate() {
                assert_eq!(*added, expected(&layer, &rows, output) - output as f32 + 1.0);
            }
        }
    }

    #[test]
    fn every_kind_of_vector_agrees_with_plain_code() {
        let mut layer =
            Linear::pack(129, vec![0.25; 64], |output, input| ((output * 131 + input) as f32).sin());
        let rows: Vec<f32> = (0..400).map(|x| (x as f32 * 0.7).cos()).collect();
        let places: Vec<Place> = (0..5).map(|at| Place { from: at * 50, to: at * 64 }).collect();
        let mut with = |processor| {
            layer.processor = processor;
            let mut out = vec![0.0; 5 * 64];
            layer.apply(&rows, &places, &mut out);
            layer.add(&rows, &mut out);
            out
        };
        let plain = with(Processor::Any);
        let check = |vectors: &[f32]| {
            let furthest = vectors.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(furthest < 1e-4, "{furthest}");
        };
        check(&with(Processor::here()));
        #[cfg(target_arch = "x86_64")]
        if matches!(Processor::here(), Processor::Avx512) {
            assert_eq!(with(Processor::Avx2), with(Processor::Avx512), "the same sums, to the last bit");
        }
    }
}
