//! Redis replies to values of [`crate::log`].

use bytes::Bytes;
use redis::{FromRedisValue, Value};

use crate::append::Appended;
use crate::dead::{Dead, DeadPlace};
use crate::keys::Source;
use crate::log::{Admission, Claimed, Entry, Error, Outcome};

/// A consumer group as `XINFO GROUPS` tells of it.
pub struct Group {
    pub name: String,
    pub pending: u64,
    pub last_delivered: String,
}

pub fn unexpected(action: &'static str, reply: &str) -> Error {
    Error::Reply { action, reply: reply.chars().take(200).collect() }
}

fn odd(action: &'static str, value: &Value) -> Error {
    unexpected(action, &format!("{value:?}"))
}

fn list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        Value::Nil => Some(Vec::new()),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        Value::SimpleString(text) => Some(Bytes::from(text)),
        Value::Int(number) => Some(Bytes::from(number.to_string())),
        _ => None,
    }
}

pub fn text(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?.to_vec()).ok()
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// Reads `[id, [field, value, ...]]`; fields are nil for an entry whose data is gone.
pub fn entry_of(value: Value, source: Source) -> Option<Entry> {
    let mut parts = list(value)?.into_iter();
    let id = text(parts.next()?)?;
    let fields = fields_of(parts.next()?)?;
    Some(Entry { source, id, fields, deliveries: 1, attempts: 0 })
}

fn fields_of(value: Value) -> Option<Vec<(String, Bytes)>> {
    let mut flat = list(value)?.into_iter();
    let mut fields = Vec::new();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        // A name that is not UTF-8 can be no field of ours, but the entry must still be answered.
        let name = String::from_utf8_lossy(&bytes(name)?).into_owned();
        fields.push((name, bytes(value)?));
    }
    Some(fields)
}

/// Reads the reply of `XREADGROUP` over `sources`.
pub fn entries_of(value: Value, sources: &[Source]) -> Result<Vec<Entry>, Error> {
    const ACTION: &str = "read stream entries";
    let streams: Vec<(Value, Value)> = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(pairs) => pairs,
        Value::Array(items) => items
            .into_iter()
            .filter_map(|item| {
                let mut pair = list(item)?.into_iter();
                Some((pair.next()?, pair.next()?))
            })
            .collect(),
        other => return Err(odd(ACTION, &other)),
    };
    let mut entries = Vec::new();
    for (key, items) in streams {
        let key = text(key).unwrap_or_default();
        let source = sources.iter().find(|source| source.key() == key);
        let source = *source.ok_or_else(|| unexpected(ACTION, &key))?;
        for item in list(items).unwrap_or_default() {
            entries.push(entry_of(item, source).ok_or_else(|| unexpected(ACTION, "an entry of odd shape"))?);
        }
    }
    Ok(entries)
}

/// Reads the reply of `XRANGE`.
pub fn range_of(value: Value, source: Source) -> Result<Vec<Entry>, Error> {
    let items = list(value).ok_or_else(|| unexpected("read the log", "no list"))?;
    Ok(items.into_iter().filter_map(|item| entry_of(item, source)).collect())
}

/// Reads the reply of `claim.lua`.
pub fn claimed_of(value: Value, source: Source) -> Result<Claimed, Error> {
    const ACTION: &str = "claim stream entries";
    let shape = || unexpected(ACTION, "a reply of odd shape");
    let mut parts = list(value).ok_or_else(shape)?.into_iter();
    let taken = parts.next().and_then(list).ok_or_else(shape)?;
    let lost = parts.next().and_then(list).ok_or_else(shape)?;
    let mut claimed = Claimed { lost: lost.into_iter().filter_map(text).collect(), ..Claimed::default() };
    for item in taken {
        let mut parts = list(item).ok_or_else(shape)?.into_iter();
        let id = parts.next().and_then(text).ok_or_else(shape)?;
        let fields = parts.next().and_then(fields_of).ok_or_else(shape)?;
        let deliveries = parts.next().as_ref().and_then(number).ok_or_else(shape)?;
        let attempts = parts.next().as_ref().and_then(number).ok_or_else(shape)?;
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        claimed.entries.push(Entry { source, id, fields, deliveries, attempts });
    }
    Ok(claimed)
}

/// Reads the reply of `XINFO GROUPS`.
pub fn groups_of(value: Value) -> Result<Vec<Group>, Error> {
    const ACTION: &str = "read stream groups";
    let items = list(value).ok_or_else(|| unexpected(ACTION, "no list"))?;
    items
        .into_iter()
        .map(|item| {
            let info = std::collections::HashMap::<String, Value>::from_redis_value(item)
                .map_err(|e| unexpected(ACTION, &e.to_string()))?;
            let get = |name: &str| info.get(name).cloned().ok_or_else(|| unexpected(ACTION, name));
            Ok(Group {
                name: text(get("name")?).unwrap_or_default(),
                pending: number(&get("pending")?).unwrap_or(0),
                last_delivered: text(get("last-delivered-id")?).unwrap_or_default(),
            })
        })
        .collect()
}

