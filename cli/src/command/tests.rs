use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use expect_test::expect_file;

use super::{Arguments, Command};
use crate::wishes::{Lane, Shape};

/// The help of one command, as it looks a hundred columns wide.
fn help(words: &[&str]) -> String {
    let mut command = Arguments::command().term_width(100);
    command.build();
    for word in words {
        command = command.find_subcommand(word).expect("the command is there").clone();
    }
    command.render_help().to_string()
}

#[test]
fn every_help_teaches_by_example() {
    expect_file!["help/voiceforge.txt"].assert_eq(&help(&[]));
    expect_file!["help/transcribe.txt"].assert_eq(&help(&["transcribe"]));
    expect_file!["help/drop.txt"].assert_eq(&help(&["drop"]));
    expect_file!["help/get.txt"].assert_eq(&help(&["get"]));
    expect_file!["help/list.txt"].assert_eq(&help(&["list"]));
    expect_file!["help/search.txt"].assert_eq(&help(&["search"]));
    expect_file!["help/replay.txt"].assert_eq(&help(&["replay"]));
    expect_file!["help/compare.txt"].assert_eq(&help(&["compare"]));
    expect_file!["help/cancel.txt"].assert_eq(&help(&["cancel"]));
    expect_file!["help/dead.txt"].assert_eq(&help(&["dead"]));
    expect_file!["help/dead-replay.txt"].assert_eq(&help(&["dead", "replay"]));
    expect_file!["help/top.txt"].assert_eq(&help(&["top"]));
    expect_file!["help/delete.txt"].assert_eq(&help(&["delete"]));
    expect_file!["help/retention.txt"].assert_eq(&help(&["retention"]));
    expect_file!["help/up.txt"].assert_eq(&help(&["up"]));
    expect_file!["help/down.txt"].assert_eq(&help(&["down"]));
    expect_file!["help/status.txt"].assert_eq(&help(&["status"]));
    expect_file!["help/keys.txt"].assert_eq(&help(&["keys"]));
    expect_file!["help/reproject.txt"].assert_eq(&help(&["reproject"]));
    expect_file!["help/models.txt"].assert_eq(&help(&["models"]));
    expect_file!["help/models-pull.txt"].assert_eq(&help(&["models", "pull"]));
    expect_file!["help/models-bench.txt"].assert_eq(&help(&["models", "bench"]));
    for command in Arguments::command().get_subcommands().filter(|command| command.get_name() != "help") {
        let text = help(&[command.get_name()]);
        assert!(text.contains("Examples:\n"), "{} shows no example", command.get_name());
    }
}

fn parse(line: &str) -> Result<Command, ErrorKind> {
    let words = std::iter::once("voiceforge").chain(line.split(' '));
    Arguments::try_parse_from(words).map(|arguments| arguments.command).map_err(|error| error.kind())
}

#[test]
fn what_is_typed_is_understood() {
    let Ok(Command::Drop(drop)) =
        parse("drop talk.mp3 --wait --format json --lane rt --server http://127.0.0.1:9")
    else {
        panic!("drop is a command");
    };
    assert_eq!((drop.path.to_str(), drop.wait, drop.format), (Some("talk.mp3"), true, Some(Shape::Json)));
    assert_eq!(
        (drop.lane, drop.server.server.map(String::from)),
        (Lane::Rt, Some("http://127.0.0.1:9/".to_owned()))
    );

    let Ok(Command::Transcribe(transcribe)) = parse("transcribe a.wav - --language de --task translate")
    else {
        panic!("transcribe is a command");
    };
    assert_eq!(transcribe.files.len(), 2);
    let fields = transcribe.wishes.fields();
    assert_eq!(
        fields,
        [("language", "de"), ("task", "translate")].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );

    let Ok(Command::Drop(drop)) =
        parse("drop a.wav --beam-size 5 --word-timestamps --no-condition --decoding patience=2")
    else {
        panic!("options of decoding are taken");
    };
    let fields = [
        ("beam_size", "5"),
        ("word_timestamps", "true"),
        ("condition_on_previous_text", "false"),
        ("patience", "2"),
    ];
    assert_eq!(drop.wishes.fields(), fields.map(|(a, b)| (a.to_owned(), b.to_owned())));

    let Ok(Command::Replay(replay)) =
        parse("replay --made-by tiny.en --id a --id b --temperature 0,0.4 --wait")
    else {
        panic!("replay is a command");
    };
    assert_eq!((replay.id.len(), replay.temperature.as_slice(), replay.wait), (2, &[0.0, 0.4][..], true));
    let Ok(Command::Replay(watch)) = parse("replay --run 7") else { panic!("a run can be watched") };
    assert_eq!(watch.run.as_deref(), Some("7"));
    assert!(matches!(parse("replay cancel 7"), Ok(Command::Replay(replay)) if replay.act.is_some()));

    let Ok(Command::Drop(raw)) = parse("drop - --redis redis://127.0.0.1 --tenant acme") else {
        panic!("a tenant goes with the queue");
    };
    assert_eq!(raw.tenant.map(|tenant| tenant.to_string()).as_deref(), Some("acme"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, kind) in [
        ("drop", ErrorKind::MissingRequiredArgument),
        ("drop a.wav --format pdf", ErrorKind::InvalidValue),
        ("drop a.wav --lane replay", ErrorKind::InvalidValue),
        ("drop a.wav --tenant acme", ErrorKind::MissingRequiredArgument),
        ("drop a.wav --jobs 0", ErrorKind::ValueValidation),
        ("drop a.wav --beam-size 17", ErrorKind::ValueValidation),
        ("drop a.wav --decoding speed=2", ErrorKind::ValueValidation),
        ("transcribe a.wav --best-of none", ErrorKind::ValueValidation),
        ("transcribe", ErrorKind::MissingRequiredArgument),
        ("get", ErrorKind::MissingRequiredArgument),
        ("get id --about --format srt", ErrorKind::ArgumentConflict),
        ("list --status odd", ErrorKind::ValueValidation),
        ("search", ErrorKind::MissingRequiredArgument),
        ("keys revoke 7", ErrorKind::ValueValidation),
        ("replay --model base", ErrorKind::MissingRequiredArgument),
        ("replay --all --since 2026-01-31", ErrorKind::ArgumentConflict),
        ("replay --run x --all", ErrorKind::ArgumentConflict),
        ("replay show", ErrorKind::MissingRequiredArgument),
        ("compare", ErrorKind::MissingRequiredArgument),
        ("compare id --run x", ErrorKind::ArgumentConflict),
        ("cancel", ErrorKind::MissingRequiredArgument),
        ("delete", ErrorKind::MissingRequiredArgument),
        ("retention set audio 0s", ErrorKind::ValueValidation),
        ("retention set films 1d", ErrorKind::ValueValidation),
        ("dead replay 00:1-0 --all", ErrorKind::ArgumentConflict),
        ("top --every 0", ErrorKind::ValueValidation),
        ("reproject drop", ErrorKind::MissingRequiredArgument),
        ("reproject drop read", ErrorKind::ValueValidation),
        ("reproject --status --verify-only", ErrorKind::ArgumentConflict),
        ("models pull", ErrorKind::MissingRequiredArgument),
        ("up --port 70000", ErrorKind::ValueValidation),
        ("sing", ErrorKind::InvalidSubcommand),
    ] {
        assert_eq!(parse(line).err(), Some(kind), "{line}");
    }
}
