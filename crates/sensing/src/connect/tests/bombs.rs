//! Documents that are made to hurt: small ones that would become large, and ones that are not what they say. All of them are refused whole.

use super::{map, parse};
use crate::connect::declaration::Connector;

fn connector(source: &str, time: &str) -> Connector {
    let text = format!(
        r#"
[[connector]]
key = "feed"
tenant = "hko"
name = {{ en = "Feed", zh-hant = "資料", zh-hans = "数据" }}
every = "PT10M"
source = {{ url = "https://example.org/a", {source} }}
time = {{ fields = ["{time}"] }}
value = [{{ field = "v", datastream = "one.v" }}]
"#
    );
    parse(&text).remove(0)
}

fn csv() -> Connector {
    connector(r#"format = "csv", header = "t""#, "t")
}
fn json() -> Connector {
    connector(r#"format = "json", at = "rows""#, "$.t")
}
fn xml() -> Connector {
    connector(r#"format = "xml", at = "rows.row""#, "t")
}

fn refused(connector: &Connector, bytes: &[u8], because: &str) {
    let reason = map(connector, bytes).expect_err(because);
    assert!(reason.contains(because), "{reason}");
    assert!(reason.len() < 1_000, "a reason is a sentence: {} bytes", reason.len());
}

#[test]
fn xml_that_grows() {
    let laughs = "<!DOCTYPE x [<!ENTITY a \"ha\">".to_owned()
        + &('b'..='j')
            .zip('a'..='i')
            .map(|(b, a)| format!("<!ENTITY {b} \"{}\">", format!("&{a};").repeat(10)))
            .collect::<String>()
        + "]><rows><row><t>&j;</t></row></rows>";
    refused(&xml(), laughs.as_bytes(), "entity");
    let outside = "<!DOCTYPE x [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><rows><row><t>&a;</t></row></rows>";
    refused(&xml(), outside.as_bytes(), "entity");
    // A name of a megabyte above ten thousand fields is ten gigabytes of paths.
    let name = "L".repeat(1 << 20);
    refused(&xml(), format!("<rows><row><{name}>{}</{name}></row></rows>", "<a/>".repeat(9_000)).as_bytes(), "name");
    refused(&xml(), format!("<rows><row><a {name}=\"1\"/></row></rows>").as_bytes(), "name");
    refused(&xml(), format!("<{name}/>").as_bytes(), "name");
    refused(&xml(), format!("<rows><row>{}</row></rows>", "<a/>".repeat(20_000)).as_bytes(), "10000 fields");
    let attributes: String = (0..20_000).map(|n| format!(" a{n}=\"\"")).collect();
    refused(&xml(), format!("<rows><row{attributes}/></rows>").as_bytes(), "10000 fields");
    refused(&xml(), format!("<rows><row>{}", "<a>".repeat(1_000_000)).as_bytes(), "inside each other");
}

#[test]
fn csv_that_grows() {
    refused(&csv(), format!("t,v{}\n", ",".repeat(8 << 20)).as_bytes(), "columns");
    // A row of nothing but commas is an empty row, passed over as such, and the others stand.
    let text = format!("t,v\n{}\n2024-01-01T00:00:00Z,1\n", ",".repeat(1 << 20));
    let (report, readings) = map(&csv(), text.as_bytes()).expect("read");
    assert_eq!((report.rows, report.rows_skipped, readings.len()), (2, 1, 1));
    // A quotation mark that is never closed takes in what follows: nothing is read twice, nothing is invented.
    let (_, readings) =
        map(&csv(), "t,v\n\"2024-01-01T00:00:00Z,1\n2024-01-01T00:00:00Z,2\n".as_bytes()).expect("read");
    assert!(readings.is_empty());
}

#[test]
fn json_that_grows() {
    refused(&json(), "[".repeat(1 << 20).as_bytes(), "not JSON");
    refused(&json(), format!("{{\"rows\": {}{}}}", "[".repeat(200), "]".repeat(200)).as_bytes(), "not JSON");
    // A time of the document that is itself a document is not written out for every row.
    let part = "[1],".repeat(500_000) + "[1]";
    let rows = r#"{"v": 1},"#.repeat(50_000) + r#"{"v": 1}"#;
    let (report, readings) = map(&json(), format!("{{\"t\": [{part}], \"rows\": [{rows}]}}").as_bytes()).expect("read");
    assert!(readings.is_empty());
    assert_eq!(report.rows_rejected, 50_001);
}

#[test]
fn documents_that_are_something_else() {
    let utf_16: Vec<u8> = "\u{feff}t,v\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut lone = utf_16.clone();
    lone.extend([0x00, 0xd8, b'a', 0x00]);
    let mut odd = utf_16;
    odd.push(0);
    for (name, bytes) in [
        ("not UTF-8", b"t,v\n\xff\xfe,1\n".to_vec()),
        ("an overlong slash", b"t,v\n\xc0\xaf,1\n".to_vec()),
        ("half a surrogate pair", lone),
        ("half a character", odd),
        ("gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
        ("nothing", Vec::new()),
        ("a mark and nothing else", vec![0xef, 0xbb, 0xbf]),
        ("zeros", vec![0; 1_000]),
        ("a page", b"<!doctype html><html><body>Not found</body></html>".to_vec()),
    ] {
        for connector in [csv(), json(), xml()] {
            match map(&connector, &bytes) {
                Ok((_, readings)) => assert!(readings.is_empty(), "{name}"),
                Err(reason) => assert!((5..1_000).contains(&reason.len()), "{name}: {reason}"),
            }
        }
    }
}
