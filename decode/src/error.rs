//! Why a recording could not be decoded: values with a stable code for programs and a sentence for people.

use std::io;

/// What an unsupported codec or container can be turned into, by whom.
pub(crate) const REMEDY: &str = "install ffmpeg and enable it for the decode stage (`voiceforge up --ffmpeg auto`), or convert the file first, for example to flac or mp3";

/// The reason a recording gave no audio. A file that breaks midway is not one of these: it ends with a
/// [`Summary`](crate::Summary) that says where it was cut short.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The source holds no bytes, or a container with no audio in it.
    #[error("the file is empty: send a file that holds some audio")]
    Empty,
    /// The bytes are no audio or video container that we know.
    #[error(
        "this is not audio: {found}; send an audio or video file such as wav, mp3, flac, ogg, m4a or mp4"
    )]
    NotAudio {
        /// What the bytes look like.
        found: String,
    },
    /// A container without sound, for example a silent video.
    #[error("the {container} file has no audio track: send one with sound")]
    NoAudioTrack {
        /// The container's name.
        container: String,
    },
    /// The audio is in a codec that is not built in and ffmpeg is not at hand.
    #[error("{codec} audio cannot be decoded here: {remedy}")]
    UnsupportedCodec {
        /// The codec, by the name people use for it.
        codec: String,
        /// What to do about it.
        remedy: String,
    },
    /// A known codec in a form that cannot be used, for example an impossible sample rate.
    #[error("{what}: {remedy}")]
    Unsupported {
        /// What is not supported.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// More audio than the limit allows.
    #[error("the recording is longer than the limit of {} minutes: split it, or raise the limit", .limit_ms / 60_000)]
    TooLong {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// Nothing could be decoded.
    #[error(
        "the file is damaged and nothing of it could be decoded ({reason}): send it again, or export it anew"
    )]
    Damaged {
        /// What the decoder said.
        reason: String,
    },
    /// The ffmpeg fallback failed.
    #[error("ffmpeg could not decode the file ({reason}): convert it first, for example to flac or mp3")]
    Ffmpeg {
        /// What ffmpeg said, or which limit it hit.
        reason: String,
        /// Whether trying again may help: ffmpeg could not start, or there was no room for its input.
        retryable: bool,
    },
    /// The source itself failed to deliver: a fault of storage or network, not of the recording.
    #[error("read the recording: {0}")]
    Source(#[source] io::Error),
    /// The cursor does not fit this recording, these options or this version of the cutter.
    #[error("the run cannot be continued: {reason}; decode the recording from its start")]
    Cursor {
        /// What does not fit.
        reason: String,
    },
}

impl DecodeError {
    /// The stable name of this kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            DecodeError::Empty => "empty",
            DecodeError::NotAudio { .. } => "not_audio",
            DecodeError::NoAudioTrack { .. } => "no_audio_track",
            DecodeError::UnsupportedCodec { .. } => "unsupported_codec",
            DecodeError::Unsupported { .. } => "unsupported",
            DecodeError::TooLong { .. } => "too_long",
            DecodeError::Damaged { .. } => "damaged",
            DecodeError::Ffmpeg { .. } => "ffmpeg_failed",
            DecodeError::Source(_) => "source_failed",
            DecodeError::Cursor { .. } => "cursor_mismatch",
        }
    }

    /// Whether the same recording may decode when tried again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            DecodeError::Source(_) => true,
            DecodeError::Ffmpeg { retryable, .. } => *retryable,
            _ => false,
        }
    }
}
