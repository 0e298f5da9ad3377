//! Registers that are polled: a controller that answers over TCP, and real stores.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::running::{City, declaration};
use crate::{
    connect::{Allowed, Health, declaration::Connector},
    observe::SeriesQuery,
};

/// A controller with ten holding registers, of which the last is not there, and eight coils.
struct Controller {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    silent: Arc<AtomicBool>,
    wrong: Arc<AtomicBool>,
}

impl Controller {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (requests, silent, wrong) =
            (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let controller = Self { address, requests: requests.clone(), silent: silent.clone(), wrong: wrong.clone() };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (requests, silent, wrong) = (requests.clone(), silent.clone(), wrong.clone());
                tokio::spawn(async move { while answer(&mut stream, &requests, &silent, &wrong).await.is_some() {} });
            }
        });
        controller
    }
}

async fn answer(stream: &mut TcpStream, requests: &AtomicU64, silent: &AtomicBool, wrong: &AtomicBool) -> Option<()> {
    let mut asked = [0; 12];
    stream.read_exact(&mut asked).await.ok()?;
    requests.fetch_add(1, SeqCst);
    if silent.load(SeqCst) {
        // Until the client gives up.
        let _ = stream.read(&mut [0]).await;
        return None;
    }
    let (function, start, count) =
        (asked[7], u16::from_be_bytes([asked[8], asked[9]]), u16::from_be_bytes([asked[10], asked[11]]));
    let float = 21.1f32.to_bits();
    // 0: 1234; 1: -5; 2 and 3: a float with its words exchanged; the others 0.
    let word = |at: u16| match at {
        0 => 1_234,
        1 => 0xfffb,
        2 => (float & 0xffff) as u16,
        3 => (float >> 16) as u16,
        _ => 0,
    };
    let pdu = match function {
        3 if start + count <= 9 => {
            let data: Vec<u8> = (start..start + count).flat_map(|at| word(at).to_be_bytes()).collect();
            [vec![3, data.len() as u8], data].concat()
        }
        1 => vec![1, 1, 0b10 >> start],
        _ => vec![function | 0x80, 2],
    };
    let mut out = asked[..4].to_vec();
    out.extend((pdu.len() as u16 + 1).to_be_bytes());
    out.push(if wrong.load(SeqCst) { asked[6] ^ 1 } else { asked[6] });
    out.extend(pdu);
    stream.write_all(&out).await.ok()
}

