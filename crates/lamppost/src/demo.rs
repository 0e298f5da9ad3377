//! `lamppost demo`: the platform and a simulated field beside it. `lamppost simulate`: the field alone.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use kernel::{Caller, SystemClock};
use sensing::{
    devices::{Devices, NewDevice},
    model::EntityType,
    notify::webhook,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Settings, ordered_to_stop},
    compose::{self, Running},
    pack::apply,
    simulate, telemetry,
};

/// Where the published files are served in a demonstration; the pack's connectors ask there.
const FEEDS: &str = "127.0.0.1:8090";
/// The secret of the recipients that the pack of the demonstration declares, by its name there.
const CONTROL_ROOM: &str = "control-room";
/// History that the field fills in at its first start.
const BACKFILL: Duration = Duration::from_secs(24 * 3_600);

/// What the field keeps between starts: the keys of its devices and the day it began.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    since: Option<jiff::civil::Date>,
    keys: BTreeMap<String, String>,
}

#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// The pack whose simulated things are played.
    #[arg(long, default_value = "packs/hong-kong")]
    pack: PathBuf,
    /// The platform's MQTT door.
    #[arg(long, default_value = "127.0.0.1:1883")]
    mqtt: SocketAddr,
    /// Its HTTP door, for devices that fetch firmware or speak through a network server of LoRaWAN.
    #[arg(long)]
    http: Option<SocketAddr>,
    /// A JSON file with the devices' keys: {"keys": {"flood-san-tin": "…"}}.
    #[arg(long)]
    keys: PathBuf,
    /// Where to serve the published files.
    #[arg(long)]
    feeds: Option<SocketAddr>,
    /// A thing whose actuators misbehave: silent (never answers), refuses, or wrong (does something else). May be given several times.
    #[arg(long, value_name = "THING=FAULT", value_parser = fault)]
    fault: Vec<(String, simulate::actuator::Fault)>,
}

fn fault(text: &str) -> Result<(String, simulate::actuator::Fault), String> {
    let (thing, fault) = text.split_once('=').ok_or("such as hepa-qmh-01=silent")?;
    Ok((thing.to_owned(), fault.parse()?))
}

pub fn simulate(args: SimulateArgs) -> anyhow::Result<()> {
    telemetry::log("info", false)?;
    let kept: Kept =
        serde_json::from_slice(&std::fs::read(&args.keys).with_context(|| args.keys.display().to_string())?)?;
    let options = simulate::Options {
        pack: args.pack,
        mqtt: args.mqtt,
        http: args.http,
        since: kept.since.unwrap_or_else(|| jiff::Zoned::now().date()),
        keys: kept.keys,
        feeds: args.feeds,
        backfill: Duration::ZERO,
        faults: args.fault.into_iter().collect(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let field = tokio::spawn(simulate::run(options, stop.clone()));
        ordered_to_stop().await?;
        stop.cancel();
        field.await?
    })
}

pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let (mut config, _) = settings.read()?;
    // The published files come from the field, which is on this machine.
    config.outgoing.push(FEEDS.to_owned());
    // So does the control room that the pack's webhooks go to. Its secret is made anew at every start: nobody else needs to know it.
    let secret = format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()));
    let secret = webhook::Secret::parse(&secret).map_err(anyhow::Error::msg)?;
    config.webhook_secrets.entry(CONTROL_ROOM.to_owned()).or_insert(secret);
    let hooks = simulate::hooks::router(config.webhook_secrets.clone());
    telemetry::log(&config.log_level, config.log_json)?;
    let (pack, file) = (config.pack.clone(), config.data.join("field.json"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        // The published files are there before the connectors ask for them.
        let feeds = tokio::spawn(simulate::feeds(FEEDS.parse()?, pack.join("data"), hooks, stop.clone()));
        let running = compose::start(config, Arc::new(SystemClock)).await?;
        let mqtt = running.mqtt.context("the demonstration needs the MQTT door: set mqtt.listen")?;
        let fresh = !file.exists();
        let kept = keys(&running, &file).await?;
        let options = simulate::Options {
            pack,
            mqtt,
            http: Some(running.http),
            since: kept.since.unwrap_or_else(|| jiff::Zoned::now().date()),
            keys: kept.keys,
            feeds: None,
            backfill: if fresh { BACKFILL } else { Duration::ZERO },
            faults: BTreeMap::new(),
        };
        running.announce();
        println!(
            "The readings of lampposts, flood stations, toilets, car parks, HEPA units, survey vessels, the prison and live weather are simulated."
        );
        let field = tokio::spawn(simulate::run(options, stop.clone()));
        ordered_to_stop().await?;
        stop.cancel();
        drop(feeds.await);
        // The field goes first, or each device would cry over its lost connection.
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(5), field).await.unwrap_or(Ok(Ok(()))) {
            tracing::warn!(%error, "the simulated field ended badly");
        }
        running.stop().await;
        anyhow::Ok(())
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// Registers a device for every simulated thing that has none yet, and keeps the keys for the next start.
async fn keys(running: &Running, file: &std::path::Path) -> anyhow::Result<Kept> {
    let mut kept: Kept = match std::fs::read(file) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged: remove it", file.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    kept.since.get_or_insert_with(|| jiff::Zoned::now().date());
    let inventory = apply::inventory(&running.pack).await?;
    let missing: Vec<_> = inventory.things.iter().filter(|t| t.simulated && !kept.keys.contains_key(&t.key)).collect();
    let caller = Caller::system("demo");
    // Many at once: the records' group commit makes one flush of them.
    for chunk in missing.chunks(64) {
        let issued = chunk.iter().map(|thing| issue(running, &running.devices, &caller, thing));
        for (key, secret) in futures::future::try_join_all(issued).await? {
            kept.keys.insert(key, secret);
        }
    }
    write(file, &serde_json::to_vec_pretty(&kept)?).with_context(|| file.display().to_string())?;
    Ok(kept)
}

async fn issue(
    running: &Running,
    devices: &Devices,
    caller: &Caller,
    thing: &crate::pack::things::Thing,
) -> anyhow::Result<(String, String)> {
    let id = running.catalog.by_key(EntityType::Thing, &thing.tenant, &thing.key).await?;
    let device = NewDevice {
        tenant: thing.tenant.clone(),
        key: thing.key.clone(),
        name: Some(thing.name.en.clone()),
        kind: thing.system.clone(),
        firmware: Some("simulated 1.0".to_owned()),
        things: id.into_iter().collect(),
        gateway: false,
    };
    let device = devices.register(caller, device).await?;
    let key = devices.issue_key(caller, device.id, None).await?;
    Ok((thing.key.clone(), key.secret))
}

/// Writes a file that only its owner can read, whole or not at all.
fn write(file: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let fresh = file.with_extension("new");
    let mut out = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(fresh, file)
}
