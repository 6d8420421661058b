//! Whisper's vocabulary: text to tokens and back, special tokens, languages, and which tokens speech
//! never contains.
//!
//! The vocabulary is GPT-2's kind: tokens are byte strings, numbered in the order in which pairs were
//! merged. So a list of tokens is all there is to know, whichever of `tokenizer.json`, `vocabulary.json`
//! and `vocabulary.txt` it comes from: encoding joins, again and again, the neighbours whose union has
//! the lowest number.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use crate::model::{LoadError, weights::Format};

/// Steps of 20 ms from `<|0.00|>` to `<|30.00|>`.
pub const TIMESTAMPS: u32 = 1_501;

/// Tokens of openai's models: English-only, multilingual, from large-v3 on.
const WHISPER_SIZES: RangeInclusive<usize> = 51_864..=51_866;

/// Languages in the order of their tokens: code, English name. Models before large-v3 lack the last.
#[rustfmt::skip]
pub const LANGUAGES: [(&str, &str); 100] = [
    ("en", "english"), ("zh", "chinese"), ("de", "german"), ("es", "spanish"), ("ru", "russian"), ("ko", "korean"),
    ("fr", "french"), ("ja", "japanese"), ("pt", "portuguese"), ("tr", "turkish"), ("pl", "polish"), ("ca", "catalan"),
    ("nl", "dutch"), ("ar", "arabic"), ("sv", "swedish"), ("it", "italian"), ("id", "indonesian"), ("hi", "hindi"),
    ("fi", "finnish"), ("vi", "vietnamese"), ("he", "hebrew"), ("uk", "ukrainian"), ("el", "greek"), ("ms", "malay"),
    ("cs", "czech"), ("ro", "romanian"), ("da", "danish"), ("hu", "hungarian"), ("ta", "tamil"), ("no", "norwegian"),
    ("th", "thai"), ("ur", "urdu"), ("hr", "croatian"), ("bg", "bulgarian"), ("lt", "lithuanian"), ("la", "latin"),
    ("mi", "maori"), ("ml", "malayalam"), ("cy", "welsh"), ("sk", "slovak"), ("te", "telugu"), ("fa", "persian"),
    ("lv", "latvian"), ("bn", "bengali"), ("sr", "serbian"), ("az", "azerbaijani"), ("sl", "slovenian"),
    ("kn", "kannada"), ("et", "estonian"), ("mk", "macedonian"), ("br", "breton"), ("eu", "basque"),
    ("is", "icelandic"), ("hy", "armenian"), ("ne", "nepali"), ("mn", "mongolian"), ("bs", "bosnian"),
    ("kk", "kazakh"), ("sq", "albanian"), ("sw", "swahili"), ("gl", "galician"), ("mr", "marathi"), ("pa", "punjabi"),
    ("si", "sinhala"), ("km", "khmer"), ("sn", "shona"), ("yo", "yoruba"), ("so", "somali"), ("af", "afrikaans"),
    ("oc", "occitan"), ("ka", "georgian"), ("be", "belarusian"), ("tg", "tajik"), ("sd", "sindhi"),
    ("gu", "gujarati"), ("am", "amharic"), ("yi", "yiddish"), ("lo", "lao"), ("uz", "uzbek"), ("fo", "faroese"),
    ("ht", "haitian creole"), ("ps", "pashto"), ("tk", "turkmen"), ("nn", "nynorsk"), ("mt", "maltese"),
    ("sa", "sanskrit"), ("lb", "luxembourgish"), ("my", "myanmar"), ("bo", "tibetan"), ("tl", "tagalog"),
    ("mg", "malagasy"), ("as", "assamese"), ("tt", "tatar"), ("haw", "hawaiian"), ("ln", "lingala"), ("ha", "hausa"),
    ("ba", "bashkir"), ("jw", "javanese"), ("su", "sundanese"), ("yue", "cantonese"),
];

/// The code of a language given by code or English name, in any case.
pub fn language_code(language: &str) -> Option<&'static str> {
    let wanted = language.trim().to_lowercase();
    LANGUAGES.iter().find(|(code, name)| *code == wanted || *name == wanted).map(|(code, _)| *code)
}

