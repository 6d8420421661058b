//! Options that several commands share.

use std::fmt;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use transcript::Format;

use crate::config::Config;

/// How audio is to be transcribed.
#[derive(Clone, Debug, Default, Args)]
pub struct Wishes {
    /// Model to use, such as tiny.en or base
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Language spoken, such as en or de; left out, it is found from the speech
    #[arg(long, value_name = "CODE")]
    pub language: Option<String>,
    /// What to write down: the words spoken, or their translation to English
    #[arg(long, value_enum)]
    pub task: Option<Task>,
    /// Names and spelling the model should know
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// All channels together, or each on its own, as in a call
    #[arg(long, value_enum)]
    pub channels: Option<Channels>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub decoding: Decoding,
}

impl Wishes {
    /// The fields of a drop that say so, by the names that queue and API share.
    pub fn fields(&self) -> Vec<(String, String)> {
        let mut fields = given([
            ("model", self.model.clone()),
            ("language", self.language.clone()),
            ("task", self.task.map(|task| word(&task))),
            ("prompt", self.prompt.clone()),
            ("channels", self.channels.map(|channels| word(&channels))),
        ]);
        fields.extend(self.decoding.fields());
        fields
    }
}

/// How the decoder searches for the text, and what it is told before.
#[derive(Clone, Debug, Default, Args)]
pub struct Decoding {
    /// Beams of the search: more of them are slower and find likelier texts (1 to 16; default: 1)
    #[arg(long, value_name = "N", help_heading = DECODING, value_parser = |text: &str| checked("beam_size", text))]
    pub beam_size: Option<String>,
    /// Draw this many texts where the first search fails, and keep the likeliest (1 to 16; default: 5)
    #[arg(long, value_name = "N", help_heading = DECODING, value_parser = |text: &str| checked("best_of", text))]
    pub best_of: Option<String>,
    /// Words and names to expect anywhere
    #[arg(long, value_name = "TEXT", help_heading = DECODING, value_parser = |text: &str| checked("hotwords", text))]
    pub hotwords: Option<String>,
    /// What the text begins with
    #[arg(long, value_name = "TEXT", help_heading = DECODING, value_parser = |text: &str| checked("prefix", text))]
    pub prefix: Option<String>,
    /// Give each word its time, in the transcript as JSON
    #[arg(long, help_heading = DECODING)]
    pub word_timestamps: bool,
    /// Read each piece for itself: for recordings in which the model repeats what it wrote before
    #[arg(long, alias = "no-condition-on-previous-text", help_heading = DECODING)]
    pub no_condition: bool,
    /// Give each piece the text before it as context: names stay spelt alike, and the pieces are read one after the other
    #[arg(long, conflicts_with = "no_condition", help_heading = DECODING)]
    pub condition_across_segments: bool,
    /// Any option of decoding by name, such as patience=2 or no_speech_threshold=none; may be given again
    #[arg(long, value_name = "NAME=VALUE", help_heading = DECODING, value_parser = option)]
    pub decoding: Vec<(String, String)>,
}

/// The heading under which help has these options.
const DECODING: &str = "Decoding";

impl Decoding {
    fn fields(&self) -> Vec<(String, String)> {
        let mut fields = given([
            ("beam_size", self.beam_size.clone()),
            ("best_of", self.best_of.clone()),
            ("hotwords", self.hotwords.clone()),
            ("prefix", self.prefix.clone()),
            ("word_timestamps", self.word_timestamps.then(|| "true".to_owned())),
            ("condition_on_previous_text", self.no_condition.then(|| "false".to_owned())),
            ("condition_across_segments", self.condition_across_segments.then(|| "true".to_owned())),
        ]);
        fields.extend(self.decoding.iter().cloned());
        fields
    }
}

/// Lets pass what ingest will take as the option `field`.
fn checked(field: &str, text: &str) -> Result<String, String> {
    events::Decoding::default().set(field, text).map(|()| text.to_owned())
}

/// Reads `name=value`.
fn option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as patience=2")?;
    let value = checked(name, value).map_err(|problem| format!("{name} {problem}"))?;
    Ok((name.to_owned(), value))
}

/// Which recordings to look at, and how to tell of them.
#[derive(Clone, Debug, Default, Args)]
pub struct Listing {
    /// Only recordings handed in at this time or later, such as 2026-01-31 or 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Only recordings handed in before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
    /// Write a line of JSON for each
    #[arg(long)]
    pub json: bool,
}

impl Listing {
    /// The API's parameters that say so, with those of `more` that are given.
    pub fn query<const N: usize>(&self, more: [(&str, Option<String>); N]) -> Vec<(String, String)> {
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
        let mut query = given(more);
        query.extend(given([("from", time(self.since)), ("until", time(self.until))]));
        query
    }
}

/// Where the API is and how to get in.
#[derive(Clone, Debug, Default, Args)]
pub struct Server {
    /// Address of the API (default: VOICEFORGE_SERVER, else what `voiceforge up` runs in the folder VOICEFORGE_DATA, else
    /// http://127.0.0.1:8080)
    #[arg(long, value_name = "URL", global = true, value_parser = address)]
    pub server: Option<url::Url>,
    /// Key for the API (default: VOICEFORGE_API_KEY)
    #[arg(long, value_name = "KEY", hide_env_values = true, global = true)]
    pub api_key: Option<String>,
}

