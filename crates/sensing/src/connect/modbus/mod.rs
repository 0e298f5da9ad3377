//! Modbus TCP (Modbus Application Protocol V1.1b3, Messaging on TCP/IP Implementation Guide V1.0b): registers of a gateway or controller, polled as a feed.
//!
//! [`codec`] is the bytes and what they mean, pure; [`poll`] asks. One poll is one row of a document: a field for each register, and `at`, the moment of asking.

pub mod codec;
mod poll;

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::rows::Fields;

pub use poll::poll;

/// Where registers are read, as a pack declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modbus {
    /// `host:port`; 502 by the standard. Inside the city's own network only when the operator allows it.
    pub address: String,
    /// The unit identifier behind a gateway; 255 addresses the device itself.
    #[serde(default = "device")]
    pub unit: u8,
    /// Milliseconds for one answer.
    #[serde(default = "patience")]
    pub timeout_ms: u32,
    pub register: Vec<Register>,
}

const fn device() -> u8 {
    255
}
const fn patience() -> u32 {
    3_000
}

/// One value, in one or two registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// What the connector's values call it.
    pub name: String,
    #[serde(default)]
    pub table: Table,
    /// From 0, as it goes over the wire: 40001 of a manual is 0.
    pub address: u16,
    #[serde(default)]
    pub r#type: Kind,
    #[serde(default)]
    pub order: Order,
}

/// The four tables of the data model (section 4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    #[default]
    Holding,
    Input,
    Coil,
    Discrete,
}

impl Table {
    /// The function code that reads it (sections 6.1 to 6.4).
    pub const fn function(self) -> u8 {
        match self {
            Self::Coil => 1,
            Self::Discrete => 2,
            Self::Holding => 3,
            Self::Input => 4,
        }
    }
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }
    /// The most that one request may ask for.
    pub const fn most(self) -> u16 {
        if self.is_bits() { 2_000 } else { 125 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    U16,
    I16,
    U32,
    I32,
    F32,
}

impl Kind {
    pub const fn words(self) -> u16 {
        match self {
            Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
        }
    }
}

/// The order of the bytes of a value; `a` is the most significant. The protocol says it for one register and leaves it open for two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    #[default]
    Abcd,
    Cdab,
    Badc,
    Dcba,
}

/// The field that holds the moment of asking.
pub const AT: &str = "at";
const MAX_REGISTERS: usize = 1_000;
const MAX_TIMEOUT: u32 = 60_000;

impl Modbus {
    /// What is wrong: where below `modbus`, and what would be right.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut say = |field: String, detail: &str| wrong.push((field, detail.to_owned()));
        let port = self.address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(port, Some((host, Ok(1..))) if !host.is_empty() && host.len() <= 255) {
            say("/address".to_owned(), "host:port is expected, such as plc.internal:502");
        }
        if !(100..=MAX_TIMEOUT).contains(&self.timeout_ms) {
            say("/timeout_ms".to_owned(), "100 to 60000 milliseconds are expected");
        }
        if self.register.is_empty() || self.register.len() > MAX_REGISTERS {
            say("/register".to_owned(), "1 to 1000 registers are expected");
        }
        for (at, register) in self.register.iter().enumerate() {
            if register.name.is_empty()
                || register.name == AT
                || self.register[..at].iter().any(|r| r.name == register.name)
            {
                say(format!("/register/{at}/name"), "a name of its own is expected, other than 'at'");
            }
            if register.table.is_bits() && register.r#type != Kind::default() {
                say(format!("/register/{at}/type"), "a coil or a discrete input is one bit and has no type");
            }
            if !register.table.is_bits() && register.address.checked_add(register.r#type.words() - 1).is_none() {
                say(format!("/register/{at}/address"), "the value reaches beyond the last register");
            }
        }
        wrong
    }
}

/// What one poll has brought.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// When it was asked, RFC 3339.
    pub at: String,
    pub values: BTreeMap<String, Result<String, String>>,
}

impl Fields for Reading {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        if name == AT {
            return Some(Cow::Borrowed(&self.at));
        }
        self.values.get(name)?.as_deref().ok().map(Cow::Borrowed)
    }
    fn why_not(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_ref().err().map(String::as_str)
    }
}
