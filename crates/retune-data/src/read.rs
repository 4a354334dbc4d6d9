//! Opening a data file of any format the crate knows.
//!
//! Chooses the reader by the name's extension, else by the content, and applies one policy to broken rows
//! whatever the format. The whole file is read into memory, or piece by piece.

use crate::error::{DataError, nearest};
use crate::finding::{Finding, Severity, count};
use crate::image::{is_idx, read_cifar, read_folder, read_idx};
use crate::stream::{PIECE_BYTES, row_bytes};
use crate::table::{Row, Table, Value};
use crate::{csv, encoding, jsonl, parquet};
use retune_checkpoint::FileBytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

/// The longest field a delimited file may have unless told otherwise: 16 MiB.
pub const DEFAULT_MAX_FIELD_BYTES: usize = 16 << 20;
/// At most this many broken rows are listed.
const BAD_ROW_EXAMPLES: usize = 10;
/// At most this many broken pictures are listed.
const BAD_PICTURE_EXAMPLES: usize = 200;
/// At most this many empty cells of a column are listed.
const MISSING_EXAMPLES: usize = 3;
/// With more unclosed quotes than this a file is refused even under [`OnBadRow::Skip`].
const MAX_UNCLOSED_QUOTES: usize = 100;
/// Codes of rows that cannot be read.
pub(crate) const UNREADABLE: &[&str] = &[
    "ragged-row",
    "unclosed-quote",
    "text-after-quote",
    "long-field",
    "nul-byte",
    "json",
    "duplicate-column",
    "parquet",
];

/// A data file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Delimited text; the delimiter is inferred.
    Csv,
    /// Delimited by tabs.
    Tsv,
    /// One JSON object per line.
    Jsonl,
    /// One JSON array of objects.
    Json,
    /// Apache Parquet with flat columns or lists.
    Parquet,
    /// Each line is a label, a space (or the delimiter given), and the text, as in TREC and `stsa` files.
    LabelSpaceText,
    /// CIFAR-10's binary records.
    Cifar10,
    /// CIFAR-100's binary records.
    Cifar100,
    /// MNIST's pictures, with their labels in a file beside.
    Idx,
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        const NAMES: [(&str, Format); 9] = [
            ("csv", Format::Csv),
            ("tsv", Format::Tsv),
            ("jsonl", Format::Jsonl),
            ("json", Format::Json),
            ("parquet", Format::Parquet),
            ("label-space-text", Format::LabelSpaceText),
            ("cifar10", Format::Cifar10),
            ("cifar100", Format::Cifar100),
            ("idx", Format::Idx),
        ];
        if let Some((_, format)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*format);
        }
        let hint = nearest(name, NAMES.iter().map(|(known, _)| *known))
            .map(|known| format!(" (did you mean `{known}`?)"))
            .unwrap_or_default();
        let known = NAMES.map(|(known, _)| known).join(", ");
        Err(DataError::Setting(format!("unknown format `{name}`{hint}; known are {known}")))
    }
}

/// What to do with a row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// Refuse the file and list such rows.
    #[default]
    Refuse,
    /// Leave such rows out and say so.
    Skip,
}

/// How to read a file. The default infers everything and refuses broken rows.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The format; `None` takes it from the extension, else from the content.
    pub format: Option<Format>,
    /// The delimiter, one ASCII byte; `None` infers `,`, `;`, tab or `|`. A space reads as
    /// [`Format::LabelSpaceText`].
    pub delimiter: Option<u8>,
    /// Whether double quotes enclose fields; `None` infers it.
    pub quoting: Option<bool>,
    /// Whether the first line names the columns; `None` infers it.
    pub has_header: Option<bool>,
    /// Names for the columns of a delimited file without header.
    pub columns: Option<Vec<String>>,
    /// The encoding's label, such as `latin-1`; `None` means UTF-8. A byte order mark wins.
    pub encoding: Option<String>,
    /// What to do with rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// List every row that is left out, not the first few.
    pub list_all_bad_rows: bool,
    /// A longer field is a broken row, since most often a quote is missing.
    pub max_field_bytes: usize,
    /// What empty cells of a column are filled with.
    pub fill_missing: BTreeMap<String, String>,
    /// Columns whose empty cells have their row left out.
    pub drop_missing: Vec<String>,
    /// Columns whose empty cells are findings that refuse the data.
    pub refuse_missing: Vec<String>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            format: None,
            delimiter: None,
            quoting: None,
            has_header: None,
            columns: None,
            encoding: None,
            on_bad_row: OnBadRow::Refuse,
            list_all_bad_rows: false,
            max_field_bytes: DEFAULT_MAX_FIELD_BYTES,
            fill_missing: BTreeMap::new(),
            drop_missing: Vec::new(),
            refuse_missing: Vec::new(),
        }
    }
}

