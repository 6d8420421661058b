//! What nobody should send: each gets an answer, harms nothing else and leaves nothing behind.

use e2e::word_errors;

use crate::{PATIENCE, on_a_stack};

/// A wav header that claims `claimed` bytes of 16 kHz mono, and brings `samples`.
fn wav(claimed: u32, samples: &[u8]) -> Vec<u8> {
    let mut wav =
        b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data".to_vec();
    wav.extend(claimed.to_le_bytes());
    wav.extend(samples);
    wav
}

/// What it is, its bytes, its other fields, and the status and code (empty: any) it must end with.
type Case<'a> = (&'a str, &'a [u8], Vec<(&'a str, &'a str)>, &'a str, &'a str);

#[test]
fn bad_drops_are_answered_and_others_go_on() {
    on_a_stack(&[], |pipeline| async move {
        let clip = pipeline.clips[0].clone();
        let sound = clip.bytes();
        let silence = wav(64_000, &[0; 64_000]);
        let claims_hours = wav(u32::MAX - 100, &[0; 32_000]);
        let cases: Vec<Case> = vec![
            ("empty", b"", vec![], "rejected", "empty_audio"),
            ("text", b"Dear sir or madam, this is no audio at all.", vec![], "rejected", "not_audio"),
            ("web page", b"<!DOCTYPE html><html><body>404</body></html>", vec![], "rejected", "not_audio"),
            ("silence", &silence, vec![], "complete", ""),
            ("claims hours", &claims_hours, vec![], "complete", ""),
            ("truncated", &sound[..sound.len() / 2], vec![], "complete", ""),
            ("head only", &sound[..30], vec![], "failed", ""),
            (
                "wrong extension",
                &sound,
                vec![("name", "talk.mp3"), ("key", "wrong-extension")],
                "complete",
                "",
            ),
            ("unknown model", &sound, vec![("model", "enormous")], "rejected", "invalid_drop"),
            ("unknown language", &sound, vec![("language", "klingon")], "rejected", "invalid_drop"),
            ("language the model lacks", &sound, vec![("language", "de")], "rejected", "invalid_drop"),
            ("tenant with a slash", &sound, vec![("tenant", "../etc")], "rejected", "invalid_drop"),
            ("outside the roots", b"", vec![("uri", "file:///etc/passwd")], "rejected", ""),
            ("unknown task", &sound, vec![("task", "summarise")], "rejected", "invalid_drop"),
        ];
        let mut drops = Vec::new();
        for (what, audio, fields, status, code) in &cases {
            drops.push((what, status, code, pipeline.drop(audio, fields).await?));
        }
        let good = pipeline.drop(&sound, &[("key", "good")]).await?;
        let mut ids = std::collections::HashMap::new();
        for (what, status, code, drop) in drops {
            let recording = pipeline.ended(&drop, PATIENCE).await?;
            ids.insert(*what, recording["id"].clone());
            assert_eq!(recording["status"], **status, "{what}: {recording}");
            if *status != "complete" {
                let reason = &recording["reason"];
                assert!(code.is_empty() || reason["code"] == **code, "{what}: {recording}");
                let message = reason["message"].as_str().unwrap_or_default();
                assert!(
                    message.len() > 15 && message.contains(' '),
                    "{what} is told in a sentence: {recording}"
                );
            }
        }
        let recording = pipeline.ended(&good, PATIENCE).await?;
        assert_eq!(recording["status"], "complete");
        let text = pipeline.text(&recording).await?;
        let errors = word_errors(&clip.text, &text);
        assert!(errors * 100 <= clip.text.split_whitespace().count() * 15, "{errors} words wrong: {text}");
        // What failed is tried again, and fails again; what became a transcript is found.
        for (what, audio, status) in
            [("head only", &sound[..30], "failed"), ("truncated", &sound[..sound.len() / 2], "complete")]
        {
            let drop = pipeline.drop(audio, &[]).await?;
            let recording = pipeline.ended(&drop, PATIENCE).await?;
            assert_eq!(recording["status"], status, "{what} again: {recording}");
            assert_eq!(recording["id"] == ids[what], status == "complete", "{what} again: {recording}");
        }
        pipeline.settled(PATIENCE).await?;
        assert_eq!(pipeline.dead_letters().await?, 0, "bad audio is a fact, not a dead letter");
        Ok(pipeline)
    });
}

/// An entry that is no event must not stop the events behind it.
#[test]
fn malformed_work_goes_to_the_dead_letters_and_others_go_on() {
    on_a_stack(&[], |pipeline| async move {
        for queue in ["vf:{00}:decode:batch", "vf:{00}:segments:batch", "vf:{00}:log"] {
            let url = pipeline.stack.redis_url();
            let fields = ["event", "{\"type\":\"RecordingAdmitted\"", "event_id", "x"];
            let added = tokio::process::Command::new("redis-cli")
                .args(["-u", &url, "XADD", queue, "*"])
                .args(fields)
                .output()
                .await?;
            assert!(added.status.success());
        }
        let clip = pipeline.clips[1].clone();
        let drop = pipeline.drop(&clip.bytes(), &[]).await?;
        assert_eq!(pipeline.ended(&drop, PATIENCE).await?["status"], "complete");
        pipeline.settled(PATIENCE).await?;
        assert_eq!(pipeline.dead_letters().await?, 3);
        Ok(pipeline)
    });
}
