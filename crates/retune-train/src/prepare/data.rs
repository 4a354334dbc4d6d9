//! From a recipe's data files to datasets and the task, the same for every modality.

use std::collections::BTreeMap;
use std::path::Path;

use retune_data::image::{PictureOptions, check_pictures, open_pictures};
use retune_data::{
    CheckOptions, DataError, Dataset, DatasetOptions, Example, Finding, LabelSet, Modality, OnMissing,
    ReadOptions, RoleOverrides, Roles, Severity, SplitOptions, Table, TargetKind, check_groups, check_splits,
    check_table, hold_out, hold_out_latest, infer_roles, k_fold, read_table,
};
use retune_tasks::{ClassificationTask, ProblemType};

use crate::TrainError;
use crate::data_check::apply_missing_policy;
use crate::event::Event;
use crate::prepare::available_threads;
use crate::recipe::{BadRowPolicy, ClassWeights, MissingPolicy, NearCopies, Recipe};
use crate::review;
use crate::trainee::Split;

/// The reading options of a recipe.
pub fn read_options(recipe: &Recipe) -> Result<ReadOptions, TrainError> {
    let data = &recipe.data;
    let format = match data.format.as_deref() {
        None => None,
        Some(name) => Some(name.parse().map_err(TrainError::Data)?),
    };
    let delimiter = match data.delimiter.as_deref() {
        None => None,
        Some("\\t" | "tab") => Some(b'\t'),
        Some(text) if text.len() == 1 => text.bytes().next(),
        Some(text) => {
            return Err(TrainError::Setting(format!(
                "data.delimiter = \"{text}\" must be one ASCII character"
            )));
        }
    };
    let on_bad_row = match data.on_bad_row {
        BadRowPolicy::Refuse => retune_data::OnBadRow::Refuse,
        BadRowPolicy::Skip => retune_data::OnBadRow::Skip,
    };
    Ok(ReadOptions {
        format,
        delimiter,
        has_header: data.has_header,
        columns: data.columns.clone(),
        encoding: data.encoding.clone(),
        on_bad_row,
        fill_missing: data.fill_missing.clone(),
        drop_missing: data.drop_missing.clone(),
        refuse_missing: data.refuse_missing.clone(),
        ..ReadOptions::default()
    })
}

/// The roles that a recipe gives to columns.
pub(crate) fn role_overrides(recipe: &Recipe) -> RoleOverrides {
    RoleOverrides {
        modality: Modality::Text,
        image_column: recipe.data.image_column.clone(),
        text_column: recipe.data.text_column.clone(),
        text_pair_column: recipe.data.text_pair_column.clone(),
        label_columns: recipe
            .data
            .label_column
            .as_ref()
            .map_or_else(Vec::new, |columns| columns.names().to_vec()),
        id_column: recipe.data.id_column.clone(),
        target_kind: recipe.task.problem_type.map(ProblemType::target_kind),
        label_separator: recipe.data.label_separator,
        unlabelled: false,
    }
}

impl From<MissingPolicy> for OnMissing {
    fn from(policy: MissingPolicy) -> Self {
        match policy {
            MissingPolicy::Refuse => Self::Refuse,
            MissingPolicy::Drop => Self::Drop,
        }
    }
}

/// The tables of a recipe's splits with their roles.
pub(super) struct Tables {
    pub(super) tables: BTreeMap<Split, (Table, Roles)>,
    pub(super) findings: Vec<Finding>,
}

/// Reads one data file or folder and finds out what its columns are for.
pub(crate) fn read_with_roles(
    path: &Path,
    options: &ReadOptions,
    overrides: &RoleOverrides,
) -> Result<(Table, Roles), TrainError> {
    let table = read_table(path, options)?;
    let roles = infer_roles(&table, overrides)?;
    Ok((table, roles))
}

/// Refuses training data without labels.
pub(crate) fn require_labels(table: &Table, roles: &Roles) -> Result<(), TrainError> {
    if !roles.labels.is_empty() {
        return Ok(());
    }
    let path = table.path.display();
    Err(TrainError::Setting(if table.path.is_dir() {
        format!("{path} holds pictures without labels: put those of each class into a folder of its own")
    } else {
        format!(
            "{path} has no column that looks like a label; name it with data.label_column. Its columns are {}",
            table.columns.join(", ")
        )
    }))
}

/// The training data that a recipe names.
pub(crate) fn training_path(recipe: &Recipe) -> Result<&Path, TrainError> {
    recipe
        .data
        .train
        .as_deref()
        .map(Path::new)
        .ok_or_else(|| TrainError::Setting("data.train is missing: name the file to train on".to_owned()))
}

