//! The life of a program, in the order an operator thinks of it.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::admin::{self, Readiness};
use crate::env::{self, Common, Env, LoadError, Loaded, Reader};
use crate::shutdown::{self, Shutdown};
use crate::telemetry;

/// The exit code for settings that cannot be used (`EX_USAGE` of sysexits.h): starting again will not help.
pub const BAD_CONFIGURATION: u8 = 64;

/// What surrounds the work of a program.
#[derive(Clone)]
pub struct Service {
    /// The program's name.
    pub program: &'static str,
    /// Where its parts say whether they can work.
    pub readiness: Readiness,
    /// The wish to end.
    pub shutdown: Shutdown,
    /// The bound admin address.
    pub admin: SocketAddr,
    /// Renders the metrics of this process.
    pub metrics: PrometheusHandle,
}

/// Runs a program: reads its settings, starts telemetry, waits for signals, opens the admin port, then does `work`.
/// After SIGTERM or SIGINT the work has the shutdown's grace to return.
///
/// The exit code is 0 when the work ends well, 1 when it fails or outlasts its grace, and [`BAD_CONFIGURATION`] when
/// the settings hold mistakes: then all of them are printed, and nothing has been bound or connected.
pub fn run<C, W>(
    program: &'static str,
    about: &'static str,
    read: impl Fn(&mut Reader) -> C,
    work: impl FnOnce(C, Service) -> W,
) -> ExitCode
where
    W: Future<Output = anyhow::Result<()>>,
{
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let loaded = env::load(program, about, &args, &Env, |from| {
        let config = read(from);
        (config, Common::read(from))
    });
    let Loaded { config: (config, common), warnings } = match loaded {
        Ok(loaded) => loaded,
        Err(LoadError::Help(text) | LoadError::Version(text)) => {
            // Whoever closed the pipe has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(LoadError::Mistakes(mistakes)) => {
            eprintln!("{mistakes}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let telemetry = match telemetry::init(program, common.log_format, &common.log) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{program}: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match live(program, common, telemetry, |service| work(config, service)) {
        Ok(()) => {
            tracing::info!(program, "ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // A filter may leave out our own messages; why a program died is told all the same.
            match tracing::enabled!(tracing::Level::ERROR) {
                true => tracing::error!(program, "{error:#}"),
                false => eprintln!("{program}: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

/// Chooses the cryptography of TLS connections for this process. Choosing again changes nothing.
pub fn install_tls() {
    // The error only says that a provider is already chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn live<W>(
    program: &'static str,
    common: Common,
    telemetry: telemetry::Telemetry,
    work: impl FnOnce(Service) -> W,
) -> anyhow::Result<()>
where
    W: Future<Output = anyhow::Result<()>>,
{
    install_tls();
    let shutdown = shutdown::on_signal(common.shutdown_grace).context("listen for signals")?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let readiness = Readiness::new();
    let metrics = telemetry.metrics;
    let admin = admin::serve(common.admin, program, &readiness, Some(metrics.clone()), &shutdown)?;
    if let Some(file) = &common.admin_file {
        admin::write_addr(file, admin.addr)
            .with_context(|| format!("write the admin address into {}", file.display()))?;
    }
    tracing::info!(program, version = env!("CARGO_PKG_VERSION"), "started");

    let service = Service { program, readiness, shutdown: shutdown.clone(), admin: admin.addr, metrics };
    let ended = runtime.block_on(async { shutdown.within_grace(work(service)).await });
    // Blocking work that nobody waits for must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    let grace_s = common.shutdown_grace.as_secs();
    ended.unwrap_or_else(|| {
        Err(anyhow!("work in hand did not end within {grace_s} s (--shutdown-grace); what is unfinished is taken up by another worker"))
    })
}
