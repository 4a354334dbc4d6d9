//! Every mess of real files that is met in the wild: read right, or refused at the right line.

use retune_data::{
    CheckOptions, DataError, Finding, Format, OnBadRow, ReadOptions, RoleOverrides, Severity, Table, Value,
    check_splits, check_table, infer_roles, read_table,
};
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new("tests/data").join(name)
}

fn read(name: &str) -> Table {
    read_with(name, &ReadOptions::default()).unwrap()
}

fn read_with(name: &str, options: &ReadOptions) -> Result<Table, DataError> {
    read_table(&path(name), options)
}

/// The refusal of a file, as a user sees it, without the folder.
fn refusal(name: &str) -> String {
    let error = read_with(name, &ReadOptions::default()).unwrap_err();
    assert!(error.is_refusal());
    error.to_string().replace("tests/data/", "")
}

fn texts(table: &Table, column: usize) -> Vec<&str> {
    table
        .rows
        .iter()
        .map(|row| match &row.values[column] {
            Value::Text(text) => text.as_str(),
            _ => "",
        })
        .collect()
}

fn lines(table: &Table) -> Vec<u64> {
    table.rows.iter().map(|row| row.line).collect()
}

fn checked(name: &str) -> Vec<Finding> {
    let table = read(name);
    let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
    check_table(&table, &roles, &CheckOptions::default())
}

fn found(findings: &[Finding], code: &str) -> Vec<String> {
    findings
        .iter()
        .filter(|finding| finding.code == code)
        .map(|finding| finding.to_string().replace("tests/data/", ""))
        .collect()
}

#[test]
fn a_clean_file_has_no_findings() {
    let table = read("clean.csv");
    assert_eq!(lines(&table), [2, 3, 4, 5, 6, 7, 9, 10, 11]);
    assert!(checked("clean.csv").is_empty(), "{:#?}", checked("clean.csv"));
}

#[test]
fn ragged_rows_are_refused_each_at_its_line() {
    assert_eq!(
        refusal("ragged.csv"),
        "ragged.csv:3: error[ragged-row]: expected 2 fields, found 3 (is a quote missing?)\n\
         ragged.csv:4: error[ragged-row]: expected 2 fields, found 1 (is a field missing, or a line broken in two?)"
    );
}

#[test]
fn bad_rows_can_be_skipped_and_are_counted() {
    let options = ReadOptions { on_bad_row: OnBadRow::Skip, ..Default::default() };
    let table = read_with("ragged.csv", &options).unwrap();
    assert_eq!(texts(&table, 0), ["hello there", "fine, thanks"]);
    assert_eq!(
        found(&table.findings, "skipped-rows"),
        ["ragged.csv: warning[skipped-rows]: 2 rows left out because they cannot be read"]
    );
}

#[test]
fn an_unclosed_quote_is_refused_where_it_opens_and_costs_one_row() {
    let message = refusal("unclosed_quote.csv");
    assert!(message.starts_with("unclosed_quote.csv:3: error[unclosed-quote]"), "{message}");
    let options = ReadOptions { on_bad_row: OnBadRow::Skip, ..Default::default() };
    assert_eq!(
        texts(&read_with("unclosed_quote.csv", &options).unwrap(), 0),
        ["first, quoted", "third", "fourth"]
    );
}

#[test]
fn quotes_that_enclose_nothing_anywhere_are_letters_and_that_is_said() {
    let text = b"text,label\na 5\" pipe,x\n\"never closed,y\n".to_vec();
    let table = retune_data::read_bytes(Path::new("q.csv"), text, &ReadOptions::default()).unwrap();
    assert_eq!(texts(&table, 0), ["a 5\" pipe", "\"never closed"]);
    assert_eq!(found(&table.findings, "literal-quotes").len(), 1);
}

#[test]
fn a_header_with_a_repeated_name_is_refused() {
    assert_eq!(
        refusal("duplicate_header.csv"),
        "duplicate_header.csv:1: error[duplicate-column]: `text` names columns 1 and 3 (rename one of them)"
    );
}

#[test]
fn files_without_rows_are_refused() {
    assert_eq!(refusal("empty.csv"), "empty.csv: error[empty-file]: the file is empty");
    assert!(
        refusal("header_only.csv")
            .starts_with("header_only.csv: error[no-rows]: the file has a header and no rows")
    );
}

#[test]
fn nul_bytes_are_refused_at_their_line() {
    assert!(refusal("nul.csv").starts_with("nul.csv:3: error[nul-byte]"), "{}", refusal("nul.csv"));
}

