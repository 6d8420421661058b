//! The fallback for codecs that are not built in: an `ffmpeg` process that reads a private copy of the recording,
//! opens nothing else, and works under limits of time, memory and processor.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::Info;
use crate::container::{Block, Next};
use crate::error::DecodeError;
use crate::source::Handle;

/// Where ffmpeg is and what it may use.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    /// The program.
    pub program: PathBuf,
    /// The folder for the copy of the recording that ffmpeg reads. It is deleted afterwards.
    pub spool_dir: PathBuf,
    /// Processor time for one recording, in seconds.
    pub cpu_seconds: u64,
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// How long its output may be waited for in all; pauses of the reader do not count.
    pub wall: Duration,
    /// The largest recording that is handed to it, in bytes.
    pub input_bytes_max: u64,
}

impl Ffmpeg {
    /// The ffmpeg that the search path `PATH` finds, with the default limits.
    pub fn find() -> Option<Ffmpeg> {
        let path = std::env::var_os("PATH")?;
        let program =
            std::env::split_paths(&path).map(|dir| dir.join("ffmpeg")).find(|file| file.is_file())?;
        Some(Ffmpeg::at(program))
    }

    /// An ffmpeg at a given place, with the default limits: 30 minutes of processor, 2 GiB of memory, an hour of
    /// waiting, 8 GiB of input.
    pub fn at(program: PathBuf) -> Ffmpeg {
        Ffmpeg {
            program,
            spool_dir: std::env::temp_dir(),
            cpu_seconds: 30 * 60,
            memory_bytes: 2 << 30,
            wall: Duration::from_secs(3600),
            input_bytes_max: 8 << 30,
        }
    }
}

/// Sets the limits, then becomes ffmpeg. `$1` seconds, `$2` KiB; a limit that the system lacks is left out.
const LIMITED: &str =
    r#"ulimit -c 0; ulimit -f 0; ulimit -t "$1"; ulimit -v "$2" 2>/dev/null; shift 2; exec "$@""#;

/// Formats it may take the bytes for: sound and video files, none that name other files.
const FORMATS: &str = "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,flac,flv,gsm,matroska,mov,mp3,\
mpc,mpc8,mpeg,mpegts,nistsphere,ogg,rm,sox,tta,voc,w64,wav,wv,truehd,g722,g726,xwma,ircam";

/// Bytes handed over at a time, and how many such chunks may wait.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_WAITING: usize = 8;
/// What is kept of ffmpeg's complaints.
const COMPLAINT_BYTES: usize = 2000;

/// A running ffmpeg and the sound that comes out of it.
pub(crate) struct Pipe {
    child: Child,
    chunks: Receiver<io::Result<Vec<u8>>>,
    complaints: Option<JoinHandle<String>>,
    wait_left: Duration,
    /// Bytes that do not fill a frame yet.
    rest: Vec<u8>,
    info: Info,
    frames: u64,
    /// Deleted with the pipe.
    _copy: NamedTempFile,
}

