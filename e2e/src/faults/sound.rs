//! Recordings whose text is known beforehand: clips of speech, each copy made its own by noise in the lowest bit.

use std::io::Cursor;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use decode::{DecodeOptions, Decoder, Step};
use events::Lane;
use rand::Rng;
use rand::rngs::StdRng;

use super::deployment::RT_SEGMENT_MS;
use super::history::Said;
use crate::clips;

/// Speech to make recordings of, 16 kHz mono.
pub struct Voices(Vec<Vec<i16>>);

impl Voices {
    /// Reads the clips of a folder.
    ///
    /// # Errors
    /// When there are none, or one cannot be read.
    pub fn read(folder: &Path) -> Result<Voices> {
        let mut voices = Vec::new();
        for clip in clips::in_folder(folder) {
            let parts = cut(clip.bytes(), Lane::Batch).with_context(|| clip.name())?;
            let speech: Vec<i16> = parts.into_iter().flat_map(|part| part.pcm).collect();
            if speech.len() > 16_000 {
                voices.push(speech);
            }
        }
        ensure!(!voices.is_empty(), "no clips of speech in {}", folder.display());
        Ok(Voices(voices))
    }

    /// Makes a WAV file of 2 to 12 s that no other is like.
    pub fn make(&self, random: &mut StdRng) -> Vec<u8> {
        self.make_of(random, 2..=12)
    }

    /// Makes a WAV file of so many seconds that no other is like.
    pub fn make_of(&self, random: &mut StdRng, seconds: RangeInclusive<usize>) -> Vec<u8> {
        let voice = &self.0[random.random_range(0..self.0.len())];
        let length = (16_000 * random.random_range(seconds)).min(voice.len());
        let from = random.random_range(0..=voice.len() - length);
        let mut samples = voice[from..from + length].to_vec();
        for sample in &mut samples {
            *sample ^= i16::from(random.random::<bool>());
        }
        wav(&samples)
    }
}

/// What decode and the hash model must make of a WAV file in a lane.
///
/// # Errors
/// When it cannot be decoded.
pub fn expected(wav: &[u8], lane: Lane) -> Result<Vec<Said>> {
    let said = |part: decode::Part| Said {
        channel: part.channel,
        index: part.index,
        start_ms: part.start_ms(),
        end_ms: part.end_ms(),
        text: infer::hash::text(&part.pcm),
    };
    Ok(cut(wav.to_vec(), lane)?.into_iter().map(said).collect())
}

fn cut(wav: Vec<u8>, lane: Lane) -> Result<Vec<decode::Part>> {
    let mut options = DecodeOptions::default();
    if lane == Lane::Rt {
        options.max_segment_ms = RT_SEGMENT_MS;
    }
    let mut decoder = Decoder::open(Cursor::new(wav), options)?;
    let mut parts = Vec::new();
    loop {
        match decoder.step()? {
            Step::Working => {}
            Step::Part(part) => parts.push(part),
            Step::End(_) => return Ok(parts),
        }
    }
}

/// 16 kHz mono, 16 bits.
fn wav(samples: &[i16]) -> Vec<u8> {
    let bytes = samples.len() as u32 * 2;
    let mut file = Vec::with_capacity(44 + bytes as usize);
    file.extend(b"RIFF");
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend(16_u16.to_le_bytes());
    file.extend(b"data");
    file.extend(bytes.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}