#[test]
fn latin_1_is_refused_with_its_likely_name_and_read_under_it() {
    let message = refusal("latin1.csv");
    assert!(
        message.contains("latin1.csv:2: error[encoding]: not valid UTF-8: byte 0xE9 at column 4"),
        "{message}"
    );
    assert!(message.contains("“café au lait,dr”"), "{message}");
    let options = ReadOptions { encoding: Some("latin-1".into()), ..Default::default() };
    assert_eq!(texts(&read_with("latin1.csv", &options).unwrap(), 0), ["café au lait", "crème brûlée"]);
}

#[test]
fn byte_order_marks_are_obeyed() {
    assert_eq!(texts(&read("utf16.csv"), 0), ["café", "tarte"]);
    assert_eq!(read("bom.csv").columns, ["text", "label"]);
    assert_eq!(texts(&read("bom.csv"), 1), ["a", "b"]);
}

#[test]
fn a_semicolon_is_found_and_said() {
    let table = read("semicolon.csv");
    assert_eq!(texts(&table, 0), ["yes, of course", "no, thanks"]);
    assert_eq!(
        found(&table.findings, "delimiter"),
        ["semicolon.csv: info[delimiter]: the delimiter looks like `;`"]
    );
}

#[test]
fn stray_quotes_in_a_headerless_tsv_swallow_nothing() {
    let table = read("headerless_quotes.tsv");
    assert_eq!(lines(&table), [1, 2, 3, 4]);
    assert_eq!(texts(&table, 1), ["He said \"see you", "\"WIN\" a prize now", "ok then\"", "\"call me"]);
    let options = ReadOptions { columns: Some(vec!["label".into(), "text".into()]), ..Default::default() };
    assert_eq!(read_with("headerless_quotes.tsv", &options).unwrap().columns, ["label", "text"]);
}

