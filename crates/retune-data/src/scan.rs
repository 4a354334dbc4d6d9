//! The record scanner under the CSV reader: RFC 4180 with any one-byte delimiter, with or without quoting.
//!
//! Written here rather than taken from the `csv` crate, because a finding must name the exact line of a row,
//! of the quote that was never closed and of the text behind a closing quote, and must go on from there. On
//! well-formed files it agrees with that crate (a property test says so).

use std::borrow::Cow;

/// How a delimited file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// An ASCII byte.
    pub delimiter: u8,
    /// False when quotes are ordinary characters.
    pub quoting: bool,
    /// Only the first delimiter of a line splits it: `label text with spaces`.
    pub split_once: bool,
}

/// What is wrong inside one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The quote opened on this line is never closed.
    UnclosedQuote { line: u64 },
    /// After a closing quote on this line comes neither delimiter nor line end.
    TextAfterQuote { line: u64 },
    /// A field is longer than the limit.
    LongField { line: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub text: Cow<'a, str>,
    pub quoted: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Record<'a> {
    /// First line, counted from 1.
    pub line: u64,
    /// Last line.
    pub last_line: u64,
    pub fields: Vec<Field<'a>>,
    /// The first fault met; the scanner then goes on at the line after the record's first.
    pub fault: Option<Fault>,
}

/// Walks a text record by record; blank lines are skipped and counted.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    position: usize,
    line: u64,
    dialect: Dialect,
    /// `\n`, or `\r` in a file that has no `\n` at all.
    terminator: u8,
    max_field_bytes: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str, dialect: Dialect, max_field_bytes: usize) -> Self {
        let bytes = text.as_bytes();
        let terminator = if bytes.contains(&b'\n') || !bytes.contains(&b'\r') { b'\n' } else { b'\r' };
        Scanner { text, position: 0, line: 1, dialect, terminator, max_field_bytes }
    }

    /// End of the line that starts at `from`: where its content ends and where the next line starts.
    fn line_end(&self, from: usize) -> (usize, usize) {
        let bytes = self.text.as_bytes();
        let end = find(bytes, from, self.terminator).unwrap_or(bytes.len());
        let next = (end + 1).min(bytes.len());
        let carriage_return = self.terminator == b'\n' && end > from && bytes[end - 1] == b'\r';
        (if carriage_return { end - 1 } else { end }, next)
    }

    fn skip_blank_lines(&mut self) {
        while self.position < self.text.len() {
            let (end, next) = self.line_end(self.position);
            if end > self.position {
                return;
            }
            self.position = next;
            self.line += 1;
        }
    }

    fn unquoted_record(&mut self) -> Record<'a> {
        let (end, next) = self.line_end(self.position);
        let content = &self.text[self.position..end];
        let delimiter = self.dialect.delimiter as char;
        let plain = |text: &'a str| Field { text: Cow::Borrowed(text), quoted: false };
        let fields: Vec<Field<'a>> = if self.dialect.split_once {
            content.splitn(2, delimiter).map(plain).collect()
        } else {
            content.split(delimiter).map(plain).collect()
        };
        let line = self.line;
        let fault = fields
            .iter()
            .any(|field| field.text.len() > self.max_field_bytes)
            .then_some(Fault::LongField { line });
        self.position = next;
        self.line += 1;
        Record { line, last_line: line, fields, fault }
    }

    fn quoted_record(&mut self) -> Record<'a> {
        let start_line = self.line;
        let (_, second_line) = self.line_end(self.position);
        let mut fields = Vec::new();
        let mut fault = None;
        loop {
            let (field, more) = self.quoted_or_plain_field(&mut fault);
            fields.push(field);
            if matches!(fault, Some(Fault::UnclosedQuote { .. } | Fault::LongField { .. })) || !more {
                break;
            }
        }
        let last_line = if self.position > 0 && self.text.as_bytes()[self.position - 1] == self.terminator {
            self.line - 1
        } else {
            self.line
        };
        if fault.is_some() {
            self.position = second_line;
            self.line = start_line + 1;
        }
        Record { line: start_line, last_line: last_line.max(start_line), fields, fault }
    }

    /// Reads a field and the delimiter or line end behind it; true when another field follows.
    fn quoted_or_plain_field(&mut self, fault: &mut Option<Fault>) -> (Field<'a>, bool) {
        let bytes = self.text.as_bytes();
        if bytes.get(self.position) != Some(&b'"') {
            let (text, more) = self.rest_of_field();
            if text.len() > self.max_field_bytes {
                *fault = fault.or(Some(Fault::LongField { line: self.line }));
            }
            return (Field { text: Cow::Borrowed(text), quoted: false }, more);
        }
        let open_line = self.line;
        let mut piece_start = self.position + 1;
        let mut cursor = piece_start;
        let mut text: Cow<'a, str> = Cow::Borrowed("");
        loop {
            let Some(quote) = find(bytes, cursor, b'"') else {
                *fault = fault.or(Some(Fault::UnclosedQuote { line: open_line }));
                self.position = bytes.len();
                return (Field { text, quoted: true }, false);
            };
            append(&mut text, &self.text[piece_start..quote]);
            if text.len() > self.max_field_bytes {
                *fault = fault.or(Some(Fault::LongField { line: open_line }));
                return (Field { text, quoted: true }, false);
            }
            if bytes.get(quote + 1) != Some(&b'"') {
                self.line += count(&bytes[self.position..quote], self.terminator);
                self.position = quote + 1;
                break;
            }
            piece_start = quote + 1; // the second quote of the pair is the field's own
            cursor = quote + 2;
        }
        let line = self.line;
        let (rest, more) = self.rest_of_field();
        if !rest.is_empty() {
            *fault = fault.or(Some(Fault::TextAfterQuote { line }));
            append(&mut text, rest);
        }
        (Field { text, quoted: true }, more)
    }

    fn rest_of_field(&mut self) -> (&'a str, bool) {
        let bytes = self.text.as_bytes();
        let start = self.position;
        let stop = bytes[start..]
            .iter()
            .position(|byte| *byte == self.dialect.delimiter || *byte == self.terminator)
            .map_or(bytes.len(), |length| start + length);
        let at_delimiter = bytes.get(stop) == Some(&self.dialect.delimiter);
        let mut end = stop;
        if !at_delimiter && self.terminator == b'\n' && end > start && bytes[end - 1] == b'\r' {
            end -= 1;
        }
        self.position = (stop + 1).min(bytes.len());
        if stop < bytes.len() && !at_delimiter {
            self.line += 1;
        }
        (&self.text[start..end], at_delimiter)
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        self.skip_blank_lines();
        if self.position >= self.text.len() {
            return None;
        }
        Some(if self.dialect.quoting && !self.dialect.split_once {
            self.quoted_record()
        } else {
            self.unquoted_record()
        })
    }
}