/// Codes of the languages that a vocabulary of this size has tokens for: `en` alone when it is not multilingual.
pub fn languages_of(vocabulary: usize) -> Vec<&'static str> {
    // Beside its languages a multilingual vocabulary holds 50257 texts and the end, seven more special
    // tokens and the timestamps.
    let count = if vocabulary < 51_865 { 1 } else { vocabulary - 51_766 };
    LANGUAGES.iter().take(count).map(|(code, _)| *code).collect()
}

/// The vocabulary of one model.
pub struct Tokens {
    /// Bytes of each token; special ones have their name.
    bytes: Vec<Vec<u8>>,
    /// Number of each text token.
    numbers: HashMap<Vec<u8>, u32>,
    words: Regex,
    /// The special tokens.
    pub special: Special,
    /// Languages and their tokens; empty when the model is English-only.
    pub languages: Vec<(&'static str, u32)>,
    /// Tokens that are never sampled: sounds, brackets, specials.
    pub suppressed: Vec<u32>,
    /// Tokens that are never sampled first: a lone space and the end.
    pub suppressed_first: Vec<u32>,
}

/// Numbers of the special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// `<|endoftext|>`; all tokens below it are text.
    pub end: u32,
    /// `<|startoftranscript|>`
    pub start: u32,
    /// `<|translate|>`
    pub translate: u32,
    /// `<|transcribe|>`
    pub transcribe: u32,
    /// `<|startoflm|>`
    pub language_model: u32,
    /// `<|startofprev|>`: earlier text follows.
    pub previous: u32,
    /// `<|nospeech|>`, called `<|nocaptions|>` in older vocabularies.
    pub no_speech: u32,
    /// `<|notimestamps|>`
    pub no_timestamps: u32,
    /// `<|0.00|>`; each next one stands for 20 ms more.
    pub first_timestamp: u32,
}

impl Tokens {
    /// Reads the vocabulary of a model folder and checks that it belongs to weights with `vocabulary` tokens.
    pub fn load(folder: &Path, format: Format, vocabulary: usize) -> Result<Tokens, LoadError> {
        let (file, list) = read_list(folder)?;
        let (config, general) = (folder.join("config.json"), folder.join("generation_config.json"));
        let (config, suppressed) = match format {
            Format::HuggingFace => match Suppressed::read(&general)? {
                suppressed if suppressed.all.is_some() => (general, suppressed),
                _ => (config.clone(), Suppressed::read(&config)?),
            },
            Format::Ctranslate2 => (config.clone(), Suppressed::read(&config)?),
        };
        let mut tokens =
            Tokens::new(list, vocabulary).map_err(|reason| LoadError::unsupported(&file, reason))?;
        // Without a list, and with an empty one, as fine-tuned models often have it, openai's own sets hold.
        let listed = |ids: Vec<i64>, usual: &[u32]| -> Result<Vec<u32>, LoadError> {
            let mut all = if ids.is_empty() { usual.to_vec() } else { Vec::new() };
            for id in ids {
                match u32::try_from(id) {
                    Ok(id) if (id as usize) < vocabulary => all.push(id),
                    // "The usual ones", among others that are named.
                    Err(_) if id == -1 => all.extend(usual),
                    _ => {
                        let reason = format!(
                            "it suppresses token {id}, and the weights know 0 to {}: copy both from one model",
                            vocabulary - 1
                        );
                        return Err(LoadError::unsupported(&config, reason));
                    }
                }
            }
            Ok(all)
        };
        if let Some(ids) = suppressed.all {
            tokens.suppressed = tokens.with_specials(listed(ids, &tokens.non_speech())?);
        }
        if let Some(ids) = suppressed.first {
            tokens.suppressed_first = listed(ids, &tokens.suppressed_first)?;
        }
        Ok(tokens)
    }

