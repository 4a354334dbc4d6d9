//! `retune data show`

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use retune::checkpoint::ModelConfig;
use retune::data::{
    ClassProfile, ColumnProfile, Distribution, PictureProfile, ReadOptions, RowProfile, TableProfile,
    TextTokenizer,
};
use retune::train::{FileOverview, OverviewOptions, Recipe, TrainError, overview_file, overview_recipe};
use serde_json::json;

use super::Source;
use crate::console::{Failure, print_line};
use crate::format::{Align, Table, count, counted, percent};
use crate::inputs::find_model;

/// At most this many classes are counted.
const SHOWN_CLASSES: usize = 40;
/// At most this many classes have rows shown.
const CLASSES_WITH_ROWS: usize = 12;
/// The longest bar.
const BAR: usize = 32;
/// A line on a terminal.
const LINE: usize = 100;

/// `retune data show`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune data show reviews.csv
  retune data show reviews.csv --model sentence-transformers/all-MiniLM-L6-v2
  retune data show recipe.toml --rows 5
  retune data show folder/of/pictures --json")]
pub struct Show {
    /// What is looked at.
    #[command(flatten)]
    pub source: Source,
    /// Count tokens as this model reads them: a folder or a hub id [default: the recipe's, if it is a folder].
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// How many rows of each class to show.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rows: usize,
    /// Print everything as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Show) -> Result<ExitCode, Failure> {
    let recipe = arguments.source.recipe()?;
    let tokenizer = tokenizer(arguments.model.as_deref(), recipe.as_ref())?;
    let options = OverviewOptions { tokenizer: tokenizer.as_ref(), rows_per_class: arguments.rows };
    let files = overview(&arguments.source, recipe.as_ref(), &options)?;
    if arguments.json {
        print_line(json!({ "files": serde_json::to_value(&files).map_err(Failure::other)? }));
        return Ok(ExitCode::SUCCESS);
    }
    let style = if std::io::stdout().is_terminal() { Style::terminal() } else { Style::plain() };
    let parts: Vec<String> = files.iter().map(|file| file_text(file, &style)).collect();
    print_line(parts.join("\n\n\n"));
    Ok(ExitCode::SUCCESS)
}

/// The files of a recipe, or one file.
pub(super) fn overview(
    source: &Source,
    recipe: Option<&Recipe>,
    options: &OverviewOptions<'_>,
) -> Result<Vec<FileOverview>, Failure> {
    Ok(match recipe {
        Some(recipe) => overview_recipe(recipe, options)?,
        None => overview_file(&source.path, &ReadOptions::default(), &source.roles()?, options)?,
    })
}

/// The tokenizer of the model that was named, or of the recipe's where that is a folder; none for models of pictures.
pub(super) fn tokenizer(
    model: Option<&str>,
    recipe: Option<&Recipe>,
) -> Result<Option<TextTokenizer>, Failure> {
    let of_recipe = recipe.map(|recipe| recipe.model.name_or_path.as_str());
    let of_recipe = of_recipe.filter(|name| std::path::Path::new(name).join("config.json").is_file());
    let Some(name) = model.or(of_recipe) else { return Ok(None) };
    let directory = find_model(name, &[])?.directory;
    let config = ModelConfig::open(&directory.join("config.json")).map_err(TrainError::from)?;
    let model_type = config.string("model_type").map_err(TrainError::from)?.to_owned();
    match TextTokenizer::from_directory(&directory, &model_type) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(error) if model.is_some() => Err(TrainError::from(error).into()),
        Err(_) => Ok(None),
    }
}

/// What a terminal shows and a pipe does not.
struct Style {
    bar: &'static str,
    line: Option<usize>,
}

impl Style {
    fn terminal() -> Self {
        Self { bar: "█", line: Some(LINE) }
    }

    fn plain() -> Self {
        Self { bar: "#", line: None }
    }

    /// A bar of a share of the greatest.
    fn bar(&self, value: usize, greatest: usize) -> String {
        let length = (value * BAR).div_ceil(greatest.max(1));
        self.bar.repeat(length)
    }

    /// A line that does not wrap on a terminal.
    fn fit(&self, line: &str) -> String {
        match self.line {
            Some(limit) if line.chars().count() > limit => {
                line.chars().take(limit - 1).chain(['…']).collect()
            }
            _ => line.to_owned(),
        }
    }
}

