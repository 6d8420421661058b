//! The whole way from a recording's bytes to its segments, one bounded step at a time, and the same from any
//! segment on.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::SAMPLE_RATE;
use crate::container::{Block, Container, Next};
use crate::error::DecodeError;
use crate::ffmpeg::{Ffmpeg, Pipe};
use crate::resample::Resampler;
use crate::segment::{CUTTER_VERSION, Cut, Cutter, FRAME_SAMPLES, SEGMENT_MS_MAX};
use crate::source::{Handle, Source};
use crate::speech::{BATCH_SAMPLES, Detector, Frame, HEARD_SAMPLES};

/// Sound decoded in one step, in milliseconds.
const STEP_MS: u64 = 1_000;
/// Output channels with `Channels::Each`.
const CHANNELS_MAX: u16 = 8;
/// The largest sample that is taken for sound, nominally 1: some files hold whole numbers of 16 bits as floats.
const LOUDEST: f32 = 1e6;

/// What becomes of the channels of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// All averaged into one.
    #[default]
    Mix,
    /// Each for itself, as in a call with one speaker on each.
    Each,
}

/// How to decode. The same options must be given when a run is resumed.
#[derive(Clone, Debug)]
pub struct DecodeOptions {
    /// Mix the channels or keep them apart.
    pub channels: Channels,
    /// The file's name as it was handed in. Only a hint: the content decides.
    pub hint: Option<String>,
    /// Recordings longer than this many milliseconds end in [`DecodeError::TooLong`].
    pub max_audio_ms: u64,
    /// No segment is longer, in milliseconds; at most 30 s.
    pub max_segment_ms: u32,
    /// The fallback for codecs that are not built in; none: it is not used.
    pub ffmpeg: Option<Ffmpeg>,
}

impl Default for DecodeOptions {
    fn default() -> DecodeOptions {
        DecodeOptions {
            channels: Channels::Mix,
            hint: None,
            max_audio_ms: 24 * 3_600_000,
            max_segment_ms: SEGMENT_MS_MAX,
            ffmpeg: None,
        }
    }
}

/// Where a run stands after a part: all that is needed to produce what follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The version of the cutter that made the cuts so far.
    pub version: u32,
    /// One for each output channel.
    pub channels: Vec<ChannelCursor>,
}

/// Where one output channel stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelCursor {
    /// The index of the next segment.
    pub next_index: u32,
    /// The end of the last segment, in samples at 16 kHz.
    pub next_sample: u64,
    /// Samples in all segments so far.
    pub speech_samples: u64,
}

/// A segment of speech.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The output channel; 0 when channels are mixed.
    pub channel: u16,
    /// Counts the segments of the channel from 0.
    pub index: u32,
    /// First sample at 16 kHz since the start of the recording.
    pub start_sample: u64,
    /// The sample after the last.
    pub end_sample: u64,
    /// The sound: 16 kHz, mono, `end_sample - start_sample` samples.
    pub pcm: Vec<i16>,
    /// Where in it speech was detected, in milliseconds since `start_sample`, in order.
    pub speech_ms: Vec<Range<u64>>,
    /// Where the run stands after this part.
    pub cursor: Cursor,
}

impl Part {
    /// Start in milliseconds.
    pub fn start_ms(&self) -> u64 {
        to_ms(self.start_sample)
    }

    /// End in milliseconds.
    pub fn end_ms(&self) -> u64 {
        to_ms(self.end_sample)
    }

    /// The sound as little-endian bytes, two for each sample.
    pub fn pcm_bytes(&self) -> Vec<u8> {
        self.pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }
}

