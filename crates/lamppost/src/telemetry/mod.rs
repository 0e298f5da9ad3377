//! What the program says about itself while it runs: log lines and traces. (Figures are `http::metrics`.)

pub mod trace;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging to standard error, once per process; later calls change nothing. A panic is logged with its place.
pub fn log(level: &str, json: bool) -> anyhow::Result<()> {
    // The Delta library tells of every look at a log, which is several lines a seal; whoever wants them names it in log.level.
    let filter = EnvFilter::try_new(format!("buoyant_kernel=warn,{level}"))
        .map_err(|e| anyhow::anyhow!("log.level '{level}': {e}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_writer(std::io::stderr)).try_init()
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or("no message");
            tracing::error!(place, message, "panic");
        }));
    }
    Ok(())
}
