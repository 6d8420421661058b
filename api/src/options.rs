//! What the fields of an upload ask for, checked against the models at hand.

use std::collections::BTreeMap;

use events::{Channels, Decoding, IdError, Lane, Task};
use serde::Deserialize;
use streams::ModelNote;
use utoipa::{IntoParams, ToSchema};
use warp::http::HeaderMap;

use crate::params::{Params, shorten};

/// Limits of what travels in an event, in bytes; ingest has the same.
const WORD_BYTES_MAX: usize = 512;
const PROMPT_BYTES_MAX: usize = 8 * 1024;
const METADATA_BYTES_MAX: usize = 16 * 1024;
/// What begins the name of a metadata field.
const METADATA: &str = "meta.";
/// The name that stands for the deployment's own choice, because OpenAI's clients must name something.
const DEFAULT_MODEL: &str = "whisper-1";

/// What the fields of an upload ask for.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// The lane it goes in.
    pub lane: Lane,
    /// The options of the queue's entry.
    pub fields: BTreeMap<String, String>,
}

/// The options of decoding, for the document.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "it only describes the parameters")]
pub struct DecodingForm {
    /// Beams at temperature 0, 1 to 16; 1 (default) takes the likeliest token each time.
    beam_size: Option<u32>,
    /// Texts drawn at temperatures above 0, of which the likeliest is kept, 1 to 16; by default 5.
    best_of: Option<u32>,
    /// Texts to find before a search with beams ends, as a multiple of the beams; above 0, at most 10, by default 1.
    patience: Option<f32>,
    /// Exponent of the length by which texts are ranked, 0 to 1, or `none` (default).
    length_penalty: Option<String>,
    /// Words and names to expect, told to the model before each window; up to 1 KiB.
    hotwords: Option<String>,
    /// What the text of each channel begins with; up to 1 KiB.
    prefix: Option<String>,
    /// Whether the text of a window is the context of the next one in the same segment; by default true.
    condition_on_previous_text: Option<bool>,
    /// Whether the text of a segment is the context of the next one: the segments are then read one after the other, which
    /// takes longer; by default false.
    condition_across_segments: Option<bool>,
    /// Whether words get times; by default false.
    word_timestamps: Option<bool>,
    /// Whether the model leaves out the times of its text; by default false.
    without_timestamps: Option<bool>,
    /// Above this ratio of compression a text repeats itself and is tried again; by default 2.4, or `none`.
    compression_ratio_threshold: Option<String>,
    /// Below this mean log-probability a text is guessed and is tried again; by default -1, or `none`.
    log_prob_threshold: Option<String>,
    /// Above this probability of no speech a guessed text is silence; by default 0.6, or `none`.
    no_speech_threshold: Option<String>,
    /// Seconds of silence that are skipped, with the text, where words beside it seem invented; above 0, at most 30, or
    /// `none` (default).
    hallucination_silence_threshold: Option<String>,
}

/// Reads the options that all uploads have in common; what is wrong is noted in `params`.
pub fn read(
    params: &mut Params,
    headers: &HeaderMap,
    models: &BTreeMap<String, ModelNote>,
    lane: Lane,
    task: Option<Task>,
) -> Options {
    let mut fields = BTreeMap::new();
    let mut keep = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    let model = read_model(params, models);
    let language = params.text("language").filter(|language| !language.eq_ignore_ascii_case("auto"));
    let language = language.and_then(|language| check_language(params, &language, models, model.as_deref()));
    keep("model", model);
    keep("language", language);
    let task = match task {
        Some(task) => Some(task),
        None => params.parsed::<Task>("task"),
    };
    keep("task", task.filter(|&task| task != Task::default()).map(|task| task.to_string()));
    keep("channels", params.parsed::<Channels>("channels").map(|channels| channels.to_string()));
    keep("prompt", read_prompt(params));
    keep("name", read_text(params, "name", WORD_BYTES_MAX));
    keep("temperature", read_temperature(params));
    for (name, value) in read_decoding(params) {
        keep(&name, Some(value));
    }
    keep("key", read_key(params, headers));

    let metadata = params.prefixed(METADATA);
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() - METADATA.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        params.problem(
            "meta.*",
            format!("has {bytes} bytes in all; at most {METADATA_BYTES_MAX} travel with a recording"),
        );
    }
    for (name, value) in metadata {
        match check_text(&value, METADATA_BYTES_MAX) {
            Ok(()) if name.len() > METADATA.len() && name.len() <= WORD_BYTES_MAX => keep(&name, Some(value)),
            Ok(()) => params.problem(shorten(&name), "needs a name of 1 to 500 letters behind the dot"),
            Err(problem) => params.problem(shorten(&name), problem),
        }
    }
    Options { lane, fields }
}

/// A model by name; the default of the deployment is left for ingest to know.
pub fn read_model(params: &mut Params, models: &BTreeMap<String, ModelNote>) -> Option<String> {
    let name = params.text("model").filter(|name| name != DEFAULT_MODEL)?;
    // Before the first worker has announced itself nobody knows what there will be.
    if !models.is_empty() && !models.contains_key(&name) {
        let known: Vec<_> = models.keys().map(String::as_str).collect();
        let known = known.join(", ");
        params.problem(
            "model",
            format!(
                "is {:?}, which is not known here; there are {known}, and {DEFAULT_MODEL} for the default",
                shorten(&name)
            ),
        );
        return None;
    }
    Some(name)
}

