//! What readers ask.

use std::collections::HashMap;

use events::*;
use transcript::{DocumentSpans, Status, Transcript, format};
use views::{Entry, Filter, Search};

use crate::given::*;
use crate::support::{Database, with_database};

/// Recordings 0 to 6: whole ones; 5 is queued, 6 failed. Even ones are the default tenant's, odd ones acme's.
async fn library(db: &Database) {
    let mut log = Log::new(0);
    let mut entries = Vec::new();
    for (n, texts) in (0..).zip([
        ["The cats were running.", "A dog barked twice."],
        ["Running a company is hard.", "The dogs don't mind."],
        ["Nothing of interest.", "Really nothing <b>at all</b>."],
        ["The cat sat on the mat.", "The dog left."],
        ["A quick brown fox.", "It jumped over the lazy dog."],
    ]) {
        entries.extend(log.whole(n, &texts));
    }
    entries.push(log.entry(5, admitted("drop-5", "100%_sure.wav")));
    entries.push(log.entry(6, admitted("drop-6", "call.amr")));
    entries.push(log.entry(6, failed()));
    db.apply(&entries).await;
}

/// All pages of a list, as numbers of recordings.
async fn listed(db: &Database, filter: Filter, limit: u32) -> Vec<u32> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = db.views.recordings(&filter, after.as_ref(), limit).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        found.extend(page.items.iter().map(|row| (0..9).find(|&n| recording(n) == row.id).unwrap()));
        // A cursor travels as text.
        after = match page.next {
            Some(key) => Some(key.to_string().parse().unwrap()),
            None => return found,
        };
    }
}

#[test]
fn recordings_come_in_pages_and_by_filters() {
    with_database(|db| async move {
        library(&db).await;
        for limit in [1, 2, 3, 7, 100] {
            assert_eq!(listed(&db, Filter::default(), limit).await, [6, 5, 4, 3, 2, 1, 0], "limit {limit}");
        }
        let acme = Filter { tenant: Some("acme".parse().unwrap()), ..Filter::default() };
        assert_eq!(listed(&db, acme, 2).await, [5, 3, 1]);
        let complete = Filter { status: Some(Status::Complete), ..Filter::default() };
        assert_eq!(listed(&db, complete, 2).await, [4, 3, 2, 1, 0]);
        let named = |name: &str| Filter { name: Some(name.into()), ..Filter::default() };
        assert_eq!(listed(&db, named("tALK"), 100).await, [4, 3, 2, 1, 0]);
        assert_eq!(listed(&db, named("0%_s"), 100).await, [5], "signs of patterns are just signs");
        assert!(listed(&db, named("\0"), 100).await.is_empty());
        let between = Filter { from: Some(at(60_000)), until: Some(at(180_000)), ..Filter::default() };
        assert_eq!(listed(&db, between, 100).await, [2, 1]);
    });
}

#[test]
fn recordings_of_one_moment_are_all_listed() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let entries: Vec<_> = (0..9)
            .map(|n| {
                let mut envelope = log.envelope(n, 0, 0, admitted("d", "n"));
                envelope.submitted_at = at(0);
                views::Entry::of(&envelope).unwrap()
            })
            .collect();
        db.apply(&entries).await;
        let mut found = listed(&db, Filter::default(), 2).await;
        found.sort();
        assert_eq!(found, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    });
}

#[test]
fn drops_are_found_and_their_ends_known() {
    with_database(|db| async move {
        library(&db).await;
        let row = db.views.recording_by_drop("drop-3").await.unwrap().unwrap();
        assert_eq!(row.id, recording(3));
        assert_eq!(db.views.recording_by_drop("no such").await.unwrap(), None);
        assert_eq!(db.views.recording_by_drop("\0").await.unwrap(), None);
        let asked: Vec<String> = ["drop-0", "drop-5", "drop-6", "never", "\0"].map(String::from).into();
        let ends = HashMap::from([("drop-0".into(), Status::Complete), ("drop-6".into(), Status::Failed)]);
        assert_eq!(db.views.finished_drops(&asked).await.unwrap(), ends);
        let failed = db.views.recording(recording(6)).await.unwrap().unwrap();
        assert_eq!(failed.state.reason.unwrap().code, "unsupported_codec");
    });
}

