//! From a recipe to everything a run needs: whatever can be wrong is found here, before the first step.
//!
//! What is the same for every modality is here and in `data.rs`; what is about texts or pictures in a file of its own.

mod batches;
mod data;
mod image;
mod paraphrases;
mod stream;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retune_checkpoint::hub::{ResolveOptions, resolve};
use retune_checkpoint::{FileHash, LoadReport, ModelConfig, Weights, hash_file};
use retune_data::{Finding, LengthReport, Modality};
use retune_kernels::{Cpu, Isa};
use retune_models::LoraConfig;
use retune_models::vision::ImageConfig;
use retune_nn::ParameterStore;
use retune_tasks::metrics::{METRICS, Metric};
use retune_tasks::{ClassificationTask, ProblemType};
use retune_tensor::{Context, Precision};

use data::TrainingData;
pub use data::read_options;
pub(crate) use data::{read_with_roles, require_labels, role_overrides, training_path};
pub(crate) use image::check_test_time;
pub use image::{expand_folders, preprocessor_of};
pub(crate) use text::over_length;

use crate::TrainError;
use crate::event::Event;
use crate::modality::ModalTrainee;
use crate::recipe::{LearningRate, Recipe, Sampling, ThresholdTuning};
use crate::stages::Stage;
use crate::trainee::Split;

/// What the caller decides about a preparation, beside the recipe.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// The kernels' instruction set; the best available if `None`.
    pub isa: Option<Isa>,
    /// Cross-validation: fold number and number of folds. Replaces the validation split.
    pub fold: Option<(usize, usize)>,
    /// The model's folder or file, if it is known already (on resume).
    pub model_directory: Option<PathBuf>,
    /// How model names are resolved.
    pub resolve: ResolveOptions,
    /// Whether the recipe is the record of a run, in which everything is chosen: nothing is chosen anew.
    pub obeys_record: bool,
}

impl PrepareOptions {
    /// The best kernels and no folds.
    pub fn new(resolve: ResolveOptions) -> Self {
        Self { isa: None, fold: None, model_directory: None, resolve, obeys_record: false }
    }
}

/// Everything a run needs.
pub struct Prepared {
    /// The recipe with every default resolved and absolute data paths.
    pub recipe: Recipe,
    /// The model's folder, or the file of its bare weights.
    pub model_directory: PathBuf,
    /// Its configuration; empty for bare weights.
    pub config: ModelConfig,
    /// Labels, loss, metrics.
    pub task: ClassificationTask,
    /// Model and data.
    pub trainee: ModalTrainee,
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

/// Refuses remedies against imbalance that only single-label classifications have.
fn check_imbalance(recipe: &Recipe, task: &ClassificationTask) -> Result<(), TrainError> {
    let set = [
        ("train.sampling = \"balanced\"", recipe.train.sampling == Sampling::Balanced),
        ("task.focal_gamma", recipe.task.focal_gamma != 0.0),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) if task.problem_type != ProblemType::SingleLabelClassification => Err(
            TrainError::Setting(format!("{key} needs one label per row; this data has several, or numbers")),
        ),
        _ => Ok(()),
    }
}

/// Refuses to tune thresholds where none decides, or where there is nothing to tune them on.
fn check_thresholds(recipe: &Recipe, is_fold: bool, task: &ClassificationTask) -> Result<(), TrainError> {
    if recipe.task.tune_thresholds == ThresholdTuning::None {
        return Ok(());
    }
    let refuse = |why: &str| Err(TrainError::Setting(format!("task.tune_thresholds {why}")));
    if task.decided_labels().is_empty() {
        return refuse(
            "needs two classes, or several labels per row: among more classes the most probable is taken",
        );
    }
    if recipe.data.validation.is_none() && recipe.data.validation_split.is_none() && !is_fold {
        return refuse("needs validation data; set data.validation or data.validation_split");
    }
    Ok(())
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
    check_settings(recipe)?;
    let location = find_model(recipe, options, tell)?;
    let mut prepared = match modality(recipe, &location)? {
        Modality::Text => text::prepare(recipe.clone(), options, location, tell)?,
        Modality::Image => image::prepare(recipe.clone(), options, location, tell)?,
    };
    if !options.obeys_record {
        batches::settle(&mut prepared, tell)?;
    }
    warn_of_slow_precision(&prepared, tell);
    image::warn_of_small_batches(&prepared.recipe, &prepared.store, &prepared.stages, tell);
    Ok(prepared)
}

