//! `/v1/dead`: what was given up, why, and what is done about it. For operators: dead letters are of all tenants.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use events::{Activation, Envelope, Event, RecordingId, SegmentCut, Shard, TranscriptionRequested};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::Value;
use service::store::{Key, StoreError};
use streams::{Dead, DeadPlace, Message, Queue, Source};
use utoipa::ToSchema;
use views::GenerationRow;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::params::shorten;
use crate::reply::{self, Error, ErrorBody, Kind};

/// How many dead letters a page has unless asked otherwise, and at most.
const PAGE_DEFAULT: u32 = 50;
/// See [`PAGE_DEFAULT`].
const PAGE_MAX: u32 = 200;

/// The name of a dead letter: where it lies, and its id there. Written `07:1767323045678-0`, or `drops:...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterId {
    place: DeadPlace,
    id: String,
}

impl LetterId {
    fn of(dead: &Dead) -> LetterId {
        LetterId { place: dead.place, id: dead.id.clone() }
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            DeadPlace::Drops => write!(f, "drops:{}", self.id),
            DeadPlace::Shard(shard) => write!(f, "{shard}:{}", self.id),
        }
    }
}

impl FromStr for LetterId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<LetterId, &'static str> {
        const EXPECTED: &str = "expected an id as the list gives it, such as 00:1767323045678-0";
        let (place, id) = text.split_once(':').ok_or(EXPECTED)?;
        let place = match place {
            "drops" => DeadPlace::Drops,
            shard => DeadPlace::Shard(Shard(shard.parse().map_err(|_| EXPECTED)?)),
        };
        let is_number =
            |part: &str| !part.is_empty() && part.len() <= 20 && part.bytes().all(|b| b.is_ascii_digit());
        let fits = id.split_once('-').is_some_and(|(ms, n)| is_number(ms) && is_number(n));
        fits.then(|| LetterId { place, id: id.to_owned() }).ok_or(EXPECTED)
    }
}

/// A dead letter without what was said.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    /// What to show, replay or drop it by.
    pub id: String,
    /// When it was given up.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The stage that gave up: `ingest`, `decode`, `infer` or `project`.
    pub stage: String,
    /// Why, in a stable word.
    pub code: String,
    /// Why, in a sentence.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The worker that tried last.
    pub worker: String,
    /// The stream it was read from, as far as that is known.
    pub stream: Option<String>,
    /// The type of the event it carries; null for drops and for what cannot be read.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The recording it is about.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub recording: Option<RecordingId>,
    /// Whose that is.
    pub tenant: Option<String>,
    /// Which transcription.
    pub generation: Option<u32>,
    /// The round of the work; a replay raises it.
    pub round: Option<u32>,
    /// Which segment: channel and index.
    pub segment: Option<String>,
    /// The drop, for drops.
    pub drop_id: Option<String>,
}

/// A dead letter with the original.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterWhole {
    /// What a list tells of it.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The original fields: the event as JSON, text as it is, and of anything else its size.
    #[schema(value_type = Object)]
    pub original: BTreeMap<String, Value>,
}

/// One page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadPage {
    /// The letters: of drops, then of each shard, the oldest first.
    pub items: Vec<DeadLetter>,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
}

/// What a replay did.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// The dead letter that is gone now.
    pub id: String,
    /// `requested`: its transcription was asked for again; `resubmitted`: the drop is back in its queue; `appended`: the
    /// fact is back in the log.
    pub done: &'static str,
    /// The recording.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub recording: Option<RecordingId>,
    /// The round that the work has now.
    pub round: Option<u32>,
    /// Other dead letters of the same transcription, which its new round covers: they are gone as well.
    pub also: u64,
}

