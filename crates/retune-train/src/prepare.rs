//! From a recipe to everything a run needs: whatever can be wrong is found here, before the first step.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use retune_checkpoint::hub::{ResolveOptions, resolve};
use retune_checkpoint::{LoadReport, ModelConfig, Weights, hash_file};
use retune_data::{
    CheckOptions, DatasetOptions, Finding, LabelSet, LengthPolicy, LengthReport, Modality, OnMissing,
    ReadOptions, RoleOverrides, Roles, Severity, SplitOptions, Table, TargetKind, TextDataset, TextTokenizer,
    check_splits, check_table, hold_out, infer_roles, k_fold, read_table,
};
use retune_kernels::{Cpu, Isa};
use retune_models::text::{HeadOverrides, LoraConfig, TextClassifier, TextClassifierParts};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::{ParameterBuilder, ParameterStore};
use retune_tasks::metrics::{METRICS, Metric};
use retune_tasks::{ClassificationTask, ProblemType};
use retune_tensor::Context;

use crate::TrainError;
use crate::data_check::apply_missing_policy;
use crate::event::Event;
use crate::recipe::{BadRowPolicy, ClassWeights, Method, MissingPolicy, Precision, Recipe};
use crate::stages::{Stage, plan_stages};
use crate::text::{TextSplit, TextTrainee};
use crate::trainee::Split;

/// What the caller decides about a preparation, beside the recipe.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// The kernels' instruction set; the best available if `None`.
    pub isa: Option<Isa>,
    /// Cross-validation: fold number and number of folds. Replaces the validation split.
    pub fold: Option<(usize, usize)>,
    /// The model's folder, if it is known already (on resume).
    pub model_directory: Option<PathBuf>,
    /// How model names are resolved.
    pub resolve: ResolveOptions,
}

impl PrepareOptions {
    /// The best kernels and no folds.
    pub fn new(resolve: ResolveOptions) -> Self {
        Self { isa: None, fold: None, model_directory: None, resolve }
    }
}

/// Everything a run needs.
pub struct Prepared {
    /// The recipe with every default resolved and absolute data paths.
    pub recipe: Recipe,
    /// The model's folder.
    pub model_directory: PathBuf,
    /// Its configuration.
    pub config: ModelConfig,
    /// Labels, loss, metrics.
    pub task: ClassificationTask,
    /// Model and data.
    pub trainee: TextTrainee,
    /// The parameters.
    pub store: ParameterStore,
    /// The stages.
    pub stages: Vec<Stage>,
    /// What became of the checkpoint's tensors.
    pub load_report: LoadReport,
    /// Adapters, if the strategy is LoRA.
    pub lora: Option<LoraConfig>,
    /// What the data checks found.
    pub findings: Vec<Finding>,
    /// Why each column has its role.
    pub reasons: Vec<String>,
    /// What the length policy did, per split.
    pub lengths: BTreeMap<Split, LengthReport>,
    /// SHA-256 of every file that the result depends on, by path.
    pub hashes: BTreeMap<String, String>,
    /// Device, kernels, pool.
    pub context: Context,
}

/// Refuses a metric that does not exist, before the first step rather than at the first evaluation.
fn check_metric(recipe: &Recipe, task: &ClassificationTask) -> Result<(), TrainError> {
    let Some(name) = &recipe.train.metric_for_best_model else { return Ok(()) };
    let bare = name.strip_prefix("eval_").unwrap_or(name);
    if bare == "loss" || Metric::find(bare).is_some() {
        return Ok(());
    }
    let known = METRICS.iter().map(|metric| metric.name);
    let hint = retune_data::nearest(bare, known)
        .map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
    Err(TrainError::Setting(format!(
        "train.metric_for_best_model = \"{name}\" is no metric{hint} The default here is \"{}\"",
        task.default_metric()
    )))
}

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
        ..ReadOptions::default()
    })
}

