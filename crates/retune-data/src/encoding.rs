//! Bytes to text: byte order marks, UTF-8 by default, other encodings by name.
//!
//! A file that is not valid UTF-8 is refused with the place and the likely encoding; it is never decoded by
//! guess, because a wrong guess trains on mojibake.

use crate::clean::{Change, Fix};
use crate::error::DataError;
use crate::finding::{Finding, excerpt};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use std::path::Path;

/// At most this many broken lines are named.
const EXAMPLES: usize = 3;

/// Decodes a whole file. `encoding` is any label of the WHATWG Encoding Standard (`utf-8`, `latin-1`,
/// `windows-1252`, `utf-16le`, `shift_jis`, …); a byte order mark wins over it.
pub(crate) fn decode(path: &Path, bytes: Vec<u8>, encoding: Option<&str>) -> Result<String, DataError> {
    let wanted = encoding.map(by_label).transpose()?;
    let (encoding, mark_length) = match Encoding::for_bom(&bytes) {
        Some((encoding, length)) => (encoding, length),
        None => (wanted.unwrap_or(UTF_8), 0),
    };
    if encoding != UTF_8 {
        let (text, had_errors) = encoding.decode_without_bom_handling(&bytes[mark_length..]);
        if had_errors {
            let offset = text.find('\u{FFFD}').unwrap_or(0);
            let line = 1 + text[..offset].matches('\n').count() as u64;
            let message = format!("not valid {}", encoding.name());
            return Err(DataError::refused(
                Finding::error("encoding", path, message).at_line(line).suggest("is the encoding right?"),
            ));
        }
        return Ok(text.into_owned());
    }
    if let Some(little_endian) = looks_like_utf16(&bytes) {
        let name = if little_endian { "utf-16le" } else { "utf-16be" };
        return Err(DataError::refused(
            Finding::error("encoding", path, "every other byte is zero: UTF-16 without a byte order mark")
                .suggest(format!("set encoding = \"{name}\"")),
        ));
    }
    let mut bytes = bytes;
    bytes.drain(..mark_length);
    String::from_utf8(bytes).map_err(|error| DataError::Refused(invalid_utf8(path, error.as_bytes())))
}

/// Decodes a file that need not be what it should be: UTF-16 without a mark, and lines of Windows-1252 among UTF-8. What
/// was not UTF-8 is listed.
///
/// Lines count as Windows-1252 if they then read as Western text does: few letters beyond ASCII, no sign inside of a word.
pub(crate) fn decode_repaired(
    path: &Path,
    bytes: Vec<u8>,
    encoding: Option<&str>,
) -> Result<(String, Vec<Change>), DataError> {
    let whole = |name: &str| Change {
        fix: Fix::Encoding,
        file: path.to_path_buf(),
        line: None,
        column: None,
        before: Some(name.to_owned()),
        after: Some("UTF-8".to_owned()),
        reason: "written as UTF-8".to_owned(),
    };
    let marked = Encoding::for_bom(&bytes).map(|(encoding, _)| encoding);
    let unmarked = looks_like_utf16(&bytes).map(|little| if little { "utf-16le" } else { "utf-16be" });
    let named = match (marked, encoding.or(unmarked)) {
        (Some(encoding), _) => Some(encoding),
        (None, label) => label.map(by_label).transpose()?,
    };
    if let Some(named) = named {
        let changes = if named == UTF_8 { Vec::new() } else { vec![whole(named.name())] };
        return Ok((decode(path, bytes, encoding.or(unmarked))?, changes));
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok((text, Vec::new())),
        Err(error) => error.into_bytes(),
    };
    let mut changes = Vec::new();
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 16);
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if index > 0 {
            text.push('\n');
        }
        if let Ok(line) = std::str::from_utf8(line) {
            text.push_str(line);
            continue;
        }
        let (decoded, _) = WINDOWS_1252.decode_without_bom_handling(line);
        if !looks_western(&decoded) {
            return Err(DataError::Refused(invalid_utf8(path, &bytes)));
        }
        text.push_str(&decoded);
        changes.push(Change {
            line: Some(index as u64 + 1),
            before: Some(String::from_utf8_lossy(line).trim_end().to_owned()),
            after: Some(decoded.trim_end().to_owned()),
            reason: "not valid UTF-8, read as Windows-1252".to_owned(),
            ..whole("")
        });
    }
    Ok((text, changes))
}

/// Whether a line decoded as Windows-1252 reads as a text of Western Europe: at most three letters of ten beyond ASCII, no
/// control character, and no sign between two letters that is no apostrophe or dash.
fn looks_western(line: &str) -> bool {
    let letters = line.chars().filter(|character| character.is_alphabetic()).count();
    let beyond = line.chars().filter(|character| character.is_alphabetic() && !character.is_ascii()).count();
    let characters: Vec<char> = line.chars().collect();
    let sign_in_word = characters.windows(3).any(|three| {
        let is_sign = !three[1].is_ascii() && !three[1].is_alphanumeric() && !three[1].is_whitespace();
        is_sign
            && three[0].is_alphabetic()
            && three[2].is_alphabetic()
            && !matches!(three[1], '’' | '‘' | '´' | '–' | '—' | '·' | '\u{AD}')
    });
    // Superscript digits count as numbers: in a word they are letters of another code page.
    let digit_in_word = characters.windows(3).any(|three| {
        matches!(three[1], '¹' | '²' | '³') && three[0].is_alphabetic() && three[2].is_alphabetic()
    });
    let control = line.chars().any(|character| matches!(character, '\u{80}'..='\u{9F}'));
    beyond * 10 <= letters * 3 && !sign_in_word && !digit_in_word && !control
}