#[test]
fn label_space_text_is_read_by_format_or_by_delimiter() {
    let by_format = ReadOptions { format: Some(Format::LabelSpaceText), ..Default::default() };
    let by_delimiter = ReadOptions { delimiter: Some(b' '), ..Default::default() };
    for options in [by_format, by_delimiter] {
        let table = read_with("trec.txt", &options).unwrap();
        assert_eq!(table.columns, ["label", "text"]);
        assert_eq!(texts(&table, 0), ["5", "4", "3"]);
        assert_eq!(texts(&table, 1)[2], "Who was \"Galileo\" ?");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = read_with("absent.csv", &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read tests/data/absent.csv: "));
    assert!(!error.is_refusal());
}

#[test]
fn planted_faults_are_found_at_their_lines() {
    let findings = checked("messy.csv");
    assert_eq!(
        found(&findings, "empty-text"),
        [
            "messy.csv:5: error[empty-text]: column `text`: the text is empty (fill it in, or set missing_label = \"drop\")"
        ]
    );
    let missing = found(&findings, "missing-label");
    assert_eq!(missing.len(), 2);
    assert!(
        missing[0].starts_with("messy.csv:9: error[missing-label]: column `label`: the label is missing")
    );
    assert!(missing[1].starts_with("messy.csv:10: error[missing-label]: column `label`: the label is NaN"));
    assert_eq!(
        found(&findings, "label-twins"),
        [
            "messy.csv:3: warning[label-twins]: column `label`: `refund` (2 rows) and `Refund` (1 row) look like one label \
          (write `refund` everywhere, if they are one)"
        ]
    );
    assert!(found(&findings, "label-looks-missing")[0].starts_with("messy.csv:11:"));
    assert!(
        found(&findings, "mojibake")[0]
            .starts_with("messy.csv:8: warning[mojibake]: column `text`: “The cafÃ©")
    );
    assert!(
        found(&findings, "duplicate-text")[0]
            .starts_with("messy.csv:6: info[duplicate-text]: the text of line 2 again")
    );
    assert!(found(&findings, "conflicting-labels")[0].starts_with(
        "messy.csv:7: warning[conflicting-labels]: the text of line 2 with another label: `shipping`, there `refund`"
    ));
    assert!(found(&findings, "rare-class")[0].contains("`once`"));
    assert!(findings.is_sorted_by(|a, b| a.severity >= b.severity));
}

#[test]
fn a_single_class_is_an_error() {
    let findings = checked("single_class.csv");
    assert_eq!(found(&findings, "single-class").len(), 1);
    assert_eq!(findings[0].severity, Severity::Error);
}

#[test]
fn labels_and_texts_are_compared_across_files() {
    let (train, validation) = (read("messy.csv"), read("validation.csv"));
    let roles = infer_roles(&train, &RoleOverrides::default()).unwrap();
    let validation_roles = roles.in_table(&train, &validation, true).unwrap();
    let findings = check_splits((&train, &roles), (&validation, &validation_roles));
    assert_eq!(
        found(&findings, "unseen-label"),
        [
            "validation.csv:3: error[unseen-label]: column `label`: the label `shiping` (1 row) does not occur in \
          messy.csv (did you mean `shipping`?)"
        ]
    );
    assert!(found(&findings, "leaked-text")[0].starts_with(
        "validation.csv:2: warning[leaked-text]: shares 1 text of its 3 with messy.csv, such as “I want a refund” on line 2 there"
    ));
    assert!(found(&findings, "leaked-near-text")[0].starts_with("validation.csv:3:"));
}

#[test]
fn a_label_inside_its_text_is_reported() {
    let rows: String = (0..20)
        .map(|row| {
            let label = if row % 2 == 0 { "spam" } else { "ham" };
            format!("message {row} tagged {label},{label}\n")
        })
        .collect();
    let table = retune_data::read_bytes(
        Path::new("leak.csv"),
        format!("text,label\n{rows}").into_bytes(),
        &ReadOptions::default(),
    )
    .unwrap();
    let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
    let findings = check_table(&table, &roles, &CheckOptions::default());
    assert_eq!(found(&findings, "label-in-text").len(), 2);
    assert!(
        found(&findings, "label-in-text")[0]
            .contains("the label `ham` stands in 10 of its own 10 texts and in 0 of the 10 others")
    );
}

#[test]
fn public_datasets_are_read_whole() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !shared.is_dir() {
        eprintln!("skipped: {} is absent", shared.display());
        return;
    }
    let sms = read_table(&shared.join("sms_spam/SMSSpamCollection"), &ReadOptions::default()).unwrap();
    assert_eq!((sms.rows.len(), sms.rows[5573].line), (5574, 5574));
    let roles = infer_roles(&sms, &RoleOverrides::default()).unwrap();
    assert_eq!((roles.labels.as_slice(), roles.content), (&[0][..], 1));
    let options = ReadOptions { format: Some(Format::LabelSpaceText), ..Default::default() };
    for (file, rows) in [
        ("sentiment/stsa.binary.train", 6920),
        ("sentiment/stsa.binary.dev", 872),
        ("sentiment/stsa.binary.test", 1821),
        ("trec/TREC.test.all", 500),
    ] {
        assert_eq!(read_table(&shared.join(file), &options).unwrap().rows.len(), rows, "{file}");
    }
    let latin = ReadOptions { encoding: Some("latin-1".into()), ..options.clone() };
    assert_eq!(read_table(&shared.join("trec/TREC.train.all"), &latin).unwrap().rows.len(), 5452);
}

#[test]
fn parquet_of_every_codec_and_json_hold_the_same_typed_rows() {
    let expected = read("types.jsonl");
    assert_eq!(
        expected.rows[0].values,
        [
            "two\nlines".into(),
            Value::Integer(1),
            Value::Number(0.1),
            Value::Bool(true),
            Value::List(vec!["a".into(), "b".into()]),
        ]
    );
    for name in [
        "types.json",
        "types.none.parquet",
        "types.snappy.parquet",
        "types.gzip.parquet",
        "types.zstd.parquet",
    ] {
        let table = read(name);
        assert_eq!(table.columns, ["text", "label", "score", "flag", "tags"], "{name}");
        for (row, wanted) in table.rows.iter().zip(&expected.rows) {
            assert_eq!(row.values, wanted.values, "{name}");
        }
        assert_eq!(table.rows.len(), 3);
    }
    assert_eq!(lines(&read("types.snappy.parquet")), [1, 2, 3]);
}

#[test]
fn a_truncated_parquet_file_is_refused() {
    let bytes = std::fs::read(path("types.snappy.parquet")).unwrap();
    let half = bytes[..bytes.len() / 2].to_vec();
    let error =
        retune_data::read_bytes(Path::new("half.parquet"), half, &ReadOptions::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("half.parquet: error[parquet]: not a readable Parquet file"),
        "{error}"
    );
}

/// 90 rows of three classes, whose words have nothing to do with the class.
fn sound_rows() -> Vec<[String; 2]> {
    const WORDS: [&str; 16] = [
        "river", "window", "letter", "morning", "garden", "ticket", "number", "silver", "bottle", "market",
        "signal", "pocket", "winter", "ladder", "button", "mirror",
    ];
    let word =
        |row: usize, place: usize| WORDS[(row * row * 7 + row * 3 + place * (5 + row % 11)) % WORDS.len()];
    (0..90)
        .map(|row| {
            let words: Vec<&str> = (0..6).map(|place| word(row, place)).collect();
            [format!("{} {row}", words.join(" ")), ["lost", "late", "broken"][row * row % 7 % 3].to_owned()]
        })
        .collect()
}

/// Codes and lines of what is found in rows under the header `text,label`.
fn found_in(rows: &[[String; 2]]) -> Vec<(&'static str, Option<u64>)> {
    let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            row.each_ref().map(|cell| if cell.is_empty() { String::new() } else { quoted(cell) }).join(",")
        })
        .collect();
    let text = format!("text,label\n{}\n", lines.join("\n"));
    let table =
        retune_data::read_bytes(Path::new("f.csv"), text.into_bytes(), &ReadOptions::default()).unwrap();
    let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
    let findings = check_table(&table, &roles, &CheckOptions::default());
    findings.iter().map(|finding| (finding.code, finding.line)).collect()
}