/// The code of a language that a model must know.
pub fn check_language(
    params: &mut Params,
    language: &str,
    models: &BTreeMap<String, ModelNote>,
    model: Option<&str>,
) -> Option<String> {
    let language = language.to_ascii_lowercase();
    let code = language.split(['-', '_']).next().unwrap_or_default().to_owned();
    let is_language = transcript::language::NAMES.iter().any(|(known, _)| *known == code);
    if !is_language {
        let problem = format!(
            "is {:?}, which is not a language; expected an ISO 639-1 code such as en or de, or nothing to have it found",
            shorten(&language)
        );
        params.problem("language", problem);
        return None;
    }
    if let Some(note) =
        model.and_then(|model| models.get(model)).filter(|note| !note.languages.contains(&code))
    {
        params.problem("language", format!("is {code:?}, which {} does not know", note.name));
    }
    Some(code)
}

/// The options of decoding that are given, each by its name.
pub fn read_decoding(params: &mut Params) -> BTreeMap<String, String> {
    let (mut given, mut decoding) = (BTreeMap::new(), Decoding::default());
    for name in Decoding::FIELDS {
        let Some(text) = params.text(name) else { continue };
        let good = decoding.set(name, &text).and_then(|()| check_text(&text, PROMPT_BYTES_MAX));
        match good {
            Ok(()) => drop(given.insert(name.to_owned(), text)),
            Err(problem) => params.problem(name, problem),
        }
    }
    if let Err((name, problem)) = decoding.check() {
        params.problem(name, problem);
    }
    given
}

/// A temperature, or a ladder of them to climb when a result is poor.
fn read_temperature(params: &mut Params) -> Option<String> {
    let text = params.text("temperature")?;
    let good = text.split(',').all(|t| t.trim().parse().is_ok_and(|t: f32| (0.0..=1.0).contains(&t)));
    if !good {
        params.problem("temperature", format!("is {:?}; expected a number from 0 to 1", shorten(&text)));
    }
    Some(text)
}

fn read_key(params: &mut Params, headers: &HeaderMap) -> Option<String> {
    let field = read_text(params, "key", WORD_BYTES_MAX);
    let header = headers.get("idempotency-key").map(|value| value.to_str().unwrap_or("\0").to_owned());
    let header = header.filter(|key| !key.is_empty());
    if let Some(problem) = header.as_deref().and_then(|key| check_text(key, WORD_BYTES_MAX).err()) {
        params.problem("Idempotency-Key", problem);
    }
    if field.is_some() && header.is_some() && field != header {
        params.problem("key", "differs from the Idempotency-Key header; give one of them");
    }
    field.or(header)
}

/// Names and spelling that the model should know.
pub fn read_prompt(params: &mut Params) -> Option<String> {
    read_text(params, "prompt", PROMPT_BYTES_MAX)
}

fn read_text(params: &mut Params, name: &'static str, bytes_max: usize) -> Option<String> {
    let text = params.text(name)?;
    if let Err(problem) = check_text(&text, bytes_max) {
        params.problem(name, problem);
    }
    Some(text)
}

fn check_text(text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max {
        return Err(format!("has {} bytes; at most {bytes_max} are taken", text.len()));
    }
    match text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        Some(odd) => Err(format!("holds the control character {odd:?}; leave it out")),
        None => Ok(()),
    }
}

/// The last part of a file's path, as far as it can be shown.
pub fn printable_name(file_name: &str) -> Option<String> {
    let last = file_name.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).take(128).collect();
    (!name.is_empty()).then_some(name)
}

/// A lane that a client may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneChoice(pub Lane);

impl std::str::FromStr for LaneChoice {
    type Err = IdError;

