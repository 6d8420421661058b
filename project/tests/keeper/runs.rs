//! Reprocessing runs.

use std::time::Duration;

use events::*;
use project::keeper::runs::{Options, request};
use service::store::Key;
use streams::{Appended, Log, Queue, Source};
use transcript::Status;
use views::{RunState, Selection, Wishes};

use crate::world::*;

fn base() -> Wishes {
    Wishes { model: Some("base".into()), ..Wishes::default() }
}

#[test]
fn each_recording_gets_one_generation_and_the_run_ends() {
    with_world(|mut world| async move {
        for n in 0..3 {
            world.admit(n, 1, "en").await;
        }
        let run = world.start(base(), Activation::Auto).await;
        assert_eq!((run.selected.recordings, run.selected.audio_ms), (3, 180_000));
        let keeper = world.keeper();
        all_turns(&keeper).await;
        assert_eq!(world.requested(), [(0, 1), (1, 1), (2, 1)]);
        world.project().await;
        assert_eq!(world.state(&run).await, RunState::Running);
        let row = world.views.recording(recording(0)).await.unwrap().unwrap();
        assert_eq!(row.generation, Some(0), "readers see the old one until the new one is complete");

        for (n, text) in [(0, "the quick brown fox"), (1, "the quick red fox"), (2, "a thick brown box")] {
            world.transcribe(n, 1, 1, "en", &[text, "and good bye"]).await;
        }
        all_turns(&keeper).await;
        let ended = world.run(&run).await;
        assert_eq!(ended.state, RunState::Done);
        assert!(ended.started_at.is_some() && ended.ended_at.is_some());
        let progress = world.views.run_progress(run.id).await.unwrap();
        assert_eq!((progress.requested, progress.complete, progress.ended_ms), (3, 3, 180_000));
        let row = world.views.recording(recording(0)).await.unwrap().unwrap();
        assert_eq!(row.generation, Some(1));

        let page = world.views.run_comparisons(run.id, None, 2).await.unwrap();
        let told = |rows: &[views::RunComparison]| {
            rows.iter().map(|row| (row.recording, row.replaced, row.baseline_words)).collect::<Vec<_>>()
        };
        assert_eq!(told(&page.items), [(recording(2), 3, 7), (recording(1), 1, 7)], "the worst first");
        let rest = world.views.run_comparisons(run.id, page.next.as_ref(), 2).await.unwrap();
        assert_eq!(told(&rest.items), [(recording(0), 0, 7)]);
        assert_eq!(rest.next, None);
        assert!(world.views.runs_at_work().await.unwrap().is_empty());
    });
}

#[test]
fn a_keeper_that_died_between_any_two_steps_is_followed_by_one_that_goes_on() {
    with_world(|mut world| async move {
        for n in 0..3 {
            world.admit(n, 1, "en").await;
        }
        let run = world.start(base(), Activation::Auto).await;
        // Died after the row, before the request.
        let rows = world.views.next_recordings(&run, 9).await.unwrap();
        world.views.reserve_generation(run.id, &rows[0]).await.unwrap().unwrap();
        all_turns(&world.keeper()).await;
        assert_eq!(world.requested(), [(0, 1), (1, 1), (2, 1)]);

        // Died after the request, before the cursor: with any settings the request is the same act.
        let again = world.start(base(), Activation::Auto).await;
        let rows = world.views.next_recordings(&again, 9).await.unwrap();
        let asked = world.views.reserve_generation(again.id, &rows[0]).await.unwrap().unwrap();
        let work = (rows[0].audio.clone().unwrap(), rows[0].settings.clone().unwrap());
        let append = request(&again, &rows[0], &asked, work, world.log.shards()).unwrap();
        assert_eq!(world.log.append(&append).await.unwrap(), Appended::Done);
        all_turns(&world.keeper()).await;
        assert_eq!(world.requested(), [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]);
        assert_eq!(world.told("TranscriptionRequested"), 6);

        // Died after the cursor, before it said that it was at the end.
        for n in 0..3 {
            world.transcribe(n, 1, 1, "en", &["a", "b"]).await;
            world.transcribe(n, 2, 1, "en", &["a", "b"]).await;
        }
        all_turns(&world.keeper()).await;
        assert_eq!((world.state(&run).await, world.state(&again).await), (RunState::Done, RunState::Done));
        assert_eq!(world.told("TranscriptionRequested"), 6);
    });
}

