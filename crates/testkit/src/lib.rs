//! Stores that other people make, thrown away after a test.
pub mod nats;
pub mod postgres;
pub mod python;
pub mod s3;

/// Whether this run of the tests is the one on PostgreSQL, NATS and S3: `LAMPPOST_TEST_STORES=outside`. `cargo xtask test` does both runs; fixtures
/// that can stand on either engine ask here.
pub fn outside() -> bool {
    match std::env::var("LAMPPOST_TEST_STORES").as_deref() {
        Err(_) | Ok("" | "local") => false,
        Ok("outside") => true,
        Ok(other) => panic!("LAMPPOST_TEST_STORES is '{other}'; use local or outside"),
    }
}
