//! Labels that may be wrong: a queue for a person to review, and the person's decisions applied.
//!
//! Every row is judged by a linear probe on the pretrained model's features that was fitted without it (cross-validation).
//! The queue is ordered by the margin between the given label and the best other one, and rows are marked by confident
//! learning (Northcutt, Jiang and Chuang 2021, <https://arxiv.org/abs/1911.00068>). Where a run kept its training dynamics,
//! rows are ordered by the mean of two ranks: by that margin, and by the area under the margin in training; by the second
//! alone where the run answers validation data better than the probe answers rows that it was not fitted on.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use retune_data::image::{ImageExample, Picture};
use retune_data::{
    DataError, Dataset, Example, LabelSet, ReadOptions, Roles, Row, SplitOptions, Table, Target, TextExample,
    Value, k_fold, read_table, write_table,
};
use serde::Serialize;

use crate::TrainError;
use crate::dynamics::{SampleDynamics, read_dynamics};
use crate::event::Event;
use crate::features::{FeatureCache, Prefix, pooled_features};
use crate::modality::ModalTrainee;
use crate::prepare::{PrepareOptions, Prepared, expand_folders, prepare};
use crate::probe::{Probe, Rows};
use crate::recipe::{Recipe, TestTime};
use crate::run_folder::RunFolder;
use crate::trainee::{Split, Trainee};

/// Penalties that are tried, the strongest first; the one with the least loss on held-out rows is taken.
const RIDGES: [f64; 3] = [1e-1, 1e-2, 1e-3];

/// One row of the data as cross-validation sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Its index in the dataset.
    pub sample: usize,
    /// Its line in the file.
    pub line: u64,
    /// The label that it has.
    pub label: String,
    /// The label that the probe prefers, other than the given one.
    pub suggested: String,
    /// The probability of the label that it has.
    pub confidence: f64,
    /// The probability of the suggested one.
    pub suggested_confidence: f64,
    /// Whether confident learning takes the label for wrong, or neither judge believes it.
    pub is_suspect: bool,
    /// What a run saw of it, if one was given and learned from it.
    pub dynamics: Option<SampleDynamics>,
}

impl Judged {
    /// How much more the probe believes the given label than the best other: from -1 to 1.
    pub fn margin(&self) -> f64 {
        self.confidence - self.suggested_confidence
    }
}

/// All rows of a training file, the most doubtful first.
#[derive(Clone, Debug)]
pub struct Review {
    /// The training file.
    pub path: PathBuf,
    /// The rows.
    pub queue: Vec<Judged>,
    /// The texts, or the pictures' names, by sample.
    contents: Vec<(String, Option<String>)>,
    /// The share of rows whose label the probe would have given, having been fitted without them.
    pub agreement: f64,
    /// The penalty that was chosen.
    pub ridge: f64,
    /// How a run whose dynamics were given answers validation data, if that is better than `agreement` beyond chance: then
    /// the queue is in its order.
    pub better_judge: Option<f64>,
}

impl Review {
    /// What a row says: its text, or its picture's name.
    pub fn content(&self, judged: &Judged) -> &str {
        self.contents.get(judged.sample).map_or("", |(text, _)| text)
    }

    /// The number of rows that confident learning marks.
    pub fn suspects(&self) -> usize {
        self.queue.iter().filter(|judged| judged.is_suspect).count()
    }

    /// Writes the first `rows` of the queue for a person to decide on, as CSV, TSV or JSON Lines by the file's name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, rows: usize) -> Result<(), TrainError> {
        let text = |text: &str| Value::Text(text.to_owned());
        let number = |value: f64| Value::Number((value * 1e4).round() / 1e4);
        let row = |judged: &Judged| {
            let (first, second) = &self.contents[judged.sample];
            vec![
                Value::Null,
                text(&judged.suggested),
                text(&judged.label),
                number(judged.confidence),
                number(judged.suggested_confidence),
                judged.dynamics.map_or(Value::Null, |seen| number(seen.area_under_margin)),
                judged.dynamics.map_or(Value::Null, |seen| Value::Integer(seen.forgetting_events.into())),
                Value::Bool(judged.is_suspect),
                Value::Integer(judged.line as i64),
                text(first),
                second.as_deref().map_or(Value::Null, text),
            ]
        };
        let table = Table {
            path: path.to_owned(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
            rows: (2..)
                .zip(self.queue.iter().take(rows))
                .map(|(line, judged)| Row { line, values: row(judged) })
                .collect(),
            findings: Vec::new(),
        };
        Ok(write_table(&table, path)?)
    }
}

