//! A run folder read into memory, whatever of it exists.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use retune_tasks::metrics::{ClassScores, ConfusionMatrix, Interval, Metric};
use serde_json::{Map, Value};

use crate::ReportError;
use crate::log::RunLog;
use crate::predictions::SplitPredictions;

/// Everything a report is made from.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The folder as it was named.
    pub folder: PathBuf,
    /// The events of the run.
    pub log: RunLog,
    /// `metrics.json`, empty where it is missing.
    pub metrics: Map<String, Value>,
    /// One summary per file in `predictions/`.
    pub predictions: Vec<SplitPredictions>,
    /// `learning_rate.json`.
    pub learning_rate: Option<Value>,
    /// `load_report.json`.
    pub load_report: Option<Value>,
    /// `config.json`.
    pub config: Option<Value>,
    /// `recipe.lock.toml` as text.
    pub recipe_text: Option<String>,
    /// And as values, where it can be read.
    pub recipe: toml::Table,
    /// Files that exist but cannot be understood, with the reason.
    pub damaged: Vec<String>,
}

/// The last part of a folder's path, however it was named.
pub(crate) fn folder_name(folder: &Path) -> String {
    let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "run".into())
}

/// Which of the three kinds of task a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Classification,
    MultiLabel,
    Regression,
}

impl Run {
    /// Reads a run folder. Missing files are left out, damaged ones noted in [`Run::damaged`].
    ///
    /// # Errors
    /// When the folder does not exist or a file in it cannot be read at all.
    pub fn read(folder: &Path) -> Result<Run, ReportError> {
        if !folder.is_dir() {
            return Err(ReportError::NoRunFolder { path: folder.to_path_buf() });
        }
        let mut run = Run { folder: folder.to_path_buf(), ..Run::default() };
        if let Some(file) = open(&folder.join("log.jsonl"))? {
            run.log = RunLog::read(BufReader::new(file)).map_err(reading(&folder.join("log.jsonl")))?;
        }
        run.metrics = match run.json("metrics.json")? {
            Some(Value::Object(metrics)) => metrics,
            _ => Map::new(),
        };
        run.learning_rate = run.json("learning_rate.json")?;
        run.load_report = run.json("load_report.json")?;
        run.config = run.json("config.json")?;
        run.recipe_text = text(&folder.join("recipe.lock.toml"))?;
        if let Some(recipe) = &run.recipe_text {
            match recipe.parse() {
                Ok(recipe) => run.recipe = recipe,
                Err(error) => run.damaged.push(format!("recipe.lock.toml: {error}")),
            }
        }
        run.read_predictions()?;
        Ok(run)
    }

    fn read_predictions(&mut self) -> Result<(), ReportError> {
        let folder = self.folder.join("predictions");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(reading(&folder)(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(reading(&folder))?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let split = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            if let Some(file) = open(&path)? {
                let summary = SplitPredictions::read(&split, BufReader::new(file)).map_err(reading(&path))?;
                self.predictions.push(summary);
            }
        }
        Ok(())
    }

    fn json(&mut self, name: &str) -> Result<Option<Value>, ReportError> {
        let Some(text) = text(&self.folder.join(name))? else { return Ok(None) };
        match serde_json::from_str(&text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                self.damaged.push(format!("{name}: {error}"));
                Ok(None)
            }
        }
    }

    /// Whether its samples are pictures.
    pub(crate) fn is_image(&self) -> bool {
        self.recipe_value("data.image_column").is_some()
    }

    /// The last part of the folder's path.
    pub(crate) fn name(&self) -> String {
        folder_name(&self.folder)
    }

    /// A value of the recipe by its dotted path.
    pub(crate) fn recipe_value(&self, path: &str) -> Option<&toml::Value> {
        let mut keys = path.split('.');
        let mut value = self.recipe.get(keys.next()?)?;
        for key in keys {
            value = value.get(key)?;
        }
        Some(value)
    }

    /// A text of the recipe by its dotted path.
    pub(crate) fn recipe_str(&self, path: &str) -> Option<&str> {
        self.recipe_value(path)?.as_str()
    }

    /// Name of the pretrained model.
    pub(crate) fn base_model(&self) -> Option<&str> {
        self.recipe_str("model.name_or_path")
            .or_else(|| self.log.started.as_ref().map(|started| started.model.as_str()))
            .filter(|name| !name.is_empty())
    }

