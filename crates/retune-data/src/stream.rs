//! Training texts that need not fit in memory: a file is read piece by piece, a piece's texts are tokenized and let go,
//! and what stays is a few numbers for each row.
//!
//! The rows, their order, their labels and their token ids are those that reading the file at once gives.

use crate::dataset::{DatasetOptions, OnMissing, Target, TextDataset, TextExample, label_names};
use crate::error::DataError;
use crate::finding::{Finding, count};
use crate::labels::LabelSet;
use crate::roles::Roles;
use crate::table::{Row, Table, Value};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Rows of a piece at most …
pub const PIECE_ROWS: usize = 16_384;
/// … and about so many bytes of them.
pub(crate) const PIECE_BYTES: usize = 32 << 20;
/// Rows that are kept for the checks at most, spread evenly over the file …
const SAMPLE_ROWS: usize = 65_536;
/// … and bytes of them.
const SAMPLE_BYTES: usize = 64 << 20;

/// What is known of each row of a streamed file once its texts are gone.
#[derive(Debug, Clone)]
pub struct StreamedTexts {
    /// The file, its columns, their roles, the classes and what was left out; without examples.
    pub about: TextDataset,
    lines: Vec<u64>,
    /// Which of `targets` each row has.
    target_of: Vec<u32>,
    targets: Vec<Target>,
}

impl StreamedTexts {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A row's line in the file.
    pub fn line(&self, row: usize) -> u64 {
        self.lines[row]
    }

    /// What a row should be answered with.
    pub fn target(&self, row: usize) -> &Target {
        &self.targets[self.target_of[row] as usize]
    }

    /// Rows per class, in [`LabelSet`] order.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut of_targets = vec![0; self.targets.len()];
        self.target_of.iter().for_each(|&target| of_targets[target as usize] += 1);
        let mut counts = vec![0; self.about.labels.len()];
        for (target, rows) in self.targets.iter().zip(of_targets) {
            target.classes().iter().for_each(|&class| counts[class as usize] += rows);
        }
        counts
    }

    /// Puts the classes in another order, that of a model which knows the same names.
    pub fn relabel(&mut self, labels: &LabelSet) {
        let class = |class: u32| labels.index(self.about.labels.name(class)?);
        let place = |old: u32| class(old).unwrap_or(old);
        for target in &mut self.targets {
            match target {
                Target::Class(class) => *class = place(*class),
                Target::Classes(classes) => {
                    classes.iter_mut().for_each(|class| *class = place(*class));
                    classes.sort_unstable();
                }
                _ => {}
            }
        }
        self.about.labels = labels.clone();
    }
}

/// Rows that stand for a streamed file in checks that need whole rows, spread evenly over it.
#[derive(Debug, Clone)]
pub struct StreamSample {
    /// The rows.
    pub table: Table,
    /// One in so many of the file's.
    pub one_in: usize,
}

/// Takes in a file's pieces one after the other.
pub struct TextStream {
    on_missing: OnMissing,
    /// Label names in the order in which they came up.
    names: Vec<String>,
    left_out: usize,
    sample: Sample,
    known: HashMap<Vec<u32>, u32>,
    texts: StreamedTexts,
}

impl TextStream {
    /// A stream whose first piece, and what its columns are for, is known.
    pub fn new(first: &Table, roles: Roles, on_missing: OnMissing) -> Self {
        let about = TextDataset::without_rows(first, roles);
        let names = about.labels.names().to_vec();
        let (lines, target_of, targets) = (Vec::new(), Vec::new(), Vec::new());
        let texts = StreamedTexts { about, lines, target_of, targets };
        let (sample, known) = (Sample::default(), HashMap::new());
        TextStream { on_missing, names, left_out: 0, sample, known, texts }
    }

