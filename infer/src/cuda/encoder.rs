//! Windows of sound become what the decoder hears of them.

use kernels::accelerator::Accelerator;
use kernels::conv::{self, conv};
use kernels::cross_cache::fill_slot;
use kernels::device::Error;
use kernels::encoder_attention::{self, encoder_attention};
use kernels::log_mel::{self, Band, DeviceTables, Tables, log_mel};
use kernels::memory::{Memory, Pinned};
use kernels::product::Output;
use kernels::view::Half;

use super::inbox::Inbox;
use super::network::Network;
use super::product::{Input, product};
use super::sound::SoundCaches;
use crate::backend::Sound;
use crate::engine::SEGMENT_SAMPLES_MAX;
use crate::features::{Features, WINDOW_FRAMES};
use crate::model::{AUDIO_POSITIONS, Dims};

/// Memory of the encoder, for a batch of windows one behind the other, none of them padded to the length of another.
pub struct Encoder<T> {
    windows: usize,
    /// Samples of the windows' segments, each from a multiple of 8 on: as the host writes them, and on the device.
    written: Pinned<i16>,
    pcm: Memory<i16>,
    heard_of: Inbox<log_mel::Window>,
    numbers: Memory<f32>,
    bands: Memory<Band>,
    /// Logarithms of bands, (frames, mels), and the loudest of some frames.
    logs: Memory<f32>,
    loudest: Memory<f32>,
    /// What is heard, (frames, mels).
    mel: Memory<T>,
    frames_of: Inbox<conv::Window>,
    positions_of: Inbox<encoder_attention::Window>,
    /// What the first convolution gives, (frames, width).
    hidden: Memory<T>,
    /// The states, (positions, width).
    x: Memory<f32>,
    /// The same as a layer reads them.
    normed: Memory<T>,
    /// (positions, 3 width); behind the last layer keys and values of the decoder's, (positions, 2 width).
    qkv: Memory<T>,
    /// (positions, width)
    mixed: Memory<T>,
    /// (positions, inner)
    wide: Memory<T>,
}

impl<T: Half> Encoder<T> {
    /// Room for so many windows at once.
    pub fn new(device: &mut impl Accelerator, dims: Dims, windows: usize) -> Result<Encoder<T>, Error> {
        let Dims { mels, width, inner, .. } = dims;
        let (frames, positions) = (windows * WINDOW_FRAMES, windows * AUDIO_POSITIONS);
        let tables = Tables::new(Features::new(mels).bands())?;
        let loudest = log_mel::Workspace::loudest_len(windows, SEGMENT_SAMPLES_MAX);
        Ok(Encoder {
            windows,
            written: device.pinned(windows * SEGMENT_SAMPLES_MAX)?,
            pcm: device.uninitialised(windows * SEGMENT_SAMPLES_MAX)?,
            heard_of: Inbox::new(device, windows)?,
            numbers: device.stored(&tables.numbers)?,
            bands: device.stored(&tables.bands)?,
            logs: device.uninitialised(frames * mels)?,
            loudest: device.uninitialised(loudest)?,
            mel: device.uninitialised(frames * mels)?,
            frames_of: Inbox::new(device, windows)?,
            positions_of: Inbox::new(device, windows)?,
            hidden: device.uninitialised(frames * width)?,
            x: device.uninitialised(positions * width)?,
            normed: device.uninitialised(positions * width)?,
            qkv: device.uninitialised(positions * 3 * width)?,
            mixed: device.uninitialised(positions * width)?,
            wide: device.uninitialised(positions * inner)?,
        })
    }