/// Reads a data file, or a folder of pictures.
///
/// # Errors
/// [`DataError::Io`] when it cannot be opened, [`DataError::Refused`] with findings when it is empty, broken or
/// in another encoding, [`DataError::Setting`] for impossible options.
pub fn read_table(path: &Path, options: &ReadOptions) -> Result<Table, DataError> {
    if path.is_dir() {
        return read_folder(path, options);
    }
    let bytes = std::fs::read(path).map_err(|source| DataError::reading(path, source))?;
    read_bytes(path, bytes, options)
}

/// Fills empty cells, leaves rows with empty cells out or finds fault with them, as the options say, and counts them.
fn settle_missing(mut table: Table, options: &ReadOptions) -> Result<Table, DataError> {
    for name in &options.refuse_missing {
        let column = table.column_index(name)?;
        let blank = table.rows.iter().filter(|row| row.values[column].is_blank()).map(|row| row.line);
        let lines: Vec<u64> = blank.collect();
        let advice =
            "fill it in, or name the column in fill_missing or drop_missing instead of refuse_missing";
        let found = |message: String| {
            Finding::error("missing-cell", &table.path, message).in_column(name).suggest(advice)
        };
        let mut findings: Vec<Finding> = lines
            .iter()
            .take(MISSING_EXAMPLES)
            .map(|&line| found("the cell is empty".to_owned()).at_line(line))
            .collect();
        if lines.len() > MISSING_EXAMPLES {
            findings.push(found(format!("{} in all: the cell is empty", count(lines.len(), "row"))));
        }
        table.findings.extend(findings);
    }
    for (name, filling) in &options.fill_missing {
        let column = table.column_index(name)?;
        let blank = table.rows.iter_mut().map(|row| &mut row.values[column]).filter(|value| value.is_blank());
        let filled = blank.map(|value| *value = Value::Text(filling.clone())).count();
        if filled > 0 {
            let message = format!("{} filled with `{filling}`", count(filled, "empty cell"));
            table.findings.push(Finding::info("filled-missing", &table.path, message).in_column(name));
        }
    }
    for name in &options.drop_missing {
        let column = table.column_index(name)?;
        let rows = table.rows.len();
        table.rows.retain(|row| !row.values[column].is_blank());
        let dropped = rows - table.rows.len();
        if dropped > 0 {
            let message = format!("{} left out: the cell is empty", count(dropped, "row"));
            table.findings.push(Finding::warning("dropped-missing", &table.path, message).in_column(name));
        }
    }
    Ok(table)
}

/// Reads a data file that is already in memory; `path` serves its extension and the findings.
///
/// # Errors
/// As [`read_table`], without the opening.
pub fn read_bytes(path: &Path, bytes: Vec<u8>, options: &ReadOptions) -> Result<Table, DataError> {
    settle_missing(parse(path, bytes, options)?, options)
}

fn parse(path: &Path, bytes: Vec<u8>, options: &ReadOptions) -> Result<Table, DataError> {
    if bytes.is_empty() {
        return Err(DataError::refused(Finding::error("empty-file", path, "the file is empty")));
    }
    let format = format_of(path, &bytes, options);
    match format {
        Format::Parquet => {
            let bytes = bytes::Bytes::from(bytes);
            return RowSink::table(path, |rows| parquet::read(path, bytes, options, rows));
        }
        Format::Cifar10 | Format::Cifar100 => return read_cifar(path, &bytes, format),
        Format::Idx => return read_idx(path, &bytes),
        _ => {}
    }
    let text = encoding::decode(path, bytes, options.encoding.as_deref())?;
    RowSink::table(path, |rows| read_text(path, &text, format, options, rows))
}