/// What a recording is, by its header and its first packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// wav, mp3, ogg, mp4 ...
    pub container: String,
    /// PCM, MP3, Opus ...
    pub codec: String,
    /// What decodes it: `symphonia`, `opus` or `ffmpeg`.
    pub decoder: String,
    /// Hz.
    pub source_rate: u32,
    /// Channels in the recording.
    pub source_channels: u16,
    /// Output channels: 1 when they are mixed.
    pub channels: u16,
    /// Length by the header's word, in milliseconds: an estimate, and none where the header says nothing credible.
    pub estimated_ms: Option<u64>,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Sound decoded so far, in milliseconds.
    pub decoded_ms: u64,
    /// The whole length by the header's word; an estimate.
    pub estimated_ms: Option<u64>,
}

/// What became of a recording, from its start, however often the run was resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What the recording is.
    pub info: Info,
    /// Length of the sound in milliseconds.
    pub audio_ms: u64,
    /// Length of all segments together, over all output channels, in milliseconds.
    pub speech_ms: u64,
    /// Segments of each output channel.
    pub segments: Vec<u32>,
    /// Where the file broke off, in milliseconds, if it did.
    pub truncated_at_ms: Option<u64>,
    /// Why it broke off.
    pub truncated_reason: Option<String>,
    /// Packets that could not be decoded and were replaced by silence.
    pub damaged_packets: u64,
}

/// What a step brought.
#[derive(Clone, Debug)]
pub enum Step {
    /// A segment is complete.
    Part(Part),
    /// Some sound was decoded; call again.
    Working,
    /// The recording has ended.
    End(Summary),
}

/// A recording being decoded. Blocking; does its work in [`step`](Decoder::step) only.
pub struct Decoder {
    feed: Feed,
    block: Block,
    options: DecodeOptions,
    info: Info,
    lanes: Vec<Lane>,
    ready: std::collections::VecDeque<Part>,
    /// Set when all sound has been taken in.
    ended: Option<Summary>,
    failed: bool,
}

/// Where decoded sound comes from.
enum Feed {
    Native(Box<Container>),
    Ffmpeg(Box<Pipe>),
}

impl Decoder {
    /// Opens a recording and finds out what it is.
    pub fn open(source: impl Source, options: DecodeOptions) -> Result<Decoder, DecodeError> {
        Decoder::start(Box::new(source), options, None)
    }

    /// Opens a recording to continue after the part that came with `cursor`: it is decoded again from its start, and
    /// the parts after the cursor and the summary are bit for bit those of a run that was never interrupted.
    pub fn resume(
        source: impl Source,
        options: DecodeOptions,
        cursor: &Cursor,
    ) -> Result<Decoder, DecodeError> {
        Decoder::start(Box::new(source), options, Some(cursor))
    }

