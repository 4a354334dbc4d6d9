//! `log.jsonl` as a reader sees it: tolerant of fields it does not know, of fields that are missing and of a
//! last line that was never finished. Steps that a resumed run took again replace the first attempt.

use std::io::BufRead;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// One line of `log.jsonl`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run, or its continuation, began.
    RunStarted(RunStarted),
    /// A stage began.
    StageEntered(StageEntered),
    /// An optimizer step (or `logging_steps` of them) ended.
    StepEnded(StepEnded),
    /// An evaluation ended.
    EvalEnded(EvalEnded),
    /// What frozen layer groups computed, and what of it was found again.
    FeaturesCached(FeaturesCached),
    /// What was predicted before the first step, beside what the run took.
    ForecastCompared(ForecastCompared),
    /// A checkpoint is on disk.
    CheckpointWritten(CheckpointWritten),
    /// Something the user should know.
    Warning(Warning),
    /// The best model so far.
    BestModel(BestModel),
    /// The run came to its end.
    RunEnded(RunEnded),
    /// An event that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a run is, said when it starts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RunStarted {
    /// When, as text or as seconds since 1970.
    pub time: Value,
    /// Version of Retune.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Instruction set path of the kernels.
    #[serde(deserialize_with = "lenient")]
    pub isa: String,
    /// Threads used.
    #[serde(deserialize_with = "lenient")]
    pub threads: Option<u64>,
    /// The pretrained model.
    #[serde(deserialize_with = "lenient")]
    pub model: String,
    /// The task's name.
    #[serde(deserialize_with = "lenient")]
    pub task: String,
    /// Training samples.
    #[serde(deserialize_with = "lenient")]
    pub train_samples: Option<u64>,
    /// Validation samples.
    #[serde(deserialize_with = "lenient")]
    pub eval_samples: Option<u64>,
    /// Test samples.
    #[serde(deserialize_with = "lenient")]
    pub test_samples: Option<u64>,
    /// Steps of the longest possible run.
    #[serde(deserialize_with = "lenient")]
    pub total_steps: Option<u64>,
    /// Parameters of the model.
    #[serde(deserialize_with = "lenient")]
    pub parameters: Option<u64>,
    /// Seed of every random draw.
    #[serde(deserialize_with = "lenient")]
    pub seed: Option<u64>,
}

/// A span of training with one fixed set of trainable groups.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StageEntered {
    /// Number of the stage, from 0.
    pub stage: u64,
    /// Its name.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    /// Step at which it began.
    pub step: u64,
    /// Epoch at which it began.
    #[serde(deserialize_with = "lenient")]
    pub epoch: Option<f64>,
    /// Groups that train.
    #[serde(deserialize_with = "lenient")]
    pub trainable_groups: Vec<String>,
    /// Groups that do not.
    #[serde(deserialize_with = "lenient")]
    pub frozen_groups: Vec<String>,
    /// Parameters that train.
    #[serde(deserialize_with = "lenient")]
    pub trainable_parameters: Option<u64>,
    /// All parameters.
    #[serde(deserialize_with = "lenient")]
    pub total_parameters: Option<u64>,
}

/// One logged training step.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StepEnded {
    /// Number of the stage.
    #[serde(deserialize_with = "lenient")]
    pub stage: u64,
    /// Number of the step.
    pub step: u64,
    /// Epochs passed.
    #[serde(deserialize_with = "lenient")]
    pub epoch: Option<f64>,
    /// Training loss.
    #[serde(deserialize_with = "lenient")]
    pub loss: Option<f64>,
    /// Norm of the gradient before clipping.
    #[serde(deserialize_with = "lenient")]
    pub grad_norm: Option<f64>,
    /// Learning rate of each trainable group.
    #[serde(deserialize_with = "lenient")]
    pub learning_rates: Map<String, Value>,
    /// Tokens since the last logged step.
    #[serde(deserialize_with = "lenient")]
    pub tokens: Option<u64>,
    /// Samples since the last logged step.
    #[serde(deserialize_with = "lenient")]
    pub samples: Option<u64>,
    /// Seconds since the last logged step.
    #[serde(deserialize_with = "lenient")]
    pub seconds: Option<f64>,
}

