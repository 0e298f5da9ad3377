//! Asking: one connection, one request after another, each with its time.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use kernel::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Modbus, Reading,
    codec::{Fault, HEADER, MAX_PDU, Span, answer, length, request, spans, value},
};
use crate::{
    connect::{fetch::Failure, guard::Allowed},
    notify::guard::is_internal,
};

/// Reads all registers once. What the device refuses is told for each register; a connection that fails fails the poll.
///
/// # Errors
/// When the address may not be asked, does not answer, or does not speak Modbus; and when no register at all could be read.
pub async fn poll(modbus: &Modbus, allowed: &Allowed, now: Timestamp) -> Result<Reading, Failure> {
    let patience = Duration::from_millis(u64::from(modbus.timeout_ms));
    let mut line = Line {
        stream: connect(&modbus.address, allowed, patience).await?,
        transaction: 0,
        unit: modbus.unit,
        patience,
    };
    let mut values = BTreeMap::new();
    for span in spans(modbus) {
        let read = line.read(&span).await?;
        // One address that is not there spoils the whole span: then each is asked for by itself.
        let alone = matches!(read, Err(Fault::Exception(2 | 3))) && span.registers.len() > 1;
        let parts = match read {
            Err(_) if alone => {
                let mut parts = Vec::with_capacity(span.registers.len());
                for place in &span.registers {
                    let one = Span::one(*place, &modbus.register[*place]);
                    let read = line.read(&one).await?;
                    parts.push((one, read));
                }
                parts
            }
            read => vec![(span, read)],
        };
        for (span, read) in parts {
            for place in &span.registers {
                let register = &modbus.register[*place];
                let found = match &read {
                    Ok(data) => value(register, &span, data),
                    Err(fault) => Err(fault.to_string()),
                };
                values.insert(register.name.clone(), found);
            }
        }
    }
    if let Some(Err(why)) = values.values().next()
        && values.values().all(Result::is_err)
    {
        return Err(Failure::new(why.clone()));
    }
    Ok(Reading { at: now.to_string(), values })
}

/// Connects to an address that is listed, or that lies outside of the city's own network.
async fn connect(address: &str, allowed: &Allowed, patience: Duration) -> Result<TcpStream, Failure> {
    let within = async {
        let found = tokio::net::lookup_host(address).await.map_err(|e| Failure::new(format!("{address}: {e}")))?;
        let listed = allowed.has_pair(address);
        let open: Vec<SocketAddr> = found.filter(|a| listed || !is_internal(a.ip())).collect();
        if open.is_empty() {
            let why = format!("{address} leads into an internal network; the operator can allow it as host:port");
            return Err(Failure::new(why));
        }
        TcpStream::connect(&open[..]).await.map_err(|e| Failure::new(format!("{address}: {e}")))
    };
    let stream = tokio::time::timeout(patience, within)
        .await
        .map_err(|_| Failure::new(format!("{address} does not answer")))??;
    // Requests are small and each is waited for.
    stream.set_nodelay(true).map_err(|e| Failure::new(e.to_string()))?;
    Ok(stream)
}

struct Line {
    stream: TcpStream,
    transaction: u16,
    unit: u8,
    patience: Duration,
}

impl Line {
    /// The outer error ends the connection, the inner one is the device's own word.
    async fn read(&mut self, span: &Span) -> Result<Result<Vec<u8>, Fault>, Failure> {
        self.transaction = self.transaction.wrapping_add(1);
        let (transaction, unit) = (self.transaction, self.unit);
        let ask = async {
            self.stream.write_all(&request(transaction, unit, span)).await?;
            let mut header = [0; HEADER];
            self.stream.read_exact(&mut header).await?;
            let length = match length(&header, transaction, unit) {
                Ok(length) => length,
                Err(fault) => return Ok(Err(fault)),
            };
            let mut pdu = [0; MAX_PDU];
            self.stream.read_exact(&mut pdu[..length]).await?;
            std::io::Result::Ok(answer(&pdu[..length], span).map(<[u8]>::to_vec))
        };
        let asked = tokio::time::timeout(self.patience, ask).await;
        let asked = asked.map_err(|_| Failure::new("the device does not answer in time"))?;
        match asked.map_err(|e| Failure::new(format!("the connection has ended: {e}")))? {
            // After such an answer nothing on this connection can be trusted.
            Err(fault @ Fault::Broken(_)) => Err(Failure::new(fault.to_string())),
            told => Ok(told),
        }
    }
}
