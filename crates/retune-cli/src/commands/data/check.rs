//! `retune data check`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use retune::data::{ReadOptions, Severity};
use retune::train::{DataExamination, FileSummary, examine_file, examine_recipe};
use serde_json::{Map, Value, json};

use super::{Source, page};
use crate::console::{Failure, print_line};
use crate::format::{Align, Table, count, counted, percent};

/// The exit code for data that a fit would refuse.
const REFUSED: u8 = 3;
/// At most this many classes are listed.
const SHOWN_CLASSES: usize = 40;

/// `retune data check`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune data check reviews.csv
  retune data check reviews.csv --text-column review --label-column stars
  retune data check recipe.toml
  retune data check folder/of/pictures
  retune data check recipe.toml --html data.html
  retune data check recipe.toml data.on_bad_row=skip

Exit code: 0 if a fit would take the data, 3 if it would refuse it.")]
pub struct Check {
    /// What is checked.
    #[command(flatten)]
    pub source: Source,
    /// Write a page with the findings, drawings of the distributions, copies and rows: one file for a browser.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(check: &Check) -> Result<ExitCode, Failure> {
    let recipe = check.source.recipe()?;
    let examination = match &recipe {
        Some(recipe) => examine_recipe(recipe)?,
        None => examine_file(&check.source.path, &ReadOptions::default(), &check.source.roles()?)?,
    };
    if let Some(path) = &check.html {
        page::write(&check.source, recipe.as_ref(), &examination, path)?;
    }
    if check.json {
        print_line(to_json(&examination)?);
    } else {
        print_line(to_text(&examination));
        check.html.iter().for_each(|path| print_line(format_args!("written: {}", path.display())));
    }
    Ok(if examination.has_errors() { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

fn to_text(examination: &DataExamination) -> String {
    let mut parts = Vec::new();
    if !examination.findings.is_empty() {
        let lines: Vec<String> = examination.findings.iter().map(ToString::to_string).collect();
        parts.push(lines.join("\n"));
    }
    parts.extend(examination.files.iter().map(file_text));
    if let Some(classes) = classes_text(&examination.files) {
        parts.push(classes);
    }
    let number = |severity: Severity| {
        examination.findings.iter().filter(|finding| finding.severity == severity).count()
    };
    parts.push(format!(
        "{}, {}, {}",
        counted(number(Severity::Error), "error"),
        counted(number(Severity::Warning), "warning"),
        counted(number(Severity::Info), "remark"),
    ));
    parts.join("\n\n")
}

fn file_text(file: &FileSummary) -> String {
    let mut text = format!(
        "{}: {}, columns {}",
        file.path.display(),
        counted(file.rows, if file.roles.image.is_some() { "picture" } else { "row" }),
        file.columns.join(", ")
    );
    for reason in &file.roles.reasons {
        text.push_str("\n  ");
        text.push_str(reason);
    }
    for missing in &file.missing {
        let share = percent(missing.rows as f64 / file.rows.max(1) as f64);
        text.push_str(&format!(
            "\n  `{}` is empty in {} ({share})",
            missing.column,
            counted(missing.rows, "row")
        ));
    }
    text
}

/// Rows of each class in each file.
fn classes_text(files: &[FileSummary]) -> Option<String> {
    let first = files.iter().find(|file| !file.classes.is_empty())?;
    let name = |file: &FileSummary| file.split.map_or("rows", |split| split.name());
    let header =
        std::iter::once(("label", Align::Left)).chain(files.iter().map(|file| (name(file), Align::Right)));
    let mut table = Table::new(header);
    // The training file comes first and has all labels, unless something is wrong.
    for class in first.classes.iter().take(SHOWN_CLASSES) {
        let rows = files.iter().map(|file| {
            let there = file.classes.iter().find(|other| other.label == class.label);
            count(there.map_or(0, |there| there.rows))
        });
        table.row(std::iter::once(class.label.clone()).chain(rows));
    }
    let mut text = table.to_string();
    if first.classes.len() > SHOWN_CLASSES {
        text.push_str(&format!("\nand {} more", counted(first.classes.len() - SHOWN_CLASSES, "label")));
    }
    Some(text)
}

/// The findings and, of the file to train on, rows, columns and roles; then every file.
fn to_json(examination: &DataExamination) -> Result<Value, Failure> {
    let findings = serde_json::to_value(&examination.findings).map_err(Failure::other)?;
    let files: Vec<Value> = examination.files.iter().map(file_json).collect();
    let first = |key: &str| files.first().map_or(Value::Null, |file| file[key].clone());
    Ok(json!({
        "findings": findings,
        "rows": first("rows"),
        "columns": first("columns"),
        "roles": first("roles"),
        "files": files,
    }))
}

fn file_json(file: &FileSummary) -> Value {
    let classes: Map<String, Value> =
        file.classes.iter().map(|class| (class.label.clone(), json!(class.rows))).collect();
    let missing: Map<String, Value> =
        file.missing.iter().map(|missing| (missing.column.clone(), json!(missing.rows))).collect();
    json!({
        "file": file.path.display().to_string(),
        "split": file.split,
        "rows": file.rows,
        "columns": file.columns,
        "missing": missing,
        "roles": file.roles,
        "classes": classes,
    })
}
