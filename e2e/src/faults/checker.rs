//! Judges what is left of a run, by values alone. Each function is one invariant and returns what breaks it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use events::{Decoded, Envelope, EventId, RecordingId};
use transcript::{Outcome, Recording, State};

use super::history::{
    Fact, Observed, Offer, Recorded, RecordingRow, Said, SegmentRow, Standing, TranscriptRow, Way,
};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant it breaks: `I1` to `I8`.
    pub invariant: &'static str,
    /// What was found.
    pub what: String,
}

/// What was lost, where losing it is allowed and said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What must not be.
    pub violations: Vec<Violation>,
    /// Raw drops that went with the unsynced tail of Redis.
    pub lost_drops: u64,
    /// Places in the logs that had two events.
    pub conflicts: u64,
    /// Segments transcribed more than once.
    pub done_twice: u64,
}

/// Judges everything.
pub fn judge(recorded: &Recorded, observed: &Observed) -> Verdict {
    let mut violations = Vec::new();
    let lost_drops = nothing_accepted_is_lost(recorded, observed, &mut violations);
    every_text_is_right(recorded, observed, &mut violations);
    let conflicts = each_place_has_one_event(recorded, observed, &mut violations);
    sums_are_those_of_the_rows(observed, &mut violations);
    nothing_is_left_over(recorded, observed, &mut violations);
    tables_are_the_fold(observed, &mut violations);
    let done_twice = little_is_done_twice(recorded, observed, &mut violations);
    deleted_is_gone(recorded, observed, &mut violations);
    Verdict { violations, lost_drops, conflicts, done_twice }
}

/// I1: what was accepted is one complete recording; what was refused is none; nothing stands still. A raw drop that Redis
/// forgot again, and said so by going back in time, may be missing: the number of those is returned.
pub fn nothing_accepted_is_lost(
    recorded: &Recorded,
    observed: &Observed,
    violations: &mut Vec<Violation>,
) -> u64 {
    let mut broken = |what| violations.push(Violation { invariant: "I1", what });
    let mut lost = 0;
    let by_name = by_name(observed);
    for offer in &recorded.offers {
        let Offer { key, way, .. } = offer;
        let rows = by_name.get(key.as_str()).map_or(&[][..], Vec::as_slice);
        if rows.len() > 1 && recorded.losses.is_empty() {
            broken(format!("{key} became {} recordings", rows.len()));
        }
        if offer.was_refused() && !rows.is_empty() {
            broken(format!("{key} was refused and is a recording all the same"));
        }
        let Some(accepted_ms) = offer.accepted_ms() else { continue };
        if offer.may_be_deleted() {
            continue;
        }
        if rows.iter().any(|row| row.standing.status == "complete") {
            continue;
        }
        if *way == Way::Raw && recorded.lost_at(accepted_ms) && rows.is_empty() {
            lost += 1;
            continue;
        }
        match rows {
            [] => broken(format!("{key} ({way:?}) was accepted at {accepted_ms} ms and is no recording")),
            rows => {
                let is: Vec<&str> = rows.iter().map(|row| row.standing.status.as_str()).collect();
                broken(format!("{key} ({way:?}, accepted at {accepted_ms} ms) is {is:?}, not complete"));
            }
        }
    }
    lost
}

/// I2: a complete transcript has exactly the segments that its recording's audio has, each once and with its text; what
/// was to be transcribed again has a complete transcript of a later generation.
pub fn every_text_is_right(recorded: &Recorded, observed: &Observed, violations: &mut Vec<Violation>) {
    let mut broken = |what| violations.push(Violation { invariant: "I2", what });
    let mut segments: HashMap<RecordingId, Vec<&SegmentRow>> = HashMap::new();
    for row in &observed.segments {
        segments.entry(row.recording).or_default().push(row);
    }
    let mut transcripts: HashMap<RecordingId, Vec<&TranscriptRow>> = HashMap::new();
    for row in &observed.transcripts {
        transcripts.entry(row.recording).or_default().push(row);
    }
    let by_name = by_name(observed);
    for offer in &recorded.offers {
        let rows = by_name.get(offer.key.as_str()).map_or(&[][..], Vec::as_slice);
        for row in rows {
            let there = segments.get(&row.id).map_or(&[][..], Vec::as_slice);
            let is_right = |segment: &&&SegmentRow| offer.said_in(segment.generation).contains(&segment.said);
            if let Some(wrong) = there.iter().find(|segment| !is_right(segment)) {
                let said = offer.said_in(wrong.generation);
                broken(format!("{}: {wrong:?} was never said; said was {said:?}", offer.key));
                continue;
            }
            let of_row = transcripts.get(&row.id).into_iter().flatten();
            let complete = of_row.filter(|of_row| of_row.standing.status == "complete");
            let mut generations: BTreeSet<Option<u32>> =
                complete.map(|of_row| Some(of_row.generation)).collect();
            if row.standing.status == "complete" {
                // What readers see, whatever its transcript says of itself.
                generations.insert(row.generation);
            }
            for generation in generations {
                let said = there.iter().filter(|segment| Some(segment.generation) == generation).count();
                let (key, all) = (&offer.key, offer.said_in(generation.unwrap_or(0)).len());
                if said != all {
                    broken(format!("{key}: {said} of {all} segments in generation {generation:?}"));
                }
            }
        }
        let again = |row: &&RecordingRow| {
            let of_row = transcripts.get(&row.id).map_or(&[][..], Vec::as_slice);
            of_row.iter().any(|of_row| of_row.generation > 0 && of_row.standing.status == "complete")
        };
        if offer.was_replayed() && !rows.is_empty() && !rows.iter().any(again) {
            broken(format!("{} was to be transcribed again and is not", offer.key));
        }
    }
}