/// The columns of a review file. A person fills in the first, and the second where the suggestion is not right either.
const COLUMNS: [&str; 11] = [
    "decision",
    "new_label",
    "label",
    "confidence",
    "new_label_confidence",
    "area_under_margin",
    "forgetting_events",
    "suspect",
    "line",
    "content",
    "content_pair",
];

/// Judges every row of a recipe's training file by `folds`-fold cross-validation, and by what a run on that file recorded of
/// it (`train.record_dynamics`), if its folder is given.
///
/// # Errors
/// As [`prepare`]; if the task is not a single-label classification; if there are too few rows for the folds; if the run
/// recorded nothing or learned from other rows.
pub fn review(
    recipe: &Recipe,
    options: &PrepareOptions,
    (folds, run): (usize, Option<&Path>),
    tell: &mut dyn FnMut(Event),
) -> Result<Review, TrainError> {
    let mut recipe = recipe.clone();
    expand_folders(&mut recipe, true)?;
    // All rows of the training file are judged, those held out for validation too; decisions are not judged again.
    recipe.data.validation = None;
    recipe.data.validation_split = None;
    recipe.data.test = None;
    recipe.data.review = None;
    // Nothing stands for a text here, and no command is asked about rows that a run holds out.
    recipe.augmentation.paraphrases = None;
    recipe.augmentation.paraphrase_command.clear();
    // Each picture is looked at once.
    recipe.augmentation.test_time = TestTime::None;
    let prepared = prepare(&recipe, options, tell)?;
    let split_options = SplitOptions {
        seed: recipe.train.seed,
        stratified: true,
        group_column: recipe.data.group_column.clone(),
        ..SplitOptions::default()
    };
    let reviewed = Reviewed::new(&prepared.trainee, folds, &split_options)?;
    let Some(labels) = &reviewed.classes else {
        return Err(TrainError::Setting(
            "only single-label classifications can be reviewed: here a row has several labels or numbers"
                .to_owned(),
        ));
    };
    let features = features(&prepared, &options.resolve.cache_dir)?;
    let rows = Rows { values: &features, width: features.len() / labels.len().max(1) };
    let cross = cross_validate(&prepared, rows, labels, &reviewed.folds)?;
    let mut found = judge(&reviewed, labels, &cross);
    if let Some(run) = run {
        add_dynamics(&mut found, run)?;
    }
    Ok(found)
}

/// Adds what a run saw to the rows, and orders them by both.
fn add_dynamics(review: &mut Review, run: &Path) -> Result<(), TrainError> {
    let known = read_dynamics(run)?;
    let mut matched = 0;
    for judged in &mut review.queue {
        judged.dynamics = known.get(&(judged.line, judged.label.clone())).copied();
        matched += usize::from(judged.dynamics.is_some());
    }
    if matched < known.len() {
        let problem = format!(
            "{} of the {} rows that it learned from stand in {} with that line and label; review the file that it was \
             trained on",
            matched,
            known.len(),
            review.path.display()
        );
        return Err(TrainError::run_folder(run, problem));
    }
    review.better_judge = validation_accuracy(run)?
        .filter(|(_, at_least)| *at_least > review.agreement)
        .map(|(accuracy, _)| accuracy);
    order_by_both(&mut review.queue, if review.better_judge.is_some() { 1.0 } else { 0.5 });
    Ok(())
}

/// The accuracy of a finished run on validation data, and the lower end of its interval.
fn validation_accuracy(run: &Path) -> Result<Option<(f64, f64)>, TrainError> {
    let metrics: Option<serde_json::Value> = RunFolder::open(run).read_json(RunFolder::METRICS)?;
    Ok(metrics
        .and_then(|metrics| metrics["eval_accuracy"].as_f64().zip(metrics["eval_accuracy_ci95"][0].as_f64())))
}

/// Orders a queue by two ranks: by the margin in cross-validation, and by the area under the margin in training, which has
/// this share. A row that the run did not learn from has its first rank for both.
fn order_by_both(queue: &mut [Judged], share: f64) {
    queue.sort_by(|a, b| a.margin().total_cmp(&b.margin()).then(a.sample.cmp(&b.sample)));
    let area = |judged: &Judged| judged.dynamics.map(|seen| seen.area_under_margin);
    let mut by_area: Vec<usize> = (0..queue.len()).filter(|&place| queue[place].dynamics.is_some()).collect();
    by_area.sort_by(|&a, &b| area(&queue[a]).partial_cmp(&area(&queue[b])).unwrap_or(Ordering::Equal));
    let scale = queue.len() as f64 / by_area.len().max(1) as f64;
    let mut ranks: Vec<f64> = (0..queue.len()).map(|place| place as f64).collect();
    for (rank, &place) in by_area.iter().enumerate() {
        ranks[place] += share * (rank as f64 * scale - ranks[place]);
    }
    for judged in queue.iter_mut() {
        let disbelieved = area(judged).is_some_and(|area| area < 0.0) && judged.margin() < 0.0;
        judged.is_suspect |= disbelieved;
    }
    let rank_of: HashMap<usize, f64> = queue.iter().map(|judged| judged.sample).zip(ranks).collect();
    let rank = |judged: &Judged| rank_of.get(&judged.sample).copied().unwrap_or(f64::INFINITY);
    queue.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then(a.sample.cmp(&b.sample)));
}

