//! A throw-away PostgreSQL 15: one cluster for the test process, one new database for each test.
//!
//! The cluster listens on a socket in its own folder, so test processes cannot meet. It ends and its folder goes when the
//! test process ends, however that happens: a small shell beside it waits for the end of a pipe that only we hold.
//!
//! [`Cluster`] is one for a test alone, which can stop it and start it again.

use std::{
    io::Read as _,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use postgres::{Client, Config, NoTls};

const MISSING: &str = "PostgreSQL 15 is needed by the tests and was not found. Install it with:\n    \
    apt-get update && apt-get install -y postgresql-15\n\
    or point LAMPPOST_POSTGRES_BIN at the folder that holds initdb and postgres.";

/// A running server. Stopped, and its folder removed, when dropped.
pub struct Cluster {
    folder: PathBuf,
    /// The cluster lives as long as the pipe into it is open; `None` while it is stopped.
    watcher: Option<Child>,
}

/// While this file is there the folder outlives its server.
const KEEP: &str = "keep";

/// A database of its own for one test; empty, UTF-8, with the locale of a person rather than of a machine, so that a test
/// notices where the order of text depends on it.
#[derive(Clone, Debug)]
pub struct Database {
    name: String,
    url: String,
}

static SETTINGS: OnceLock<Vec<&'static str>> = OnceLock::new();

/// Settings of the cluster beside those of a test, such as `shared_buffers=1GB`: for measurements. Counts only before the first database.
pub fn settings(settings: &[&'static str]) {
    // A second call, like one that comes too late, has nothing to change.
    let _ = SETTINGS.set(settings.to_vec());
}

/// A new database. Panics, with the line to type, when PostgreSQL is not installed: a test never passes by being skipped.
pub fn database() -> Database {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(Cluster::start);
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let address = |name: &str| format!("host={} user=postgres dbname={name}", cluster.folder.display());
    let database = Database { url: address(&name), name };
    run(&address("postgres"), &format!("CREATE DATABASE {}", database.name));
    database
}

impl Database {
    /// In libpq's key-value form.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs statements as the superuser, on a connection of their own inside this database.
    pub fn run(&self, sql: &str) {
        run(&self.url, sql);
    }

    /// As when the server goes away: ends all connections and lets no new one in, until [`Database::comes_back`].
    pub fn goes_away(&self) {
        let name = &self.name;
        run(&self.elsewhere(), &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"));
        self.cut();
    }

    /// Ends all connections once; new ones are let in.
    pub fn cut(&self) {
        let name = &self.name;
        run(
            &self.elsewhere(),
            &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
        );
    }

    pub fn comes_back(&self) {
        run(&self.elsewhere(), &format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", self.name));
    }

    fn elsewhere(&self) -> String {
        self.url.replace(&format!("dbname={}", self.name), "dbname=postgres")
    }
}

/// On a thread of its own: the client drives a runtime, and the test may be running in one.
fn run(address: &str, sql: &str) {
    let config: Config = address.parse().expect("our own address");
    let result = std::thread::scope(|scope| {
        scope.spawn(move || config.connect(NoTls).and_then(|mut client: Client| client.batch_execute(sql))).join()
    });
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{sql}: {error:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Cluster {
    /// A new cluster. Panics, with the line to type, when PostgreSQL is not installed.
    pub fn start() -> Self {
        let programs = find_programs();
        let folder = tempfile::Builder::new().prefix("lamppost-pg-").tempdir().expect("a temporary folder").keep();
        // PostgreSQL refuses to run as root; then it runs as the user that its package made.
        let root = is_root();
        if root {
            let (user, group) = (number(&["-u", "postgres"]), number(&["-g", "postgres"]));
            std::os::unix::fs::chown(&folder, Some(user), Some(group)).expect("root may give a folder away");
        }
        let data = folder.join("data");
        let initdb = programs.join("initdb");
        let made = as_user(root, &initdb.to_string_lossy())
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "--no-instructions"])
            .args(["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-HK", "--pgdata"])
            .arg(&data)
            .current_dir(&folder)
            .output();
        check("initdb", &made.unwrap_or_else(|error| panic!("initdb cannot be started: {error}\n{MISSING}")));
        let mut cluster = Self { folder, watcher: None };
        cluster.resume();
        cluster
    }

    /// The database that every cluster has, in libpq's key-value form.
    pub fn url(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.display())
    }

    /// As when the machine goes: no connection is closed in order, nothing answers until [`Cluster::resume`].
    pub fn stop(&mut self) {
        std::fs::write(self.folder.join(KEEP), "").expect("our folder");
        self.end();
    }

    /// Starts the server, again with what it had stored, and waits until it answers.
    pub fn resume(&mut self) {
        let _ = std::fs::remove_file(self.folder.join(KEEP));
        let root = is_root();
        // $1 is the server, $2 its folder. QUIT ends it at once, as a crash would; the next start recovers from its log.
        let script = r#"program="$1"; folder="$2"; shift 2
            "$program" -D "$folder/data" -k "$folder" -c listen_addresses= -c max_connections=200 -c shared_buffers=64MB "$@" \
            >>"$folder/log" 2>&1 & server=$!; cat >/dev/null; kill -QUIT $server; wait $server; [ -e "$folder/keep" ] || rm -rf "$folder""#;
        let settings = SETTINGS.get().into_iter().flatten().flat_map(|setting| ["-c", setting]);
        let watcher = as_user(root, "sh")
            .args(["-c", script, "lamppost-test-postgres"])
            .arg(find_programs().join("postgres"))
            .arg(&self.folder)
            .args(settings)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A process group of its own, so that Ctrl-C at the terminal leaves it time to clean up.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("PostgreSQL cannot be started: {error}"));
        self.watcher = Some(watcher);
        self.wait();
    }

    fn end(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            drop(watcher.stdin.take());
            let _ = watcher.wait();
        }
    }

    fn wait(&self) {
        let started = Instant::now();
        let config: Config = self.url().parse().expect("our own address");
        loop {
            let connected = std::thread::scope(|scope| scope.spawn(|| config.connect(NoTls).map(drop)).join());
            match connected {
                Ok(Ok(())) => return,
                Ok(Err(_)) if started.elapsed() < Duration::from_secs(60) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => {
                    let mut log = String::new();
                    let file = std::fs::File::open(self.folder.join("log"));
                    let read = file.and_then(|mut file| file.read_to_string(&mut log));
                    panic!("PostgreSQL did not start: {other:?}\nlog ({read:?}):\n{log}");
                }
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.folder.join(KEEP));
        if self.watcher.is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
        self.end();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn as_user(root: bool, program: &str) -> Command {
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--", program]);
    command
}

fn find_programs() -> PathBuf {
    let named = std::env::var_os("LAMPPOST_POSTGRES_BIN").map(PathBuf::from);
    let mut places = named.map_or_else(|| vec![PathBuf::from("/usr/lib/postgresql/15/bin")], |named| vec![named]);
    places.retain(|place: &PathBuf| ["initdb", "postgres"].iter().all(|program| is_file(&place.join(program))));
    places.pop().unwrap_or_else(|| panic!("{MISSING}"))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

fn number(arguments: &[&str]) -> u32 {
    let output = Command::new("id").args(arguments).output().expect("id can be run");
    assert!(output.status.success(), "the user 'postgres' is missing.\n{MISSING}");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("id prints a number")
}

fn check(program: &str, output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} failed:\n{out}{err}");
}
