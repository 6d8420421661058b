use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::*;

/// One setting of each kind.
#[derive(Debug)]
#[expect(dead_code, reason = "shown through Debug")]
struct Config {
    redis: Redis,
    store: String,
    segment_max: Duration,
    drop_limit: ByteSize,
    lanes: Vec<String>,
    model: String,
    roots: Vec<PathBuf>,
    temperature: f32,
    listen: SocketAddr,
    ffmpeg: bool,
    token: Option<Secret>,
}

fn read(from: &mut Reader) -> Config {
    let config = Config {
        redis: Redis::read(from),
        store: audio_store(from),
        segment_max: from.setting("segment-max", "longest segment of speech").or("30s"),
        drop_limit: from
            .setting("drop-limit", "largest drop")
            .within(ByteSize::MIB..=ByteSize::GIB)
            .or("64MiB"),
        lanes: from
            .setting("lanes", "lanes to read")
            .each_of(&["rt", "batch", "replay"])
            .or("rt,batch,replay"),
        model: from.setting("model", "model of drops that name none").required("tiny.en"),
        roots: from.setting("roots", "folders that uris may name").or(""),
        temperature: from.setting("temperature", "first temperature").or("0"),
        listen: from.setting("listen", "where to listen").or("127.0.0.1:8080"),
        ffmpeg: from.setting("ffmpeg", "decode through ffmpeg what nothing else can").or("false"),
        token: from.setting("token", "the hub's token").optional("hf_abc"),
    };
    if config.segment_max < Duration::from_secs(1) {
        from.mistake("segment-max", "must be at least 1s, else words are cut");
    }
    config
}

fn check(args: &[&str], variables: Map, then: Expect) {
    let shown = match load("voiceforge-x", "Tries settings.", args, &variables, read) {
        Ok(loaded) => format!("{:#?}\n{}", loaded.config, loaded.warnings.join("\n")),
        Err(error) => error.to_string(),
    };
    then.assert_eq(&shown);
}