/// The text of a file that lies in memory already, which must be UTF-8.
pub(crate) fn utf8<'a>(path: &Path, bytes: &'a [u8], encoding: Option<&str>) -> Result<&'a str, DataError> {
    let wanted = encoding.map(by_label).transpose()?.unwrap_or(UTF_8);
    let (encoding, mark_length) = Encoding::for_bom(bytes).unwrap_or((wanted, 0));
    if encoding != UTF_8 || looks_like_utf16(bytes).is_some() {
        let message = format!("{} cannot be streamed: it is not UTF-8; convert it first", path.display());
        return Err(DataError::Setting(message));
    }
    std::str::from_utf8(&bytes[mark_length..])
        .map_err(|_| DataError::Refused(invalid_utf8(path, &bytes[mark_length..])))
}

fn by_label(label: &str) -> Result<&'static Encoding, DataError> {
    // The standard's labels have "latin1" but not the spelling that people use most.
    let normalized = label.trim().to_ascii_lowercase();
    let normalized = match normalized.as_str() {
        "latin-1" | "latin_1" => "latin1",
        "utf_8" | "utf-8-sig" => "utf-8",
        "cp1252" => "windows-1252",
        other => other,
    };
    Encoding::for_label(normalized.as_bytes()).ok_or_else(|| {
        DataError::Setting(format!(
            "unknown encoding `{label}`: known are \"utf-8\", \"latin-1\", \"windows-1252\", \"utf-16le\", \
             \"shift_jis\" and the other labels of the WHATWG Encoding Standard"
        ))
    })
}

fn looks_like_utf16(bytes: &[u8]) -> Option<bool> {
    let sample = &bytes[..bytes.len().min(4096) & !1];
    if sample.len() < 8 {
        return None;
    }
    let zeros = |parity: usize| sample.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd, half) = (zeros(0), zeros(1), sample.len() / 2);
    match (even, odd) {
        (0, odd) if odd * 10 >= half * 8 => Some(true),
        (even, 0) if even * 10 >= half * 8 => Some(false),
        _ => None,
    }
}

fn invalid_utf8(path: &Path, bytes: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut broken_lines = 0usize;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let Err(error) = std::str::from_utf8(line) else { continue };
        broken_lines += 1;
        if findings.len() == EXAMPLES {
            continue;
        }
        let before = &line[..error.valid_up_to()];
        let column = 1 + String::from_utf8_lossy(before).chars().count();
        let from = error.valid_up_to().saturating_sub(12);
        let to = line.len().min(error.valid_up_to() + 12);
        let (guess, _) = WINDOWS_1252.decode_without_bom_handling(&line[from..to]);
        let message = format!(
            "not valid UTF-8: byte 0x{:02X} at column {column}",
            line.get(error.valid_up_to()).copied().unwrap_or(0)
        );
        findings.push(Finding::error("encoding", path, message).at_line(index as u64 + 1).suggest(format!(
            "in Windows-1252 it reads “{}”; if that is right, set encoding = \"windows-1252\"",
            excerpt(guess.trim(), 30)
        )));
    }
    if broken_lines > findings.len() {
        let more = broken_lines - findings.len();
        findings.push(Finding::error("encoding", path, format!("{more} more lines are not valid UTF-8")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8], encoding: Option<&str>) -> Result<String, String> {
        decode(Path::new("f.csv"), bytes.to_vec(), encoding).map_err(|error| error.to_string())
    }

    #[test]
    fn byte_order_marks_choose_the_encoding_and_disappear() {
        assert_eq!(decoded(b"\xEF\xBB\xBFtext", None).unwrap(), "text");
        assert_eq!(decoded(b"\xFF\xFEt\0\xE9\0", None).unwrap(), "té");
        assert_eq!(decoded(b"\xFE\xFF\0t\0\xE9", None).unwrap(), "té");
    }

    #[test]
    fn latin_1_is_refused_with_its_place_and_read_when_named() {
        let bytes = b"text\nun caf\xE9 noir\n";
        let error = decoded(bytes, None).unwrap_err();
        assert_eq!(
            error,
            "f.csv:2: error[encoding]: not valid UTF-8: byte 0xE9 at column 7 (in Windows-1252 it reads \
             “un café noir”; if that is right, set encoding = \"windows-1252\")"
        );
        assert_eq!(decoded(bytes, Some("latin-1")).unwrap(), "text\nun café noir\n");
    }

    #[test]
    fn utf16_without_a_mark_is_recognized() {
        let bytes: Vec<u8> = "text,label\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(decoded(&bytes, None).unwrap_err().contains("set encoding = \"utf-16le\""));
        assert_eq!(decoded(&bytes, Some("utf-16le")).unwrap(), "text,label\n");
    }

    #[test]
    fn an_unknown_encoding_is_a_wrong_setting() {
        assert!(decoded(b"", Some("klingon")).unwrap_err().contains("unknown encoding `klingon`"));
    }
}