/// I3: each place in a log has one event and each event one place, and no place is empty but declared so. Where Redis
/// went back in time a place may have had two, but only noted as such: the number of those is returned.
pub fn each_place_has_one_event(
    recorded: &Recorded,
    observed: &Observed,
    violations: &mut Vec<Violation>,
) -> u64 {
    let mut broken = |what| violations.push(Violation { invariant: "I3", what });
    let mut events: BTreeMap<(u16, u64), BTreeSet<EventId>> = BTreeMap::new();
    let mut places: HashMap<EventId, BTreeSet<(u16, u64)>> = HashMap::new();
    for Fact { shard, seq, event_id, .. } in observed.archive.iter().chain(&observed.log) {
        events.entry((*shard, *seq)).or_default().insert(*event_id);
        places.entry(*event_id).or_default().insert((*shard, *seq));
    }
    let mut conflicts = 0;
    for (place, ids) in events.iter().filter(|(_, ids)| ids.len() > 1) {
        conflicts += 1;
        if recorded.losses.is_empty() {
            broken(format!("{place:?} has {} events: {ids:?}", ids.len()));
        } else if !observed.conflicts.contains(place) {
            broken(format!("{place:?} had {} events and nobody noticed: {ids:?}", ids.len()));
        }
    }
    if recorded.losses.is_empty() {
        for (id, places) in places.iter().filter(|(_, places)| places.len() > 1) {
            broken(format!("event {id} was appended {} times: {places:?}", places.len()));
        }
    }
    if recorded.losses.is_empty() {
        for (shard, first, last) in &observed.gaps {
            broken(format!("shard {shard} lost {first} to {last}, and nothing went back in time"));
        }
    }
    if !observed.erased.is_empty() && !recorded.offers.iter().any(Offer::may_be_deleted) {
        broken(format!("{:?} were erased, and nothing was deleted", observed.erased));
    }
    let shards: BTreeSet<u16> = events.keys().map(|(shard, _)| *shard).collect();
    for shard in shards {
        let last = events.range((shard, 0)..=(shard, u64::MAX)).next_back().map_or(0, |(place, _)| place.1);
        let within = |ranges: &[(u16, u64, u64)], seq| {
            ranges.iter().any(|range| range.0 == shard && (range.1..=range.2).contains(&seq))
        };
        // After a rollback the event that comes again may have a second place, and is archived at its first.
        let declared = |seq| {
            within(&observed.gaps, seq)
                || within(&observed.erased, seq)
                || (!recorded.losses.is_empty() && within(&observed.seen, seq))
        };
        let missing: Vec<u64> =
            (1..=last).filter(|&seq| !events.contains_key(&(shard, seq)) && !declared(seq)).collect();
        if !missing.is_empty() {
            broken(format!("shard {shard} has nothing at {missing:?} and nobody declared it"));
        }
    }
    conflicts
}

