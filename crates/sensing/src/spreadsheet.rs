//! CSV (RFC 4180) as people open it.

/// A text as a field. What a spreadsheet would run as a formula is made harmless by a leading apostrophe.
pub(crate) fn field(out: &mut String, text: &str) {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    out.push('"');
    if formula {
        out.push('\'');
    }
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn formulas_are_text() {
        let check = |text: &str, expect: &str| {
            let mut out = String::new();
            field(&mut out, text);
            assert_eq!(out, expect);
        };
        check("open", "\"open\"");
        check("=1+1", "\"'=1+1\"");
        check("a \"b\"", "\"a \"\"b\"\"\"");
    }
}