/// What is reviewed, whatever its modality.
struct Reviewed {
    path: PathBuf,
    labels: LabelSet,
    /// The class of each row, if every row has one.
    classes: Option<Vec<u32>>,
    lines: Vec<u64>,
    contents: Vec<(String, Option<String>)>,
    /// The rows that are held out together.
    folds: Vec<Vec<usize>>,
}

impl Reviewed {
    fn new(trainee: &ModalTrainee, folds: usize, options: &SplitOptions) -> Result<Self, DataError> {
        match trainee {
            ModalTrainee::Text(text) => {
                let Some(dataset) = text.splits[&Split::Train].rows.dataset() else {
                    return Err(DataError::Setting(
                        "data.stream keeps no texts to review; leave it out".to_owned(),
                    ));
                };
                let content = |example: &TextExample| (example.text.clone(), example.text_pair.clone());
                Self::of(dataset, dataset.examples.iter().map(content).collect(), folds, options)
            }
            ModalTrainee::Image(image) => {
                let dataset = &image.splits[&Split::Train];
                let content = |example: &ImageExample| (picture_name(&example.picture), None);
                Self::of(dataset, dataset.examples.iter().map(content).collect(), folds, options)
            }
        }
    }

    fn of<E: Example>(
        dataset: &Dataset<E>,
        contents: Vec<(String, Option<String>)>,
        folds: usize,
        options: &SplitOptions,
    ) -> Result<Self, DataError> {
        let class = |example: &E| match example.target() {
            Target::Class(class) => Some(*class),
            _ => None,
        };
        Ok(Self {
            path: dataset.path().to_owned(),
            labels: dataset.labels.clone(),
            classes: dataset.examples.iter().map(class).collect(),
            lines: dataset.examples.iter().map(Example::line).collect(),
            contents,
            folds: k_fold(dataset, folds, options)?.into_iter().map(|split| split.held_out).collect(),
        })
    }
}

/// A vector for each training sample, each column standardized: its features below the head, averaged over their rows.
fn features(prepared: &Prepared, cache_dir: &Path) -> Result<Vec<f32>, TrainError> {
    let Prepared { recipe, trainee, store, context, .. } = prepared;
    let Some(model) = trainee.cut() else {
        return Err(TrainError::Setting("this model has no features to review labels by".to_owned()));
    };
    let head = store.groups().len() - 1;
    let prefix = FeatureCache::of_evaluation(recipe, cache_dir)
        .below(context, (store, false), trainee, head)
        .unwrap_or_else(|| Arc::new(Prefix::nowhere(head)));
    let all: Vec<u32> = (0..trainee.samples(Split::Train) as u32).collect();
    let vectors = pooled_features(prepared, &prefix, model, (Split::Train, &all))?;
    Ok(Rows { values: &vectors, width: model.feature_width(head) }.standardized())
}

/// Probabilities of rows that were not fitted on.
struct CrossValidated {
    /// [rows, classes].
    probabilities: Vec<f64>,
    classes: usize,
    loss: f64,
    ridge: f64,
}