impl Server {
    /// The key to show, if there is one.
    pub fn key(&self, config: &Config) -> Option<String> {
        self.api_key.clone().or_else(|| config.api_key.as_ref().map(|key| key.expose().to_owned()))
    }
}

/// What to write down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// The words spoken.
    Transcribe,
    /// Their translation to English.
    Translate,
}

/// Which channels to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Channels {
    /// All together.
    Mix,
    /// Each on its own.
    Each,
}

/// The lane to go in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Lane {
    /// Somebody is waiting.
    Rt,
    /// Nobody is.
    #[default]
    Batch,
}

impl From<Lane> for events::Lane {
    fn from(lane: Lane) -> events::Lane {
        match lane {
            Lane::Rt => events::Lane::Rt,
            Lane::Batch => events::Lane::Batch,
        }
    }
}

/// How a transcript is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Plain text.
    #[default]
    Text,
    /// One JSON document with all times.
    Json,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
}

impl From<Shape> for Format {
    fn from(shape: Shape) -> Format {
        match shape {
            Shape::Text => Format::Text,
            Shape::Json => Format::Json,
            Shape::Srt => Format::Srt,
            Shape::Vtt => Format::Vtt,
        }
    }
}

impl Shape {
    /// The end of the name of a file in this shape.
    pub fn extension(self) -> &'static str {
        match self {
            Shape::Text => "txt",
            Shape::Json => "json",
            Shape::Srt => "srt",
            Shape::Vtt => "vtt",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&word(self))
    }
}

fn given<const N: usize>(fields: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Reads the address of an API.
fn address(text: &str) -> Result<url::Url, String> {
    match text.parse() {
        Ok(url) if is_address(&url) => Ok(url),
        _ if text.contains("://") => Err("expected one like http://127.0.0.1:8080".to_owned()),
        _ => Err(format!("write it with http:// or https:// in front: http://{text}")),
    }
}

/// Whether a URL may be that of an API. `localhost:8080` is a URL, too: one with the scheme `localhost`.
pub fn is_address(url: &url::Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host()
}

/// Reads a time; one without a zone is UTC, as all times that are shown, and a date is its midnight.
pub fn time(text: &str) -> Result<Timestamp, String> {
    let without_zone =
        || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp());
    let expected = || "expected a date or a time, such as 2026-01-31 or 2026-01-31T18:00:00Z".to_owned();
    text.parse().ok().or_else(without_zone).ok_or_else(expected)
}

fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, is) in [
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("2026-01-31T18:30", "2026-01-31T18:30:00Z"),
            ("2026-01-31T18:30:00Z", "2026-01-31T18:30:00Z"),
            ("2026-01-31T18:30:00+02:00", "2026-01-31T16:30:00Z"),
        ] {
            assert_eq!(time(text).map(|time| time.to_string()).as_deref(), Ok(is), "{text}");
        }
        for text in ["yesterday", "2026-02-30", "18:30", ""] {
            assert!(time(text).is_err_and(|told| told.contains("2026-01-31T18:00:00Z")), "{text}");
        }
    }

    #[test]
    fn an_address_has_its_scheme() {
        let read = |text| address(text).map(|url| url.to_string());
        assert_eq!(read("http://127.0.0.1:8080").as_deref(), Ok("http://127.0.0.1:8080/"));
        assert_eq!(read("https://speech.example.com/vf").as_deref(), Ok("https://speech.example.com/vf"));
        for text in ["localhost:8080", "127.0.0.1:8080", "speech.example.com", ""] {
            let told = read(text).unwrap_err();
            assert!(told.ends_with(&format!("in front: http://{text}")), "{told}");
        }
        assert!(read("ftp://127.0.0.1").is_err_and(|told| told.contains("http://127.0.0.1:8080")));
    }

    #[test]
    fn options_of_decoding_are_fields_of_a_drop() {
        assert_eq!(Decoding::default().fields(), []);
        let decoding = Decoding {
            beam_size: checked("beam_size", "5").ok(),
            best_of: checked("best_of", "3").ok(),
            hotwords: checked("hotwords", "Ana Zé").ok(),
            prefix: checked("prefix", "Dear").ok(),
            word_timestamps: true,
            no_condition: true,
            condition_across_segments: true,
            decoding: ["patience=2", "log_prob_threshold=none"].map(|text| option(text).unwrap()).into(),
        };
        let told: Vec<String> =
            decoding.fields().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            told.join(" "),
            "beam_size=5 best_of=3 hotwords=Ana Zé prefix=Dear word_timestamps=true \
             condition_on_previous_text=false condition_across_segments=true patience=2 log_prob_threshold=none"
        );
        for (text, told) in [
            ("patience", "expected NAME=VALUE, such as patience=2"),
            ("patience=0", "patience is \"0\"; expected a number above 0, at most 10"),
        ] {
            assert_eq!(option(text), Err(told.to_owned()));
        }
        assert!(
            option("loudness=2").is_err_and(|told| told.starts_with("loudness is no option of decoding"))
        );
    }

    #[test]
    fn a_query_holds_what_is_given() {
        let listing = Listing { until: time("2026-01-31").ok(), ..Listing::default() };
        let query = listing.query([("name", Some("talk".to_owned())), ("status", None)]);
        let expected = [("name", "talk"), ("until", "2026-01-31T00:00:00Z")];
        assert_eq!(query, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