    fn start(
        source: Box<dyn Source>,
        options: DecodeOptions,
        cursor: Option<&Cursor>,
    ) -> Result<Decoder, DecodeError> {
        let handle = Handle::new(source).map_err(DecodeError::Source)?;
        let feed = Feed::open(handle, &options)?;
        let mut info = feed.info().clone();
        let over = |limit| info.estimated_ms.is_some_and(|ms| ms > limit);
        if over(options.max_audio_ms) && feed.estimate_is_plausible() {
            return Err(DecodeError::TooLong { limit_ms: options.max_audio_ms });
        }
        info.channels = match options.channels {
            Channels::Mix => 1,
            Channels::Each if info.source_channels <= CHANNELS_MAX => info.source_channels.max(1),
            Channels::Each => {
                return Err(DecodeError::Unsupported {
                    what: format!("{} channels cannot be transcribed each for itself", info.source_channels),
                    remedy: format!("mix them, or send at most {CHANNELS_MAX}"),
                });
            }
        };
        let starts = starts(cursor, info.channels)?;
        let lanes = starts
            .into_iter()
            .map(|at| Lane::new(info.source_rate, at, options.max_segment_ms))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Decoder {
            feed,
            block: Block::default(),
            options,
            info,
            lanes,
            ready: Default::default(),
            ended: None,
            failed: false,
        })
    }

    /// What the recording is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How far the run has come.
    pub fn progress(&self) -> Progress {
        Progress { decoded_ms: self.decoded_ms(), estimated_ms: self.info.estimated_ms }
    }

    /// Does a bounded piece of work: decodes about a second of sound, or gives a segment that is complete. After the
    /// end it gives the summary again; after an error the recording counts as ended where it failed.
    pub fn step(&mut self) -> Result<Step, DecodeError> {
        if let Some(part) = self.ready.pop_front() {
            return Ok(Step::Part(part));
        }
        if let Some(summary) = &self.ended {
            return Ok(Step::End(summary.clone()));
        }
        if self.failed {
            return Err(DecodeError::Damaged { reason: "the run has failed before".into() });
        }
        let result = self.work();
        self.failed = result.is_err();
        result?;
        Ok(match self.ready.pop_front() {
            Some(part) => Step::Part(part),
            None => self.ended.clone().map_or(Step::Working, Step::End),
        })
    }

    fn work(&mut self) -> Result<(), DecodeError> {
        let until = self.decoded_ms() + STEP_MS;
        while self.decoded_ms() < until && self.ready.is_empty() {
            match self.feed.next(&mut self.block)? {
                Next::Block => self.take_block()?,
                Next::End(reason) => return self.finish(reason),
            }
            if self.decoded_ms() > self.options.max_audio_ms {
                return Err(DecodeError::TooLong { limit_ms: self.options.max_audio_ms });
            }
        }
        Ok(())
    }

    /// Gives each lane its share of the block.
    fn take_block(&mut self) -> Result<(), DecodeError> {
        let block = &mut self.block;
        // A broken float file may hold anything, and neither NaN nor infinity may come out of sums over its samples.
        for sample in &mut block.samples {
            *sample = if sample.is_finite() { sample.clamp(-LOUDEST, LOUDEST) } else { 0.0 };
        }
        let frames = block.samples.chunks_exact(block.channels);
        for at in 0..self.lanes.len() {
            let mono: Vec<f32> = match self.options.channels {
                Channels::Mix => frames.clone().map(|f| f.iter().sum::<f32>() / f.len() as f32).collect(),
                Channels::Each => frames.clone().map(|f| f.get(at).copied().unwrap_or(0.0)).collect(),
            };
            self.lanes[at].push(&mono, block.rate)?;
        }
        self.collect();
        Ok(())
    }

    fn finish(&mut self, truncated: Option<String>) -> Result<(), DecodeError> {
        for lane in &mut self.lanes {
            lane.finish();
        }
        self.collect();
        let audio_ms = self.decoded_ms();
        self.ended = Some(Summary {
            info: self.info.clone(),
            audio_ms,
            speech_ms: to_ms(self.lanes.iter().map(|lane| lane.at.speech_samples).sum()),
            segments: self.lanes.iter().map(|lane| lane.at.next_index).collect(),
            truncated_at_ms: truncated.is_some().then_some(audio_ms),
            truncated_reason: truncated,
            damaged_packets: self.feed.damaged_packets(),
        });
        Ok(())
    }

    /// Turns the cuts of all lanes into parts, lane by lane, each with the cursor that holds after it.
    fn collect(&mut self) {
        for channel in 0..self.lanes.len() {
            for cut in std::mem::take(&mut self.lanes[channel].cuts) {
                let lane = &mut self.lanes[channel];
                let speech_ms = lane.speech_ms(&cut);
                let Some((start_sample, end_sample, pcm)) = lane.take(cut) else { continue };
                let index = lane.at.next_index - 1;
                let cursor = Cursor {
                    version: CUTTER_VERSION,
                    channels: self.lanes.iter().map(|lane| lane.at).collect(),
                };
                self.ready.push_back(Part {
                    channel: channel as u16,
                    index,
                    start_sample,
                    end_sample,
                    pcm,
                    speech_ms,
                    cursor,
                });
            }
            self.lanes[channel].forget();
        }
    }

    fn decoded_ms(&self) -> u64 {
        self.lanes.first().map_or(0, |lane| to_ms(lane.end()))
    }
}

