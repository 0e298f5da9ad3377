//! PostgreSQL, NATS and S3 for a test that is no Rust program: prints the settings that a city needs to use them, one `key=value` a line,
//! then an empty line; then obeys one command a line and answers `ok`. Everything is gone when its input ends.
//!
//! Commands: `stop postgres`, `start postgres`, and the same of `nats` and `s3`.

use std::io::{BufRead as _, Write as _, stdin, stdout};

use testkit::{nats, postgres, s3};

const BUCKET: &str = "city";

fn main() {
    let (mut postgres, mut nats, s3) = (postgres::Cluster::start(), nats::Server::start(), s3::Server::start(BUCKET));
    println!("records.engine=postgres\nrecords.url={}", postgres.url());
    println!("stream.engine=nats\nstream.url={}", nats.url());
    println!("lake.engine=s3\nlake.bucket={BUCKET}\nlake.region=us-east-1\nlake.endpoint={}", s3.endpoint());
    println!("lake.access_key=test\nlake.secret_key=test\n");
    for line in stdin().lock().lines().map_while(Result::ok) {
        match line.trim() {
            "stop postgres" => postgres.stop(),
            "start postgres" => postgres.resume(),
            "stop nats" => nats.kill(),
            "start nats" => nats.resume(),
            "stop s3" => s3.pause(),
            "start s3" => s3.resume(),
            other => {
                println!("no such command: {other}");
                continue;
            }
        }
        println!("ok");
        let _ = stdout().flush();
    }
}
