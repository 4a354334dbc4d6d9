//! The result in one sentence that a person can check, and what may be concluded from it.

use retune_tasks::metrics::{Direction, Interval, Metric};

use crate::format::{count, number, percent, percent_range};
use crate::run::{Kind, Run, Split};

/// Where a result stands against the simple predictors beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The whole interval is better than every baseline.
    AboveBaselines,
    /// A baseline lies inside the interval.
    WithinNoise,
    /// The whole interval is worse than a baseline.
    BelowBaseline,
    /// There is no baseline or no interval to compare with.
    Unknown,
}

/// The head of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The result with its interval and baselines.
    pub sentence: String,
    /// What may be concluded, and what may not.
    pub conclusion: String,
    /// The same as a value.
    pub standing: Standing,
}

/// The result's main number with what stands beside it.
pub(crate) struct MainResult {
    pub metric: &'static Metric,
    pub value: f64,
    pub interval: Option<Interval>,
    /// Display name and value of each baseline.
    pub baselines: Vec<(&'static str, f64)>,
}

/// The keys that baselines end in and what they are called.
pub(crate) const BASELINES: [(&str, &str); 3] =
    [("majority", "majority guess"), ("mean", "guessing the mean"), ("untrained_head", "untrained head")];

/// Metrics that a reader wants first; the others unfold.
pub(crate) fn is_main(kind: Kind, metric: &Metric) -> bool {
    let main: &[&str] = match kind {
        Kind::Classification => {
            &["accuracy", "balanced_accuracy", "f1", "f1_macro", "mcc", "auroc", "log_loss", "ece"]
        }
        Kind::MultiLabel => &[
            "f1_micro",
            "f1_macro",
            "subset_accuracy",
            "hamming_loss",
            "average_precision",
            "log_loss",
            "ece",
        ],
        Kind::Regression => &["rmse", "mae", "r2", "pearson", "spearman"],
    };
    main.contains(&metric.name)
}

impl MainResult {
    /// The number a task is judged by on `split`.
    pub fn of(run: &Run, split: Split) -> Option<MainResult> {
        let names: &[&str] = match run.kind() {
            Kind::Classification => &["accuracy", "f1_macro"],
            Kind::MultiLabel => &["f1_micro", "f1_macro", "subset_accuracy"],
            Kind::Regression => &["rmse", "mae", "mse"],
        };
        names.iter().find_map(|name| {
            let key = format!("{}{name}", split.prefix());
            Some(MainResult {
                metric: Metric::find(name)?,
                value: run.number(&key)?,
                interval: run.interval(&key),
                baselines: BASELINES
                    .iter()
                    .filter_map(|(suffix, title)| {
                        Some((*title, run.number(&format!("{key}_{suffix}_baseline"))?))
                    })
                    .collect(),
            })
        })
    }

    fn standing(&self) -> Standing {
        let Some(interval) = self.interval.filter(|_| !self.baselines.is_empty()) else {
            return Standing::Unknown;
        };
        let (worst, best) = match self.metric.direction {
            Direction::HigherIsBetter => (interval.low, interval.high),
            Direction::LowerIsBetter => (interval.high, interval.low),
        };
        if self.baselines.iter().all(|baseline| self.metric.better(worst, baseline.1)) {
            Standing::AboveBaselines
        } else if self.baselines.iter().any(|baseline| self.metric.better(baseline.1, best)) {
            Standing::BelowBaseline
        } else {
            Standing::WithinNoise
        }
    }
}

impl Verdict {
    /// The verdict on a run.
    pub fn of(run: &Run) -> Verdict {
        let result = run.result_split().and_then(|split| Some((split, MainResult::of(run, split)?)));
        let Some((split, result)) = result else { return without_result(run) };
        let samples = run.samples(split).map(|samples| format!("{} ", count(samples))).unwrap_or_default();
        let title = split.title();
        let mut sentence = match (run.kind(), result.metric.name) {
            (_, "accuracy") => {
                let interval = result.interval.map(|interval| percent_range(interval.low, interval.high));
                let interval = interval.map(|range| format!(" (95% interval {range})")).unwrap_or_default();
                format!("{} of {samples}{title} samples right{interval}", percent(result.value))
            }
            (Kind::Regression, _) => {
                let explained = run.number(&format!("{}r2", split.prefix())).filter(|share| *share > 0.0);
                let explained = explained
                    .map(|share| format!(", {} of the variance explained", percent(share)))
                    .unwrap_or_default();
                format!(
                    "{} {}{} on {samples}{title} samples{explained}",
                    result.metric.display_name,
                    number(result.value),
                    interval_text(result.interval)
                )
            }
            _ => {
                let exact = run.number(&format!("{}subset_accuracy", split.prefix()));
                let exact = exact
                    .map(|share| format!(", every label right for {}", percent(share)))
                    .unwrap_or_default();
                format!(
                    "{} {}{} on {samples}{title} samples{exact}",
                    result.metric.display_name,
                    number(result.value),
                    interval_text(result.interval)
                )
            }
        };
        for (name, value) in &result.baselines {
            let value = if result.metric.name == "accuracy" { percent(*value) } else { number(*value) };
            sentence.push_str(&format!(", {name} {value}"));
        }
        sentence.push('.');
        let standing = result.standing();
        let mut conclusion = match standing {
            Standing::AboveBaselines => {
                "The whole interval is better than every baseline: the model has learned the task.".to_owned()
            }
            Standing::WithinNoise => {
                "A baseline lies inside the interval: on this many samples the model is not \
                                      shown to be better than guessing."
                    .to_owned()
            }
            Standing::BelowBaseline => {
                "The whole interval is worse than a baseline: do not use this model.".to_owned()
            }
            Standing::Unknown => String::new(),
        };
        if split == Split::Validation {
            if !conclusion.is_empty() {
                conclusion.push(' ');
            }
            conclusion.push_str(
                "Measured on validation data, which also chose the checkpoint: expect somewhat less on new data.",
            );
        }
        Verdict { sentence, conclusion, standing }
    }
}

fn interval_text(interval: Option<Interval>) -> String {
    interval
        .map(|interval| format!(" (95% interval {}–{})", number(interval.low), number(interval.high)))
        .unwrap_or_default()
}

fn without_result(run: &Run) -> Verdict {
    let last = run.log.last_step();
    let sentence = match (&run.log.ended, run.log.started.as_ref().and_then(|started| started.total_steps)) {
        (Some(_), _) => format!("The run ended at step {} without a final evaluation.", count(last)),
        (None, Some(total)) => {
            format!("The run has not finished: step {} of at most {}.", count(last), count(total))
        }
        (None, None) => format!("The run has not finished: step {}.", count(last)),
    };
    let best = run.log.best.as_ref().and_then(|best| {
        let metric = Metric::find(&best.metric)?;
        let name = metric.display_name.to_lowercase();
        Some(format!("Best so far: validation {name} {} at step {}. ", number(best.value?), count(best.step)))
    });
    let conclusion = if run.log.ended.is_none() {
        "Nothing is known yet about data that was not used for choosing. It can be continued with retune resume."
    } else {
        "Nothing is known about data that was not used for choosing."
    };
    Verdict {
        sentence,
        conclusion: format!("{}{conclusion}", best.unwrap_or_default()),
        standing: Standing::Unknown,
    }
}