fn cross_validate(
    prepared: &Prepared,
    rows: Rows<'_>,
    labels: &[u32],
    held_out: &[Vec<usize>],
) -> Result<CrossValidated, TrainError> {
    let Some(cpu) = prepared.context.kernels() else {
        return Err(TrainError::Setting("this context does not compute".to_owned()));
    };
    let classes = prepared.task.outputs();
    let mut best: Option<CrossValidated> = None;
    for ridge in RIDGES {
        let mut probabilities = vec![0.0; labels.len() * classes];
        for held_out in held_out {
            let mut is_held_out = vec![false; labels.len()];
            held_out.iter().for_each(|&row| is_held_out[row] = true);
            let kept: Vec<usize> = (0..labels.len()).filter(|&row| !is_held_out[row]).collect();
            let (fitted, judged) = (rows.gather(&kept), rows.gather(held_out));
            let targets: Vec<u32> = kept.iter().map(|&row| labels[row]).collect();
            let probe = Probe::fit(cpu, Rows { values: &fitted, ..rows }, &targets, classes, ridge);
            let answers = probe.probabilities(cpu, Rows { values: &judged, ..rows });
            for (&row, answer) in held_out.iter().zip(answers.chunks_exact(classes)) {
                probabilities[row * classes..(row + 1) * classes].copy_from_slice(answer);
            }
        }
        let of_label = |(row, &label): (usize, &u32)| probabilities[row * classes + label as usize];
        let loss: f64 = labels.iter().enumerate().map(of_label).map(|p| -p.max(f64::MIN_POSITIVE).ln()).sum();
        if best.as_ref().is_some_and(|best| best.loss <= loss) {
            break;
        }
        best = Some(CrossValidated { probabilities, classes, loss, ridge });
    }
    best.ok_or_else(|| TrainError::Setting("there is nothing to review".to_owned()))
}

fn judge(reviewed: &Reviewed, labels: &[u32], cross: &CrossValidated) -> Review {
    let classes = cross.classes;
    let answer = |row: usize| &cross.probabilities[row * classes..(row + 1) * classes];
    let thresholds = mean_confidence(labels, cross);
    let name = |class: usize| reviewed.labels.name(class as u32).unwrap_or_default().to_owned();
    let mut queue = Vec::with_capacity(labels.len());
    let mut agreeing = 0;
    for (row, (&label, &line)) in labels.iter().zip(&reviewed.lines).enumerate() {
        let label = label as usize;
        let answer = answer(row);
        let others = (0..classes).filter(|&class| class != label);
        let suggested = others.max_by(|&a, &b| answer[a].total_cmp(&answer[b])).unwrap_or(label);
        agreeing += usize::from(answer[label] > answer[suggested]);
        queue.push(Judged {
            sample: row,
            line,
            label: name(label),
            suggested: name(suggested),
            confidence: answer[label],
            suggested_confidence: answer[suggested],
            is_suspect: confident_class(answer, &thresholds).is_some_and(|class| class != label),
            dynamics: None,
        });
    }
    queue.sort_by(|a, b| a.margin().total_cmp(&b.margin()).then(a.sample.cmp(&b.sample)));
    Review {
        path: reviewed.path.clone(),
        agreement: agreeing as f64 / labels.len().max(1) as f64,
        contents: reviewed.contents.clone(),
        queue,
        ridge: cross.ridge,
        better_judge: None,
    }
}

/// For each class the mean confidence in it over the rows that have it: how sure is sure enough.
fn mean_confidence(labels: &[u32], cross: &CrossValidated) -> Vec<f64> {
    let mut sums = vec![(0.0, 0_usize); cross.classes];
    for (row, &label) in labels.iter().enumerate() {
        let (sum, count) = &mut sums[label as usize];
        *sum += cross.probabilities[row * cross.classes + label as usize];
        *count += 1;
    }
    sums.into_iter().map(|(sum, count)| if count > 0 { sum / count as f64 } else { f64::INFINITY }).collect()
}

/// The most probable of the classes whose probability reaches their threshold.
fn confident_class(answer: &[f64], thresholds: &[f64]) -> Option<usize> {
    let confident = (0..answer.len()).filter(|&class| answer[class] >= thresholds[class]);
    confident.max_by(|&a, &b| answer[a].total_cmp(&answer[b]))
}

/// A picture's file by its full path, whatever folder the recipe was run in; else what messages call it.
fn picture_name(picture: &Picture) -> String {
    let path = picture.path().and_then(|path| std::fs::canonicalize(path).ok());
    path.map_or_else(|| picture.to_string(), |path| path.display().to_string())
}

/// What a person's decisions did to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub kept: usize,
    pub relabelled: usize,
    pub dropped: usize,
    pub undecided: usize,
}

impl std::fmt::Display for Applied {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kept, relabelled, dropped, undecided } = self;
        write!(
            formatter,
            "review: {relabelled} relabelled, {dropped} dropped, {kept} kept as they are, {undecided} not decided"
        )
    }
}

