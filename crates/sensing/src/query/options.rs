//! The query part of an address: `$filter=…&$top=…`, percent-encoded.

use super::{
    Fault,
    ast::{Format, Options},
    parser,
};

/// Bytes of a whole query part.
const MAX_QUERY: usize = 64 << 10;

/// Decodes `%41` and, as browsers and most clients send it, `+` for a space.
pub fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err("a '%' must be followed by two hexadecimal digits".to_owned()),
                }
            }
            b => b,
        });
    }
    String::from_utf8(bytes).map_err(|_| "the percent-encoded text is not UTF-8".to_owned())
}

/// Encodes what may not stand in a query part.
pub fn encode(text: &str, out: &mut String) {
    for b in text.bytes() {
        match b {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'$'
            | b'('
            | b')'
            | b','
            | b'/'
            | b':'
            | b';'
            | b'*'
            | b'@'
            | b'\'' => {
                out.push(char::from(b));
            }
            b'=' => out.push_str("%3D"),
            b' ' => out.push_str("%20"),
            b => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(HEX[usize::from(b >> 4)]));
                out.push(char::from(HEX[usize::from(b & 15)]));
            }
        }
    }
}

impl Options {
    /// Parses the text after the `?`. Unknown options that start with `$` are refused with 501 (18-088 section 9.3,
    /// query-status-code); others belong to somebody else and are ignored.
    pub fn parse(query: &str) -> Result<Self, Fault> {
        let mut options = Self::default();
        if query.len() > MAX_QUERY {
            return Err(Fault::in_option("query", 1, format!("the address is longer than {MAX_QUERY} bytes")));
        }
        let mut seen: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).map_err(|e| Fault::in_option("query", 1, e))?;
            if !name.starts_with('$') {
                continue;
            }
            if seen.contains(&name) {
                return Err(Fault::in_option(&name, 1, "the option is given twice"));
            }
            let value = decode(value).map_err(|e| Fault::in_option(&name, 1, e))?;
            options.set(&name, &value).map_err(|fault| fault.option(&name))?;
            seen.push(name);
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let number = || -> Result<u64, Fault> {
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            value
                .parse()
                .ok()
                .filter(|_| digits)
                .ok_or_else(|| Fault::at(1, "a whole number that is not negative is expected"))
        };
        match name {
            "$filter" => self.filter = Some(parser::filter(value)?),
            "$orderby" => self.order = parser::order(value)?,
            "$expand" => self.expand = parser::expand(value)?,
            "$select" => self.select = Some(parser::select(value)?),
            "$top" => self.top = Some(number()?),
            "$skip" => self.skip = Some(number()?),
            "$count" => {
                self.count = Some(match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(Fault::at(1, "true or false is expected")),
                });
            }
            "$resultFormat" => {
                // FROST takes any case.
                let known = [Format::DataArray, Format::Csv, Format::GeoJson];
                let found = known.into_iter().find(|format| format.as_str().eq_ignore_ascii_case(value));
                self.format = found.ok_or_else(|| {
                    Fault::unsupported(format!("$resultFormat={value}; this server knows dataArray, CSV and GeoJSON"))
                })?;
            }
            "$skiptoken" => self.skip_token = Some(value.to_owned()),
            _ => return Err(Fault::unsupported(format!("the query option {name}"))),
        }
        Ok(())
    }
}

impl Options {
    /// `$orderby` as text.
    pub fn order_text(&self) -> String {
        let keys: Vec<String> =
            self.order.iter().map(|(key, down)| format!("{key}{}", if *down { " desc" } else { "" })).collect();
        keys.join(",")
    }
    /// `$select` as text.
    pub fn select_text(&self) -> Option<String> {
        let text = |(name, at): &(Vec<String>, super::ast::At)| super::Expr::Path(name.clone(), *at).to_string();
        let names: Vec<String> = self.select.as_ref()?.iter().map(text).collect();
        Some(names.join(","))
    }
    /// `$expand` as text, with the options of each.
    pub fn expand_text(&self) -> String {
        let one = |expand: &super::Expand| {
            let inner = expand.options.inner_text();
            if inner.is_empty() { expand.name.clone() } else { format!("{}({inner})", expand.name) }
        };
        self.expand.iter().map(one).collect::<Vec<_>>().join(",")
    }
    fn inner_text(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.filter.as_ref().map(|f| format!("$filter={f}")));
        if !self.order.is_empty() {
            parts.push(format!("$orderby={}", self.order_text()));
        }
        parts.extend(self.select_text().map(|s| format!("$select={s}")));
        if !self.expand.is_empty() {
            parts.push(format!("$expand={}", self.expand_text()));
        }
        parts.extend(self.skip.map(|n| format!("$skip={n}")));
        parts.extend(self.top.map(|n| format!("$top={n}")));
        parts.extend(self.count.map(|c| format!("$count={c}")));
        parts.join(";")
    }
}
