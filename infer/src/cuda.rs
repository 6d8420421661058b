//! CUDA's kernels as a backend: on a GPU, or in tests on the emulator of one. Weights and what is kept of sound and texts are in
//! f16 or bf16, sums and the residual stream in f32.
//!
//! A step is planned on the host ([`plan`]), which knows only how long texts are; what they say stays on the device until it is
//! answered, a step late: the host plans a step while the device does the one before.

use kernels::accelerator::{Accelerator, GraphKey};
use kernels::copy_rows::{self, RowCopy};
use kernels::device::Error;
use kernels::sample::{NONE, TOP_MAX};
use kernels::view::Half;

use crate::backend::{
    Alignment, Answer, Backend, Capacity, DeviceError, Report, Row, Run, Scored, Slot, Sound,
};
use crate::model::weights::Weights;
use crate::model::{AUDIO_POSITIONS, Dims, LoadError};
use crate::sampling::Rules;

pub mod decoder;
pub mod encoder;
pub mod inbox;
pub mod network;
pub mod plan;
pub mod product;
pub mod sampler;
pub mod sound;

#[cfg(test)]
mod tests;

use decoder::{Decoder, Look};
use encoder::Encoder;
use network::Network;
use plan::{Frame, Plan, Text, Told};
use sampler::{Results, Sampler};
use sound::SoundCaches;

pub use sound::Form;

/// Steps whose results are on their way while the next is asked for.
const LAG: usize = 1;

/// How much a [`Cuda`] is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaOptions {
    /// Windows of sound held at once.
    pub slots: usize,
    /// Texts held at once.
    pub rows: usize,
    /// Windows encoded at once.
    pub windows: usize,
    /// How the sound is kept.
    pub sound: Form,
}

/// A model on a device that runs CUDA's kernels, its weights in `T`.
pub struct Cuda<A, T> {
    device: A,
    name: String,
    form: Form,
    network: Network<T>,
    frame: Frame,
    end: u32,
    /// (decoder layer, head) ascending, and which of those asked for each is.
    alignment_heads: Vec<(usize, usize)>,
    alignment_places: Vec<usize>,
    encoder: Encoder<T>,
    decoder: Decoder<T>,
    sampler: Sampler,
    caches: SoundCaches<T>,
    /// Positions that each slot holds.
    heard: Vec<usize>,
    /// The last is for [`Backend::align`].
    texts: Vec<Text>,
    /// What is told of the step whose results are on their way, and where they go.
    under_way: Option<Vec<Told>>,
    turn: usize,
    answers: Vec<Answer>,
}

impl<A: Accelerator, T: Half> Cuda<A, T> {
    /// Loads a model on a device of this name. `rules` are those of its vocabulary; `alignment_heads` (decoder layer, head) are
    /// what [`Backend::align`] looks at.
    ///
    /// # Errors
    /// When the weights cannot be read, are of sizes that there are no kernels for, or do not fit the device's memory.
    pub fn load(
        mut device: A,
        name: String,
        weights: &Weights,
        rules: &Rules,
        alignment_heads: &[(usize, usize)],
        options: CudaOptions,
    ) -> Result<Cuda<A, T>, LoadError> {
        let dims = crate::model::dims(weights)?;
        runs(dims).map_err(|reason| LoadError::unsupported(weights.file(), reason))?;
        let CudaOptions { slots, rows, windows, sound } = options;
        let network = Network::load(&mut device, weights)?;
        let mut order: Vec<usize> = (0..alignment_heads.len()).collect();
        order.sort_unstable_by_key(|i| alignment_heads[*i]);
        let ascending: Vec<(usize, usize)> = order.iter().map(|i| alignment_heads[*i]).collect();
        let of_layer = |layer| ascending.iter().filter(|(of, _)| *of == layer).count();
        let looked_at = (0..dims.decoder_layers).map(of_layer).max().unwrap_or(0);
        // A row of logits tells of silence, another is sampled; the row behind the last is for `align`.
        let (rows, logits) = (rows + 1, 2 * rows);
        let encoder = Encoder::new(&mut device, dims, windows)?;
        let decoder = Decoder::new(&mut device, &network, (rows, logits, looked_at))?;
        let sampler = Sampler::new(&mut device, dims, rules, (rows, network.columns()))?;
        let caches = SoundCaches::new(&mut device, dims, slots, sound)?;
        let no_speech = rules.special.no_speech;
        Ok(Cuda {
            name,
            form: sound,
            frame: Frame {
                text_positions: dims.text_positions,
                room: AUDIO_POSITIONS,
                vocabulary: dims.vocabulary,
                no_speech,
            },
            end: rules.special.end,
            alignment_heads: ascending,
            alignment_places: order,
            encoder,
            decoder,
            sampler,
            caches,
            heard: vec![0; slots],
            texts: vec![Text::default(); rows],
            under_way: None,
            turn: 0,
            answers: Vec::new(),
            network,
            device,
        })
    }