    /// Builds a vocabulary from its tokens in order, in the printable form of GPT-2's byte alphabet, for
    /// weights that know `vocabulary` tokens. The list may end before the timestamps.
    pub fn new(list: Vec<String>, vocabulary: usize) -> Result<Tokens, String> {
        let names: HashMap<&str, u32> =
            list.iter().enumerate().map(|(i, name)| (name.as_str(), i as u32)).collect();
        let find = |name: &str| {
            names
                .get(name)
                .copied()
                .ok_or_else(|| format!("it has no token {name}: not a Whisper vocabulary"))
        };
        let no_timestamps = find("<|notimestamps|>")?;
        let special = Special {
            end: find("<|endoftext|>")?,
            start: find("<|startoftranscript|>")?,
            translate: find("<|translate|>")?,
            transcribe: find("<|transcribe|>")?,
            language_model: find("<|startoflm|>")?,
            previous: find("<|startofprev|>")?,
            no_speech: find("<|nospeech|>").or_else(|_| find("<|nocaptions|>"))?,
            no_timestamps,
            first_timestamp: no_timestamps + 1,
        };
        let known = list.len().max((special.first_timestamp + TIMESTAMPS) as usize);
        // Of Whisper's own sizes nothing is left over, and a vocabulary that is one token short has all special tokens in
        // the wrong place; weights of another size may have more rows than tokens.
        let is_whole = WHISPER_SIZES.contains(&vocabulary);
        if known > vocabulary || (is_whole && known < vocabulary) {
            return Err(format!(
                "it is of a model with {known} tokens, and the weights know {vocabulary}: copy both from one model"
            ));
        }
        let codes = if vocabulary < 51_865 { Vec::new() } else { languages_of(vocabulary) };
        let languages = codes
            .into_iter()
            .filter_map(|code| Some((code, *names.get(format!("<|{code}|>").as_str())?)))
            .collect();
        let alphabet = byte_alphabet();
        let spelled =
            |name: &String| -> Option<Vec<u8>> { name.chars().map(|c| alphabet.get(&c).copied()).collect() };
        let bytes: Vec<Vec<u8>> =
            list.iter().map(|name| spelled(name).unwrap_or_else(|| name.clone().into_bytes())).collect();
        let mut numbers = HashMap::with_capacity(special.end as usize);
        for (i, bytes) in bytes.iter().enumerate().take(special.end as usize) {
            numbers.entry(bytes.clone()).or_insert(i as u32);
        }
        if !(0..=u8::MAX).all(|byte| numbers.contains_key([byte].as_slice())) {
            return Err("it lacks single bytes: not a Whisper vocabulary".into());
        }
        let words = Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+")
            .expect("the pattern is valid");
        let mut tokens = Tokens {
            bytes,
            numbers,
            words,
            special,
            languages,
            suppressed: Vec::new(),
            suppressed_first: Vec::new(),
        };
        tokens.suppressed = tokens.with_specials(tokens.non_speech());
        tokens.suppressed_first = tokens.encode(" ").into_iter().chain([special.end]).collect();
        Ok(tokens)
    }

    /// Turns text into tokens; names of special tokens in it are ordinary text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(word) = self.words.find_at(text, at) {
            let mut end = word.end();
            // A run of spaces leaves its last one to the word behind it.
            if end < text.len()
                && word.as_str().chars().all(char::is_whitespace)
                && let Some((last, _)) = word.as_str().char_indices().next_back()
                && last > 0
            {
                end = word.start() + last;
            }
            self.encode_word(&text.as_bytes()[word.start()..end], &mut tokens);
            at = end;
        }
        tokens
    }

    /// Turns tokens into text, leaving out special ones. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let text = tokens.iter().filter(|token| **token < self.special.end);
        let bytes: Vec<u8> = text.flat_map(|token| self.bytes[*token as usize].iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The token of a language, where the model has it.
    pub fn language(&self, code: &str) -> Option<u32> {
        self.languages.iter().find(|(known, _)| *known == code).map(|(_, token)| *token)
    }

    fn encode_word(&self, word: &[u8], tokens: &mut Vec<u32>) {
        let mut parts: Vec<&[u8]> = word.chunks(1).collect();
        loop {
            let joined = |i: usize| {
                &word[parts[..i].iter().map(|part| part.len()).sum::<usize>()..]
                    [..parts[i].len() + parts[i + 1].len()]
            };
            let best = (0..parts.len().saturating_sub(1))
                .filter_map(|i| Some((*self.numbers.get(joined(i))?, i)))
                .min();
            let Some((_, i)) = best else { break };
            parts[i] = joined(i);
            parts.remove(i + 1);
        }
        tokens.extend(parts.iter().map(|part| self.numbers[*part]));
    }

    /// Adds the special tokens that are never sampled.
    fn with_specials(&self, ids: Vec<u32>) -> Vec<u32> {
        let Special { start, translate, transcribe, language_model, previous, no_speech, .. } = self.special;
        let specials = [start, translate, transcribe, language_model, previous, no_speech];
        ids.into_iter().chain(specials).collect::<BTreeSet<u32>>().into_iter().collect()
    }

    /// openai's list of tokens that annotate rather than speak: brackets, music notes, dashes.
    fn non_speech(&self) -> Vec<u32> {
        let single = r##""#()*+/:;<=>@[\]^_`{|}~「」『』"##.chars().map(String::from);
        let several =
            "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split(' ').map(String::from);
        let notes = "♩♪♫♬♭♮♯";
        let symbols = single.chain(several).map(|symbol| (symbol, false));
        let symbols = symbols.chain(notes.chars().map(|note| (note.to_string(), true)));
        // Hyphens and quotes stand inside words, but do not begin one.
        let mut ids: BTreeSet<u32> =
            [" -", " '"].iter().filter_map(|text| self.encode(text).first().copied()).collect();
        for (symbol, is_note) in symbols {
            for text in [symbol.clone(), format!(" {symbol}")] {
                let tokens = self.encode(&text);
                // The first bytes of a note belong to musical and weather symbols only.
                if tokens.len() == 1 || is_note {
                    ids.extend(tokens.first());
                }
            }
        }
        ids.into_iter().collect()
    }
}

