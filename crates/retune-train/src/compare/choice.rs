//! What strategies came to, and which one to take, with the reason in words.

use std::path::{Path, PathBuf};

use retune_tasks::metrics::Interval;
use serde::Serialize;
use serde_json::Value;

use super::arm::Arm;
use crate::TrainError;
use crate::recipe::Method;
use crate::trainee::Split;

/// What one strategy came to. Quality is the mean over seeds, on validation data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StrategyResult {
    /// What a table calls it.
    pub name: String,
    /// The strategy.
    pub method: Method,
    /// The depth of `last_n`.
    pub last_n: Option<usize>,
    /// The base learning rate of each seed's run.
    pub learning_rates: Vec<f64>,
    /// The metric of the best model.
    pub value: f64,
    /// Its 95% interval, if the run is whole: how far other validation data would agree.
    pub interval: Option<Interval>,
    /// The loss of the best model.
    pub loss: f64,
    /// The class that is recognized worst, and the share of it that is recognized.
    pub worst_class: Option<(String, f64)>,
    /// Seconds of a run, preparation and the search for a learning rate included.
    pub seconds: f64,
    /// Optimizer steps made.
    pub steps: u64,
    /// Bytes that its largest step takes, by the plan.
    pub memory_bytes: u64,
    /// Values that train, in the stage that trains the most.
    pub trained_parameters: usize,
    /// Bytes of what must be stored beside the pretrained checkpoint: all weights, or the adapter and the head.
    pub artifact_bytes: u64,
    /// The step after which it was dropped.
    pub dropped_at: Option<u64>,
    /// Whether its run came to its end.
    pub is_whole: bool,
    /// Whether no other whole run is at least as good in quality, time, memory and trained parameters and better in one.
    pub on_the_frontier: bool,
    /// The folders of its runs.
    pub folders: Vec<PathBuf>,
}

/// The strategy to take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Its name in the table.
    pub name: String,
    /// The strategy.
    pub method: Method,
    /// The depth of `last_n`.
    pub last_n: Option<usize>,
    /// The base learning rate of its first run.
    pub learning_rate: f64,
    /// Why, in sentences that the table proves.
    pub reason: String,
}

/// Takes the best whole run, or one that takes less time and is within one standard error of it on the same validation rows
/// (the rule of Breiman et al. 1984). `arms` are in the order of `results`, the best first.
pub(super) fn choose(
    mut results: Vec<StrategyResult>,
    arms: &[Arm],
    metric: &str,
) -> Result<(Vec<StrategyResult>, Choice), TrainError> {
    mark_frontier(&mut results);
    // Where the time ran out nothing is whole, and what was seen so far decides.
    let best = results.iter().position(|result| result.is_whole).unwrap_or(0);
    let best_rows = rows_of(&arms[best])?;
    let mut candidates = vec![(best, None)];
    for (place, result) in results.iter().enumerate() {
        if place == best || !result.is_whole {
            continue;
        }
        let gap = Gap::between(&best_rows, &rows_of(&arms[place])?);
        if gap.is_some_and(Gap::is_within_noise) {
            candidates.push((place, gap));
        }
    }
    let chosen = candidates.iter().min_by(|a, b| results[a.0].seconds.total_cmp(&results[b.0].seconds));
    let (place, gap) = chosen.copied().unwrap_or((best, None));
    let reason = reason(&results, (best, place), gap, metric);
    let result = results.remove(place);
    let choice = Choice {
        name: result.name.clone(),
        method: result.method,
        last_n: result.last_n,
        learning_rate: result.learning_rates.first().copied().unwrap_or(0.0),
        reason,
    };
    results.insert(0, result);
    Ok((results, choice))
}

fn mark_frontier(results: &mut [StrategyResult]) {
    let whole: Vec<StrategyResult> = results.iter().filter(|result| result.is_whole).cloned().collect();
    // The results are sorted by quality, so that a place says how good one is in the metric's own direction.
    let costs = |result: &StrategyResult| {
        [result.seconds, result.memory_bytes as f64, result.trained_parameters as f64]
    };
    for result in results.iter_mut().filter(|result| result.is_whole) {
        let place = |name: &str| whole.iter().position(|other| other.name == name);
        let own_place = place(&result.name);
        let beaten = whole.iter().any(|other| {
            other.name != result.name
                && (place(&other.name) < own_place || other.value == result.value)
                && costs(other).iter().zip(costs(result)).all(|(other, own)| *other <= own)
        });
        result.on_the_frontier = !beaten;
    }
}

/// What validation rows say of a run: whether each is right, or, where no answer is right or wrong, its loss.
struct Rows(Vec<f64>);

/// How much worse one run is than another on the same rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gap {
    mean: f64,
    standard_error: f64,
}

