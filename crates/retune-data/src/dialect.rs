//! Inferring how a delimited file is written: its delimiter, whether its quotes mean anything, and whether its
//! first line is a header. Every inference is a pure function of the text and is told to the user.

use crate::scan::{Dialect, Scanner};
use std::collections::HashSet;

/// Delimiters are inferred from this much of a file.
const SAMPLE_BYTES: usize = 1 << 20;
/// Header inference compares the first line with this many others.
const SAMPLE_RECORDS: usize = 1000;
/// A header's name has at most this many words and characters.
const HEADER_WORDS: usize = 5;
const HEADER_CHARACTERS: usize = 48;

/// Column names that people give; one of them among the first line's fields outweighs a number beside it.
const USUAL_NAMES: &[&str] = &[
    "text",
    "label",
    "labels",
    "sentence",
    "sentence1",
    "sentence2",
    "message",
    "review",
    "comment",
    "content",
    "title",
    "body",
    "question",
    "premise",
    "hypothesis",
    "query",
    "document",
    "tweet",
    "utterance",
    "target",
    "class",
    "category",
    "intent",
    "sentiment",
    "score",
    "rating",
    "topic",
    "tag",
    "tags",
    "id",
    "idx",
    "index",
];

/// The delimiter under which most records have as many fields as the first one. `None` when the first record
/// has one field under each, which is a file of one column.
pub(crate) fn infer_delimiter(text: &str, extension: Option<&str>, max_field_bytes: usize) -> Option<u8> {
    let sample = sample(text);
    let order: [u8; 4] = match extension {
        Some("tsv" | "tab") => *b"\t,;|",
        Some("csv") => *b",;\t|",
        _ => *b"\t,;|",
    };
    let mut best: Option<(f64, u8)> = None;
    for delimiter in order {
        let quoting = [true, false].map(|quoting| {
            survey(sample, Dialect { delimiter, quoting, split_once: false }, max_field_bytes)
        });
        let share = quoting
            .iter()
            .filter(|survey| survey.first_fields >= 2)
            .map(|survey| 1.0 - survey.ragged as f64 / survey.records as f64)
            .fold(f64::NEG_INFINITY, f64::max);
        if share.is_finite() && best.is_none_or(|(best_share, _)| share > best_share) {
            best = Some((share, delimiter));
        }
    }
    best.map(|(_, delimiter)| delimiter)
}

/// Whether quotes quote. They do, unless reading them so breaks rows that are whole when they don't: a stray
/// quote in a tab-separated file would otherwise swallow the lines up to the next one.
pub(crate) fn infer_quoting(text: &str, delimiter: u8, max_field_bytes: usize) -> bool {
    if !text.contains('"') {
        return true;
    }
    let dialect = |quoting| Dialect { delimiter, quoting, split_once: false };
    let with = survey(text, dialect(true), max_field_bytes);
    let without = survey(text, dialect(false), max_field_bytes);
    if without.ragged > 0 {
        return true;
    }
    let breaks_rows = with.ragged > 0 || with.faults > 0;
    if delimiter == b'\t' {
        !(breaks_rows || with.multi_line > 0)
    } else {
        !(breaks_rows && without.wrapped == 0)
    }
}

/// Whether the first record names the columns: short, wordy, unlike the values under it.
pub(crate) fn infer_header(text: &str, dialect: Dialect, max_field_bytes: usize) -> bool {
    let mut records = Scanner::new(text, dialect, max_field_bytes);
    let Some(first) = records.next() else { return false };
    let names: Vec<&str> = first.fields.iter().map(|field| field.text.trim()).collect();
    let is_long = |name: &&str| {
        name.chars().count() > HEADER_CHARACTERS || name.split_whitespace().count() > HEADER_WORDS
    };
    if names.iter().any(is_long) || names.iter().all(|name| name.is_empty()) {
        return false;
    }
    let is_usual = |name: &&str| USUAL_NAMES.contains(&name.to_lowercase().as_str());
    if !names.iter().any(is_usual) && names.iter().any(|name| name.is_empty() || name.parse::<f64>().is_ok())
    {
        return false;
    }
    let mut seen: Vec<HashSet<String>> = vec![HashSet::new(); names.len()];
    for record in records.take(SAMPLE_RECORDS) {
        for (column, field) in record.fields.iter().enumerate().take(names.len()) {
            seen[column].insert(field.text.trim().to_owned());
        }
    }
    !names.iter().zip(&seen).any(|(name, values)| !name.is_empty() && values.contains(*name))
}