    fn from_str(text: &str) -> Result<LaneChoice, IdError> {
        match text.parse()? {
            Lane::Replay => {
                Err(IdError { what: "lane for new audio", text: text.to_owned(), expected: "rt or batch" })
            }
            lane => Ok(LaneChoice(lane)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn models() -> BTreeMap<String, ModelNote> {
        let note = |name: &str, multilingual, languages: &[&str]| ModelNote {
            name: name.to_owned(),
            sha256: "5a".to_owned(),
            multilingual,
            languages: languages.iter().map(|&code| code.to_owned()).collect(),
        };
        let notes = [note("tiny.en", false, &["en"]), note("base", true, &["en", "de", "pt"])];
        notes.into_iter().map(|note| (note.name.clone(), note)).collect()
    }

    fn check_with(query: &str, key: Option<&str>, models: &BTreeMap<String, ModelNote>, then: Expect) {
        let mut params = Params::of_query(query);
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert("idempotency-key", key.parse().unwrap());
        }
        let options = read(&mut params, &headers, models, Lane::Batch, None);
        let told = match params.finish() {
            Ok(()) => options
                .fields
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.message.replace("; `", "\n`"),
        };
        then.assert_eq(&told);
    }

    fn check(query: &str, then: Expect) {
        check_with(query, None, &models(), then);
    }

    #[test]
    fn what_is_left_out_or_the_default_is_not_passed_on() {
        check("", expect![""]);
        check("model=whisper-1&language=auto&task=transcribe", expect![""]);
    }

    #[test]
    fn every_field_is_passed_on() {
        check(
            "model=base&language=pt-BR&task=translate&channels=each&prompt=Ana&name=a&temperature=0,0.5&key=k&meta.a=1\
             &beam_size=5&best_of=3&patience=2&length_penalty=0.5&hotwords=Z%C3%A9&prefix=Dear&condition_on_previous_text=false\
             &word_timestamps=true&without_timestamps=true&compression_ratio_threshold=none&log_prob_threshold=-2\
             &no_speech_threshold=0.9&hallucination_silence_threshold=2",
            expect![
                "beam_size=5 best_of=3 channels=each compression_ratio_threshold=none condition_on_previous_text=false hallucination_silence_threshold=2 hotwords=Zé key=k language=pt length_penalty=0.5 log_prob_threshold=-2 meta.a=1 model=base name=a no_speech_threshold=0.9 patience=2 prefix=Dear prompt=Ana task=translate temperature=0,0.5 without_timestamps=true word_timestamps=true"
            ],
        );
        check_with("key=k", Some("k"), &models(), expect!["key=k"]);
        check_with("", Some("k"), &models(), expect!["key=k"]);
    }

    #[test]
    fn every_mistake_is_told() {
        check(
            "model=huge&language=xx&task=sing&channels=left&temperature=hot&name=a%00b&meta.=1&nmae=1",
            expect![[r#"
                `model` is "huge", which is not known here; there are base, tiny.en, and whisper-1 for the default
                `language` is "xx", which is not a language; expected an ISO 639-1 code such as en or de, or nothing to have it found
                `task` cannot be used: "sing" is not a task: transcribe or translate
                `channels` cannot be used: "left" is not a channels value: mix or each
                `name` holds the control character '\0'; leave it out
                `temperature` is "hot"; expected a number from 0 to 1
                `meta.` needs a name of 1 to 500 letters behind the dot
                `nmae` is not a parameter here; there are `beam_size`, `best_of`, `channels`, `compression_ratio_threshold`, `condition_across_segments`, `condition_on_previous_text`, `hallucination_silence_threshold`, `hotwords`, `key`, `language`, `length_penalty`, `log_prob_threshold`, `model`, `name`, `no_speech_threshold`, `patience`, `prefix`, `prompt`, `task`, `temperature`, `without_timestamps`, `word_timestamps`"#]],
        );
        check(
            "condition_across_segments=true&condition_on_previous_text=false",
            expect![
                "`condition_across_segments` needs condition_on_previous_text, which is switched off: leave one of them out"
            ],
        );
        check(
            "beam_size=0&best_of=x&patience=-1&hotwords=a%00b&word_timestamps=maybe&no_speech_threshold=2",
            expect![[r#"
                `beam_size` is "0"; expected a whole number from 1 to 16
                `best_of` is "x"; expected a whole number from 1 to 16
                `patience` is "-1"; expected a number above 0, at most 10
                `hotwords` holds the control character '\0'; leave it out
                `word_timestamps` is "maybe"; expected true or false
                `no_speech_threshold` is "2"; expected a number from 0 to 1, or none to switch the test off"#]],
        );
        check("model=tiny.en&language=de", expect![[r#"`language` is "de", which tiny.en does not know"#]]);
        check_with(
            "key=a",
            Some("b"),
            &models(),
            expect!["`key` differs from the Idempotency-Key header; give one of them"],
        );
        check(
            &format!("prompt={}", "x".repeat(9000)),
            expect!["`prompt` has 9000 bytes; at most 8192 are taken"],
        );
        let both = expect![[r#"
            `meta.*` has 17001 bytes in all; at most 16384 travel with a recording
            `meta.a` has 17000 bytes; at most 16384 are taken"#]];
        check(&format!("meta.a={}", "x".repeat(17_000)), both);
    }

    #[test]
    fn before_any_worker_has_announced_itself_a_model_is_taken_on_trust() {
        check_with("model=huge&language=de", None, &BTreeMap::new(), expect!["language=de model=huge"]);
    }

    #[test]
    fn a_file_name_is_shown_without_its_folders() {
        assert_eq!(printable_name("C:\\tmp\\a.wav").as_deref(), Some("a.wav"));
        assert_eq!(printable_name("/etc/a\n.wav").as_deref(), Some("a.wav"));
        assert_eq!(printable_name("folder/"), None);
    }

    #[test]
    fn nobody_chooses_the_replay_lane() {
        assert_eq!("rt".parse(), Ok(LaneChoice(Lane::Rt)));
        let refused = "replay".parse::<LaneChoice>().unwrap_err();
        assert_eq!(refused.to_string(), "\"replay\" is not a lane for new audio: rt or batch");
    }
}
