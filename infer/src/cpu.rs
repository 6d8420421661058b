//! The processor as a backend: weights in int8, bf16 or f32 ([`linear`]), attention of its own ([`attention`]), a few threads
//! ([`team`]). A step answers itself.

use smallvec::smallvec;

use crate::backend::{
    Alignment, Answer, Ask, Backend, Capacity, DeviceError, Feed, Report, Row, Run, Scored, Slot, Sound,
};
use crate::features::Features;
use crate::math::log_sum_exp;
use crate::model::weights::Weights;
use crate::model::{AUDIO_POSITIONS, Dims, LoadError, dims};
use crate::sampling::{self, Rules, Sampling, State};

pub mod attention;
pub mod decoder;
pub mod encoder;
pub mod image;
pub mod linear;
pub mod network;
pub mod packed;
pub mod parts;
pub mod team;

#[cfg(test)]
mod tests;

pub use attention::Arithmetic;
pub use image::Precision;

use attention::{Heads, SoundCache};
use decoder::Decoder;
use encoder::{Encoder, Machine, arithmetic};
use image::Image;
use linear::Isa;
use network::Places;
use parts::Parts;
use team::Team;

/// What a [`Cpu`] is to hold and to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Form of the weights, and of the arithmetic.
    pub precision: Precision,
    /// Threads, the calling one included; at least 1.
    pub threads: usize,
    /// Windows of sound held at once.
    pub slots: usize,
    /// Texts held at once.
    pub rows: usize,
}

impl Default for CpuOptions {
    fn default() -> CpuOptions {
        CpuOptions { precision: Precision::Int8, threads: 1, slots: 4, rows: 16 }
    }
}

/// A model on the processor.
pub struct Cpu {
    isa: Isa,
    team: Team,
    places: Places,
    image: Image,
    features: Features,
    rules: Rules,
    /// (decoder layer, head)
    alignment_heads: Vec<(usize, usize)>,
    encoder: Encoder,
    decoder: Decoder,
    /// For each slot a cache for each layer of the decoder.
    slots: Vec<Vec<SoundCache>>,
    rows: Vec<Text>,
    scratch: Scratch,
}

/// A text in the making.
#[derive(Debug, Clone, Copy)]
struct Text {
    /// The sound that it hears.
    slot: usize,
    /// Tokens read.
    length: usize,
    state: State,
    sampling: Sampling,
    /// The token that it was answered last.
    last: Option<u32>,
}

/// Memory for a step, kept so that none is asked for.
#[derive(Default)]
struct Scratch {
    /// (slot, index of the run), ascending.
    order: Vec<(usize, usize)>,
    wanted: Vec<Wanted>,
    /// The item of each that is wanted.
    items: Vec<usize>,
    told: Vec<Told>,
    answers: Vec<Answer>,
}

/// A row of logits that a step needs.
struct Wanted {
    /// Index of the run.
    run: usize,
    /// Whether the probability of silence is read from it.
    no_speech: bool,
    /// Whether the run's question is.
    ask: bool,
}

/// What was read from a row of logits.
#[derive(Default)]
struct Told {
    no_speech: Option<f32>,
    tokens: Option<Scored>,
}

impl Cpu {
    /// Loads a model. `rules` are those of its vocabulary; `alignment_heads` (decoder layer, head) are what
    /// [`Backend::align`] looks at.
    pub fn load(
        weights: &Weights,
        rules: Rules,
        alignment_heads: Vec<(usize, usize)>,
        options: CpuOptions,
    ) -> Result<Cpu, LoadError> {
        let CpuOptions { precision, threads, slots, rows } = options;
        let places = Places::new(dims(weights)?, precision);
        let image = packed::load(&places, weights)?;
        let Dims { mels, width, decoder_heads, decoder_layers, .. } = places.dims;
        assert!(
            alignment_heads.iter().all(|(layer, head)| *layer < decoder_layers && *head < decoder_heads),
            "alignment heads are heads of the decoder"
        );
        let team = Team::new(threads);
        let heads = Heads { count: decoder_heads, width: width / decoder_heads };
        let sound = || SoundCache::new(heads, AUDIO_POSITIONS, arithmetic(precision));
        let empty =
            Text { slot: 0, length: 0, state: State::new(), sampling: Sampling::default(), last: None };
        Ok(Cpu {
            isa: Isa::detect(),
            features: Features::new(mels),
            rules,
            alignment_heads,
            encoder: Encoder::new(&places, team.threads()),
            // The row behind the last is for `align`.
            decoder: Decoder::new(&places, rows + 1),
            slots: (0..slots).map(|_| (0..decoder_layers).map(|_| sound()).collect()).collect(),
            rows: vec![empty; rows],
            scratch: Scratch::default(),
            team,
            places,
            image,
        })
    }

