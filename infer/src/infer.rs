//! The stage: one segment of speech in, its text out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use events::{
    Cause, Envelope, Event, Lane, SegmentCut, SegmentFailed, SegmentId, SegmentTranscribed, Stretch,
};
use streams::{Before, Delivery, ModelNote, Outputs, SharedLog, Stage};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::{Config, Trim};
use crate::devices;
use crate::engine::Setup;
use crate::library::Library;
use crate::scheduler::{self, Urgency};
use crate::tokens::language_code;
use crate::{
    Engine, Error, LoadError, ModelInfo, Options, Output, Task, Thresholds, Word, hash, languages, metrics,
    models, trim,
};

/// The infer stage.
pub struct Infer {
    log: SharedLog,
    config: Config,
    /// The models of the folder by name; loaded when the first segment asks.
    models: HashMap<String, ModelInfo>,
    library: Arc<Library>,
    lost: CancellationToken,
}

/// What makes the text.
#[derive(Clone)]
enum Voice {
    Whisper(Arc<Engine>),
    /// See [`hash`]; how long a segment takes.
    Hash(Duration),
}

/// Why a segment cannot go on here.
enum Problem {
    /// Another worker, or this one later, may do better.
    Later(Cause),
    /// Nobody can.
    Never(Cause),
    /// It is not sure of its language; others of the recording may be.
    Unsure,
    /// Other workers have the model of this name and these weights.
    Elsewhere,
    /// So many segments up to the one before it, whose text is its context, have not ended.
    Behind(u32),
}

impl Infer {
    /// Finds the models, announces them to the deployment and loads the one set to be loaded at start.
    ///
    /// # Errors
    /// When the folder holds no usable model, with what is wrong with each.
    pub async fn start(log: SharedLog, config: Config) -> anyhow::Result<Infer> {
        let folder = config.models.clone();
        let scanned =
            tokio::task::spawn_blocking(move || models::scan(&folder)).await.context("scan models")??;
        for (name, error) in &scanned.broken {
            tracing::error!(model = name, %error, "this model cannot be used");
        }
        let mut known = scanned.models;
        known.extend(config.hash_model.map(|_| hash::info()));
        anyhow::ensure!(
            !known.is_empty(),
            "no model in {}: fetch one with `voiceforge models pull tiny.en`, or set VOICEFORGE_MODELS to the folder that has some",
            config.models.display()
        );
        let mut found = HashMap::new();
        for info in known {
            tracing::info!(
                model = info.name,
                sha256 = info.sha256,
                multilingual = info.multilingual,
                "model found"
            );
            found.insert(info.name.clone(), info);
        }
        let notes: Vec<ModelNote> = found.values().map(note).collect();
        announce(&log, &notes).await.context("announce the models")?;
        tokio::spawn(keep_announced(SharedLog::clone(&log), notes));
        let place = devices::choose(config.backend, config.device).context(
            "use a GPU, as --infer-backend cuda asks; with auto or cpu models would run on the processor",
        )?;
        let Config { precision, threads, slots: segments, sound, .. } = config;
        let setup = Setup { place, precision, threads, segments, sound };
        let library = Arc::new(Library::new(config.models.clone(), setup, config.memory.0));
        tokio::spawn(unload_idle(Arc::clone(&library), config.idle));
        let infer = Infer { log, config, models: found, library, lost: CancellationToken::new() };
        match infer.models.get(&infer.config.model) {
            Some(model) => drop(infer.engine(&model.name).await.context("load the model")?),
            None => {
                tracing::warn!(model = infer.config.model, have = ?infer.models(), "the model to load at start is not there")
            }
        }
        Ok(infer)
    }

    /// Cancelled when this process can use its device no more: then another one must take over.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Returns the names of the models, in order.
    pub fn models(&self) -> Vec<String> {
        let mut names: Vec<String> = self.models.keys().cloned().collect();
        names.sort();
        names
    }

