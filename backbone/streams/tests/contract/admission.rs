//! How drops come in: handed in, admitted once, recognised when they come again.

use events::{Claim, Lane, Tenant};
use streams::{Admission, Admit, Backlog, DropOutcome, Message, Source, keys};

use super::fixture::*;

on_both_logs!(
    a_drop_waits_for_ingest_as_it_was_handed_in,
    an_admission_appends_its_facts_and_its_work_once,
    a_second_drop_of_the_same_finds_the_first,
    a_rejection_needs_no_claim_and_brings_no_work,
    a_deleted_recording_is_not_admitted_and_frees_its_claim,
    a_drop_is_deleted_by_its_own_tenant_alone,
    what_became_of_a_drop_can_be_read,
);

fn admit(number: u32, claim: Option<&str>, fingerprint: &str) -> Admit {
    let work = requested(number);
    Admit {
        shard: SHARD,
        recording: work.recording,
        claim: claim.map(|key| Claim::by_key(&Tenant::default(), key)),
        fingerprint: fingerprint.to_owned(),
        facts: [fact(&work, 0), fact(&work, 1)].iter().map(|fact| Message::fact(fact).unwrap()).collect(),
        work: Some((DECODE, Message::work(&work, 1000, 0).unwrap())),
    }
}

async fn a_drop_waits_for_ingest_as_it_was_handed_in(bench: Bench) {
    let fields = vec![
        ("name".to_owned(), "talk.mp3".into()),
        ("audio".to_owned(), bytes::Bytes::from_static(&[0xff, 0xfb, 0x00, 0x0a])),
        ("name".to_owned(), "again".into()),
    ];
    let id = bench.log.submit(Lane::Rt, &fields).await.unwrap();
    assert_eq!(bench.backlog(Source::Ingest(Lane::Batch)).await.entries, 0);
    let taken = bench.log.take("ingest", "a", Source::Ingest(Lane::Rt), 9).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!((&taken[0].id, &taken[0].fields), (&id, &fields));
}

async fn an_admission_appends_its_facts_and_its_work_once(bench: Bench) {
    let admit = admit(1, Some("k"), "f1");
    assert_eq!(bench.log.admit(&admit).await.unwrap(), Admission::Admitted);
    assert_eq!(bench.log.admit(&admit).await.unwrap(), Admission::Repeated);
    assert_eq!(bench.seqs(), [1, 2]);
    assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 1, audio_ms: 1000, bytes: 0 });
    let taken = bench.take("a", 9).await;
    assert_eq!(taken[0].identity(), requested(1).event_id.to_string());
}

async fn a_second_drop_of_the_same_finds_the_first(bench: Bench) {
    bench.log.admit(&admit(1, Some("k"), "f1")).await.unwrap();
    let expected = Admission::Duplicate { recording: recording(1), fingerprint: "f1".to_owned() };
    assert_eq!(bench.log.admit(&admit(2, Some("k"), "f2")).await.unwrap(), expected);
    assert_eq!(bench.log.admit(&admit(2, Some("k"), "f2")).await.unwrap(), expected, "asked again");
    assert_eq!(bench.log.admit(&admit(1, Some("k"), "f1")).await.unwrap(), Admission::Repeated);
    assert_eq!(bench.log.admit(&admit(3, Some("other"), "f1")).await.unwrap(), Admission::Admitted);
    assert_eq!(bench.seqs(), [1, 2, 3, 4]);
    assert_eq!(bench.backlog(DECODE).await.entries, 2);
}

async fn a_rejection_needs_no_claim_and_brings_no_work(bench: Bench) {
    let rejection = Admit { work: None, ..admit(1, None, "") };
    assert_eq!(bench.log.admit(&rejection).await.unwrap(), Admission::Admitted);
    assert_eq!(bench.log.admit(&rejection).await.unwrap(), Admission::Repeated);
    assert_eq!(bench.seqs(), [1, 2]);
    assert_eq!(bench.backlog(DECODE).await, Backlog::default());
    let holder = admit(2, Some("k"), "f");
    assert_eq!(bench.log.admit(&holder).await.unwrap(), Admission::Admitted, "it held no claim");
}