fn find(bytes: &[u8], from: usize, wanted: u8) -> Option<usize> {
    bytes.get(from..)?.iter().position(|byte| *byte == wanted).map(|offset| from + offset)
}

fn count(bytes: &[u8], wanted: u8) -> u64 {
    bytes.iter().filter(|byte| **byte == wanted).count() as u64
}

fn append<'a>(text: &mut Cow<'a, str>, piece: &'a str) {
    if text.is_empty() {
        *text = Cow::Borrowed(piece);
    } else if !piece.is_empty() {
        text.to_mut().push_str(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMA: Dialect = Dialect { delimiter: b',', quoting: true, split_once: false };

    fn records(text: &str, dialect: Dialect) -> Vec<(u64, Vec<String>, Option<Fault>)> {
        Scanner::new(text, dialect, 1000)
            .map(|record| {
                let fields = record.fields.into_iter().map(|field| field.text.into_owned()).collect();
                (record.line, fields, record.fault)
            })
            .collect()
    }

    fn row(line: u64, fields: &[&str]) -> (u64, Vec<String>, Option<Fault>) {
        (line, fields.iter().map(|field| (*field).to_owned()).collect(), None)
    }

    #[test]
    fn lines_are_exact_across_quoted_newlines_blank_lines_and_carriage_returns() {
        let text = "a,b\r\n\r\n\"one\r\ntwo\",\"say \"\"hi\"\"\"\r\n\n\nlast,row";
        assert_eq!(
            records(text, COMMA),
            [row(1, &["a", "b"]), row(3, &["one\r\ntwo", "say \"hi\""]), row(7, &["last", "row"])]
        );
    }

    #[test]
    fn an_unclosed_quote_is_placed_and_the_next_line_still_read() {
        let found = records("a,b\nx,\"open\ny,z\n", COMMA);
        assert_eq!(found[1].2, Some(Fault::UnclosedQuote { line: 2 }));
        assert_eq!(found[2], row(3, &["y", "z"]));
    }

    #[test]
    fn text_behind_a_closing_quote_is_a_fault() {
        let found = records("\"a\" b,c\nd,e\n", COMMA);
        assert_eq!(found[0], (1, vec!["a b".into(), "c".into()], Some(Fault::TextAfterQuote { line: 1 })));
        assert_eq!(found[1], row(2, &["d", "e"]));
    }

    #[test]
    fn empty_fields_and_a_trailing_delimiter_count() {
        assert_eq!(records(",a,,\n\"\",\"\"", COMMA), [row(1, &["", "a", "", ""]), row(2, &["", ""])]);
    }

    #[test]
    fn old_macintosh_lines_end_with_a_carriage_return() {
        assert_eq!(records("a,b\rc,d\r", COMMA), [row(1, &["a", "b"]), row(2, &["c", "d"])]);
    }

    #[test]
    fn only_the_first_space_splits_when_asked() {
        let dialect = Dialect { delimiter: b' ', quoting: false, split_once: true };
        assert_eq!(records("1 a \"b c\n\n0 d", dialect), [row(1, &["1", "a \"b c"]), row(3, &["0", "d"])]);
    }

    #[test]
    fn a_field_beyond_the_limit_is_a_fault_at_its_line() {
        let text = format!("a\n\"{}\"\nb\n", "x".repeat(2000));
        assert_eq!(records(&text, COMMA)[1].2, Some(Fault::LongField { line: 2 }));
        assert_eq!(records(&text, COMMA)[2], row(3, &["b"]));
    }
}
