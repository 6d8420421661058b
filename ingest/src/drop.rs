//! A drop as its sender wrote it: the public contract of `vf:ingest`, field by field. Nothing is fetched or decided here.

use std::collections::BTreeMap;

use bytes::Bytes;
use events::{Decoding, Manifest, Tenant};
use jiff::Timestamp;
use service::store::Key;
use service::telemetry::TraceContext;
use streams::{Entry, keys};
use url::Url;

/// Longest name, idempotency key and name of a metadata field, in bytes.
const WORD_BYTES_MAX: usize = 512;
/// Longest uri, in bytes.
const URI_BYTES_MAX: usize = 4096;
/// Longest prompt, in bytes: several times what a model looks at.
const PROMPT_BYTES_MAX: usize = 8 * 1024;
/// All metadata of a drop, names and values, in bytes. It travels in an event, and events are small.
const METADATA_BYTES_MAX: usize = 16 * 1024;
/// What begins the name of a metadata field.
const METADATA: &str = "meta.";
/// Folders of the audio store that are no tenant's.
const RESERVED_TENANTS: [&str; 2] = ["incoming", crate::intake::FETCHING];
/// Every field but metadata and the options of decoding.
const FIELDS: [&str; 16] = [
    "audio",
    "uri",
    "drop",
    "name",
    "tenant",
    "key",
    "language",
    "task",
    "model",
    "prompt",
    "channels",
    "temperature",
    "sha256",
    "submitted_at",
    "trace",
    "callback",
];

/// What is known of any drop, however bad the rest of it is: enough to answer it.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The drop's own id, else that of its entry: see [`keys::drop_id`].
    pub id: String,
    /// The name the sender gave it, cut to something printable.
    pub name: Option<String>,
    /// Who owns it.
    pub tenant: Tenant,
    /// W3C `traceparent` of the sender, or of a new trace.
    pub trace: String,
    /// When it was dropped: as it says itself, else the time in its id in the queue, so that a repeat gives the same; the
    /// time of reading for what somebody made up.
    pub at: Timestamp,
}

/// A drop that can be worked on.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Where the audio is.
    pub origin: Origin,
    /// The idempotency key.
    pub key: Option<String>,
    /// What the audio's SHA-256 must be.
    pub sha256: Option<[u8; 32]>,
    /// The `meta.*` fields without their prefix.
    pub metadata: BTreeMap<String, String>,
}

/// Where the audio of a drop is.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// In the drop itself.
    Inline(Bytes),
    /// In the audio store, where the API put it.
    Store(Key),
    /// Behind a uri of some scheme.
    Uri(Url),
}

/// How the sender wants it transcribed, as written; what is not said is decided with the models at hand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Name of the model.
    pub model: Option<String>,
    /// Code of the language.
    pub language: Option<String>,
    /// `transcribe` or `translate`.
    pub task: Option<String>,
    /// Text the decoder is primed with.
    pub prompt: Option<String>,
    /// `mix` or `each`.
    pub channels: Option<String>,
    /// A number or a comma separated ladder of them.
    pub temperature: Option<String>,
    /// The options of decoding, which mean the same to every model.
    pub decoding: Decoding,
}

/// A drop as far as it could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// What is known in any case.
    pub head: Head,
    /// How it is to be transcribed.
    pub wishes: Wishes,
    /// What is to be done; `None` when it names no audio that could be looked for.
    pub order: Option<Order>,
    /// Every mistake: what is wrong, and what to do about it.
    pub mistakes: Vec<String>,
    /// Names of fields that mean nothing here.
    pub unknown: Vec<String>,
}