impl DeadLetter {
    fn of(dead: &Dead) -> DeadLetter {
        let envelope = dead.envelope();
        let text = |name: &str| dead.field(name).and_then(|value| String::from_utf8(value.to_vec()).ok());
        let segment = envelope.as_ref().and_then(|envelope| match &envelope.event {
            Event::SegmentCut(e) => Some((e.channel, e.index)),
            Event::SegmentTranscribed(e) => Some((e.channel, e.index)),
            Event::SegmentFailed(e) => Some((e.channel, e.index)),
            _ => None,
        });
        let is_drop = dead.place == DeadPlace::Drops;
        let drop_id = is_drop.then(|| dead.drop_id());
        DeadLetter {
            id: LetterId::of(dead).to_string(),
            at: dead.at,
            stage: dead.letter.stage.clone(),
            code: dead.letter.cause.code.clone(),
            message: dead.letter.cause.message.clone(),
            attempts: dead.letter.attempts,
            worker: dead.letter.worker.clone(),
            stream: dead.source.map(Source::key),
            kind: envelope.as_ref().map(|envelope| envelope.event.kind().to_owned()),
            recording: envelope.as_ref().map(|envelope| envelope.recording),
            tenant: match &envelope {
                Some(envelope) => Some(envelope.tenant.to_string()),
                None => is_drop.then(|| text("tenant")).flatten(),
            },
            generation: envelope.as_ref().map(|envelope| envelope.generation),
            round: envelope.as_ref().map(|envelope| envelope.round),
            segment: segment.map(|(channel, index)| format!("{channel}:{index}")),
            drop_id: drop_id.filter(|id| !id.is_empty()),
        }
    }
}

/// List dead letters
///
/// What was given up after its attempts, of all tenants; without the words. Needs an operator's key.
#[utoipa::path(
    get, path = "/v1/dead", tag = "deployment", operation_id = "list_dead_letters",
    params(
        ("stage" = Option<String>, Query, description = "Only of this stage: `ingest`, `decode`, `infer` or `project`"),
        ("code" = Option<String>, Query, description = "Only with this code of their cause"),
        ("limit" = Option<u32>, Query, description = "How many a page has, 1 to 200; by default 50"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = DeadPage),
        (status = 403, description = "Not with this key", body = ErrorBody),
        (status = 503, description = "The queue does not answer", body = ErrorBody),
    )
)]
pub async fn list(api: Api, call: Call) -> Result<Response, Error> {
    api.keys.caller(&call.headers).await?.operate()?;
    let mut params = call.params();
    let (stage, code) = (params.text("stage"), params.text("code"));
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE_DEFAULT) as usize;
    let cursor = params.parsed::<LetterId>("cursor");
    params.finish()?;
    let fits = |dead: &Dead| {
        let is = |wanted: &Option<String>, there: &str| wanted.as_ref().is_none_or(|wanted| wanted == there);
        is(&stage, &dead.letter.stage) && is(&code, &dead.letter.cause.code)
    };
    let mut items = Vec::new();
    let mut after = cursor.as_ref().map(|cursor| cursor.id.clone());
    let places = DeadPlace::all(api.log.shards());
    for place in places.skip_while(|place| cursor.as_ref().is_some_and(|cursor| cursor.place != *place)) {
        loop {
            let page = api.ask(api.log.dead(place, after.as_deref(), PAGE_MAX as usize)).await?;
            for dead in &page {
                if fits(dead) {
                    if items.len() == limit {
                        let last: Option<&DeadLetter> = items.last();
                        let next = last.map(|last| last.id.clone());
                        return Ok(reply::json(StatusCode::OK, &DeadPage { items, next }));
                    }
                    items.push(DeadLetter::of(dead));
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE_MAX as usize => after = Some(last.id.clone()),
                _ => break,
            }
        }
        after = None;
    }
    Ok(reply::json(StatusCode::OK, &DeadPage { items, next: None }))
}

/// Get a dead letter
///
/// With the original entry. Needs an operator's key.
#[utoipa::path(
    get, path = "/v1/dead/{id}", tag = "deployment", operation_id = "get_dead_letter",
    params(("id" = String, Path, description = "Its id, as the list gives it")),
    responses(
        (status = 200, description = "The letter", body = DeadLetterWhole),
        (status = 403, description = "Not with this key", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 503, description = "The queue does not answer", body = ErrorBody),
    )
)]
pub async fn get(api: Api, id: String, call: Call) -> Result<Response, Error> {
    api.keys.caller(&call.headers).await?.operate()?;
    call.params().finish()?;
    let dead = find(&api, &id).await?;
    let mut original = BTreeMap::new();
    for (name, value) in &dead.fields {
        let text = std::str::from_utf8(value).ok().filter(|_| name != "audio");
        let shown = match text {
            Some(text) if name == "event" => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            Some(text) => text.into(),
            None => format!("{} bytes", value.len()).into(),
        };
        original.entry(name.clone()).or_insert(shown);
    }
    for (name, bytes) in &dead.large {
        original.entry(name.clone()).or_insert(format!("{bytes} bytes").into());
    }
    let whole = DeadLetterWhole { letter: DeadLetter::of(&dead), original };
    Ok(reply::json(StatusCode::OK, &whole))
}

