//! A throw-away NATS server with JetStream: a port and a store of its own, gone when it is dropped.
//!
//! It also ends when the test process ends in any other way: a small shell beside it waits for the end of a pipe that
//! only we hold.

use std::{
    fs,
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const MISSING: &str = "nats-server is needed by the tests and was not found. Install it with:\n    \
    apt-get update && apt-get install -y nats-server\n\
    or point LAMPPOST_NATS_SERVER at the program.";

/// A running server. Killed when dropped.
pub struct Server {
    watcher: Child,
    folder: TempDir,
    port: u16,
}

impl Server {
    /// Starts one on a port that the system chooses. Panics, with the line to type, when it is not installed: a test
    /// never passes by being skipped.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("lamppost-nats-").tempdir().expect("a temporary folder");
        let watcher = spawn(&folder, None);
        let mut server = Self { watcher, folder, port: 0 };
        server.port = server.wait_for_port();
        server
    }

    /// `nats://127.0.0.1:<port>`; the same after a restart.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As when the power goes: kill -9. [`Server::resume`] brings it back with what it had stored.
    pub fn kill(&mut self) {
        drop(self.watcher.stdin.take());
        self.watcher.wait().expect("our child");
    }

    /// Kills the server and starts it again on the same port and store.
    pub fn restart(&mut self) {
        self.kill();
        self.resume();
    }

    /// Starts a killed server again.
    pub fn resume(&mut self) {
        self.watcher = spawn(&self.folder, Some(self.port));
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            self.check(until);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The server writes its ports into a file once it listens, so nobody can take the port in between.
    fn wait_for_port(&mut self) -> u16 {
        let until = Instant::now() + PATIENCE;
        loop {
            let ports = fs::read_dir(self.folder.path()).expect("our folder").filter_map(Result::ok);
            let file = ports.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "ports"));
            let text = file.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
            let port = text.split("nats://").nth(1).and_then(|url| {
                let digits = url.rsplit(':').next().map(|rest| rest.chars().take_while(char::is_ascii_digit));
                digits?.collect::<String>().parse().ok()
            });
            if let Some(port) = port {
                return port;
            }
            self.check(until);
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn check(&mut self, until: Instant) {
        let ended = self.watcher.try_wait().expect("our child");
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(ended.is_none(), "nats-server ended ({ended:?}):\n{}", log());
        assert!(Instant::now() < until, "nats-server did not start in time:\n{}", log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn spawn(folder: &TempDir, port: Option<u16>) -> Child {
    let path = folder.path();
    let config = path.join("nats.conf");
    let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\nmax_payload: 8388608\nlog_file: \"{log}\"\njetstream {{ store_dir: \"{store}\" }}\n",
        log = path.join("log").display(),
        store = path.join("store").display(),
    );
    fs::write(&config, text).expect("our folder");
    // $@ is the server. The pipe is copied to 3 because a shell gives what it starts in the background no input.
    let script = r#"exec 3<&0; "$@" 3<&- & server=$!; (cat <&3; kill -9 $server) & wait $server"#;
    Command::new("sh")
        .args(["-c", script, "lamppost-test-nats"])
        .arg(program())
        .arg("-c")
        .arg(&config)
        .arg("--ports_file_dir")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A process group of its own, so that Ctrl-C at the terminal does not end it before the test is over.
        .process_group(0)
        .spawn()
        .expect("sh can be run")
}

fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("LAMPPOST_NATS_SERVER") {
        return named.into();
    }
    let places = ["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"];
    places.into_iter().map(PathBuf::from).find(|place| place.is_file()).unwrap_or_else(|| panic!("{MISSING}"))
}
