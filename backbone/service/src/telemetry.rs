//! What a program says about itself: messages on stderr, metrics for Prometheus, and the trace context that ties the
//! work on one recording together across programs.

mod trace;

pub use trace::TraceContext;

use std::panic::PanicHookInfo;

use metrics::gauge;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines for people, in colour on a terminal.
    Pretty,
    /// One JSON object a line, with the fields of all open spans.
    Json,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error(
        "--log ({}LOG): {filter:?} is not a filter ({cause}); expected a level or levels by module, such as info,decode=debug",
        crate::env::PREFIX
    )]
    Filter {
        /// The text given.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Telemetry was started before in this process.
    #[error("telemetry is already running: {0}")]
    Running(String),
}

/// Telemetry that runs.
#[derive(Clone)]
pub struct Telemetry {
    /// Renders the metrics of this process.
    pub metrics: PrometheusHandle,
}

/// Starts messages, the panic hook and metrics, once in a process. `filter` is a level or levels by module.
///
/// # Errors
/// When `filter` cannot be parsed, or telemetry runs already.
pub fn init(program: &'static str, format: Format, filter: &str) -> Result<Telemetry, TelemetryError> {
    let filter = parse_filter(filter)?;
    let messages = Subscriber::builder().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Pretty => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            tracing::subscriber::set_global_default(messages.with_ansi(colour).finish())
        }
        Format::Json => tracing::subscriber::set_global_default(messages.json().flatten_event(true).finish()),
    }
    .map_err(|error| TelemetryError::Running(error.to_string()))?;
    std::panic::set_hook(Box::new(log_panic));

    let metrics =
        recorder().install_recorder().map_err(|error| TelemetryError::Running(error.to_string()))?;
    metrics_process::Collector::default().describe();
    metrics::describe_gauge!("voiceforge_build_info", "1, with the program and its version as labels");
    gauge!("voiceforge_build_info", "program" => program, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Telemetry { metrics })
}

/// The metrics as Prometheus reads them, with those of the process brought up to date.
pub fn render(metrics: &PrometheusHandle) -> String {
    metrics_process::Collector::default().collect();
    metrics.run_upkeep();
    metrics.render()
}

/// Says what is wrong with a filter for [`init`].
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    match parse_filter(filter) {
        Err(TelemetryError::Filter { cause, .. }) => Err(format!("is not a filter ({cause})")),
        _ => Ok(()),
    }
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|cause| TelemetryError::Filter { filter: filter.to_owned(), cause: cause.to_string() })
}

/// Histograms with buckets that fit their unit, from a lookup in a cache to the work on an hour of audio.
fn recorder() -> PrometheusBuilder {
    const SECONDS: &[f64] = &[
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
        1800.0,
    ];
    const BYTES: &[f64] = &[1024.0, 16384.0, 262_144.0, 4_194_304.0, 67_108_864.0, 1_073_741_824.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES))
        .expect("the lists of buckets are not empty")
}

/// Logs a panic like any other message, so that it reaches where the others go and names the spans it happened in.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = matches!(backtrace.status(), std::backtrace::BacktraceStatus::Captured)
        .then(|| backtrace.to_string());
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location = info.location().map(ToString::to_string),
        backtrace,
        "panicked: {}",
        info.payload_as_str().unwrap_or("no message")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(parse_filter("info,decode=debug").is_ok());
        let error = parse_filter("info,decode=loud").unwrap_err().to_string();
        assert!(error.starts_with("--log (VOICEFORGE_LOG): \"info,decode=loud\" is not a filter"), "{error}");
    }

    #[test]
    fn metrics_have_buckets_by_unit_and_the_process() {
        let recorder = recorder().build_recorder();
        let handle = recorder.handle();
        let text = metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("decode_segment_seconds").record(0.3);
            render(&handle)
        });
        for line in
            ["decode_segment_seconds_bucket{le=\"0.25\"} 0", "decode_segment_seconds_bucket{le=\"0.5\"} 1"]
        {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        for name in ["process_resident_memory_bytes", "process_start_time_seconds"] {
            let value: f64 = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
                .parse()
                .unwrap_or(0.0);
            assert!(value > 0.0, "{name} in\n{text}");
        }
    }
}