/// Says so where rounded products save memory and cost time.
fn warn_of_slow_precision(prepared: &Prepared, tell: &mut dyn FnMut(Event)) {
    let multiplies = prepared.context.kernels().is_none_or(|cpu| cpu.isa().multiplies_bf16());
    if prepared.context.precision() == Precision::Bf16 && !multiplies {
        let remedy = match Isa::Avx512Bf16.available() {
            true => "; RETUNE_ISA=avx512bf16 asks for those that this processor has for it",
            false => "",
        };
        let message = format!(
            "train.precision = \"bf16\" saves memory here and costs time: the kernels in use do not multiply bf16, and a step \
             takes up to twice as long as with \"f32\"{remedy}"
        );
        tell(Event::warning("slow-precision", message));
    }
}

/// Where a model is.
pub(crate) struct ModelLocation {
    /// Its folder, or the file of its bare weights. For an architecture that was only named, that name.
    pub(crate) path: PathBuf,
    /// Whether its weights are not to be read.
    pub(crate) config_only: bool,
}

/// What a name must begin with to start from a configuration, or the name of an architecture, alone.
const CONFIG_ONLY: &str = "config-only:";

/// What the samples of a recipe are: by its task, else by its model.
pub(crate) fn modality(recipe: &Recipe, location: &ModelLocation) -> Result<Modality, TrainError> {
    let by_task = match recipe.task.kind.as_str() {
        "text-classification" => return Ok(Modality::Text),
        "image-classification" => Some(Modality::Image),
        _ => None,
    };
    // Beside what a path tells, the name of an architecture.
    let named = location.config_only && !location.path.is_dir();
    match by_task {
        Some(modality) => Ok(modality),
        None if named || reads_pictures(recipe, &location.path)? => Ok(Modality::Image),
        None => Ok(Modality::Text),
    }
}

/// Whether the model at a path reads pictures: its architecture is named, it is bare weights, or its configuration says
/// so.
pub(crate) fn reads_pictures(recipe: &Recipe, path: &Path) -> Result<bool, TrainError> {
    if recipe.model.architecture.is_some() || path.is_file() {
        return Ok(true);
    }
    let file = path.join("config.json");
    Ok(file.is_file() && ImageConfig::describes_images(&ModelConfig::open(&file)?))
}

fn check_settings(recipe: &Recipe) -> Result<(), TrainError> {
    if !matches!(recipe.task.kind.as_str(), "auto" | "text-classification" | "image-classification") {
        return Err(TrainError::Setting(format!(
            "task.type = \"{}\" is not available; known are \"auto\", \"text-classification\" and \
             \"image-classification\"",
            recipe.task.kind
        )));
    }
    Ok(())
}

/// Kernels on the machine's threads and its best instruction set, unless told otherwise.
pub(crate) fn make_cpu(threads: Option<usize>, isa: Option<Isa>) -> Result<Cpu, TrainError> {
    let threads = threads.unwrap_or_else(available_threads);
    let isa = isa.unwrap_or_else(Isa::detect);
    Cpu::new(threads, isa).map_err(|error| TrainError::Setting(error.to_string()))
}

/// A context on the CPU of [`make_cpu`] whose products are in this precision.
pub(crate) fn make_context(
    threads: Option<usize>,
    isa: Option<Isa>,
    precision: Precision,
) -> Result<Context, TrainError> {
    Ok(Context::cpu(make_cpu(threads, isa)?).with_precision(precision))
}