/// Reads the reply of `XPENDING key group from to count`: id and deliveries.
pub fn pending_of(value: Value) -> Result<Vec<(String, u64)>, Error> {
    let shape = || unexpected("read pending entries", "a reply of odd shape");
    let pending = |item| {
        let mut parts = list(item)?.into_iter();
        Some((text(parts.next()?)?, number(&parts.nth(2)?)?))
    };
    list(value).ok_or_else(shape)?.into_iter().map(|item| pending(item).ok_or_else(shape)).collect()
}

/// Returns the consumers that the summary of `XPENDING key group` names.
pub fn owners_of(summary: Value) -> Vec<String> {
    let owners = list(summary).and_then(|parts| list(parts.into_iter().nth(3)?)).unwrap_or_default();
    owners.into_iter().filter_map(|owner| text(list(owner)?.into_iter().next()?)).collect()
}

/// Returns the id of the first entry that `XPENDING key group - + 1` names.
pub fn first_pending(value: Value) -> Option<String> {
    list(list(value)?.into_iter().next()?)?.into_iter().next().and_then(text)
}

/// Returns a fact's place in the shard's log.
pub fn seq_of(entry: Option<Entry>) -> Option<u64> {
    entry?.text("seq")?.parse().ok()
}

/// Tells whether a text is an entry's id, as people may type one.
pub fn is_id(text: &str) -> bool {
    let number =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && part.len() <= 19;
    match text.split_once('-') {
        Some((ms, n)) => number(ms) && number(n),
        None => number(text),
    }
}

/// Reads what `commit.lua` answered.
pub fn outcome_of(word: &str) -> Option<Outcome> {
    Some(match word {
        "done" => Outcome::Done,
        "lost" => Outcome::Lost,
        "gone" => Outcome::Gone,
        "mismatch" => Outcome::Mismatch,
        "deleted" => Outcome::Deleted,
        "cancelled" => Outcome::Cancelled,
        _ => return None,
    })
}

/// Reads what `admit.lua` answered.
pub fn admission_of(reply: &[String]) -> Option<Admission> {
    Some(match reply.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["admitted"] => Admission::Admitted,
        ["repeated"] => Admission::Repeated,
        ["deleted"] => Admission::Deleted,
        ["duplicate", holder] => {
            let (recording, fingerprint) = holder.split_once('|')?;
            Admission::Duplicate { recording: recording.parse().ok()?, fingerprint: fingerprint.to_owned() }
        }
        _ => return None,
    })
}

/// Reads what `append.lua` and `unwant.lua` answered.
pub fn appended_of(word: &str) -> Option<Appended> {
    Some(match word {
        "done" => Appended::Done,
        "repeated" => Appended::Repeated,
        "deleted" => Appended::Deleted,
        _ => return None,
    })
}

/// Reads the reply of `dead.lua`.
pub fn dead_of(value: Value, place: DeadPlace) -> Result<Vec<Dead>, Error> {
    let shape = || unexpected("read dead letters", "a reply of odd shape");
    let mut letters = Vec::new();
    for item in list(value).ok_or_else(shape)? {
        let mut parts = list(item).ok_or_else(shape)?.into_iter();
        let id = parts.next().and_then(text).ok_or_else(shape)?;
        let fields = parts.next().and_then(fields_of).ok_or_else(shape)?;
        let left_out = parts.next().and_then(fields_of).ok_or_else(shape)?;
        let size = |bytes: &Bytes| std::str::from_utf8(bytes).ok()?.parse().ok();
        let large = left_out.into_iter().map(|(name, bytes)| (name, size(&bytes).unwrap_or(0))).collect();
        letters.push(Dead::read(place, &id, fields, large));
    }
    Ok(letters)
}

/// Reads the reply of `XINFO CONSUMERS`: name, pending, idle milliseconds.
pub fn consumers_of(value: Value) -> Option<Vec<(String, u64, u64)>> {
    let consumer = |item| {
        let info = std::collections::HashMap::<String, Value>::from_redis_value(item).ok()?;
        let count = |name: &str| info.get(name).and_then(number).unwrap_or(0);
        Some((text(info.get("name")?.clone())?, count("pending"), count("idle")))
    };
    list(value)?.into_iter().map(consumer).collect()
}

/// Reads a number of entries.
pub fn count_of(value: &Value) -> u64 {
    number(value).unwrap_or(0)
}

/// Reads the counters beside a queue: milliseconds and bytes.
pub fn weights_of(value: Value) -> (u64, u64) {
    let mut weights = list(value).unwrap_or_default().into_iter();
    let mut next = || weights.next().and_then(text)?.parse::<i64>().ok();
    let (ms, bytes) = (next(), next());
    let count = |value: Option<i64>| value.unwrap_or(0).max(0) as u64;
    (count(ms), count(bytes))
}
