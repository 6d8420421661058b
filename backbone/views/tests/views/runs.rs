//! Reprocessing runs as people and the keeper ask for them.

use events::*;
use transcript::Status;
use views::{Entry, NewRun, Run, RunState, Selection, Wishes};

use crate::given::*;
use crate::support::{Database, with_database};

/// Recordings 0, 2, 4 and 6 of the default tenant, 1 and 3 of acme: 4 failed, 6 is queued, the others are complete.
async fn library(db: &Database) -> Log {
    let mut log = Log::new(0);
    let mut entries = Vec::new();
    for n in 0..4 {
        entries.extend(log.whole(n, &["The cats were running."]));
    }
    entries.push(log.entry(4, admitted("drop-4", "call.amr")));
    entries.push(log.entry(4, failed()));
    entries.push(log.entry(6, admitted("drop-6", "new.wav")));
    db.apply(&entries).await;
    log
}

async fn made(db: &Database, tenant: &str, selection: Selection) -> Run {
    let new = NewRun {
        tenant: tenant.parse().unwrap(),
        selection,
        wishes: Wishes { model: Some("base".into()), ..Wishes::default() },
        activation: Activation::Auto,
        rate: Some(2.5),
    };
    db.views.create_run(&new).await.unwrap()
}

fn numbers(rows: &[views::RecordingRow]) -> Vec<u32> {
    rows.iter().map(|row| (0..9).find(|&n| recording(n) == row.id).unwrap()).collect()
}

#[test]
fn a_selection_holds_what_it_says_and_nothing_of_another_tenant() {
    with_database(|db| async move {
        library(&db).await;
        let selected = async |tenant: &str, selection: Selection| {
            let run = made(&db, tenant, selection).await;
            let rows = db.views.next_recordings(&run, 10).await.unwrap();
            assert_eq!(run.selected.recordings, rows.len() as u64);
            numbers(&rows)
        };
        let all = Selection::default;
        assert_eq!(selected("default", all()).await, [0, 2, 4]);
        assert_eq!(selected("acme", all()).await, [1, 3]);
        assert_eq!(selected("nobody", all()).await, [0; 0]);
        let others = Selection { ids: vec![recording(1), recording(2)], ..all() };
        assert_eq!(selected("default", others).await, [2], "an id of another tenant is nobody's");
        let complete = Selection { status: vec![Status::Complete], ..all() };
        assert_eq!(selected("default", complete).await, [0, 2]);
        let queued = Selection { status: vec![Status::Queued], ..all() };
        assert_eq!(selected("default", queued).await, [6]);
        let late = Selection { from: Some(at(60_000)), until: Some(at(200_000)), ..all() };
        assert_eq!(selected("default", late).await, [2]);
        let model = |name: &str| Selection { model: Some(name.into()), ..all() };
        assert_eq!(selected("default", model("tiny.en")).await, [0, 2, 4]);
        assert_eq!(selected("default", model("base\0")).await, [0; 0]);
    });
}

#[test]
fn a_run_goes_on_behind_the_last_recording_and_numbers_generations_once() {
    with_database(|db| async move {
        let mut log = library(&db).await;
        let run = made(&db, "default", Selection::default()).await;
        let [row] = db.views.next_recordings(&run, 1).await.unwrap().try_into().unwrap();
        let first = db.views.reserve_generation(run.id, &row).await.unwrap().unwrap();
        assert_eq!((first.generation, first.baseline), (1, Some(0)));
        let again = db.views.reserve_generation(run.id, &row).await.unwrap();
        assert_eq!(again, Some(first), "the number stays");
        let other = made(&db, "default", Selection::default()).await;
        let second = db.views.reserve_generation(other.id, &row).await.unwrap().unwrap();
        assert_eq!(second.generation, 2, "two runs share no number");
        let next = log.envelope(0, 7, 0, requested(Activation::Manual));
        db.apply(&[Entry::of(&next).unwrap()]).await;
        let third = made(&db, "default", Selection::default()).await;
        let third = db.views.reserve_generation(third.id, &row).await.unwrap().unwrap();
        assert_eq!(third.generation, 8, "above whatever the log knows");

        db.views.note_requested(run.id, &first, Some(at(5))).await.unwrap();
        let run = db.views.run(&Tenant::default(), run.id).await.unwrap().unwrap();
        assert_eq!((run.not_before, run.rate), (Some(at(5)), Some(2.5)));
        let rows = db.views.next_recordings(&run, 10).await.unwrap();
        assert_eq!(numbers(&rows), [2, 4]);
        db.views.note_skipped(run.id, &rows[0], "audio_gone").await.unwrap();
        let progress = db.views.run_progress(run.id).await.unwrap();
        assert_eq!((progress.requested, progress.open(), progress.skipped["audio_gone"]), (1, 1, 1));
        let acme: Tenant = "acme".parse().unwrap();
        assert!(db.views.run(&acme, run.id).await.unwrap().is_none());
        assert!(db.views.cancel_run(&acme, run.id).await.unwrap().is_none());
        let cancelled = db.views.cancel_run(&Tenant::default(), run.id).await.unwrap().unwrap();
        assert_eq!(cancelled.state, RunState::Cancelled);
        assert_eq!(db.views.reserve_generation(run.id, &rows[1]).await.unwrap(), None, "it requests no more");
        assert_eq!(db.views.generations_to_cancel(run.id, 9).await.unwrap(), [first]);
        db.views.end_run(run.id, RunState::Done, None).await.unwrap();
        let ended = db.views.run(&Tenant::default(), run.id).await.unwrap().unwrap();
        assert_eq!(ended.state, RunState::Cancelled, "whoever ends it later");
    });
}

#[test]
fn runs_come_in_pages_the_newest_first() {
    with_database(|db| async move {
        let mut made_ids = Vec::new();
        for _ in 0..5 {
            made_ids.push(made(&db, "default", Selection::default()).await.id);
        }
        made(&db, "acme", Selection::default()).await;
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = db.views.runs(&Tenant::default(), after.as_ref(), 2).await.unwrap();
            found.extend(page.items.iter().map(|run| run.id));
            after = match page.next {
                Some(key) => Some(key.to_string().parse().unwrap()),
                None => break,
            };
        }
        found.reverse();
        assert_eq!(found, made_ids);
    });
}