#[test]
fn no_more_is_requested_than_the_bound_allows() {
    with_world(|mut world| async move {
        for n in 0..6 {
            world.admit(n, 4, "en").await;
        }
        world.start(base(), Activation::Auto).await;
        let keeper = world.keeper();
        all_turns(&keeper).await;
        assert_eq!(world.requested().len(), 3, "ten minutes ahead: the third one passes the bound");
        let narrow = Options {
            every: Duration::from_millis(10),
            ahead: Duration::from_secs(1),
            missing_after: Duration::from_secs(120),
        };
        all_turns(&world.keeper_with(narrow)).await;
        assert_eq!(world.requested().len(), 3);
    });
}

#[test]
fn a_rate_spaces_requests() {
    with_world(|mut world| async move {
        for n in 0..3 {
            world.admit(n, 1, "en").await;
        }
        let run = world.start_over(Selection::default(), base(), Activation::Auto, Some(1.0)).await;
        let before = now();
        all_turns(&world.keeper()).await;
        assert_eq!(world.requested(), [(0, 1)]);
        let not_before = world.run(&run).await.not_before.unwrap();
        let pause = not_before.duration_since(before);
        assert!(pause.as_secs() >= 60, "a minute of audio at an hour an hour: {pause:?}");
    });
}

#[test]
fn what_cannot_be_done_is_skipped_and_counted() {
    with_world(|mut world| async move {
        let gone = world.admit(0, 1, "en").await;
        world.admit(1, 1, "de").await;
        world.admit(2, 1, "en").await;
        let key = Key::parse(&format!("default/{gone}")).unwrap();
        world.store.delete(&key).await.unwrap();
        let deleted = world.admit(3, 1, "en").await;
        let run = world
            .start(Wishes { model: Some("tiny.en".into()), ..Wishes::default() }, Activation::Auto)
            .await;
        let fact = streams::Message { event_id: "e".into(), json: "{}".into(), ms: 0, bytes: 0 };
        world.log.delete(deleted.shard(2), deleted, &fact).await.unwrap();
        all_turns(&world.keeper()).await;
        assert_eq!(world.requested(), [(2, 1)]);
        let skipped = world.views.run_progress(run.id).await.unwrap().skipped;
        let told: Vec<String> = skipped.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        assert_eq!(told, ["audio_gone 1", "deleted 1", "model_language 1"]);
    });
}

/// Two projectors may fold the end of a recording before its beginning.
#[test]
fn a_recording_whose_admission_is_on_its_way_is_waited_for() {
    with_world(|mut world| async move {
        // Another projector has the first fact in hand.
        let held = world.hold_back(0).await;
        world.transcribe(0, 0, 1, "en", &["the quick brown fox"]).await;
        let run = world.start(base(), Activation::Auto).await;
        let keeper = world.keeper();
        all_turns(&keeper).await;
        assert!(world.requested().is_empty());
        assert!(world.views.run_progress(run.id).await.unwrap().skipped.is_empty());
        world.views.apply(&[held]).await.unwrap();
        all_turns(&keeper).await;
        assert_eq!(world.requested(), [(0, 1)]);
    });
}

#[test]
fn a_recording_whose_admission_never_comes_is_skipped() {
    with_world(|mut world| async move {
        world.transcribe(0, 0, 1, "en", &["the quick brown fox"]).await;
        let run = world.start(base(), Activation::Auto).await;
        all_turns(&world.keeper()).await;
        assert_eq!(world.views.run_progress(run.id).await.unwrap().skipped["not_admitted"], 1);
    });
}

#[test]
fn a_model_that_nobody_has_fails_the_run_with_the_reason() {
    with_world(|mut world| async move {
        world.admit(0, 1, "en").await;
        let run =
            world.start(Wishes { model: Some("huge".into()), ..Wishes::default() }, Activation::Auto).await;
        let missing_after = Duration::ZERO;
        let options = Options { every: Duration::ZERO, ahead: Duration::from_secs(600), missing_after };
        all_turns(&world.keeper_with(options)).await;
        let failed = world.run(&run).await;
        assert_eq!(failed.state, RunState::Failed);
        let reason = failed.reason.unwrap();
        assert_eq!(reason.code, "unknown_model");
        assert_eq!(reason.message, "no worker has announced the model huge; there are base, tiny.en");
        assert!(world.requested().is_empty());
    });
}