impl Feed {
    /// The built-in decoders, or ffmpeg for what they lack and what they can make nothing of.
    fn open(handle: Handle, options: &DecodeOptions) -> Result<Feed, DecodeError> {
        let refusal = match Container::open(handle.clone(), options.hint.as_deref()) {
            Ok(container) => return Ok(Feed::Native(Box::new(container))),
            Err(error) => error,
        };
        match (&options.ffmpeg, refusal) {
            (Some(ffmpeg), DecodeError::UnsupportedCodec { codec, .. }) => {
                Pipe::open(ffmpeg, handle, codec).map(|pipe| Feed::Ffmpeg(Box::new(pipe)))
            }
            (Some(ffmpeg), DecodeError::Damaged { reason }) => {
                match Pipe::open(ffmpeg, handle, "unknown".into()) {
                    Ok(pipe) => Ok(Feed::Ffmpeg(Box::new(pipe))),
                    Err(error) if error.is_retryable() => Err(error),
                    Err(_) => Err(DecodeError::Damaged { reason }),
                }
            }
            (_, refusal) => Err(refusal),
        }
    }

    fn info(&self) -> &Info {
        match self {
            Feed::Native(container) => container.info(),
            Feed::Ffmpeg(pipe) => pipe.info(),
        }
    }

    fn estimate_is_plausible(&self) -> bool {
        match self {
            Feed::Native(container) => container.estimate_is_plausible(),
            Feed::Ffmpeg(_) => false,
        }
    }

    fn next(&mut self, block: &mut Block) -> Result<Next, DecodeError> {
        match self {
            Feed::Native(container) => container.next(block),
            Feed::Ffmpeg(pipe) => pipe.next(block),
        }
    }

    fn damaged_packets(&self) -> u64 {
        match self {
            Feed::Native(container) => container.damaged_packets(),
            Feed::Ffmpeg(_) => 0,
        }
    }
}

/// One output channel on its way: to 16 kHz, to frames, to cuts.
struct Lane {
    resampler: Resampler,
    resampled: Vec<f32>,
    detector: Detector,
    /// What the detector heard last.
    heard: Vec<Frame>,
    cutter: Cutter,
    cuts: Vec<Cut>,
    at: ChannelCursor,
    /// Sound that a cut may still need; `pcm[0]` is sample `base`.
    pcm: Vec<i16>,
    base: u64,
    /// Frames that the detector has heard.
    seen: u64,
    /// The frame that the cutter began with.
    first: u64,
}

impl Lane {
    fn new(rate: u32, at: ChannelCursor, max_segment_ms: u32) -> Result<Lane, DecodeError> {
        // A cut ends with a frame, except at the end of the recording.
        let first = at.next_sample.div_ceil(FRAME_SAMPLES as u64);
        Ok(Lane {
            resampler: Resampler::new(rate)?,
            resampled: Vec::new(),
            detector: Detector::default(),
            heard: Vec::new(),
            cutter: Cutter::new(first, max_segment_ms),
            cuts: Vec::new(),
            at,
            pcm: Vec::new(),
            base: 0,
            seen: 0,
            first,
        })
    }

    /// The sample after the last one taken in.
    fn end(&self) -> u64 {
        self.base + self.pcm.len() as u64
    }