/// Applies the decisions of a review file to the training table.
///
/// `decision` is `keep`, `drop`, `relabel` (to `new_label`), or empty: not decided, kept.
///
/// # Errors
/// If a decision is another word, or the row that it speaks of does not say what it said when it was reviewed.
pub(crate) fn apply(path: &Path, table: &mut Table, roles: &Roles) -> Result<Applied, TrainError> {
    let options = ReadOptions { has_header: Some(true), ..ReadOptions::default() };
    let decisions = read_table(path, &options)?;
    let column = |name: &str| decisions.column_index(name);
    let (decision, new_label, label, line, content) =
        (column("decision")?, column("new_label")?, column("label")?, column("line")?, column("content")?);
    let Some(&label_column) = roles.labels.first().filter(|_| roles.labels.len() == 1) else {
        return Err(TrainError::Setting(format!(
            "data.review = \"{}\" needs one column of labels",
            path.display()
        )));
    };
    let mut applied = Applied::default();
    let mut dropped = std::collections::HashSet::new();
    for row in &decisions.rows {
        let refuse =
            |problem: String| TrainError::Setting(format!("{}:{}: {problem}", path.display(), row.line));
        let cell = |column: usize| row.values[column].as_text().unwrap_or_default().trim().to_owned();
        let word = cell(decision).to_lowercase();
        if word.is_empty() {
            applied.undecided += 1;
            continue;
        }
        let wanted: u64 =
            cell(line).parse().map_err(|_| refuse(format!("line \"{}\" is no line", cell(line))))?;
        let place = table.rows.iter().position(|row| row.line == wanted);
        let place =
            place.ok_or_else(|| refuse(format!("{} has no row on line {wanted}", table.path.display())))?;
        let found = &mut table.rows[place];
        let says = |column: usize| match &found.values[column] {
            Value::Picture(picture) => picture_name(picture),
            value => value.as_text().unwrap_or_default().trim().to_owned(),
        };
        if says(roles.content) != cell(content) || says(label_column) != cell(label) {
            return Err(refuse(format!(
                "{}:{wanted} has another content or label than when it was reviewed; review it anew",
                table.path.display()
            )));
        }
        match word.as_str() {
            "keep" => applied.kept += 1,
            "drop" => {
                applied.dropped += 1;
                dropped.insert(place);
            }
            "relabel" if cell(new_label).is_empty() => {
                return Err(refuse("the decision is \"relabel\", but new_label is empty".to_owned()));
            }
            "relabel" => {
                applied.relabelled += 1;
                found.values[label_column] = Value::Text(cell(new_label));
            }
            other => {
                return Err(refuse(format!(
                    "\"{other}\" is no decision; write keep, drop, relabel, or nothing"
                )));
            }
        }
    }
    let mut place = 0;
    table.rows.retain(|_| {
        place += 1;
        !dropped.contains(&(place - 1))
    });
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_ordered_by_both_ranks_and_a_label_that_neither_judge_believes_is_suspect() {
        let judged = |sample: usize, confidence: f64, area: Option<f64>| Judged {
            sample,
            line: sample as u64,
            label: "a".to_owned(),
            suggested: "b".to_owned(),
            confidence,
            suggested_confidence: 1.0 - confidence,
            is_suspect: false,
            dynamics: area.map(|area_under_margin| SampleDynamics {
                area_under_margin,
                forgetting_events: 0,
                learned: false,
                passes: 1,
            }),
        };
        let mut queue = vec![
            judged(0, 0.1, Some(2.0)),
            judged(1, 0.2, Some(-3.0)),
            judged(2, 0.9, Some(5.0)),
            judged(3, 0.05, None),
        ];
        // By margin 3, 0, 1, 2; by area 1, 0, 2, whose ranks are stretched over four rows.
        let order = |queue: &[Judged]| queue.iter().map(|judged| judged.sample).collect::<Vec<_>>();
        order_by_both(&mut queue, 1.0);
        assert_eq!(order(&queue), [1, 3, 0, 2]);
        order_by_both(&mut queue, 0.5);
        assert_eq!(order(&queue), [3, 1, 0, 2]);
        assert_eq!(
            queue.iter().map(|judged| judged.is_suspect).collect::<Vec<_>>(),
            [false, true, false, false]
        );
    }

    #[test]
    fn a_class_is_confident_from_the_mean_of_its_own_rows_on() {
        let cross = CrossValidated {
            probabilities: vec![0.9, 0.1, 0.7, 0.3, 0.4, 0.6],
            classes: 2,
            loss: 0.0,
            ridge: 0.1,
        };
        let thresholds = mean_confidence(&[0, 0, 1], &cross);
        assert!((thresholds[0] - 0.8).abs() < 1e-12 && (thresholds[1] - 0.6).abs() < 1e-12);
        assert_eq!(confident_class(&[0.85, 0.15], &thresholds), Some(0));
        assert_eq!(confident_class(&[0.7, 0.3], &thresholds), None);
        assert_eq!(confident_class(&[0.3, 0.7], &thresholds), Some(1));
    }
}