/// Reads the fields of a drop.
pub fn read(entry: &Entry) -> Read {
    let mut fields = Fields { entry, mistakes: Vec::new() };
    fields.check_repeats();
    let id = fields.word("drop", keys::DROP_ID_BYTES_MAX, |id| {
        keys::is_drop_id(id.as_bytes())
            .then_some(id.to_owned())
            .ok_or("takes letters, digits, '-' and '_' only".to_owned())
    });
    let id = id.unwrap_or_else(|| keys::drop_id(entry.source, &entry.id));
    let tenant = fields.word("tenant", WORD_BYTES_MAX, read_tenant).unwrap_or_default();
    let trace = fields.word("trace", WORD_BYTES_MAX, |trace| Ok(trace.to_owned()));
    let name = fields.word("name", WORD_BYTES_MAX, |name| Ok(name.to_owned()));
    let printable = || {
        let name: String = entry.text("name")?.chars().filter(|c| !c.is_control()).take(128).collect();
        (!name.is_empty()).then_some(name)
    };
    let now = events::now();
    let said = fields.word("submitted_at", WORD_BYTES_MAX, |text| {
        text.parse().map_err(|_| "is not a time like 2026-02-03T04:05:06Z".to_owned())
    });
    let head = Head {
        name: name.or_else(printable),
        tenant,
        // A trace that is not one is no reason to refuse audio.
        trace: TraceContext::follow(trace.as_deref()).to_string(),
        at: said
            .and_then(|at: Timestamp| recent(at.as_millisecond(), now))
            .unwrap_or_else(|| dropped_at(&entry.id, now)),
        id,
    };
    if entry.field("callback").is_some() {
        let instead = format!("leave it out and ask for recording {} until it is done", head.id);
        fields.mistake("callback", format!("callbacks are not supported yet: {instead}"));
    }
    let wishes = Wishes {
        model: fields.text("model", WORD_BYTES_MAX),
        language: fields.text("language", WORD_BYTES_MAX),
        task: fields.text("task", WORD_BYTES_MAX),
        prompt: fields.text("prompt", PROMPT_BYTES_MAX),
        channels: fields.text("channels", WORD_BYTES_MAX),
        temperature: fields.text("temperature", WORD_BYTES_MAX),
        decoding: fields.decoding(),
    };
    let key = fields.text("key", WORD_BYTES_MAX);
    let sha256 = fields.word("sha256", WORD_BYTES_MAX, |text| {
        let mut sha256 = [0; 32];
        let read = hex::decode_to_slice(text, &mut sha256);
        read.map(|()| sha256).map_err(|_| "is not a SHA-256 in 64 hexadecimal digits".to_owned())
    });
    let metadata = fields.metadata();
    let origin = fields.origin(&head.id, sha256.is_some());
    let order = origin.map(|origin| Order { origin, key, sha256, metadata });
    let unknown = entry.fields.iter().map(|(name, _)| name);
    let unknown = unknown.filter(|name| !is_known(name));
    Read {
        head,
        wishes,
        order,
        unknown: unknown.take(16).map(|name| shown(name)).collect(),
        mistakes: fields.mistakes,
    }
}

/// Cuts what a sender wrote to something a message can quote.
pub fn shown(text: &str) -> String {
    let cut: String = text.chars().take(64).collect();
    if cut.len() < text.len() { format!("{cut:?}...") } else { format!("{cut:?}") }
}

fn is_known(field: &str) -> bool {
    FIELDS.contains(&field) || Decoding::FIELDS.contains(&field) || field.starts_with(METADATA)
}

struct Fields<'a> {
    entry: &'a Entry,
    mistakes: Vec<String>,
}

