//! A layer's product, by the kernel that is for as many rows.

use kernels::accelerator::Accelerator;
use kernels::device::Error;
use kernels::layer_norm::layer_norm;
use kernels::matmul::matmul;
use kernels::memory::Memory;
use kernels::product::{Output, Shape};
use kernels::skinny::{self, ROWS_MAX, skinny};
use kernels::view::{Half, View};

use super::network::{Linear, Scale};

/// What is multiplied.
pub enum Input<'a, T> {
    /// Rows as they are.
    Plain(&'a Memory<T>),
    /// Rows of the residual stream behind a normalisation, for which there is room where many are multiplied.
    Normed(&'a mut Memory<f32>, &'a Scale, &'a mut Memory<T>),
}

/// `output(input W + b)` of the first `rows` rows.
pub fn product<T: Half>(
    device: &mut impl Accelerator,
    input: Input<'_, T>,
    layer: &Linear<T>,
    output: Output<'_, T>,
    rows: usize,
) -> Result<(), Error> {
    let shape = Shape { rows, depth: layer.inputs, width: layer.outputs };
    multiply(device, input, &layer.weights.view(), Some(&layer.bias.view()), output, shape)
}

/// The same by any matrix (width, depth), with or without a bias (width).
pub fn multiply<T: Half>(
    device: &mut impl Accelerator,
    input: Input<'_, T>,
    weights: &View<'_, T>,
    bias: Option<&View<'_, f32>>,
    output: Output<'_, T>,
    shape: Shape,
) -> Result<(), Error> {
    let values = shape.rows * shape.depth;
    match input {
        Input::Plain(x) if shape.rows <= ROWS_MAX => {
            let x = x.view().part(0..values)?;
            skinny(device, skinny::Input::Plain(x), weights, bias, output, shape)
        }
        Input::Normed(x, scale, _) if shape.rows <= ROWS_MAX => {
            let x = x.view().part(0..values)?;
            skinny(device, skinny::Input::Normed(x, scale.view()), weights, bias, output, shape)
        }
        Input::Plain(x) => matmul(device, &x.view().part(0..values)?, weights, bias, output, shape),
        Input::Normed(x, scale, normed) => {
            let (mut x, mut y) = (x.view_mut(), normed.view_mut());
            let (mut x, mut y) = (x.part_mut(0..values)?, y.part_mut(0..values)?);
            layer_norm(device, &mut x, None, scale.view(), &mut y, shape.depth)?;
            matmul(device, &y.view(), weights, bias, output, shape)
        }
    }
}
