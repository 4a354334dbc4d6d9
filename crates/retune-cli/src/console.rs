//! What a person sees while a run goes on: a progress bar on a terminal, plain lines where output is piped.
//!
//! Progress and messages go to standard error, results to standard output.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use retune::train::{Event, ForecastComparison, Listener, TrainError};

use crate::format::{bytes, count, duration, learning_rate as rate, learning_rates, parameters};

/// Why a command failed, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The message.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        Self { message: error.to_string(), code: error.exit_code() }
    }
}

impl Failure {
    /// Wrong use of the command line: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// Something that should have worked did not: exit code 1.
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self { message: error.to_string(), code: 1 }
    }
}

/// Tells notes and warnings on standard error, for a command that has nothing else to show while it prepares.
pub fn tell(event: Event) {
    match event {
        Event::Note { message } => eprintln!("{message}"),
        Event::Warning { message, .. } => eprintln!("warning: {message}"),
        _ => {}
    }
}

/// Prints a failure to standard error.
pub fn print_error(failure: &Failure) {
    eprintln!("error: {}", failure.message);
}

/// Prints a line of a result to standard output. A reader that has gone away (`| head`) is no error.
pub fn print_line(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A progress bar for work that has no events; nothing where output is piped.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Progress over `total` things called `unit`.
    pub fn new(total: u64, unit: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(total);
        let template = format!("{{bar:30.cyan/dim}} {{pos}}/{{len}} {unit}  {{per_sec}}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━━─"));
        }
        Self(Some(bar))
    }

    /// `count` more are done.
    pub fn advance(&self, count: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(count);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows a run's events.
pub struct Console {
    bar: Option<ProgressBar>,
    total_steps: u64,
}

impl Console {
    /// A console for a run that has not begun.
    pub fn new() -> Self {
        Self { bar: None, total_steps: 0 }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// The total is known when the run starts; a resumed run tells it with its first step.
    fn start_bar(&mut self, total_steps: u64) {
        self.total_steps = total_steps;
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(total_steps);
        let style = ProgressStyle::with_template(
            "{bar:30.cyan/dim} {pos}/{len} steps  {msg}  {elapsed} elapsed, {eta} left",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Predicted beside measured, in a line.
fn forecast_line(compared: &ForecastComparison) -> String {
    let ForecastComparison { predicted_step_seconds, step_seconds, predicted_seconds, seconds, .. } =
        compared;
    let memory = |resident: Option<u64>| {
        resident.map_or_else(String::new, |resident| format!(", {} resident", bytes(resident)))
    };
    format!(
        "predicted {predicted_step_seconds:.3} s a step, {} in all{}; measured {step_seconds:.3} s, {}{}",
        duration(*predicted_seconds),
        memory(compared.predicted_resident_bytes),
        duration(*seconds),
        memory(compared.resident_bytes),
    )
}

fn percent_or_number(name: &str, value: f64) -> String {
    if matches!(name, "loss" | "mse" | "mae" | "rmse" | "log_loss") {
        format!("{name} {value:.4}")
    } else {
        format!("{name} {value:.3}")
    }
}

impl Listener for Console {
    fn on_event(&mut self, event: &Event) {
        match event {
            Event::RunStarted(run) => {
                self.say(&format!(
                    "{}: {} parameters; {} training, {} validation, {} test samples; {} threads, {}",
                    run.model,
                    parameters(run.parameters),
                    run.train_samples,
                    run.eval_samples,
                    run.test_samples,
                    run.threads,
                    run.isa,
                ));
                self.start_bar(run.total_steps);
            }
            Event::RunResumed { step, total_steps } => {
                self.say(&format!("going on from step {step} of {total_steps}"));
                self.start_bar(*total_steps);
            }
            Event::StageEntered {
                name, trainable_parameters, total_parameters, trainable_groups, ..
            } => {
                self.say(&format!(
                    "stage {name}: training {} of {} parameters in {} layer groups",
                    parameters(*trainable_parameters),
                    parameters(*total_parameters),
                    trainable_groups.len(),
                ));
            }
            Event::StepEnded { step, epoch, loss, learning_rates, samples, seconds, .. } => {
                let learning_rate = learning_rates.values().copied().fold(0.0, f64::max);
                let rate = *samples as f64 / seconds.max(1e-9);
                let text = format!("loss {loss:.4}  learning rate {learning_rate:.2e}  {rate:.1} samples/s");
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(*step);
                        bar.set_message(text);
                    }
                    None => {
                        let total = if self.total_steps > 0 {
                            format!("/{}", self.total_steps)
                        } else {
                            String::new()
                        };
                        eprintln!("step {step}{total}  epoch {epoch:.2}  {text}");
                    }
                }
            }
            Event::EvalEnded { step, epoch, split, metrics, .. } => {
                let shown: Vec<String> =
                    ["loss", "accuracy", "f1_macro", "f1_micro", "mcc", "mse", "pearson"]
                        .iter()
                        .filter_map(|&name| Some(percent_or_number(name, metrics.get(name)?.as_f64()?)))
                        .collect();
                self.say(&format!("{split} at step {step} (epoch {epoch:.2}): {}", shown.join("  ")));
            }
            Event::FeaturesCached { below, computed, reused, saved_seconds, .. } => {
                let saved = saved_seconds.filter(|seconds| *seconds >= 0.1);
                let saved = saved.map_or_else(String::new, |seconds| {
                    format!("; about {} of computing saved", duration(seconds))
                });
                self.say(&format!(
                    "features below {below}: {} computed, {} reused{saved}",
                    count(*computed as usize),
                    count(*reused as usize)
                ));
            }
            Event::LearningRateFound { learning_rate, low, high, steps, seconds } => {
                self.say(&format!(
                    "learning rate {} found in {steps} steps ({}); within noise of the best: {}",
                    rate(*learning_rate),
                    duration(*seconds),
                    learning_rates([*low, *high].into_iter()),
                ));
            }
            Event::ForecastCompared(compared) => self.say(&forecast_line(compared)),
            Event::Warning { message, .. } => self.say(&format!("warning: {message}")),
            Event::Note { message } => self.say(message),
            Event::RunEnded { .. } => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
            }
            Event::BatchSplit { .. } | Event::BestModel { .. } | Event::CheckpointWritten { .. } => {}
        }
    }
}
