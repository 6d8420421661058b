//! Opus packets to 48 kHz samples, with the run-in (pre-skip) and the padding at the end cut off.

use ruopus::MultistreamDecoder;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::packet::Packet;

use super::Block;
use crate::error::DecodeError;

/// Opus is always decoded at this rate.
pub const RATE: u32 = 48_000;

/// A decoder for one Opus track.
pub struct Opus {
    decoder: MultistreamDecoder,
    gain: f32,
    /// Frames of the run-in still to be dropped.
    skip: usize,
}

impl Opus {
    /// Reads the identification header of RFC 7845; in mp4 its numbers are big-endian (the `dOps` box).
    pub fn new(params: &AudioCodecParameters, mp4: bool) -> Result<Opus, DecodeError> {
        let head = params.extra_data.as_deref().unwrap_or_default();
        let head = head.strip_prefix(b"OpusHead").unwrap_or(head);
        let u16_at = |at: usize| {
            let bytes = [head.get(at).copied().unwrap_or(0), head.get(at + 1).copied().unwrap_or(0)];
            if mp4 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
        };
        let channels = match head.get(1) {
            Some(&channels) => usize::from(channels),
            None => params.channels.as_ref().map_or(2, |c| c.count()),
        };
        let family = head.get(10).copied().unwrap_or(0);
        let layout = if family == 0 {
            (1..=2).contains(&channels).then(|| (1, channels - 1, vec![0, 1][..channels].to_vec()))
        } else {
            head.get(13..13 + channels)
                .map(|map| (usize::from(head[11]), usize::from(head[12]), map.to_vec()))
        };
        let damaged =
            || DecodeError::Damaged { reason: "the Opus header describes an impossible layout".into() };
        let (streams, coupled, mapping) = layout.ok_or_else(damaged)?;
        let decoded = streams + coupled;
        let possible = channels > 0
            && streams > 0
            && coupled <= streams
            && decoded <= 255
            && mapping.iter().all(|&m| m == 255 || usize::from(m) < decoded);
        if !possible {
            return Err(damaged());
        }
        Ok(Opus {
            decoder: MultistreamDecoder::with_rate(RATE, streams, coupled, &mapping),
            gain: 10f32.powf(f32::from(u16_at(8) as i16) / 256.0 / 20.0),
            skip: usize::from(u16_at(2)),
        })
    }

    /// Channels in the output.
    pub fn channels(&self) -> usize {
        self.decoder.channels()
    }

    /// Decodes one packet.
    pub fn decode(&mut self, packet: &Packet, block: &mut Block) -> Result<(), String> {
        let channels = self.channels();
        block.rate = RATE;
        block.channels = channels;
        block.samples = self.decoder.decode_packet(&packet.data).map_err(|error| error.to_string())?;
        let len = block.samples.len() / channels;
        let end = len.saturating_sub(packet.trim_end.get() as usize);
        let start = self.skip.min(len);
        self.skip -= start;
        block.samples.truncate(end.max(start) * channels);
        block.samples.drain(..start * channels);
        if self.gain != 1.0 {
            block.samples.iter_mut().for_each(|s| *s *= self.gain);
        }
        Ok(())
    }
}
