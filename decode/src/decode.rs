//! The stage: one recording in, its segments out while it is still being read, and at the end one fact about it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use events::{
    Cause, Channels, Envelope, Event, Lane, RecordingDecoded, RecordingFailed, SegmentCut, SegmentId,
    Stretch, TranscriptionRequested,
};
use service::store::{AudioStore, Key, StoreError};
use streams::{Delivery, Emitted, Outcome, Outputs, SharedLog, Stage};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::config::Config;
use crate::{
    CUTTER_VERSION, Cursor, DecodeError, DecodeOptions, Decoder, Ffmpeg, Part, Step, Summary, metrics,
};

/// The decode stage.
pub struct Decode {
    log: SharedLog,
    store: AudioStore,
    config: Config,
    /// Recordings in hand that wait for their own segments to be read.
    held: AtomicUsize,
}

impl Decode {
    /// Makes the stage.
    pub fn new(log: SharedLog, store: AudioStore, config: Config) -> Decode {
        Decode { log, store, config, held: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Stage for Decode {
    fn slots(&self) -> usize {
        // Who waits for itself takes no place from others.
        self.config.slots + self.held.load(Ordering::Relaxed).min(HELD_MAX)
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        let recordings = deliveries.into_iter().map(|delivery| {
            let span = delivery.span();
            self.recording(delivery).instrument(span)
        });
        futures::future::join_all(recordings).await;
    }
}

/// What comes out of the decoding thread.
enum Output {
    Part(Part),
    /// The recording ended; what working on it took, without the time that parts waited to be sent.
    End(Summary, Duration),
    Failed(DecodeError),
}

impl Decode {
    async fn recording(&self, delivery: Delivery) {
        let Event::TranscriptionRequested(request) = delivery.envelope().event.clone() else {
            let message = format!("{} is no work for decode", delivery.envelope().event.kind());
            delivery.fail(Cause::new("wrong_queue", message)).await;
            return;
        };
        if request.settings.cutter != CUTTER_VERSION {
            let message = format!(
                "the recording is to be cut by version {} of the rules, this program has {CUTTER_VERSION}: run them in one version",
                request.settings.cutter
            );
            delivery.retry_after(Duration::from_secs(30), Cause::new("cutter_version", message)).await;
            return;
        }
        let cursor_key = streams::keys::cursor(
            delivery.envelope().shard,
            delivery.envelope().recording,
            delivery.envelope().generation,
            delivery.envelope().round,
        );
        let cursor = match self.log.cursor(&cursor_key).await {
            Ok(cursor) => cursor,
            Err(error) => {
                delivery.retry(Cause::new("redis", error.to_string())).await;
                return;
            }
        };
        let reader = match self.open(&request).await {
            Ok(reader) => reader,
            Err(StoreError::NotFound { .. }) => {
                let message = format!("the audio {} is not in the store any more", request.audio.key);
                self.fail(delivery, Cause::new("audio_missing", message)).await;
                return;
            }
            Err(error) => {
                delivery.retry(Cause::new("audio_store", error.to_string())).await;
                return;
            }
        };
        let started = Instant::now();
        let (outputs, mut inbox) = mpsc::channel(2);
        let options = self.options(&request);
        let stopping = delivery.stopping().clone();
        let lost = delivery.lost().clone();
        let resume = cursor.clone();
        let span = tracing::Span::current();
        let thread = tokio::task::spawn_blocking(move || {
            let _entered = span.entered();
            let wanted = || !stopping.is_cancelled() && !lost.is_cancelled();
            decode(reader, options, &resume, wanted, |output| outputs.blocking_send(output).is_ok());
        });
        let ended = self.emit_all(delivery, &request, cursor, &mut inbox, started).await;
        drop(inbox);
        if let Err(panic) = thread.await {
            tracing::error!(%panic, ended, "the decoding thread panicked");
        }
    }

    /// Sends parts on until the recording ends, stops or breaks. Returns how it ended, for the log.
    async fn emit_all(
        &self,
        delivery: Delivery,
        request: &TranscriptionRequested,
        mut cursor: String,
        inbox: &mut mpsc::Receiver<Output>,
        started: Instant,
    ) -> &'static str {
        while let Some(output) = inbox.recv().await {
            let part = match output {
                Output::Part(part) => part,
                Output::End(summary, work) => {
                    metrics::decoded(&summary, started.elapsed().as_secs_f64(), work.as_secs_f64());
                    tracing::info!(audio_ms = summary.audio_ms, segments = ?summary.segments,
                        codec = summary.info.codec, truncated_at_ms = summary.truncated_at_ms, "decoded");
                    let fact = delivery.envelope().follow(decoded(summary).into(), events::now());
                    delivery.finish(Outputs::fact(fact)).await;
                    return "decoded";
                }
                Output::Failed(error) if error.is_retryable() => {
                    delivery.retry(Cause::new(error.code(), error.to_string())).await;
                    return "retry";
                }
                Output::Failed(error) => {
                    self.fail(delivery, Cause::new(error.code(), error.to_string())).await;
                    return "failed";
                }
            };
            let next = serde_json::to_string(&part.cursor).expect("a cursor is plain data");
            let ms = part.end_ms() - part.start_ms();
            let part = cut(&delivery, request, &part, std::mem::replace(&mut cursor, next.clone()), next);
            if request.settings.decoding.condition_across_segments {
                self.hold(&delivery, &part.work).await;
            }
            match delivery.emit(part).await {
                Ok(Emitted::Done | Emitted::Repeated) => metrics::emitted(ms),
                Ok(Emitted::Ended(Outcome::Deleted | Outcome::Cancelled | Outcome::Gone)) => {
                    delivery.finish(Outputs::default()).await;
                    return "not wanted";
                }
                Ok(Emitted::Stale | Emitted::Ended(_)) => {
                    delivery.hand_back().await;
                    return "handed back";
                }
                Err(error) => {
                    delivery.retry(Cause::new("redis", error.to_string())).await;
                    return "retry";
                }
            }
        }
        if delivery.stopping().is_cancelled() || delivery.lost().is_cancelled() {
            delivery.hand_back().await;
            return "handed back";
        }
        let message =
            "the decoder stopped in the middle of the file (a panic: see the log of voiceforge-decode)";
        delivery.retry(Cause::new("decoder_panicked", message)).await;
        "panicked"
    }

    /// Waits until few segments of the channel before this one are unread. They are read one after the other, and must not
    /// fill the queue that others feed too: who feeds it pauses when it is long.
    async fn hold(&self, delivery: &Delivery, work: &Envelope) {
        let Some(segment) = work.segment() else { return };
        let Some(index) = segment.index.checked_sub(AHEAD) else { return };
        let segment = SegmentId { index, ..segment };
        let _held = Held::new(&self.held);
        // Without an answer it waits, as everybody does.
        while self.log.is_unread(work.shard, &segment, work.round).await.unwrap_or(true) {
            tokio::select! {
                () = tokio::time::sleep(HOLD_PAUSE) => {}
                () = delivery.lost().cancelled() => return,
                () = delivery.stopping().cancelled() => return,
            }
        }
    }

    async fn open(
        &self,
        request: &TranscriptionRequested,
    ) -> Result<service::store::RangeReader, StoreError> {
        let key = Key::parse(&request.audio.key)?;
        self.store.open_range_reader(&key).await
    }

    fn options(&self, request: &TranscriptionRequested) -> DecodeOptions {
        let rt = (request.lane == Lane::Rt).then_some(self.config.rt_segment_max.as_millis() as u32);
        let defaults = DecodeOptions::default();
        DecodeOptions {
            channels: match request.settings.channels {
                Channels::Mix => crate::Channels::Mix,
                Channels::Each => crate::Channels::Each,
            },
            hint: request.name.clone(),
            max_audio_ms: self.config.max_duration.as_millis() as u64,
            max_segment_ms: rt.unwrap_or(defaults.max_segment_ms),
            ffmpeg: self.config.ffmpeg.clone().map(Ffmpeg::at),
        }
    }

    /// Ends a recording whose audio is at fault: a fact, not a dead letter.
    async fn fail(&self, delivery: Delivery, cause: Cause) {
        tracing::info!(code = cause.code, cause = cause.message, "cannot be decoded");
        let attempts = delivery.entry().attempts + 1;
        let failed = RecordingFailed { stage: "decode".to_owned(), cause, attempts };
        let fact = delivery.envelope().follow(failed.into(), events::now());
        delivery.finish(Outputs::fact(fact)).await;
    }
}

/// Segments of a channel that may wait to be read, where each continues the one before.
const AHEAD: u32 = 8;
/// How long to wait between looks at whether one more was read.
const HOLD_PAUSE: Duration = Duration::from_millis(250);
/// At most so many recordings wait for their own segments without taking a place: each has a thread and an open file.
const HELD_MAX: usize = 16;

/// Counts one that waits, for as long as it does.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(held: &'a AtomicUsize) -> Held<'a> {
        held.fetch_add(1, Ordering::Relaxed);
        Held(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Decodes on a blocking thread, handing outputs to `send` until it does not want more.
fn decode(
    reader: service::store::RangeReader,
    options: DecodeOptions,
    cursor: &str,
    wanted: impl Fn() -> bool,
    mut send: impl FnMut(Output) -> bool,
) {
    let mut since = Instant::now();
    let mut work = Duration::ZERO;
    let opened = match serde_json::from_str::<Cursor>(cursor) {
        Ok(cursor) => Decoder::resume(reader, options, &cursor),
        Err(_) if cursor.is_empty() => Decoder::open(reader, options),
        Err(error) => Err(DecodeError::Cursor { reason: error.to_string() }),
    };
    let mut decoder = match opened {
        Ok(decoder) => decoder,
        Err(error) => {
            metrics::failed(error.code());
            send(Output::Failed(error));
            return;
        }
    };
    while wanted() {
        let more = match decoder.step() {
            Ok(Step::Working) => true,
            Ok(Step::Part(part)) => {
                work += since.elapsed();
                let more = send(Output::Part(part));
                since = Instant::now();
                more
            }
            Ok(Step::End(summary)) => {
                send(Output::End(summary, work + since.elapsed()));
                false
            }
            Err(error) => {
                metrics::failed(error.code());
                send(Output::Failed(error));
                false
            }
        };
        if !more {
            return;
        }
    }
}

/// Returns a segment as the stage loop emits it.
fn cut(
    delivery: &Delivery,
    request: &TranscriptionRequested,
    part: &Part,
    expected: String,
    next: String,
) -> streams::stage::Part {
    let (start_ms, end_ms) = (part.start_ms(), part.end_ms());
    let event = SegmentCut {
        channel: part.channel,
        index: part.index,
        start_ms,
        end_ms,
        settings: request.settings.clone(),
        lane: request.lane,
        speech: part
            .speech_ms
            .iter()
            .map(|speech| Stretch { start_ms: speech.start, end_ms: speech.end })
            .collect(),
    };
    streams::stage::Part {
        work: delivery.envelope().follow(event.into(), events::now()),
        lane: request.lane,
        speech: part.pcm_bytes().into(),
        ms: end_ms - start_ms,
        expected,
        next,
    }
}

fn decoded(summary: Summary) -> RecordingDecoded {
    RecordingDecoded {
        segments: summary.segments,
        audio_ms: summary.audio_ms,
        speech_ms: summary.speech_ms,
        channels: summary.info.source_channels,
        sample_rate: summary.info.source_rate,
        codec: summary.info.codec,
        truncated_at_ms: summary.truncated_at_ms,
        truncated_reason: summary.truncated_reason,
    }
}

#[cfg(test)]
mod tests;