/// Lists of suppressed tokens in a configuration file; -1 in them asks for openai's own.
#[derive(Default, Deserialize)]
struct Suppressed {
    #[serde(alias = "suppress_ids", alias = "suppress_tokens")]
    all: Option<Vec<i64>>,
    #[serde(alias = "suppress_ids_begin", alias = "begin_suppress_tokens")]
    first: Option<Vec<i64>>,
}

impl Suppressed {
    fn read(file: &Path) -> Result<Suppressed, LoadError> {
        if !file.is_file() {
            return Ok(Suppressed::default());
        }
        let text = std::fs::read(file).map_err(|source| LoadError::io(file, source))?;
        serde_json::from_slice(&text).map_err(|error| LoadError::damaged(file, error))
    }
}

/// Finds the vocabulary's file in a folder and reads the tokens in order.
fn read_list(folder: &Path) -> Result<(PathBuf, Vec<String>), LoadError> {
    let names = ["tokenizer.json", "vocabulary.json", "vocabulary.txt"];
    let Some(file) = names.iter().map(|name| folder.join(name)).find(|file| file.is_file()) else {
        return Err(LoadError::Missing {
            folder: folder.to_owned(),
            missing: names.join(" or "),
            remedy: "copy it from the model that the weights came from".into(),
        });
    };
    let text = std::fs::read_to_string(&file).map_err(|source| LoadError::io(&file, source))?;
    let damaged = |error: serde_json::Error| LoadError::damaged(&file, error);
    let list = match file.file_name().and_then(|name| name.to_str()) {
        Some("tokenizer.json") => {
            let stored: Tokenizer = serde_json::from_str(&text).map_err(damaged)?;
            stored.list().map_err(|reason| LoadError::damaged(&file, reason))?
        }
        Some("vocabulary.json") => serde_json::from_str(&text).map_err(damaged)?,
        _ => text.strip_suffix('\n').unwrap_or(&text).split('\n').map(String::from).collect(),
    };
    Ok((file, list))
}

/// The part of a `tokenizer.json` that says which tokens there are.
#[derive(Deserialize)]
struct Tokenizer {
    model: TokenizerModel,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: usize,
    content: String,
}

impl Tokenizer {
    fn list(self) -> Result<Vec<String>, String> {
        let added = self.added_tokens.into_iter().map(|token| (token.content, token.id));
        let all: Vec<(String, usize)> = self.model.vocab.into_iter().chain(added).collect();
        // Numbers have no gaps in Whisper's vocabularies, so a larger one is a mistake, not a long list.
        let length = all.iter().map(|(_, id)| id.saturating_add(1)).max().unwrap_or(0);
        if length > all.len() * 2 {
            return Err(format!("it numbers {} tokens up to {length}", all.len()));
        }
        let mut list = vec![String::new(); length];
        for (name, id) in all {
            list[id] = name;
        }
        Ok(list)
    }
}

/// GPT-2's printable letter of each byte: printable Latin-1 stands for itself, the rest follow from U+0100 on.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| {
            let letter = match byte {
                0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
                _ => {
                    next += 1;
                    char::from_u32(next - 1).expect("U+0100 to U+0143 are letters")
                }
            };
            (letter, byte)
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