fn declared(address: SocketAddr) -> crate::connect::declaration::Declaration {
    declaration(&format!(
        r#"
[[connector]]
key = "plc"
tenant = "hko"
name = {{ en = "PLC", zh-hant = "控制器", zh-hans = "控制器" }}
every = "PT10M"

[connector.source]
format = "modbus"

[connector.source.modbus]
address = "{address}"
unit = 7
timeout_ms = 300
register = [
  {{ name = "level", address = 0 }},
  {{ name = "offset", address = 1, type = "i16" }},
  {{ name = "flow", address = 2, type = "f32", order = "cdab" }},
  {{ name = "gone", address = 9 }},
  {{ name = "pump", table = "coil", address = 1 }},
]

[[connector.value]]
field = "level"
datastream = "level"
scale = 0.001
[[connector.value]]
field = "offset"
datastream = "offset"
[[connector.value]]
field = "flow"
datastream = "flow"
[[connector.value]]
field = "gone"
datastream = "gone"
[[connector.value]]
field = "pump"
datastream = "pump"
"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registers_become_observations_and_what_is_not_there_is_told() {
    let controller = Controller::start().await;
    let place = controller.address.to_string();
    let city = City::open(|options, _| options.allowed = Allowed::new([place])).await;
    let names = ["level", "offset", "flow", "gone", "pump"].map(str::to_owned);
    let ids = city.datastreams("hko", &names).await;
    city.apply(vec![declared(controller.address)]).await;
    let view = city.poll("plc").await;
    assert_eq!((view.health, view.source), (Health::Rejecting, controller.address.to_string()));
    let report = view.report.expect("a report");
    assert!(report.balances());
    assert_eq!((report.rows, report.values, report.written, report.rejected), (1, 5, 4, 1));
    assert_eq!(
        (report.examples[0].field.as_str(), report.examples[0].reason.as_str()),
        ("gone", "the device answers with exception 2 (illegal data address)")
    );
    // Four neighbours at once, refused for the one that is not there; then each alone, and the coil.
    assert_eq!(controller.requests.load(SeqCst), 1 + 4 + 1);
    let mut results = Vec::new();
    for id in &ids {
        let rows = city.observe.read(SeriesQuery { limit: 10, ..SeriesQuery::all(*id) }).await.expect("rows");
        results.push(rows.iter().filter_map(|o| o.result.number()).collect::<Vec<_>>());
    }
    assert_eq!(results, [vec![1.234], vec![-5.0], vec![21.1], vec![], vec![1.0]]);
    // The next poll is another row: nothing is compared away.
    let again = city.poll("plc").await.report.expect("a report");
    assert_eq!((again.written, again.unchanged), (4, 0));
    assert_eq!(city.observe.count(ids[0]).await.expect("count"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_fails_is_a_feed_that_fails() {
    let controller = Controller::start().await;
    let place = controller.address.to_string();
    let city = City::open(|options, _| options.allowed = Allowed::new([place])).await;
    city.datastreams("hko", &["level".to_owned()]).await;
    city.apply(vec![declared(controller.address)]).await;
    controller.silent.store(true, SeqCst);
    let view = city.poll("plc").await;
    assert_eq!((view.health, view.error.as_deref()), (Health::Failing, Some("the device does not answer in time")));
    controller.silent.store(false, SeqCst);
    controller.wrong.store(true, SeqCst);
    city.clock.advance_micros(3_600_000_000);
    let view = city.poll("plc").await;
    assert_eq!(view.error.as_deref(), Some("the answer is not Modbus: it is of another unit"));
    assert_eq!(city.observe.stats().observations, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_inside_that_nobody_has_allowed_is_not_asked() {
    let controller = Controller::start().await;
    let city = City::open(|_, _| {}).await;
    city.apply(vec![declared(controller.address)]).await;
    let error = city.poll("plc").await.error.expect("a failure");
    assert!(error.contains("leads into an internal network"), "{error}");
    assert_eq!(controller.requests.load(SeqCst), 0);
}

#[test]
fn declarations_of_registers_are_checked() {
    let good = declared("127.0.0.1:502".parse().expect("an address"));
    let connector = Connector::new(good.clone()).expect("valid");
    assert_eq!(connector.time.fields, ["at"]);
    let wrong = |change: fn(&mut crate::connect::declaration::Declaration)| {
        let mut bad = good.clone();
        change(&mut bad);
        Connector::new(bad).err().map(|e| e[0].field.clone()).unwrap_or_default()
    };
    let modbus = |d: &mut crate::connect::declaration::Declaration| d.source.modbus.clone().expect("registers");
    assert_eq!(wrong(|d| d.source.format = crate::connect::declaration::Format::Json), "/source/format");
    assert_eq!(wrong(|d| d.source.url = Some("http://example.org/".to_owned())), "/source");
    assert_eq!(
        wrong(|d| d.source.modbus.as_mut().expect("registers").address = "plc".to_owned()),
        "/source/modbus/address"
    );
    assert_eq!(wrong(|d| d.source.modbus.as_mut().expect("registers").timeout_ms = 5), "/source/modbus/timeout_ms");
    assert_eq!(
        wrong(|d| d.source.modbus.as_mut().expect("registers").register[1].name = "level".to_owned()),
        "/source/modbus/register/1/name"
    );
    assert_eq!(
        wrong(|d| d.source.modbus.as_mut().expect("registers").register[2].address = 65_535),
        "/source/modbus/register/2/address"
    );
    assert_eq!(wrong(|d| d.source.modbus.as_mut().expect("registers").register.clear()), "/source/modbus/register");
    assert_eq!(modbus(&mut good.clone()).unit, 7);
    // Nothing that has no registers may leave its time out.
    let file = "[[connector]]\nkey = \"f\"\ntenant = \"hko\"\nname = { en = \"F\", zh-hant = \"F\", zh-hans = \"F\" }\nevery = \"PT1H\"\nsource = { file = \"a.csv\", format = \"csv\", header = 1 }\nvalue = [{ field = \"v\", datastream = \"d\" }]";
    assert_eq!(Connector::new(declaration(file)).err().map(|e| e[0].field.clone()).as_deref(), Some("/time/fields"));
}