/// Reads and checks the data files of a recipe. Pictures are opened.
pub(super) fn read_tables(
    recipe: &Recipe,
    modality: Modality,
    threads: usize,
    tell: &mut dyn FnMut(Event),
) -> Result<Tables, TrainError> {
    let options = read_options(recipe)?;
    let overrides = RoleOverrides { modality, ..role_overrides(recipe) };
    let (mut train, roles) = read_with_roles(training_path(recipe)?, &options, &overrides)?;
    require_labels(&train, &roles)?;
    let pictures = PictureOptions { on_bad_row: options.on_bad_row, threads, ..PictureOptions::default() };
    let open = |table: &mut Table, roles: &Roles| match modality {
        Modality::Text => Ok(()),
        Modality::Image => open_pictures(table, roles, &pictures),
    };
    open(&mut train, &roles)?;
    if let Some(decisions) = &recipe.data.review {
        tell(Event::note(review::apply(Path::new(decisions), &mut train, &roles)?.to_string()));
    }
    let mut findings = check_table(&train, &roles, &CheckOptions::default());
    findings.extend(check_pictures((&train, &roles), None));
    let mut tables = BTreeMap::new();
    for (split, path) in [(Split::Validation, &recipe.data.validation), (Split::Test, &recipe.data.test)] {
        let Some(path) = path else { continue };
        let mut table = read_table(Path::new(path), &options)?;
        let split_roles = roles.in_table(&train, &table, true)?;
        open(&mut table, &split_roles)?;
        let check = CheckOptions { is_training: false, ..CheckOptions::default() };
        findings.extend(check_table(&table, &split_roles, &check));
        findings.extend(check_splits((&train, &roles), (&table, &split_roles)));
        if let Some(column) = &recipe.data.group_column {
            findings.extend(check_groups(&train, &table, column));
        }
        findings.extend(check_pictures((&train, &roles), Some((&table, &split_roles))));
        tables.insert(split, (table, split_roles));
    }
    tables.insert(Split::Train, (train, roles));
    apply_missing_policy(&mut findings, recipe.data.missing_label);
    Ok(Tables { tables, findings })
}

/// Findings of error severity refuse the data, all at once.
pub(super) fn refuse_errors(findings: &[Finding]) -> Result<(), TrainError> {
    let errors: Vec<Finding> =
        findings.iter().filter(|finding| finding.severity == Severity::Error).cloned().collect();
    if errors.is_empty() { Ok(()) } else { Err(retune_data::DataError::Refused(errors).into()) }
}

/// Makes a dataset of a modality from a table.
type MakeDataset<E> = fn(Table, Roles, &DatasetOptions) -> Result<Dataset<E>, DataError>;

/// The splits' datasets. `of_model` are the labels that the checkpoint's outputs have.
pub(super) fn make_datasets<E: Example>(
    recipe: &Recipe,
    fold: Option<(usize, usize)>,
    mut tables: BTreeMap<Split, (Table, Roles)>,
    (make, of_model): (MakeDataset<E>, Option<&LabelSet>),
    tell: &mut dyn FnMut(Event),
) -> Result<BTreeMap<Split, Dataset<E>>, TrainError> {
    let on_missing = OnMissing::from(recipe.data.missing_label);
    let mut datasets = BTreeMap::new();
    let Some((table, roles)) = tables.remove(&Split::Train) else {
        unreachable!("reading the tables always gives a training table")
    };
    // A second copy of the data only for a model that was fine-tuned before.
    let spare = of_model.filter(|labels| !labels.is_placeholder()).map(|_| (table.clone(), roles.clone()));
    let mut train = make(table, roles, &DatasetOptions { labels: None, on_missing })?;
    if let (Some(labels), Some((table, roles))) = (labels_of_model(of_model, &train.labels), spare) {
        train = make(table, roles, &DatasetOptions { labels: Some(labels), on_missing })?;
    }
    let labels = train.labels.clone();
    for (split, (table, roles)) in tables {
        let options = DatasetOptions { labels: Some(labels.clone()), on_missing };
        datasets.insert(split, make(table, roles, &options)?);
    }
    let is_cut = fold.is_some() || recipe.data.validation_split.is_some();
    let alike = if is_cut && recipe.data.near_copies == NearCopies::Together {
        let contents = E::contents(&train.examples);
        contents.similar(contents.usual_similarity(), available_threads())
    } else {
        Vec::new()
    };
    let split_options = SplitOptions {
        seed: recipe.train.seed,
        stratified: true,
        group_column: recipe.data.group_column.clone(),
        together: alike.iter().map(|pair| (pair.first, pair.second)).collect(),
    };
    let split = match (fold, recipe.data.validation_split) {
        (Some((fold, folds)), _) => {
            datasets.remove(&Split::Validation);
            Some(k_fold(&train, folds, &split_options)?.swap_remove(fold))
        }
        (None, Some(fraction)) => Some(match &recipe.data.time_column {
            Some(column) => hold_out_latest(&train, fraction, column)?,
            None => hold_out(&train, fraction, &split_options)?,
        }),
        (None, None) => None,
    };
    if let Some(split) = split {
        datasets.insert(Split::Validation, train.select(&split.held_out));
        train = train.select(&split.train);
    }
    datasets.insert(Split::Train, train);
    for dataset in datasets.values() {
        for finding in &dataset.findings {
            tell(Event::warning("data", finding.to_string()));
        }
    }
    Ok(datasets)
}

