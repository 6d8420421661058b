//! From the bytes of a file to interleaved samples at the source's own rate: which container, which track,
//! which codec, then packet by packet. The content decides; a file's name is only a hint.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_OPUS, CODEC_ID_PCM_ALAW, CODEC_ID_PCM_MULAW,
};
use symphonia::core::codecs::audio::{
    AudioCodecParameters, AudioDecoder, AudioDecoderOptions, CODEC_ID_NULL_AUDIO,
};
use symphonia::core::common::Limit;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::TimeBase;

use crate::Info;
use crate::error::{DecodeError, REMEDY};
use crate::source::Handle;

mod lengths;
mod mkv;
pub(crate) mod mp4;
pub(crate) mod names;
mod opus;
pub(crate) mod sbr;

use opus::Opus;

/// Packets in a row that give no sound before a stream counts as broken: hours of video between two sounds.
const SILENT_PACKETS_MAX: u32 = 2_000_000;
/// Sound that stands in for one damaged packet at most.
const CONCEALED_SECONDS_MAX: f64 = 1.0;
/// Gaps in a track's clock that are filled with silence, in seconds. Shorter ones are how clocks are rounded and
/// run-ins are counted.
const GAP_SECONDS_MIN: f64 = 0.1;
const GAP_SECONDS_MAX: f64 = 60.0;
/// A longer run-in is a damaged header.
const RUN_IN_SECONDS_MAX: f64 = 0.5;
/// Damaged packets that a file may begin with before it is opened without knowing how it sounds.
const DAMAGED_PACKETS_FIRST: usize = 500;
/// More channels than this are no recording of speech.
const CHANNELS_MAX: usize = 64;
/// The largest packets in use are FLAC's of 65535 samples and a second or two of PCM.
const PACKET_FRAMES_MAX: u64 = 1 << 20;

/// Interleaved samples as decoded, nominally within -1..=1.
#[derive(Debug, Default)]
pub struct Block {
    /// Hz.
    pub rate: u32,
    /// Channels in a frame.
    pub channels: usize,
    /// Interleaved.
    pub samples: Vec<f32>,
}

const CUT_SHORT: &str = "the file ends in the middle";

/// What [`Container::next`] found.
#[derive(Debug)]
pub enum Next {
    /// The block holds sound.
    Block,
    /// The stream has ended; the reason, when it ended before its time.
    End(Option<String>),
}

/// An open file, ready to be decoded from its start.
pub struct Container {
    handle: Handle,
    format: Box<dyn FormatReader>,
    track: u32,
    codec: Codec,
    info: Info,
    trim: mp4::Trim,
    /// Frames given so far, damaged ones included.
    frames: u64,
    /// The track's clock less our own, in seconds.
    clock_ahead: Option<f64>,
    /// The container ends before its time.
    cut_short: bool,
    /// Frames that the header announces, when its word can be trusted to the frame.
    announced: Option<u64>,
    damaged_packets: u64,
    good_packets: u64,
    last_fault: Option<Fault>,
    /// The first sound and perhaps silence before it, decoded when the file was opened.
    first: VecDeque<Block>,
    ended: bool,
}

enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<Opus>),
}

/// Why a packet could not be decoded.
struct Fault {
    reason: String,
    /// Not damaged, but in a form that the decoder lacks.
    unsupported: bool,
}

impl From<String> for Fault {
    fn from(reason: String) -> Fault {
        Fault { reason, unsupported: false }
    }
}

impl Container {
    /// Finds out what the source is and prepares to decode its audio track.
    pub(crate) fn open(handle: Handle, hint: Option<&str>) -> Result<Container, DecodeError> {
        let opened = guard("open the file", || Self::try_open(handle.clone(), hint))
            .unwrap_or_else(|reason| Err(DecodeError::Damaged { reason }));
        // Readers report a failing source in many ways; the source itself knows best.
        match handle.take_failure() {
            Some(error) => Err(DecodeError::Source(error)),
            None => opened,
        }
    }