/// I4: what recordings and transcripts say of their segments is what the rows of the segments say.
pub fn sums_are_those_of_the_rows(observed: &Observed, violations: &mut Vec<Violation>) {
    let mut broken = |what| violations.push(Violation { invariant: "I4", what });
    let mut sums: HashMap<(RecordingId, u32), (u64, u64, u64)> = HashMap::new();
    for row in &observed.segments {
        let sum = sums.entry((row.recording, row.generation)).or_default();
        match row.cause_code {
            None => sum.0 += 1,
            Some(_) => sum.1 += 1,
        }
        sum.2 += row.said.end_ms - row.said.start_ms;
    }
    let mut standings: HashMap<(RecordingId, u32), &Standing> = HashMap::new();
    for row in &observed.transcripts {
        let Standing { status, segments, transcribed_segments, failed_segments, .. } = &row.standing;
        let (done, failed, _) = sums.get(&(row.recording, row.generation)).copied().unwrap_or_default();
        if (done, failed) != (*transcribed_segments, *failed_segments) {
            broken(format!(
                "{} generation {}: says {transcribed_segments} done and {failed_segments} failed, has {done} and {failed}",
                row.recording, row.generation
            ));
        }
        if status == "complete" && *segments != Some(done + failed) {
            broken(format!("{} is complete with {} of {segments:?}", row.recording, done + failed));
        }
        standings.insert((row.recording, row.generation), &row.standing);
    }
    for row in &observed.recordings {
        let Some(generation) = row.generation else { continue };
        match standings.get(&(row.id, generation)) {
            Some(standing) if **standing == row.standing => {}
            other => broken(format!(
                "{} says {:?}, its generation {generation} says {other:?}",
                row.id, row.standing
            )),
        }
    }
}

/// I5: no work, no pending entry, no speech and no cursor is left; every dead letter was planted, and each planted
/// entry is one; no program crashed by itself.
pub fn nothing_is_left_over(recorded: &Recorded, observed: &Observed, violations: &mut Vec<Violation>) {
    let mut broken = |what| violations.push(Violation { invariant: "I5", what });
    for line in observed.left.iter().chain(&observed.crashes) {
        broken(line.clone());
    }
    for dead in &observed.dead {
        if !recorded.planted.iter().any(|planted| dead.fields.contains(&planted.mark)) {
            broken(format!("{} gave up what nobody spoiled ({}): {}", dead.stage, dead.code, dead.fields));
        }
    }
    for planted in &recorded.planted {
        let letters = observed.dead.iter().filter(|dead| dead.fields.contains(&planted.mark)).count();
        let may_be_lost = recorded.losses.iter().any(|loss| loss.to_ms >= planted.at_ms);
        if letters != 1 && !may_be_lost {
            broken(format!("{} is {letters} dead letters", planted.mark));
        }
    }
}

/// I6: folding all facts again gives the rows.
pub fn tables_are_the_fold(observed: &Observed, violations: &mut Vec<Violation>) {
    let mut broken = |what| violations.push(Violation { invariant: "I6", what });
    let mut envelopes: BTreeMap<RecordingId, Vec<Envelope>> = BTreeMap::new();
    let mut seen: BTreeSet<(RecordingId, uuid::Uuid)> = BTreeSet::new();
    for fact in observed.archive.iter().chain(&observed.log) {
        match events::decode(fact.json.as_bytes()) {
            Ok(Decoded::Known(envelope)) => {
                if seen.insert((envelope.recording, envelope.event_id.as_uuid())) {
                    envelopes.entry(envelope.recording).or_default().push(*envelope);
                }
            }
            Ok(_) => {}
            Err(error) => broken(format!("{} at {}/{}: {error}", fact.event_id, fact.shard, fact.seq)),
        }
    }
    let mut rows: HashMap<RecordingId, &RecordingRow> = HashMap::new();
    for row in &observed.recordings {
        if rows.insert(row.id, row).is_some() {
            broken(format!("{} has two rows", row.id));
        }
    }
    let mut segments: BTreeMap<RecordingId, Vec<&SegmentRow>> = BTreeMap::new();
    for row in &observed.segments {
        segments.entry(row.recording).or_default().push(row);
    }
    for row in rows.keys().filter(|id| !envelopes.contains_key(id)) {
        broken(format!("{row} is a row and no event tells of it"));
    }
    for (id, envelopes) in &envelopes {
        let Some(recording) = Recording::fold(envelopes) else { continue };
        let Some(row) = rows.get(id) else {
            broken(format!("{id} has {} events and no row", envelopes.len()));
            continue;
        };
        let folded = RecordingRow {
            id: *id,
            drop_id: recording.facts.drop_id.as_ref().map(|known| known.fact.clone()),
            name: recording.facts.name().map(str::to_owned),
            generation: recording.visible(),
            standing: standing(&recording.state()),
        };
        if **row != folded {
            broken(format!("{id} is {row:?}, folded it is {folded:?}"));
        }
        let mut there: Vec<&SegmentRow> = segments.remove(id).unwrap_or_default();
        there.sort_by_key(|row| (row.generation, row.said.channel, row.said.index));
        let folded = folded_segments(&recording);
        if there.len() != folded.len() || there.iter().zip(&folded).any(|(row, folded)| *row != folded) {
            broken(format!("{id} has the segments {there:?}, folded {folded:?}"));
        }
    }
}