/// The precision that an artifact's answers were measured in, from its configuration's section `retune`.
pub(crate) fn products_of(section: Option<&serde_json::Value>) -> Precision {
    let precision = section.and_then(|section| section.get("precision")?.as_str());
    if precision == Some("bf16") { Precision::Bf16 } else { Precision::F32 }
}

pub(crate) fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn context_threads(context: &Context) -> usize {
    context.kernels().map_or(1, Cpu::threads)
}

/// Finds the model of a recipe.
pub(crate) fn find_model(
    recipe: &Recipe,
    options: &PrepareOptions,
    tell: &mut dyn FnMut(Event),
) -> Result<ModelLocation, TrainError> {
    let name = recipe.model.name_or_path.as_str();
    let config_only = name.starts_with(CONFIG_ONLY);
    let name = name.strip_prefix(CONFIG_ONLY).unwrap_or(name);
    let path = match &options.model_directory {
        Some(path) => path.clone(),
        None if config_only || Path::new(name).is_file() => PathBuf::from(name),
        None => {
            let mut resolve_options = options.resolve.clone();
            resolve_options.mirrors =
                recipe.model.mirrors.iter().map(|mirror| mirror.parse()).collect::<Result<_, _>>()?;
            if let Some(revision) = &recipe.model.revision {
                resolve_options.revision = revision.clone();
            }
            let mut say = |message: &str| tell(Event::note(message));
            resolve(name, &resolve_options, &mut say)?.directory
        }
    };
    // Hashes are recorded by path: a run that is resumed from another folder must find the same paths.
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    Ok(ModelLocation { path, config_only })
}

/// SHA-256 of the model's files and of the data files, the training file's unless it is known; folders of pictures have a
/// hash of their own.
fn hash_inputs(
    recipe: &Recipe,
    weights: Option<&Weights>,
    model_files: &[PathBuf],
    training_file: Option<FileHash>,
) -> Result<BTreeMap<String, String>, TrainError> {
    let mut hashes = BTreeMap::new();
    for path in model_files {
        hashes.insert(path.display().to_string(), hash_file(path)?.sha256);
    }
    for hash in weights.map(Weights::file_hashes).transpose()?.unwrap_or_default() {
        hashes.insert(hash.path.display().to_string(), hash.sha256);
    }
    let data = [&recipe.data.train, &recipe.data.validation, &recipe.data.test, &recipe.data.review];
    let data = data.into_iter().chain([&recipe.augmentation.paraphrases]);
    for path in data.flatten().filter(|path| Path::new(path).is_file()) {
        let known = training_file.as_ref().filter(|known| known.path == Path::new(path));
        let hash = known.map_or_else(|| hash_file(Path::new(path)), |known| Ok(known.clone()))?;
        hashes.insert(path.clone(), hash.sha256);
    }
    Ok(hashes)
}

/// Writes what was inferred or left to a default into the recipe, so that its lock says what was done.
fn record_choices(recipe: &mut Recipe, train: &TrainingData<'_>, task: &ClassificationTask) {
    let TrainingData { roles, column_names: names, .. } = train;
    let name = |column: usize| names[column].clone();
    match roles.modality {
        Modality::Text => recipe.data.text_column = Some(name(roles.content)),
        Modality::Image => recipe.data.image_column = Some(name(roles.content)),
    }
    recipe.data.text_pair_column = roles.text_pair.map(name);
    recipe.data.label_column = Some(roles.labels.iter().copied().map(name).collect::<Vec<_>>().into());
    recipe.data.label_separator = roles.label_separator;
    recipe.data.id_column = roles.id.map(name);
    let learning_rate = LearningRate::Value(recipe.learning_rate());
    recipe.optimizer.learning_rate.get_or_insert(learning_rate);
    recipe.train.metric_for_best_model.get_or_insert_with(|| task.default_metric().to_owned());
}
