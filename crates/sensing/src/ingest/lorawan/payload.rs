//! Bytes of a device (FRMPayload) to the object that a network server's codec would have made of them. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How the bytes of a device are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Payload {
    /// Cayenne Low Power Payload, with IPSO object ids: each value says what it is.
    CayenneLpp,
    /// Values at fixed places.
    Fields {
        /// Only on this FPort; on any when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u8>,
        field: Vec<Place>,
    },
}

/// One value at a fixed place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub name: String,
    /// The first byte, from 0.
    pub at: usize,
    pub r#type: Kind,
    #[serde(default)]
    pub order: Order,
    /// Only these bits of an unsigned number, from 0 at the right: `bits = [4, 7]` is its upper half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<[u32; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U24,
    I24,
    U32,
    I32,
    F32,
}

impl Kind {
    const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U24 | Self::I24 => 3,
            Self::U32 | Self::I32 | Self::F32 => 4,
        }
    }
    const fn signed(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I24 | Self::I32)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Most significant byte first.
    #[default]
    Big,
    Little,
}

/// The longest FRMPayload of any region (LoRaWAN Regional Parameters RP002-1.0.4).
pub const MAX_BYTES: usize = 242;

/// What is wrong with a declaration: where below `payload`, and what would be right.
pub fn check(payload: &Payload) -> Vec<(String, String)> {
    let Payload::Fields { field, .. } = payload else { return Vec::new() };
    let mut wrong = Vec::new();
    if field.is_empty() || field.len() > MAX_BYTES * 8 {
        wrong.push(("/field".to_owned(), "1 to 1936 fields are expected".to_owned()));
    }
    for (nth, place) in field.iter().enumerate() {
        if place.at + place.r#type.bytes() > MAX_BYTES {
            wrong.push((format!("/field/{nth}/at"), format!("a payload has at most {MAX_BYTES} bytes")));
        }
        if let Some([low, high]) = place.bits {
            let width = place.r#type.bytes() as u32 * 8;
            if place.r#type.signed() || place.r#type == Kind::F32 || low > high || high >= width {
                wrong.push((
                    format!("/field/{nth}/bits"),
                    "the lowest and highest bit of an unsigned number are expected".to_owned(),
                ));
            }
        }
    }
    wrong
}

/// Reads a payload.
///
/// # Errors
/// What is wrong, at which byte.
pub fn read(payload: &Payload, bytes: &[u8], on: Option<u8>) -> Result<Map<String, Value>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("a payload has at most {MAX_BYTES} bytes, this one has {}", bytes.len()));
    }
    match payload {
        Payload::CayenneLpp => cayenne(bytes),
        Payload::Fields { port, .. } if port.is_some() && *port != on => Ok(Map::new()),
        Payload::Fields { field, .. } => {
            let mut out = Map::new();
            for place in field {
                // A shorter message simply lacks what would stand behind its end.
                if let Some(value) = at(place, bytes) {
                    out.insert(place.name.clone(), value);
                }
            }
            Ok(out)
        }
    }
}

fn unsigned(bytes: &[u8], order: Order) -> u32 {
    let add = |n: u32, b: &u8| (n << 8) | u32::from(*b);
    match order {
        Order::Big => bytes.iter().fold(0, add),
        Order::Little => bytes.iter().rev().fold(0, add),
    }
}

/// Two's complement of so many bytes (1 to 4).
fn signed(bytes: &[u8], order: Order) -> i32 {
    let unused = 32 - 8 * bytes.len() as u32;
    (unsigned(bytes, order) << unused).cast_signed() >> unused
}

fn at(place: &Place, bytes: &[u8]) -> Option<Value> {
    let bytes = bytes.get(place.at..place.at.checked_add(place.r#type.bytes())?)?;
    if place.r#type == Kind::F32 {
        let n = f32::from_bits(unsigned(bytes, place.order));
        return n.is_finite().then(|| json!(shortest(n)));
    }
    if place.r#type.signed() {
        return Some(json!(signed(bytes, place.order)));
    }
    let n = unsigned(bytes, place.order);
    Some(json!(match place.bits {
        None => n,
        Some([low, high]) => (n >> low) & (u32::MAX >> (31 - (high - low).min(31))),
    }))
}

/// The f64 that is written like this f32: 21.1 and not 21.100000381.
pub fn shortest(n: f32) -> f64 {
    ryu::Buffer::new().format_finite(n).parse().unwrap_or(f64::from(n))
}

/// Name as ChirpStack's own codec gives it, bytes, decimals as a divisor, signed.
const CAYENNE: [(u8, &str, usize, f64, bool); 22] = [
    (0, "digitalInput", 1, 1.0, false),
    (1, "digitalOutput", 1, 1.0, false),
    (2, "analogInput", 2, 100.0, true),
    (3, "analogOutput", 2, 100.0, true),
    (100, "genericSensor", 4, 1.0, false),
    (101, "illuminanceSensor", 2, 1.0, false),
    (102, "presenceSensor", 1, 1.0, false),
    (103, "temperatureSensor", 2, 10.0, true),
    (104, "humiditySensor", 1, 2.0, false),
    (115, "barometer", 2, 10.0, false),
    (116, "voltage", 2, 100.0, false),
    (117, "current", 2, 1000.0, false),
    (118, "frequency", 4, 1.0, false),
    (120, "percentage", 1, 1.0, false),
    (121, "altitude", 2, 1.0, true),
    (125, "concentration", 2, 1.0, false),
    (128, "power", 2, 1.0, false),
    (130, "distance", 4, 1000.0, false),
    (131, "energy", 4, 1000.0, false),
    (132, "direction", 2, 1.0, false),
    (133, "unixTime", 4, 1.0, false),
    (142, "switch", 1, 1.0, false),
];

