//! W3C trace context: the identity of a chain of work, carried in the envelope of every event.
//!
//! Source: <https://www.w3.org/TR/trace-context/#traceparent-header>.

use std::fmt;

/// The trace a piece of work belongs to, and the work's own place in it. `Display` gives the `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceContext {
    /// The beginning of a new trace, sampled.
    pub fn new() -> TraceContext {
        TraceContext { trace_id: random(), span_id: random(), flags: 1 }
    }

    /// Reads a `traceparent`; `None` for anything the standard calls invalid. Later versions are read as far as known.
    pub fn parse(traceparent: &str) -> Option<TraceContext> {
        let (version, rest) = traceparent.split_once('-')?;
        let (trace_id, rest) = rest.split_once('-')?;
        let (span_id, rest) = rest.split_once('-')?;
        let (flags, more) = rest.split_once('-').map_or((rest, None), |(flags, more)| (flags, Some(more)));
        let version = parse_hex(version, 2)?;
        if version == 0xff || (version == 0 && more.is_some()) {
            return None;
        }
        let context = TraceContext {
            trace_id: parse_hex(trace_id, 32)?,
            span_id: u64::try_from(parse_hex(span_id, 16)?).ok()?,
            flags: u8::try_from(parse_hex(flags, 2)?).ok()?,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// The next piece of work in the trace of an envelope; a new trace when the envelope has none, or not a valid one.
    pub fn follow(traceparent: Option<&str>) -> TraceContext {
        traceparent.and_then(TraceContext::parse).map_or_else(TraceContext::new, |context| context.child())
    }

    /// The next piece of work in this trace.
    pub fn child(&self) -> TraceContext {
        TraceContext { span_id: random(), ..*self }
    }

    /// The trace's id, 32 hexadecimal digits: what one searches messages for.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Opens the span for work on a recording, or on one of its segments. Every message in it carries these ids.
    pub fn span(&self, recording: &dyn fmt::Display, segment: Option<&dyn fmt::Display>) -> tracing::Span {
        tracing::info_span!(
            "work",
            %recording,
            segment = segment.map(tracing::field::display),
            trace_id = self.trace_id(),
            span_id = format!("{:016x}", self.span_id),
        )
    }
}

impl Default for TraceContext {
    fn default() -> TraceContext {
        TraceContext::new()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Exactly `digits` lower-case hexadecimal digits.
fn parse_hex(text: &str, digits: usize) -> Option<u128> {
    let valid = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| u128::from_str_radix(text, 16).ok())?
}

/// A random id; zero means "none" in the standard.
fn random<T: PartialEq + Default>() -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    loop {
        let id = rand::random();
        if id != T::default() {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(TraceContext::parse(PARENT).unwrap().to_string(), PARENT);
        let new = TraceContext::new();
        assert_eq!(TraceContext::parse(&new.to_string()), Some(new));
    }

    #[test]
    fn refuses_what_the_standard_calls_invalid() {
        for (bad, why) in [
            ("", "empty"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", "no flags"),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "upper case"),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", "no trace"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "no span"),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "version ff"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", "more in version 00"),
            ("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a sign"),
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{why}");
        }
        assert!(
            TraceContext::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x").is_some(),
            "a later version"
        );
    }

    #[test]
    fn messages_carry_the_ids_of_the_work() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&written);
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || Shared(Arc::clone(&writer))).finish();
        tracing::subscriber::with_default(subscriber, || {
            let context = TraceContext::parse(PARENT).unwrap();
            context.span(&"r-1", Some(&"r-1.0.0.7")).in_scope(|| tracing::info!("transcribed"));
            context.span(&"r-1", None).in_scope(|| tracing::info!("decoded"));
        });
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let spans: Vec<String> = written
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["span"].to_string())
            .collect();
        assert_eq!(
            spans,
            [
                r#"{"name":"work","recording":"r-1","segment":"r-1.0.0.7","span_id":"00f067aa0ba902b7","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#,
                r#"{"name":"work","recording":"r-1","span_id":"00f067aa0ba902b7","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#,
            ]
        );
    }

    /// A place that several writers write to.
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn follows_the_envelope() {
        let next = TraceContext::follow(Some(PARENT));
        assert_eq!(next.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(next.to_string(), PARENT);
        assert_ne!(TraceContext::follow(None).trace_id(), TraceContext::follow(Some("nonsense")).trace_id());
    }
}
