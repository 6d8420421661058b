//! `voiceforge transcribe` as it is typed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The model and the clips, where the environment names them.
fn given(test: &str) -> Option<(PathBuf, PathBuf)> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (models, clips) = (folder("VOICEFORGE_TEST_MODELS"), folder("VOICEFORGE_TEST_CLIPS"));
    if models.is_none() || clips.is_none() {
        eprintln!("skipped: {test} needs VOICEFORGE_TEST_MODELS and VOICEFORGE_TEST_CLIPS");
    }
    models.zip(clips)
}

fn transcribe(models: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_voiceforge"))
        .args(["transcribe", "--models"])
        .arg(models)
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it writes UTF-8")
}

/// The first clip, in order of names, that has a reference beside it.
fn clip(clips: &Path) -> (PathBuf, String) {
    read_with_reference(waves(clips).swap_remove(0))
}

/// The clip that is longest, of several segments.
fn longest_clip(clips: &Path) -> (PathBuf, String) {
    let length = |path: &PathBuf| path.metadata().map_or(0, |about| about.len());
    read_with_reference(waves(clips).into_iter().max_by_key(length).expect("there are clips"))
}

/// The clips that have a reference beside them.
fn waves(clips: &Path) -> Vec<PathBuf> {
    let mut waves: Vec<PathBuf> = std::fs::read_dir(clips)
        .expect("the folder of clips is there")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "wav") && path.with_extension("txt").exists())
        .collect();
    waves.sort();
    waves
}

fn read_with_reference(wave: PathBuf) -> (PathBuf, String) {
    let reference = std::fs::read_to_string(wave.with_extension("txt")).expect("the reference can be read");
    (wave, reference)
}

fn words(text: &str) -> Vec<String> {
    let keep = |c: char| c.is_alphanumeric() || c == '\'';
    text.to_lowercase().split(|c| !keep(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Words to change, add or remove to get from one to the other.
fn word_errors(reference: &[String], heard: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (at, word) in reference.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in heard.iter().enumerate() {
            let changed = diagonal + usize::from(word != other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[heard.len()]
}

#[test]
fn a_clip_becomes_its_words_in_every_format() {
    let Some((models, clips)) = given("a_clip_becomes_its_words_in_every_format") else { return };
    let (wave, reference) = clip(&clips);
    let wave = wave.to_str().expect("clips have plain names");

    let plain = transcribe(&models, &["--model", "tiny.en", wave]);
    assert!(plain.status.success(), "{}", text(&plain.stderr));
    let (reference, heard) = (words(&reference), words(&text(&plain.stdout)));
    let errors = word_errors(&reference, &heard);
    assert!(errors * 5 <= reference.len(), "{errors} of {} words are wrong: {heard:?}", reference.len());

    let json = transcribe(&models, &["--model", "tiny.en", "--format", "json", wave, wave]);
    assert!(json.status.success(), "{}", text(&json.stderr));
    let documents: Vec<serde_json::Value> = text(&json.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert_eq!(documents.len(), 2, "the same file twice is two transcripts");
    for document in documents {
        assert_eq!(document["status"], "complete");
        assert_eq!(words(document["text"].as_str().unwrap_or_default()), heard);
    }

    let folder = tempfile::tempdir().expect("there is room for a folder");
    let output = folder.path().to_str().expect("temporary folders have plain names");
    let srt = transcribe(&models, &["--format", "srt", "--output", output, wave]);
    assert!(srt.status.success() && srt.stdout.is_empty(), "{}", text(&srt.stderr));
    let name = Path::new(wave).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let written =
        std::fs::read_to_string(folder.path().join(format!("{name}.srt"))).expect("the file is there");
    assert!(written.starts_with("1\n00:00:"), "{written}");
}

#[test]
fn each_segment_may_continue_the_text_before() {
    let Some((models, clips)) = given("each_segment_may_continue_the_text_before") else { return };
    let (wave, reference) = longest_clip(&clips);
    let wave = wave.to_str().expect("clips have plain names");
    let ended =
        transcribe(&models, &["--model", "tiny.en", "--condition-across-segments", "--format", "json", wave]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let document: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("it is JSON");
    let segments = document["segments"].as_array().expect("there are segments");
    assert!(segments.len() >= 2, "the clip must be long enough: {document}");
    let (reference, heard) = (words(&reference), words(document["text"].as_str().unwrap_or_default()));
    let errors = word_errors(&reference, &heard);
    assert!(errors * 20 <= reference.len(), "{errors} of {} words are wrong: {heard:?}", reference.len());
}

#[test]
fn what_is_no_audio_is_told_and_is_exit_code_1() {
    let Some((models, clips)) = given("what_is_no_audio_is_told_and_is_exit_code_1") else { return };
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let notes = folder.path().join("notes.wav");
    std::fs::write(&notes, "this is text, whatever its name says\n".repeat(50)).expect("the disk has room");
    let empty = folder.path().join("empty.mp3");
    std::fs::write(&empty, "").expect("the disk has room");
    let (wave, _) = clip(&clips);

    let files = [notes.as_path(), &empty, &wave].map(|path| path.to_str().expect("plain names"));
    let ended = transcribe(&models, &files);
    assert_eq!(ended.status.code(), Some(1));
    let told = text(&ended.stderr);
    for reason in ["notes.wav: rejected: ", "empty.mp3: rejected: "] {
        assert!(told.contains(reason), "{reason} is missing in:\n{told}");
    }
    assert!(!ended.stdout.is_empty(), "one bad file does not hold the others");
}

#[test]
fn a_model_that_is_not_there_is_told_with_its_remedy() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let talk = folder.path().join("talk.mp3");
    std::fs::write(&talk, "ID3").expect("the disk has room");
    let ended = transcribe(folder.path(), &["--model", "base", talk.to_str().expect("a plain name")]);
    assert_eq!(ended.status.code(), Some(1));
    let told = text(&ended.stderr);
    assert!(told.contains("`voiceforge models pull base`") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_model_is_measured_and_what_is_missing_is_told() {
    let Some((models, clips)) = given("a_model_is_measured_and_what_is_missing_is_told") else { return };
    let (wave, _) = clip(&clips);
    let bench = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_voiceforge"));
        command.args(["models", "bench", "--models"]).arg(&models).arg("tiny.en").arg(&wave).args(more);
        command.output().expect("the program starts")
    };
    let measured = bench(&["--slots", "2"]);
    let (said, told) = (text(&measured.stdout), text(&measured.stderr));
    assert!(measured.status.success(), "{told}");
    assert!(said.contains("tiny.en") && said.contains("of sound a second") && said.contains("MiB"), "{said}");
    for (more, remedy) in [
        (&["--precision", "int4"][..], "none of int8, bf16 and f32"),
        // No driver counts as many.
        (&["--backend", "cuda", "--device", "60"], "use a GPU"),
        (&["--slots", "0"], "1..=256"),
    ] {
        let refused = bench(more);
        let told = text(&refused.stderr);
        assert!(!refused.status.success() && told.contains(remedy), "{told}");
    }
}
