//! What the decoder hears: keys and values of windows in slots, for each of its layers.

use kernels::accelerator::Accelerator;
use kernels::cross_cache::{Cache, HEAD_WIDTH, Kept};
use kernels::device::Error;
use kernels::memory::Memory;
use kernels::view::Half;

use crate::model::{AUDIO_POSITIONS, Dims};

/// Keys and values of all layers.
pub struct SoundCaches<T> {
    layers: Vec<[Memory<T>; 2]>,
    slots: usize,
    heads: usize,
}

impl<T: Half> SoundCaches<T> {
    /// Room for windows of 30 s.
    pub fn new(device: &mut impl Accelerator, dims: Dims, slots: usize) -> Result<SoundCaches<T>, Error> {
        let heads = dims.decoder_heads;
        let values = slots * heads * AUDIO_POSITIONS * HEAD_WIDTH;
        let mut layers = Vec::new();
        for _ in 0..dims.decoder_layers {
            layers.push([device.uninitialised(values)?, device.uninitialised(values)?]);
        }
        Ok(SoundCaches { layers, slots, heads })
    }

    /// Those of one layer.
    pub fn layer(&mut self, layer: usize) -> Cache<'_, T> {
        let [keys, values] = &mut self.layers[layer];
        let kept = Kept::Whole { keys: keys.view_mut(), values: values.view_mut() };
        Cache { kept, slots: self.slots, heads: self.heads, room: AUDIO_POSITIONS }
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(|memory| memory.len() * size_of::<T>()).sum()
    }
}
