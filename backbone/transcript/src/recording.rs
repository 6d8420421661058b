//! The fold: what is known of a recording, in whatever order its events came.

use std::collections::BTreeMap;

use events::{
    Activation, Envelope, Event, RecordingAdmitted, RecordingDeleted, RecordingId, RecordingRejected, Tenant,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fact::Known;
use crate::generation::{GenerationFacts, State, Status, Tally};
use crate::segment::Segment;
use crate::transcript::Transcript;

/// What is known of a recording besides its transcriptions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordingFacts {
    /// The drop it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_id: Option<Known<String>>,
    /// It was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<Known<RecordingAdmitted>>,
    /// It was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Known<RecordingRejected>>,
    /// It is gone. Everything else but the drop id is then forgotten, and stays so whatever comes after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Known<RecordingDeleted>>,
    /// The generation that somebody chose last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<Known<u32>>,
}

impl RecordingFacts {
    /// Takes in an event of this recording. Any order and any number of repeats give the same facts.
    pub fn absorb(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::RecordingAdmitted(admitted) => {
                Known::new(envelope, admitted.drop_id.clone()).settle(&mut self.drop_id);
                Known::new(envelope, admitted.clone()).settle(&mut self.admitted);
            }
            Event::RecordingRejected(rejected) => {
                Known::new(envelope, rejected.drop_id.clone()).settle(&mut self.drop_id);
                Known::new(envelope, rejected.clone()).settle(&mut self.rejected);
            }
            Event::RecordingDeleted(deleted) => {
                Known::new(envelope, deleted.clone()).settle(&mut self.deleted)
            }
            Event::GenerationActivated(_) => {
                // The last choice counts, and a choice has no rounds: time decides.
                let chosen = Known::new(envelope, envelope.generation);
                let weight = |known: &Known<u32>| (known.occurred_at, known.event_id);
                if self.activated.as_ref().is_none_or(|there| weight(there) < weight(&chosen)) {
                    self.activated = Some(chosen);
                }
            }
            _ => {}
        }
        if let Some(deleted) = &self.deleted {
            (self.admitted, self.rejected, self.activated) = (None, None, None);
            // What the deletion itself says, because it is all that is left to fold once the rest is erased.
            if let Some(drop_id) = &deleted.fact.drop_id {
                let Known { round, event_id, occurred_at, .. } = *deleted;
                self.drop_id = Some(Known { round, event_id, occurred_at, fact: drop_id.clone() });
            }
        }
    }

    /// Says whether the recording is gone.
    pub fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// The name the sender gave it.
    pub fn name(&self) -> Option<&str> {
        let admitted = self.admitted.as_ref().and_then(|known| known.fact.name.as_deref());
        admitted.or_else(|| self.rejected.as_ref().and_then(|known| known.fact.name.as_deref()))
    }

    /// Returns the generation that readers see: the one last activated, unless it was cancelled; else the highest
    /// complete automatic one that has no more failed segments than the one before it; else, while nothing is
    /// complete, the newest automatic one that was not cancelled.
    pub fn visible(&self, generations: &BTreeMap<u32, (GenerationFacts, State)>) -> Option<u32> {
        let is_cancelled = |generation: &u32| {
            generations.get(generation).is_some_and(|(_, s)| s.status == Status::Cancelled)
        };
        let is_manual = |generation: &u32| {
            let requested = generations.get(generation).and_then(|(facts, _)| facts.requested.as_ref());
            requested.is_some_and(|known| known.fact.activation == Activation::Manual)
        };
        let chosen = self.activated.as_ref().map(|known| known.fact);
        if let Some(chosen) =
            chosen.filter(|chosen| generations.contains_key(chosen) && !is_cancelled(chosen))
        {
            return Some(chosen);
        }
        let mut best: Option<(u32, u64)> = None;
        for (generation, (_, state)) in generations {
            let better = best.is_none_or(|(_, failed)| state.failed_segments <= failed);
            if state.status == Status::Complete && better && !is_manual(generation) {
                best = Some((*generation, state.failed_segments));
            }
        }
        let newest = |wanted: &dyn Fn(&u32) -> bool| generations.keys().copied().rfind(wanted);
        best.map(|(generation, _)| generation)
            .or_else(|| newest(&|generation| !is_manual(generation) && !is_cancelled(generation)))
            .or_else(|| newest(&|generation| !is_manual(generation)))
            .or_else(|| newest(&|_| true))
    }

    /// Returns where the recording stands, given its transcriptions: the state of the visible one, unless the
    /// recording was rejected or deleted.
    pub fn state(&self, generations: &BTreeMap<u32, (GenerationFacts, State)>) -> State {
        let visible = self.visible(generations).and_then(|generation| generations.get(&generation));
        let mut state = match visible {
            Some((_, state)) => state.clone(),
            None => GenerationFacts::default().state(&Tally::default()),
        };
        if let Some(deleted) = &self.deleted {
            state = GenerationFacts::default().state(&Tally::default());
            (state.status, state.completed_at) = (Status::Deleted, Some(deleted.occurred_at));
        } else if let Some(rejected) = &self.rejected
            && self.admitted.as_ref().is_none_or(|admitted| admitted.round < rejected.round)
        {
            state.status = Status::Rejected;
            state.reason = Some(rejected.fact.cause.clone());
            state.completed_at = Some(rejected.occurred_at);
        }
        state
    }
}

