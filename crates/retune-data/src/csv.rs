//! Comma-, tab- and otherwise delimited text files to rows.
//!
//! Stands on the record scanner and the dialect inference; adds names, row checks and findings.

use crate::dialect::{infer_delimiter, infer_header, infer_quoting};
use crate::error::DataError;
use crate::finding::{Finding, count, excerpt};
use crate::read::{BadRows, ReadOptions, RowSink};
use crate::scan::{Dialect, Fault, Field, Record, Scanner};
use crate::table::{Row, Value};
use std::collections::HashMap;
use std::path::Path;

/// Reads a decoded delimited file, row by row, into `rows`. `split_once` reads `label text with spaces`.
pub(crate) fn read(
    path: &Path,
    text: &str,
    options: &ReadOptions,
    split_once: bool,
    rows: &mut RowSink<'_>,
) -> Result<(), DataError> {
    let mut findings = Vec::new();
    let dialect = dialect(path, text, options, split_once, &mut findings)?;
    let mut records = Scanner::new(text, dialect, options.max_field_bytes).peekable();
    let Some(first) = records.peek() else {
        return Err(DataError::refused(Finding::error("empty-file", path, "the file is empty")));
    };
    let has_header = options.has_header.unwrap_or_else(|| match &options.columns {
        Some(names) => {
            first.fields.iter().map(|field| field.text.trim()).eq(names.iter().map(String::as_str))
        }
        None => !split_once && infer_header(text, dialect, options.max_field_bytes),
    });
    let header = if has_header { records.next() } else { None };
    let columns = match (&options.columns, &header) {
        (Some(names), _) => names.clone(),
        (None, Some(header)) => header_names(path, header)?,
        (None, None) if split_once => vec!["label".to_owned(), "text".to_owned()],
        (None, None) => {
            let width = records.peek().map_or(0, |record| record.fields.len());
            findings.push(
                Finding::info(
                    "no-header",
                    path,
                    "the first line looks like data, so the columns have no names",
                )
                .suggest("set has_header or name them with columns = [...] if that is wrong"),
            );
            (1..=width).map(|number| format!("column_{number}")).collect()
        }
    };
    refuse_duplicates(path, header.as_ref().map_or(1, |header| header.line), &columns)?;

    let has_nul = text.contains('\0');
    rows.columns = columns;
    let mut bad_rows = BadRows::new(path, options);
    for record in records {
        match row_fault(path, &record, rows.columns.len(), has_nul) {
            Some(finding) => bad_rows.push(finding)?,
            None => {
                let values = record.fields.into_iter().map(value).collect();
                rows.push(Row { line: record.line, values })?;
            }
        }
    }
    bad_rows.finish(&mut findings)?;
    if rows.is_empty() {
        let finding = Finding::error("no-rows", path, "the file has a header and no rows")
            .suggest("if its first line is data, set has_header = false");
        return Err(DataError::refused(finding));
    }
    rows.findings.extend(findings);
    Ok(())
}

fn dialect(
    path: &Path,
    text: &str,
    options: &ReadOptions,
    split_once: bool,
    findings: &mut Vec<Finding>,
) -> Result<Dialect, DataError> {
    if split_once {
        return Ok(Dialect { delimiter: options.delimiter.unwrap_or(b' '), quoting: false, split_once });
    }
    let delimiter = match options.delimiter {
        Some(delimiter) if delimiter.is_ascii() && !matches!(delimiter, b'"' | b'\n' | b'\r') => delimiter,
        Some(delimiter) => {
            return Err(DataError::Setting(format!(
                "the delimiter must be one ASCII character other than a quote or a line break, not byte 0x{delimiter:02X}"
            )));
        }
        None => {
            let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
            let inferred = infer_delimiter(text, extension.as_deref(), options.max_field_bytes);
            if let Some(delimiter @ (b';' | b'|')) = inferred {
                let message = format!("the delimiter looks like `{}`", delimiter as char);
                findings.push(Finding::info("delimiter", path, message));
            }
            inferred.unwrap_or(b',')
        }
    };
    let quoting = options.quoting.unwrap_or_else(|| {
        let quoting = infer_quoting(text, delimiter, options.max_field_bytes);
        if !quoting {
            let message = "quotes do not enclose fields here and are read as ordinary characters";
            findings.push(
                Finding::info("literal-quotes", path, message).suggest("set quoting = true if that is wrong"),
            );
        }
        quoting
    });
    Ok(Dialect { delimiter, quoting, split_once })
}

fn header_names(path: &Path, header: &Record<'_>) -> Result<Vec<String>, DataError> {
    if let Some(finding) = row_fault(path, header, header.fields.len(), true) {
        return Err(DataError::refused(finding));
    }
    Ok(header
        .fields
        .iter()
        .enumerate()
        .map(|(index, field)| match field.text.trim() {
            "" => format!("column_{}", index + 1),
            name => name.to_owned(),
        })
        .collect())
}

/// Refuses a header in which a name stands twice.
pub(crate) fn refuse_duplicates(path: &Path, line: u64, columns: &[String]) -> Result<(), DataError> {
    let mut first_at: HashMap<&str, usize> = HashMap::new();
    for (index, name) in columns.iter().enumerate() {
        if let Some(first) = first_at.insert(name, index) {
            let message = format!("`{name}` names columns {} and {}", first + 1, index + 1);
            let finding = Finding::error("duplicate-column", path, message).at_line(line);
            return Err(DataError::refused(finding.suggest("rename one of them")));
        }
    }
    Ok(())
}

fn row_fault(path: &Path, record: &Record<'_>, width: usize, has_nul: bool) -> Option<Finding> {
    match record.fault {
        Some(Fault::UnclosedQuote { line }) => {
            return Some(
                Finding::error("unclosed-quote", path, "the quote opened here is never closed")
                    .at_line(line)
                    .suggest("close it, double it, or set quoting = false if quotes are ordinary characters"),
            );
        }
        Some(Fault::TextAfterQuote { line }) => {
            return Some(
                Finding::error("text-after-quote", path, "a closing quote is followed by more text")
                    .at_line(line)
                    .suggest("a quote inside a quoted field is written twice"),
            );
        }
        Some(Fault::LongField { line }) => {
            return Some(
                Finding::error("long-field", path, "a field is longer than max_field_bytes")
                    .at_line(line)
                    .suggest("is a quote missing?"),
            );
        }
        None => {}
    }
    if record.fields.len() != width {
        let message = format!("expected {}, found {}", count(width, "field"), record.fields.len());
        let suggestion = if record.last_line > record.line {
            format!("the row spans lines {} to {}: is a quote missing?", record.line, record.last_line)
        } else if record.fields.len() < width {
            "is a field missing, or a line broken in two?".to_owned()
        } else {
            "is a quote missing?".to_owned()
        };
        return Some(Finding::error("ragged-row", path, message).at_line(record.line).suggest(suggestion));
    }
    if has_nul && let Some(field) = record.fields.iter().find(|field| field.text.contains('\0')) {
        let message = format!("a NUL byte in “{}”", excerpt(&field.text, 40));
        return Some(
            Finding::error("nul-byte", path, message)
                .at_line(record.line)
                .suggest("is the file damaged, or in another encoding?"),
        );
    }
    None
}

fn value(field: Field<'_>) -> Value {
    if field.text.is_empty() && !field.quoted { Value::Null } else { Value::Text(field.text.into_owned()) }
}