    fn try_open(mut handle: Handle, hint: Option<&str>) -> Result<Container, DecodeError> {
        if handle.len() == 0 {
            return Err(DecodeError::Empty);
        }
        let head = handle.peek(0, names::HEAD_BYTES).map_err(DecodeError::Source)?;
        if let Some(found) = names::not_audio(&head) {
            return Err(DecodeError::NotAudio { found });
        }
        if let Some(codec) = names::unsupported(&head) {
            return Err(unsupported_codec(codec));
        }
        let excess = lengths::repair(&mut handle);
        let mut cut_short = false;
        match names::looks_like(&head) {
            Some("mp4") => mp4::repair(&mut handle),
            Some("mkv") => cut_short = mkv::repair(&mut handle),
            _ => {}
        }
        let format = probe(&handle, hint, &head)?;
        let name = names::container(format.format_info()).to_owned();
        let boxes = if name == "mp4" { mp4::read(&handle) } else { mp4::Boxes::default() };

        let Some(track) = choose_track(format.as_ref()).cloned() else {
            if let Some(codec) = boxes.audio_codec() {
                return Err(unsupported_codec(names::fourcc(codec)));
            }
            return Err(DecodeError::NoAudioTrack { container: name });
        };
        let params = track.codec_params.as_ref().and_then(|p| p.audio()).cloned().unwrap_or_default();
        let codec_name = names::codec(params.codec);
        let sound = boxes.track(track.id);
        if params.codec == CODEC_ID_NULL_AUDIO {
            let codec = sound.map(|t| names::fourcc(t.codec)).unwrap_or_else(|| format!("the {name} file's"));
            return Err(unsupported_codec(codec));
        }
        if params.codec == CODEC_ID_AAC && sbr::announced(params.extra_data.as_deref()) {
            return Err(unsupported_codec("HE-AAC".into()));
        }
        let codec = Codec::new(&params, name == "mp4")?;
        let (rate, channels) = codec.shape(&params);
        let mut trim = sound.map(|t| t.trim(rate)).unwrap_or_default();
        if matches!(codec, Codec::Opus(_)) {
            // The edit list repeats the pre-skip that the decoder cuts off already.
            trim = mp4::Trim { start: 0, end: trim.end.map(|end| end - trim.start) };
        }
        let estimated_ms = estimate_ms(format.as_ref(), &track, rate, handle.len())
            .map(|ms| ms - ms.min(trim.start * 1000 / u64::from(rate.max(1))));
        let counted = names::counts_frames(&name) || name == "mp3" && names::has_frame_count(&handle);
        let announced =
            track.num_frames.filter(|_| counted).map(|frames| (frames as f64 * excess.unwrap_or(1.0)) as u64);
        let info = Info {
            container: name,
            codec: codec_name,
            decoder: if matches!(codec, Codec::Opus(_)) { "opus" } else { "symphonia" }.into(),
            source_rate: rate,
            source_channels: channels as u16,
            channels: 1,
            estimated_ms,
        };
        let mut container = Container {
            handle,
            format,
            track: track.id,
            codec,
            info,
            trim,
            frames: 0,
            clock_ahead: None,
            cut_short,
            announced,
            damaged_packets: 0,
            good_packets: 0,
            last_fault: None,
            first: VecDeque::new(),
            ended: false,
        };
        if params.codec == CODEC_ID_AAC && container.signals_sbr(hint, &head)? {
            return Err(unsupported_codec("HE-AAC".into()));
        }
        container.decode_first()?;
        Ok(container)
    }

    /// Decodes the first sound: only it tells the true rate and channels, and whether the codec's form is supported.
    fn decode_first(&mut self) -> Result<(), DecodeError> {
        while self.good_packets == 0 && self.first.len() < DAMAGED_PACKETS_FIRST {
            let mut block = Block::default();
            match self.decode_next(&mut block)? {
                Next::Block => self.first.push_back(block),
                Next::End(_) => return Ok(()),
            }
        }
        if self.good_packets == 0 && self.last_fault.as_ref().is_some_and(|fault| fault.unsupported) {
            return Err(unsupported_codec(self.info.codec.clone()));
        }
        if let Some(block) = self.first.back() {
            self.info.source_rate = block.rate;
            self.info.source_channels = block.channels as u16;
        }
        Ok(())
    }

    /// What the header says.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Packets that could not be decoded and were replaced by silence.
    pub fn damaged_packets(&self) -> u64 {
        self.damaged_packets
    }

    /// Whether the file is large enough to hold what its header claims, in any codec used for speech.
    pub fn estimate_is_plausible(&self) -> bool {
        const BYTES_PER_SECOND_MIN: u64 = 250;
        self.info.estimated_ms.is_some_and(|ms| self.handle.len() >= ms / 1000 * BYTES_PER_SECOND_MIN)
    }