    /// Windows that it takes at once.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> usize {
        let halves = [&self.mel, &self.hidden, &self.normed, &self.qkv, &self.mixed, &self.wide];
        halves.iter().map(|memory| memory.len() * size_of::<T>()).sum::<usize>()
            + [&self.x, &self.numbers, &self.logs, &self.loudest]
                .iter()
                .map(|memory| memory.len())
                .sum::<usize>()
                * size_of::<f32>()
            + self.pcm.len() * size_of::<i16>()
            + self.bands.len() * size_of::<Band>()
            + self.heard_of.bytes()
            + self.frames_of.bytes()
            + self.positions_of.bytes()
    }

    /// Encodes windows into their slots.
    pub fn encode(
        &mut self,
        device: &mut impl Accelerator,
        network: &Network<T>,
        sounds: &[Sound<'_>],
        caches: &mut SoundCaches<T>,
    ) -> Result<(), Error> {
        let Dims { mels, width, encoder_heads, .. } = network.dims;
        let (mut heard_of, mut frames_of, mut positions_of) = (Vec::new(), Vec::new(), Vec::new());
        let (mut samples, mut frames, mut positions) = (0, 0, 0);
        for sound in sounds {
            self.written.get_mut()?[samples..samples + sound.pcm.len()].copy_from_slice(sound.pcm);
            let own = 2 * sound.positions;
            heard_of.push(log_mel::Window {
                pcm: samples as u32,
                samples: sound.pcm.len() as u32,
                from: sound.from as u32,
                heard: sound.frames as u32,
                row: frames as u32,
                frames: own as u32,
            });
            let (frame, position) = (frames as u32, positions as u32);
            frames_of.push(conv::Window { frame, frames: own as u32, position });
            let length = sound.positions as u32;
            positions_of.push(encoder_attention::Window { first: position, length });
            samples += sound.pcm.len().next_multiple_of(8);
            (frames, positions) = (frames + own, positions + sound.positions);
        }
        if samples > 0 {
            device.upload_later(&mut self.written, &mut self.pcm.view_mut().part_mut(0..samples)?)?;
        }
        self.heard_of.put(device, &heard_of)?;
        self.frames_of.put(device, &frames_of)?;
        self.positions_of.put(device, &positions_of)?;

        let tables = DeviceTables { numbers: self.numbers.view(), bands: self.bands.view() };
        let (logs, loudest) = (self.logs.view_mut(), self.loudest.view_mut());
        let mut workspace = log_mel::Workspace { logs, loudest };
        let (windows, mut mel) = (self.heard_of.view(), self.mel.view_mut());
        log_mel(device, &self.pcm.view(), &heard_of, &windows, tables, &mut workspace, &mut mel)?;

        let weights = conv::Weights {
            first: network.first.weights.view(),
            first_bias: network.first.bias.view(),
            second: network.second.weights.view(),
            second_bias: network.second.bias.view(),
            positions: network.sound_positions.view(),
            mels,
            width,
        };
        let (mut hidden, mut x) = (self.hidden.view_mut(), self.x.view_mut());
        conv(device, &self.mel.view(), &frames_of, &self.frames_of.view(), weights, &mut hidden, &mut x)?;
        for layer in &network.encoder {
            let input = Input::Normed(&mut self.x, &layer.own.norm, &mut self.normed);
            product(device, input, &layer.own.qkv, Output::Store(self.qkv.view_mut()), positions)?;
            let (windows, mut mixed) = (self.positions_of.view(), self.mixed.view_mut());
            let qkv = self.qkv.view();
            encoder_attention(device, &qkv, &positions_of, &windows, &mut mixed, encoder_heads)?;
            let input = Input::Plain(&self.mixed);
            product(device, input, &layer.own.out, Output::Add(self.x.view_mut()), positions)?;
            let input = Input::Normed(&mut self.x, &layer.feed.norm, &mut self.normed);
            product(device, input, &layer.feed.widen, Output::Gelu(self.wide.view_mut()), positions)?;
            let input = Input::Plain(&self.wide);
            product(device, input, &layer.feed.narrow, Output::Add(self.x.view_mut()), positions)?;
        }
        for (i, layer) in network.decoder.iter().enumerate() {
            let input = Input::Normed(&mut self.x, &network.encoder_norm, &mut self.normed);
            product(device, input, &layer.cross_kv, Output::Store(self.qkv.view_mut()), positions)?;
            for (sound, window) in sounds.iter().zip(&positions_of) {
                let first = window.first as usize * 2 * width;
                let kv = self.qkv.view().part(first..first + sound.positions * 2 * width)?;
                fill_slot(device, &kv, sound.positions, &mut caches.layer(i), sound.slot.0)?;
            }
        }
        Ok(())
    }
}