    /// Takes in a piece and hands out its examples. Their classes are not final; those of [`StreamedTexts::target`] are.
    ///
    /// # Errors
    /// [`DataError::Refused`] for missing texts or labels (unless dropped) and for labels that are not numbers in a
    /// regression.
    pub fn take(&mut self, piece: Table) -> Result<Vec<TextExample>, DataError> {
        let rows = piece.rows.len();
        piece.rows.iter().for_each(|row| self.sample.offer(row));
        // In JSON Lines a later row may bring a new column; those that were there keep their places.
        self.texts.about.widen(&piece.columns);
        let roles = self.texts.about.roles().clone();
        if roles.labels.len() == 1 {
            let known: HashSet<&String> = self.names.iter().collect();
            let mut new: Vec<String> = Vec::new();
            for name in label_names(&piece, &roles).into_iter().flatten() {
                if !known.contains(&name) && !new.contains(&name) {
                    new.push(name);
                }
            }
            self.names.extend(new);
        }
        let labels = Some(LabelSet::in_order(self.names.clone()));
        let options = DatasetOptions { labels, on_missing: self.on_missing };
        let dataset = match TextDataset::new(piece, roles, &options) {
            Ok(dataset) => dataset,
            // All of a piece may be left out, if not all of the file.
            Err(DataError::Refused(findings)) if findings.iter().all(|finding| finding.code == "no-rows") => {
                self.left_out += rows;
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        self.left_out += rows - dataset.len();
        for example in &dataset.examples {
            self.texts.lines.push(example.line);
            let key = key(&example.target);
            let next = self.texts.targets.len() as u32;
            let place = *self.known.entry(key).or_insert(next);
            if place == next {
                self.texts.targets.push(example.target.clone());
            }
            self.texts.target_of.push(place);
        }
        Ok(dataset.examples)
    }

    /// What is known of all rows, and some of them.
    ///
    /// # Errors
    /// [`DataError::Refused`] if no row is left.
    pub fn finish(mut self) -> Result<(StreamedTexts, StreamSample), DataError> {
        let mut texts = self.texts;
        if texts.is_empty() {
            let finding =
                Finding::error("no-rows", texts.about.path(), "no row has both content and a label");
            return Err(DataError::refused(finding));
        }
        if self.left_out > 0 {
            let message = format!("{} left out: no text or no label", count(self.left_out, "row"));
            let finding = Finding::warning("missing-label", texts.about.path(), message);
            texts.about.findings.push(finding);
        }
        // A label that only rows without text have is none of the data's.
        let used: BTreeSet<u32> = texts.targets.iter().flat_map(|target| target.classes().to_vec()).collect();
        if texts.about.roles().labels.len() == 1 {
            let names: Vec<&String> = used.iter().map(|&class| &self.names[class as usize]).collect();
            let labels = LabelSet::from_names(names);
            texts.about.labels = LabelSet::in_order(std::mem::take(&mut self.names));
            texts.relabel(&labels);
        }
        let Sample { mut rows, every, .. } = self.sample;
        let (path, columns) = (texts.about.path().to_owned(), texts.about.column_names().to_vec());
        rows.iter_mut().for_each(|row| row.values.resize(columns.len(), Value::Null));
        let table = Table { path, columns, rows, findings: Vec::new() };
        Ok((texts, StreamSample { table, one_in: every }))
    }
}

/// What makes two targets the same.
fn key(target: &Target) -> Vec<u32> {
    match target {
        Target::Class(class) => vec![*class],
        Target::Classes(classes) => classes.clone(),
        Target::Value(value) => vec![value.to_bits()],
        Target::Values(values) => values.iter().map(|value| value.to_bits()).collect(),
        Target::None => Vec::new(),
    }
}

/// Every so manieth row of a file whose length is not known before.
struct Sample {
    rows: Vec<Row>,
    bytes: usize,
    every: usize,
    seen: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Sample { rows: Vec::new(), bytes: 0, every: 1, seen: 0 }
    }
}

impl Sample {
    fn offer(&mut self, row: &Row) {
        if self.seen.is_multiple_of(self.every) {
            self.bytes += row_bytes(row);
            self.rows.push(row.clone());
        }
        self.seen += 1;
        while self.rows.len() > SAMPLE_ROWS || (self.bytes > SAMPLE_BYTES && self.rows.len() > 1) {
            let mut place = 0;
            self.rows.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.every *= 2;
            self.bytes = self.rows.iter().map(row_bytes).sum();
        }
    }
}

/// About how many bytes a row takes up.
pub(crate) fn row_bytes(row: &Row) -> usize {
    let text = |value: &Value| match value {
        Value::Text(text) => text.len(),
        _ => 0,
    };
    row.values.iter().map(|value| 32 + text(value)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{ReadOptions, read_bytes, read_pieces};
    use crate::roles::{RoleOverrides, infer_roles};
    use std::path::{Path, PathBuf};

    /// Streams a file in pieces of so many rows and gives what is known, the texts, and the most rows at once.
    fn stream(path: &Path, piece_rows: usize) -> Result<(StreamedTexts, Vec<String>, usize), DataError> {
        let mut stream: Option<TextStream> = None;
        let (mut texts, mut most) = (Vec::new(), 0);
        read_pieces(path, &ReadOptions::default(), piece_rows, &mut |piece| {
            most = most.max(piece.rows.len());
            let stream = match &mut stream {
                Some(stream) => stream,
                None => {
                    let roles = infer_roles(&piece, &RoleOverrides::default())?;
                    stream.insert(TextStream::new(&piece, roles, OnMissing::Refuse))
                }
            };
            texts.extend(stream.take(piece)?.into_iter().map(|example| example.text));
            Ok(())
        })?;
        Ok((stream.unwrap().finish()?.0, texts, most))
    }

    fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn pieces_of_any_size_give_the_rows_lines_and_labels_of_the_whole_file() {
        let mut csv = "text,label\n".to_owned();
        let mut jsonl = String::new();
        for row in 0..100 {
            let label = ["b", "a", "c"][row % 3];
            csv.push_str(&format!("\"text {row}\nof two lines\",{label}\n"));
            jsonl.push_str(&format!("{{\"text\": \"text {row}\", \"label\": \"{label}\"}}\n\n"));
        }
        for (name, content) in [("t.csv", csv), ("t.jsonl", jsonl)] {
            let (_folder, path) = file(name, &content);
            let table = read_bytes(&path, content.into_bytes(), &ReadOptions::default()).unwrap();
            let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
            let whole = TextDataset::new(table, roles, &DatasetOptions::default()).unwrap();
            for piece_rows in [1, 7, 64, 1000] {
                let (streamed, texts, most) = stream(&path, piece_rows).unwrap();
                assert_eq!(most, piece_rows.min(100), "{name}: no more rows are held than a piece has");
                assert_eq!((streamed.len(), &streamed.about.labels), (100, &whole.labels));
                assert_eq!(streamed.class_counts(), whole.class_counts());
                for (row, example) in whole.examples.iter().enumerate() {
                    assert_eq!((streamed.line(row), streamed.target(row)), (example.line, &example.target));
                    assert_eq!(texts[row], example.text);
                }
            }
        }
    }

    #[test]
    fn parquet_comes_in_pieces_too() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/types.snappy.parquet");
        let whole = crate::read::read_table(&path, &ReadOptions::default()).unwrap();
        let mut rows = Vec::new();
        read_pieces(&path, &ReadOptions::default(), 1, &mut |piece| {
            assert_eq!((piece.rows.len(), &piece.columns), (1, &whole.columns));
            rows.extend(piece.rows);
            Ok(())
        })
        .unwrap();
        assert_eq!(rows, whole.rows);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_wherever_it_is() {
        let mut csv = "text,label\n".to_owned();
        (0..50).for_each(|row| csv.push_str(&format!("text {row},{}\n", row % 2)));
        let (_folder, path) = file("t.csv", &csv.replace("text 41,1", "text 41"));
        let error = stream(&path, 8).unwrap_err().to_string();
        assert!(error.contains("t.csv:43: error[ragged-row]"), "{error}");
        let (_folder, path) = file("t.csv", &csv.replace("text 41,1", "text 41,"));
        let error = stream(&path, 8).unwrap_err().to_string();
        assert!(error.contains("t.csv:43: error[missing-label]"), "{error}");
    }

    #[test]
    fn a_sample_is_spread_evenly_and_bounded() {
        let mut sample = Sample::default();
        let rows = SAMPLE_ROWS as u64 * 5;
        for line in 0..rows {
            sample.offer(&Row { line, values: Vec::new() });
        }
        assert_eq!(sample.every, 8);
        assert!(sample.rows.len() <= SAMPLE_ROWS);
        assert!(sample.rows.iter().enumerate().all(|(place, row)| row.line == 8 * place as u64));
    }
}
