//! `cargo xtask bench NAME`: ours and its peers, side by side in one run. How figures are taken stands in docs/benchmarks.md.

mod alarms;
mod city;
mod devices;
mod http;
mod ingest;
mod lamppost;
mod mqtt;
mod peers;
mod read;
mod records;
mod series;
mod sta;
mod start;
mod stream;
mod usage;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Observations through the front door: Lamppost, InfluxDB 1.6, VictoriaMetrics and PostgreSQL 15.
    Ingest(ingest::Args),
    /// Questions over observations in the lake: latest, last hundred, counts, a day and a year as hourly means.
    Read(read::Args),
    /// Small durable transactions: SQLite with group commit and without, PostgreSQL 15.
    Records(Transactions),
    /// QoS 1 messages, beside mosquitto.
    Mqtt(Messages),
    /// The log alone: batches of observations until they are durable.
    Stream(stream::Args),
    /// What clients of SensorThings ask, beside django-ogc-sensorthings on PostgreSQL 15.
    Sta(sta::Args),
    /// Devices that are connected and rarely speak: memory of each, CPU, acknowledgements.
    Devices(devices::Args),
    /// From a PUBLISH to the alarm in an open browser, with a thousand rules.
    Alarms(alarms::Args),
    /// Time to ready, idle memory, and how long pages take, with a million Things in the stores.
    Start(start::Args),
}

/// Which program to measure, and where it and its peers keep their data.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Lamppost's program [default: the one built beside this].
    #[arg(long)]
    program: Option<PathBuf>,
    #[arg(long, default_value = "packs/hong-kong")]
    pack: PathBuf,
    /// Decides the disk; /tmp may be memory.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
}

impl Place {
    pub fn program(&self) -> anyhow::Result<PathBuf> {
        let beside = || anyhow::Ok(std::env::current_exe()?.with_file_name("lamppost"));
        let program = self.program.clone().map_or_else(beside, Ok)?;
        anyhow::ensure!(program.is_file(), "{} is not there; run this by cargo xtask bench", program.display());
        Ok(program)
    }
}

#[derive(Debug, Args)]
struct Transactions {
    #[arg(long, default_value_t = 256)]
    callers: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Writing connections to PostgreSQL.
    #[arg(long, default_value_t = 16)]
    writers: usize,
    /// Transactions that share a COMMIT on one PostgreSQL connection.
    #[arg(long, default_value_t = 1)]
    postgres_batch: usize,
}

#[derive(Debug, Args)]
struct Messages {
    #[command(flatten)]
    place: Place,
    /// Connections that publish, and messages under way on each; give it several times for several runs.
    #[arg(long, default_values = ["50x100", "50x1", "1000x1", "1000x10"])]
    shape: Vec<mqtt::Shape>,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Ingest(args) => ingest::run(&args),
        Command::Read(args) => read::run(&args),
        Command::Records(Transactions { callers, seconds, folder, writers, postgres_batch }) => {
            crate::records::run(&crate::records::Args { callers, seconds, folder, writers, postgres_batch })
        }
        Command::Mqtt(args) => messages(args),
        Command::Stream(args) => crate::stream::run(&args),
        Command::Sta(args) => sta::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Alarms(args) => alarms::run(&args),
        Command::Start(args) => start::run(&args),
    }
}

/// Starts the city with a device that may publish to a Datastream for each connection, measures, and counts what it has afterwards.
fn messages(args: Messages) -> anyhow::Result<()> {
    let Messages { place, shape, seconds } = args;
    let folder = tempfile::Builder::new().prefix("bench-mqtt-").tempdir_in(&place.folder)?;
    let args = mqtt::Args { shapes: shape, seconds, folder: place.folder.clone() };
    let city = city::City::start(&place.program()?, &place.pack, folder.path())?;
    let most = args.shapes.iter().map(|shape| shape.publishers).max().unwrap_or(1);
    let streams = city.datastreams(most)?;
    let broker = mqtt::Broker {
        name: "Lamppost, PUBACK after the flush",
        address: city.mqtt,
        pid: city.pid(),
        user: "bench".to_owned(),
        password: city.device()?,
        topics: streams.iter().map(|id| format!("v1.1/Datastreams({id})/Observations")).collect(),
        filter: "v1.1/+/Observations",
    };
    let acknowledged = mqtt::measure(&broker, &args)?;
    let stored = city.observations(&streams)?;
    println!("  {acknowledged} acknowledged, {stored} found by HTTP");
    anyhow::ensure!(stored == acknowledged, "what was acknowledged and what is there are not the same");
    city.stop()?;
    mqtt::mosquitto(&args)
}
