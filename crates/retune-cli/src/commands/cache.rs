//! `retune cache`: what runs have kept on disk, of frozen layer groups and of tokenized texts.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use retune::data::{TOKENS, TokenSet, list_tokens};
use retune::train::{FeatureSet, TrainError, clean_cache, list_features};
use serde_json::{Value, json};

use super::fit::prepare_options;
use crate::console::{Failure, print_line};
use crate::format::{Align, Table, bytes, count, duration};

/// `retune cache`
#[derive(Debug, Args)]
#[command(
    after_help = "A run whose lower layer groups are frozen computes their outputs, the features, once for each \
sample and keeps them in the cache folder (RETUNE_CACHE, else ~/.cache/retune) for its later epochs and for other runs \
with the same weights: other seeds, folds, heads. The token ids of large texts lie beside them. All of it may be removed \
at any time, also while runs use it: what is not there is computed again, with the same result. docs/feature-cache.md and \
docs/input.md say more.

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
    /// List the features and token ids on disk: model, what of, bytes, when they were last used.
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
    /// Remove all features and token ids.
    Clear,
}

/// Runs the command.
pub fn run(arguments: &Cache) -> Result<ExitCode, Failure> {
    let folder = prepare_options()?.resolve.cache_dir;
    match &arguments.command {
        CacheCommand::List { json } => {
            let sets = list_features(&folder)?;
            let tokens = list_tokens(&folder).map_err(TrainError::from)?;
            let shown = folder.join("features");
            if *json {
                print_line(json!({
                    "folder": shown,
                    "bytes": sets.iter().map(|set| set.bytes).sum::<u64>(),
                    "features": sets.iter().map(set_json).collect::<Vec<_>>(),
                    "token_folder": folder.join(TOKENS),
                    "token_bytes": tokens.iter().map(|set| set.bytes).sum::<u64>(),
                    "tokens": tokens.iter().map(token_json).collect::<Vec<_>>(),
                }));
            } else {
                print_line(to_text(&sets, &shown));
                if !tokens.is_empty() {
                    print_line(tokens_to_text(&tokens, &folder.join(TOKENS)));
                }
            }
        }
        CacheCommand::Clean { limit } => {
            let freed = clean_cache(&folder, limit.unwrap_or(u64::MAX))?;
            print_line(format_args!("freed {}", bytes(freed)));
        }
        CacheCommand::Clear => print_line(format_args!("freed {}", bytes(clean_cache(&folder, 0)?))),
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
        table.row([
            set.about.model.clone(),
            set.about.below.clone(),
            count(set.samples),
            bytes(set.bytes),
            age(set.used),
            if set.damaged.is_empty() { String::new() } else { count(set.damaged.len()) },
        ]);
    }
    let sum = sets.iter().map(|set| set.bytes).sum();
    format!("{table}\n{} in {}", bytes(sum), folder.display())
}

fn tokens_to_text(sets: &[TokenSet], folder: &std::path::Path) -> String {
    let mut table = Table::new([
        ("tokens of", Align::Left),
        ("model", Align::Left),
        ("texts", Align::Right),
        ("max_length", Align::Right),
        ("size", Align::Right),
        ("last used", Align::Right),
        ("damaged files", Align::Right),
    ]);
    for set in sets {
        table.row([
            set.about.data.clone(),
            set.about.model.clone(),
            count(set.about.texts),
            count(set.about.max_length),
            bytes(set.bytes),
            age(set.used),
            if set.damaged.is_empty() { String::new() } else { count(set.damaged.len()) },
        ]);
    }
    let sum = sets.iter().map(|set| set.bytes).sum();
    format!("\n{table}\n{} in {}", bytes(sum), folder.display())
}

fn age(used: Option<SystemTime>) -> String {
    let age = used.and_then(|used| SystemTime::now().duration_since(used).ok());
    age.map_or_else(String::new, |age: Duration| format!("{} ago", duration(age.as_secs_f64())))
}

fn seconds(used: Option<SystemTime>) -> Option<u64> {
    Some(used?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn token_json(set: &TokenSet) -> Value {
    json!({
        "folder": set.path,
        "data": set.about.data,
        "model": set.about.model,
        "texts": set.about.texts,
        "max_length": set.about.max_length,
        "version": set.about.version,
        "bytes": set.bytes,
        "last_used": seconds(set.used),
        "damaged": set.damaged,
    })
}

fn set_json(set: &FeatureSet) -> Value {
    json!({
        "folder": set.path,
        "model": set.about.model,
        "below": set.about.below,
        "isa": set.about.isa,
        "version": set.about.version,
        "samples": set.samples,
        "bytes": set.bytes,
        "last_used": seconds(set.used),
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