    async fn engine(&self, model: &str) -> anyhow::Result<Voice> {
        if let (hash::NAME, Some(pause)) = (model, self.config.hash_model) {
            return Ok(Voice::Hash(pause));
        }
        Ok(Voice::Whisper(self.library.get(model).await?))
    }

    fn not_loaded(&self, error: &anyhow::Error) -> Problem {
        if error.downcast_ref().is_some_and(LoadError::is_lost) {
            self.lost.cancel();
        }
        Problem::Later(Cause::new("model_load", format!("{error:#}")))
    }

    async fn segment(&self, delivery: Delivery) {
        let Event::SegmentCut(cut) = delivery.envelope().event.clone() else {
            let message = format!("{} is no work for infer", delivery.envelope().event.kind());
            delivery.fail(Cause::new("wrong_queue", message)).await;
            return;
        };
        let event = match self.transcribe(&delivery, &cut).await {
            Ok(transcribed) => transcribed.into(),
            Err(Problem::Unsure) => {
                delivery.put_off(UNSURE_DELAY).await;
                return;
            }
            Err(Problem::Elsewhere) => {
                delivery.put_off(ELSEWHERE_DELAY).await;
                return;
            }
            Err(Problem::Behind(segments)) => {
                metrics::behind();
                delivery.put_off(pause(segments)).await;
                return;
            }
            Err(Problem::Later(cause)) => {
                metrics::failed(&cause.code, delivery.is_last_attempt());
                delivery.retry(cause).await;
                return;
            }
            Err(Problem::Never(cause)) => {
                metrics::failed(&cause.code, true);
                let SegmentCut { channel, index, start_ms, end_ms, .. } = cut;
                let attempts = delivery.entry().attempts + 1;
                tracing::warn!(code = cause.code, cause = cause.message, "cannot be transcribed");
                SegmentFailed { channel, index, start_ms, end_ms, cause, attempts }.into()
            }
        };
        let fact = fact(delivery.envelope(), event);
        delivery.finish(Outputs::fact(fact)).await;
    }

    async fn transcribe(&self, delivery: &Delivery, cut: &SegmentCut) -> Result<SegmentTranscribed, Problem> {
        let envelope = delivery.envelope();
        let wanted = &cut.settings.model;
        let redis = |error: streams::Error| Problem::Later(Cause::new("redis", error.to_string()));
        let model = self.models.get(&wanted.name).filter(|model| model.sha256 == wanted.sha256);
        let Some(model) = model else {
            if self.log.has_model(&wanted.name, &wanted.sha256).await.map_err(redis)? {
                return Err(Problem::Elsewhere);
            }
            let message = format!(
                "this worker does not have the model {} with weights {}; it has {}",
                wanted.name,
                wanted.sha256,
                self.models().join(", ")
            );
            return Err(Problem::Later(Cause::new("model_missing", message)));
        };
        let (recording, generation) = (envelope.recording, envelope.generation);
        let segment = SegmentId { recording, generation, channel: cut.channel, index: cut.index };
        let mut options = options(cut);
        let is_in_order = cut.settings.decoding.condition_across_segments;
        if is_in_order {
            let before = self.log.before(envelope.shard, &segment, envelope.round).await.map_err(redis)?;
            options.previous = self.previous(before)?;
        }
        let engine = self.engine(&model.name).await.map_err(|error| self.not_loaded(&error))?;
        let speech = self
            .log
            .speech(envelope.shard, &segment, envelope.round)
            .await
            .map_err(redis)?
            .ok_or_else(|| {
                let message =
                    "the segment's speech is gone from Redis: transcribe the recording again from its audio";
                Problem::Never(Cause::new("speech_missing", message))
            })?;
        let pcm: Arc<[i16]> =
            speech.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();

        options.trim = trims(self.config.trim, model.multilingual, &cut.settings, |language| {
            trim::has_passed(&model.sha256, self.config.precision, language)
        });
        // Equal work gives equal text, also when it is done again after a crash.
        options.seed = envelope.event_id.as_uuid().as_u64_pair().0;
        let guess = model.multilingual && options.language.is_none();
        if guess {
            options.language =
                self.log.language(envelope.shard, recording, generation).await.map_err(redis)?;
        }
        let urgency = urgency(cut.lane);
        let started = Instant::now();
        let mut output = run(&engine, &pcm, &options, urgency, &self.lost).await?;
        if guess && options.language.is_none() && !output.spans.is_empty() {
            let settled = self.settle(envelope, cut, &output).await.map_err(redis)?;
            let settled = settled.ok_or(Problem::Unsure)?;
            if settled != output.language {
                options.language = Some(settled);
                output = run(&engine, &pcm, &options, urgency, &self.lost).await?;
            }
        }
        let took = started.elapsed();
        let infer_ms = took.as_millis() as u64;
        let hottest = output.spans.iter().map(|span| span.temperature).fold(0.0, f32::max);
        metrics::trimmed(output.trimmed, output.reread);
        metrics::transcribed(&wanted.name, cut.end_ms - cut.start_ms, took, hottest);
        tracing::debug!(infer_ms, spans = output.spans.len(), "transcribed");
        if is_in_order {
            // Before the commit: who finds the segment ended finds what it left. Done again it leaves the same.
            let tail = serde_json::to_string(&output.context).expect("numbers have a JSON form");
            self.log.leave_tail(envelope.shard, &segment, envelope.round, &tail).await.map_err(redis)?;
        }
        Ok(result(cut, output, infer_ms))
    }

