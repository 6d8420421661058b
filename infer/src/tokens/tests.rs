use super::*;

/// The 256 bytes, some merges in rank order, and the special tokens of an English-only model.
pub(crate) fn small() -> Tokens {
    let alphabet = byte_alphabet();
    let mut letters: Vec<char> = alphabet.keys().copied().collect();
    letters.sort();
    let mut list: Vec<String> = letters.iter().map(char::to_string).collect();
    list.extend(["he", "ll", "hell", "Ġw", "or", "hello", "Ġ("].map(String::from));
    let special = [
        "endoftext",
        "startoftranscript",
        "en",
        "translate",
        "transcribe",
        "startoflm",
        "startofprev",
        "nocaptions",
        "notimestamps",
    ];
    list.extend(special.map(|name| format!("<|{name}|>")));
    let vocabulary = list.len() + TIMESTAMPS as usize;
    Tokens::new(list, vocabulary).expect("the list has what is needed")
}

fn spelled(tokens: &Tokens, text: &str) -> Vec<String> {
    tokens
        .encode(text)
        .iter()
        .map(|token| String::from_utf8_lossy(&tokens.bytes[*token as usize]).into_owned())
        .collect()
}

#[test]
fn neighbours_join_in_the_order_of_their_numbers() {
    let tokens = small();
    assert_eq!(spelled(&tokens, "hello world"), ["hello", " w", "or", "l", "d"]);
    // "he" comes before "ll", so that "hell" needs both.
    assert_eq!(spelled(&tokens, "ell"), ["e", "ll"]);
}

#[test]
fn words_are_split_as_gpt2_splits_them() {
    let tokens = small();
    let split = |text: &str| -> Vec<String> { spelled(&tokens, text) };
    // Of three spaces the last belongs to the word.
    assert_eq!(split("   w"), [" ", " ", " w"]);
    assert_eq!(split("w  "), ["w", " ", " "]);
    assert_eq!(split("a'll"), ["a", "'", "ll"]);
    assert_eq!(split(""), [""; 0]);
}

#[test]
fn text_comes_back_whole() {
    let tokens = small();
    for text in [
        "",
        " Hello,  world!\n\nIt's 1984's  end. ",
        "naïve café 日本語 😀",
        "<|endoftext|>",
        "tab\tand\u{a0}nbsp \u{0}",
    ] {
        assert_eq!(tokens.decode(&tokens.encode(text)), text);
        assert!(tokens.encode(text).iter().all(|token| *token < tokens.special.end));
    }
}

#[test]
fn special_tokens_and_halves_of_letters_make_no_broken_text() {
    let tokens = small();
    let mut e = tokens.encode("é");
    assert_eq!(e.len(), 2);
    e.insert(0, tokens.special.first_timestamp + 5);
    e.push(tokens.special.end);
    assert_eq!(tokens.decode(&e), "é");
    assert_eq!(tokens.decode(&e[1..2]), "\u{fffd}");
}

#[test]
fn annotations_and_specials_are_suppressed_but_punctuation_is_not() {
    let tokens = small();
    let number = |text: &str| tokens.numbers[text.as_bytes()];
    for text in ["(", " (", "[", "#", "~"] {
        assert!(tokens.suppressed.contains(&number(text)), "{text:?}");
    }
    for text in [",", ".", "?", "!", "a", "'"] {
        assert!(!tokens.suppressed.contains(&number(text)), "{text:?}");
    }
    let Special { end, start, previous, no_speech, no_timestamps, .. } = tokens.special;
    for special in [start, previous, no_speech] {
        assert!(tokens.suppressed.contains(&special));
    }
    assert!(!tokens.suppressed.contains(&end) && !tokens.suppressed.contains(&no_timestamps));
    assert_eq!(tokens.suppressed_first, [number(" "), end]);
}

