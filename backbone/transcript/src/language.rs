//! Languages of Whisper: code, English name, and whether words are written with spaces between them.

/// Every language that Whisper knows: ISO 639-1 code (where there is one) and English name in lower case.
#[rustfmt::skip]
pub const NAMES: &[(&str, &str)] = &[
    ("af", "afrikaans"), ("am", "amharic"), ("ar", "arabic"), ("as", "assamese"), ("az", "azerbaijani"),
    ("ba", "bashkir"), ("be", "belarusian"), ("bg", "bulgarian"), ("bn", "bengali"), ("bo", "tibetan"),
    ("br", "breton"), ("bs", "bosnian"), ("ca", "catalan"), ("cs", "czech"), ("cy", "welsh"),
    ("da", "danish"), ("de", "german"), ("el", "greek"), ("en", "english"), ("es", "spanish"),
    ("et", "estonian"), ("eu", "basque"), ("fa", "persian"), ("fi", "finnish"), ("fo", "faroese"),
    ("fr", "french"), ("gl", "galician"), ("gu", "gujarati"), ("ha", "hausa"), ("haw", "hawaiian"),
    ("he", "hebrew"), ("hi", "hindi"), ("hr", "croatian"), ("ht", "haitian creole"), ("hu", "hungarian"),
    ("hy", "armenian"), ("id", "indonesian"), ("is", "icelandic"), ("it", "italian"), ("ja", "japanese"),
    ("jw", "javanese"), ("ka", "georgian"), ("kk", "kazakh"), ("km", "khmer"), ("kn", "kannada"),
    ("ko", "korean"), ("la", "latin"), ("lb", "luxembourgish"), ("ln", "lingala"), ("lo", "lao"),
    ("lt", "lithuanian"), ("lv", "latvian"), ("mg", "malagasy"), ("mi", "maori"), ("mk", "macedonian"),
    ("ml", "malayalam"), ("mn", "mongolian"), ("mr", "marathi"), ("ms", "malay"), ("mt", "maltese"),
    ("my", "myanmar"), ("ne", "nepali"), ("nl", "dutch"), ("nn", "nynorsk"), ("no", "norwegian"),
    ("oc", "occitan"), ("pa", "punjabi"), ("pl", "polish"), ("ps", "pashto"), ("pt", "portuguese"),
    ("ro", "romanian"), ("ru", "russian"), ("sa", "sanskrit"), ("sd", "sindhi"), ("si", "sinhala"),
    ("sk", "slovak"), ("sl", "slovenian"), ("sn", "shona"), ("so", "somali"), ("sq", "albanian"),
    ("sr", "serbian"), ("su", "sundanese"), ("sv", "swedish"), ("sw", "swahili"), ("ta", "tamil"),
    ("te", "telugu"), ("tg", "tajik"), ("th", "thai"), ("tk", "turkmen"), ("tl", "tagalog"),
    ("tr", "turkish"), ("tt", "tatar"), ("uk", "ukrainian"), ("ur", "urdu"), ("uz", "uzbek"),
    ("vi", "vietnamese"), ("yi", "yiddish"), ("yo", "yoruba"), ("yue", "cantonese"), ("zh", "chinese"),
];

/// Languages written without spaces between words.
pub const UNSPACED: &[&str] = &["bo", "ja", "km", "lo", "my", "th", "yue", "zh"];

/// Returns the English name of a language in lower case; the code itself where it is not one of Whisper's.
pub fn name(code: &str) -> &str {
    NAMES.binary_search_by_key(&code, |(code, _)| code).map_or(code, |at| NAMES[at].1)
}

/// Says whether a language is written without spaces between words.
pub fn is_unspaced(code: &str) -> bool {
    UNSPACED.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hundred_languages_are_found_by_code() {
        assert_eq!(NAMES.len(), 100);
        for (code, english) in NAMES {
            assert_eq!(name(code), *english);
        }
        assert_eq!(name("tlh"), "tlh");
        assert!(UNSPACED.iter().all(|code| name(code) != *code));
    }
}
