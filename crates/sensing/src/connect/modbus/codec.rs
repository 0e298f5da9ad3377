//! Requests and answers as bytes, and registers as numbers. Pure.

use super::{Kind, Modbus, Order, Register, Table};
use crate::ingest::lorawan::payload::shortest;

/// MBAP header (Implementation Guide section 3.1.3): transaction, protocol, length, unit.
pub const HEADER: usize = 7;
/// The longest protocol data unit (section 4.1).
pub const MAX_PDU: usize = 253;
/// Addresses that nobody wants and that are read all the same, so that two neighbours take one request.
const BRIDGE: u16 = 8;

/// A span of one table, read by one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub table: Table,
    pub address: u16,
    pub count: u16,
    /// Places in the declaration of the registers in it.
    pub registers: Vec<usize>,
}

fn width(register: &Register) -> u16 {
    if register.table.is_bits() { 1 } else { register.r#type.words() }
}

impl Span {
    /// A register by itself.
    pub fn one(place: usize, register: &Register) -> Self {
        Self { table: register.table, address: register.address, count: width(register), registers: vec![place] }
    }
}

/// As few requests as the protocol's limits allow.
pub fn spans(modbus: &Modbus) -> Vec<Span> {
    let mut places: Vec<usize> = (0..modbus.register.len()).collect();
    places.sort_by_key(|at| (modbus.register[*at].table, modbus.register[*at].address));
    let mut spans: Vec<Span> = Vec::new();
    for place in places {
        let register = &modbus.register[place];
        let end = u32::from(register.address) + u32::from(width(register));
        if let Some(last) = spans.last_mut().filter(|s| s.table == register.table) {
            let reached = u32::from(last.address) + u32::from(last.count);
            let near = u32::from(register.address) <= reached + u32::from(BRIDGE);
            let whole = end.max(reached) - u32::from(last.address);
            if near && whole <= u32::from(last.table.most()) {
                last.count = whole as u16;
                last.registers.push(place);
                continue;
            }
        }
        spans.push(Span::one(place, register));
    }
    spans
}

/// A request to read a span.
pub fn request(transaction: u16, unit: u8, span: &Span) -> [u8; 12] {
    let ([t1, t2], [a1, a2], [c1, c2]) =
        (transaction.to_be_bytes(), span.address.to_be_bytes(), span.count.to_be_bytes());
    [t1, t2, 0, 0, 0, 6, unit, span.table.function(), a1, a2, c1, c2]
}

/// Why there are no registers in an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The device answers that it will not (section 7).
    #[error("the device answers with exception {0} ({name})", name = exception(*.0))]
    Exception(u8),
    #[error("the answer is not Modbus: {0}")]
    Broken(&'static str),
}

/// The names of section 7.
pub const fn exception(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "server device failure",
        5 => "acknowledge",
        6 => "server device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target device failed to respond",
        _ => "of no known meaning",
    }
}

/// The length of what follows the header, unit excluded.
///
/// # Errors
/// When the header does not belong to the request.
pub fn length(header: &[u8; HEADER], transaction: u16, unit: u8) -> Result<usize, Fault> {
    let [t1, t2, p1, p2, l1, l2, of] = *header;
    if u16::from_be_bytes([t1, t2]) != transaction {
        return Err(Fault::Broken("it belongs to another request"));
    }
    if [p1, p2] != [0, 0] {
        return Err(Fault::Broken("the protocol identifier is not 0"));
    }
    if of != unit {
        return Err(Fault::Broken("it is of another unit"));
    }
    match usize::from(u16::from_be_bytes([l1, l2])) {
        length @ 3.. if length - 1 <= MAX_PDU => Ok(length - 1),
        _ => Err(Fault::Broken("its length cannot be")),
    }
}

/// The data of an answer to a request for `span`: two bytes for each register, or a bit for each coil.
///
/// # Errors
/// The exception, or what is wrong.
pub fn answer<'a>(pdu: &'a [u8], span: &Span) -> Result<&'a [u8], Fault> {
    let function = span.table.function();
    match pdu {
        [f, code, ..] if *f == function | 0x80 => Err(Fault::Exception(*code)),
        [f, bytes, data @ ..] if *f == function => {
            let wanted =
                if span.table.is_bits() { usize::from(span.count).div_ceil(8) } else { usize::from(span.count) * 2 };
            if usize::from(*bytes) != wanted || data.len() != wanted {
                return Err(Fault::Broken("it has another number of values than were asked for"));
            }
            Ok(data)
        }
        _ => Err(Fault::Broken("it is of another function")),
    }
}