    /// Asks the device for a step; its results go to the host at `turn`.
    fn start(&mut self, plan: &Plan, turn: usize) -> Result<(), Error> {
        let Cuda { device, network, decoder, sampler, caches, .. } = self;
        sampler.put(device, plan)?;
        if let Some(piece) = plan.even() {
            decoder.put(device, piece)?;
            let length = piece.greatest.first().map_or(0, |group| group.length as usize);
            let key = GraphKey { name: "step", numbers: [piece.items.len(), piece.groups.len(), length, 0] };
            device.graph(key, |device| {
                decoder.read(device, network, piece, caches, &sampler.next(), None)?;
                decoder.logits(device, network, plan.rows, false)?;
                sampler.sample(device, plan, &decoder.logits_view())
            })?;
        } else {
            for piece in &plan.pieces {
                decoder.put(device, piece)?;
                decoder.read(device, network, piece, caches, &sampler.next(), None)?;
                decoder.pick(device, &piece.wanted, network.dims.width)?;
            }
            decoder.logits(device, network, plan.rows, true)?;
            sampler.sample(device, plan, &decoder.logits_view())?;
        }
        sampler.answer(device, plan, &decoder.logits_view())?;
        sampler.send(device, plan, turn)
    }

    /// Reads what came of the step before.
    fn finish(&mut self, told: &[Told], turn: usize) -> Result<(), Error> {
        let results = self.sampler.results(turn)?;
        self.answers.clear();
        self.answers.extend(told.iter().map(|told| answer(told, &results)));
        Ok(())
    }

    fn read_alone(&mut self, slot: usize, tokens: &[u32]) -> Result<Alignment, Error> {
        let Cuda { device, network, decoder, sampler, caches, .. } = self;
        let (positions, end) = (self.heard[slot], self.end);
        let heads = self.alignment_heads.len();
        // A token's probability stands behind the token before it; the first has none to stand behind.
        let is_told = |i: usize| i > 0 && tokens[i] < end;
        let wanted = |i: usize| i + 1 < tokens.len() && is_told(i + 1);
        let plan = Plan::of_text(self.texts.len() - 1, slot, tokens, wanted, positions, AUDIO_POSITIONS);
        let mut scores = vec![0.0; heads * tokens.len() * positions];
        let mut probabilities = vec![1.0; tokens.len()];
        let told: Vec<usize> = (0..tokens.len()).filter(|i| is_told(*i)).collect();
        let rows_max = decoder.logits_max(network);
        let mut before = 0;
        for piece in &plan.pieces {
            let mut look = Look {
                heads: &self.alignment_heads,
                scores: &mut scores,
                tokens: tokens.len(),
                before,
                positions,
            };
            decoder.put(device, piece)?;
            decoder.read(device, network, piece, caches, &sampler.next(), Some(&mut look))?;
            before += piece.items.len();
            for some in piece.wanted.chunks(rows_max) {
                let asked: Vec<u32> = some.iter().map(|(_, row)| tokens[told[*row]]).collect();
                let picked: Vec<(usize, usize)> =
                    some.iter().enumerate().map(|(row, (item, _))| (*item, row)).collect();
                decoder.pick(device, &picked, network.dims.width)?;
                decoder.logits(device, network, picked.len(), true)?;
                let logprobs = sampler.ask_each(device, &asked, end, &decoder.logits_view())?;
                for ((_, row), logprob) in some.iter().zip(logprobs) {
                    probabilities[told[*row]] = logprob.exp();
                }
            }
        }
        // Heads stand as they were asked for.
        let size = tokens.len() * positions;
        let mut ordered = vec![0.0; scores.len()];
        if size > 0 {
            for (from, place) in scores.chunks_exact(size).zip(&self.alignment_places) {
                ordered[place * size..(place + 1) * size].copy_from_slice(from);
            }
        }
        Ok(Alignment { scores: ordered, heads, positions, probabilities })
    }

