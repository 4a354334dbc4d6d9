//! A comparison of strategies, read from its `comparison.json`.

use std::fs;
use std::io;
use std::path::Path;

use retune_tasks::metrics::{Direction, Interval, Metric};
use serde::Deserialize;

use crate::ReportError;
use crate::run::folder_name;

/// What `retune compare-strategies` saw, and what it chose.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Comparison {
    /// The last part of its folder's path.
    #[serde(skip)]
    pub name: String,
    /// Checkpoints, the best first.
    pub models: Vec<Model>,
    pub metric: String,
    /// Validation samples.
    pub samples: u64,
    /// Steps of a whole run.
    pub steps: u64,
    /// The chosen one first.
    pub strategies: Vec<Strategy>,
    pub choice: Choice,
    pub seconds: f64,
    pub seconds_of_whole_runs: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Model {
    pub model: String,
    /// From the input to the head.
    pub cuts: Vec<Cut>,
}

/// What features below a layer group say about the task.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Cut {
    pub below: String,
    pub last_n: u64,
    pub linear_probe: f64,
    pub linear_probe_interval: Option<Interval>,
    pub nearest_neighbours: f64,
    pub log_evidence: Option<f64>,
    pub h_score: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Strategy {
    pub name: String,
    pub learning_rates: Vec<f64>,
    pub value: Option<f64>,
    pub interval: Option<Interval>,
    pub loss: Option<f64>,
    pub worst_class: Option<(String, f64)>,
    /// Of one run.
    pub seconds: f64,
    pub steps: u64,
    pub memory_bytes: u64,
    pub trained_parameters: u64,
    pub artifact_bytes: u64,
    pub dropped_at: Option<u64>,
    pub is_whole: bool,
    pub on_the_frontier: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Choice {
    pub name: String,
    pub reason: String,
}

impl Comparison {
    /// The comparison in a folder; `None` if there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>, ReportError> {
        let path = folder.join("comparison.json");
        let reading = |source| ReportError::Io { action: "read", path: path.clone(), source };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(reading(error)),
        };
        let read: Self = serde_json::from_str(&text).map_err(|error| reading(error.into()))?;
        Ok(Some(Self { name: folder_name(folder), ..read }))
    }

    /// The strategy that was chosen.
    pub fn chosen(&self) -> Option<&Strategy> {
        self.strategies.iter().find(|strategy| strategy.name == self.choice.name)
    }

    /// Whether one value of the metric is at least as good as another.
    pub fn as_good(&self, value: f64, other: f64) -> bool {
        match Metric::find(&self.metric).map(|metric| metric.direction) {
            Some(Direction::LowerIsBetter) => value <= other,
            _ if self.metric == "loss" => value <= other,
            _ => value >= other,
        }
    }
}

impl Model {
    /// The cut whose features classify best, by the linear probe, then by evidence.
    pub fn best_cut(&self) -> Option<&Cut> {
        let evidence = |cut: &Cut| cut.log_evidence.unwrap_or(f64::NEG_INFINITY);
        self.cuts.iter().max_by(|a, b| {
            a.linear_probe.total_cmp(&b.linear_probe).then(evidence(a).total_cmp(&evidence(b)))
        })
    }
}
