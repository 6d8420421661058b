use events::{Channels, Decoding, EventId, ModelRef, RecordingId, Settings, Shard, Tenant};

use super::*;
use crate::spans::Span;

mod elsewhere;
mod order;

fn cut(index: u32, decoding: Decoding) -> SegmentCut {
    SegmentCut {
        channel: 1,
        index,
        start_ms: 60_000,
        end_ms: 80_000,
        settings: Settings {
            model: ModelRef { name: "base".into(), sha256: "ab".into() },
            task: events::Task::Translate,
            language: Some("de".into()),
            prompt: Some("Ana".into()),
            temperatures: vec![0.0, 0.5],
            channels: Channels::Each,
            cutter: 1,
            decoding,
        },
        lane: Lane::Batch,
        speech: [(200, 1_900), (2_500, 19_000)].map(Stretch::from).into(),
    }
}

fn word(start_ms: u64, end_ms: u64, text: &str) -> Word {
    Word { start_ms, end_ms, text: text.into(), probability: 0.5 }
}

fn span(start_ms: u64, end_ms: u64, words: Vec<Word>) -> Span {
    Span {
        start_ms,
        end_ms,
        text: words.iter().map(|word| word.text.as_str()).collect(),
        tokens: vec![1, 2],
        avg_logprob: -0.25,
        no_speech_prob: 0.125,
        compression_ratio: 1.5,
        temperature: 0.0,
        words,
    }
}

fn output(spans: Vec<Span>) -> Output {
    Output {
        language: "de".into(),
        language_probability: 1.0,
        languages: Vec::new(),
        spans,
        coverage: 1.0,
        gaps: Vec::new(),
        context: Vec::new(),
        trimmed: 0,
        reread: 0,
    }
}

/// The defaults of a drop are the engine's own: what nobody chose is decoded as before there was a choice.
#[test]
fn defaults_are_the_engines() {
    let options = options(&cut(0, Decoding::default()));
    let expected = Options {
        task: Task::Translate,
        language: Some("de".into()),
        prompt: Some("Ana".into()),
        temperatures: vec![0.0, 0.5],
        speech: vec![200..1_900, 2_500..19_000],
        ..Options::default()
    };
    assert_eq!(options, expected);
}

/// What a drop may ask for, the engine takes: the outermost values that events let in, of each option that has bounds, and
/// one step further, where the engine's bound is the same.
#[test]
fn what_a_drop_may_ask_for_the_engine_takes() {
    assert_eq!(events::decoding::CANDIDATES_MAX as usize, crate::engine::CANDIDATES_MAX);
    let (_folder, engine) = crate::engine::tests::random_engine(51_865);
    let takes = |field: &str, text: &str| {
        let mut decoding = Decoding::default();
        decoding.set(field, text).map_err(|why| format!("{field} {why}")).unwrap();
        let cut = cut(0, decoding);
        engine.check(&options(&cut)).unwrap_or_else(|error| panic!("{field} {text}: {error}"));
    };
    let refuses = |field: &str, text: &str| assert!(Decoding::default().set(field, text).is_err(), "{text}");
    for (field, least, most, beyond) in [
        ("beam_size", "1", "16", "17"),
        ("best_of", "1", "16", "17"),
        ("patience", "0.001", "10", "10.1"),
        ("length_penalty", "0", "1", "1.1"),
        ("compression_ratio_threshold", "0.001", "100", "101"),
        ("log_prob_threshold", "-100", "0", "0.1"),
        ("no_speech_threshold", "0", "1", "1.1"),
        ("hallucination_silence_threshold", "0.001", "30", "30.1"),
    ] {
        takes(field, least);
        takes(field, most);
        refuses(field, beyond);
    }
    let usual = options(&cut(0, Decoding::default()));
    for beyond in [
        Options { beams: 17, ..usual.clone() },
        Options { best_of: 17, ..usual.clone() },
        Options { patience: 10.1, ..usual.clone() },
        Options { length_penalty: Some(1.1), ..usual.clone() },
        Options { previous: Some(vec![1, 51_865]), ..usual },
    ] {
        assert!(engine.check(&beyond).is_err(), "{beyond:?}");
    }
}

#[test]
fn every_option_reaches_the_engine() {
    let decoding = Decoding {
        beam_size: 5,
        best_of: 3,
        patience: 2.0,
        length_penalty: Some(0.5),
        hotwords: Some("Zé".into()),
        prefix: Some("Dear".into()),
        condition_on_previous_text: false,
        condition_across_segments: false,
        word_timestamps: true,
        without_timestamps: true,
        compression_ratio_threshold: None,
        log_prob_threshold: Some(-0.5),
        no_speech_threshold: None,
        hallucination_silence_threshold: Some(2.5),
    };
    let first = options(&cut(0, decoding.clone()));
    let expected = Options {
        beams: 5,
        best_of: 3,
        patience: 2.0,
        length_penalty: Some(0.5),
        hotwords: Some("Zé".into()),
        prefix: Some("Dear".into()),
        condition_on_previous_text: false,
        words: true,
        timestamps: false,
        thresholds: Thresholds { compression_ratio: None, avg_logprob: Some(-0.5), no_speech: None },
        hallucination_silence_ms: Some(2_500),
        ..options(&cut(0, Decoding::default()))
    };
    assert_eq!(first, expected);
    let later = options(&cut(1, decoding));
    assert_eq!(later, Options { prefix: None, ..first }, "only the first segment begins with the prefix");
}