    /// Which kind of task this is, from what was measured.
    pub(crate) fn kind(&self) -> Kind {
        let has = |name: &str| self.metrics.keys().any(|key| key.ends_with(name));
        let problem =
            self.config.as_ref().and_then(|config| config.get("problem_type")).and_then(Value::as_str);
        let task = self.log.started.as_ref().map(|started| started.task.as_str()).unwrap_or_default();
        if problem == Some("multi_label_classification") || has("_subset_accuracy") || task.contains("multi")
        {
            Kind::MultiLabel
        } else if problem == Some("regression") || has("_rmse") || task.contains("regression") {
            Kind::Regression
        } else {
            Kind::Classification
        }
    }

    /// The split that the result is read from: test where there is one, else validation.
    pub(crate) fn result_split(&self) -> Option<Split> {
        [Split::Test, Split::Validation].into_iter().find(|split| {
            let prefix = split.prefix();
            self.metrics.iter().any(|(key, value)| {
                value.is_number() && key.strip_prefix(prefix).and_then(Metric::find).is_some()
            })
        })
    }

    /// A number of `metrics.json`.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.metrics.get(key)?.as_f64()
    }

    /// The 95% interval beside a metric.
    pub(crate) fn interval(&self, key: &str) -> Option<Interval> {
        let ends = self.metrics.get(&format!("{key}_ci95"))?.as_array()?;
        Some(Interval { low: ends.first()?.as_f64()?, high: ends.get(1)?.as_f64()? })
    }

    /// How many samples a split has.
    pub(crate) fn samples(&self, split: Split) -> Option<u64> {
        let measured = self.metrics.get(&format!("{}samples", split.prefix())).and_then(Value::as_u64);
        let started = self.log.started.as_ref().and_then(|started| match split {
            Split::Test => started.test_samples,
            Split::Validation => started.eval_samples,
        });
        measured.or_else(|| self.predictions_of(split).map(|rows| rows.labelled as u64)).or(started)
    }

    /// The predictions of a split.
    pub(crate) fn predictions_of(&self, split: Split) -> Option<&SplitPredictions> {
        self.predictions.iter().find(|rows| split.names().contains(&rows.split.as_str()))
    }

    /// The confusion matrix of a split, where it is well formed.
    pub(crate) fn confusion_matrix(&self, split: Split) -> Option<ConfusionMatrix> {
        let value = self.metrics.get(&format!("{}confusion_matrix", split.prefix()))?;
        let matrix: ConfusionMatrix = serde_json::from_value(value.clone()).ok()?;
        let classes = matrix.labels.len();
        let square = matrix.matrix.len() == classes && matrix.matrix.iter().all(|row| row.len() == classes);
        (square && classes > 0).then_some(matrix)
    }

    /// The per-class table of a split.
    pub(crate) fn per_class(&self, split: Split) -> Vec<ClassScores> {
        let value = self.metrics.get(&format!("{}per_class", split.prefix()));
        value.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
    }

    /// The metric that chose the best model, else the task's usual one.
    pub(crate) fn primary_metric(&self) -> Option<&'static Metric> {
        let chosen = self
            .log
            .best
            .as_ref()
            .map(|best| best.metric.as_str())
            .or_else(|| self.recipe_str("train.metric_for_best_model"))
            .and_then(Metric::find);
        chosen.or_else(|| {
            Metric::find(match self.kind() {
                Kind::Classification => "accuracy",
                Kind::MultiLabel => "f1_micro",
                Kind::Regression => "rmse",
            })
        })
    }
}

/// A part of the data that results are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    Test,
    Validation,
}

impl Split {
    /// What its keys in `metrics.json` start with.
    pub fn prefix(self) -> &'static str {
        match self {
            Split::Test => "test_",
            Split::Validation => "eval_",
        }
    }

    /// What a person reads.
    pub fn title(self) -> &'static str {
        match self {
            Split::Test => "test",
            Split::Validation => "validation",
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Split::Test => &["test"],
            Split::Validation => &["eval", "validation", "dev"],
        }
    }
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_path_buf();
    move |source| ReportError::Io { action: "read", path, source }
}

fn open(path: &Path) -> Result<Option<File>, ReportError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(reading(path)(error)),
    }
}

fn text(path: &Path) -> Result<Option<String>, ReportError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(reading(path)(error)),
    }
}