    fn machine(&self) -> Machine<'_> {
        Machine { isa: self.isa, team: &self.team, places: &self.places, image: &self.image }
    }

    /// Encodes a window and returns the encoder's states, (positions, width).
    fn encode_one(&mut self, sound: &Sound<'_>) -> &[f32] {
        let Cpu { isa, team, places, image, features, encoder, slots, .. } = self;
        let mel = features.compute(sound.pcm);
        let machine = Machine { isa: *isa, team, places, image };
        encoder.encode(machine, &mel, sound, &mut slots[sound.slot.0])
    }

    /// Takes what a run feeds into its row; returns where its new tokens begin and the tokens.
    fn feed<'a>(rows: &mut [Text], rules: &Rules, run: &Run<'a>) -> (usize, Fed<'a>) {
        let row = &mut rows[run.row.0];
        let sampled = |row: &mut Text, token: u32| {
            row.state.push(token, &rules.special);
            Fed::One(token)
        };
        let fed = match run.feed {
            Feed::Start { slot, prompt, start, sampling } => {
                assert!(start < prompt.len(), "the start is in the prompt");
                *row = Text { slot: slot.0, length: 0, state: State::new(), sampling, last: None };
                Fed::Many(prompt)
            }
            Feed::Sampled => {
                let token = row.last.expect("a row that goes on was answered a token");
                sampled(row, token)
            }
            Feed::Chosen(token) => sampled(row, token),
        };
        let start = row.length;
        row.length += fed.len();
        (start, fed)
    }
}

/// Tokens that a row reads.
enum Fed<'a> {
    One(u32),
    Many(&'a [u32]),
}

impl Fed<'_> {
    fn len(&self) -> usize {
        match self {
            Fed::One(_) => 1,
            Fed::Many(tokens) => tokens.len(),
        }
    }

    fn tokens(&self) -> impl Iterator<Item = u32> {
        let (one, many) = match self {
            Fed::One(token) => (Some(*token), &[][..]),
            Fed::Many(tokens) => (None, *tokens),
        };
        one.into_iter().chain(many.iter().copied())
    }
}

impl Backend for Cpu {
    fn dims(&self) -> Dims {
        self.places.dims
    }

