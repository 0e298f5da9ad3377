//! The commands.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use kernel::{Caller, Role, SystemClock, Tenant};

use crate::{
    alone, backup, compose,
    config::{self, Config, Sources},
    demo,
    operators::{Operators, Person},
    pack::{self, Mistake, Pack},
    stores, telemetry,
};

/// The digital backbone of a city in one program.
#[derive(Debug, Parser)]
#[command(name = "lamppost", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the city: pages, APIs, devices.
    Serve(Settings),
    /// Serve the city together with a simulated field of devices.
    Demo(Settings),
    /// Play the devices of a pack that are marked as simulated against a platform somewhere else.
    Simulate(demo::SimulateArgs),
    /// Check the configuration and print every value in effect with its origin.
    Check {
        #[command(flatten)]
        settings: Settings,
        /// Print docs/configuration.md instead.
        #[arg(long)]
        document: bool,
        /// Print docs/endpoints.md instead.
        #[arg(long)]
        endpoints: bool,
    },
    /// Check a pack, or bring the stores to it.
    Pack {
        #[command(subcommand)]
        command: PackCommand,
    },
    /// Write everything into a new folder, while the city is served or not.
    Backup {
        /// The new folder. Of a city that is served: below its backup.folder.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// A file with an API key that may do ops:manage, for a city that is served.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Bring a backup back into an empty data folder.
    Restore {
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        #[command(flatten)]
        settings: Settings,
    },
    /// Operators, keys and rights.
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
}

/// Where settings come from; later flags win over earlier ones, and flags over environment and file.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// The configuration file [default: lamppost.toml when there is one].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder (data).
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<String>,
    /// The city (pack).
    #[arg(long, value_name = "FOLDER")]
    pub pack: Option<String>,
    /// Where to serve HTTP (http.listen).
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where MQTT devices connect (mqtt.listen).
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub mqtt: Option<String>,
    /// Any setting, such as --set log.format=json. See docs/configuration.md.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Settings {
    /// The layers as the process sees them.
    pub fn sources(&self) -> anyhow::Result<Sources> {
        let named = [
            ("data", "--data", &self.data),
            ("pack", "--pack", &self.pack),
            ("http.listen", "--listen", &self.listen),
            ("mqtt.listen", "--mqtt", &self.mqtt),
        ];
        let mut flags: Vec<(String, String, String)> = named
            .into_iter()
            .filter_map(|(key, flag, value)| Some((key.to_owned(), value.clone()?, flag.to_owned())))
            .collect();
        for pair in &self.set {
            let (key, value) = pair.split_once('=').with_context(|| format!("--set {pair}: KEY=VALUE is expected"))?;
            flags.push((key.to_owned(), value.to_owned(), format!("--set {key}")));
        }
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        Ok(Sources { file: self.config.clone(), environment, flags })
    }

    pub fn read(&self) -> anyhow::Result<(Config, config::Values)> {
        Config::read(&self.sources()?).map_err(|mistakes| {
            let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the configuration has mistakes:\n{}", lines.join("\n"))
        })
    }
}

