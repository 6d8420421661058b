//! How the decoder searches for a text and when it believes what it found: options that travel from the drop to the model.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

/// Candidates and beams there may be at once.
pub const CANDIDATES_MAX: u32 = 16;
/// The longest [`Decoding::hotwords`] and [`Decoding::prefix`], in bytes: more than a window of the model has room for.
pub const WORDS_BYTES_MAX: usize = 1024;

/// Options of decoding, named as in faster-whisper. Only what differs from the default is written: settings from before
/// an option was known, and settings that leave it alone, are the same bytes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Decoding {
    /// Beams at temperature 0, 1 to [`CANDIDATES_MAX`]; 1 takes the likeliest token each time.
    pub beam_size: u32,
    /// Texts drawn at temperatures above 0, of which the likeliest is kept, 1 to [`CANDIDATES_MAX`].
    pub best_of: u32,
    /// Texts to find before a search with beams ends, as a multiple of the beams; above 0, at most 10.
    pub patience: f32,
    /// Exponent of the length by which texts are ranked, 0 to 1; `None` divides by the length itself.
    pub length_penalty: Option<f32>,
    /// Words and names to expect, told to the model before each window.
    pub hotwords: Option<String>,
    /// What the text of each channel begins with.
    pub prefix: Option<String>,
    /// Whether the text of a window is the context of the next one in the same segment.
    pub condition_on_previous_text: bool,
    /// Whether the text of a segment is the context of the next one in the same channel: the segments are then read one
    /// after the other.
    pub condition_across_segments: bool,
    /// Whether words get times.
    pub word_timestamps: bool,
    /// Whether the model leaves out the times of its text: a segment is then one span.
    pub without_timestamps: bool,
    /// Above this ratio of compression a text repeats itself and is tried again; `None` switches the test off.
    pub compression_ratio_threshold: Option<f32>,
    /// Below this mean log-probability a text is guessed and is tried again; `None` switches the test off.
    pub log_prob_threshold: Option<f32>,
    /// Above this probability of no speech a guessed text is silence; `None` switches the test off.
    pub no_speech_threshold: Option<f32>,
    /// Seconds of silence that are skipped, with the text, where words beside it seem invented; above 0, at most 30.
    /// `None` skips none.
    pub hallucination_silence_threshold: Option<f32>,
}

impl Default for Decoding {
    fn default() -> Decoding {
        Decoding {
            beam_size: 1,
            best_of: 5,
            patience: 1.0,
            length_penalty: None,
            hotwords: None,
            prefix: None,
            condition_on_previous_text: true,
            condition_across_segments: false,
            word_timestamps: false,
            without_timestamps: false,
            compression_ratio_threshold: Some(2.4),
            log_prob_threshold: Some(-1.0),
            no_speech_threshold: Some(0.6),
            hallucination_silence_threshold: None,
        }
    }
}

impl Serialize for Decoding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let usual = Decoding::default();
        let mut map = serializer.serialize_map(None)?;
        macro_rules! entries {
            ($($field:ident)+) => {
                $(if self.$field != usual.$field {
                    map.serialize_entry(stringify!($field), &self.$field)?;
                })+
            };
        }
        entries! {
            beam_size best_of patience length_penalty hotwords prefix condition_on_previous_text
            condition_across_segments word_timestamps without_timestamps compression_ratio_threshold
            log_prob_threshold no_speech_threshold hallucination_silence_threshold
        }
        map.end()
    }
}

impl Decoding {
    /// The names of the options: fields of a drop, parameters of the API.
    pub const FIELDS: [&'static str; 14] = [
        "beam_size",
        "best_of",
        "patience",
        "length_penalty",
        "hotwords",
        "prefix",
        "condition_on_previous_text",
        "condition_across_segments",
        "word_timestamps",
        "without_timestamps",
        "compression_ratio_threshold",
        "log_prob_threshold",
        "no_speech_threshold",
        "hallucination_silence_threshold",
    ];

    /// Whether nothing differs from the default.
    pub fn is_default(&self) -> bool {
        *self == Decoding::default()
    }