    /// The text before a segment, as its context. `None` where there is none: it is the first, the one before it failed or
    /// takes too long.
    fn previous(&self, before: Before) -> Result<Option<Vec<u32>>, Problem> {
        match before {
            Before::Ended(tail) => Ok(tail.and_then(|tail| serde_json::from_str(&tail).ok())),
            // Those behind wait longer, so that they go on one after the other.
            Before::Waits { behind, since } if since > self.config.order_wait * behind => {
                metrics::out_of_order();
                tracing::warn!(?since, behind, "the segment before does not end: read without its text");
                Ok(None)
            }
            Before::Waits { behind, .. } => Err(Problem::Behind(behind)),
        }
    }

    /// Settles the language of a recording by what all its segments have heard so far. `None`: this one is not sure, nor
    /// are the others, and it can wait; once, so that a recording whose segments are all unsure goes on.
    async fn settle(
        &self,
        envelope: &Envelope,
        cut: &SegmentCut,
        output: &Output,
    ) -> Result<Option<String>, streams::Error> {
        let Envelope { shard, recording, generation, .. } = *envelope;
        // A segment that is done again in a later round says nothing new.
        let by = format!("{}.{}", cut.channel, cut.index);
        let own = serde_json::to_string(&output.languages).expect("codes and numbers have a JSON form");
        let heard = self.log.hear_language(shard, recording, generation, &by, &own).await?;
        let Some(language) = agree(&heard, cut.lane, &output.language) else {
            metrics::unsure();
            tracing::info!(heard = output.language, "not sure of the language yet");
            return Ok(None);
        };
        self.log.settle_language(shard, recording, generation, &language).await.map(Some)
    }
}

#[async_trait]
impl Stage for Infer {
    fn slots(&self) -> usize {
        self.config.slots
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        let segments = deliveries.into_iter().map(|delivery| {
            let span = delivery.span();
            self.segment(delivery).instrument(span)
        });
        futures::future::join_all(segments).await;
    }
}

fn note(info: &ModelInfo) -> ModelNote {
    ModelNote {
        name: info.name.clone(),
        sha256: info.sha256.clone(),
        multilingual: info.multilingual,
        languages: info.languages.iter().map(|&code| code.to_owned()).collect(),
    }
}

