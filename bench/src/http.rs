//! HTTP/1.1 (RFC 9112) on one connection that stays open, as little as a load needs: so that what is measured is the server.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

/// The largest answer that is read.
const MOST: usize = 64 << 20;
/// The longest that is waited for a byte: InfluxDB counts a billion rows in some minutes.
const PATIENCE: Duration = Duration::from_secs(900);

pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    read: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The bytes of a request.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

impl Connection {
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("{address} does not answer"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, address, read: Vec::new() })
    }

    /// Sends and expects 2xx.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> anyhow::Result<Answer> {
        let answer = self.send(&request(self.address, method, path, headers, body))?;
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        Ok(answer)
    }

    /// Sends the bytes of a whole request and reads its answer.
    pub fn send(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request)?;
        let end = self.until(|read| read.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4))?;
        let head = String::from_utf8(self.take(end)).context("an answer that is not HTTP")?;
        let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("an answer without a status")?;
        let mut answer = Answer { status, head, body: Vec::new() };
        if matches!(status, 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
            answer.body = self.chunks()?;
            return Ok(answer);
        }
        let length: usize = answer.header("content-length").unwrap_or("0").parse()?;
        ensure!(length <= MOST, "an answer of {length} bytes");
        self.until(|read| (read.len() >= length).then_some(length))?;
        answer.body = self.take(length);
        Ok(answer)
    }

    fn chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = self.until(|read| read.windows(2).position(|w| w == b"\r\n").map(|at| at + 2))?;
            let line = self.take(end);
            let digits = String::from_utf8_lossy(&line);
            let length = usize::from_str_radix(digits.trim().split(';').next().unwrap_or_default(), 16)?;
            ensure!(body.len() + length <= MOST, "an answer of more than {MOST} bytes");
            self.until(|read| (read.len() >= length + 2).then_some(length))?;
            let mut chunk = self.take(length + 2);
            chunk.truncate(length);
            if length == 0 {
                return Ok(body);
            }
            body.append(&mut chunk);
        }
    }

    /// Reads until what has come is enough.
    fn until(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> anyhow::Result<usize> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(at) = enough(&self.read) {
                return Ok(at);
            }
            ensure!(self.read.len() <= MOST, "an answer of more than {MOST} bytes");
            match self.stream.read(&mut buffer)? {
                0 => bail!("the server has closed the connection"),
                n => self.read.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.read.drain(..bytes).collect()
    }
}

/// A free port of this machine. Somebody else may take it before it is used; then the server does not start and says so.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