impl Fields<'_> {
    fn mistake(&mut self, field: &str, problem: impl std::fmt::Display) {
        self.mistakes.push(format!("{field}: {problem}"));
    }

    fn check_repeats(&mut self) {
        let mut seen = std::collections::HashSet::new();
        for (name, _) in &self.entry.fields {
            if is_known(name) && !seen.insert(name) {
                self.mistake(&shown(name), "is given more than once; give it once");
            }
        }
    }

    /// A field of text; empty counts as not given.
    fn text(&mut self, field: &str, bytes_max: usize) -> Option<String> {
        self.word(field, bytes_max, |text| Ok(text.to_owned()))
    }

    fn word<T>(
        &mut self,
        field: &str,
        bytes_max: usize,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let bytes = self.entry.field(field).filter(|bytes| !bytes.is_empty())?;
        let value = check_text(bytes, bytes_max).and_then(read);
        value.map_err(|problem| self.mistake(field, problem)).ok()
    }

    fn decoding(&mut self) -> Decoding {
        let mut decoding = Decoding::default();
        for field in Decoding::FIELDS {
            // The option itself knows how long it may be.
            self.word(field, PROMPT_BYTES_MAX, |text| decoding.set(field, text));
        }
        if let Err((field, problem)) = decoding.check() {
            self.mistake(field, problem);
        }
        decoding
    }

    fn metadata(&mut self) -> BTreeMap<String, String> {
        let entry = self.entry;
        let mut metadata = BTreeMap::new();
        let mut bytes_all = 0;
        for (field, bytes) in &entry.fields {
            let Some(name) = field.strip_prefix(METADATA) else { continue };
            bytes_all += name.len() + bytes.len();
            let name_fits = check_text(name.as_bytes(), WORD_BYTES_MAX).map(|_| ());
            match name_fits.and_then(|()| check_text(bytes, METADATA_BYTES_MAX)) {
                Ok(_) if name.is_empty() => self.mistake(METADATA, "needs a name behind the dot"),
                Ok(value) => drop(metadata.insert(name.to_owned(), value.to_owned())),
                Err(problem) => self.mistake(&shown(field), problem),
            }
        }
        if bytes_all > METADATA_BYTES_MAX {
            let problem =
                format!("all of it together has {bytes_all} bytes; keep it under {METADATA_BYTES_MAX}");
            self.mistake("meta.*", problem);
        }
        metadata
    }

    fn origin(&mut self, drop: &str, has_sha256: bool) -> Option<Origin> {
        let audio = self.entry.field("audio").cloned();
        let uri = self.entry.field("uri").filter(|uri| !uri.is_empty());
        match (audio, uri) {
            (Some(_), Some(_)) => {
                self.mistake("audio, uri", "both are given; give the bytes or the place, not both");
                None
            }
            (None, None) => {
                self.mistake(
                    "audio, uri",
                    "neither is given; give the bytes of the file as `audio` (redis-cli -x XADD vf:ingest '*' \
                     name talk.mp3 audio < talk.mp3), or where it is as `uri`",
                );
                None
            }
            (Some(audio), None) => Some(Origin::Inline(audio)),
            (None, Some(_)) => match self.text("uri", URI_BYTES_MAX)?.strip_prefix("store:") {
                Some(key) => self.stored(key, drop, has_sha256),
                None => self.word("uri", URI_BYTES_MAX, |uri| {
                    uri.parse().map(Origin::Uri).map_err(|error| {
                        format!(
                            "{} is not a uri ({error}); write it like file:///srv/audio/talk.mp3",
                            shown(uri)
                        )
                    })
                }),
            },
        }
    }

    /// Audio in the store moves with its drop, so a drop may name its own alone.
    fn stored(&mut self, key: &str, drop: &str, has_sha256: bool) -> Option<Origin> {
        let own = Manifest::audio_key(drop);
        if key != own {
            let problem = format!(
                "store:{} is not this drop's own audio; only store:{own} is",
                shown(key).trim_matches('"')
            );
            self.mistake("uri", problem);
            return None;
        }
        if !has_sha256 {
            self.mistake("sha256", "is needed with a store: uri, to know the audio again after a restart");
        }
        // The key is of parts that fit when the drop id fits; an id of the queue's has only digits and a dash.
        Key::parse(key).map(Origin::Store).map_err(|error| self.mistake("uri", error)).ok()
    }
}

/// Text that every part of the way can hold: UTF-8, of bounded size, without the control characters that databases
/// and terminals choke on.
fn check_text(bytes: &[u8], bytes_max: usize) -> Result<&str, String> {
    if bytes.len() > bytes_max {
        return Err(format!("has {} bytes; keep it under {bytes_max}", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    match text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        Some(odd) => Err(format!("holds the control character {odd:?}; leave it out")),
        None => Ok(text),
    }
}

fn read_tenant(text: &str) -> Result<Tenant, String> {
    if RESERVED_TENANTS.contains(&text) {
        return Err(format!("{text:?} is a reserved name; choose another"));
    }
    text.parse().map_err(|error: events::IdError| error.to_string())
}

/// Reads the time out of a stream id, so that a repeat gives the same; `now` for ids that somebody made up.
pub(crate) fn dropped_at(id: &str, now: Timestamp) -> Timestamp {
    let ms: Option<i64> = id.split('-').next().and_then(|ms| ms.parse().ok());
    ms.and_then(|ms| recent(ms, now)).unwrap_or(now)
}

/// A time of the last week, in milliseconds. Others are no time at which a drop that is still on its way was handed in, and
/// tables are cut by that time.
fn recent(ms: i64, now: Timestamp) -> Option<Timestamp> {
    const A_WEEK_MS: i64 = 7 * 24 * 3600 * 1000;
    let is_recent = (0..=A_WEEK_MS).contains(&now.as_millisecond().saturating_sub(ms));
    is_recent.then(|| Timestamp::from_millisecond(ms).ok()).flatten()
}

#[cfg(test)]
mod tests;