impl Pipe {
    /// Starts ffmpeg on the source and reads as far as the header of its output. `codec` is what it is believed to be.
    pub fn open(ffmpeg: &Ffmpeg, handle: Handle, codec: String) -> Result<Pipe, DecodeError> {
        let copy = spool(ffmpeg, handle.rewound())?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", LIMITED, "sh"])
            .arg(ffmpeg.cpu_seconds.to_string())
            .arg((ffmpeg.memory_bytes / 1024).to_string())
            .arg(&ffmpeg.program)
            .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-threads", "1"])
            .args(["-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS])
            .arg("-i")
            .arg(file_url(&copy))
            .args(["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1", "-threads", "1"])
            .args(["-c:a", "pcm_f32le", "-f", "wav", "-bitexact", "pipe:1"])
            // Keys and passwords in the environment are none of its business.
            .env_clear()
            .envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| DecodeError::Ffmpeg {
                reason: format!("it did not start: {error}"),
                retryable: true,
            })?;
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, chunks) = sync_channel(CHUNKS_WAITING);
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let result = stdout.read(&mut chunk).map(|len| {
                    chunk.truncate(len);
                    chunk
                });
                let last = result.as_ref().map_or(true, |chunk| chunk.is_empty());
                if sender.send(result).is_err() || last {
                    return;
                }
            }
        });
        let complaints = Some(std::thread::spawn(move || last_words(stderr)));
        let info = Info {
            container: "other".into(),
            codec,
            decoder: "ffmpeg".into(),
            source_rate: 0,
            source_channels: 0,
            channels: 1,
            estimated_ms: None,
        };
        let mut pipe = Pipe {
            child,
            chunks,
            complaints,
            wait_left: ffmpeg.wall,
            rest: Vec::new(),
            info,
            frames: 0,
            _copy: copy,
        };
        pipe.read_header()?;
        Ok(pipe)
    }

    /// What ffmpeg found.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Waits for the next sound.
    pub fn next(&mut self, block: &mut Block) -> Result<Next, DecodeError> {
        block.rate = self.info.source_rate;
        block.channels = usize::from(self.info.source_channels);
        let frame_bytes = 4 * block.channels;
        block.samples.clear();
        loop {
            let whole = self.rest.len() / frame_bytes * frame_bytes;
            if whole > 0 {
                let samples = self.rest[..whole].chunks_exact(4);
                block.samples.extend(samples.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                self.rest.drain(..whole);
                self.frames += (whole / frame_bytes) as u64;
                return Ok(Next::Block);
            }
            if !self.fill()? {
                let fault = self.fault();
                return match fault {
                    Some(reason) if self.frames == 0 => Err(DecodeError::Ffmpeg { reason, retryable: false }),
                    None if self.frames == 0 => Err(DecodeError::Empty),
                    fault => Ok(Next::End(fault)),
                };
            }
        }
    }

    /// Reads the wav header that announces rate and channels.
    fn read_header(&mut self) -> Result<(), DecodeError> {
        let mut at = 12;
        loop {
            let header = self.bytes(at, 8)?;
            let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let body = at + 8;
            match &header[..4] {
                b"fmt " => {
                    let fmt = self.bytes(body, 16)?;
                    self.info.source_channels = u16::from_le_bytes([fmt[2], fmt[3]]);
                    self.info.source_rate = u32::from_le_bytes([fmt[4], fmt[5], fmt[6], fmt[7]]);
                }
                b"data" => {
                    self.rest.drain(..body);
                    break;
                }
                _ => {}
            }
            at = body + len + len % 2;
            if at > CHUNK_BYTES {
                break;
            }
        }
        if self.info.source_channels == 0 || self.info.source_rate == 0 {
            return Err(DecodeError::Ffmpeg { reason: "its output has no header".into(), retryable: false });
        }
        Ok(())
    }

    /// `len` bytes from `at` of the output so far, waiting for them.
    fn bytes(&mut self, at: usize, len: usize) -> Result<Vec<u8>, DecodeError> {
        while self.rest.len() < at + len {
            if !self.fill()? {
                let reason = self.fault().unwrap_or_else(|| "it gave no sound".into());
                if reason.contains("matches no streams") {
                    return Err(DecodeError::NoAudioTrack { container: self.info.codec.clone() });
                }
                return Err(DecodeError::Ffmpeg { reason, retryable: false });
            }
        }
        Ok(self.rest[at..at + len].to_vec())
    }

    /// Adds a chunk to `rest`; false at the end of the output.
    fn fill(&mut self) -> Result<bool, DecodeError> {
        let began = Instant::now();
        let chunk = self.chunks.recv_timeout(self.wait_left);
        self.wait_left = self.wait_left.saturating_sub(began.elapsed());
        match chunk {
            Ok(Ok(chunk)) if chunk.is_empty() => Ok(false),
            Ok(Ok(chunk)) => {
                self.rest.extend_from_slice(&chunk);
                Ok(true)
            }
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Ok(false),
            Err(RecvTimeoutError::Timeout) => {
                Err(DecodeError::Ffmpeg { reason: "it took too long".into(), retryable: false })
            }
        }
    }

    /// Waits for the end of the process; why it failed, if it did.
    fn fault(&mut self) -> Option<String> {
        let status = self.child.wait().ok()?;
        let said = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() {
            return None;
        }
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        // The copy's name says nothing to the reader.
        let last = last.replace(&*self._copy.path().to_string_lossy(), "the file");
        Some(match (status.code(), last.trim()) {
            (None, _) => "it was stopped at its limit of processor time or memory".into(),
            (Some(code), "") => format!("it ended with status {code}"),
            (Some(_), said) => said.to_owned(),
        })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies the source to a file of its own: ffmpeg must be able to seek, and gets no other file.
fn spool(ffmpeg: &Ffmpeg, mut source: Handle) -> Result<NamedTempFile, DecodeError> {
    if source.len() > ffmpeg.input_bytes_max {
        return Err(DecodeError::Ffmpeg {
            reason: format!("files over {} MiB are not handed to it", ffmpeg.input_bytes_max >> 20),
            retryable: false,
        });
    }
    let full = |error: io::Error| DecodeError::Ffmpeg {
        reason: format!("copy the recording: {error}"),
        retryable: true,
    };
    let mut copy = NamedTempFile::new_in(&ffmpeg.spool_dir).map_err(full)?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => copy.write_all(&chunk[..len]).map_err(full)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(DecodeError::Source(error)),
        }
    }
    copy.flush().map_err(full)?;
    Ok(copy)
}

fn file_url(copy: &NamedTempFile) -> std::ffi::OsString {
    let mut url = std::ffi::OsString::from("file:");
    url.push(copy.path());
    url
}

/// Reads to the end and keeps the last part.
fn last_words(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        kept.extend_from_slice(&chunk[..len]);
        let over = kept.len().saturating_sub(COMPLAINT_BYTES);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
