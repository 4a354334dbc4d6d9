//! `retune data dedupe`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use retune::data::ReadOptions;
use retune::train::{Copy, Deduped, DedupedFile, dedupe_file, dedupe_recipe};
use serde_json::{Value, json};

use super::Source;
use crate::console::{Failure, print_line};
use crate::format::{Align, Table, count, percent};

/// At most this many copies are shown.
const SHOWN: usize = 10;
/// Characters of a text that are shown.
const EXCERPT: usize = 60;

/// `retune data dedupe`
#[derive(Debug, Args)]
#[command(
    after_help = "Two texts are near copies if so large a share of their character 5-grams is common (case, \
punctuation and spacing put aside): 0.8 is a changed word in a sentence of twenty. Two pictures are if so large a share of \
the 64 bits of their fingerprints is equal: 0.953 outlives scaling and compression. Copies across files are the worse kind: \
a test row that was trained on measures memory. A row stays where it matters most: what stands in the test file is taken \
out of validation and training, what stands in validation out of training, and of copies within a file the first stays. A \
test file is never changed.

Examples:
  retune data dedupe reviews.csv
  retune data dedupe folder/of/pictures
  retune data dedupe recipe.toml --output clean/
  retune data dedupe recipe.toml --similarity 0.9 --json"
)]
pub struct Dedupe {
    /// What is looked through.
    #[command(flatten)]
    pub source: Source,
    /// The similarity from which on two rows are copies, above 0 and at most 1 [default: 0.8 for texts, 0.953 for
    /// pictures].
    #[arg(long, value_name = "SHARE")]
    pub similarity: Option<f64>,
    /// Write every file without its copies into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Print the result, every copy included, as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Dedupe) -> Result<ExitCode, Failure> {
    let similarity = arguments.similarity;
    if let Some(similarity) = similarity.filter(|similarity| !(*similarity > 0.0 && *similarity <= 1.0)) {
        return Err(Failure::usage(format!(
            "--similarity {similarity}: a share above 0 and at most 1 is needed"
        )));
    }
    let found = match arguments.source.recipe()? {
        Some(recipe) => dedupe_recipe(&recipe, similarity)?,
        None => {
            let roles = arguments.source.roles()?;
            dedupe_file(&arguments.source.path, &ReadOptions::default(), &roles, similarity)?
        }
    };
    let written = arguments.output.as_deref().map(|folder| found.write(folder)).transpose()?;
    if arguments.json {
        print_line(json!({
            "files": found.files.iter().map(file_json).collect::<Vec<Value>>(),
            "copies": serde_json::to_value(&found.copies).map_err(Failure::other)?,
            "written": written,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    print_line(to_text(&found));
    written.iter().flatten().for_each(|path| print_line(format_args!("written: {}", path.display())));
    Ok(ExitCode::SUCCESS)
}

fn file_json(file: &DedupedFile) -> Value {
    json!({
        "file": file.table.path,
        "split": file.split,
        "rows": file.rows,
        "copies_within": file.copies_within,
        "copies_across": file.copies_across,
        "kept": file.table.rows.len(),
    })
}

fn to_text(found: &Deduped) -> String {
    let mut table = Table::new([
        ("file", Align::Left),
        ("rows", Align::Right),
        ("copies within", Align::Right),
        ("copies of other files", Align::Right),
        ("kept", Align::Right),
    ]);
    for file in &found.files {
        table.row([
            file.table.path.display().to_string(),
            count(file.rows),
            count(file.copies_within),
            count(file.copies_across),
            count(file.table.rows.len()),
        ]);
    }
    let mut text = table.to_string();
    let contradictions = found.copies.iter().filter(|copy| !copy.same_label).count();
    if contradictions > 0 {
        text.push_str(&format!(
            "\n{} of the copies have another label than the row they copy",
            count(contradictions)
        ));
    }
    // Those across files first, then the ones that contradict.
    let mut copies: Vec<&Copy> = found.copies.iter().collect();
    copies.sort_by_key(|copy| (copy.path == copy.of_path, copy.same_label));
    for copy in copies.iter().take(SHOWN) {
        let other_label = if copy.same_label { "" } else { ", with another label" };
        let similarity = percent(copy.similarity);
        if copy.path.is_dir() {
            let Copy { content, of_content, .. } = copy;
            text.push_str(&format!("\n{content} is {similarity} like {of_content}{other_label}"));
            continue;
        }
        let excerpt: String = copy.content.chars().take(EXCERPT).collect();
        text.push_str(&format!(
            "\n{}:{} is {similarity} like {}:{}{other_label}: {}",
            copy.path.display(),
            copy.line,
            copy.of_path.display(),
            copy.of_line,
            excerpt.replace(['\n', '\u{1f}'], " "),
        ));
    }
    if copies.len() > SHOWN {
        text.push_str(&format!("\nand {} more (--json lists all)", count(copies.len() - SHOWN)));
    }
    text
}
