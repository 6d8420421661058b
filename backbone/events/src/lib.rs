//! What happened: the facts and the work that travel between the stages, as plain data.
//!
//! - [`event`]: the events themselves, one struct each, and [`Event`], the enum over them.
//! - [`settings`]: how a recording is to be transcribed, resolved once at admission.
//! - [`decoding`]: the part of it that only the decoder of the model looks at.
//! - [`id`]: identities. Each is derived from its cause, so a repeated step gives the same id.
//! - [`envelope`]: what every event carries besides its payload.
//! - [`deletion`]: a recording that is to be gone, and the fact that says so.
//! - [`codec`]: bytes to envelope and back, for every version ever released.
//! - [`manifest`]: what stands beside the audio of a drop until it has become a recording.
//!
//! Nothing here does IO, knows a stream, a table or a model. docs/events.md is the public description.

pub mod codec;
pub mod decoding;
pub mod deletion;
pub mod envelope;
pub mod event;
pub mod id;
pub mod manifest;
pub mod settings;

pub use codec::{CodecError, Decoded, Lean, MAX_EVENT_BYTES, decode, decode_lean, encode, end_unreadable};
pub use decoding::Decoding;
pub use deletion::Deletion;
pub use envelope::{About, Envelope, now};
pub use event::{
    Audio, Cause, Event, GenerationActivated, GenerationCancelled, RecordingAdmitted, RecordingDecoded,
    RecordingDeleted, RecordingFailed, RecordingRejected, SegmentCut, SegmentFailed, SegmentTranscribed,
    Span, Stretch, TranscriptionRequested, Word,
};
pub use id::{Claim, DropIdentity, EventId, IdError, RecordingId, SegmentId, Shard, Tenant};
pub use manifest::Manifest;
pub use settings::{Activation, CUTTER_VERSION, Channels, Lane, ModelRef, Settings, Task};