    /// Decodes up to the next sound and puts it into `block`.
    pub fn next(&mut self, block: &mut Block) -> Result<Next, DecodeError> {
        match self.first.pop_front() {
            Some(first) => {
                *block = first;
                Ok(Next::Block)
            }
            None => self.decode_next(block),
        }
    }

    fn decode_next(&mut self, block: &mut Block) -> Result<Next, DecodeError> {
        block.samples.clear();
        if self.ended {
            return Ok(Next::End(None));
        }
        for _ in 0..SILENT_PACKETS_MAX {
            let packet = match guard("read the file", || self.format.next_packet()) {
                Ok(Ok(Some(packet))) => packet,
                Ok(Ok(None)) => return self.end(None),
                Ok(Err(Error::ResetRequired)) => match self.reset() {
                    Ok(()) => continue,
                    Err(error) => return self.end(Some(error.to_string())),
                },
                Ok(Err(error)) => return self.end(Some(reason(&error))),
                Err(panic) => return self.end(Some(panic)),
            };
            if packet.track_id != self.track {
                continue;
            }
            if self.good_packets + self.damaged_packets == 0 {
                self.trim_run_in(&packet);
            }
            self.decode(&packet, block);
            self.fill_gap(&packet, block);
            self.cut_to_trim(block);
            if !block.samples.is_empty() {
                return Ok(Next::Block);
            }
        }
        self.end(Some("the file goes on without any sound".into()))
    }

    fn decode(&mut self, packet: &Packet, block: &mut Block) {
        let decoded =
            guard("decode", || self.codec.decode(packet, block)).unwrap_or_else(|panic| Err(panic.into()));
        let usable = decoded.and_then(|()| match block.channels {
            1..=CHANNELS_MAX if block.rate > 0 => Ok(()),
            _ => Err("impossible number of channels".to_owned().into()),
        });
        match usable {
            Ok(()) => self.good_packets += 1,
            Err(fault) => {
                self.damaged_packets += 1;
                self.last_fault = Some(fault);
                self.conceal(packet, block);
            }
        }
    }

    /// Silence as long as the packet, so that what follows keeps its time.
    fn conceal(&self, packet: &Packet, block: &mut Block) {
        block.samples.clear();
        block.rate = self.info.source_rate;
        block.channels = usize::from(self.info.source_channels);
        let seconds = self.time_base().map_or(0.0, |base| packet.dur.get() as f64 * seconds_per_tick(base));
        let frames = (seconds.min(CONCEALED_SECONDS_MAX) * f64::from(block.rate)).round() as usize;
        block.samples.resize(frames * block.channels, 0.0);
    }

    /// In mkv what begins before time zero is the encoder's run-in. (Opus says so itself.)
    fn trim_run_in(&mut self, first: &Packet) {
        if self.info.container == "mkv"
            && matches!(self.codec, Codec::Symphonia(_))
            && let Some(base) = self.time_base()
        {
            let seconds = -(first.pts.get() as f64) * seconds_per_tick(base);
            self.trim.start =
                (seconds.clamp(0.0, RUN_IN_SECONDS_MAX) * f64::from(self.info.source_rate)).round() as u64;
        }
    }

    fn time_base(&self) -> Option<TimeBase> {
        self.format.tracks().iter().find(|t| t.id == self.track).and_then(|t| t.time_base)
    }

    /// Puts silence before the block where the track's clock has leapt ahead: pages that were lost, or a recorder that
    /// wrote nothing while nobody spoke. What follows keeps its time.
    fn fill_gap(&mut self, packet: &Packet, block: &mut Block) {
        let Some(base) = self.time_base().filter(|_| names::keeps_clock(&self.info.container)) else {
            return;
        };
        if block.channels == 0 || block.rate == 0 {
            return;
        }
        let clock = packet.pts.get() as f64 * seconds_per_tick(base);
        let ahead = clock - self.frames as f64 / f64::from(block.rate);
        let gap = ahead - *self.clock_ahead.get_or_insert(ahead);
        if !(-GAP_SECONDS_MIN..=GAP_SECONDS_MAX).contains(&gap) {
            // A clock that runs backwards or leaps for minutes was set anew.
            self.clock_ahead = Some(ahead);
        } else if gap > GAP_SECONDS_MIN {
            let silence = (gap * f64::from(block.rate)) as usize * block.channels;
            block.samples.splice(0..0, std::iter::repeat_n(0.0, silence));
        }
    }