/// The roles that a recipe gives to columns.
pub(crate) fn role_overrides(recipe: &Recipe) -> RoleOverrides {
    let target_kind = recipe.task.problem_type.map(|problem| match problem {
        ProblemType::SingleLabelClassification => TargetKind::SingleLabel,
        ProblemType::MultiLabelClassification => TargetKind::MultiLabel,
        ProblemType::Regression => TargetKind::Regression,
    });
    RoleOverrides {
        modality: Modality::Text,
        image_column: None,
        text_column: recipe.data.text_column.clone(),
        text_pair_column: recipe.data.text_pair_column.clone(),
        label_columns: recipe
            .data
            .label_column
            .as_ref()
            .map_or_else(Vec::new, |columns| columns.names().to_vec()),
        id_column: recipe.data.id_column.clone(),
        target_kind,
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
struct Tables {
    tables: BTreeMap<Split, (Table, Roles)>,
    findings: Vec<Finding>,
}

/// Reads and checks the data files of a recipe.
fn read_tables(recipe: &Recipe) -> Result<Tables, TrainError> {
    let options = read_options(recipe)?;
    let train_path =
        recipe.data.train.as_deref().ok_or_else(|| {
            TrainError::Setting("data.train is missing: name the file to train on".to_owned())
        })?;
    let train = read_table(Path::new(train_path), &options)?;
    let roles = infer_roles(&train, &role_overrides(recipe))?;
    if roles.labels.is_empty() {
        return Err(TrainError::Setting(format!(
            "{train_path} has no column that looks like a label; name it with data.label_column. Its columns are {}",
            train.columns.join(", ")
        )));
    }
    let mut findings = check_table(&train, &roles, &CheckOptions::default());
    let mut tables = BTreeMap::new();
    for (split, path) in [(Split::Validation, &recipe.data.validation), (Split::Test, &recipe.data.test)] {
        let Some(path) = path else { continue };
        let table = read_table(Path::new(path), &options)?;
        let split_roles = roles.in_table(&train, &table, true)?;
        let check = CheckOptions { is_training: false, ..CheckOptions::default() };
        findings.extend(check_table(&table, &split_roles, &check));
        findings.extend(check_splits((&train, &roles), (&table, &split_roles)));
        tables.insert(split, (table, split_roles));
    }
    tables.insert(Split::Train, (train, roles));
    apply_missing_policy(&mut findings, recipe.data.missing_label);
    Ok(Tables { tables, findings })
}

/// Prepares a run. Messages about where things come from go to `tell`.
///
/// # Errors
/// Whatever is wrong with the recipe, the model or the data.
pub fn prepare(
    recipe: &Recipe,
    options: &PrepareOptions,
    tell: &mut dyn FnMut(Event),
) -> Result<Prepared, TrainError> {
    let mut recipe = recipe.clone();
    check_settings(&recipe)?;
    let context = make_context(&recipe, options.isa)?;
    let (model_directory, config) = find_model(&recipe, options, tell)?;
    let model_type = config.string("model_type")?.to_owned();
    let family = retune_models::text::family(&config)?;

    let Tables { tables, findings } = read_tables(&recipe)?;
    refuse_errors(&findings)?;
    let reasons = tables[&Split::Train].1.reasons.clone();
    let datasets = make_datasets(&recipe, options, tables, &config, tell)?;
    let task = make_task(&mut recipe, &datasets[&Split::Train])?;

    check_metric(&recipe, &task)?;
    let lora = (recipe.strategy.method == Method::Lora).then(|| LoraConfig {
        r: recipe.strategy.r,
        lora_alpha: recipe.strategy.lora_alpha,
        lora_dropout: recipe.strategy.lora_dropout,
        target_modules: recipe.strategy.target_modules.clone(),
    });
    let mut builder = ParameterBuilder::default();
    let parts = TextClassifierParts {
        config: &config,
        outputs: task.outputs(),
        head: HeadOverrides { dropout: recipe.model.classifier_dropout },
        lora: lora.clone(),
    };
    let model = TextClassifier::declare(&parts, &mut builder)?;
    let how = LoadOptions {
        allow_missing: recipe.model.allow_missing,
        allow_unused: recipe.model.allow_unused,
        new_parameters: new_output_layer(&config, &task, &model),
        seed: recipe.train.seed,
    };
    let weights = Weights::open(&model_directory)?;
    let (store, load_report) = load_parameters(&context, builder, family, &weights, &how)?;
    let stages = plan_stages(&recipe, &store.groups())?;

    let tokenizer = TextTokenizer::from_directory(&model_directory, &model_type)?;
    tokenizer.check_against_model(model.sizes().vocab_size)?;
    let policy = length_policy(&mut recipe, &tokenizer, model.sizes().max_length())?;
    let mut splits = BTreeMap::new();
    let mut lengths = BTreeMap::new();
    for (split, dataset) in datasets {
        let encoded = tokenizer.encode_dataset(&dataset, &policy, context_threads(&context))?;
        lengths.insert(split, encoded.report.clone());
        splits.insert(split, TextSplit { dataset, encoded });
    }
    let mut model_files = tokenizer.files();
    model_files.push(config.path().to_owned());
    let hashes = hash_inputs(&recipe, &weights, &model_files)?;
    record_choices(&mut recipe, &splits[&Split::Train].dataset, &task);
    let trainee = TextTrainee { model, splits };
    Ok(Prepared {
        recipe,
        model_directory,
        config,
        task,
        trainee,
        store,
        stages,
        load_report,
        lora,
        findings,
        reasons,
        lengths,
        hashes,
        context,
    })
}

fn check_settings(recipe: &Recipe) -> Result<(), TrainError> {
    if recipe.train.precision == Precision::Bf16 {
        return Err(TrainError::Setting(
            "train.precision = \"bf16\" is not available yet; use \"f32\" or \"auto\"".to_owned(),
        ));
    }
    if !matches!(recipe.task.kind.as_str(), "auto" | "text-classification") {
        return Err(TrainError::Setting(format!(
            "task.type = \"{}\" is not available; known are \"auto\" and \"text-classification\"",
            recipe.task.kind
        )));
    }
    Ok(())
}

/// A CPU context with the recipe's number of threads.
pub(crate) fn make_context(recipe: &Recipe, isa: Option<Isa>) -> Result<Context, TrainError> {
    let threads = recipe.train.threads.unwrap_or_else(available_threads);
    let isa = isa.unwrap_or_else(Isa::detect);
    let cpu = Cpu::new(threads, isa).map_err(|error| TrainError::Setting(error.to_string()))?;
    Ok(Context::cpu(cpu))
}

pub(crate) fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn context_threads(context: &Context) -> usize {
    context.kernels().map_or(1, Cpu::threads)
}

fn find_model(
    recipe: &Recipe,
    options: &PrepareOptions,
    tell: &mut dyn FnMut(Event),
) -> Result<(PathBuf, ModelConfig), TrainError> {
    let directory = match &options.model_directory {
        Some(directory) => directory.clone(),
        None => {
            let mut resolve_options = options.resolve.clone();
            resolve_options.mirrors =
                recipe.model.mirrors.iter().map(|mirror| mirror.parse()).collect::<Result<_, _>>()?;
            if let Some(revision) = &recipe.model.revision {
                resolve_options.revision = revision.clone();
            }
            let mut say = |message: &str| tell(Event::note(message));
            resolve(&recipe.model.name_or_path, &resolve_options, &mut say)?.directory
        }
    };
    // Hashes are recorded by path: a run that is resumed from another folder must find the same paths.
    let directory = std::fs::canonicalize(&directory).unwrap_or(directory);
    let config = ModelConfig::open(&directory.join("config.json"))?;
    Ok((directory, config))
}

/// Findings of error severity refuse the data, all at once.
fn refuse_errors(findings: &[Finding]) -> Result<(), TrainError> {
    let errors: Vec<Finding> =
        findings.iter().filter(|finding| finding.severity == Severity::Error).cloned().collect();
    if errors.is_empty() { Ok(()) } else { Err(retune_data::DataError::Refused(errors).into()) }
}

fn make_datasets(
    recipe: &Recipe,
    options: &PrepareOptions,
    mut tables: BTreeMap<Split, (Table, Roles)>,
    config: &ModelConfig,
    tell: &mut dyn FnMut(Event),
) -> Result<BTreeMap<Split, TextDataset>, TrainError> {
    let on_missing = OnMissing::from(recipe.data.missing_label);
    let mut datasets = BTreeMap::new();
    let Some((table, roles)) = tables.remove(&Split::Train) else {
        unreachable!("reading the tables always gives a training table")
    };
    let mut train =
        TextDataset::new(table.clone(), roles.clone(), &DatasetOptions { labels: None, on_missing })?;
    if let Some(labels) = labels_of_model(config, &train.labels) {
        train = TextDataset::new(table, roles, &DatasetOptions { labels: Some(labels), on_missing })?;
    }
    let labels = train.labels.clone();
    for (split, (table, roles)) in tables {
        let options = DatasetOptions { labels: Some(labels.clone()), on_missing };
        datasets.insert(split, TextDataset::new(table, roles, &options)?);
    }
    let split_options = SplitOptions {
        seed: recipe.train.seed,
        stratified: true,
        group_column: recipe.data.group_column.clone(),
    };
    let split = match (options.fold, recipe.data.validation_split) {
        (Some((fold, folds)), _) => {
            datasets.remove(&Split::Validation);
            Some(k_fold(&train, folds, &split_options)?.swap_remove(fold))
        }
        (None, Some(fraction)) => Some(hold_out(&train, fraction, &split_options)?),
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
fn labels_of_model(config: &ModelConfig, data: &LabelSet) -> Option<LabelSet> {
    let names = config.get("id2label")?.as_object()?;
    let labels = LabelSet::from_id2label(names).ok().filter(|labels| !labels.is_placeholder())?;
    let same = labels.len() == data.len() && data.names().iter().all(|name| labels.index(name).is_some());
    same.then_some(labels)
}

fn make_task(recipe: &mut Recipe, train: &TextDataset) -> Result<ClassificationTask, TrainError> {
    let problem_type = match train.roles().target_kind {
        Some(TargetKind::MultiLabel) => ProblemType::MultiLabelClassification,
        Some(TargetKind::Regression) => ProblemType::Regression,
        _ => ProblemType::SingleLabelClassification,
    };
    recipe.task.problem_type = Some(problem_type);
    let labels = if problem_type == ProblemType::Regression {
        let names = train.value_names.iter().enumerate();
        LabelSet::from_id2label(
            &names.map(|(index, name)| (index.to_string(), name.as_str().into())).collect(),
        )?
    } else {
        train.labels.clone()
    };
    if problem_type == ProblemType::SingleLabelClassification && labels.len() < 2 {
        return Err(TrainError::Setting(format!(
            "{} holds one class only ({}); a classifier needs at least two",
            train.path().display(),
            labels.names().join(", ")
        )));
    }
    let class_weights = class_weights(&recipe.task.class_weights, &labels, train)?;
    Ok(ClassificationTask {
        problem_type,
        labels,
        label_smoothing: recipe.task.label_smoothing,
        class_weights,
    })
}

/// Weights per class: by name, or `samples / (classes · count)` as scikit-learn balances.
fn class_weights(
    setting: &ClassWeights,
    labels: &LabelSet,
    train: &TextDataset,
) -> Result<Option<Vec<f32>>, TrainError> {
    match setting {
        ClassWeights::None => Ok(None),
        ClassWeights::Balanced => {
            let counts = train.class_counts();
            let scale = train.len() as f64 / labels.len() as f64;
            Ok(Some(counts.iter().map(|&count| (scale / count.max(1) as f64) as f32).collect()))
        }
        ClassWeights::Table(weights) => {
            for name in weights.keys() {
                if labels.index(name).is_none() {
                    return Err(TrainError::Setting(format!(
                        "task.class_weights names \"{name}\", which is no label of {}; its labels are {}",
                        train.path().display(),
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

/// The output layer's parameters, unless the checkpoint has one for these very labels.
fn new_output_layer(
    config: &ModelConfig,
    task: &ClassificationTask,
    model: &TextClassifier,
) -> HashSet<String> {
    let fits = match task.problem_type {
        ProblemType::Regression => {
            config.get("problem_type").and_then(|value| value.as_str()) == Some("regression")
                && config
                    .get("id2label")
                    .and_then(|value| value.as_object())
                    .is_some_and(|names| names.len() == task.outputs())
        }
        _ => labels_of_model(config, &task.labels).is_some(),
    };
    if fits {
        return HashSet::new();
    }
    let name = model.head().output_name();
    HashSet::from([format!("{name}.weight"), format!("{name}.bias")])
}

fn length_policy(
    recipe: &mut Recipe,
    tokenizer: &TextTokenizer,
    model_max_length: usize,
) -> Result<LengthPolicy, TrainError> {
    let longest =
        tokenizer.model_max_length().map_or(model_max_length, |length| length.min(model_max_length));
    let max_length = recipe.data.max_length.unwrap_or(longest);
    if max_length > model_max_length {
        return Err(TrainError::Setting(format!(
            "data.max_length = {max_length}, but this model takes at most {model_max_length} tokens"
        )));
    }
    recipe.data.max_length = Some(max_length);
    Ok(LengthPolicy {
        max_length,
        over_length: over_length(recipe.data.over_length, recipe.data.stride, max_length),
    })
}

/// The data crate's policy for a recipe's. Windows overlap by a quarter unless the recipe says otherwise.
pub(crate) fn over_length(
    policy: crate::recipe::OverLength,
    stride: Option<usize>,
    max_length: usize,
) -> retune_data::OverLength {
    use crate::recipe::OverLength;
    match policy {
        OverLength::Truncate => retune_data::OverLength::Truncate,
        OverLength::Tail => retune_data::OverLength::Tail,
        OverLength::HeadTail => retune_data::OverLength::HeadTail,
        OverLength::Window => retune_data::OverLength::Window { stride: stride.unwrap_or(max_length / 4) },
        OverLength::Refuse => retune_data::OverLength::Refuse,
    }
}

fn hash_inputs(
    recipe: &Recipe,
    weights: &Weights,
    model_files: &[PathBuf],
) -> Result<BTreeMap<String, String>, TrainError> {
    let mut hashes = BTreeMap::new();
    for path in model_files {
        hashes.insert(path.display().to_string(), hash_file(path)?.sha256);
    }
    for hash in weights.file_hashes()? {
        hashes.insert(hash.path.display().to_string(), hash.sha256);
    }
    let data = [&recipe.data.train, &recipe.data.validation, &recipe.data.test];
    for path in data.into_iter().flatten() {
        hashes.insert(path.clone(), hash_file(Path::new(path))?.sha256);
    }
    Ok(hashes)
}

/// Writes what was inferred or left to a default into the recipe, so that its lock says what was done.
fn record_choices(recipe: &mut Recipe, train: &TextDataset, task: &ClassificationTask) {
    let roles = train.roles();
    let names = train.column_names();
    let name = |column: usize| names[column].clone();
    recipe.data.text_column = Some(name(roles.content));
    recipe.data.text_pair_column = roles.text_pair.map(name);
    recipe.data.label_column = Some(roles.labels.iter().copied().map(name).collect::<Vec<_>>().into());
    recipe.data.label_separator = roles.label_separator;
    recipe.data.id_column = roles.id.map(name);
    recipe.optimizer.learning_rate = Some(recipe.learning_rate());
    recipe.train.metric_for_best_model.get_or_insert_with(|| task.default_metric().to_owned());
}
