//! `retune cache`: what runs have kept on disk of frozen layer groups.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use retune::train::{FeatureSet, clean_features, clear_features, list_features};
use serde_json::{Value, json};

use super::fit::prepare_options;
use crate::console::{Failure, print_line};
use crate::format::{Align, Table, bytes, count, duration};

/// `retune cache`
#[derive(Debug, Args)]
#[command(
    after_help = "A run whose lower layer groups are frozen computes their outputs, the features, once for each \
sample and keeps them in the cache folder (RETUNE_CACHE, else ~/.cache/retune) for its later epochs and for other runs \
with the same weights: other seeds, folds, heads. They may be removed at any time, also while runs use them: what is not \
there is computed again, with the same result. docs/feature-cache.md says more.

Examples:
  retune cache list
  retune cache clean --limit 2GB
  retune cache clear"
)]
pub struct Cache {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What can be done with the cache.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List the features on disk: model, cut, samples, bytes, when they were last used.
    List {
        /// Print the result as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Remove what killed runs and damage left, then what was not used for longest until the rest fits a limit.
    Clean {
        /// The bytes that may stay, such as 500MB or 2GB; without it only leftovers go.
        #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
        limit: Option<u64>,
    },
    /// Remove all features.
    Clear,
}

/// Runs the command.
pub fn run(arguments: &Cache) -> Result<ExitCode, Failure> {
    let folder = prepare_options()?.resolve.cache_dir;
    match &arguments.command {
        CacheCommand::List { json } => {
            let sets = list_features(&folder)?;
            let shown = folder.join("features");
            if *json {
                print_line(json!({
                    "folder": shown,
                    "bytes": sets.iter().map(|set| set.bytes).sum::<u64>(),
                    "features": sets.iter().map(set_json).collect::<Vec<_>>(),
                }));
            } else {
                print_line(to_text(&sets, &shown));
            }
        }
        CacheCommand::Clean { limit } => {
            let freed = clean_features(&folder, limit.unwrap_or(u64::MAX))?;
            print_line(format_args!("freed {}", bytes(freed)));
        }
        CacheCommand::Clear => print_line(format_args!("freed {}", bytes(clear_features(&folder)?))),
    }
    Ok(ExitCode::SUCCESS)
}

fn to_text(sets: &[FeatureSet], folder: &std::path::Path) -> String {
    if sets.is_empty() {
        return format!("no features in {}", folder.display());
    }
    let mut table = Table::new([
        ("model", Align::Left),
        ("features below", Align::Left),
        ("samples", Align::Right),
        ("size", Align::Right),
        ("last used", Align::Right),
        ("damaged files", Align::Right),
    ]);
    for set in sets {
        let age = set.used.and_then(|used| SystemTime::now().duration_since(used).ok());
        table.row([
            set.about.model.clone(),
            set.about.below.clone(),
            count(set.samples),
            bytes(set.bytes),
            age.map_or_else(String::new, |age: Duration| format!("{} ago", duration(age.as_secs_f64()))),
            if set.damaged.is_empty() { String::new() } else { count(set.damaged.len()) },
        ]);
    }
    let sum = sets.iter().map(|set| set.bytes).sum();
    format!("{table}\n{} in {}", bytes(sum), folder.display())
}

fn set_json(set: &FeatureSet) -> Value {
    let used = set.used.and_then(|used| used.duration_since(UNIX_EPOCH).ok());
    json!({
        "folder": set.path,
        "model": set.about.model,
        "below": set.about.below,
        "isa": set.about.isa,
        "version": set.about.version,
        "samples": set.samples,
        "bytes": set.bytes,
        "last_used": used.map(|used| used.as_secs()),
        "damaged": set.damaged.iter().collect::<Vec<&PathBuf>>(),
    })
}

/// `1000`, `500MB`, `2 GB`: a number and a unit of thousands.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit: f64 = match text[digits.len()..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "KB" | "K" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        "TB" | "T" => 1e12,
        other => return Err(format!("\"{other}\" is no unit; write B, kB, MB, GB or TB")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("\"{digits}\" is no number of bytes"))?;
    if !number.is_finite() || number < 0.0 {
        return Err(format!("{number} is no number of bytes"));
    }
    Ok((number * unit) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(
            ["1000", "500MB", "2 GB", "1.5k"].map(parse_bytes),
            [1000, 500_000_000, 2_000_000_000, 1500].map(Ok)
        );
        assert!(["", "GB", "2 apples", "-1"].iter().all(|text| parse_bytes(text).is_err()));
    }
}