/// One evaluation.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EvalEnded {
    /// Number of the stage.
    #[serde(deserialize_with = "lenient")]
    pub stage: u64,
    /// Step after which it ran.
    pub step: u64,
    /// Epochs passed.
    #[serde(deserialize_with = "lenient")]
    pub epoch: Option<f64>,
    /// `eval`, `test` or another split's name.
    #[serde(deserialize_with = "lenient")]
    pub split: String,
    /// Values by metric name, with or without a prefix.
    #[serde(deserialize_with = "lenient")]
    pub metrics: Map<String, Value>,
    /// How long it took.
    #[serde(deserialize_with = "lenient")]
    pub seconds: Option<f64>,
}

impl EvalEnded {
    /// The value of a metric, whatever prefix it was logged under.
    pub fn value(&self, name: &str) -> Option<f64> {
        let with_prefix =
            || ["eval_", "test_"].iter().find_map(|prefix| self.metrics.get(&format!("{prefix}{name}")));
        self.metrics.get(name).or_else(with_prefix)?.as_f64()
    }
}

/// What frozen layer groups computed in a while, and what of it was found again.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct FeaturesCached {
    /// The layer group below which all was frozen.
    #[serde(deserialize_with = "lenient")]
    pub below: String,
    /// Samples computed.
    #[serde(deserialize_with = "lenient")]
    pub computed: u64,
    /// Samples found.
    #[serde(deserialize_with = "lenient")]
    pub reused: u64,
    /// Seconds that computing the found ones would have taken, less those of looking up.
    #[serde(deserialize_with = "lenient")]
    pub saved_seconds: Option<f64>,
}

/// What was predicted before the first step, beside what the run took.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ForecastCompared {
    /// Seconds of a step, as predicted.
    #[serde(deserialize_with = "lenient")]
    pub predicted_step_seconds: Option<f64>,
    /// Seconds of a step.
    #[serde(deserialize_with = "lenient")]
    pub step_seconds: Option<f64>,
    /// Seconds of training with its evaluations, as predicted.
    #[serde(deserialize_with = "lenient")]
    pub predicted_seconds: Option<f64>,
    /// Seconds of training with its evaluations.
    #[serde(deserialize_with = "lenient")]
    pub seconds: Option<f64>,
    /// Most bytes in memory, as predicted.
    #[serde(deserialize_with = "lenient")]
    pub predicted_resident_bytes: Option<u64>,
    /// Most bytes in memory.
    #[serde(deserialize_with = "lenient")]
    pub resident_bytes: Option<u64>,
}

/// A checkpoint is on disk.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CheckpointWritten {
    /// Step after which it was written.
    pub step: u64,
    /// Where.
    #[serde(deserialize_with = "lenient")]
    pub path: String,
}

/// Something the user should know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Warning {
    /// A short name of the kind of warning.
    #[serde(deserialize_with = "lenient")]
    pub code: String,
    /// What a person reads.
    #[serde(deserialize_with = "lenient")]
    pub message: String,
}

/// The best model so far.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BestModel {
    /// Step after which it was measured.
    pub step: u64,
    /// The metric that chose it.
    #[serde(deserialize_with = "lenient")]
    pub metric: String,
    /// Its value.
    #[serde(deserialize_with = "lenient")]
    pub value: Option<f64>,
}

/// The run came to its end.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RunEnded {
    /// Last step.
    #[serde(deserialize_with = "lenient")]
    pub step: u64,
    /// Seconds from start to end.
    #[serde(deserialize_with = "lenient")]
    pub seconds: Option<f64>,
    /// Why it ended.
    #[serde(deserialize_with = "lenient")]
    pub reason: String,
}

/// A value of the wrong type (or null, as JSON has no NaN) becomes the default: one odd field does not cost
/// the reader the line.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

/// All of a log, sorted by kind, each in the order of steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunLog {
    /// The first start.
    pub started: Option<RunStarted>,
    /// How often the run was resumed.
    pub resumed: usize,
    /// Stages in order.
    pub stages: Vec<StageEntered>,
    /// Logged steps in order.
    pub steps: Vec<StepEnded>,
    /// Evaluations in order.
    pub evals: Vec<EvalEnded>,
    /// What the feature cache did, in order.
    pub features: Vec<FeaturesCached>,
    /// Predicted beside measured, if the run has reached its end.
    pub forecast: Option<ForecastCompared>,
    /// Checkpoints in order.
    pub checkpoints: Vec<CheckpointWritten>,
    /// Distinct warnings in order of appearance.
    pub warnings: Vec<Warning>,
    /// The last best model.
    pub best: Option<BestModel>,
    /// The end, if the run has reached it.
    pub ended: Option<RunEnded>,
    /// Lines that are no event, an unfinished last line included.
    pub unreadable_lines: usize,
}