    /// Sets the option `field` from text, as people write it. `none` is the word for a penalty or a threshold that is not
    /// used.
    ///
    /// # Errors
    /// What is wrong with it and what was expected: the rest of a sentence that begins with the option's name.
    pub fn set(&mut self, field: &str, text: &str) -> Result<(), String> {
        match field {
            "beam_size" => self.beam_size = read_count(text)?,
            "best_of" => self.best_of = read_count(text)?,
            "patience" => {
                let expected = "a number above 0, at most 10";
                self.patience = read_number(text, expected, |n| n > 0.0 && n <= 10.0)?;
            }
            "length_penalty" => {
                let expected = "a number from 0 to 1, or none to rank by the mean over the length";
                self.length_penalty = read_or_none(text, expected, |n| (0.0..=1.0).contains(&n))?;
            }
            "hotwords" => self.hotwords = read_words(text)?,
            "prefix" => self.prefix = read_words(text)?,
            "condition_on_previous_text" => self.condition_on_previous_text = read_choice(text)?,
            "condition_across_segments" => self.condition_across_segments = read_choice(text)?,
            "word_timestamps" => self.word_timestamps = read_choice(text)?,
            "without_timestamps" => self.without_timestamps = read_choice(text)?,
            "compression_ratio_threshold" => {
                let expected = "a number above 0, at most 100, or none to switch the test off";
                self.compression_ratio_threshold = read_or_none(text, expected, |n| n > 0.0 && n <= 100.0)?;
            }
            "log_prob_threshold" => {
                let expected = "a number from -100 to 0, or none to switch the test off";
                self.log_prob_threshold = read_or_none(text, expected, |n| (-100.0..=0.0).contains(&n))?;
            }
            "no_speech_threshold" => {
                let expected = "a number from 0 to 1, or none to switch the test off";
                self.no_speech_threshold = read_or_none(text, expected, |n| (0.0..=1.0).contains(&n))?;
            }
            "hallucination_silence_threshold" => {
                let expected = "seconds above 0, at most 30, or none to skip no silence";
                self.hallucination_silence_threshold =
                    read_or_none(text, expected, |n| n > 0.0 && n <= 30.0)?;
            }
            _ => return Err(format!("is no option of decoding; there are {}", Decoding::FIELDS.join(", "))),
        }
        Ok(())
    }

    /// Checks options against each other, after each was [set](Decoding::set).
    ///
    /// # Errors
    /// The option that does not go with another, and what is wrong with it: the rest of a sentence that begins with the
    /// option's name.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.condition_across_segments && !self.condition_on_previous_text {
            let problem = "needs condition_on_previous_text, which is switched off: leave one of them out";
            return Err(("condition_across_segments", problem.to_owned()));
        }
        Ok(())
    }
}

fn read_count(text: &str) -> Result<u32, String> {
    let count = text.trim().parse().ok().filter(|count| (1..=CANDIDATES_MAX).contains(count));
    count.ok_or_else(|| unlike(text, &format!("a whole number from 1 to {CANDIDATES_MAX}")))
}

fn read_number(text: &str, expected: &str, fits: impl Fn(f32) -> bool) -> Result<f32, String> {
    let number = text.trim().parse().ok().filter(|number| fits(*number));
    // Adding zero turns -0 into 0, so that equal options are equal bytes.
    number.map(|number| number + 0.0).ok_or_else(|| unlike(text, expected))
}

fn read_or_none(text: &str, expected: &str, fits: impl Fn(f32) -> bool) -> Result<Option<f32>, String> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    read_number(text, expected, fits).map(Some)
}

fn read_words(text: &str) -> Result<Option<String>, String> {
    if text.len() > WORDS_BYTES_MAX {
        return Err(format!(
            "has {} bytes; at most {WORDS_BYTES_MAX} are taken, and the model has room for a few hundred words",
            text.len()
        ));
    }
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn read_choice(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(unlike(text, "true or false")),
    }
}

fn unlike(text: &str, expected: &str) -> String {
    let shown: String = text.chars().take(64).collect();
    let more = if shown.len() < text.len() { "..." } else { "" };
    format!("is {shown:?}{more}; expected {expected}")
}

#[cfg(test)]
mod tests;