    fn push(&mut self, mono: &[f32], rate: u32) -> Result<(), DecodeError> {
        if rate != self.resampler.rate() {
            // The stream changed its rate under way: what came before is brought to its end first.
            self.resampler.finish(&mut self.resampled);
            self.resampler = Resampler::new(rate)?;
        }
        self.resampler.push(mono, &mut self.resampled);
        self.store();
        if self.unheard().len() >= BATCH_SAMPLES {
            self.judge();
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.resampler.finish(&mut self.resampled);
        self.store();
        self.judge();
        // The last window is filled up with silence, whose frames are none of the recording's.
        let rest = self.unheard();
        if !rest.is_empty() {
            let frames = rest.len().div_ceil(FRAME_SAMPLES);
            let mut window = [0; HEARD_SAMPLES];
            window[..rest.len()].copy_from_slice(rest);
            self.detector.listen(&window, &mut self.heard);
            self.heard.truncate(frames);
            self.follow();
        }
        self.cutter.finish(&mut self.cuts);
    }

    /// Moves what was resampled into the store.
    fn store(&mut self) {
        self.pcm.extend(self.resampled.drain(..).map(|s| (s * 32768.0).round() as i16));
    }

    /// The sound that the detector has not heard yet.
    fn unheard(&self) -> &[i16] {
        &self.pcm[(self.seen * FRAME_SAMPLES as u64 - self.base) as usize..]
    }

    /// Has the detector hear all that makes whole windows. It always listens from the start of the recording, for it
    /// remembers what it heard. The cutter begins where the run was resumed.
    fn judge(&mut self) {
        let from = (self.seen * FRAME_SAMPLES as u64 - self.base) as usize;
        self.detector.listen(&self.pcm[from..], &mut self.heard);
        self.follow();
    }

    /// Gives the cutter what was heard.
    fn follow(&mut self) {
        for frame in self.heard.drain(..) {
            if self.seen >= self.first {
                self.cutter.push(frame, &mut self.cuts);
            }
            self.seen += 1;
        }
    }

    /// The speech in a cut, in milliseconds since its start.
    fn speech_ms(&self, cut: &Cut) -> Vec<Range<u64>> {
        let start = cut.start * FRAME_SAMPLES as u64;
        // The last frame of a recording may be filled up.
        let ms = |frame: u64| to_ms((frame * FRAME_SAMPLES as u64).min(self.end()) - start);
        cut.speech.iter().map(|speech| ms(speech.start)..ms(speech.end)).collect()
    }

    /// Makes a cut the next segment of this lane.
    fn take(&mut self, cut: Cut) -> Option<(u64, u64, Vec<i16>)> {
        let start = cut.start * FRAME_SAMPLES as u64;
        let end = (cut.end * FRAME_SAMPLES as u64).min(self.end());
        let pcm = self.pcm[(start - self.base) as usize..(end - self.base) as usize].to_vec();
        self.at.next_index += 1;
        self.at.next_sample = end;
        self.at.speech_samples += end - start;
        Some((start, end, pcm))
    }

    /// Lets go of sound that no cut can contain any more.
    fn forget(&mut self) {
        let keep = (self.cutter.keep_from().min(self.seen) * FRAME_SAMPLES as u64).min(self.end());
        // Moving the rest down costs time, so it is done in large steps.
        if keep.saturating_sub(self.base) >= 10 * u64::from(SAMPLE_RATE) {
            self.pcm.drain(..(keep - self.base) as usize);
            self.base = keep;
        }
    }
}

/// Where the lanes begin.
fn starts(cursor: Option<&Cursor>, channels: u16) -> Result<Vec<ChannelCursor>, DecodeError> {
    let Some(cursor) = cursor else { return Ok(vec![ChannelCursor::default(); usize::from(channels)]) };
    let wrong = |reason: String| Err(DecodeError::Cursor { reason });
    if cursor.version != CUTTER_VERSION {
        return wrong(format!(
            "it was begun with cutter {}, this is cutter {CUTTER_VERSION}",
            cursor.version
        ));
    }
    if cursor.channels.len() != usize::from(channels) {
        return wrong(format!("it has {} channels, the recording {channels}", cursor.channels.len()));
    }
    Ok(cursor.channels.clone())
}

fn to_ms(samples: u64) -> u64 {
    samples * 1000 / u64::from(SAMPLE_RATE)
}