    /// Cuts off what an edit list hides: the encoder's run-in, and what lies beyond the end.
    fn cut_to_trim(&mut self, block: &mut Block) {
        if block.channels == 0 {
            return;
        }
        let len = (block.samples.len() / block.channels) as u64;
        let (from, to) = (self.frames, self.frames + len);
        self.frames = to;
        let skip = self.trim.start.saturating_sub(from).min(len);
        let keep = self.trim.end.map_or(len, |end| end.saturating_sub(from).min(len)).max(skip);
        block.samples.truncate(keep as usize * block.channels);
        block.samples.drain(..skip as usize * block.channels);
    }

    /// The stream changed under way, as chained ogg files do: go on with its new audio track.
    fn reset(&mut self) -> Result<(), DecodeError> {
        let track = choose_track(self.format.as_ref())
            .ok_or_else(|| DecodeError::NoAudioTrack { container: self.info.container.clone() })?;
        let params = track.codec_params.as_ref().and_then(|p| p.audio()).cloned().unwrap_or_default();
        self.track = track.id;
        self.codec = Codec::new(&params, false)?;
        self.announced = None;
        self.clock_ahead = None;
        Ok(())
    }

    fn end(&mut self, reason: Option<String>) -> Result<Next, DecodeError> {
        self.ended = true;
        if let Some(error) = self.handle.take_failure() {
            return Err(DecodeError::Source(error));
        }
        if self.good_packets == 0 {
            // Sound there never was is no damage: an empty data chunk, say.
            return Err(match (reason, self.last_fault.take()) {
                (_, Some(fault)) if fault.unsupported => unsupported_codec(self.info.codec.clone()),
                (Some(reason), _) | (None, Some(Fault { reason, .. })) => DecodeError::Damaged { reason },
                (None, None) => DecodeError::Empty,
            });
        }
        Ok(Next::End(reason.or_else(|| self.shortfall())))
    }

    /// The reason when the header promised more than there was.
    fn shortfall(&self) -> Option<String> {
        if self.cut_short {
            return Some(CUT_SHORT.into());
        }
        let rate = f64::from(self.info.source_rate);
        let announced = self.announced? as f64 / rate;
        let given = self.frames as f64 / rate;
        (given + 0.5 < announced * 0.98)
            .then(|| format!("the header announces {announced:.1} s, but the file ends after {given:.1} s"))
    }

    /// Whether the first AAC packets carry SBR data without saying so in the header. Starts over afterwards.
    fn signals_sbr(&mut self, hint: Option<&str>, head: &[u8]) -> Result<bool, DecodeError> {
        if self.info.source_rate > sbr::CORE_RATE_MAX {
            return Ok(false);
        }
        let mut votes = sbr::Votes::default();
        while !votes.are_in() {
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id == self.track => votes.add(&packet.data),
                Ok(Some(_)) => votes.pass(),
                _ => break,
            }
        }
        self.format = probe(&self.handle, hint, head)?;
        Ok(votes.are_for())
    }
}

impl Codec {
    fn new(params: &AudioCodecParameters, mp4: bool) -> Result<Codec, DecodeError> {
        if params.codec == CODEC_ID_OPUS {
            return Opus::new(params, mp4).map(|opus| Codec::Opus(Box::new(opus)));
        }
        // Decoders allocate what the header asks for.
        let channels = params.channels.as_ref().map_or(0, |c| c.count());
        let frames = params.max_frames_per_packet.unwrap_or(0);
        if channels > CHANNELS_MAX || frames > PACKET_FRAMES_MAX {
            let reason = format!("its header asks for {channels} channels and packets of {frames} samples");
            return Err(DecodeError::Damaged { reason });
        }
        let mut params = params.clone();
        if matches!(params.codec, CODEC_ID_PCM_ALAW | CODEC_ID_PCM_MULAW) {
            // The 8 bits that some headers give are those of the code, not of the sample.
            params.bits_per_sample = None;
            params.bits_per_coded_sample = None;
        }
        symphonia::default::get_codecs()
            .make_audio_decoder(&params, &AudioDecoderOptions::default())
            .map(Codec::Symphonia)
            .map_err(|error| match error {
                Error::Unsupported(_) if params.codec == CODEC_ID_AAC => {
                    unsupported_codec("AAC of another kind than LC in mono or stereo".into())
                }
                Error::Unsupported(_) => unsupported_codec(names::codec(params.codec)),
                other => DecodeError::Damaged { reason: reason(&other) },
            })
    }

