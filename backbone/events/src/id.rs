//! Identities, each derived from its cause so that doing a step twice names the same thing twice.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A text that is not the identity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {expected}")]
pub struct IdError {
    /// The kind of identity that was expected, in words.
    pub what: &'static str,
    /// The text as it came, cut to 64 characters.
    pub text: String,
    /// The form that would have been right.
    pub expected: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, expected: &'static str) -> IdError {
        IdError { what, text: text.chars().take(64).collect(), expected }
    }
}

/// A recording: 16 bytes written as a UUID (version 8).
///
/// The first two bytes come from the de-duplication claim, the rest from the drop, so that everything two
/// equal drops compete for lies in one shard, and a repeat of the same drop names the same recording.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordingId(Uuid);

impl RecordingId {
    /// Returns the recording that `drop` becomes under `claim`.
    pub fn derive(claim: &Claim, drop: &DropIdentity) -> RecordingId {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&drop.0[..16]);
        bytes[..2].copy_from_slice(&claim.0[..2]);
        RecordingId(Uuid::new_v8(bytes))
    }

    /// Returns the shard that holds everything of this recording, out of `shards` (at least 1).
    pub fn shard(self, shards: u16) -> Shard {
        let bytes = self.0.as_bytes();
        Shard(u16::from_be_bytes([bytes[0], bytes[1]]) % shards.max(1))
    }

    /// Returns the identity as a UUID, the type it has in SQL.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for RecordingId {
    fn from(uuid: Uuid) -> RecordingId {
        RecordingId(uuid)
    }
}

impl fmt::Display for RecordingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RecordingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RecordingId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<RecordingId, IdError> {
        Uuid::try_parse(text).map(RecordingId).map_err(|_| {
            IdError::new("recording id", text, "a UUID such as 3fa1c0de-0000-8000-8000-000000000000")
        })
    }
}

/// What two equal drops have in common: SHA-256 over tenant and key, or tenant, content and settings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim([u8; 32]);

impl Claim {
    /// The claim of a drop that named an idempotency key.
    pub fn by_key(tenant: &Tenant, key: &str) -> Claim {
        Claim(digest(&[b"key", tenant.as_str().as_bytes(), key.as_bytes()]))
    }

    /// The claim of a drop without a key: the same bytes with the same settings are the same recording.
    pub fn by_content(tenant: &Tenant, sha256: &str, settings: &[u8]) -> Claim {
        Claim(digest(&[b"content", tenant.as_str().as_bytes(), sha256.as_bytes(), settings]))
    }

    /// Returns the claim in hexadecimal, as it stands in its Redis key.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

/// What makes one drop different from every other: its id in the queue together with what it brought.
///
/// The stream id alone does not do: after a failover the same id may stand for another drop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DropIdentity([u8; 32]);

impl DropIdentity {
    /// Derives the identity from the drop's id and a digest of what it brought (content or uri).
    pub fn derive(drop_id: &str, content: &str) -> DropIdentity {
        DropIdentity(digest(&[b"drop", drop_id.as_bytes(), content.as_bytes()]))
    }

    /// Returns the event id that stands for the drop itself: the cause of the first events.
    pub fn event_id(&self) -> EventId {
        EventId(Uuid::new_v5(&EVENT_NAMESPACE, &self.0))
    }
}

/// SHA-256 over parts, each with its length in front so that no two lists of parts meet.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The namespace of every [`EventId`]; fixed for ever, because ids are compared across releases.
const EVENT_NAMESPACE: Uuid = Uuid::from_u128(0x7b1d_5a53_0c0f_4c6e_9a3e_8f61_46b0_d0a7);

/// The identity of an event: UUIDv5 of its cause, type, part and round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// Derives the id of the event of `kind` that `cause` leads to.
    ///
    /// `part` tells several events of one type and cause apart (a segment's `channel:index`, else empty);
    /// `round` grows with each replay, so that a replayed result is not mistaken for the first one.
    pub fn derive(cause: EventId, kind: &str, part: &str, round: u32) -> EventId {
        let name = format!("{cause}/{kind}/{part}/{round}");
        EventId(Uuid::new_v5(&EVENT_NAMESPACE, name.as_bytes()))
    }

    /// Returns the identity as a UUID, the type it has in SQL.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> EventId {
        EventId(uuid)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<EventId, IdError> {
        Uuid::try_parse(text).map(EventId).map_err(|_| IdError::new("event id", text, "a UUID"))
    }
}

