//! Scalars: what kubectl's reader (YAML 1.1, as Go's yaml reads it) takes them for, and how to write a text that every reader
//! takes for that text.

use serde_json::{Number, Value, json};

use super::node::Style;

const TRUE: [&str; 11] = ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"];
const FALSE: [&str; 11] = ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"];
const NULL: [&str; 5] = ["", "~", "null", "Null", "NULL"];

/// What a scalar without quotes is.
pub(crate) fn resolve(text: &str) -> Value {
    if NULL.contains(&text) {
        return Value::Null;
    }
    if TRUE.contains(&text) || FALSE.contains(&text) {
        return json!(TRUE.contains(&text));
    }
    number(text).map_or_else(|| json!(text), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None;
    }
    let digits = text.replace('_', "");
    let (negative, rest) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let whole = |text: &str, radix: u32| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        u64::from_str_radix(text, radix).ok().filter(|_| plain)
    };
    let magnitude = match rest.get(..2) {
        Some("0x" | "0X") => whole(&rest[2..], 16),
        Some("0o" | "0O") => whole(&rest[2..], 8),
        Some("0b" | "0B") => whole(&rest[2..], 2),
        Some(two) if two.starts_with('0') && rest.bytes().all(|b| b.is_ascii_digit()) => whole(&rest[1..], 8),
        _ => whole(rest, 10),
    };
    if let Some(magnitude) = magnitude {
        if !negative {
            return Some(magnitude.into());
        }
        return i64::try_from(-i128::from(magnitude)).ok().map(Number::from);
    }
    let float = rest.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && rest.bytes().any(|b| b.is_ascii_digit())
        && !rest.starts_with(['e', 'E']);
    let value: f64 = rest.parse().ok().filter(|_| float)?;
    Number::from_f64(if negative { -value } else { value })
}

/// A scalar for YAML, in the style that stood there before where that is possible.
pub(crate) fn write(value: &Value, before: Option<Style>) -> String {
    match value {
        Value::String(text) => match before {
            Some(Style::Double) => double(text),
            Some(Style::Single) if printable(text) => single(text),
            _ if is_plain(text) => text.clone(),
            _ if text.contains('"') && printable(text) => single(text),
            _ => double(text),
        },
        other => other.to_string(),
    }
}

/// Whether every reader takes the text for itself without quotes, in block and in flow style.
fn is_plain(text: &str) -> bool {
    let amount = || {
        let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit());
        suffix.len() < text.len() && ["m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&suffix)
    };
    let word = || {
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-:=$()".contains(c))
            && !text.ends_with(':')
            && resolve(text).is_string()
    };
    amount() || word()
}

fn printable(text: &str) -> bool {
    text.chars().all(|c| matches!(c, ' '..='~') || (c > '\u{a0}' && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')))
}

fn single(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// In double quotes, as JSON and YAML both read it.
pub(crate) fn double(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || matches!(c, '\u{7f}'..='\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_and_we_agree_on_what_a_scalar_is() {
        for (text, value) in [
            ("yes", json!(true)),
            ("off", json!(false)),
            ("~", json!(null)),
            ("010", json!(8)),
            ("0x1F", json!(31)),
            ("-3", json!(-3)),
            ("1_000", json!(1000)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("100m", json!("100m")),
            ("1.2.3", json!("1.2.3")),
            ("-", json!("-")),
            (".", json!(".")),
            ("2001-12-14", json!("2001-12-14")),
            ("12:30:45", json!("12:30:45")),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
    }

    #[test]
    fn a_text_is_written_so_that_it_stays_one() {
        for text in
            ["yes", "No", "1", "010", "2001-12-14", "12:30", "", " x", "a: b", "a #b", "null", "*a", "1e3", "a:"]
        {
            let written = write(&json!(text), None);
            assert!(written.starts_with('"'), "{text:?} was written as {written}");
        }
        for text in ["web", "localhost/remora/proxy:0.1.0", "50m", "64Mi", "/remora-proxy"] {
            assert_eq!(write(&json!(text), None), text);
        }
        assert_eq!(write(&json!("{\"a\":1}"), None), "'{\"a\":1}'");
        assert_eq!(write(&json!("web"), Some(Style::Double)), "\"web\"");
    }
}
