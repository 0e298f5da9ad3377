//! A throw-away server that speaks S3 (moto, from e2e/requirements.txt): one empty bucket in memory, gone when dropped.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Killed when dropped, and also when the test process ends in any other way.
pub struct Server {
    watcher: Child,
    port: u16,
}

impl Server {
    /// Starts one with an empty bucket named `bucket`. Panics when it cannot: a test never passes by being skipped.
    pub fn start(bucket: &str) -> Self {
        let python = crate::python::interpreter();
        // A port the system chose; between closing and reopening it another process could take it, which then fails loudly.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        // The shell outlives neither us nor the server: it reads a pipe that only we hold, then ends its whole group.
        let script = "\"$0\" -c 'import sys; from moto.server import main; main(sys.argv[1:])' -H 127.0.0.1 -p \"$1\" \
                      >/dev/null 2>&1 & read -r _; kill -9 0";
        let watcher = Command::new("sh")
            .args(["-c", script])
            .arg(python)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let server = Self { watcher, port };
        let until = Instant::now() + PATIENCE;
        while !server.put(bucket) {
            assert!(Instant::now() < until, "the S3 server of the tests did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// `http://127.0.0.1:<port>`. Any access key will do.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// As when the network to it is cut: connections stay, nothing answers, until [`Server::resume`].
    pub fn pause(&self) {
        self.signal("-STOP");
    }
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.watcher.id());
        let done = Command::new("kill").args([signal, "--", &group]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// Creates the bucket; false while nobody answers.
    fn put(&self, bucket: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let credential =
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let request = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: {credential}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.port
        );
        let mut answer = Vec::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_end(&mut answer).is_ok()
            && answer.starts_with(b"HTTP/1.1 200")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.resume();
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}