/// I7: a fault makes no more work be done again than was in hand, and than Redis forgot. Returns how much was.
pub fn little_is_done_twice(
    recorded: &Recorded,
    observed: &Observed,
    violations: &mut Vec<Violation>,
) -> u64 {
    let again: u64 = observed.work.values().map(|times| times.saturating_sub(1)).sum();
    let forgotten: u64 = recorded.losses.iter().map(|loss| loss.facts).sum();
    let allowed = recorded.faults * recorded.in_hand + forgotten;
    if again > allowed {
        let what = format!("{again} segments were transcribed again; {allowed} are explained");
        violations.push(Violation { invariant: "I7", what });
    }
    again
}

/// I8: what was deleted is gone: no row has its name, no row, fact or dead letter its words, and the store nothing of it,
/// whatever Redis forgot.
pub fn deleted_is_gone(recorded: &Recorded, observed: &Observed, violations: &mut Vec<Violation>) {
    let mut broken = |what| violations.push(Violation { invariant: "I8", what });
    let by_name = by_name(observed);
    let facts = || observed.archive.iter().chain(&observed.log).map(|fact| ("fact", &fact.json));
    for offer in &recorded.offers {
        let Some(deleted_ms) = offer.deleted_ms() else { continue };
        let Offer { key, way, .. } = offer;
        if let Some(rows) = by_name.get(key.as_str()) {
            let is: Vec<&str> = rows.iter().map(|row| row.standing.status.as_str()).collect();
            broken(format!("{key} ({way:?}) was deleted at {deleted_ms} ms and is {is:?}"));
        }
        let of_drop = |row: &&RecordingRow| row.drop_id.as_deref() == offer.drop_id();
        let row = observed.recordings.iter().find(of_drop);
        if let Some(row) = row.filter(|row| row.standing.status != "deleted") {
            broken(format!("{key} ({way:?}) was deleted at {deleted_ms} ms: {row:?}"));
        }
        let rows = observed.segments.iter().map(|row| ("segment", &row.said.text));
        let dead = observed.dead.iter().map(|dead| ("dead letter", &dead.fields));
        let places = facts().chain(rows).chain(dead);
        for (place, text) in places {
            let mut said = offer.said.iter().chain(&offer.said_again);
            if text.contains(key.as_str()) || said.any(|said| text.contains(&said.text)) {
                broken(format!("{key} ({way:?}) was deleted at {deleted_ms} ms and is in a {place}: {text}"));
            }
        }
        let names = row.map(|row| row.id.to_string()).into_iter().chain(offer.drop_id().map(str::to_owned));
        for name in names {
            if let Some(file) = observed.stored.iter().find(|file| file.contains(&name)) {
                broken(format!("{key} ({way:?}) was deleted at {deleted_ms} ms and has the file {file}"));
            }
        }
    }
}

fn by_name(observed: &Observed) -> HashMap<&str, Vec<&RecordingRow>> {
    let mut by_name: HashMap<&str, Vec<&RecordingRow>> = HashMap::new();
    for row in &observed.recordings {
        by_name.entry(row.name.as_deref().unwrap_or_default()).or_default().push(row);
    }
    by_name
}

fn standing(state: &State) -> Standing {
    Standing {
        status: state.status.as_str().to_owned(),
        reason_code: state.reason.as_ref().map(|cause| cause.code.clone()),
        audio_ms: state.audio_ms,
        decoded_ms: state.decoded_ms,
        transcribed_ms: state.transcribed_ms,
        segments: state.segments,
        transcribed_segments: state.transcribed_segments,
        failed_segments: state.failed_segments,
        language: state.language.clone(),
    }
}

fn folded_segments(recording: &Recording) -> Vec<SegmentRow> {
    let mut rows = Vec::new();
    for &generation in recording.generations().keys() {
        let Some(transcript) = recording.transcript(Some(generation)) else { continue };
        rows.extend(transcript.segments.iter().map(|segment| {
            let (text, cause_code) = match &segment.outcome {
                Outcome::Transcribed { text, .. } => (text.clone(), None),
                Outcome::Failed { cause, .. } => (String::new(), Some(cause.code.clone())),
            };
            SegmentRow {
                recording: recording.id,
                generation,
                round: segment.round,
                event_id: segment.event_id,
                said: Said {
                    channel: segment.channel,
                    index: segment.index,
                    start_ms: segment.start_ms,
                    end_ms: segment.end_ms,
                    text,
                },
                cause_code,
            }
        }));
    }
    rows.sort_by_key(|row| (row.generation, row.said.channel, row.said.index));
    rows
}

#[cfg(test)]
mod tests;