/// All pages of a search, as recording, index and snippet.
async fn found(db: &Database, search: Search, limit: u32) -> Vec<(u32, u32, String)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = db.views.search(&search, after.as_ref(), limit).await.unwrap();
        for hit in &page.items {
            let n = (0..9).find(|&n| recording(n) == hit.recording).unwrap();
            assert_eq!(hit.start_ms, u64::from(hit.index) * 10_000);
            assert_eq!(hit.name.as_deref(), Some(&*format!("Talk {n}.mp3")));
            found.push((n, hit.index, hit.snippet.html()));
        }
        after = match page.next {
            Some(key) => Some(key.to_string().parse().unwrap()),
            None => return found,
        };
    }
}

fn text(text: &str) -> Search {
    Search { text: text.into(), ..Search::default() }
}

fn places(found: &[(u32, u32, String)]) -> Vec<(u32, u32)> {
    found.iter().map(|(n, index, _)| (*n, *index)).collect()
}

#[test]
fn search_finds_words_phrases_and_stems() {
    with_database(|db| async move {
        library(&db).await;
        let dogs = found(&db, text("dogs"), 1).await;
        assert_eq!(places(&dogs), [(4, 1), (3, 1), (1, 1), (0, 1)], "a page at a time, stems, newest first");
        assert_eq!(dogs[3].2, "A <mark>dog</mark> barked twice.");
        assert_eq!(places(&found(&db, text("\"lazy dog\""), 9).await), [(4, 1)]);
        assert_eq!(places(&found(&db, text("dog -lazy -mind"), 9).await), [(3, 1), (0, 1)]);
        assert_eq!(places(&found(&db, text("fox or mat"), 9).await), [(4, 0), (3, 0)]);
        assert_eq!(
            found(&db, text("nothing at all"), 9).await[1].2,
            "Really <mark>nothing</mark> &lt;b&gt;at all&lt;/b&gt;."
        );
        for nothing in ["", "  ", "the", "unheard", "\0", "\"", "-", "!!&|():*"] {
            assert_eq!(found(&db, text(nothing), 9).await, [], "{nothing:?}");
        }
        let acme = Search { tenant: Some("acme".parse().unwrap()), ..text("dog") };
        assert_eq!(places(&found(&db, acme, 1).await), [(3, 1), (1, 1)]);
        let one = Search { recording: Some(recording(4)), ..text("dog") };
        assert_eq!(places(&found(&db, one, 9).await), [(4, 1)]);
        let early = Search { until: Some(at(60_000)), ..text("dog") };
        assert_eq!(places(&found(&db, early, 9).await), [(0, 1)]);
        let german = Search { language: Some("de".into()), ..text("dog") };
        assert_eq!(found(&db, german, 9).await, []);
    });
}

