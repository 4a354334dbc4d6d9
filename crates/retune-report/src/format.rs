//! Numbers, times and text as a person reads them, and the escaping that every piece of user text goes through.

use std::fmt::{self, Display, Write};

use serde_json::Value;

/// Displays text so that it is only ever text in HTML and SVG, in content and in quoted attributes.
///
/// Control characters that XML forbids become U+FFFD.
pub(crate) struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => formatter.write_str("&amp;")?,
                '<' => formatter.write_str("&lt;")?,
                '>' => formatter.write_str("&gt;")?,
                '"' => formatter.write_str("&quot;")?,
                '\'' => formatter.write_str("&#39;")?,
                '\t' | '\n' | '\r' => formatter.write_char(character)?,
                '\0'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}' => formatter.write_char('\u{fffd}')?,
                other => formatter.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Shortens to `length` characters, the last one an ellipsis.
pub(crate) fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// `0.874` as `87.4%`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// `0.821` and `0.915` as `82.1–91.5%`.
pub(crate) fn percent_range(low: f64, high: f64) -> String {
    format!("{:.1}–{:.1}%", 100.0 * low, 100.0 * high)
}

/// Three decimals for small numbers, four significant digits otherwise, a real minus sign.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let text = if !value.is_finite() {
        return if value.is_nan() { "undefined".into() } else { "infinite".into() };
    } else if magnitude >= 10_000.0 || (magnitude > 0.0 && magnitude < 0.0005) {
        format!("{value:.2e}")
    } else if magnitude >= 1000.0 {
        format!("{value:.0}")
    } else if magnitude >= 100.0 {
        format!("{value:.1}")
    } else if magnitude >= 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    text.replace('-', "−")
}

/// A learning rate: `5e-5`, `1.28e-5`.
pub(crate) fn learning_rate(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let text = format!("{value:.2e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    format!("{mantissa}e{exponent}")
}

/// A label for a tick between neighbours `step` apart.
pub(crate) fn tick(value: f64, step: f64) -> String {
    let magnitude = value.abs().max(step);
    if magnitude > 0.0 && !(1e-3..1e5).contains(&magnitude) {
        return learning_rate(value).replace('-', "−");
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{:.*}", decimals, if value.abs() < step * 1e-6 { 0.0 } else { value }).replace('-', "−")
}

/// Digits in groups of three, separated by narrow spaces.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// Parameters: `22.7 M`, `385 k`, `770`.
pub(crate) fn parameters(value: u64) -> String {
    let number = value as f64;
    match value {
        1_000_000_000.. => format!("{:.2}\u{a0}B", number / 1e9),
        1_000_000.. => format!("{:.1}\u{a0}M", number / 1e6),
        10_000.. => format!("{:.0}\u{a0}k", number / 1e3),
        1_000.. => format!("{:.1}\u{a0}k", number / 1e3),
        _ => value.to_string(),
    }
}

/// Bytes: `86.6 MB`.
pub(crate) fn bytes(value: u64) -> String {
    let number = value as f64;
    match value {
        1_000_000_000.. => format!("{:.2}\u{a0}GB", number / 1e9),
        1_000_000.. => format!("{:.1}\u{a0}MB", number / 1e6),
        1_000.. => format!("{:.1}\u{a0}kB", number / 1e3),
        _ => format!("{value}\u{a0}bytes"),
    }
}

/// `73.4` as `1 min 13 s`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".into();
    }
    if seconds < 10.0 {
        return format!("{seconds:.1}\u{a0}s");
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds}\u{a0}s"),
        (0, minutes, seconds) => format!("{minutes}\u{a0}min {seconds}\u{a0}s"),
        (hours, minutes, _) => format!("{hours}\u{a0}h {minutes}\u{a0}min"),
    }
}

/// A time given as text or as seconds since 1970, to the minute, in UTC.
pub(crate) fn time(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        // 2026-11-21T10:26:13.123Z reads as 2026-11-21 10:26 UTC; anything else stays as it is.
        let bytes = text.as_bytes();
        let iso = bytes.len() >= 20
            && bytes[4] == b'-'
            && bytes[10] == b'T'
            && text.ends_with('Z')
            && text.is_ascii();
        return Some(if iso { format!("{} {} UTC", &text[..10], &text[11..16]) } else { text.to_owned() });
    }
    let seconds = value.as_f64().filter(|seconds| (0.0..4e11).contains(seconds))?;
    // Milliseconds where seconds would lie beyond the year 5000.
    let seconds = if seconds > 1e11 { seconds / 1000.0 } else { seconds } as i64;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    Some(format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest / 60 % 60))
}

/// Days since 1970 as a Gregorian date (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A target or prediction: a name, names or a number.
pub(crate) fn answer(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(name) => name.clone(),
        Value::Array(names) if names.is_empty() => "none".into(),
        Value::Array(names) => names.iter().map(answer).collect::<Vec<_>>().join(", "),
        other => other.as_f64().map_or_else(|| other.to_string(), number),
    }
}

/// Quotes an argument for a POSIX shell where it needs to be.
pub(crate) fn shell(argument: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:@%".contains(character);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// Bytes in base64 (RFC 4648), for data URLs.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .enumerate()
            .fold(0_u32, |group, (place, &byte)| group | u32::from(byte) << (16 - 8 * place));
        for place in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648, section 10.
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(percent(0.8737), "87.4%");
        assert_eq!(number(-0.25), "−0.250");
        assert_eq!(number(1234.5), "1234");
        assert_eq!(learning_rate(5e-5), "5e-5");
        assert_eq!(learning_rate(1.28e-5), "1.28e-5");
        assert_eq!(count(22_713_216), "22\u{202f}713\u{202f}216");
        assert_eq!(parameters(22_713_216), "22.7\u{a0}M");
        assert_eq!(bytes(86_600_000), "86.6\u{a0}MB");
        assert_eq!(duration(73.4), "1\u{a0}min 13\u{a0}s");
        assert_eq!(tick(0.30000000000000004, 0.1), "0.3");
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(time(&json!(1_700_000_000)).unwrap(), "2023-11-14 22:13 UTC");
        assert_eq!(time(&json!("2026-11-21T10:26:13Z")).unwrap(), "2026-11-21 10:26 UTC");
        assert_eq!(time(&json!(0)).unwrap(), "1970-01-01 00:00 UTC");
        assert_eq!(time(&Value::Null), None);
    }

    #[test]
    fn a_folder_with_spaces_and_quotes_survives_the_shell() {
        assert_eq!(shell("runs/a-1"), "runs/a-1");
        assert_eq!(shell("it's here"), r"'it'\''s here'");
    }

    proptest! {
        #[test]
        fn escaped_text_holds_no_markup(text in any::<String>()) {
            let escaped = Escaped(&text).to_string();
            let no_markup = !escaped.contains(['<', '>', '"', '\'']);
            prop_assert!(no_markup);
            let element = format!("<p title=\"{escaped}\">{escaped}</p>");
            prop_assert!(roxmltree::Document::parse(&element).is_ok());
        }
    }
}
