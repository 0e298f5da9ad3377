//! The whole program in this process, driven over HTTP from outside. One binary: each links DataFusion.

mod backup;
mod city;
mod door;
mod operators;
mod routes;
