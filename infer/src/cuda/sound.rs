//! What the decoder hears: keys and values of windows in slots, for each of its layers.

use kernels::accelerator::Accelerator;
use kernels::cross_cache::{Cache, HEAD_WIDTH, Kept};
use kernels::device::Error;
use kernels::memory::Memory;
use kernels::view::Half;

use crate::model::{AUDIO_POSITIONS, Dims};

/// How keys and values are kept. They are most of what a step reads and most of a slot's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// As they were computed, in two bytes.
    #[default]
    Whole,
    /// In a byte (e4m3) with a scale for each head and slot: half the memory and half the reading, and three bits of a number.
    E4m3,
}

/// Keys and values of all layers.
pub struct SoundCaches<T> {
    layers: Vec<Layer<T>>,
    slots: usize,
    heads: usize,
}

enum Layer<T> {
    Whole { keys: Memory<T>, values: Memory<T> },
    E4m3 { keys: Memory<u8>, values: Memory<u8>, scales: Memory<f32> },
}

impl<T: Half> SoundCaches<T> {
    /// Room for windows of 30 s.
    pub fn new(
        device: &mut impl Accelerator,
        dims: Dims,
        slots: usize,
        form: Form,
    ) -> Result<SoundCaches<T>, Error> {
        let heads = dims.decoder_heads;
        let numbers = slots * heads * AUDIO_POSITIONS * HEAD_WIDTH;
        let mut layers = Vec::new();
        for _ in 0..dims.decoder_layers {
            layers.push(match form {
                Form::Whole => Layer::Whole {
                    keys: device.uninitialised(numbers)?,
                    values: device.uninitialised(numbers)?,
                },
                Form::E4m3 => Layer::E4m3 {
                    keys: device.uninitialised(numbers)?,
                    values: device.uninitialised(numbers)?,
                    scales: device.uninitialised(slots * heads * 2)?,
                },
            });
        }
        Ok(SoundCaches { layers, slots, heads })
    }

    /// Those of one layer.
    pub fn layer(&mut self, layer: usize) -> Cache<'_, T> {
        let kept = match &mut self.layers[layer] {
            Layer::Whole { keys, values } => Kept::Whole { keys: keys.view_mut(), values: values.view_mut() },
            Layer::E4m3 { keys, values, scales } => {
                Kept::Bytes { keys: keys.view_mut(), values: values.view_mut(), scales: scales.view_mut() }
            }
        };
        Cache { kept, slots: self.slots, heads: self.heads, room: AUDIO_POSITIONS }
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> usize {
        let bytes = |layer: &Layer<T>| match layer {
            Layer::Whole { keys, values } => (keys.len() + values.len()) * size_of::<T>(),
            Layer::E4m3 { keys, values, scales } => {
                keys.len() + values.len() + scales.len() * size_of::<f32>()
            }
        };
        self.layers.iter().map(bytes).sum()
    }
}
