//! What decoding, detection and the spectrogram take of the processor time of a whole transcription.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use decode::{DecodeOptions, Decoder, Part, Step};
use infer::engine::Setup;
use infer::features::Features;
use infer::scheduler::URGENT;
use infer::{Engine, Options};

use super::processor_time;
use super::rivals::Rival;
use crate::figures::processes::spent_s;

/// Formats, and what makes them of a WAV file; `{}` is the file to be made.
const FORMATS: &[(&str, &str, &[&str])] = &[
    ("WAV, 16 kHz", "wav", &["sox", "IN", "OUT"]),
    ("FLAC, 44.1 kHz stereo", "flac", &["sox", "IN", "-r", "44100", "-c", "2", "OUT"]),
    (
        "M4A (AAC), 44.1 kHz stereo",
        "m4a",
        &["ffmpeg", "-loglevel", "error", "-i", "IN", "-ar", "44100", "-ac", "2", "-b:a", "128k", "OUT"],
    ),
];

/// Measures a recording in several formats with both models; returns a section of the page.
pub fn measure(models: &Path, sound: &[i16]) -> Result<String> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let wav = folder.path().join("in.wav");
    std::fs::write(&wav, wav_of(sound)).context("write the recording")?;
    let mut files = Vec::new();
    for (name, extension, command) in FORMATS {
        let file = folder.path().join(format!("out.{extension}"));
        let words = command.iter().map(|word| match *word {
            "IN" => wav.as_os_str(),
            "OUT" => file.as_os_str(),
            word => word.as_ref(),
        });
        let words: Vec<_> = words.collect();
        let made = Command::new(words[0]).args(&words[1..]).status();
        if made.is_ok_and(|status| status.success()) {
            files.push((*name, std::fs::read(&file).context("read what was made")?));
        } else {
            eprintln!("  without {} there is no {name}", command[0]);
        }
    }
    ensure!(!files.is_empty(), "the recording cannot be written: install sox");
    let seconds = sound.len() as f64 / 16_000.0;
    let per_second = |spent: f64| spent * 1e3 / seconds;
    let mut page = "## Share of a transcription\n\nProcessor time, in ms for each second of the recording without noise. Decoding includes bringing it to 16 kHz.\n\
         Inference is on one thread, with the default options, as decoding cut it; the spectrogram is part of it. *Share* is what\n\
         decoding, detection and spectrogram take of everything.\n\n\
         | recording | model | decoding | detection | spectrogram | inference | share, % |\n|---|---|--:|--:|--:|--:|--:|\n"
        .to_owned();
    let detection = processor_time(|| {
        Rival::Silero.listen(sound);
    });
    let parts = parts(&files[0].1)?;
    let features = Features::new(80);
    let spectrogram = processor_time(|| {
        for part in &parts {
            std::hint::black_box(features.compute(&part.pcm));
        }
    });
    let mut decoded = Vec::new();
    for (name, bytes) in &files {
        let mut result = Ok(Vec::new());
        let spent = processor_time(|| result = self::parts(bytes));
        result?;
        decoded.push((name, (spent - detection).max(0.0)));
    }
    for model in ["tiny.en", "base"] {
        let engine = Engine::load(&models.join(model), Setup { threads: 1, ..Setup::default() })
            .with_context(|| format!("load {model}"))?;
        // What is done once for a model is no part of it.
        transcribe(&engine, &parts[..1])?;
        let begun = spent_s(std::process::id());
        transcribe(&engine, &parts)?;
        let inference = spent_s(std::process::id()) - begun;
        for (name, decoding) in &decoded {
            let ours = decoding + detection + spectrogram;
            let share = 100.0 * ours / (decoding + detection + inference);
            let _ = writeln!(
                page,
                "| {name} | {model} | {:.3} | {:.3} | {:.3} | {:.2} | {share:.1} |",
                per_second(*decoding),
                per_second(detection),
                per_second(spectrogram),
                per_second(inference),
            );
        }
    }
    Ok(page)
}

/// The segments of a recording, as decoding makes them.
fn parts(bytes: &[u8]) -> Result<Vec<Part>> {
    let mut decoder = Decoder::open(Cursor::new(bytes.to_vec()), DecodeOptions::default())?;
    let mut parts = Vec::new();
    loop {
        match decoder.step()? {
            Step::Part(part) => parts.push(part),
            Step::Working => {}
            Step::End(_) => return Ok(parts),
        }
    }
}

fn transcribe(engine: &Engine, parts: &[Part]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("start a runtime")?;
    for part in parts {
        let options =
            Options { language: Some("en".to_owned()), speech: part.speech_ms.clone(), ..Options::default() };
        runtime
            .block_on(engine.transcribe(part.pcm.as_slice().into(), options, URGENT))
            .context("transcribe")?;
    }
    Ok(())
}

/// A WAV file of 16 kHz, mono, 16 bit.
fn wav_of(sound: &[i16]) -> Vec<u8> {
    let length = sound.len() as u32 * 2;
    let header = [
        &b"RIFF"[..],
        &(length + 36).to_le_bytes(),
        b"WAVEfmt \x10\0\0\0\x01\0\x01\0",
        &16_000u32.to_le_bytes(),
        &32_000u32.to_le_bytes(),
        b"\x02\0\x10\0data",
        &length.to_le_bytes(),
    ];
    let samples = sound.iter().flat_map(|sample| sample.to_le_bytes());
    header.concat().into_iter().chain(samples).collect()
}