impl Gap {
    fn between(best: &Rows, other: &Rows) -> Option<Self> {
        let count = best.0.len();
        if count < 2 || count != other.0.len() {
            return None;
        }
        let gaps: Vec<f64> = best.0.iter().zip(&other.0).map(|(best, other)| other - best).collect();
        let mean = gaps.iter().sum::<f64>() / count as f64;
        let squares: f64 = gaps.iter().map(|gap| (gap - mean).powi(2)).sum();
        Some(Self { mean, standard_error: (squares / (count - 1) as f64 / count as f64).sqrt() })
    }

    fn is_within_noise(self) -> bool {
        self.mean <= self.standard_error
    }
}

/// The errors (1 where wrong, or the loss) of an arm's validation rows, seed after seed. Empty where a run is not whole.
fn rows_of(arm: &Arm) -> Result<Rows, TrainError> {
    let mut errors = Vec::new();
    for folder in arm.folders() {
        errors.extend(read_errors(folder)?);
    }
    Ok(Rows(errors))
}

fn read_errors(folder: &Path) -> Result<Vec<f64>, TrainError> {
    let path = folder.join("predictions").join(format!("{}.jsonl", Split::Validation.name()));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io(&path)(error)),
    };
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line)
                .map_err(|error| TrainError::run_folder(&path, format!("cannot be read: {error}")))?;
            Ok(match (&row["target"], &row["prediction"]) {
                (Value::String(target), Value::String(prediction)) => {
                    f64::from(u8::from(target != prediction))
                }
                _ => row["loss"].as_f64().unwrap_or(f64::NAN),
            })
        })
        .collect()
}

fn reason(
    results: &[StrategyResult],
    (best, chosen): (usize, usize),
    gap: Option<Gap>,
    metric: &str,
) -> String {
    let show = |result: &StrategyResult| match result.interval {
        Some(interval) => {
            format!("{metric} {:.3} ({:.3} to {:.3})", result.value, interval.low, interval.high)
        }
        None => format!("{metric} {:.3}", result.value),
    };
    let (best, own) = (&results[best], &results[chosen]);
    let mut text = match gap {
        None => format!("{} has the best {}", own.name, show(own)),
        Some(gap) => format!(
            "{} reaches {}, where the best, {}, reaches {}: on the same validation rows it errs {:+.3} ± {:.3} more, which is \
             within one standard error, and it takes {:.0} s a run instead of {:.0} s",
            own.name,
            show(own),
            best.name,
            show(best),
            gap.mean,
            gap.standard_error,
            own.seconds,
            best.seconds
        ),
    };
    if gap.is_none() {
        let next = results.iter().enumerate().find(|(place, other)| *place != chosen && other.is_whole);
        if let Some((_, next)) = next {
            text.push_str(&format!(
                "; {} comes next with {} in {:.0} s instead of {:.0} s, and is not within one standard error on the \
                 same rows, or no faster",
                next.name,
                show(next),
                next.seconds,
                own.seconds
            ));
        }
    }
    let dropped: Vec<String> = results
        .iter()
        .filter_map(|result| {
            Some(format!("{} after {} steps at {:.3}", result.name, result.dropped_at?, result.value))
        })
        .collect();
    if !dropped.is_empty() {
        text.push_str(&format!(". Dropped early: {}", dropped.join(", ")));
    }
    if !own.is_whole {
        text.push_str(". No run came to its end within the budget: this is where they stood");
    }
    text.push('.');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, value: f64, seconds: f64, memory_bytes: u64) -> StrategyResult {
        StrategyResult {
            name: name.to_owned(),
            method: Method::Full,
            last_n: None,
            learning_rates: vec![1e-4],
            value,
            interval: None,
            loss: 0.0,
            worst_class: None,
            seconds,
            steps: 8,
            memory_bytes,
            trained_parameters: 1,
            artifact_bytes: 4,
            dropped_at: None,
            is_whole: true,
            on_the_frontier: false,
            folders: Vec::new(),
        }
    }

    #[test]
    fn a_run_is_on_the_frontier_unless_another_is_as_good_in_everything() {
        let mut results = vec![
            result("best", 0.9, 100.0, 50),
            result("dearer", 0.8, 100.0, 60),
            result("faster", 0.7, 10.0, 60),
            result("twin", 0.7, 11.0, 60),
        ];
        mark_frontier(&mut results);
        let marked: Vec<bool> = results.iter().map(|result| result.on_the_frontier).collect();
        assert_eq!(marked, [true, false, true, false]);
    }

    #[test]
    fn a_gap_is_paired_by_row() {
        // Four rows; the other run errs on one more: mean 1/4, variance of (1, 0, 0, 0) is 1/4, over 4 rows 1/16.
        let gap = Gap::between(&Rows(vec![0.0, 1.0, 0.0, 0.0]), &Rows(vec![1.0, 1.0, 0.0, 0.0])).unwrap();
        assert_eq!(gap, Gap { mean: 0.25, standard_error: 0.25 });
        assert!(gap.is_within_noise());
        assert_eq!(Gap::between(&Rows(vec![0.0; 3]), &Rows(vec![0.0; 4])), None);
    }
}