#[test]
fn segments_agree_on_a_language() {
    let agree = |again, lane, told: &[(&str, &str)], own| {
        let all = told.iter().map(|(by, told)| ((*by).to_owned(), (*told).to_owned())).collect();
        agree(&streams::Heard { again, all }, lane, own)
    };
    let (unsure, sure) = (r#"[["nn",0.3],["en",0.2]]"#, r#"[["en",0.9],["de",0.05]]"#);
    let batch = Lane::Batch;
    assert_eq!(agree(false, batch, &[("0.0.0", sure)], "en").as_deref(), Some("en"));
    assert_eq!(agree(false, batch, &[("0.0.0", unsure)], "nn"), None, "it waits for others");
    assert_eq!(agree(false, batch, &[("0.0.0", unsure), ("0.1.0", sure)], "en").as_deref(), Some("en"));
    assert_eq!(agree(true, batch, &[("0.0.0", unsure)], "nn").as_deref(), Some("nn"), "it waited once");
    assert_eq!(agree(false, Lane::Rt, &[("0.0.0", unsure)], "nn").as_deref(), Some("nn"), "somebody waits");
    assert_eq!(agree(false, batch, &[("0.0.0", "[]")], "en").as_deref(), Some("en"), "nothing was told");
    assert_eq!(agree(false, batch, &[("0.0.0", "?"), ("0.1.0", sure)], "en").as_deref(), Some("en"));
}

#[test]
fn who_comes_later_asks_later() {
    let pauses = [1, 2, 7, 50, 1_000_000].map(|behind| pause(behind).as_millis());
    assert_eq!(pauses, [100, 200, 700, 5_000, 5_000]);
}

#[test]
fn windows_are_trimmed_where_it_was_measured_or_asked_for() {
    use events::Task::{Transcribe, Translate};
    let trims = |trim, multilingual, language: Option<&str>, task| {
        let language = language.map(str::to_owned);
        let settings = Settings { language, task, ..cut(0, Decoding::default()).settings };
        super::trims(trim, multilingual, &settings, |language| language == "en")
    };
    assert!(trims(Trim::On, true, None, Translate));
    assert!(!trims(Trim::Off, false, Some("en"), Transcribe));
    assert!(trims(Trim::Auto, false, None, Transcribe), "an English-only model hears English");
    assert!(trims(Trim::Auto, true, Some("english"), Transcribe));
    assert!(!trims(Trim::Auto, true, Some("de"), Transcribe), "measured in English");
    assert!(!trims(Trim::Auto, true, None, Transcribe), "the language is not known beforehand");
    assert!(!trims(Trim::Auto, true, Some("en"), Translate), "measured transcribing");
}

#[test]
fn a_result_is_told_in_the_recordings_time() {
    let words = vec![word(400, 900, " Hallo"), word(900, 1_900, " Welt.")];
    let output = Output {
        coverage: 0.75,
        gaps: std::iter::once(3_000..7_000).collect(),
        ..output(vec![span(400, 1_900, words)])
    };
    let told = result(&cut(2, Decoding::default()), output, 7);
    assert_eq!(
        (told.text.as_str(), told.spans[0].start_ms, told.spans[0].end_ms),
        ("Hallo Welt.", 60_400, 61_900)
    );
    let words: Vec<_> =
        told.spans[0].words.iter().map(|word| (word.text.as_str(), word.start_ms, word.end_ms)).collect();
    assert_eq!(words, [(" Hallo", 60_400, 60_900), (" Welt.", 60_900, 61_900)]);
    assert_eq!((told.coverage, told.gaps), (0.75, vec![Stretch { start_ms: 63_000, end_ms: 67_000 }]));
    // What ends behind the segment ends with it.
    let late = result(
        &cut(2, Decoding::default()),
        self::output(vec![span(0, 25_000, vec![word(0, 21_000, "a")])]),
        7,
    );
    assert_eq!((late.spans[0].end_ms, late.spans[0].words[0].end_ms), (80_000, 80_000));
}

fn work() -> Envelope {
    let at = events::now();
    let recording: RecordingId = "00000000-0000-0000-0000-000000000007".parse().unwrap();
    Envelope {
        event_id: EventId::from(recording.as_uuid()),
        shard: Shard(0),
        seq: None,
        recording,
        tenant: Tenant::default(),
        generation: 0,
        round: 0,
        submitted_at: at,
        occurred_at: at,
        trace: None,
        causation_id: None,
        event: cut(0, Decoding::default()).into(),
    }
}

#[test]
fn a_result_fits_an_event() {
    let told = |spans: usize, words: usize| {
        let words: Vec<Word> = (0..words).map(|_| word(0, 10, " abcde")).collect();
        let spans: Vec<Span> =
            (0..spans).map(|_| Span { tokens: vec![50_000; 100], ..span(0, 10, words.clone()) }).collect();
        let fact = fact(&work(), result(&cut(0, Decoding::default()), output(spans), 1).into());
        assert!(events::encode(&fact).is_ok());
        let Event::SegmentTranscribed(segment) = fact.event else { panic!("{fact:?}") };
        let (words, tokens) = segment
            .spans
            .iter()
            .fold((0, 0), |(words, tokens), span| (words + span.words.len(), tokens + span.tokens.len()));
        (words, tokens, segment.text.len())
    };
    assert_eq!(told(10, 15), (150, 1_000, 150 * 6 - 1), "ordinary speech is whole");
    assert_eq!(told(10, 100), (0, 1_000, 1_000 * 6 - 1));
    assert_eq!(told(100, 10), (0, 0, 1_000 * 6 - 1));
}
