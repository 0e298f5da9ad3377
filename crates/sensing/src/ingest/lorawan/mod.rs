//! LoRaWAN by way of a network server: ChirpStack v4 (HTTP integration, JSON) and The Things Stack (webhooks).

pub mod event;
pub mod payload;