/// Reads a decoded text file.
fn read_text(
    path: &Path,
    text: &str,
    format: Format,
    options: &ReadOptions,
    rows: &mut RowSink<'_>,
) -> Result<(), DataError> {
    match format {
        Format::Csv | Format::Parquet | Format::Cifar10 | Format::Cifar100 | Format::Idx => {
            csv::read(path, text, options, false, rows)
        }
        Format::Tsv => {
            let delimiter = Some(options.delimiter.unwrap_or(b'\t'));
            csv::read(path, text, &ReadOptions { delimiter, ..options.clone() }, false, rows)
        }
        Format::Jsonl => jsonl::read_lines(path, text, options, rows),
        Format::Json => jsonl::read_array(path, text, options, rows),
        Format::LabelSpaceText => csv::read(path, text, options, true, rows),
    }
}

/// Reads a data file of texts piece by piece, so that no more than `piece_rows` rows are in memory: `take` is given tables
/// of consecutive rows. What the reader noticed about the whole file comes at the end.
///
/// The text file is mapped into memory meanwhile and must be UTF-8; a Parquet file is read row group by row group.
///
/// # Errors
/// As [`read_table`], where `take` fails, and [`DataError::Setting`] for what needs the whole file in memory: another
/// encoding, a JSON array, filled or dropped cells.
pub fn read_pieces(
    path: &Path,
    options: &ReadOptions,
    piece_rows: usize,
    take: &mut dyn FnMut(Table) -> Result<(), DataError>,
) -> Result<Vec<Finding>, DataError> {
    let refuse =
        |what: &str| Err(DataError::Setting(format!("{} cannot be streamed: {what}", path.display())));
    if !options.fill_missing.is_empty()
        || !options.drop_missing.is_empty()
        || !options.refuse_missing.is_empty()
    {
        return refuse("fill_missing, drop_missing and refuse_missing need the whole file in memory");
    }
    let file =
        FileBytes::open(path).map_err(|error| DataError::reading(path, std::io::Error::other(error)))?;
    let bytes = file.bytes();
    if bytes.is_empty() {
        return Err(DataError::refused(Finding::error("empty-file", path, "the file is empty")));
    }
    let format = format_of(path, bytes, options);
    let mut rows = RowSink::new(path, piece_rows, take);
    match format {
        Format::Parquet => {
            let file = std::fs::File::open(path).map_err(|source| DataError::reading(path, source))?;
            parquet::read(path, file, options, &mut rows)?;
        }
        Format::Json => return refuse("a JSON array is read as a whole; write one object a line (.jsonl)"),
        Format::Cifar10 | Format::Cifar100 | Format::Idx => return refuse("it holds pictures"),
        _ => {
            let text = encoding::utf8(path, bytes, options.encoding.as_deref())?;
            read_text(path, text, format, options, &mut rows)?;
        }
    }
    rows.finish()
}

/// Where a reader's rows go: piece by piece to whoever takes them.
pub(crate) struct RowSink<'a> {
    path: &'a Path,
    /// The columns so far.
    pub columns: Vec<String>,
    /// What the reader noticed.
    pub findings: Vec<Finding>,
    rows: Vec<Row>,
    bytes: usize,
    taken: usize,
    piece_rows: usize,
    take: &'a mut dyn FnMut(Table) -> Result<(), DataError>,
}

impl<'a> RowSink<'a> {
    fn new(
        path: &'a Path,
        piece_rows: usize,
        take: &'a mut dyn FnMut(Table) -> Result<(), DataError>,
    ) -> Self {
        let (columns, findings, rows) = (Vec::new(), Vec::new(), Vec::new());
        RowSink { path, columns, findings, rows, bytes: 0, taken: 0, piece_rows: piece_rows.max(1), take }
    }

    /// All rows that `read` gives as one table.
    pub fn table(
        path: &Path,
        read: impl FnOnce(&mut RowSink<'_>) -> Result<(), DataError>,
    ) -> Result<Table, DataError> {
        let mut keep = |_: Table| Ok(());
        let mut sink = RowSink::new(path, usize::MAX, &mut keep);
        read(&mut sink)?;
        let RowSink { columns, findings, mut rows, .. } = sink;
        rows.iter_mut().for_each(|row| row.values.resize(columns.len(), Value::Null));
        Ok(Table { path: path.to_path_buf(), columns, rows, findings })
    }

    pub fn push(&mut self, row: Row) -> Result<(), DataError> {
        if self.piece_rows < usize::MAX {
            self.bytes += row_bytes(&row);
        }
        self.rows.push(row);
        if self.rows.len() >= self.piece_rows || self.bytes >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.taken == 0
    }

    fn flush(&mut self) -> Result<(), DataError> {
        let (columns, mut rows) = (self.columns.clone(), std::mem::take(&mut self.rows));
        rows.iter_mut().for_each(|row| row.values.resize(columns.len(), Value::Null));
        self.taken += rows.len();
        self.bytes = 0;
        (self.take)(Table { path: self.path.to_path_buf(), columns, rows, findings: Vec::new() })
    }

    fn finish(mut self) -> Result<Vec<Finding>, DataError> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        Ok(self.findings)
    }
}

