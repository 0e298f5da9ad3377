//! XML 1.0: one element that repeats is a row. Its fields are what is inside: `Name`, `Position.Lat`, `@id`, `Position.@unit`, and `.` for its own
//! text. Namespace prefixes are left out. Entities of a document's own are not expanded, so none can blow up.

use std::borrow::Cow;

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

use super::{Fields, Item, MAX_DEPTH, Visit};

#[derive(Default)]
struct Element {
    /// Paths and texts, in the order of the document; the first of a path counts.
    fields: Vec<(String, String)>,
}

impl Fields for Element {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.fields.iter().find(|(path, _)| path == name).map(|(_, text)| Cow::Borrowed(text.as_str()))
    }
}

/// Bytes of an element's or attribute's name. Every field carries the names above it, so a long one would be copied ten thousand times.
const MAX_NAME: usize = 1_000;
/// Fields of one row.
const MAX_FIELDS: usize = 10_000;

/// The row being read: the names below it, each with the text so far.
struct Open {
    line: u64,
    element: Element,
    below: Vec<(String, String)>,
}

impl Open {
    fn path(&self) -> String {
        let names: Vec<&str> = self.below.iter().skip(1).map(|(name, _)| name.as_str()).collect();
        names.join(".")
    }
    fn put(&mut self, path: String, text: &str) -> Result<(), String> {
        if self.element.fields.len() >= MAX_FIELDS {
            return Err(format!("an element with more than {MAX_FIELDS} fields"));
        }
        self.element.fields.push((path, text.trim().to_owned()));
        Ok(())
    }
    fn start(&mut self, name: String, start: &BytesStart<'_>) -> Result<(), String> {
        self.below.push((name, String::new()));
        let path = self.path();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|e| format!("not XML: {e}"))?;
            let name = name_of(attribute.key.local_name().as_ref())?;
            let text = attribute.unescape_value().map_err(|e| format!("not XML: {e}"))?;
            let separator = if path.is_empty() { "" } else { "." };
            self.put(format!("{path}{separator}@{name}"), &text)?;
        }
        Ok(())
    }
    fn end(&mut self) -> Result<(), String> {
        let path = self.path();
        let Some((_, text)) = self.below.pop() else { return Ok(()) };
        self.put(if path.is_empty() { ".".to_owned() } else { path }, &text)
    }
}

fn name_of(bytes: &[u8]) -> Result<String, String> {
    if bytes.len() > MAX_NAME {
        return Err(format!("a name of {} bytes; at most {MAX_NAME} are read", bytes.len()));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn character(reference: &str) -> Option<char> {
    Some(match reference {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "apos" => '\'',
        "quot" => '"',
        _ => return None,
    })
}

pub fn read(at: &str, text: &str, visit: &mut Visit<'_>) -> Result<(), String> {
    let wanted: Vec<&str> = at.split('.').collect();
    let mut reader = Reader::from_str(text);
    let mut above: Vec<String> = Vec::new();
    let mut open: Option<Open> = None;
    let mut line = 0u64;
    let wrong = |e: &dyn std::fmt::Display| format!("not XML: {e}");
    loop {
        let event = reader.read_event().map_err(|e| wrong(&e))?;
        let (start, empty) = match &event {
            Event::Start(start) => (Some(start), false),
            Event::Empty(start) => (Some(start), true),
            _ => (None, false),
        };
        if let Some(start) = start {
            let name = name_of(start.local_name().as_ref())?;
            if above.len() + open.as_ref().map_or(0, |o| o.below.len()) >= MAX_DEPTH {
                return Err(format!("more than {MAX_DEPTH} elements inside each other"));
            }
            match &mut open {
                Some(row) => row.start(name, start)?,
                None if above.len() + 1 == wanted.len() && above.iter().chain([&name]).eq(wanted.iter()) => {
                    line += 1;
                    let mut row = Open { line, element: Element::default(), below: Vec::new() };
                    row.start(name, start)?;
                    open = Some(row);
                }
                None => above.push(name),
            }
        }
        let text = match &event {
            Event::Text(text) => Some(text.xml10_content().map_err(|e| wrong(&e))?.into_owned()),
            Event::CData(text) => Some(text.decode().map_err(|e| wrong(&e))?.into_owned()),
            Event::GeneralRef(reference) => {
                let known = match reference.resolve_char_ref().map_err(|e| wrong(&e))? {
                    Some(c) => Some(c),
                    None => character(&reference.decode().map_err(|e| wrong(&e))?),
                };
                Some(known.ok_or_else(|| "an entity of the document's own is not expanded".to_owned())?.to_string())
            }
            _ => None,
        };
        if let (Some(text), Some((_, inside))) = (text, open.as_mut().and_then(|o| o.below.last_mut())) {
            inside.push_str(&text);
        }
        if empty || matches!(event, Event::End(_)) {
            match &mut open {
                Some(row) => row.end()?,
                None => {
                    above.pop();
                }
            }
            if let Some(row) = open.take_if(|row| row.below.is_empty())
                && visit(Item::Row { line: row.line, row: &row.element }).is_break()
            {
                return Ok(());
            }
        }
        if matches!(event, Event::Eof) {
            return if above.is_empty() && open.is_none() {
                Ok(())
            } else {
                Err("not XML: the document breaks off".to_owned())
            };
        }
    }
}