/// A fault's code, the index of the row where it is found, and what plants it.
type Planted = (&'static str, Option<usize>, fn(&mut Vec<[String; 2]>));

#[test]
fn every_planted_fault_is_found_on_its_line_and_sound_rows_raise_no_alarm() {
    let found = found_in(&sound_rows());
    assert!(found.is_empty(), "{found:?}");
    let planted: &[Planted] = &[
        ("empty-text", Some(4), |rows| rows[4][0] = "  ".into()),
        ("missing-label", Some(7), |rows| rows[7][1] = String::new()),
        ("label-looks-missing", Some(9), |rows| rows[9][1] = "N/A".into()),
        ("long-text", Some(12), |rows| rows[12][0] = "word ".repeat(20_000)),
        ("mojibake", Some(15), |rows| rows[15][0].push_str(" cafÃ©")),
        ("replacement-character", Some(16), |rows| rows[16][0].push_str(" caf\u{FFFD}")),
        ("duplicate-text", Some(40), |rows| rows[40] = rows[3].clone()),
        ("conflicting-labels", Some(41), |rows| {
            let other = ["lost", "late"].into_iter().find(|label| *label != rows[5][1]).unwrap_or("late");
            rows[41] = [rows[5][0].clone(), other.to_owned()];
        }),
        ("label-twins", Some(17), |rows| {
            rows[17][1] = rows[17][1].to_uppercase();
        }),
        ("rare-class", Some(22), |rows| rows[22][1] = "stolen".into()),
        ("label-in-text", None, |rows| {
            rows.iter_mut().filter(|row| row[1] == "late").for_each(|row| row[0].push_str(" late"));
        }),
        ("marker-in-text", None, |rows| {
            rows.iter_mut().filter(|row| row[1] == "late").for_each(|row| row[0].push_str(" zyx"));
        }),
        ("id-as-text", None, |rows| {
            rows.iter_mut().enumerate().for_each(|(n, row)| row[0] = format!("ORD-{n}"));
        }),
        ("single-class", None, |rows| rows.iter_mut().for_each(|row| row[1] = "late".into())),
        ("too-many-classes", None, |rows| {
            rows.iter_mut().enumerate().for_each(|(n, row)| row[1] = format!("class {}", n / 2 * 2 + n % 3));
        }),
        ("constant-column", None, |rows| rows.iter_mut().for_each(|row| row[0] = "always this".into())),
    ];
    for (code, row, plant) in planted {
        let mut rows = sound_rows();
        plant(&mut rows);
        let found = found_in(&rows);
        let there: Vec<Option<u64>> =
            found.iter().filter(|(found, _)| found == code).map(|(_, line)| *line).collect();
        assert!(!there.is_empty(), "{code}: {found:?}");
        if let Some(row) = row {
            assert_eq!(there, [Some(*row as u64 + 2)], "{code}: {found:?}");
            // One fault is one finding, not several names for it.
            let others: Vec<_> =
                found.iter().filter(|(found, _)| found != code && *found != "rare-class").collect();
            assert!(others.is_empty(), "{code}: {others:?}");
        }
    }
}
