//! Whether an Observation's `resultQuality` names a fault. Pure.
//!
//! `resultQuality` is a DQ_Element (ISO 19157), of which SensorThings prescribes no JSON form. Understood here: a string, an
//! object with the string `flag` (or `code`), a DQ_Element with `nameOfMeasure` and `DQ_Result.code`, and an array of these, where the worst counts.
//! What is not understood is no fault: a rule that goes blind because of an unknown remark would be the worse mistake.

use serde_json::Value;

/// Flags that say that the result must not be believed; the same words that connectors write for placeholders and gaps.
const FAULTS: [&str; 10] =
    ["bad", "erroneous", "failed", "gap", "invalid", "maintenance", "missing", "placeholder", "suspect", "unreliable"];

/// `quality` as raw JSON. Bounded by the frame that carried it.
pub fn is_faulty(quality: &str) -> bool {
    serde_json::from_str(quality).is_ok_and(|value| faulty(&value, 0))
}

fn faulty(value: &Value, depth: u8) -> bool {
    match value {
        Value::String(flag) => FAULTS.iter().any(|f| flag.eq_ignore_ascii_case(f)),
        Value::Array(all) if depth < 4 => all.iter().any(|v| faulty(v, depth + 1)),
        Value::Object(fields) if depth < 4 => {
            let named = ["flag", "code", "DQ_Result", "result"].into_iter().filter_map(|name| fields.get(name));
            named.into_iter().any(|v| faulty(v, depth + 1))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_in_every_usual_form() {
        for bad in [
            r#""missing""#,
            r#"{"flag":"Placeholder"}"#,
            r#"{"nameOfMeasure":"range","DQ_Result":{"code":"bad"}}"#,
            r#"[{"flag":"good"},{"code":"suspect"}]"#,
        ] {
            assert!(is_faulty(bad), "{bad}");
        }
        for good in ["null", "{}", r#""good""#, r#"{"flag":"good","note":"bad"}"#, "[]", "7", "not json"] {
            assert!(!is_faulty(good), "{good}");
        }
        assert!(!is_faulty(&"[".repeat(500)), "depth is bounded");
    }
}