/// The labels of a model that was fine-tuned before, if they are the data's: then its output layer can be kept.
pub(super) fn labels_of_model(of_model: Option<&LabelSet>, data: &LabelSet) -> Option<LabelSet> {
    let labels = of_model.filter(|labels| !labels.is_placeholder())?;
    let same = labels.len() == data.len() && data.names().iter().all(|name| labels.index(name).is_some());
    same.then(|| labels.clone())
}

/// What the task and the recipe's record need to know of training data.
pub(super) struct TrainingData<'a> {
    pub(super) path: &'a Path,
    pub(super) samples: usize,
    pub(super) roles: &'a Roles,
    pub(super) column_names: &'a [String],
    pub(super) labels: &'a LabelSet,
    pub(super) value_names: &'a [String],
    pub(super) class_counts: Vec<usize>,
}

impl<'a> TrainingData<'a> {
    /// Of a dataset, or of one without examples and what was counted of those that were let go.
    pub(super) fn new<E: Example>(about: &'a Dataset<E>, samples: usize, class_counts: Vec<usize>) -> Self {
        Self {
            path: about.path(),
            samples,
            roles: about.roles(),
            column_names: about.column_names(),
            labels: &about.labels,
            value_names: &about.value_names,
            class_counts,
        }
    }

    pub(super) fn of<E: Example>(train: &'a Dataset<E>) -> Self {
        Self::new(train, train.len(), train.class_counts())
    }
}

pub(super) fn make_task(
    recipe: &mut Recipe,
    train: &TrainingData<'_>,
) -> Result<ClassificationTask, TrainError> {
    let problem_type = match train.roles.target_kind {
        Some(TargetKind::MultiLabel) => ProblemType::MultiLabelClassification,
        Some(TargetKind::Regression) => ProblemType::Regression,
        _ => ProblemType::SingleLabelClassification,
    };
    recipe.task.problem_type = Some(problem_type);
    let labels = if problem_type == ProblemType::Regression {
        LabelSet::of_outputs(train.value_names.iter().cloned())?
    } else {
        train.labels.clone()
    };
    if problem_type == ProblemType::SingleLabelClassification && labels.len() < 2 {
        return Err(TrainError::Setting(format!(
            "{} holds one class only ({}); a classifier needs at least two",
            train.path.display(),
            labels.names().join(", ")
        )));
    }
    let class_weights = class_weights(&recipe.task.class_weights, &labels, train)?;
    Ok(ClassificationTask {
        problem_type,
        labels,
        label_smoothing: recipe.task.label_smoothing,
        class_weights,
        focal_gamma: recipe.task.focal_gamma,
        thresholds: None,
    })
}

/// Weights per class: by name, or `samples / (classes · count)` as scikit-learn balances.
fn class_weights(
    setting: &ClassWeights,
    labels: &LabelSet,
    train: &TrainingData<'_>,
) -> Result<Option<Vec<f32>>, TrainError> {
    match setting {
        ClassWeights::None => Ok(None),
        ClassWeights::Balanced => {
            let scale = train.samples as f64 / labels.len() as f64;
            Ok(Some(train.class_counts.iter().map(|&count| (scale / count.max(1) as f64) as f32).collect()))
        }
        ClassWeights::Table(weights) => {
            for name in weights.keys() {
                if labels.index(name).is_none() {
                    return Err(TrainError::Setting(format!(
                        "task.class_weights names \"{name}\", which is no label of {}; its labels are {}",
                        train.path.display(),
                        labels.names().join(", ")
                    )));
                }
            }
            let weight = |name: &String| weights.get(name).map_or(1.0, |&weight| weight as f32);
            let weights: Vec<f32> = labels.names().iter().map(weight).collect();
            if weights.iter().all(|&weight| weight == 0.0) {
                return Err(TrainError::Setting(
                    "task.class_weights are all 0: nothing would be learned".to_owned(),
                ));
            }
            Ok(Some(weights))
        }
    }
}
