//! Decoding from the first byte to the summary.

use std::io::Cursor as Bytes;
use std::path::Path;

use decode::{DecodeError, DecodeOptions, Decoder, Part, Source, Step, Summary};

/// All parts and the summary.
pub fn run(source: impl Source, options: DecodeOptions) -> Result<(Vec<Part>, Summary), DecodeError> {
    finish(Decoder::open(source, options)?)
}

/// What is left of a run.
pub fn finish(mut decoder: Decoder) -> Result<(Vec<Part>, Summary), DecodeError> {
    let mut parts = Vec::new();
    loop {
        match decoder.step()? {
            Step::Part(part) => parts.push(part),
            Step::Working => {}
            Step::End(summary) => return Ok((parts, summary)),
        }
    }
}

/// A file, with its name as the hint.
pub fn run_file(path: &Path, options: DecodeOptions) -> Result<(Vec<Part>, Summary), DecodeError> {
    let hint = Some(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    run(std::fs::File::open(path).map_err(DecodeError::Source)?, DecodeOptions { hint, ..options })
}

/// Bytes without a name.
pub fn run_bytes(bytes: &[u8], options: DecodeOptions) -> Result<(Vec<Part>, Summary), DecodeError> {
    run(Bytes::new(bytes.to_vec()), options)
}

/// The most memory this process, with all its tests, ever held; 0 where the system does not say.
pub fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