/// After Redis lost its data, workers announce their models one after the other.
#[test]
fn a_run_under_way_waits_for_its_model_to_be_announced_again() {
    with_world(|mut world| async move {
        world.admit(0, 1, "en").await;
        let run = world.start(base(), Activation::Auto).await;
        all_turns(&world.keeper()).await;
        assert_eq!((world.state(&run).await, world.requested()), (RunState::Running, vec![(0, 1)]));

        let announced = world.log.models().await.unwrap();
        world.log = streams::memory::MemoryLog::new(world.log.shards());
        world.log.announce_model(&announced["tiny.en"], Duration::from_secs(60)).await.unwrap();
        let options =
            |missing_after| Options { every: Duration::ZERO, ahead: Duration::from_secs(600), missing_after };
        let keeper = world.keeper_with(options(Duration::from_secs(120)));
        all_turns(&keeper).await;
        assert_eq!(world.state(&run).await, RunState::Running, "the other worker is not there yet");

        world.log.announce_model(&announced["base"], Duration::from_secs(60)).await.unwrap();
        all_turns(&world.keeper_with(options(Duration::ZERO))).await;
        assert_eq!(world.requested(), [(0, 1)], "what was lost is requested again");
        world.transcribe(0, 1, 1, "en", &["the quick brown fox", "and good bye"]).await;
        all_turns(&world.keeper()).await;
        assert_eq!(world.state(&run).await, RunState::Done);
    });
}

#[test]
fn a_run_under_way_whose_model_stays_away_fails() {
    with_world(|mut world| async move {
        world.admit(0, 1, "en").await;
        let run = world.start(base(), Activation::Auto).await;
        all_turns(&world.keeper()).await;
        let announced = world.log.models().await.unwrap();
        world.log = streams::memory::MemoryLog::new(world.log.shards());
        world.log.announce_model(&announced["tiny.en"], Duration::from_secs(60)).await.unwrap();
        let missing_after = Duration::from_millis(50);
        let options = Options { every: Duration::ZERO, ahead: Duration::from_secs(600), missing_after };
        let keeper = world.keeper_with(options);
        all_turns(&keeper).await;
        assert_eq!(world.state(&run).await, RunState::Running);
        tokio::time::sleep(missing_after).await;
        all_turns(&keeper).await;
        assert_eq!(world.run(&run).await.reason.unwrap().code, "unknown_model");
    });
}

#[test]
fn a_cancelled_run_requests_no_more_and_cancels_what_it_requested() {
    with_world(|mut world| async move {
        for n in 0..4 {
            world.admit(n, 4, "en").await;
        }
        let run = world.start(base(), Activation::Auto).await;
        let keeper = world.keeper();
        all_turns(&keeper).await;
        world.project().await;
        world.transcribe(0, 1, 4, "en", &["done in time", "b"]).await;
        assert_eq!(world.requested().len(), 3);
        world.views.cancel_run(&run.tenant, run.id).await.unwrap().unwrap();
        all_turns(&world.keeper()).await;
        assert_eq!(world.told("GenerationCancelled"), 2, "but not the one that is complete");
        world.project().await;
        let ended = world.run(&run).await;
        assert_eq!(ended.state, RunState::Cancelled);
        assert!(ended.ended_at.is_some());
        let visible = async |n| world.views.recording(recording(n)).await.unwrap().unwrap().generation;
        assert_eq!((visible(0).await, visible(1).await), (Some(1), Some(0)));
        let progress = world.views.run_progress(run.id).await.unwrap();
        assert_eq!((progress.complete, progress.cancelled, progress.open()), (1, 2, 0));
        assert!(!world.keeper().turn().await.unwrap(), "nothing is left to do");
    });
}