/// Type, name, members, bytes of each, divisors.
type Three = (u8, &'static str, [&'static str; 3], usize, [f64; 3]);

/// Objects of three numbers.
const CAYENNE_THREE: [Three; 3] = [
    (113, "accelerometer", ["x", "y", "z"], 2, [1000.0; 3]),
    (134, "gyrometer", ["x", "y", "z"], 2, [100.0; 3]),
    (136, "gpsLocation", ["latitude", "longitude", "altitude"], 3, [10_000.0, 10_000.0, 100.0]),
];

/// `channel, type, value` after one another. Two values of one type are told apart by their channel: `temperatureSensor.1`.
fn cayenne(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    let mut at = 0;
    while at < bytes.len() {
        let (channel, kind) = (bytes[at], bytes.get(at + 1).copied());
        let kind = kind.ok_or_else(|| format!("the type of the value at byte {at} is missing"))?;
        let (name, size) = CAYENNE
            .iter()
            .find(|c| c.0 == kind)
            .map(|c| (c.1, c.2))
            .or_else(|| CAYENNE_THREE.iter().find(|c| c.0 == kind).map(|c| (c.1, c.3 * 3)))
            .ok_or_else(|| format!("the type {kind} at byte {} is not one of Cayenne LPP", at + 1))?;
        let value = bytes
            .get(at + 2..at + 2 + size)
            .ok_or_else(|| format!("the value of {name} at byte {at} needs {size} bytes and the payload ends"))?;
        at += 2 + size;
        let read = match CAYENNE_THREE.iter().find(|c| c.0 == kind) {
            Some((_, _, members, each, divisors)) => {
                let parts =
                    value.chunks_exact(*each).zip(divisors).map(|(b, by)| json!(f64::from(signed(b, Order::Big)) / by));
                Value::Object(members.iter().map(|m| (*m).to_owned()).zip(parts).collect())
            }
            None => {
                let (by, minus) = CAYENNE.iter().find(|c| c.0 == kind).map_or((1.0, false), |c| (c.3, c.4));
                let n =
                    if minus { f64::from(signed(value, Order::Big)) } else { f64::from(unsigned(value, Order::Big)) };
                json!(n / by)
            }
        };
        let of = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(channels) = of {
            channels.insert(channel.to_string(), read);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lpp(text: &str) -> Result<Value, String> {
        cayenne(&hex::decode(text).expect("hex")).map(Value::Object)
    }

    /// The examples of the format's own description.
    #[test]
    fn cayenne_as_it_is_described() {
        assert_eq!(lpp("03670110056700FF"), Ok(json!({"temperatureSensor": {"3": 27.2, "5": 25.5}})));
        assert_eq!(lpp("01 67 FF D7".replace(' ', "").as_str()), Ok(json!({"temperatureSensor": {"1": -4.1}})));
        assert_eq!(lpp("067104D2FB2E0000"), Ok(json!({"accelerometer": {"6": {"x": 1.234, "y": -1.234, "z": 0.0}}})));
        assert_eq!(
            lpp("018806765FF2960A0003E8"),
            Ok(json!({"gpsLocation": {"1": {"latitude": 42.3519, "longitude": -87.9094, "altitude": 10.0}}}))
        );
        assert_eq!(
            lpp("0168FF0000010202FF9C"),
            Ok(json!({"humiditySensor": {"1": 127.5}, "digitalInput": {"0": 1.0}, "analogInput": {"2": -1.0}}))
        );
        assert_eq!(lpp(""), Ok(json!({})));
        assert!(lpp("0167").unwrap_err().contains("needs 2 bytes"));
        assert!(lpp("01").unwrap_err().contains("byte 0"));
        assert!(lpp("01FF00").unwrap_err().contains("type 255"));
    }

    #[test]
    fn fields_at_their_places() {
        let payload: Payload = toml::from_str(
            r#"
            format = "fields"
            port = 2
            field = [
              { name = "t", at = 0, type = "i16" },
              { name = "le", at = 0, type = "u16", order = "little" },
              { name = "high", at = 2, type = "u8", bits = [4, 7] },
              { name = "f", at = 3, type = "f32" },
              { name = "later", at = 200, type = "u32" },
            ]
            "#,
        )
        .expect("a payload");
        assert_eq!(check(&payload), []);
        let bytes = hex::decode("ff38a541a8cccd").expect("hex");
        assert_eq!(
            read(&payload, &bytes, Some(2)).map(Value::Object),
            Ok(json!({"t": -200, "le": 0x38ff, "high": 10, "f": 21.1}))
        );
        assert_eq!(read(&payload, &bytes, Some(3)).map(Value::Object), Ok(json!({})));
        let bad: Payload =
            toml::from_str("format = \"fields\"\nfield = [{ name = \"t\", at = 241, type = \"u16\", bits = [9, 3] }]")
                .expect("form");
        assert_eq!(check(&bad).len(), 2);
    }

    proptest! {
        /// What is written by the format is read as it was.
        #[test]
        fn numbers_come_back(n in any::<i32>(), little in any::<bool>(), size in 1usize..=4) {
            let kept = (n << (32 - 8 * size)) >> (32 - 8 * size);
            let mut bytes = kept.to_be_bytes()[4 - size..].to_vec();
            let order = if little { bytes.reverse(); Order::Little } else { Order::Big };
            prop_assert_eq!(signed(&bytes, order), kept);
        }

        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&Payload::CayenneLpp, &bytes, None);
        }
    }
}
