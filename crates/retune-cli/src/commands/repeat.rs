//! `retune fit --seeds` and `--folds`: the same recipe several times, with the mean of its results and an interval.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use retune::checkpoint::write_atomic;
use retune::tasks::metrics::Metric;
use retune::train::{FitOptions, Outcome, Recipe, RunSummary};
use serde_json::{Map, Value, json};

use super::fit::{report, train};
use crate::arguments::Fit;
use crate::console::{Failure, print_line};

/// Runs the recipe for each seed or fold, into folders below its own.
pub fn run(arguments: &Fit, recipe: &Recipe, mut options: FitOptions<'static>) -> Result<ExitCode, Failure> {
    let (count, kind) = match (arguments.seeds, arguments.folds) {
        (Some(seeds), _) => (seeds, "seed"),
        (None, folds) => (folds.unwrap_or(0), "fold"),
    };
    if count < 2 {
        return Err(Failure::usage(format!("--{kind}s takes at least 2, not {count}")));
    }
    let root = Path::new(&recipe.train.output_dir);
    let mut runs = Vec::new();
    for index in 0..count {
        let mut one = recipe.clone();
        let name = if kind == "seed" {
            one.train.seed = recipe.train.seed + index as u64;
            format!("seed-{}", one.train.seed)
        } else {
            options.prepare.fold = Some((index, count));
            one.data.validation = None;
            one.data.validation_split = None;
            format!("fold-{}", index + 1)
        };
        one.train.output_dir = root.join(&name).display().to_string();
        eprintln!("== {name} ({} of {count})", index + 1);
        let summary = train(&one, &options)?;
        let code = report(&summary)?;
        if summary.outcome == Outcome::Interrupted {
            return Ok(code);
        }
        runs.push(summary);
    }
    let summary = summarize(&runs, kind);
    let path = root.join("summary.json");
    write_atomic(&path, |file| writeln!(file, "{summary:#}")).map_err(Failure::other)?;
    if arguments.json {
        print_line(summary);
    } else {
        print_table(&summary, count, kind);
        print_line(format_args!("written to {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Mean, standard deviation and interval of every metric that is a number in all runs.
fn summarize(runs: &[RunSummary], kind: &str) -> Value {
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in runs {
        for (name, value) in run.metrics.iter().filter(|(name, _)| is_result(name)) {
            if let Some(value) = value.as_f64() {
                values.entry(name).or_default().push(value);
            }
        }
    }
    let metrics: Map<String, Value> = values
        .into_iter()
        .filter(|(_, values)| values.len() == runs.len())
        .map(|(name, values)| {
            let (mean, deviation) = mean_and_deviation(&values);
            let half = student_t(values.len() - 1) * deviation / (values.len() as f64).sqrt();
            let (least, most) =
                Metric::find(name).map_or((f64::NEG_INFINITY, f64::INFINITY), |metric| metric.range);
            let summary = json!({
                "mean": mean,
                "standard_deviation": deviation,
                "ci95": [(mean - half).max(least), (mean + half).min(most)],
                "values": values,
            });
            (name.to_owned(), summary)
        })
        .collect();
    let folders: Vec<&Path> = runs.iter().map(|run| run.folder.as_path()).collect();
    json!({ "kind": kind, "runs": folders, "metrics": metrics })
}

fn is_result(name: &str) -> bool {
    (name.starts_with("eval_") || name.starts_with("test_")) && !name.ends_with("_baseline")
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (values.len() - 1) as f64).sqrt())
}

/// The 97.5% quantile of Student's t distribution, for a two-sided 95% interval of a mean.
fn student_t(degrees_of_freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    TABLE.get(degrees_of_freedom.saturating_sub(1)).copied().unwrap_or(1.96)
}

fn print_table(summary: &Value, count: usize, kind: &str) {
    const SHOWN: &[&str] =
        &["loss", "accuracy", "f1_macro", "f1_micro", "mcc", "auroc", "exact_match", "mse", "mae", "pearson"];
    print_line(format_args!("mean of {count} {kind}s, with a 95% interval of the mean (Student's t)"));
    for prefix in ["eval_", "test_"] {
        for name in SHOWN {
            let metric = &summary["metrics"][format!("{prefix}{name}")];
            let number = |value: &Value| value.as_f64();
            if let (Some(mean), Some(low), Some(high)) =
                (number(&metric["mean"]), number(&metric["ci95"][0]), number(&metric["ci95"][1]))
            {
                print_line(format_args!("{prefix}{name:<12} {mean:.4}   {low:.4} to {high:.4}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_three_values_uses_student_t_with_two_degrees_of_freedom() {
        let (mean, deviation) = mean_and_deviation(&[0.90, 0.92, 0.94]);
        assert!((mean - 0.92).abs() < 1e-12 && (deviation - 0.02).abs() < 1e-12);
        // 4.303 · 0.02 / sqrt(3)
        assert!((student_t(2) * deviation / 3_f64.sqrt() - 0.049_686_8).abs() < 1e-5);
    }
}
