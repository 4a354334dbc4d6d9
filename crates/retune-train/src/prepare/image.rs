//! Pictures: image classifier, opened splits, and what batch normalization needs before it trains.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use retune_checkpoint::{LoadReport, ModelConfig, Weights};
use retune_data::image::{
    Fit, ImageDataset, ImagePreprocessor, Interpolation, Middle, pictures_hash, split_folders,
};
use retune_data::{LabelSet, Modality};
use retune_models::vision::{
    self, Architecture, ImageBatch, ImageClassifier, ImageClassifierParts, ImageConfig, Layout, Resize,
};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::{ParameterBuilder, ParameterStore};
use retune_tasks::ProblemType;
use retune_tensor::Context;
use serde_json::Map;

use super::data::{
    Tables, TrainingData, labels_of_model, make_datasets, make_task, read_tables, refuse_errors,
};
use super::{
    ModelLocation, PrepareOptions, Prepared, check_imbalance, check_metric, check_thresholds,
    context_threads, hash_inputs, make_context, record_choices,
};
use crate::TrainError;
use crate::event::Event;
use crate::image::{ImageTrainee, ImageViews, TrainingSize, ViewChoice};
use crate::modality::ModalTrainee;
use crate::plan::steps_per_epoch;
use crate::recipe::{Recipe, TestTime};
use crate::stages::{Stage, plan_stages};
use crate::trainee::Split;

/// Prepares a run on pictures.
pub(super) fn prepare(
    mut recipe: Recipe,
    options: &PrepareOptions,
    location: ModelLocation,
    tell: &mut dyn FnMut(Event),
) -> Result<Prepared, TrainError> {
    refuse_text_settings(&recipe)?;
    let context = make_context(recipe.train.threads, options.isa, recipe.train.precision.of_products())?;
    let threads = context_threads(&context);
    let mut config = image_config(&recipe, &location)?;
    let preprocessor = preprocessor_of(&config, &recipe)?;
    config.set_size(preprocessor.size);
    expand_folders(&mut recipe, options.fold.is_some())?;

    let Tables { tables, findings } = read_tables(&recipe, Modality::Image, threads, tell)?;
    refuse_errors(&findings)?;
    let reasons = tables[&Split::Train].1.reasons.clone();
    let mut picture_hashes = BTreeMap::new();
    for (table, roles) in tables.values() {
        let path = table.path.display();
        let name = if table.path.is_dir() { path.to_string() } else { format!("{path} (pictures)") };
        picture_hashes.insert(name, pictures_hash(table, roles));
    }
    let of_model = labels_of(&config, &recipe)?;
    let make = (ImageDataset::from_pictures as fn(_, _, &_) -> _, of_model.as_ref());
    let splits = make_datasets(&recipe, options.fold, tables, make, tell)?;
    let task = make_task(&mut recipe, &TrainingData::of(&splits[&Split::Train]))?;
    check_metric(&recipe, &task)?;
    check_augmentation(&recipe, &preprocessor, task.problem_type)?;
    check_imbalance(&recipe, &task)?;
    check_thresholds(&recipe, options.fold.is_some(), &task)?;

    let lora = recipe.strategy.lora();
    let parts = ImageClassifierParts {
        config: &config,
        outputs: task.outputs(),
        channels: preprocessor.channels(),
        dropout: recipe.model.classifier_dropout,
        drop_path: None,
    };
    let (model, builder) = match &lora {
        Some(lora) => ImageClassifier::declare_adapted(&parts, lora)?,
        None => {
            let mut builder = ParameterBuilder::default();
            (ImageClassifier::declare(&parts, &mut builder), builder)
        }
    };
    let keeps_head = match task.problem_type {
        ProblemType::Regression => false,
        _ => labels_of_model(of_model.as_ref(), &task.labels).is_some(),
    };
    let weights = (!location.config_only).then(|| Weights::open(&location.path)).transpose()?;
    let (mut store, load_report, layout) =
        load(&context, &recipe, (&config, &model), builder, weights.as_ref(), keeps_head)?;
    let stages = plan_stages(&recipe, &store.groups())?;

    // The names of bare weights have told whose they are.
    let preprocessor = ImagePreprocessor { middle: middle_of(Some(layout)), ..preprocessor };
    let augmentation = recipe.augmentation.to_augmentation();
    let train_samples = splits[&Split::Train].len();
    let choice = match recipe.augmentation.cached_views {
        Some(views) => ViewChoice::Few { views, steps_per_epoch: steps_per_epoch(&recipe, train_samples) },
        None => ViewChoice::Fresh,
    };
    let (test_time, problem_type) = (recipe.augmentation.test_time, task.problem_type);
    check_stage_sizes(&recipe, &config, &stages)?;
    let training_size = TrainingSize::default();
    let views = ImageViews { preprocessor, augmentation, choice, test_time, problem_type, training_size };
    if weights.is_some() {
        let folded = folded_norms(&store, &load_report);
        let model = (&model, &views);
        recalibrate(&context, (&mut store, &folded), model, &stages, &splits[&Split::Train], tell);
    }

    let files: Vec<PathBuf> = config.file.iter().map(|file| file.path().to_owned()).collect();
    let mut hashes = hash_inputs(&recipe, weights.as_ref(), &files, None)?;
    hashes.extend(picture_hashes);
    record_choices(&mut recipe, &TrainingData::of(&splits[&Split::Train]), &task);
    record_views(&mut recipe, &views.preprocessor);
    let workers = recipe.data.workers.unwrap_or(threads);
    let empty = || ModelConfig::from_object(&location.path, Map::new());
    let model_config = config.file.clone().unwrap_or_else(empty);
    let trainee = ImageTrainee::new((model, &store), (config, layout), splits, views, workers)?;
    Ok(Prepared {
        recipe,
        model_directory: location.path,
        config: model_config,
        task,
        trainee: ModalTrainee::Image(Box::new(trainee)),
        store,
        stages,
        load_report,
        lora,
        findings,
        reasons,
        lengths: BTreeMap::new(),
        hashes,
        context,
    })
}