/// A segment: recording, generation, channel and index, written `<recording>:<generation>:<channel>:<index>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SegmentId {
    /// The recording it was cut from.
    pub recording: RecordingId,
    /// The transcription it belongs to.
    pub generation: u32,
    /// The channel, 0 for a mix.
    pub channel: u16,
    /// The position within the channel, from 0.
    pub index: u32,
}

impl SegmentId {
    /// Returns `channel:index`, what tells the segments of one transcription apart.
    pub fn part(&self) -> String {
        format!("{}:{}", self.channel, self.index)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SegmentId { recording, generation, channel, index } = self;
        write!(f, "{recording}:{generation}:{channel}:{index}")
    }
}

impl FromStr for SegmentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<SegmentId, IdError> {
        let parse = || {
            let mut parts = text.split(':');
            let segment = SegmentId {
                recording: parts.next()?.parse().ok()?,
                generation: parts.next()?.parse().ok()?,
                channel: parts.next()?.parse().ok()?,
                index: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(segment)
        };
        parse().ok_or_else(|| IdError::new("segment id", text, "<recording>:<generation>:<channel>:<index>"))
    }
}

/// A fixed slice of recordings, written with two digits in keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u16);

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// Who owns a recording: 1 to 64 of `a-z A-Z 0-9 _ -`, because it is a folder of the audio store.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(String);

impl Tenant {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    /// The tenant of drops that name none.
    fn default() -> Tenant {
        Tenant("default".to_owned())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Tenant {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Tenant, IdError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
            Ok(Tenant(text.to_owned()))
        } else {
            Err(IdError::new("tenant", text, "1 to 64 letters, digits, '_' or '-'"))
        }
    }
}

impl TryFrom<String> for Tenant {
    type Error = IdError;

    fn try_from(text: String) -> Result<Tenant, IdError> {
        text.parse()
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> String {
        tenant.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> RecordingId {
        let claim = Claim::by_key(&Tenant::default(), "k1");
        RecordingId::derive(&claim, &DropIdentity::derive("1-0", "abc"))
    }

    #[test]
    fn a_repeat_of_a_drop_names_the_same_recording_and_events() {
        assert_eq!(recording(), recording());
        let cause = DropIdentity::derive("1-0", "abc").event_id();
        let first = EventId::derive(cause, "RecordingAdmitted", "", 0);
        assert_eq!(first, EventId::derive(cause, "RecordingAdmitted", "", 0));
        for other in [
            EventId::derive(cause, "RecordingAdmitted", "", 1),
            EventId::derive(cause, "RecordingAdmitted", "0:1", 0),
            EventId::derive(cause, "RecordingRejected", "", 0),
            EventId::derive(first, "RecordingAdmitted", "", 0),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_reused_stream_id_with_other_content_is_another_recording() {
        let claim = Claim::by_key(&Tenant::default(), "k1");
        let other = RecordingId::derive(&claim, &DropIdentity::derive("1-0", "abd"));
        assert_ne!(recording(), other);
        assert_eq!(recording().shard(16), other.shard(16), "one claim, one shard");
    }

    #[test]
    fn claims_do_not_meet_across_part_boundaries() {
        let a = Claim::by_content(&"ab".parse().unwrap(), "c", b"");
        let b = Claim::by_content(&"a".parse().unwrap(), "bc", b"");
        assert_ne!(a, b);
    }

    #[test]
    fn shards_cover_their_range() {
        let mut seen = [false; 16];
        for n in 0..1000 {
            let claim = Claim::by_key(&Tenant::default(), &n.to_string());
            let shard = RecordingId::derive(&claim, &DropIdentity::derive("1-0", "")).shard(16);
            seen[usize::from(shard.0)] = true;
        }
        assert_eq!(seen, [true; 16]);
        assert_eq!(recording().shard(0), Shard(0), "no division by zero");
    }

    #[test]
    fn segment_ids_survive_their_text_form() {
        let id = SegmentId { recording: recording(), generation: 3, channel: 1, index: 12 };
        assert_eq!(id.to_string().parse::<SegmentId>(), Ok(id));
        for bad in ["", "x", "1:2:3", &format!("{id}:9"), &format!("{id}x")] {
            assert!(bad.parse::<SegmentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tenants_are_safe_folder_names() {
        assert!("team_A-1".parse::<Tenant>().is_ok());
        for bad in ["", "..", "a/b", "a b", "ü", &"x".repeat(65)] {
            assert!(bad.parse::<Tenant>().is_err(), "{bad}");
        }
    }
}