impl RunLog {
    /// Reads a log to its end, line by line. Lines that cannot be read are counted, never fatal.
    ///
    /// # Errors
    /// When the underlying reader fails.
    pub fn read(reader: impl BufRead) -> std::io::Result<RunLog> {
        let mut log = RunLog::default();
        for line in reader.split(b'\n') {
            let line = line?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(event) => log.push(event),
                Err(_) => log.unreadable_lines += 1,
            }
        }
        Ok(log)
    }

    /// Adds an event. One at a step that was already passed replaces what came from there on: the run was
    /// resumed from an older checkpoint.
    pub fn push(&mut self, event: Event) {
        match event {
            Event::RunStarted(started) => {
                if self.started.is_some() {
                    self.resumed += 1;
                } else {
                    self.started = Some(started);
                }
                self.ended = None;
            }
            Event::StageEntered(stage) => {
                self.stages.retain(|earlier| earlier.stage < stage.stage);
                self.stages.push(stage);
            }
            Event::StepEnded(step) => {
                while self.steps.last().is_some_and(|earlier| earlier.step >= step.step) {
                    self.steps.pop();
                }
                self.steps.push(step);
            }
            Event::EvalEnded(eval) => {
                self.evals.retain(|earlier| earlier.split != eval.split || earlier.step < eval.step);
                self.evals.push(eval);
            }
            Event::FeaturesCached(features) => self.features.push(features),
            Event::ForecastCompared(forecast) => self.forecast = Some(forecast),
            Event::CheckpointWritten(checkpoint) => {
                self.checkpoints.retain(|earlier| earlier.step < checkpoint.step);
                self.checkpoints.push(checkpoint);
            }
            Event::Warning(warning) => {
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
            Event::BestModel(best) => self.best = Some(best),
            Event::RunEnded(ended) => self.ended = Some(ended),
            Event::Unknown => {}
        }
    }

    /// The last step that the log knows of.
    pub fn last_step(&self) -> u64 {
        let steps = self.steps.last().map(|step| step.step);
        let evals = self.evals.iter().map(|eval| eval.step).max();
        let ended = self.ended.as_ref().map(|ended| ended.step);
        steps.into_iter().chain(evals).chain(ended).max().unwrap_or(0)
    }

    /// Evaluations on validation data.
    pub fn validation(&self) -> impl Iterator<Item = &EvalEnded> {
        self.evals.iter().filter(|eval| matches!(eval.split.as_str(), "eval" | "validation" | "dev" | ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RunLog {
        RunLog::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_half_written_last_line_costs_only_itself() {
        let log = read("{\"event\":\"step_ended\",\"step\":1,\"loss\":0.5}\n{\"event\":\"step_en");
        assert_eq!((log.steps.len(), log.unreadable_lines), (1, 1));
    }

    #[test]
    fn bytes_that_are_no_text_are_counted() {
        let log = RunLog::read(&b"\xff\xfe\x00\n\n[1,2]\n\"x\"\n"[..]).unwrap();
        assert_eq!(log.unreadable_lines, 3);
    }

    #[test]
    fn unknown_events_and_fields_are_passed_over() {
        let log =
            read("{\"event\":\"coffee\"}\n{\"event\":\"step_ended\",\"step\":3,\"loss\":null,\"mood\":7}\n");
        assert_eq!(log.unreadable_lines, 0);
        assert_eq!(log.steps[0].loss, None);
    }

    #[test]
    fn a_field_of_the_wrong_type_does_not_cost_the_line() {
        let log = read("{\"event\":\"run_started\",\"model\":7,\"task\":\"t\",\"threads\":\"many\"}\n");
        let started = log.started.unwrap();
        assert_eq!((started.model.as_str(), started.task.as_str(), started.threads), ("", "t", None));
    }

    #[test]
    fn steps_taken_again_after_a_resume_replace_the_first_attempt() {
        let step =
            |step: u64, loss: f64| format!("{{\"event\":\"step_ended\",\"step\":{step},\"loss\":{loss}}}\n");
        let start = "{\"event\":\"run_started\"}\n";
        let text = [start, &step(1, 0.9), &step(2, 0.8), &step(3, 0.7), start, &step(2, 0.81)].concat();
        let log = read(&text);
        assert_eq!(
            log.steps.iter().map(|step| (step.step, step.loss)).collect::<Vec<_>>(),
            vec![(1, Some(0.9)), (2, Some(0.81))]
        );
        assert_eq!(log.resumed, 1);
    }
}