#[derive(Debug, Subcommand)]
pub enum PackCommand {
    /// Read every file of a pack and name each mistake.
    Check { folder: PathBuf },
    /// Bring the stores to the configured pack while the city is not being served. (`serve` does it by itself at its start.)
    Apply(Settings),
}

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Make a one-time link for a further operator. Works while the city is served, and while it is not.
    Invite {
        /// The department.
        #[arg(long)]
        tenant: String,
        /// May be given more than once.
        #[arg(long = "role", required = true)]
        roles: Vec<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Let somebody from outside look into a department, above all a sealed one that nobody else can open: named, for a reason, for hours.
    Visit {
        #[arg(long)]
        tenant: String,
        #[arg(long = "role", default_value = "viewer")]
        role: String,
        /// Who comes in.
        #[arg(long)]
        name: String,
        /// Why: the department's auditor reads it.
        #[arg(long)]
        reason: String,
        #[arg(long, default_value_t = 4)]
        hours: u32,
        #[command(flatten)]
        settings: Settings,
    },
    /// Make an API key for a program; it is printed once.
    Key {
        #[arg(long)]
        tenant: String,
        #[arg(long = "role", required = true)]
        roles: Vec<String>,
        /// What it is for.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// List the people of the city, or of a department.
    People {
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Make a one-time link with which somebody sets a new password: for the last administrator, whom nobody else can help.
    Reset {
        /// What they type to sign in.
        #[arg(long)]
        account: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Shut an account at once and everywhere.
    Disable {
        #[arg(long)]
        account: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Open an account again that was shut.
    Enable {
        #[arg(long)]
        account: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Give somebody other roles than they have.
    Roles {
        #[arg(long)]
        account: String,
        /// May be given more than once.
        #[arg(long = "role", required = true)]
        roles: Vec<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Which callers may do an action to a kind of resource.
    WhoCan {
        /// Such as sensing:write.
        action: String,
        /// Such as Thing, Datastream, Alarm, Device.
        kind: String,
        /// The owner of the resource.
        #[arg(long)]
        tenant: Option<String>,
        /// Of a resource that its owner has published.
        #[arg(long)]
        public: bool,
        #[command(flatten)]
        settings: Settings,
    },
}

/// Runs the command; the process ends with what it returns.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(settings) => serve(&settings),
        Command::Demo(settings) => demo::run(&settings),
        Command::Simulate(args) => demo::simulate(args),
        Command::Check { document: true, .. } => {
            print!("{}", config::document());
            Ok(())
        }
        Command::Check { endpoints: true, .. } => {
            print!("{}", crate::http::openapi::table(&crate::compose::routes()));
            Ok(())
        }
        Command::Check { settings, .. } => {
            let (_, values) = settings.read()?;
            print!("{}", values.show());
            Ok(())
        }
        Command::Pack { command: PackCommand::Check { folder } } => {
            let (pack, inventory) = named_mistakes(&folder, Pack::check(&folder))?;
            crate::declared::check(&pack)?;
            let streams: usize = inventory.things.iter().map(|t| t.datastreams.len()).sum();
            println!(
                "{}: {} things, {streams} datastreams, {} tenants: no mistakes",
                folder.display(),
                inventory.things.len(),
                pack.tenants.len()
            );
            Ok(())
        }
        Command::Backup { to, key_file, settings } => backup(&settings, &to, key_file.as_deref()),
        Command::Restore { from, settings } => {
            let (config, _) = settings.read()?;
            let manifest = backup::restore(&from, &config, Arc::new(SystemClock))?;
            println!("{}: brought back as of {}, {} files", config.data.display(), manifest.at, manifest.files.len());
            Ok(())
        }
        Command::Pack { command: PackCommand::Apply(settings) } => apply(&settings),
        Command::Admin { command: AdminCommand::Invite { tenant, roles, settings } } => {
            let (token, config) = admin(
                &settings,
                async move |operators, tenant| operators.invite(&Caller::system("admin"), &tenant, named(roles)).await,
                &tenant,
            )?;
            let url = config.http.public_url.unwrap_or_else(|| format!("http://{}", config.http.listen));
            println!("{url}/en/join/{token}");
            Ok(())
        }
        Command::Admin { command: AdminCommand::Visit { tenant, role, name, reason, hours, settings } } => {
            let (token, config) = admin(
                &settings,
                async move |operators, tenant| {
                    let roles = named(vec![role]);
                    operators.visit(&Caller::system("admin"), &tenant, roles, (&name, &reason), hours).await
                },
                &tenant,
            )?;
            let url = config.http.public_url.unwrap_or_else(|| format!("http://{}", config.http.listen));
            println!("{url}/en/join/{token}");
            Ok(())
        }
        Command::Admin { command: AdminCommand::Key { tenant, roles, name, settings } } => {
            let (key, _) = admin(
                &settings,
                async move |operators, tenant| {
                    operators.make_key(&Caller::system("admin"), &tenant, &name, named(roles), None).await
                },
                &tenant,
            )?;
            println!("{key}");
            Ok(())
        }
        Command::Admin { command: AdminCommand::People { tenant, settings } } => people(&settings, tenant.as_deref()),
        Command::Admin { command: AdminCommand::Reset { account, settings } } => {
            let (token, config) = of_account(&settings, &account, async |operators, person| {
                operators.reset_link(&Caller::system("admin"), &person.id.to_string()).await
            })?;
            let url = config.http.public_url.unwrap_or_else(|| format!("http://{}", config.http.listen));
            println!("{url}/en/reset/{token}");
            Ok(())
        }
        Command::Admin { command: AdminCommand::Disable { account, settings } } => {
            shut_or_open(&settings, &account, false)
        }
        Command::Admin { command: AdminCommand::Enable { account, settings } } => {
            shut_or_open(&settings, &account, true)
        }
        Command::Admin { command: AdminCommand::Roles { account, roles, settings } } => {
            of_account(&settings, &account, async move |operators, person| {
                operators.set_roles(&Caller::system("admin"), &person.id.to_string(), named(roles)).await
            })?;
            println!("{account}: the roles are changed");
            Ok(())
        }
        Command::Admin { command: AdminCommand::WhoCan { action, kind, tenant, public, settings } } => {
            let (config, _) = settings.read()?;
            who_can(&check(&config.pack)?, action, kind, tenant.as_deref(), public)
        }
    }
}

/// The pack without its things, for commands that need none.
fn check(folder: &Path) -> anyhow::Result<Pack> {
    named_mistakes(folder, Pack::load(folder))
}

fn named_mistakes<T>(folder: &Path, read: Result<T, Vec<Mistake>>) -> anyhow::Result<T> {
    read.map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(|m| format!("{}/{m}", folder.display())).collect();
        anyhow::anyhow!("{} mistakes:\n{}", lines.len(), lines.join("\n"))
    })
}

fn apply(settings: &Settings) -> anyhow::Result<()> {
    let (config, _) = settings.read()?;
    telemetry::log(&config.log_level, config.log_json)?;
    let pack = Arc::new(check(&config.pack)?);
    let layout = stores::Layout::new(&config.data);
    layout.create()?;
    let _lock = layout.take()?;
    let clock = Arc::new(SystemClock);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let alone = alone::take(&config, clock.clone()).await?;
        let records = stores::open_records(&config, clock.clone())?;
        let catalog = sensing::Catalog::open(records.clone(), pack.policy.clone(), clock)?;
        let changed = pack::apply::bring(&pack, &catalog, &records).await;
        records.close().await;
        if let Some(alone) = alone {
            alone.give_back().await;
        }
        println!("{}: {}", config.pack.display(), if changed? { "applied" } else { "nothing to do" });
        anyhow::Ok(())
    })
}