/// A register's text out of the data of its span.
///
/// # Errors
/// When what stands there is no number.
pub fn value(register: &Register, span: &Span, data: &[u8]) -> Result<String, String> {
    let at = usize::from(register.address.wrapping_sub(span.address));
    let outside = || "the register is not in the answer".to_owned();
    if register.table.is_bits() {
        let byte = data.get(at / 8).ok_or_else(outside)?;
        return Ok(((byte >> (at % 8)) & 1).to_string());
    }
    let size = usize::from(register.r#type.words()) * 2;
    let bytes = data.get(at * 2..at * 2 + size).ok_or_else(outside)?;
    let number = match (bytes, register.order) {
        ([a, b], Order::Abcd | Order::Cdab) => [0, 0, *a, *b],
        ([a, b], Order::Badc | Order::Dcba) => [0, 0, *b, *a],
        ([a, b, c, d], Order::Abcd) => [*a, *b, *c, *d],
        ([c, d, a, b], Order::Cdab) => [*a, *b, *c, *d],
        ([b, a, d, c], Order::Badc) => [*a, *b, *c, *d],
        ([d, c, b, a], Order::Dcba) => [*a, *b, *c, *d],
        _ => return Err(outside()),
    };
    let bits = u32::from_be_bytes(number);
    Ok(match register.r#type {
        Kind::U16 | Kind::U32 => bits.to_string(),
        Kind::I16 => (bits as u16).cast_signed().to_string(),
        Kind::I32 => bits.cast_signed().to_string(),
        Kind::F32 => {
            let n = f32::from_bits(bits);
            if !n.is_finite() {
                return Err("the device gives no number there".to_owned());
            }
            shortest(n).to_string()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn register(table: Table, address: u16, r#type: Kind, order: Order) -> Register {
        Register { name: format!("{table:?}{address}"), table, address, r#type, order }
    }
    fn of(register: Vec<Register>) -> Modbus {
        Modbus { address: "plc.internal:502".to_owned(), unit: 1, timeout_ms: 3_000, register }
    }

    #[test]
    fn neighbours_are_read_together() {
        let holding = |address, kind| register(Table::Holding, address, kind, Order::Abcd);
        let modbus = of(vec![
            holding(10, Kind::U16),
            holding(0, Kind::F32),
            holding(130, Kind::U16),
            holding(4, Kind::U16),
            register(Table::Coil, 5, Kind::U16, Order::Abcd),
            holding(255, Kind::U32),
        ]);
        let found: Vec<_> = spans(&modbus).into_iter().map(|s| (s.table, s.address, s.count, s.registers)).collect();
        assert_eq!(
            found,
            [
                (Table::Holding, 0, 11, vec![1, 3, 0]),
                (Table::Holding, 130, 1, vec![2]),
                (Table::Holding, 255, 2, vec![5]),
                (Table::Coil, 5, 1, vec![4]),
            ]
        );
        // 126 neighbours are one more than a request may ask for.
        let many = of((0..126).map(|a| holding(a, Kind::U16)).collect());
        assert_eq!(spans(&many).iter().map(|s| s.count).collect::<Vec<_>>(), [125, 1]);
    }

    /// The example of section 6.3, behind a header.
    #[test]
    fn bytes_as_the_standard_has_them() {
        let span = Span { table: Table::Holding, address: 0x006b, count: 3, registers: vec![] };
        assert_eq!(request(0x1501, 0xff, &span), [0x15, 0x01, 0, 0, 0, 6, 0xff, 3, 0x00, 0x6b, 0x00, 0x03]);
        assert_eq!(length(&[0x15, 0x01, 0, 0, 0, 9, 0xff], 0x1501, 0xff), Ok(8));
        let pdu = [3, 6, 0x02, 0x2b, 0x00, 0x00, 0x00, 0x64];
        let data = answer(&pdu, &span).expect("data");
        let value_of = |address, kind, order| value(&register(Table::Holding, address, kind, order), &span, data);
        assert_eq!(value_of(0x6b, Kind::U16, Order::Abcd).as_deref(), Ok("555"));
        assert_eq!(value_of(0x6d, Kind::I16, Order::Abcd).as_deref(), Ok("100"));
        assert_eq!(answer(&[0x83, 2], &span), Err(Fault::Exception(2)));
        assert!(Fault::Exception(2).to_string().contains("exception 2 (illegal data address)"));
        for (header, what) in [
            ([0, 0, 0, 0, 0, 9, 0xff], "transaction"),
            ([0x15, 0x01, 0, 1, 0, 9, 0xff], "protocol"),
            ([0x15, 0x01, 0, 0, 0, 9, 1], "unit"),
            ([0x15, 0x01, 0, 0, 0, 2, 0xff], "too short"),
            ([0x15, 0x01, 0, 0, 1, 0, 0xff], "too long"),
        ] {
            assert!(length(&header, 0x1501, 0xff).is_err(), "{what}");
        }
        for bad in [&[][..], &[3], &[3, 6, 0, 1], &[3, 4, 0, 1, 0, 2], &[4, 6, 0, 1, 0, 2, 0, 3]] {
            assert!(matches!(answer(bad, &span), Err(Fault::Broken(_))), "{bad:?}");
        }
        // Section 6.1: coils 20 to 38, the first in the lowest bit.
        let coils = Span { table: Table::Coil, address: 19, count: 19, registers: vec![] };
        let data = answer(&[1, 3, 0xcd, 0x6b, 0x05], &coils).expect("data");
        let states: String = (19..38)
            .map(|a| value(&register(Table::Coil, a, Kind::U16, Order::Abcd), &coils, data).expect("a bit"))
            .collect();
        assert_eq!(states, "1011001111010110101");
    }

    proptest! {
        /// In whatever order a device keeps them, a value's bytes come back as the value.
        #[test]
        fn values_come_back(bits in any::<u32>(), which in 0usize..4) {
            let [a, b, c, d] = bits.to_be_bytes();
            let (order, data) = [
                (Order::Abcd, [a, b, c, d]), (Order::Cdab, [c, d, a, b]), (Order::Badc, [b, a, d, c]), (Order::Dcba, [d, c, b, a]),
            ][which];
            let read = |kind| {
                let register = register(Table::Input, 7, kind, order);
                value(&register, &Span::one(0, &register), &data)
            };
            prop_assert_eq!(read(Kind::U32), Ok(bits.to_string()));
            prop_assert_eq!(read(Kind::I32), Ok(bits.cast_signed().to_string()));
            let float = f32::from_bits(bits);
            match read(Kind::F32) {
                Ok(text) => prop_assert_eq!(text.parse::<f32>().map(f32::to_bits), Ok(float.to_bits())),
                Err(_) => prop_assert!(!float.is_finite()),
            }
        }

        /// Every register is in a span, within the limits, and no span begins where nobody reads.
        #[test]
        fn spans_hold_everything(places in proptest::collection::vec((0u16..600, 0usize..2, 0usize..5), 1..80)) {
            let kinds = [Kind::U16, Kind::I16, Kind::U32, Kind::I32, Kind::F32];
            let modbus = of(places.iter().map(|(address, table, kind)| {
                let table = [Table::Holding, Table::Discrete][*table];
                register(table, *address, if table.is_bits() { Kind::U16 } else { kinds[*kind] }, Order::Abcd)
            }).collect());
            let spans = spans(&modbus);
            let mut seen: Vec<usize> = spans.iter().flat_map(|s| s.registers.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..modbus.register.len()).collect::<Vec<_>>());
            for span in &spans {
                prop_assert!(span.count >= 1 && span.count <= span.table.most());
                for at in &span.registers {
                    let r = &modbus.register[*at];
                    prop_assert!(r.table == span.table && r.address >= span.address);
                    prop_assert!(u32::from(r.address) + u32::from(width(r)) <= u32::from(span.address) + u32::from(span.count));
                }
            }
        }

        #[test]
        fn any_answer_is_an_answer(pdu in proptest::collection::vec(any::<u8>(), 0..260), header in any::<[u8; HEADER]>(), count in 1u16..126) {
            let span = Span { table: Table::Holding, address: 0, count, registers: vec![] };
            let _ = length(&header, 0, 0);
            if let Ok(data) = answer(&pdu, &span) {
                let _ = value(&register(Table::Holding, count, Kind::F32, Order::Abcd), &span, data);
            }
        }
    }
}