/// What the checkpoint says about itself; an architecture that the recipe names goes before.
fn image_config(recipe: &Recipe, location: &ModelLocation) -> Result<ImageConfig, TrainError> {
    let named = recipe.model.architecture.as_deref();
    if location.config_only && named.is_none() && !location.path.exists() {
        return Ok(ImageConfig::new(vision::architecture(&location.path.to_string_lossy())?));
    }
    Ok(ImageConfig::open(&location.path, named)?)
}

/// Refuses what has an effect on texts only, or is not there for pictures yet.
fn refuse_text_settings(recipe: &Recipe) -> Result<(), TrainError> {
    let data = &recipe.data;
    let set = [
        ("data.text_column", data.text_column.is_some()),
        ("data.text_pair_column", data.text_pair_column.is_some()),
        ("data.max_length", data.max_length.is_some()),
        ("data.stride", data.stride.is_some()),
        ("data.stream", data.stream),
        ("train.group_by_length", recipe.train.group_by_length),
        ("what is about texts in [augmentation]", !recipe.augmentation.leaves_texts()),
    ];
    if let Some((key, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
        let message = format!("{key} is set, but the model reads pictures; remove it, or name a text model");
        return Err(TrainError::Setting(message));
    }
    Ok(())
}

/// Refuses augmentation that the task or the size of the input leaves without meaning.
fn check_augmentation(
    recipe: &Recipe,
    preprocessor: &ImagePreprocessor,
    problem_type: ProblemType,
) -> Result<(), TrainError> {
    if let (Some(key), ProblemType::Regression) = (recipe.augmentation.mixing_key(), problem_type) {
        let problem = "mixes labels in shares, but the targets are numbers; remove it";
        return Err(recipe.error(key, problem).into());
    }
    check_test_time(recipe.augmentation.test_time, preprocessor)
}

/// Refuses stages on pictures of a size that the network cannot train on.
fn check_stage_sizes(recipe: &Recipe, config: &ImageConfig, stages: &[Stage]) -> Result<(), TrainError> {
    let [own, _] = config.preprocessing.crop;
    for (index, stage) in stages.iter().enumerate() {
        let Some(size) = stage.image_size.filter(|&size| size != own) else { continue };
        let Architecture { name, smallest, patch, .. } = config.architecture;
        let problem = if patch.is_some() {
            format!(
                "{name} has weights for each place of pictures of {own} pixels, so that all stages train on these; \
                 remove it"
            )
        } else if size < *smallest {
            format!("{name} takes at least {smallest} pixels")
        } else {
            continue;
        };
        return Err(recipe.error(&format!("stage.{index}.image_size"), problem).into());
    }
    Ok(())
}

/// Refuses corners where the whole picture is the input.
///
/// # Errors
/// If the pictures are scaled to the input's own size.
pub(crate) fn check_test_time(
    test_time: TestTime,
    preprocessor: &ImagePreprocessor,
) -> Result<(), TrainError> {
    if test_time.has_corners() && preprocessor.fit == Fit::Exact(preprocessor.size) {
        let size = preprocessor.size;
        return Err(TrainError::Setting(format!(
            "augmentation.test_time takes the corners of pictures, but they are scaled to the input's {size} × {size} \
             pixels as a whole; take \"flip\", or set data.crop_pct to leave a border"
        )));
    }
    Ok(())
}

/// Takes a folder with `train`, `val` and `test` folders apart, unless the recipe names splits itself. In
/// cross-validation (`is_fold`) the training pictures are divided instead.
///
/// # Errors
/// If the folder cannot be listed.
pub fn expand_folders(recipe: &mut Recipe, is_fold: bool) -> Result<(), TrainError> {
    let data = &mut recipe.data;
    let named = data.validation.is_some() || data.validation_split.is_some() || data.test.is_some();
    let Some(train) = data.train.as_deref().map(Path::new).filter(|path| path.is_dir()) else {
        return Ok(());
    };
    let Some([Some(train), validation, test]) = split_folders(train)? else { return Ok(()) };
    let text = |path: PathBuf| path.display().to_string();
    data.train = Some(text(train));
    if !named {
        data.validation = validation.filter(|_| !is_fold).map(text);
        data.test = test.map(text);
    }
    Ok(())
}

/// How the checkpoint prepares pictures, with what the recipe says otherwise.
///
/// # Errors
/// If the input is not square, too small for the network, or its normalization does not fit its channels.
pub fn preprocessor_of(config: &ImageConfig, recipe: &Recipe) -> Result<ImagePreprocessor, TrainError> {
    let data = &recipe.data;
    let [height, width] = config.preprocessing.crop;
    if data.image_size.is_none() && height != width {
        return Err(TrainError::Setting(format!(
            "the model takes pictures of {height} × {width}; only square ones are supported: set data.image_size"
        )));
    }
    let size = data.image_size.unwrap_or(height);
    config.architecture.check_size(size)?;
    let preprocessing = if [size; 2] == [height, width] {
        config.preprocessing
    } else {
        config.preprocessing.with_size(size)
    };
    let fit = match (data.crop_pct, preprocessing.resize) {
        (Some(share), _) => Fit::ShorterEdge((size as f64 / share).floor() as usize),
        (None, Resize::ShorterEdge(edge)) => Fit::ShorterEdge(edge),
        (None, Resize::Exact([height, width])) => Fit::Exact(height.max(width)),
    };
    let channels = data.channels.map_or(config.channels, |channels| channels.count());
    let (mean, std) = preprocessing.normalization(channels);
    let interpolation = data.interpolation.unwrap_or(match preprocessing.interpolation {
        vision::Interpolation::Nearest => Interpolation::Nearest,
        vision::Interpolation::Lanczos => Interpolation::Lanczos,
        vision::Interpolation::Bilinear => Interpolation::Bilinear,
        vision::Interpolation::Bicubic => Interpolation::Bicubic,
    });
    let mean = data.image_mean.clone().unwrap_or(mean);
    let std = data.image_std.clone().unwrap_or(std);
    if mean.len() != channels {
        return Err(TrainError::Setting(format!(
            "data.image_mean has {} numbers, but the pictures have {channels} channels",
            mean.len()
        )));
    }
    let middle = middle_of(config.layout);
    let preprocessor = ImagePreprocessor { size, fit, middle, interpolation, mean, std };
    preprocessor.check()?;
    Ok(preprocessor)
}

/// Where the ecosystem of a checkpoint begins the middle of a picture.
fn middle_of(layout: Option<Layout>) -> Middle {
    match layout {
        Some(Layout::HuggingFace) => Middle::HalfDown,
        Some(Layout::Torchvision | Layout::Timm) | None => Middle::HalfToEven,
    }
}

/// The labels of the checkpoint's outputs: the recipe's, else the configuration's.
fn labels_of(config: &ImageConfig, recipe: &Recipe) -> Result<Option<LabelSet>, TrainError> {
    if let Some(names) = &recipe.model.labels {
        return Ok(Some(LabelSet::of_outputs(names.iter().cloned())?));
    }
    Ok(config.id2label.as_ref().and_then(|names| LabelSet::from_id2label(names).ok()))
}

/// Fills the model from its checkpoint, or at random where there is none.
fn load(
    context: &Context,
    recipe: &Recipe,
    (config, model): (&ImageConfig, &ImageClassifier),
    builder: ParameterBuilder,
    weights: Option<&Weights>,
    keeps_head: bool,
) -> Result<(ParameterStore, LoadReport, Layout), TrainError> {
    let seed = recipe.train.seed;
    let Some(weights) = weights else {
        let newly_initialized =
            builder.declarations().iter().map(|declaration| declaration.name.clone()).collect();
        let store = builder.build(context, seed, |_| Ok::<_, TrainError>(None))?;
        let layout = model.layout();
        return Ok((store, LoadReport { newly_initialized, ..LoadReport::default() }, layout));
    };
    let (source, layout) = model.source(&builder, config, weights)?;
    let outputs = builder.declarations().iter().find(|declaration| {
        model.output_parameters().contains(&declaration.name) && declaration.name.ends_with(".weight")
    });
    let fits = outputs.and_then(|declaration| declaration.shape.first().copied())
        == model.checkpoint_outputs(&source);
    let new_parameters = if keeps_head && fits { HashSet::new() } else { model.output_parameters() };
    let how = LoadOptions {
        allow_missing: recipe.model.allow_missing,
        allow_unused: recipe.model.allow_unused,
        new_parameters,
        seed,
    };
    let (store, report) = load_parameters(context, builder, model, source, &how)?;
    Ok((store, report, layout))
}

/// Pictures whose statistics replace those that a checkpoint lacks.
const RECALIBRATION_PICTURES: usize = 256;
const RECALIBRATION_BATCH: usize = 16;

/// The layer groups that train in any stage.
fn trained_groups(stages: &[Stage]) -> HashSet<usize> {
    let groups = |stage: &Stage| {
        let trains = stage.trainable_groups.iter().enumerate();
        trains.filter(|(_, trains)| **trains).map(|(group, _)| group).collect::<Vec<_>>()
    };
    stages.iter().flat_map(groups).collect()
}

/// The batch normalizations that the checkpoint holds with statistics that say nothing. Those that it lacks begin the same
/// way, and have nothing that would have to be kept.
fn folded_norms(store: &ParameterStore, report: &LoadReport) -> Vec<String> {
    let loaded: HashSet<&String> = report.loaded.iter().collect();
    let mut norms = store.uninformative_norms();
    norms.retain(|norm| loaded.contains(&format!("{norm}.running_mean")));
    norms
}

/// Batch normalization that was folded into its neighbours at the source is measured anew where it is going to train:
/// else its first live step would change what the network computes.
fn recalibrate(
    context: &Context,
    (store, folded): (&mut ParameterStore, &[String]),
    (model, views): (&ImageClassifier, &ImageViews),
    stages: &[Stage],
    train: &ImageDataset,
    tell: &mut dyn FnMut(Event),
) {
    if folded.is_empty() {
        return;
    }
    let trained = trained_groups(stages);
    let trains = |norm: &String| {
        let id = store.find(&format!("{norm}.running_mean"));
        id.is_some_and(|id| trained.contains(&store.declaration(id).group))
    };
    let norms: HashSet<String> = folded.iter().filter(|norm| trains(norm)).cloned().collect();
    if norms.is_empty() {
        tell(Event::note(format!(
            "{} batch normalizations of the checkpoint have statistics that say nothing (folded at the source); they are \
             frozen and stay as they are",
            folded.len()
        )));
        return;
    }
    // Spread over the data, which may be sorted by class. A batch is opened when the one before has been seen.
    let chosen = train.len().min(RECALIBRATION_PICTURES);
    let rows: Vec<usize> = (0..chosen).map(|index| index * train.len() / chosen).collect();
    let mut seen = 0;
    let batches = rows.chunks(RECALIBRATION_BATCH).filter_map(|rows| {
        let make = |&row: &usize| views.make(&train.examples[row].picture, None).ok();
        let pictures: Vec<_> = rows.iter().filter_map(make).collect();
        seen += pictures.len();
        let pixels = (!pictures.is_empty()).then(|| views.batch(context, pictures.iter().map(Some), 1))?;
        Some(ImageBatch::new(pixels, &(0..pictures.len() as u32).collect::<Vec<_>>()))
    });
    let changed = model.recalibrate(context, store, &norms, batches);
    // Nothing else computes on batches like these.
    context.pool().release_free();
    tell(Event::note(format!(
        "{changed} of {} batch normalizations had statistics that say nothing (folded at the source): they were measured \
         on {seen} training pictures, weights and biases changed so that the network computes what it did",
        folded.len()
    )));
}

/// Batches of fewer pictures give batch normalization noise for statistics.
const SMALL_BATCH: usize = 8;

/// Warns where batch normalization trains on few pictures at a time.
pub(super) fn warn_of_small_batches(
    recipe: &Recipe,
    store: &ParameterStore,
    stages: &[Stage],
    tell: &mut dyn FnMut(Event),
) {
    let batch_size = recipe.train.per_device_train_batch_size;
    let trained = trained_groups(stages);
    let is_live = |id| {
        let declaration = store.declaration(id);
        declaration.name.ends_with(".running_mean") && trained.contains(&declaration.group)
    };
    if batch_size < SMALL_BATCH && store.ids().any(is_live) {
        let message = format!(
            "batch normalization trains on batches of {batch_size}, whose statistics are noise; accumulation does not \
             help, since each batch is normalized alone. Raise per_device_train_batch_size, or freeze the groups that \
             have it"
        );
        tell(Event::warning("small-batch", message));
    }
}

/// Writes how pictures are prepared into the recipe.
fn record_views(recipe: &mut Recipe, preprocessor: &ImagePreprocessor) {
    let data = &mut recipe.data;
    data.image_size = Some(preprocessor.size);
    data.interpolation = Some(preprocessor.interpolation);
    data.image_mean = Some(preprocessor.mean.clone());
    data.image_std = Some(preprocessor.std.clone());
}
