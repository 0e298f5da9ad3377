//! One binary for all tests of the lake, because each links DataFusion.

mod common;
mod crash;
mod export;
mod foreign;
mod measure;
mod model;
mod replace;
mod rollup;
mod s3;
mod sql;
mod table;