/// Drop a dead letter
///
/// Throws it away; what it was about stays ended as it is. Needs an operator's key.
#[utoipa::path(
    delete, path = "/v1/dead/{id}", tag = "deployment", operation_id = "drop_dead_letter",
    params(("id" = String, Path, description = "Its id, as the list gives it")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 403, description = "Not with this key", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 503, description = "The queue does not answer", body = ErrorBody),
    )
)]
pub async fn delete(api: Api, id: String, call: Call) -> Result<Response, Error> {
    api.keys.caller(&call.headers).await?.operate()?;
    call.params().finish()?;
    let letter = parse(&api, &id)?;
    match api.ask(api.log.drop_dead(letter.place, &letter.id)).await? {
        true => Ok(reply::nothing()),
        false => Err(nothing(&id)),
    }
}

/// Replay a dead letter
///
/// A drop goes back to its queue; of dead work the transcription is asked for again in the next round, from the audio in
/// the store; a fact goes back to the log. Needs an operator's key.
#[utoipa::path(
    post, path = "/v1/dead/{id}/replay", tag = "deployment", operation_id = "replay_dead_letter",
    params(("id" = String, Path, description = "Its id, as the list gives it")),
    responses(
        (status = 200, description = "It is at work again", body = Replayed),
        (status = 403, description = "Not with this key", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 409, description = "It cannot be replayed; the message says why", body = ErrorBody),
        (status = 503, description = "The queue does not answer", body = ErrorBody),
    )
)]
pub async fn replay(api: Api, id: String, call: Call) -> Result<Response, Error> {
    api.keys.caller(&call.headers).await?.operate()?;
    call.params().finish()?;
    let dead = find(&api, &id).await?;
    let mut replayed = Replayed { id, done: "resubmitted", recording: None, round: None, also: 0 };
    let revived = match dead.place {
        DeadPlace::Drops => api.ask(api.log.revive(&dead, Vec::new(), None)).await?,
        DeadPlace::Shard(_) => {
            let envelope = dead.envelope().ok_or_else(|| {
                let message = "what it holds is no event that this release can read: upgrade, or drop it";
                refused("unreadable", message)
            })?;
            replayed.recording = Some(envelope.recording);
            match &envelope.event {
                Event::TranscriptionRequested(_) | Event::SegmentCut(_)
                    if !matches!(dead.source, Some(Source::Log(_))) =>
                {
                    let generations = api.views.generations(envelope.recording).await?;
                    let current = generations.iter().find(|row| row.generation == envelope.generation);
                    if let Some(row) = current.filter(|row| row.round > envelope.round) {
                        drop_covered(&api, &dead, &envelope).await?;
                        let message = format!(
                            "its transcription was begun again in round {}, which covers what died in round {}: this letter \
                             and others like it were removed",
                            row.round, envelope.round
                        );
                        return Err(refused("covered", &message));
                    }
                    let request = request_again(&api, &envelope, current).await?;
                    (replayed.done, replayed.round) = ("requested", Some(request.round));
                    let revived = revive_work(&api, &dead, &request).await?;
                    if revived {
                        replayed.also = drop_covered(&api, &dead, &envelope).await?;
                    }
                    revived
                }
                _ => {
                    // In its own round, unlike work: a fact says what was said in a round. In another one it would be
                    // another event, which counts beside the first, and would win over what a later round has said
                    // since. As it is, it counts once however often it is replayed, and still wins over the failure
                    // that stands in its place.
                    (replayed.done, replayed.round) = ("appended", Some(envelope.round));
                    let json = dead.field("event").map(|json| String::from_utf8_lossy(json).into_owned());
                    let fact = Message {
                        event_id: envelope.event_id.to_string(),
                        json: json.unwrap_or_default(),
                        ms: 0,
                        bytes: 0,
                    };
                    api.ask(api.log.revive(&dead, vec![fact], None)).await?
                }
            }
        }
    };
    match revived {
        true => Ok(reply::json(StatusCode::OK, &replayed)),
        false => Err(refused(
            "unwanted",
            "nobody wants it any more: its recording was deleted, its transcription cancelled, or somebody was faster",
        )),
    }
}