fn file_text(file: &FileOverview, style: &Style) -> String {
    let profile = &file.profile;
    let noun = if profile.pictures.is_some() { "picture" } else { "row" };
    let split = file.split.map_or_else(String::new, |split| format!(" ({})", split.name()));
    let mut parts = vec![format!(
        "{}{split}: {}, {}",
        profile.path.display(),
        counted(profile.rows, noun),
        counted(profile.columns.len(), "column")
    )];
    parts.push(columns_text(profile, style));
    if !profile.classes.is_empty() {
        parts.push(classes_text(profile, style));
    }
    if let Some((least, median, greatest)) = profile.target_range {
        parts.push(format!("the numbers go from {least} to {greatest}, their median is {median}"));
    }
    if let Some(characters) = &profile.characters {
        parts.push(lengths_text("characters of a text", characters, style));
    }
    if let Some(tokens) = &profile.tokens {
        parts.push(lengths_text("tokens of a text, special ones included", tokens, style));
    }
    if let Some(pictures) = &profile.pictures {
        parts.push(pictures_text(pictures));
    }
    parts.extend(profile.classes.iter().take(CLASSES_WITH_ROWS).map(|class| class_rows(class, style)));
    if !profile.examples.is_empty() {
        parts.push(rows_text("some rows", &profile.examples, style));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn columns_text(profile: &TableProfile, style: &Style) -> String {
    let mut table = Table::new([
        ("column", Align::Left),
        ("role", Align::Left),
        ("kind", Align::Left),
        ("empty", Align::Right),
        ("different", Align::Right),
        ("such as", Align::Left),
    ]);
    let quoted = |column: &ColumnProfile| {
        let examples: Vec<String> = column.examples.iter().map(|example| format!("“{example}”")).collect();
        match column.range {
            Some((low, high)) => format!("{low} to {high}"),
            None => examples.join(", "),
        }
    };
    for column in &profile.columns {
        let share = column.missing as f64 / profile.rows.max(1) as f64;
        let empty = if column.missing == 0 {
            "0".to_owned()
        } else {
            format!("{} ({})", count(column.missing), percent(share))
        };
        table.row([
            column.name.clone(),
            column.role.map_or_else(String::new, |role| role.name().to_owned()),
            column.kind.name().to_owned(),
            empty,
            count(column.distinct),
            quoted(column),
        ]);
    }
    table.to_string().lines().map(|line| style.fit(line)).collect::<Vec<_>>().join("\n")
}

fn classes_text(profile: &TableProfile, style: &Style) -> String {
    let mut table = Table::new([
        ("label", Align::Left),
        ("rows", Align::Right),
        ("share", Align::Right),
        ("", Align::Left),
    ]);
    let greatest = profile.classes.iter().map(|class| class.rows).max().unwrap_or(0);
    for class in profile.classes.iter().take(SHOWN_CLASSES) {
        let share = percent(class.rows as f64 / profile.rows.max(1) as f64);
        table.row([class.label.clone(), count(class.rows), share, style.bar(class.rows, greatest)]);
    }
    let mut text = table.to_string();
    if profile.classes.len() > SHOWN_CLASSES {
        text.push_str(&format!("\nand {} more", counted(profile.classes.len() - SHOWN_CLASSES, "label")));
    }
    text
}

fn lengths_text(title: &str, lengths: &Distribution, style: &Style) -> String {
    let Distribution { least, p5, p50, p95, greatest, .. } = *lengths;
    let mut table = Table::new([(title, Align::Right), ("rows", Align::Right), ("", Align::Left)]);
    let most = lengths.bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    for bin in &lengths.bins {
        let range = match bin.to {
            Some(to) if to == bin.from + 1 => count(bin.from),
            Some(to) => format!("{} to {}", count(bin.from), count(to - 1)),
            None => format!("{} and more", count(bin.from)),
        };
        table.row([range, count(bin.count), style.bar(bin.count, most)]);
    }
    format!(
        "{table}\nfrom {} to {}, median {}, nine of ten from {} to {}",
        count(least),
        count(greatest),
        count(p50),
        count(p5),
        count(p95)
    )
}

fn pictures_text(pictures: &PictureProfile) -> String {
    let side = |name: &str, lengths: &Distribution| {
        format!("{name} from {} to {}, median {}", lengths.least, lengths.greatest, lengths.p50)
    };
    let modes: Vec<String> =
        pictures.modes.iter().map(|(mode, pictures)| format!("{} {mode}", count(*pictures))).collect();
    let mut table = Table::new([("size", Align::Left), ("pictures", Align::Right)]);
    for (width, height, pictures) in &pictures.sizes {
        table.row([format!("{width} × {height}"), count(*pictures)]);
    }
    let more = pictures.different_sizes - pictures.sizes.len();
    let more = if more > 0 { format!("\nand {}", counted(more, "other size")) } else { String::new() };
    format!(
        "{}\n{}\ncolour modes: {}\n\n{table}{more}",
        side("widths", &pictures.widths),
        side("heights", &pictures.heights),
        modes.join(", ")
    )
}

fn class_rows(class: &ClassProfile, style: &Style) -> String {
    if class.examples.is_empty() {
        return String::new();
    }
    rows_text(&class.label, &class.examples, style)
}

fn rows_text(title: &str, rows: &[RowProfile], style: &Style) -> String {
    let mut text = title.to_owned();
    for row in rows {
        let line = match row.picture {
            Some(_) => format!("  {}", row.content),
            None => format!("  line {}: {}", row.line, row.content),
        };
        text.push('\n');
        text.push_str(&style.fit(&line));
    }
    text
}