    /// Rate in Hz and number of channels, as far as they are known before the first packet.
    fn shape(&self, params: &AudioCodecParameters) -> (u32, usize) {
        match self {
            Codec::Opus(opus) => (opus::RATE, opus.channels()),
            Codec::Symphonia(decoder) => {
                let known = decoder.codec_params();
                let rate = known.sample_rate.or(params.sample_rate).unwrap_or(0);
                let channels = known.channels.as_ref().or(params.channels.as_ref()).map_or(1, |c| c.count());
                (rate, channels)
            }
        }
    }

    fn decode(&mut self, packet: &Packet, block: &mut Block) -> Result<(), Fault> {
        match self {
            Codec::Opus(opus) => opus.decode(packet, block).map_err(Fault::from),
            Codec::Symphonia(decoder) => {
                let decoded = decoder.decode(packet).map_err(|error| Fault {
                    reason: reason(&error),
                    unsupported: matches!(error, Error::Unsupported(_)),
                })?;
                block.rate = decoded.spec().rate();
                block.channels = decoded.spec().channels().count();
                decoded.copy_to_vec_interleaved(&mut block.samples);
                Ok(())
            }
        }
    }
}

/// Runs foreign code on foreign bytes: a panic becomes a reason.
fn guard<T>(doing: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    // Whatever the panic left half done is not used again: the caller ends the stream or drops the block.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("the decoder failed to {doing}: {}", text.unwrap_or("unknown fault"))
    })
}

fn probe(handle: &Handle, hint: Option<&str>, head: &[u8]) -> Result<Box<dyn FormatReader>, DecodeError> {
    let mut extension = Hint::new();
    if let Some((_, ext)) = hint.and_then(|name| name.rsplit_once('.')) {
        extension.with_extension(&ext.to_ascii_lowercase());
    }
    let limits = MetadataOptions::default()
        .limit_tag_bytes(Limit::Maximum(64 << 10))
        .limit_visual_bytes(Limit::Maximum(64 << 10));
    let stream = MediaSourceStream::new(Box::new(handle.rewound()), MediaSourceStreamOptions::default());
    symphonia::default::get_probe().probe(&extension, stream, FormatOptions::default(), limits).map_err(
        |error| match (names::looks_like(head), error) {
            (None, _) => {
                DecodeError::NotAudio { found: "its beginning is of no known audio or video format".into() }
            }
            (Some(name), Error::Unsupported(what)) if !what.contains("missing") => {
                unsupported_codec(names::inside(name, head, what))
            }
            (Some(name), error) => DecodeError::Damaged { reason: format!("{name}: {}", reason(&error)) },
        },
    )
}

/// The audio track to use: the one marked as default, else the first that can be decoded, else the first.
fn choose_track(format: &dyn FormatReader) -> Option<&Track> {
    format.default_track(TrackType::Audio).or_else(|| format.first_track(TrackType::Audio))
}

/// The length that the header claims, unless no codec could pack it into so few bytes.
fn estimate_ms(format: &dyn FormatReader, track: &Track, rate: u32, file_bytes: u64) -> Option<u64> {
    const BYTES_PER_SECOND_MIN: f64 = 40.0;
    let from_frames = track.num_frames.filter(|_| rate > 0).map(|n| n as f64 / f64::from(rate));
    let media = format.media_info();
    let from_duration = track
        .duration
        .zip(track.time_base)
        .or(media.duration.zip(media.time_base))
        .map(|(duration, base)| duration.get() as f64 * seconds_per_tick(base));
    let seconds = from_frames.or(from_duration)?;
    (seconds > 0.0 && file_bytes as f64 / seconds >= BYTES_PER_SECOND_MIN)
        .then_some((seconds * 1000.0) as u64)
}

fn seconds_per_tick(base: TimeBase) -> f64 {
    f64::from(base.numer.get()) / f64::from(base.denom.get())
}

fn unsupported_codec(codec: String) -> DecodeError {
    DecodeError::UnsupportedCodec { codec, remedy: REMEDY.into() }
}

fn reason(error: &Error) -> String {
    match error {
        Error::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => CUT_SHORT.into(),
        other => other.to_string(),
    }
}