fn parse(api: &Api, id: &str) -> Result<LetterId, Error> {
    // warp gives a part of a path as it came, and the ids of dead letters hold a colon, which clients escape.
    let letter: LetterId = percent_decode_str(id).decode_utf8_lossy().parse().map_err(|_| nothing(id))?;
    let is_there = DeadPlace::all(api.log.shards()).any(|place| place == letter.place);
    if is_there { Ok(letter) } else { Err(nothing(id)) }
}

async fn find(api: &Api, id: &str) -> Result<Dead, Error> {
    let letter = parse(api, id)?;
    api.ask(api.log.dead_letter(letter.place, &letter.id)).await?.ok_or_else(|| nothing(id))
}

fn nothing(id: &str) -> Error {
    Error::not_found(format!("the dead letter {:?}", shorten(id)))
}

fn refused(code: &str, message: &str) -> Error {
    Error::new(Kind::Conflict, code, message).finally()
}

/// Asks for the transcription that dead work belongs to once more, in the next round.
async fn request_again(
    api: &Api,
    dead: &Envelope,
    generation: Option<&GenerationRow>,
) -> Result<Envelope, Error> {
    let asked = match &dead.event {
        Event::TranscriptionRequested(requested) => requested.clone(),
        Event::SegmentCut(cut) => {
            let activation = generation.and_then(|row| row.activation).unwrap_or(Activation::Auto);
            request_of(api, dead, cut, activation).await?
        }
        _ => return Err(Error::internal("only work is asked for again")),
    };
    let key = Key::parse(&asked.audio.key).map_err(Error::internal)?;
    match api.store.head(&key).await {
        Ok(_) => {}
        Err(StoreError::NotFound { .. }) => {
            return Err(refused(
                "audio_gone",
                "its audio is not in the store any more, so nothing can be done again: hand the audio in again as a new \
                 drop, and drop this letter",
            ));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(dead.in_next_round(asked.into()))
}

/// What was asked for when a segment was cut, as far as it and the read side know.
async fn request_of(
    api: &Api,
    dead: &Envelope,
    cut: &SegmentCut,
    activation: Activation,
) -> Result<TranscriptionRequested, Error> {
    let row = api.views.recording(dead.recording).await?;
    let Some((audio, name)) = row.and_then(|row| Some((row.audio?, row.name))) else {
        return Err(refused(
            "unknown_recording",
            "its recording is not in the read side: it was deleted, and then this letter can be dropped, or its facts \
             are not projected yet (`voiceforge top` tells how far the log is read), and then it can be replayed later",
        ));
    };
    Ok(TranscriptionRequested { name, audio, settings: cut.settings.clone(), lane: cut.lane, activation })
}

async fn revive_work(api: &Api, dead: &Dead, request: &Envelope) -> Result<bool, Error> {
    let Event::TranscriptionRequested(asked) = &request.event else {
        return Err(Error::internal("only transcriptions are requested"));
    };
    let fact = Message::fact(request).map_err(Error::internal)?;
    let work = Message::work(request, asked.audio.estimated_ms, 0).map_err(Error::internal)?;
    let queue = Source::Queue(request.shard, Queue::Decode, asked.lane);
    api.ask(api.log.revive(dead, vec![fact], Some((queue, work)))).await
}

/// Removes the other dead letters of work on the same transcription: its new round does all of it.
async fn drop_covered(api: &Api, replayed: &Dead, envelope: &Envelope) -> Result<u64, Error> {
    let (mut dropped, mut after) = (0, None::<String>);
    loop {
        let page = api.ask(api.log.dead(replayed.place, after.as_deref(), PAGE_MAX as usize)).await?;
        for dead in page.iter().filter(|dead| matches!(dead.source, Some(Source::Queue(..)))) {
            let same = dead.envelope().is_some_and(|other| {
                (other.recording, other.generation) == (envelope.recording, envelope.generation)
                    && other.round <= envelope.round
            });
            if same && api.ask(api.log.drop_dead(dead.place, &dead.id)).await? {
                dropped += 1;
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE_MAX as usize => after = Some(last.id.clone()),
            _ => return Ok(dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        for text in ["00:1767323045678-0", "117:1-2", "drops:1767323045678-12"] {
            assert_eq!(text.parse::<LetterId>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "00",
            "00:",
            "00:1",
            "00:1-",
            "00:-1",
            "x:1-0",
            "00:1-0x",
            "70000:1-0",
            "drops:+1-0",
            "00:(1-0",
        ] {
            assert!(bad.parse::<LetterId>().is_err(), "{bad}");
        }
    }
}