/// A file's format: as it was said, else by its name and content.
pub(crate) fn format_of(path: &Path, bytes: &[u8], options: &ReadOptions) -> Format {
    match options.format {
        Some(format) => format,
        None if options.delimiter == Some(b' ') => Format::LabelSpaceText,
        None => infer_format(path, bytes),
    }
}

fn infer_format(path: &Path, bytes: &[u8]) -> Format {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match extension.as_deref() {
        Some("parquet" | "pq") => Format::Parquet,
        Some("jsonl" | "ndjson") => Format::Jsonl,
        Some("json") if first == Some(&b'[') => Format::Json,
        Some("json") => Format::Jsonl,
        Some("csv" | "tsv" | "tab") => Format::Csv,
        _ if bytes.starts_with(b"PAR1") => Format::Parquet,
        _ if is_idx(bytes) => Format::Idx,
        Some("bin") if bytes.len().is_multiple_of(3073) => Format::Cifar10,
        Some("bin") if bytes.len().is_multiple_of(3074) => Format::Cifar100,
        _ if first == Some(&b'{') => Format::Jsonl,
        _ => Format::Csv,
    }
}

/// Collects rows that cannot be read and deals with them as the policy says.
pub(crate) struct BadRows<'a> {
    path: &'a Path,
    policy: OnBadRow,
    noun: &'static str,
    listed: usize,
    examples: Vec<Finding>,
    total: usize,
    unclosed_quotes: usize,
}

impl<'a> BadRows<'a> {
    pub fn new(path: &'a Path, options: &ReadOptions) -> Self {
        let listed = if options.list_all_bad_rows { usize::MAX } else { BAD_ROW_EXAMPLES };
        let policy = options.on_bad_row;
        BadRows { path, policy, noun: "row", listed, examples: Vec::new(), total: 0, unclosed_quotes: 0 }
    }

    /// The same for pictures, which are files of their own: nearly all of them are listed.
    pub fn pictures(path: &'a Path, policy: OnBadRow) -> Self {
        let options = ReadOptions { on_bad_row: policy, ..ReadOptions::default() };
        BadRows { noun: "picture", listed: BAD_PICTURE_EXAMPLES, ..Self::new(path, &options) }
    }

    pub fn push(&mut self, finding: Finding) -> Result<(), DataError> {
        self.total += 1;
        self.unclosed_quotes += usize::from(finding.code == "unclosed-quote");
        if self.examples.len() < self.listed {
            self.examples.push(finding);
        }
        if self.unclosed_quotes > MAX_UNCLOSED_QUOTES {
            return Err(DataError::Refused(std::mem::take(&mut self.examples)));
        }
        Ok(())
    }

    pub fn finish(mut self, findings: &mut Vec<Finding>) -> Result<(), DataError> {
        let unlisted = self.total - self.examples.len();
        match self.policy {
            _ if self.total == 0 => Ok(()),
            OnBadRow::Refuse => {
                if unlisted > 0 {
                    let message = format!("{} more cannot be read", count(unlisted, self.noun));
                    self.examples.push(
                        Finding::error("bad-rows", self.path, message)
                            .suggest("set on_bad_row = \"skip\" to leave them out"),
                    );
                }
                Err(DataError::Refused(self.examples))
            }
            OnBadRow::Skip => {
                findings.extend(
                    self.examples
                        .into_iter()
                        .map(|finding| Finding { severity: Severity::Warning, ..finding }),
                );
                let message =
                    format!("{} left out because they cannot be read", count(self.total, self.noun));
                findings.push(Finding::warning("skipped-rows", self.path, message));
                Ok(())
            }
        }
    }
}