/// One transcription as folded: its facts and its segments by channel and index.
#[derive(Clone, Debug, Default, PartialEq)]
struct Generation {
    facts: GenerationFacts,
    segments: BTreeMap<(u16, u32), Segment>,
}

impl Generation {
    /// The segments that belong to the transcript, in order of channel and index.
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments
            .values()
            .filter(|segment| u64::from(segment.index) < self.facts.segments_below(segment.channel))
    }

    fn state(&self) -> State {
        self.facts.state(&Tally::of(self.segments()))
    }
}

/// Everything that a recording's events say, whatever their order and however often they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Who it is.
    pub id: RecordingId,
    /// Who owns it.
    pub tenant: Tenant,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// What is known of it besides its transcriptions.
    pub facts: RecordingFacts,
    generations: BTreeMap<u32, Generation>,
}

impl Recording {
    /// Starts the fold with a recording's first event, whichever that is.
    pub fn new(first: &Envelope) -> Recording {
        let mut recording = Recording {
            id: first.recording,
            tenant: first.tenant.clone(),
            submitted_at: first.submitted_at,
            facts: RecordingFacts::default(),
            generations: BTreeMap::new(),
        };
        recording.absorb(first);
        recording
    }

    /// Folds events of one recording; events of other recordings than the first one's are left out. `None` for no
    /// events.
    pub fn fold<'a>(envelopes: impl IntoIterator<Item = &'a Envelope>) -> Option<Recording> {
        let mut envelopes = envelopes.into_iter();
        let mut recording = Recording::new(envelopes.next()?);
        envelopes.for_each(|envelope| recording.absorb(envelope));
        Some(recording)
    }

    /// Takes in one more event. An event of another recording changes nothing.
    pub fn absorb(&mut self, envelope: &Envelope) {
        if envelope.recording != self.id {
            return;
        }
        self.facts.absorb(envelope);
        if self.facts.is_deleted() {
            self.generations.clear();
            return;
        }
        if !concerns_generation(&envelope.event) {
            return;
        }
        let generation = self.generations.entry(envelope.generation).or_default();
        generation.facts.absorb(envelope);
        if let Some(segment) = Segment::of(envelope) {
            let key = (segment.channel, segment.index);
            if generation.segments.get(&key).is_none_or(|there| segment.beats(there)) {
                generation.segments.insert(key, segment);
            }
        }
    }

    /// Returns the transcriptions with where each stands.
    pub fn generations(&self) -> BTreeMap<u32, (GenerationFacts, State)> {
        let states = self.generations.iter().map(|(&number, g)| (number, (g.facts.clone(), g.state())));
        states.collect()
    }

    /// Returns the generation that readers see.
    pub fn visible(&self) -> Option<u32> {
        self.facts.visible(&self.generations())
    }

    /// Returns where the recording stands.
    pub fn state(&self) -> State {
        self.facts.state(&self.generations())
    }

    /// Returns the transcript of `generation`, or of the visible one; `None` where there is no such generation.
    pub fn transcript(&self, generation: Option<u32>) -> Option<Transcript> {
        let number = generation.or_else(|| self.visible())?;
        let generation = self.generations.get(&number)?;
        let segments = generation.segments().cloned().collect();
        Some(Transcript::new(self.id, &self.facts, number, &generation.facts, generation.state(), segments))
    }
}

/// Says whether an event tells something of a transcription, so that the transcription exists from then on.
pub fn concerns_generation(event: &Event) -> bool {
    match event {
        Event::RecordingAdmitted(_)
        | Event::TranscriptionRequested(_)
        | Event::RecordingDecoded(_)
        | Event::RecordingFailed(_)
        | Event::SegmentTranscribed(_)
        | Event::SegmentFailed(_)
        | Event::GenerationCancelled(_) => true,
        Event::RecordingRejected(_)
        | Event::RecordingDeleted(_)
        | Event::SegmentCut(_)
        | Event::GenerationActivated(_) => false,
    }
}
