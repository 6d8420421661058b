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
            Processor::Any => self.add_any::<FUSED>(row, out),
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
            Processor::Any => self.multiply_any::<FUSED, RECTIFY>(rows, places, out),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn add_avx512(&self, row: &[f32], out: &mut [f32]) {
        self.add_any::<true>(row, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn add_avx2(&self, row: &[f32], out: &mut [f32]) {
        self.add_any::<true>(row, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn multiply_avx512<const RECTIFY: bool>(&self, rows: &[f32], places: &[Place], out: &mut [f32]) {
        self.multiply_any::<true, RECTIFY>(rows, places, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn multiply_avx2<const RECTIFY: bool>(&self, rows: &[f32], places: &[Place], out: &mut [f32]) {
        self.multiply_any::<true, RECTIFY>(rows, places, out);
    }

    #[inline(always)]
    fn multiply_any<const FUSE: bool, const RECTIFY: bool>(
        &self,
        rows: &[f32],
        places: &[Place],
        out: &mut [f32],
    ) {
        // A panel stays in the first-level cache while all rows go by.
        for (number, panel) in self.panels.chunks_exact(self.inputs).enumerate() {
            let first = number * LANES;
            let bias: Lane = std::array::from_fn(|lane| self.bias[first + lane]);
            for places in places.chunks(TILE) {
                // The last tile repeats its last row.
                let place = |at: usize| places[at.min(places.len() - 1)];
                let tile: [&[f32]; TILE] = std::array::from_fn(|at| &rows[place(at).from..][..self.inputs]);
                let mut sums = [bias; TILE];
                for (input, weights) in panel.iter().enumerate() {
                    for (sums, row) in sums.iter_mut().zip(&tile) {
                        accumulate::<FUSE>(sums, weights, row[input]);
                    }
                }
                for (place, sums) in places.iter().zip(&sums) {
                    let out = &mut out[place.to + first..][..LANES];
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = if RECTIFY { sum.max(0.0) } else { *sum };
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn add_any<const FUSE: bool>(&self, row: &[f32], out: &mut [f32]) {
        let row = &row[..self.inputs];
        let out = &mut out[..self.outputs];
        let several = self.panels.chunks(self.inputs * TILE).zip(out.chunks_mut(LANES * TILE));
        for (panels, out) in several {
            // The last tile repeats its last panel.
            let last = panels.len() / self.inputs - 1;
            let tile: [&[Lane]; TILE] =
                std::array::from_fn(|at| &panels[at.min(last) * self.inputs..][..self.inputs]);
            let mut sums = [[0.0; LANES]; TILE];
            for (input, x) in row.iter().enumerate() {
                for (sums, panel) in sums.iter_mut().zip(&tile) {
                    accumulate::<FUSE>(sums, &panel[input], *x);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out += sum;
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

/// Whether every processor of this kind multiplies and adds in one instruction.
const FUSED: bool = cfg!(target_arch = "aarch64");

#[inline(always)]
fn accumulate<const FUSE: bool>(sums: &mut Lane, weights: &Lane, x: f32) {
    for (sum, weight) in sums.iter_mut().zip(weights) {
        // Without an instruction for it, `mul_add` is a slow function.
        *sum = if FUSE { weight.mul_add(x, *sum) } else { weight * x + *sum };
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
    fn vectors_and_plain_code_agree() {
        let layer = Linear::pack(129, vec![0.25; 64], |output, input| ((output * 131 + input) as f32).sin());
        let rows: Vec<f32> = (0..400).map(|x| (x as f32 * 0.7).cos()).collect();
        let places: Vec<Place> = (0..5).map(|at| Place { from: at * 50, to: at * 64 }).collect();
        let (mut vectors, mut plain) = (vec![0.0; 320], vec![0.0; 320]);
        layer.apply(&rows, &places, &mut vectors);
        layer.multiply_any::<false, false>(&rows, &places, &mut plain);
        let furthest = vectors.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-4, "{furthest}");
    }
}