struct Survey {
    records: usize,
    first_fields: usize,
    /// Records whose number of fields is not the first one's.
    ragged: usize,
    faults: usize,
    multi_line: usize,
    /// Fields that begin and end with a quote.
    wrapped: usize,
}

fn survey(text: &str, dialect: Dialect, max_field_bytes: usize) -> Survey {
    let mut survey = Survey { records: 0, first_fields: 0, ragged: 0, faults: 0, multi_line: 0, wrapped: 0 };
    for record in Scanner::new(text, dialect, max_field_bytes) {
        if survey.records == 0 {
            survey.first_fields = record.fields.len();
        }
        survey.records += 1;
        survey.ragged += usize::from(record.fields.len() != survey.first_fields);
        survey.faults += usize::from(record.fault.is_some());
        survey.multi_line += usize::from(record.last_line > record.line);
        survey.wrapped += record
            .fields
            .iter()
            .filter(|field| field.text.len() >= 2 && field.text.starts_with('"') && field.text.ends_with('"'))
            .count();
        // An unclosed quote sends the scanner to the end of the text again and again.
        if survey.faults > 100 {
            break;
        }
    }
    survey
}

/// The beginning of the text, cut at a line end.
fn sample(text: &str) -> &str {
    if text.len() <= SAMPLE_BYTES {
        return text;
    }
    match text.as_bytes()[..SAMPLE_BYTES].iter().rposition(|byte| *byte == b'\n') {
        Some(end) => &text[..=end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn header(text: &str) -> bool {
        infer_header(text, Dialect { delimiter: b',', quoting: true, split_once: false }, LIMIT)
    }

    #[test]
    fn the_delimiter_is_the_one_that_makes_rows_alike() {
        assert_eq!(infer_delimiter("a;b\nx, y;z\n", None, LIMIT), Some(b';'));
        assert_eq!(infer_delimiter("a,b\nx;y,z\n", Some("csv"), LIMIT), Some(b','));
        assert_eq!(infer_delimiter("ham\tone, two\nspam\tthree\n", None, LIMIT), Some(b'\t'));
        assert_eq!(infer_delimiter("a|b|c\n1|2|3\n", None, LIMIT), Some(b'|'));
        assert_eq!(infer_delimiter("text\nonly one column\n", Some("csv"), LIMIT), None);
    }

    #[test]
    fn stray_quotes_in_a_tab_separated_file_are_letters() {
        assert!(!infer_quoting("ham\t\"hello\nspam\tyou won \"big\"\nham\tok\n", b'\t', LIMIT));
        assert!(!infer_quoting("ham\t\"hello\nham\tbye\"\n", b'\t', LIMIT));
        assert!(infer_quoting("ham\t\"hello\"\nham\t\"a \"\"b\"\"\"\n", b'\t', LIMIT));
        assert!(infer_quoting("a,b\n\"x, y\",z\n", b',', LIMIT));
        assert!(!infer_quoting("a,b\n\"x\" y,z\n", b',', LIMIT));
    }

    #[test]
    fn a_first_line_like_the_others_is_no_header() {
        assert!(header("message,intent\nhello,greet\nbye,leave\n"));
        assert!(header(",text,label\n0,hello,greet\n"));
        assert!(!header("great movie,pos\nbad movie,neg\nfine movie,pos\n"));
        assert!(!header("great movie,1\nbad movie,0\n"));
        assert!(!header("a very long sentence that nobody would use as a name,x\nb,y\n"));
    }
}