async fn announce(log: &SharedLog, notes: &[ModelNote]) -> Result<(), streams::Error> {
    for note in notes {
        log.announce_model(note, ANNOUNCED_FOR).await?;
    }
    Ok(())
}

/// Says again and again which models are here, so that a Redis that lost everything learns it anew.
async fn keep_announced(log: SharedLog, notes: Vec<ModelNote>) {
    loop {
        tokio::time::sleep(ANNOUNCE_EVERY).await;
        if let Err(error) = announce(&log, &notes).await {
            tracing::warn!(%error, "cannot announce the models");
        }
    }
}

/// Unloads models that nobody used for a while.
async fn unload_idle(library: Arc<Library>, idle: Duration) {
    loop {
        tokio::time::sleep((idle / 4).min(UNLOAD_EVERY)).await;
        let library = Arc::clone(&library);
        // An engine waits for its thread as it ends.
        let _ = tokio::task::spawn_blocking(move || library.unload_idle(idle)).await;
    }
}

/// How long a segment that is not sure of its language waits for others of its recording.
const UNSURE_DELAY: Duration = Duration::from_secs(2);
/// How long a segment waits for each one up to the one before it, and in all before it asks again.
const ORDER_DELAY: Duration = Duration::from_millis(100);
const ORDER_DELAY_MAX: Duration = Duration::from_secs(5);
const UNLOAD_EVERY: Duration = Duration::from_secs(60);
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// How long others rely on a worker's models without a word of it: a worker that is replaced comes back within it.
const ANNOUNCED_FOR: Duration = Duration::from_secs(120);
/// How long a segment waits before it is taken again, perhaps by a worker that has its model.
const ELSEWHERE_DELAY: Duration = Duration::from_secs(1);

async fn run(
    voice: &Voice,
    pcm: &Arc<[i16]>,
    options: &Options,
    urgency: Urgency,
    lost: &CancellationToken,
) -> Result<Output, Problem> {
    let engine = match voice {
        Voice::Whisper(engine) => engine,
        Voice::Hash(usual) => {
            tokio::time::sleep(hash::pause(pcm, *usual)).await;
            return Ok(hash::transcribe(pcm, options.previous.as_deref()));
        }
    };
    match engine.transcribe(Arc::clone(pcm), options.clone(), urgency).await {
        Ok(output) => Ok(output),
        Err(Error::Device(error)) => {
            if error.is_lost {
                lost.cancel();
            }
            // It counts as a failure of the segment too, which may be what broke the device.
            Err(Problem::Later(Cause::new("device", error.to_string())))
        }
        Err(error) => Err(Problem::Never(Cause::new("invalid_settings", error.to_string()))),
    }
}

/// The language that a recording's segments heard together. `None` where they are not sure, and the one that asks has not
/// waited yet and nobody waits for it. `own` is what that one heard.
fn agree(heard: &streams::Heard, lane: Lane, own: &str) -> Option<String> {
    let told: Vec<languages::Heard> =
        heard.all.values().filter_map(|told| serde_json::from_str(told).ok()).collect();
    let (language, probability) = languages::together(told.iter()).unwrap_or_else(|| (own.to_owned(), 1.0));
    (probability >= languages::SURE || heard.again || lane == Lane::Rt).then_some(language)
}

/// How long to put a segment off that so many others come before.
fn pause(behind: u32) -> Duration {
    ORDER_DELAY.saturating_mul(behind).min(ORDER_DELAY_MAX)
}

/// The order in which segments of a lane join.
fn urgency(lane: Lane) -> Urgency {
    match lane {
        Lane::Rt => scheduler::URGENT,
        Lane::Batch => 1,
        Lane::Replay => 2,
    }
}

