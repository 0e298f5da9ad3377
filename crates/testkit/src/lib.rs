pub mod nats;
pub mod postgres;
pub mod python;
pub mod s3;