fn backup(settings: &Settings, to: &Path, key_file: Option<&Path>) -> anyhow::Result<()> {
    let (config, _) = settings.read()?;
    telemetry::log(&config.log_level, config.log_json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let layout = stores::Layout::new(&config.data);
    anyhow::ensure!(layout.root().exists(), "there is no folder {}", layout.root().display());
    match layout.take() {
        Ok(_lock) => {
            let pack = check(&config.pack)?;
            let manifest = runtime.block_on(async {
                let clock = Arc::new(SystemClock);
                let stores = stores::Stores::open(&config, clock.clone()).await?;
                let made = backup::write(&stores, &config, &pack.hash, clock.as_ref(), to).await;
                stores.close().await;
                made
            })?;
            println!("{}: {} files as of {}", to.display(), manifest.files.len(), manifest.at);
            Ok(())
        }
        Err(_) => runtime.block_on(backup_served(&config, to, key_file)),
    }
}

/// Asks the program that serves the city, and waits until it has done it.
async fn backup_served(config: &Config, to: &Path, key_file: Option<&Path>) -> anyhow::Result<()> {
    let key_file = key_file
        .context("the city is being served: name a file with an API key that may do ops:manage (--key-file)")?;
    let key = std::fs::read_to_string(key_file).with_context(|| key_file.display().to_string())?;
    let folder = config.backup_folder.as_ref().context("the city is being served: set backup.folder")?;
    let inside = to.parent() == Some(folder.as_path());
    let name = to.file_name().and_then(|n| n.to_str()).filter(|_| inside);
    let name = name.with_context(|| format!("the city is being served: --to must be {}/<name>", folder.display()))?;
    let url = format!("http://{}/api/ops/backups/{name}", config.http.listen);
    let client = crate::client::new(std::time::Duration::from_secs(30))?;
    let mut method = reqwest::Method::PUT;
    loop {
        let answer = client.request(method, &url).bearer_auth(key.trim()).send().await?;
        let (status, body) = (answer.status(), answer.json::<serde_json::Value>().await.unwrap_or_default());
        anyhow::ensure!(status.is_success(), "{status}: {}", body["detail"].as_str().unwrap_or("no reason given"));
        match body["state"].as_str() {
            Some("done") => break,
            Some("running") => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
            _ => anyhow::bail!("the backup failed; the log of the program that serves the city says why"),
        }
        method = reqwest::Method::GET;
    }
    println!("{}: done", to.display());
    Ok(())
}

fn named(roles: Vec<String>) -> BTreeSet<Role> {
    roles.into_iter().map(Role::Owned).collect()
}

/// Does something with the operators of the configured city, in its records, beside a program that may be serving it.
fn with_operators<T, F>(settings: &Settings, work: impl FnOnce(Operators, Pack) -> F) -> anyhow::Result<(T, Config)>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let (config, _) = settings.read()?;
    let pack = check(&config.pack)?;
    let records = stores::open_records(&config, Arc::new(SystemClock))?;
    let operators = compose::operators(&config, &records, &pack)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(async {
        let done = work(operators, pack).await;
        records.close().await;
        done
    });
    Ok((done?, config))
}

