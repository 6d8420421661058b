//! How long a recording probably is, before anybody decodes it: for the backlog, and to refuse what is far too long.

/// A length by header or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Milliseconds.
    pub ms: u64,
    /// Whether the header says so and the file is large enough to hold it. Else it is a guess by size.
    pub believable: bool,
}

/// Estimates the length of `bytes` in `container`, as [`sniff`](crate::sniff) names it, that begin with `head`.
pub fn estimate(container: &str, head: &[u8], bytes: u64) -> Length {
    let by_header = match container {
        "wav" => wav_seconds(head, bytes),
        "flac" => flac_seconds(head, bytes),
        _ => None,
    };
    match by_header {
        Some(seconds) => Length { ms: (seconds * 1000.0) as u64, believable: true },
        None => {
            let bytes_per_second =
                if matches!(container, "wav" | "aiff" | "caf" | "au" | "w64") { 88_200 } else { 16_000 };
            Length { ms: bytes.saturating_mul(1000) / bytes_per_second, believable: false }
        }
    }
}

/// Bytes of sound over bytes in a second. Sizes in the header are cut to what is there, because a recorder that was
/// switched off leaves them at 0 or at the largest number.
fn wav_seconds(head: &[u8], bytes: u64) -> Option<f64> {
    /// GSM, the smallest codec used in wav files, takes 1,625.
    const BYTES_PER_SECOND_MIN: u32 = 1000;
    if head.starts_with(b"RIFX") {
        return None;
    }
    let (mut at, mut bytes_per_second) = (12_usize, 0);
    loop {
        let (id, size) = (head.get(at..at + 4)?, u32_at(head, at + 4)?);
        match id {
            b"fmt " => bytes_per_second = u32_at(head, at + 16)?,
            b"data" => {
                let left = bytes.saturating_sub(at as u64 + 8);
                let open_ended = size == 0 || size >= u32::MAX - 1;
                let data = if open_ended { left } else { u64::from(size).min(left) };
                let known = bytes_per_second >= BYTES_PER_SECOND_MIN;
                return known.then(|| data as f64 / f64::from(bytes_per_second));
            }
            _ => {}
        }
        // Chunks begin at even places.
        let step = usize::try_from(u64::from(size) + u64::from(size % 2) + 8).ok()?;
        at = at.checked_add(step)?;
    }
}

/// Samples over sample rate, from STREAMINFO, unless no encoder could have packed them into so few bytes.
fn flac_seconds(head: &[u8], bytes: u64) -> Option<f64> {
    /// Digital silence at 8 kHz and the largest blocks.
    const BYTES_PER_SECOND_MIN: f64 = 40.0;
    let field = head.strip_prefix(b"fLaC")?.get(14..22)?;
    let field = u64::from_be_bytes(field.try_into().ok()?);
    let (rate, samples) = (field >> 44, field & 0xf_ffff_ffff);
    let seconds = samples as f64 / rate as f64;
    (rate > 0 && samples > 0 && bytes as f64 >= seconds * BYTES_PER_SECOND_MIN).then_some(seconds)
}

fn u32_at(head: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(bytes_per_second: u32, data: u32, before_data: &[u8]) -> Vec<u8> {
        let mut head = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0".to_vec();
        head.extend(bytes_per_second.to_le_bytes());
        head.extend(b"\x02\0\x10\0");
        head.extend(before_data);
        head.extend(b"data");
        head.extend(data.to_le_bytes());
        head
    }

    fn flac(rate: u64, samples: u64) -> Vec<u8> {
        let mut head = b"fLaC\0\0\0\x22\x10\0\x10\0\0\0\0\0\0\0".to_vec();
        head.extend((rate << 44 | 15 << 36 | samples).to_be_bytes());
        head
    }

    fn check(container: &str, head: &[u8], bytes: u64, ms: u64, believable: bool) {
        assert_eq!(
            estimate(container, head, bytes),
            Length { ms, believable },
            "{container} of {bytes} bytes"
        );
    }

    #[test]
    fn wav_headers() {
        check("wav", &wav(32_000, 320_000, b""), 320_044, 10_000, true);
        check("wav", &wav(32_000, 320_000, b"LIST\x03\0\0\0abc\0"), 320_056, 10_000, true);
        check("wav", &wav(32_000, 0, b""), 320_044, 10_000, true);
        check("wav", &wav(32_000, u32::MAX, b""), 320_044, 10_000, true);
    }

    #[test]
    fn a_small_wav_cannot_claim_hours() {
        check("wav", &wav(32_000, 4_000_000_000, b""), 32_044, 1_000, true);
        check("wav", &wav(1, 4_000_000_000, b""), 88_200, 1_000, false);
    }

    #[test]
    fn flac_headers() {
        check("flac", &flac(16_000, 160_000), 200_000, 10_000, true);
        check("flac", &flac(16_000, 0), 16_000, 1_000, false);
        check("flac", &flac(0, 160_000), 16_000, 1_000, false);
        check("flac", &flac(16_000, 16_000 * 36_000), 16_000, 1_000, false);
    }

    #[test]
    fn the_rest_goes_by_size_and_broken_headers_do_no_harm() {
        check("mp3", b"ID3", 160_000, 10_000, false);
        check("wav", b"RIFF", 88_200, 1_000, false);
        check("wav", b"RIFF\0\0\0\0WAVELIST\xff\xff\xff\xff", 88_200, 1_000, false);
        check("flac", b"fLaC", 16_000, 1_000, false);
        check("unknown", b"", u64::MAX, u64::MAX / 16_000, false);
    }

    #[test]
    fn damaged_heads_are_looked_at_without_harm() {
        let heads = [
            wav(32_000, 320_000, b"LIST\x03\0\0\0abc\0"),
            flac(16_000, 160_000),
            b"ID3\x04\0\0\0\0\0\x02\0\0\xff\xfb\x90\x64".to_vec(),
            b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm".to_vec(),
        ];
        // The generator of Numerical Recipes: the same damage on every run.
        let mut state = 7_u32;
        let mut next = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        for _ in 0..4000 {
            let mut head = heads[next(heads.len())].clone();
            for _ in 0..=next(4) {
                let at = next(head.len());
                head[at] ^= 1 << next(8);
            }
            head.truncate(next(head.len()) + 1);
            let kind = crate::sniff::sniff(&head);
            let container = if let crate::sniff::Sniffed::Container(name) = kind { name } else { "unknown" };
            let length = estimate(container, &head, 1_000_000);
            assert!(!length.believable || length.ms <= 1_000_000_000 / 40, "{container} {length:?} {head:?}");
        }
    }
}