async fn a_deleted_recording_is_not_admitted_and_frees_its_claim(bench: Bench) {
    bench.log.admit(&admit(1, Some("k"), "f1")).await.unwrap();
    bench.mark_deleted(recording(1)).await;
    bench.mark_deleted(recording(3)).await;
    let before = bench.seqs().len();
    assert_eq!(bench.log.admit(&admit(3, None, "")).await.unwrap(), Admission::Deleted);
    assert_eq!(bench.log.admit(&admit(1, Some("k"), "f1")).await.unwrap(), Admission::Deleted);
    assert_eq!(bench.seqs().len(), before, "nothing was written");
    assert_eq!(bench.log.admit(&admit(2, Some("k"), "f2")).await.unwrap(), Admission::Admitted);
    let held = Admission::Duplicate { recording: recording(2), fingerprint: "f2".to_owned() };
    assert_eq!(bench.log.admit(&admit(4, Some("k"), "f2")).await.unwrap(), held);
}

async fn a_drop_is_deleted_by_its_own_tenant_alone(bench: Bench) {
    let (acme, other): (Tenant, Tenant) = ("acme".parse().unwrap(), Tenant::default());
    assert!(!bench.log.is_drop_deleted("7-0", &acme).await.unwrap());
    bench.log.mark_drop_deleted("7-0", &acme).await.unwrap();
    assert!(bench.log.is_drop_deleted("7-0", &acme).await.unwrap());
    assert!(!bench.log.is_drop_deleted("7-0", &other).await.unwrap());
    assert!(!bench.log.is_drop_deleted("8-0", &acme).await.unwrap());

    let named = vec![("audio".to_owned(), "RIFF".into()), ("tenant".to_owned(), "acme".into())];
    let with = bench.log.submit(Lane::Batch, &named).await.unwrap();
    let without = bench.log.submit(Lane::Batch, &named[..1]).await.unwrap();
    assert_eq!(bench.log.waiting_drop(&with).await.unwrap().as_deref(), Some("acme"));
    assert_eq!(bench.log.waiting_drop(&without).await.unwrap().as_deref(), Some(""));
    let rt = |entry: &str| keys::drop_id(Source::Ingest(Lane::Rt), entry);
    for nobody in [&*rt(&with), "", "x", "rt-", "7777777-0", "-", "+", "1-x", "0", "99999999999999999999-0"] {
        assert_eq!(bench.log.waiting_drop(nobody).await.unwrap(), None, "{nobody}");
    }
    let hurried = bench.log.submit(Lane::Rt, &named).await.unwrap();
    assert_eq!(bench.log.waiting_drop(&rt(&hurried)).await.unwrap().as_deref(), Some("acme"));
    let own = [named, vec![("drop".to_owned(), "call-17".into())]].concat();
    let own = bench.log.submit(Lane::Rt, &own).await.unwrap();
    assert_eq!(bench.log.waiting_drop(&rt(&own)).await.unwrap(), None, "ingest knows it by its own id");
}

async fn what_became_of_a_drop_can_be_read(bench: Bench) {
    assert_eq!(bench.log.drop_outcome("1-0").await.unwrap(), None);
    let admitted = DropOutcome { recording: Some(recording(1)), duplicate: false, cause: None };
    let rejected = DropOutcome { recording: None, duplicate: false, cause: Some(cause("no_audio")) };
    for (id, outcome) in [("1-0", &rejected), ("1-0", &admitted), ("2-0", &rejected)] {
        bench.log.set_drop_outcome(id, outcome).await.unwrap();
        assert_eq!(bench.log.drop_outcome(id).await.unwrap().as_ref(), Some(outcome));
    }
    assert_eq!(bench.log.drop_outcome("1-0").await.unwrap(), Some(admitted));
}