#[test]
fn search_knows_languages_and_only_what_readers_see() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        db.apply(&[
            log.entry(1, admitted("drop-1", "Talk 1.mp3")),
            log.entry(1, said_in("de", 0, 0, "Die Häuser am Fluss")),
            log.entry(1, said_in("zh", 0, 1, "我们去北京看长城。")),
            log.entry(1, said_in("sw", 0, 2, "Nyumba kubwa")),
            log.entry(1, decoded(&[3])),
        ])
        .await;
        assert_eq!(
            found(&db, text("Haus"), 9).await,
            [(1, 0, "Die <mark>Häuser</mark> am Fluss".into())],
            "a stem"
        );
        assert_eq!(found(&db, text("kubwa"), 9).await[0].2, "Nyumba <mark>kubwa</mark>", "no stems known");
        assert_eq!(found(&db, text("北京"), 9).await[0].2, "我们去<mark>北京</mark>看长城。");
        assert_eq!(places(&found(&db, text("长城 北京"), 9).await), [(1, 1)]);
        assert_eq!(found(&db, text("上海"), 9).await, []);

        let next = |log: &mut Log, event: Event| views::Entry::of(&log.envelope(1, 1, 0, event)).unwrap();
        let again = requested(Activation::Auto);
        let entries = [again.into(), said(0, 0, "The houses at the river").into(), decoded(&[1]).into()]
            .map(|e| next(&mut log, e));
        db.apply(&entries).await;
        assert_eq!(places(&found(&db, text("house"), 9).await), [(1, 0)]);
        assert_eq!(found(&db, text("Haus"), 9).await, [], "the first generation is not seen any more");
        db.apply(&[log.entry(1, RecordingDeleted { by: "api".into(), drop_id: None })]).await;
        assert_eq!(found(&db, text("house"), 9).await, []);
    });
}

#[test]
fn keys_are_shown_once_and_kept_as_hashes() {
    with_database(|db| async move {
        assert!(!db.views.has_keys().await.unwrap());
        let acme: Tenant = "acme".parse().unwrap();
        let first = db.views.create_key(&acme, "laptop", false).await.unwrap();
        let second = db.views.create_key(&acme, "phone\0", true).await.unwrap();
        assert!(first.secret != second.secret && first.secret.len() == 67 && first.secret.starts_with("vf_"));
        assert!(!format!("{first:?}").contains(&first.secret));
        assert_eq!(db.views.find_key(&first.secret).await.unwrap(), Some(first.key.clone()));
        assert_eq!(db.views.find_key("vf_").await.unwrap(), None);
        assert_eq!(db.views.keys().await.unwrap(), [first.key.clone(), second.key.clone()]);
        assert!(db.views.revoke_key(first.key.id).await.unwrap());
        assert!(!db.views.revoke_key(first.key.id).await.unwrap(), "it is revoked already");
        assert_eq!(db.views.find_key(&first.secret).await.unwrap(), None);
        assert!(db.views.keys().await.unwrap()[0].revoked_at.is_some());
        assert!(db.views.has_keys().await.unwrap());
        let (kept,): (String,) = sqlx::query_as("SELECT string_agg(k::text, '') FROM control.api_keys k")
            .fetch_one(&mut db.connection().await)
            .await
            .unwrap();
        assert!(!kept.contains(&first.secret[12..]), "{kept}");
    });
}

#[test]
fn usage_is_added_up_by_hour_and_tenant() {
    with_database(|db| async move {
        library(&db).await;
        db.views.refresh_usage(at(0), at(3_600_000)).await.unwrap();
        let usage = db.views.usage(None, at(-3_600_000), at(7_200_000)).await.unwrap();
        let [acme, default] = usage.try_into().unwrap();
        assert_eq!((acme.tenant.as_str(), acme.recordings, acme.audio_ms), ("acme", 3, 110_000));
        assert_eq!((default.recordings, default.transcribed_ms, default.failed_segments), (4, 6 * 9_500, 0));
        assert_eq!(acme.hour.to_string(), "2026-01-02T03:00:00Z");
        assert!(
            db.views.usage(Some(&Tenant::default()), at(3_600_000), at(7_200_000)).await.unwrap().is_empty()
        );
    });
}

#[test]
fn what_is_not_there_is_none() {
    with_database(|db| async move {
        assert_eq!(db.views.recording(recording(1)).await.unwrap(), None);
        assert_eq!(db.views.transcript(recording(1), None).await.unwrap(), None);
        assert!(db.views.generations(recording(1)).await.unwrap().is_empty());
        library(&db).await;
        assert_eq!(db.views.transcript(recording(1), Some(7)).await.unwrap(), None);
        let queued = db.views.transcript(recording(5), None).await.unwrap().unwrap();
        assert_eq!((queued.status, queued.segments.len()), (Status::Queued, 0));
    });
}