    fn capacity(&self) -> Capacity {
        Capacity { slots: self.slots.len(), rows: self.rows.len(), windows: 1, lag: 0 }
    }

    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError> {
        for sound in sounds {
            self.encode_one(sound);
        }
        Ok(())
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        let Scratch { order, wanted, items, told, answers } = &mut self.scratch;
        // Rows that hear one slot stand together, so that they share its keys and values.
        let heard = |run: &Run<'_>| match run.feed {
            Feed::Start { slot, .. } => slot.0,
            _ => self.rows[run.row.0].slot,
        };
        order.clear();
        order.extend(step.iter().map(heard).enumerate().map(|(i, slot)| (slot, i)));
        order.sort_unstable();
        self.decoder.clear();
        wanted.clear();
        items.clear();
        for &(slot, index) in order.iter() {
            let run = &step[index];
            let (start, fed) = Cpu::feed(&mut self.rows, &self.rules, run);
            assert!(fed.len() > 0, "a row reads something");
            assert!(slots_filled(&self.slots[slot]), "every slot that is heard holds sound");
            let first = self.decoder.push(slot, run.row.0, start, fed.tokens());
            let last = first + fed.len() - 1;
            let prompt_start = match run.feed {
                Feed::Start { start, .. } => Some(first + start),
                _ => None,
            };
            if let Some(item) = prompt_start.filter(|item| *item != last) {
                items.push(item);
                wanted.push(Wanted { run: index, no_speech: true, ask: false });
            }
            items.push(last);
            wanted.push(Wanted { run: index, no_speech: prompt_start == Some(last), ask: true });
        }
        let machine = Machine { isa: self.isa, team: &self.team, places: &self.places, image: &self.image };
        self.decoder.run(machine, &self.slots, None);
        told.clear();
        told.resize_with(wanted.len(), Told::default);
        let parts = Parts::new(told);
        let (rows, rules, wanted) = (&self.rows, &self.rules, &*wanted);
        self.decoder.read(machine, items, &|i, logits| {
            let Wanted { run, no_speech, ask } = wanted[i];
            let run = &step[run];
            let row = &rows[run.row.0];
            // SAFETY: each row of logits is read once.
            let told = &mut unsafe { parts.part(i, 1) }[0];
            told.no_speech = no_speech.then(|| probability(logits, rules.special.no_speech));
            told.tokens = ask.then(|| answer(run.ask, row, rules, logits));
        });
        answers.clear();
        answers.extend(step.iter().map(|run| Answer {
            row: run.row,
            tokens: Scored::new(),
            no_speech_prob: None,
        }));
        for (wanted, told) in wanted.iter().zip(told) {
            let answer = &mut answers[wanted.run];
            answer.no_speech_prob = told.no_speech.or(answer.no_speech_prob);
            if let Some(tokens) = told.tokens.take() {
                answer.tokens = tokens;
            }
        }
        for (run, answer) in step.iter().zip(&*answers) {
            if run.ask == Ask::Token {
                self.rows[run.row.0].last = answer.tokens.first().map(|(token, _)| *token);
            }
        }
        Ok(answers)
    }

    fn copy_rows(&mut self, copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        let moved: Vec<(usize, usize, usize)> = copies
            .iter()
            .filter(|(from, to)| from != to)
            .map(|(from, to)| (from.0, to.0, self.rows[from.0].length))
            .collect();
        self.decoder.copy_rows(&moved);
        let texts: Vec<Text> = moved.iter().map(|(from, ..)| self.rows[*from]).collect();
        for ((_, to, _), text) in moved.iter().zip(texts) {
            self.rows[*to] = text;
        }
        Ok(())
    }

    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError> {
        let machine = Machine { isa: self.isa, team: &self.team, places: &self.places, image: &self.image };
        let positions = self.slots[slot.0][0].positions();
        assert!(positions > 0, "the slot holds sound");
        let heads = &self.alignment_heads;
        let size = tokens.len() * positions;
        let mut scores = vec![0.0; heads.len() * size];
        self.decoder.clear();
        self.decoder.push(slot.0, self.rows.len(), 0, tokens.iter().copied());
        let team = &self.team;
        let mut look = |layer: usize, queries: &[f32], cache: &SoundCache| {
            let parts = Parts::new(&mut scores);
            team.run(heads.len(), &|_, i| {
                let (own_layer, head) = heads[i];
                if own_layer == layer {
                    // SAFETY: a head for each task.
                    cache.scores(head, queries, unsafe { parts.part(i * size, size) });
                }
            });
        };
        self.decoder.run(machine, &self.slots, Some(&mut look));
        let mut probabilities = vec![1.0; tokens.len()];
        let end = self.rules.special.end;
        // A token's probability stands behind the token before it; the first has none to stand behind.
        let texts: Vec<usize> = text_tokens(tokens, end).collect();
        let items: Vec<usize> = texts.iter().map(|i| i - 1).collect();
        let parts = Parts::new(&mut probabilities);
        self.decoder.read(machine, &items, &|i, logits| {
            // SAFETY: a token for each row of logits.
            let told = &mut unsafe { parts.part(texts[i], 1) }[0];
            *told = probability(&logits[..end as usize], tokens[texts[i]]);
        });
        Ok(Alignment { scores, heads: heads.len(), positions, probabilities })
    }

    fn report(&self) -> Report {
        let Machine { isa, team, places, .. } = self.machine();
        let threads = team.threads();
        let plural = if threads == 1 { "" } else { "s" };
        Report {
            device: format!(
                "cpu {} {}, attention {}, {threads} thread{plural}",
                isa.name(),
                places.precision.name(),
                attention::Isa::best(places.dims.width / places.dims.decoder_heads).name(),
            ),
            weight_bytes: self.image.size(),
            state_bytes: self.slots.iter().flatten().map(SoundCache::bytes).sum::<usize>()
                + self.encoder.bytes()
                + self.decoder.bytes(),
        }
    }
}

/// Indices of the tokens whose probability is told: text, behind the first token.
fn text_tokens(tokens: &[u32], end: u32) -> impl Iterator<Item = usize> {
    (1..tokens.len()).filter(move |i| tokens[*i] < end)
}

fn slots_filled(slot: &[SoundCache]) -> bool {
    slot.iter().all(|cache| cache.positions() > 0)
}

/// What a row is answered, from its raw logits.
fn answer(ask: Ask<'_>, row: &Text, rules: &Rules, logits: &mut [f32]) -> Scored {
    match ask {
        Ask::Token => {
            rules.apply(row.state, &row.sampling, logits);
            smallvec![sampling::choose(logits, &row.sampling, row.state.count, rules.special.end)]
        }
        Ask::Top(count) => {
            rules.apply(row.state, &row.sampling, logits);
            sampling::top(logits, count)
        }
        Ask::Among(tokens) => {
            let of = |token: &u32| logits[*token as usize];
            let max = tokens.iter().map(of).fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = tokens.iter().map(|token| (of(token) - max).exp()).sum();
            tokens.iter().map(|token| (*token, (of(token) - max).exp() / total)).collect()
        }
    }
}

/// Probability of a token under raw logits.
fn probability(logits: &[f32], token: u32) -> f32 {
    (logits[token as usize] - log_sum_exp(logits, sampling::max(logits))).exp()
}