#[test]
fn a_manual_run_is_seen_once_it_is_activated() {
    with_world(|mut world| async move {
        for n in 0..2 {
            world.admit(n, 1, "en").await;
        }
        let run = world.start(base(), Activation::Manual).await;
        let keeper = world.keeper();
        all_turns(&keeper).await;
        world.project().await;
        for n in 0..2 {
            world.transcribe(n, 1, 1, "en", &["new words", "b"]).await;
        }
        all_turns(&keeper).await;
        assert_eq!(world.state(&run).await, RunState::Done);
        let row = world.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!(row.generation, Some(0), "complete, and not chosen");
        world.views.activate_run(&run.tenant, run.id).await.unwrap().unwrap();
        all_turns(&world.keeper()).await;
        all_turns(&keeper).await;
        world.project().await;
        assert_eq!(world.told("GenerationActivated"), 2);
        let row = world.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!(row.generation, Some(1));
        assert_eq!(world.views.run_progress(run.id).await.unwrap().activated, 2);
        assert!(!world.run(&run).await.activating);
        // Readers may have been led elsewhere since: it can be chosen again.
        world.tell(1, 0, GenerationActivated { by: "somebody".into() }).await;
        world.views.activate_run(&run.tenant, run.id).await.unwrap().unwrap();
        world.views.activate_run(&run.tenant, run.id).await.unwrap().unwrap();
        all_turns(&keeper).await;
        world.project().await;
        assert_eq!(world.told("GenerationActivated"), 2 + 1 + 2);
        let row = world.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!(row.generation, Some(1));
    });
}

#[test]
fn a_request_that_was_lost_is_made_again() {
    with_world(|mut world| async move {
        world.admit(0, 1, "en").await;
        let run = world.start(base(), Activation::Auto).await;
        let options = |missing_after| Options {
            every: Duration::from_millis(10),
            ahead: Duration::from_secs(600),
            missing_after,
        };
        all_turns(&world.keeper_with(options(Duration::ZERO))).await;
        all_turns(&world.keeper_with(options(Duration::ZERO))).await;
        assert_eq!(world.requested(), [(0, 1)], "the log knows that it has the request");
        // Redis comes back empty.
        let lost = std::mem::replace(&mut world.log, streams::memory::MemoryLog::new(2));
        for note in lost.models().await.unwrap().values() {
            world.log.announce_model(note, Duration::from_secs(60)).await.unwrap();
        }
        all_turns(&world.keeper_with(options(Duration::from_secs(120)))).await;
        assert_eq!(world.requested(), [], "it may still come");
        all_turns(&world.keeper_with(options(Duration::ZERO))).await;
        assert_eq!(world.requested(), [(0, 1)]);
        assert_eq!(world.state(&run).await, RunState::Running);
    });
}

#[test]
fn a_request_that_was_lost_and_cannot_be_made_again_ends() {
    with_world(|mut world| async move {
        let id = world.admit(0, 1, "en").await;
        let run = world.start(base(), Activation::Auto).await;
        let options = Options {
            every: Duration::from_millis(10),
            ahead: Duration::from_secs(600),
            missing_after: Duration::ZERO,
        };
        all_turns(&world.keeper_with(options.clone())).await;
        world.project().await;
        world.store.delete(&Key::parse(&format!("default/{id}")).unwrap()).await.unwrap();
        all_turns(&world.keeper_with(options.clone())).await;
        world.project().await;
        assert_eq!(world.state(&run).await, RunState::Running, "whoever has the request will say so");

        let queue = Source::Queue(id.shard(2), Queue::Decode, Lane::Replay);
        let [entry] = world.log.entries(&queue.key(), queue).try_into().unwrap();
        world.log.remove(queue, &entry.id);
        all_turns(&world.keeper_with(options.clone())).await;
        world.project().await;
        all_turns(&world.keeper_with(options)).await;
        let generations = world.views.generations(id).await.unwrap();
        let state = &generations[1].state;
        assert_eq!(state.status, Status::Failed);
        assert_eq!(state.reason.as_ref().unwrap().code, "audio_gone");
        let facts = world.log.facts(id.shard(2)).into_iter();
        let failures: Vec<(u32, u32)> = facts
            .filter_map(|entry| match events::decode(entry.field("event").unwrap()) {
                Ok(Decoded::Known(fact)) if matches!(fact.event, Event::RecordingFailed(_)) => Some(*fact),
                _ => None,
            })
            .map(|fact| (fact.generation, fact.round))
            .collect();
        assert_eq!(failures, [(1, 1)], "above whatever the lost round may still say");
        assert_eq!(world.state(&run).await, RunState::Done);
    });
}