#[test]
fn a_transcript_is_its_tenants_alone() {
    with_database(|db| async move {
        db.apply(&Log::new(0).whole(2, &["Hi."])).await;
        let of =
            async |tenant: Tenant| db.views.tenants_transcript(&tenant, recording(2), None).await.unwrap();
        let own: Option<Transcript> = of(Tenant::default()).await;
        assert_eq!(own, db.views.transcript(recording(2), None).await.unwrap());
        assert_eq!(of("other".parse().unwrap()).await, None);
    });
}

#[test]
fn documents_are_the_same_with_and_without_values() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let mut entries = Vec::new();
        let odd = "\u{3000}Gr\u{f6}\u{df}e \"zwei\"\t\u{1f600} \\ / \u{0} \u{7f} \u{e000} 3.5\u{a0}\n";
        for generation in [0, 1] {
            let settings =
                Settings { channels: [Channels::Mix, Channels::Each][generation as usize], ..settings() };
            let requested = TranscriptionRequested { settings, ..requested(Activation::Manual) };
            entries.push(log.envelope(2, generation, 0, requested));
            for channel in [0, 1] {
                let mut plain = said(channel, 0, "Plain words, all of them.");
                plain.spans[0].no_speech_prob = 1.25e-12;
                plain.spans[0].words[0].probability = f32::MIN_POSITIVE;
                entries.push(log.envelope(2, generation, 0, plain));
                let mut strange = said(channel, 1, odd);
                strange.spans.push(Span { text: odd.into(), words: Vec::new(), ..strange.spans[0].clone() });
                strange.spans[1].start_ms = u64::from(u32::MAX) * 1_000;
                strange.spans[1].compression_ratio = f32::MAX;
                strange.spans[1].avg_logprob = -0.0;
                entries.push(log.envelope(2, generation, 0, strange));
                let cause = Cause::new("model_failed", odd);
                let failed =
                    SegmentFailed { channel, index: 2, start_ms: 20_000, end_ms: 21_000, cause, attempts: 3 };
                entries.push(log.envelope(2, generation, 0, failed));
                entries.push(log.envelope(
                    2,
                    generation,
                    0,
                    SegmentTranscribed { index: 3, spans: Vec::new(), ..said(channel, 3, "") },
                ));
            }
            entries.push(log.envelope(2, generation, 0, decoded(&[4, 4])));
        }
        db.apply(&entries.iter().map(|of| Entry::of(of).unwrap()).collect::<Vec<_>>()).await;
        for generation in [None, Some(0), Some(1)] {
            let values = db.views.transcript(recording(2), generation).await.unwrap().unwrap();
            let tenant = Tenant::default();
            let quick = db.views.tenants_transcript::<DocumentSpans>(&tenant, recording(2), generation);
            let quick = format::json(&quick.await.unwrap().unwrap());
            assert_eq!(quick, format::json(&values));
            let read: serde_json::Value = serde_json::from_str(&quick).unwrap();
            assert_eq!(read["segments"].as_array().unwrap().len(), 8);
            assert_eq!(read["segments"][2]["spans"][1]["text"], odd.replace('\0', "\u{fffd}").trim());
        }
    });
}

#[test]
fn questions_outlive_their_connections() {
    with_database(|db| async move {
        db.apply(&Log::new(0).whole(2, &["Hi."])).await;
        for _ in 0..3 {
            let asked = (0..8).map(|_| {
                let views = db.views.clone();
                tokio::spawn(async move { views.transcript(recording(2), None).await })
            });
            for answer in asked.collect::<Vec<_>>() {
                assert_eq!(answer.await.unwrap().unwrap().unwrap().text(), "Hi.");
            }
            // As a server does that restarts: at once, while they are fresh.
            let sql = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let (ended,): (i64,) = sqlx::query_as(sql).fetch_one(&mut db.connection().await).await.unwrap();
            assert!(ended > 1, "{ended} connections were ended");
        }
    });
}