fn options(cut: &SegmentCut) -> Options {
    let settings = &cut.settings;
    let decoding = &settings.decoding;
    Options {
        task: match settings.task {
            events::Task::Transcribe => Task::Transcribe,
            events::Task::Translate => Task::Translate,
        },
        language: settings.language.clone(),
        prompt: settings.prompt.clone(),
        hotwords: decoding.hotwords.clone(),
        // The text begins with the first segment alone.
        prefix: decoding.prefix.clone().filter(|_| cut.index == 0),
        temperatures: settings.temperatures.clone(),
        beams: decoding.beam_size as usize,
        patience: decoding.patience,
        length_penalty: decoding.length_penalty,
        best_of: decoding.best_of as usize,
        timestamps: !decoding.without_timestamps,
        condition_on_previous_text: decoding.condition_on_previous_text,
        thresholds: Thresholds {
            compression_ratio: decoding.compression_ratio_threshold,
            avg_logprob: decoding.log_prob_threshold,
            no_speech: decoding.no_speech_threshold,
        },
        words: decoding.word_timestamps,
        hallucination_silence_ms: decoding
            .hallucination_silence_threshold
            .map(|seconds| (f64::from(seconds) * 1_000.0).round() as u64),
        speech: cut.speech.iter().map(|speech| speech.start_ms..speech.end_ms).collect(),
        ..Options::default()
    }
}

/// Whether windows are trimmed. What decides is the same for every segment of a recording at any time: a language that is
/// heard, and may be settled by the time a segment is tried again, does not count.
fn trims(
    trim: Trim,
    multilingual: bool,
    settings: &events::Settings,
    has_passed: impl Fn(&str) -> bool,
) -> bool {
    let given = settings.language.as_deref().and_then(language_code);
    let language = if multilingual { given } else { Some("en") };
    match trim {
        Trim::On => true,
        Trim::Off => false,
        Trim::Auto => settings.task == events::Task::Transcribe && language.is_some_and(has_passed),
    }
}

/// Moves the engine's times from the segment to the recording.
fn result(cut: &SegmentCut, output: Output, infer_ms: u64) -> SegmentTranscribed {
    let at = |ms: u64| (cut.start_ms + ms).min(cut.end_ms);
    let word = |word: Word| events::Word {
        start_ms: at(word.start_ms),
        end_ms: at(word.end_ms),
        text: word.text,
        probability: word.probability,
    };
    let spans: Vec<events::Span> = output
        .spans
        .into_iter()
        .map(|span| events::Span {
            start_ms: at(span.start_ms),
            end_ms: at(span.end_ms),
            text: span.text,
            tokens: span.tokens,
            avg_logprob: span.avg_logprob,
            no_speech_prob: span.no_speech_prob,
            compression_ratio: span.compression_ratio,
            temperature: span.temperature,
            words: span.words.into_iter().map(word).collect(),
        })
        .collect();
    SegmentTranscribed {
        channel: cut.channel,
        index: cut.index,
        start_ms: cut.start_ms,
        end_ms: cut.end_ms,
        language: output.language,
        text: spans.iter().map(|span| span.text.as_str()).collect::<String>().trim().to_owned(),
        spans,
        model: cut.settings.model.name.clone(),
        infer_ms,
        coverage: output.coverage,
        gaps: output
            .gaps
            .into_iter()
            .map(|gap| Stretch { start_ms: at(gap.start), end_ms: at(gap.end) })
            .collect(),
    }
}

/// Makes the fact that ends a segment. An event is small: of a text that is beyond what anybody says, the times of words
/// are left out, and token ids where that is not enough.
fn fact(work: &Envelope, event: Event) -> Envelope {
    let mut fact = work.follow(event, events::now());
    let shorten: [fn(&mut events::Span); 2] = [|span| span.words.clear(), |span| span.tokens.clear()];
    for shorten in shorten {
        let (Err(error), Event::SegmentTranscribed(segment)) = (events::encode(&fact), &mut fact.event)
        else {
            break;
        };
        tracing::warn!(%error, "the result is shortened");
        segment.spans.iter_mut().for_each(shorten);
    }
    fact
}

#[cfg(test)]
mod tests;