/// Something for a department.
fn admin<F>(
    settings: &Settings,
    work: impl FnOnce(Operators, Tenant) -> F,
    tenant: &str,
) -> anyhow::Result<(String, Config)>
where
    F: Future<Output = Result<String, kernel::Problem>>,
{
    with_operators(settings, async |operators, pack| {
        let found = pack.tenants.iter().find(|t| t.as_str() == tenant).cloned();
        let tenant = found.with_context(|| format!("there is no tenant {tenant}"))?;
        work(operators, tenant).await.map_err(|p| anyhow::anyhow!("{p}"))
    })
}

/// Something for one person, by what they type to sign in.
fn of_account<T, F>(
    settings: &Settings,
    account: &str,
    work: impl FnOnce(Operators, Person) -> F,
) -> anyhow::Result<(T, Config)>
where
    F: Future<Output = Result<T, kernel::Problem>>,
{
    with_operators(settings, async |operators, _| {
        let found = operators.named(account).await.map_err(|p| anyhow::anyhow!("{p}"))?;
        let person = found.with_context(|| format!("there is no account {account}"))?;
        work(operators, person).await.map_err(|p| anyhow::anyhow!("{p}"))
    })
}

fn shut_or_open(settings: &Settings, account: &str, enabled: bool) -> anyhow::Result<()> {
    of_account(settings, account, async |operators, person| {
        operators.set_enabled(&Caller::system("admin"), &person.id.to_string(), enabled).await
    })?;
    println!("{account}: {}", if enabled { "open" } else { "shut" });
    Ok(())
}

fn people(settings: &Settings, tenant: Option<&str>) -> anyhow::Result<()> {
    with_operators(settings, async |operators, pack| {
        let wanted: Vec<_> = pack.tenants.iter().filter(|t| tenant.is_none_or(|slug| t.as_str() == slug)).collect();
        anyhow::ensure!(!wanted.is_empty(), "there is no tenant {}", tenant.unwrap_or_default());
        for tenant in wanted {
            let found = operators.people(&Caller::system("admin"), tenant).await.map_err(|p| anyhow::anyhow!("{p}"))?;
            for (person, seen) in found {
                let roles: Vec<&str> = person.roles.iter().map(AsRef::as_ref).collect();
                let state = if person.enabled { "open" } else { "shut" };
                let seen = seen.map_or_else(|| "never".to_owned(), |at| at.to_string());
                println!("{tenant}\t{}\t{}\t{}\t{state}\t{seen}", person.account, person.name, roles.join(" "));
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn who_can(pack: &Pack, action: String, kind: String, tenant: Option<&str>, public: bool) -> anyhow::Result<()> {
    let known = pack.policy.actions();
    anyhow::ensure!(
        known.contains(action.as_str()),
        "there is no action {action}; there are {}",
        known.into_iter().collect::<Vec<_>>().join(", ")
    );
    let tenant = tenant
        .map(|slug| {
            pack.tenants.iter().find(|t| t.as_str() == slug).with_context(|| format!("there is no tenant {slug}"))
        })
        .transpose()?;
    // A command's two words live as long as the process, which ends with the command.
    let (action, kind) = (kernel::Action(action.leak()), &*kind.leak());
    let resource = kernel::Resource { kind, id: "", tenant, public };
    let roles: Vec<String> = pack.city.role.iter().map(|r| r.key.get_ref().clone()).collect();
    for line in pack.policy.who_can(action, &resource, &pack.tenants, &roles) {
        println!("{line}");
    }
    Ok(())
}

fn serve(settings: &Settings) -> anyhow::Result<()> {
    let (config, _) = settings.read()?;
    telemetry::log(&config.log_level, config.log_json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = compose::start(config, Arc::new(SystemClock)).await?;
        running.announce();
        tokio::select! {
            ordered = ordered_to_stop() => ordered?,
            // Nothing is closed in order: what this program still holds belongs to the other one.
            () = running.taken_over() => anyhow::bail!("another lamppost has taken over the city"),
        }
        running.stop().await;
        anyhow::Ok(())
    })?;
    // What still runs has had its time; waiting for blocking threads would make an ordered stop hang.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(())
}

/// SIGTERM, or Ctrl-C.
pub async fn ordered_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
