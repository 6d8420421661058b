//! The loops without intrinsics: what the others are tested against, and what other processors run.

use super::stored::Stored;
use super::{F32Tile, Int8Tile, PANEL, round};

/// # Safety
/// The tile's pointers are valid for what its sizes say.
pub unsafe fn int8<const ADD: bool>(rows: usize, tile: &Int8Tile) {
    for row in 0..rows {
        let mut sums = [0i32; PANEL];
        // SAFETY: the caller's promise: a row of `4 * quads` bytes and a scale, a panel of as many times 64 weights, 64
        // scales, offsets and biases, and `columns` results.
        unsafe {
            let x = std::slice::from_raw_parts(tile.x.add(row * tile.x_stride), tile.quads * 4);
            let panel = std::slice::from_raw_parts(tile.panel, tile.quads * 4 * PANEL);
            for (x, panel) in x.as_chunks::<4>().0.iter().zip(panel.as_chunks::<{ 4 * PANEL }>().0) {
                for (sum, weights) in sums.iter_mut().zip(panel.as_chunks::<4>().0) {
                    for (x, weight) in x.iter().zip(weights) {
                        *sum += i32::from(*x) * i32::from(*weight);
                    }
                }
            }
            let y = std::slice::from_raw_parts_mut(tile.y.add(row * tile.y_stride), tile.columns);
            let x_scale = *tile.x_scales.add(row);
            for (column, y) in y.iter_mut().enumerate() {
                let sum = (sums[column] + *tile.offsets.add(column)) as f32;
                let value = sum.mul_add(x_scale * *tile.scales.add(column), *tile.bias.add(column));
                *y = if ADD { *y + value } else { value };
            }
        }
    }
}

/// # Safety
/// The tile's pointers are valid for what its sizes say.
pub unsafe fn f32<W: Stored, const ADD: bool>(rows: usize, tile: &F32Tile<W>) {
    for row in 0..rows {
        let mut sums = [0.0f32; PANEL];
        // SAFETY: the caller's promise: a row of `inputs`, a panel of as many times 64, 64 biases, `columns` results.
        unsafe {
            let x = std::slice::from_raw_parts(tile.x.add(row * tile.x_stride), tile.inputs);
            let panel = std::slice::from_raw_parts(tile.panel, tile.inputs * PANEL);
            for (x, weights) in x.iter().zip(panel.as_chunks::<PANEL>().0) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    let weight = weight.wide();
                    // Without the instruction a fused product is a slow call.
                    *sum = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                        x.mul_add(weight, *sum)
                    } else {
                        x * weight + *sum
                    };
                }
            }
            let y = std::slice::from_raw_parts_mut(tile.y.add(row * tile.y_stride), tile.columns);
            for (column, y) in y.iter_mut().enumerate() {
                let value = sums[column] + *tile.bias.add(column);
                *y = if ADD { *y + value } else { value };
            }
        }
    }
}

/// See [`super::quantise`]; both slices have one length.
pub fn quantise(x: &[f32], bytes: &mut [u8]) -> f32 {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (x, byte) in x.iter().zip(bytes) {
        *byte = (round(x * inverse) as i32 + 128) as u8;
    }
    largest / 127.0
}