/// What a folder's `config.json` with these lists makes of the sets.
fn configured(config: &str) -> Result<Tokens, String> {
    let folder = tempfile::tempdir().unwrap();
    crate::engine::tests::write_ctranslate2(folder.path(), 51_864);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    Tokens::load(folder.path(), Format::Ctranslate2, 51_864).map_err(|error| error.to_string())
}

#[test]
fn lists_of_suppressed_tokens_replace_extend_or_leave_the_usual_ones() {
    let usual = configured("{}").unwrap();
    let lists = |tokens: &Tokens| (tokens.suppressed.clone(), tokens.suppressed_first.clone());
    assert_eq!(
        lists(&configured(r#"{"suppress_ids": [], "suppress_ids_begin": []}"#).unwrap()),
        lists(&usual)
    );
    let named = configured(r#"{"suppress_ids": [100], "suppress_ids_begin": [7]}"#).unwrap();
    assert_eq!((named.suppressed.first(), named.suppressed_first.as_slice()), (Some(&100), &[7][..]));
    assert!(named.suppressed.len() < usual.suppressed.len());
    let more = configured(r#"{"suppress_ids": [100, -1]}"#).unwrap();
    let with: BTreeSet<u32> = usual.suppressed.iter().copied().chain([100]).collect();
    assert_eq!(more.suppressed, Vec::from_iter(with));
}

#[test]
fn a_list_with_a_token_that_is_not_there_is_refused() {
    for id in ["51864", "-2"] {
        let error = configured(&format!(r#"{{"suppress_ids": [{id}]}}"#)).err().unwrap();
        assert!(error.contains("config.json") && error.contains(&format!("token {id}")), "{error}");
    }
}

#[test]
fn languages_go_by_code_and_name() {
    assert_eq!(language_code("de"), Some("de"));
    assert_eq!(language_code(" German "), Some("de"));
    assert_eq!(language_code("CANTONESE"), Some("yue"));
    assert_eq!(language_code("klingon"), None);
    assert_eq!(languages_of(51_864), ["en"]);
    assert_eq!((languages_of(51_865).len(), languages_of(51_865).last()), (99, Some(&"su")));
    assert_eq!(languages_of(51_866).last(), Some(&"yue"));
}

#[test]
fn a_vocabulary_of_another_model_is_refused() {
    let complaint =
        |list: &[&str]| Tokens::new(list.iter().map(|x| x.to_string()).collect(), 51_864).err().unwrap();
    assert!(complaint(&["a", "b"]).contains("has no token <|notimestamps|>"));
    let mut list: Vec<String> =
        small().bytes.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    let known = list.len() + TIMESTAMPS as usize;
    for vocabulary in [1_000, known - 1, 51_864, 51_866] {
        let told = Tokens::new(list.clone(), vocabulary).err().unwrap();
        assert!(
            told.contains(&format!("of a model with {known} tokens, and the weights know {vocabulary}")),
            "{told}"
        );
    }
    list[0] = "xx".into();
    // Weights of a size that is not Whisper's may have more rows than tokens.
    for vocabulary in [known, 51_900] {
        let told = Tokens::new(list.clone(), vocabulary).err().unwrap();
        assert!(told.contains("lacks single bytes"), "{told}");
    }
}

#[test]
fn a_folder_without_vocabulary_says_what_to_copy() {
    let folder = tempfile::tempdir().unwrap();
    let message = Tokens::load(folder.path(), Format::Ctranslate2, 51_864).err().unwrap().to_string();
    assert!(
        message.contains("tokenizer.json or vocabulary.json or vocabulary.txt is missing; copy it"),
        "{message}"
    );
    for (text, complaint) in
        [("{", "is damaged"), (r#"{"model": {"vocab": {"a": 18446744073709551615}}}"#, "is damaged")]
    {
        std::fs::write(folder.path().join("tokenizer.json"), text).unwrap();
        let message = Tokens::load(folder.path(), Format::Ctranslate2, 51_864).err().unwrap().to_string();
        assert!(message.contains("tokenizer.json") && message.contains(complaint), "{message}");
    }
}
