//! A message as XML, in the form that needs no canonicalisation: what is written here is its own Exclusive Canonical XML 1.0 (W3C), so that
//! a signature over these bytes is one over the canonical form, and any verifier of XML signatures finds the same digest.
//!
//! That holds because: one default namespace and no prefix; no attribute but what is written in its order; no white space between
//! elements; empty elements as a pair of tags; and only the characters escaped that canonical XML escapes.

use super::model::{Info, Message, NAMESPACE};

/// Text between tags (Canonical XML 1.0 section 2.3: text nodes). Control characters, which XML 1.0 does not have, become blanks.
pub fn text(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
}

/// One element with text; nothing when there is none.
pub fn element(out: &mut String, name: &str, value: &str) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    text(out, value);
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

fn optional(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|v| !v.is_empty()) {
        element(out, name, value);
    }
}

/// `<alert>` without its end tag, which comes after the signature.
pub fn body(message: &Message) -> String {
    let mut out = format!("<alert xmlns=\"{NAMESPACE}\">");
    element(&mut out, "identifier", &message.identifier);
    element(&mut out, "sender", &message.sender);
    element(&mut out, "sent", &message.sent);
    element(&mut out, "status", message.status.name());
    element(&mut out, "msgType", message.msg_type.name());
    element(&mut out, "scope", "Public");
    optional(&mut out, "note", message.note.as_deref());
    optional(&mut out, "references", Some(&message.references.join(" ")));
    for one in &message.info {
        info(&mut out, one);
    }
    out
}

pub const END: &str = "</alert>";

/// In the order of the schema, which is a sequence.
fn info(out: &mut String, info: &Info) {
    out.push_str("<info>");
    element(out, "language", &info.language);
    for category in &info.category {
        element(out, "category", category.name());
    }
    element(out, "event", &info.event);
    optional(out, "responseType", info.response_type.as_deref());
    element(out, "urgency", info.urgency.name());
    element(out, "severity", info.severity.name());
    element(out, "certainty", info.certainty.name());
    element(out, "onset", &info.onset);
    element(out, "expires", &info.expires);
    element(out, "senderName", &info.sender_name);
    element(out, "headline", &info.headline);
    element(out, "description", &info.description);
    optional(out, "instruction", info.instruction.as_deref());
    element(out, "web", &info.web);
    out.push_str("<area>");
    element(out, "areaDesc", &info.area.area_desc);
    for ring in &info.area.polygon {
        element(out, "polygon", ring);
    }
    optional(out, "circle", info.area.circle.as_deref());
    out.push_str("</area></info>");
}