#[test]
fn flags_win_over_variables_and_both_over_defaults() {
    let variables = Map::from([
        ("HOME", "/home/ada"),
        ("VOICEFORGE_MODEL", "base"),
        ("VOICEFORGE_SEGMENT_MAX", "20s"),
        ("VOICEFORGE_LANES", "rt, batch"),
        ("VOICEFORGE_DROP_LIMIT", ""),
        ("VOICEFORGE_REDIS_URL", "redis://:pa55@cache:6379/1"),
        ("VOICEFORGE_TOKEN", "hf_real"),
    ]);
    check(
        &["--segment-max=1500ms", "--ffmpeg", "--roots", "/srv/a,/srv/b", "--temperature", "-0.5"],
        variables,
        expect![[r#"
            Config {
                redis: Redis {
                    url: redis://:***@cache:6379/1,
                    shards: 1,
                },
                store: "/home/ada/.local/share/voiceforge/audio",
                segment_max: 1.5s,
                drop_limit: ByteSize(
                    67108864,
                ),
                lanes: [
                    "rt",
                    "batch",
                ],
                model: "base",
                roots: [
                    "/srv/a",
                    "/srv/b",
                ],
                temperature: -0.5,
                listen: 127.0.0.1:8080,
                ffmpeg: true,
                token: Some(
                    (hidden),
                ),
            }
        "#]],
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let variables = Map::from([
        ("VOICEFORGE_SHARDS", "0"),
        ("VOICEFORGE_REDIS_URL", "redis//:pa55@cache"),
        ("VOICEFORGE_LANES", "rt,bulk"),
        ("VOICEFORGE_LISTEN", "8080"),
        ("VOICEFORGE_FFMPEG", "maybe"),
    ]);
    let args = ["--segment-mx", "3s", "--segment-max=10ms", "--drop-limit", "2TiB", "stray", "--temperature"];
    check(
        &args,
        variables,
        expect![[r#"
        voiceforge-x: 11 mistakes in the settings
          --segment-mx is not an argument of voiceforge-x; did you mean --segment-max?
          stray is not an argument of voiceforge-x
          VOICEFORGE_REDIS_URL="redis//:***@cache" is not a URL (relative URL without a base); expected a URL, such as redis://127.0.0.1:6379
          VOICEFORGE_SHARDS="0" is less than 1; expected a whole number from 1 to 1024, such as 1
          --drop-limit="2TiB" is more than 1GiB; expected a number of bytes in B, KiB, MiB, GiB or TiB from 1MiB to 1GiB, such as 64MiB
          VOICEFORGE_LANES="rt,bulk" has the unknown item "bulk"; expected a comma separated list out of rt, batch, replay, such as rt,batch,replay
          --model (VOICEFORGE_MODEL) is not set: model of drops that name none; expected text, such as tiny.en
          --temperature="" is not a number; expected a number, such as 0
          VOICEFORGE_LISTEN="8080" is not an IP address and a port; expected an IP address and a port, such as 127.0.0.1:8080
          VOICEFORGE_FFMPEG="maybe" is neither true nor false; expected true or false, such as false
          --segment-max (VOICEFORGE_SEGMENT_MAX): must be at least 1s, else words are cut
        `voiceforge-x --help` explains every setting."#]],
    );
}

#[test]
fn help_teaches() {
    check(
        &["--help"],
        Map::new(),
        expect![[r#"
        Tries settings.

        Usage: voiceforge-x [OPTIONS]

        Options:
          -h, --help
                  Print help
          -V, --version
                  Print version

        Settings:
              --redis-url <URL>
                  address of Redis, which holds the streams [default: redis://127.0.0.1:6379]
                  [VOICEFORGE_REDIS_URL]
              --shards <NUMBER>
                  number of shards; set once for a deployment, the same for every program; a whole number
                  from 1 to 1024 [default: 1] [VOICEFORGE_SHARDS]
              --audio-store <TEXT>
                  where audio is kept: a folder, or a URL such as s3://bucket/folder [default:
                  /var/lib/voiceforge/audio] [VOICEFORGE_AUDIO_STORE]
              --segment-max <DURATION>
                  longest segment of speech; a duration in ms, s, min, h or d [default: 30s]
                  [VOICEFORGE_SEGMENT_MAX]
              --drop-limit <BYTES>
                  largest drop; a number of bytes in B, KiB, MiB, GiB or TiB from 1MiB to 1GiB [default:
                  64MiB] [VOICEFORGE_DROP_LIMIT]
              --lanes <LIST>
                  lanes to read; a comma separated list out of rt, batch, replay [default: rt,batch,replay]
                  [VOICEFORGE_LANES]
              --model <TEXT>
                  model of drops that name none [required, such as tiny.en] [VOICEFORGE_MODEL]
              --roots <LIST>
                  folders that uris may name; a comma separated list, each item a path [default: none]
                  [VOICEFORGE_ROOTS]
              --temperature <NUMBER>
                  first temperature [default: 0] [VOICEFORGE_TEMPERATURE]
              --listen <IP:PORT>
                  where to listen; an IP address and a port [default: 127.0.0.1:8080] [VOICEFORGE_LISTEN]
              --ffmpeg[=<BOOL>]
                  decode through ffmpeg what nothing else can [default: false] [VOICEFORGE_FFMPEG]
              --token <SECRET>
                  the hub's token [default: none; such as hf_abc] [VOICEFORGE_TOKEN]

        Each setting is a flag or the variable in brackets; the flag wins.
    "#]],
    );
}

#[test]
fn misspelt_variables_are_named() {
    let variables = Map::from([
        ("VOICEFORGE_MODEL", "base"),
        ("VOICEFORGE_REDIS_ULR", "redis://elsewhere"),
        ("voiceforge_shards", "4"),
        ("VOICEFORGE_DATABASE_URL", "another program's"),
    ]);
    let loaded = load("voiceforge-x", "Tries settings.", &[""; 0], &variables, read).unwrap();
    expect![[r#"
        VOICEFORGE_REDIS_ULR is not a setting of this program; did you mean VOICEFORGE_REDIS_URL?
        voiceforge_shards is not a setting of this program; did you mean VOICEFORGE_SHARDS?"#]]
    .assert_eq(&loaded.warnings.join("\n"));
}

#[test]
fn version_is_told() {
    let error = load("voiceforge-x", "Tries settings.", &["--version"], &Map::new(), read).unwrap_err();
    assert!(
        matches!(&error, LoadError::Version(text) if text.trim() == concat!("voiceforge-x ", env!("CARGO_PKG_VERSION"))),
        "{error}"
    );
}

#[test]
fn secrets_are_not_told() {
    let secret = |from: &mut Reader| {
        let _: u16 = from.setting("pin", "a number nobody may see").secret().or("1");
        let _: Url = from.setting("url", "an address").or("postgres://127.0.0.1");
    };
    let variables =
        Map::from([("VOICEFORGE_PIN", "geheim"), ("VOICEFORGE_URL", "postgres://ada:geheim@[host/db")]);
    let error = load("voiceforge-x", "", &["--tokn=geheim"], &variables, secret).unwrap_err().to_string();
    assert!(!error.contains("geheim"), "{error}");
    assert!(error.contains("VOICEFORGE_PIN=(hidden) is not a whole number"), "{error}");
}

#[test]
#[should_panic(expected = "the default or example \"soon\" of setting \"wait\"")]
fn a_bad_default_shows_in_every_test() {
    let bad = |from: &mut Reader| from.setting::<Duration>("wait", "how long to wait").or("soon");
    let _ = load("voiceforge-x", "", &["--wait=1s"], &Map::new(), bad);
}

#[test]
fn durations_and_sizes() {
    fn check<T: Value>(text: &str, then: &str) {
        let shown = T::parse(text).map_or_else(|problem| problem, |value| value.show());
        assert_eq!(shown, then, "{text:?}");
    }
    check::<Duration>("90s", "90s");
    check::<Duration>("120 s", "2min");
    check::<Duration>("1.5h", "90min");
    check::<Duration>("7d", "7d");
    check::<Duration>("0ms", "0ms");
    check::<Duration>("30", "has no unit");
    check::<Duration>("30 weeks", "has the unknown unit \"weeks\"");
    check::<Duration>("-1s", "does not begin with a number");
    check::<Duration>("99999999999999999999d", "is too long");
    check::<ByteSize>("64MiB", "64MiB");
    check::<ByteSize>("1.5gib", "1536MiB");
    check::<ByteSize>("2000000", "2MB");
    check::<ByteSize>("4097", "4097B");
    check::<ByteSize>("1e3", "has the unknown unit \"e3\"");
    check::<ByteSize>("99999999TiB", "is too large");
    check::<u8>("256", "is not between 0 and 255");
    check::<SocketAddr>("localhost:80", "127.0.0.1:80");
}

#[test]
fn passwords_in_urls_are_hidden() {
    for (text, then) in [
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("redis://:pa55@cache:6379/1", "redis://:***@cache:6379/1"),
        ("postgres://ada:p@ss@db/x", "postgres://ada:***@db/x"),
        ("postgres://ada:p/ss@db/x", "postgres://ada:***@db/x"),
        (
            "postgres://ada@db/x?sslmode=require&password=p",
            "postgres://ada@db/x?sslmode=require&password=***",
        ),
    ] {
        assert_eq!(Url::conceal(text), then);
    }
}
