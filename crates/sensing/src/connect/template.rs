//! Keys put together from fields: `air-{column|station}.daily-{POLLUTANT|pollutant}`.

use std::{borrow::Cow, collections::BTreeMap};

/// `{column}`: the name of the column at hand.
pub const COLUMN: &str = "column";
/// `{field|slug}`: the text lowered to a key.
pub const SLUG: &str = "slug";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { name: String, through: Option<String> },
}

/// Texts and fields in turn. `{field|table}` looks the field's text up in a table of the connector; two braces are a brace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 400 {
            return Err("1 to 400 bytes are expected".to_owned());
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.peek() == Some(&c) => {
                    chars.next();
                    plain.push(c);
                }
                '}' => return Err("a '}' without its '{'; write '}}' for the character".to_owned()),
                '{' => {
                    let mut inside = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) => inside.push(c),
                            None => return Err("a '{' without its '}'; write '{{' for the character".to_owned()),
                        }
                    }
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    let (name, through) = match inside.split_once('|') {
                        Some((name, through)) => (name, Some(through.to_owned())),
                        None => (inside.as_str(), None),
                    };
                    if name.is_empty() {
                        return Err("a field's name is expected between the braces".to_owned());
                    }
                    parts.push(Part::Field { name: name.to_owned(), through });
                }
                c => plain.push(c),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Field { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The tables that fields are looked up in.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Field { through: Some(table), .. } if table != SLUG => Some(table.as_str()),
            _ => None,
        })
    }

    /// Puts the key together in `out`, which is emptied first.
    ///
    /// # Errors
    /// The field that is missing or that a table does not know, its text, and a sentence.
    pub fn render<'a>(
        &self,
        tables: &BTreeMap<String, BTreeMap<String, String>>,
        out: &mut String,
        field: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Result<(), (String, String, String)> {
        out.clear();
        for part in &self.0 {
            let (name, through) = match part {
                Part::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Part::Field { name, through } => (name, through),
            };
            let text =
                field(name).ok_or_else(|| (name.clone(), String::new(), "the row has no such field".to_owned()))?;
            let text = text.trim();
            match through.as_deref() {
                None => out.push_str(text),
                Some(SLUG) => slug(text, out),
                Some(table) => match tables.get(table).and_then(|t| t.get(text)) {
                    Some(ours) => out.push_str(ours),
                    None => {
                        return Err((name.clone(), text.to_owned(), format!("the table '{table}' does not know it")));
                    }
                },
            }
        }
        Ok(())
    }
}

/// Lower case; everything but letters and digits becomes one `-`.
fn slug(text: &str, out: &mut String) {
    let mut gap = false;
    let start = out.len();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            if gap && out.len() > start {
                out.push('-');
            }
            gap = false;
            out.push(c.to_ascii_lowercase());
        } else {
            gap = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_from_fields() {
        let tables = BTreeMap::from([("p".to_owned(), BTreeMap::from([("Ozone".to_owned(), "o3".to_owned())]))]);
        let check = |template: &str, expect: Result<&str, &str>| {
            let mut out = String::from("left over");
            let row = |name: &str| match name {
                "P" => Some(Cow::Borrowed(" Ozone ")),
                "S" => Some(Cow::Borrowed("TSUEN WAN (West)")),
                _ => None,
            };
            let done = Template::parse(template).expect("template").render(&tables, &mut out, row);
            assert_eq!(done.as_ref().map(|()| out.as_str()).map_err(|e| e.0.as_str()), expect, "{template}");
        };
        check("plain", Ok("plain"));
        check("air-{S|slug}.daily-{P|p}", Ok("air-tsuen-wan-west.daily-o3"));
        check("{{{P}}}", Ok("{Ozone}"));
        check("{S|p}", Err("S"));
        check("{Q}", Err("Q"));
        for bad in ["", "{", "}", "a{b", "{}", "{|p}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
