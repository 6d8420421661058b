use super::*;

const FINE: Quality = Quality {
    avg_logprob: -0.1,
    no_speech_prob: 0.0,
    compression_ratio: 1.0,
    ran_away: false,
    out_of_room: false,
};

#[track_caller]
fn judge(avg_logprob: f32, no_speech_prob: f32, compression_ratio: f32) -> (bool, bool) {
    let quality = Quality { avg_logprob, no_speech_prob, compression_ratio, ..FINE };
    (Thresholds::default().ask_again(quality), Thresholds::default().is_silence(quality))
}

#[test]
fn fallback_follows_the_thresholds() {
    let (again, silence) = (true, true);
    assert_eq!(judge(-0.3, 0.1, 1.5), (!again, !silence));
    assert_eq!(judge(-0.3, 0.1, 2.41), (again, !silence));
    assert_eq!(judge(-0.3, 0.1, 2.4), (!again, !silence));
    assert_eq!(judge(-1.01, 0.1, 1.5), (again, !silence));
    assert_eq!(judge(-1.0, 0.1, 1.5), (!again, !silence));
    // A guess over silence is accepted as silence, even when it repeats itself.
    assert_eq!(judge(-1.01, 0.61, 1.5), (!again, silence));
    assert_eq!(judge(-1.01, 0.61, 9.0), (!again, silence));
    assert_eq!(judge(-1.01, 0.6, 1.5), (again, !silence));
    // A sure text is no silence, whatever the window seems to be; but it may repeat itself.
    assert_eq!(judge(-0.3, 0.99, 1.5), (!again, !silence));
    assert_eq!(judge(-0.3, 0.99, 2.5), (again, !silence));
    assert_eq!(judge(-1.0, 0.99, 1.5), (!again, silence));
}

#[test]
fn a_threshold_can_be_switched_off() {
    let bad = Quality { avg_logprob: -3.0, no_speech_prob: 0.9, compression_ratio: 9.0, ..FINE };
    let off = Thresholds { compression_ratio: None, avg_logprob: None, no_speech: None };
    assert!(!off.ask_again(bad) && !off.is_silence(bad));
    assert!(Thresholds { compression_ratio: Some(2.4), ..off }.ask_again(bad));
    assert!(Thresholds { avg_logprob: Some(-1.0), ..off }.ask_again(bad));
    // Without a bound for the text, openai calls every likely silence silence.
    assert!(Thresholds { no_speech: Some(0.6), ..off }.is_silence(bad));
}

/// Against Python's `len(text) / len(zlib.compress(text))`; another deflate may differ by a few bytes.
#[test]
fn compression_ratio_is_zlibs() {
    let check = |text: &str, bytes: usize, compressed: f32| {
        assert_eq!(text.len(), bytes);
        let got = bytes as f32 / compression_ratio(text);
        assert!((got - compressed).abs() <= 2.0, "{text:?} takes {got} bytes, not {compressed}");
    };
    assert_eq!(compression_ratio(""), 0.0);
    check("a", 1, 9.0);
    check("hello world", 11, 19.0);
    check(&"la la la ".repeat(40), 360, 15.0);
    check(&"The quick brown fox jumps over the lazy dog. ".repeat(3), 135, 55.0);
    check(&"äöü ß 日本語".repeat(10), 190, 33.0);
}

#[test]
fn a_text_that_ran_away_is_asked_again_whatever_else_it_is() {
    assert!(Thresholds::default().ask_again(Quality { ran_away: true, ..FINE }));
    let short = Quality { out_of_room: true, ..FINE };
    assert!(!Thresholds::default().ask_again(short), "openai keeps a text that found no end");
}

#[test]
fn a_trimmed_window_is_doubted_where_any_guard_trips() {
    let doubt = |quality| Thresholds::default().doubt(quality);
    assert!(!doubt(FINE));
    assert!(doubt(Quality { compression_ratio: 2.5, ..FINE }));
    assert!(doubt(Quality { avg_logprob: -1.5, ..FINE }));
    assert!(doubt(Quality { ran_away: true, ..FINE }));
    assert!(doubt(Quality { out_of_room: true, ..FINE }));
    // Silence is no reason to draw again, but the missing padding may be what was heard.
    let silence = Quality { avg_logprob: -1.5, no_speech_prob: 0.9, ..FINE };
    assert!(!Thresholds::default().ask_again(silence) && doubt(silence));
}

#[test]
fn six_rounds_of_thirty_tokens_run_away() {
    let round =
        |period: u32, count: usize| -> Vec<u32> { (0..count as u32).map(|i| 7 + i % period).collect() };
    assert_eq!(runs_away(&round(1, 30)), Some(1));
    assert_eq!(runs_away(&round(1, 29)), None);
    assert_eq!(runs_away(&round(4, 30)), Some(4));
    assert_eq!(runs_away(&round(4, 29)), None);
    assert_eq!(runs_away(&round(20, 120)), Some(20));
    assert_eq!(runs_away(&round(20, 119)), None);
    assert_eq!(runs_away(&round(25, 200)), None, "longer runs are left to the compression ratio");
    let said: Vec<u32> = (0..100).collect();
    assert_eq!(runs_away(&said), None);
    let begun = [said, round(2, 30)].concat();
    assert_eq!(runs_away(&begun), Some(2), "what stood before does not matter");
}

#[test]
fn room_grows_with_the_sound() {
    assert_eq!((tokens_max(0), tokens_max(1_000), tokens_max(30_000)), (16, 46, 916));
}
