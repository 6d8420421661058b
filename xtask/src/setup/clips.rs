//! Recordings of real speech, each NAME.wav beside NAME.txt with what is said in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{apt, place, python};
use crate::say;

/// One recording.
pub struct Clip {
    /// The audio.
    pub wav: PathBuf,
    /// What is said in it.
    pub text: String,
}

/// Sentences of "Sense and Sensibility" read for LibriVox, 16 kHz, in Debian's package of test data for PocketSphinx.
/// The package's own transcription of 0920 has a slip of the reader's that nobody hears; these are the book's words.
const LIBRIVOX: &[(&str, &str)] = &[
    (
        "0870",
        "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do \
         for them.",
    ),
    ("0880", "He was not an ill-disposed young man,"),
    ("0890", "unless to be rather cold-hearted and rather selfish is to be ill-disposed."),
    (
        "0920",
        "Had he married a more amiable woman, he might have been made still more respectable than he was:",
    ),
    ("0930", "he might even have been made amiable himself."),
];

/// The opening of "A Tale of Two Cities", 48 kHz, and a line of Beckett's, 16 kHz.
const MOONSHINE: &[(&str, &str)] = &[
    (
        "two_cities",
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
         foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of light, it was \
         the season of darkness, it was the spring of hope, it was the winter of despair, we had everything before \
         us, we had nothing before us, we were all going direct to Heaven, we were all going direct the other way, in \
         short, the period was so far like the present period, that some of its noisiest authorities insisted on its \
         being received, for good or for evil, in the superlative degree of comparison only.",
    ),
    ("beckett", "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."),
];

/// The recording of the demo: the sentences of LibriVox one after the other, 27 s.
/// Where Debian's package cannot be had, the longer one from the wheel.
pub fn for_demo() -> Result<Clip> {
    match librivox() {
        Ok(folder) => {
            Ok(Clip { wav: folder.join("dashwood.wav"), text: read(&folder.join("dashwood.txt"))? })
        }
        Err(e) => {
            say::note(format_args!(
                "the recording from Debian cannot be had ({}); taking another",
                first_line(&e)
            ));
            let folder = moonshine()?;
            Ok(Clip { wav: folder.join("two_cities.wav"), text: read(&folder.join("two_cities.txt"))? })
        }
    }
}

/// All recordings in one folder.
pub fn all() -> Result<PathBuf> {
    let mut folders = vec![moonshine()?];
    match librivox() {
        Ok(folder) => folders.push(folder),
        Err(e) => say::note(format_args!(
            "without the recordings from Debian some tests will skip ({})",
            first_line(&e)
        )),
    }
    place::folder(&format!("clips-{}", folders.len()), |new| {
        for file in
            folders.iter().map(std::fs::read_dir).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
        {
            let file = file?;
            std::fs::copy(file.path(), new.join(file.file_name()))?;
        }
        Ok(())
    })
}

fn librivox() -> Result<PathBuf> {
    place::folder("recordings/librivox", |new| {
        if servers::find::on_path("apt-get").is_none() {
            bail!("this system has no apt-get");
        }
        say::step("downloading recordings (2 MB, Debian's pocketsphinx-testdata)", || {
            place::temporary(|work| {
                apt::unpack("pocketsphinx-testdata", work)?;
                let folder = work.join("usr/share/pocketsphinx/test/data/librivox");
                let mut joined = Vec::new();
                for (number, text) in LIBRIVOX {
                    let wav = std::fs::read(
                        folder.join(format!("sense_and_sensibility_01_austen_64kb-{number}.wav")),
                    )?;
                    let samples = samples_of(&wav).with_context(|| format!("read recording {number}"))?;
                    if !joined.is_empty() {
                        joined.extend([0; PAUSE_BYTES]);
                    }
                    joined.extend_from_slice(samples);
                    std::fs::write(new.join(format!("librivox-{number}.wav")), &wav)?;
                    std::fs::write(new.join(format!("librivox-{number}.txt")), text)?;
                }
                std::fs::write(new.join("dashwood.wav"), wav_of(&joined))?;
                let text: Vec<&str> = LIBRIVOX.iter().map(|(_, text)| *text).collect();
                Ok(std::fs::write(new.join("dashwood.txt"), text.join(" "))?)
            })
        })
    })
}

fn moonshine() -> Result<PathBuf> {
    place::folder("recordings/moonshine", |new| {
        say::step("downloading recordings (20 MB, the wheel moonshine-voice)", || {
            place::temporary(|work| {
                python::unpack_wheel("moonshine-voice==0.1.5", work)?;
                for (name, text) in MOONSHINE {
                    let wav = format!("{name}.wav");
                    std::fs::rename(work.join("moonshine_voice/assets").join(&wav), new.join(&wav))?;
                    std::fs::write(new.join(format!("{name}.txt")), text)?;
                }
                Ok(())
            })
        })
    })
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

/// 0.6 s of 16 kHz, 16 bit, mono: a pause between sentences.
const PAUSE_BYTES: usize = 19_200;
const WAV_HEADER_BYTES: usize = 44;

/// The samples of a WAV file with the plain 44 byte header: 16 kHz, 16 bit, mono.
pub fn samples_of(wav: &[u8]) -> Result<&[u8]> {
    let plain = wav.len() > WAV_HEADER_BYTES
        && wav[..4] == *b"RIFF"
        && wav[12..16] == *b"fmt "
        && wav[20..28] == [1, 0, 1, 0, 0x80, 0x3e, 0, 0]
        && wav[34..40] == *b"\x10\0data";
    if !plain {
        bail!("not a plain WAV file of 16 kHz, 16 bit, mono");
    }
    Ok(&wav[WAV_HEADER_BYTES..])
}

/// A WAV file with that header.
pub fn wav_of(samples: &[u8]) -> Vec<u8> {
    let length = samples.len() as u32;
    let mut wav = Vec::with_capacity(WAV_HEADER_BYTES + samples.len());
    wav.extend(b"RIFF");
    wav.extend((length + 36).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0");
    wav.extend([1, 0, 1, 0]);
    wav.extend(16_000_u32.to_le_bytes());
    wav.extend(32_000_u32.to_le_bytes());
    wav.extend([2, 0, 16, 0]);
    wav.extend(b"data");
    wav.extend(length.to_le_bytes());
    wav.extend(samples);
    wav
}

#[cfg(test)]
mod tests {
    use super::{samples_of, wav_of};

    #[test]
    fn what_is_written_is_read_back() {
        let samples = [1, 2, 3, 4];
        assert_eq!(samples_of(&wav_of(&samples)).unwrap(), samples);
        assert!(samples_of(b"RIFF").is_err());
    }
}