    fn copy_texts(&mut self, copies: &[(Row, Row)]) -> Result<(), Error> {
        let of = |(from, to): &(Row, Row)| RowCopy {
            from: from.0 as u32,
            to: to.0 as u32,
            positions: self.texts[from.0].length as u32,
        };
        let groups = copy_rows::groups(&copies.iter().map(of).collect::<Vec<_>>())?;
        if !groups.is_empty() {
            let Cuda { device, network, decoder, sampler, .. } = self;
            decoder.copy_rows(device, network.dims, &groups)?;
            sampler.copy_rows(device, &groups, &decoder.copies())?;
        }
        let texts: Vec<Text> = copies.iter().map(|(from, _)| self.texts[from.0]).collect();
        for ((_, to), text) in copies.iter().zip(texts) {
            self.texts[to.0] = text;
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.encoder.bytes() + self.decoder.bytes() + self.sampler.bytes() + self.caches.bytes()
    }
}

impl<A: Accelerator + Send, T: Half> Backend for Cuda<A, T> {
    fn dims(&self) -> Dims {
        self.network.dims
    }

    fn capacity(&self) -> Capacity {
        let (slots, rows) = (self.heard.len(), self.texts.len() - 1);
        Capacity { slots, rows, windows: self.encoder.windows(), lag: LAG }
    }

    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError> {
        for sounds in sounds.chunks(self.encoder.windows()) {
            let Cuda { device, network, encoder, caches, .. } = self;
            encoder.encode(device, network, sounds, caches)?;
            for sound in sounds {
                self.heard[sound.slot.0] = sound.positions;
            }
        }
        Ok(())
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        let before = self.under_way.take();
        let turn_before = self.turn;
        if !step.is_empty() {
            self.turn ^= 1;
            let rows = self.texts.len() - 1;
            let plan = Plan::new(step, &mut self.texts[..rows], &self.heard, self.frame);
            self.start(&plan, self.turn)?;
            self.under_way = Some(plan.told);
        }
        match before {
            Some(told) => self.finish(&told, turn_before)?,
            None => self.answers.clear(),
        }
        Ok(&self.answers)
    }

    fn copy_rows(&mut self, copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        Ok(self.copy_texts(copies)?)
    }

    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError> {
        assert!(self.heard[slot.0] > 0, "the slot holds sound");
        Ok(self.read_alone(slot.0, tokens)?)
    }

    fn report(&self) -> Report {
        let precision = T::pick("f16", "bf16");
        let sound = match self.form {
            Form::Whole => "",
            Form::E4m3 => ", sound in e4m3",
        };
        Report {
            device: format!("{} {precision}{sound}", self.name),
            weight_bytes: self.network.bytes,
            state_bytes: self.state_bytes(),
        }
    }
}

impl From<Error> for DeviceError {
    fn from(error: Error) -> DeviceError {
        DeviceError { reason: error.to_string(), is_lost: error.is_lost() }
    }
}

/// Says what of a model's sizes there are no kernels for.
fn runs(dims: Dims) -> Result<(), String> {
    let Dims { width, inner, encoder_heads, decoder_heads, .. } = dims;
    let head = kernels::cross_cache::HEAD_WIDTH;
    for (side, heads) in [("encoder", encoder_heads), ("decoder", decoder_heads)] {
        if width != heads * head {
            return Err(format!(
                "its {heads} {side} heads are {} wide; on a GPU heads are {head} wide, as in every Whisper: run it with \
                 --infer-backend cpu",
                width / heads
            ));
        }
    }
    let widest = kernels::layer_norm::WIDTH_MAX;
    if width > widest || !inner.is_multiple_of(64) {
        return Err(format!(
            "its states are {width} and {inner} wide; a GPU takes up to {widest}, and multiples of 64: run it with \
             --infer-backend cpu"
        ));
    }
    Ok(())
}

/// What a run is answered.
fn answer(told: &Told, results: &Results<'_>) -> Answer {
    let tokens = match told.sampled {
        Some((row, top)) => {
            let of_row = row * TOP_MAX..(row + 1) * TOP_MAX;
            let scored = results.tokens[of_row.clone()].iter().zip(&results.scores[of_row]);
            let scored = scored.map(|(token, score)| (*token, *score));
            match top {
                0 => scored.take(1).collect(),
                _ => scored.take(top).take_while(|(token, _)| *token != NONE).collect(),
            }
        }
        None => among(told, results),
    };
    let no_speech_prob = told.no_speech.map(|i| results.told[i].exp());
    Answer { row: Row(told.row), tokens, no_speech_prob }
}

/// Probabilities of tokens among themselves.
fn among(told: &Told, results: &Results<'_>) -> Scored {
    let logprobs = &results.told[told.among.clone()];
    let max = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logprobs.iter().map(|x| (x - max).exp()).sum();
    told.weighed.iter().zip(logprobs).map(|(token, x)| (*token, (x - max).exp() / total)).collect()
}
