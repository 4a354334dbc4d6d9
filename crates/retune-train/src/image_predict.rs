//! Answers about pictures with an image model: an artifact of Retune or of its ecosystem, or bare weights with a name.

use std::path::{Path, PathBuf};

use retune_checkpoint::{LoadReport, Weights};
use retune_data::image::{ImageDataset, Picture, PictureOptions, PictureProblem, Pixels, open_pictures};
use retune_data::{DatasetOptions, LabelSet, Modality, OnMissing, ReadAhead, RoleOverrides, Target};
use retune_models::vision::{ImageClassifier, ImageClassifierParts, ImageConfig};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::{Environment, Forward, ParameterBuilder, ParameterStore, Trainable};
use retune_tasks::metrics::EvaluationOptions;
use retune_tasks::{ClassificationTask, ProblemType};
use retune_tensor::Context;
use std::sync::Arc;

use crate::TrainError;
use crate::artifact::configured_task;
use crate::evaluate::Evaluation;
use crate::image::{ImageViews, TrainingSize, ViewChoice};
use crate::predict::{PredictOptions, placeholder_labels};
use crate::prepare::{
    check_test_time, context_threads, make_context, preprocessor_of, products_of, read_options,
    read_with_roles, role_overrides,
};
use crate::recipe::{Recipe, TestTime};
use crate::trainee::read_ahead;

/// An image model ready to answer.
pub struct ImagePredictor {
    path: PathBuf,
    config: ImageConfig,
    model: ImageClassifier,
    store: ParameterStore,
    trainable: Trainable,
    task: ClassificationTask,
    views: Arc<ImageViews>,
    load_report: LoadReport,
    context: Context,
    ahead: ReadAhead<PictureRequest, Result<Pixels, PictureProblem>>,
}

/// A picture by its place in the dataset, which makes the request small.
#[derive(Clone)]
struct PictureRequest {
    index: usize,
    picture: Arc<Picture>,
}

impl PartialEq for PictureRequest {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && Arc::ptr_eq(&self.picture, &other.picture)
    }
}

impl Eq for PictureRequest {}

impl std::hash::Hash for PictureRequest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.index.hash(state);
    }
}

impl ImagePredictor {
    /// Opens a model folder, or a file of bare weights whose architecture (and labels) the recipe names.
    ///
    /// # Errors
    /// If there is no model, or one without a fitted head.
    pub fn open(path: &Path, recipe: &Recipe, options: &PredictOptions) -> Result<Self, TrainError> {
        let mut config = ImageConfig::open(path, recipe.model.architecture.as_deref())?;
        let preprocessor = preprocessor_of(&config, recipe)?;
        config.set_size(preprocessor.size);
        let weights = Weights::open(path)?;
        let outputs = ImageClassifier::outputs_in(&config, &weights)?.ok_or_else(|| no_head(path))?;
        let task = task_of(&config, recipe, outputs)?;
        if task.outputs() != outputs {
            return Err(TrainError::Setting(format!(
                "{} has {outputs} outputs, but {} labels are named",
                path.display(),
                task.outputs()
            )));
        }
        let context = make_context(
            options.threads,
            options.isa,
            products_of(config.file.as_ref().and_then(|file| file.get("retune"))),
        )?;
        let mut builder = ParameterBuilder::default();
        let channels = preprocessor.channels();
        let parts =
            ImageClassifierParts { config: &config, outputs, channels, dropout: None, drop_path: None };
        let model = ImageClassifier::declare(&parts, &mut builder);
        let (source, _) = model.source(&builder, &config, &weights)?;
        let (store, load_report) =
            load_parameters(&context, builder, &model, source, &LoadOptions::default())?;
        if load_report.newly_initialized.iter().any(|name| model.output_parameters().contains(name)) {
            return Err(no_head(path));
        }
        let test_time = config.file.as_ref().and_then(|file| file.get("retune")?.get("test_time").cloned());
        let trained: Option<TestTime> = test_time.and_then(|value| serde_json::from_value(value).ok());
        let test_time = options.test_time.or(trained).unwrap_or_default();
        check_test_time(test_time, &preprocessor)?;
        let augmentation = recipe.augmentation.to_augmentation();
        let problem_type = task.problem_type;
        let choice = ViewChoice::Fresh;
        let training_size = TrainingSize::default();
        let views = ImageViews { preprocessor, augmentation, choice, test_time, problem_type, training_size };
        let views = Arc::new(views);
        let shared = Arc::clone(&views);
        let workers = recipe.data.workers.unwrap_or_else(|| context_threads(&context));
        let make = move |request: &PictureRequest| shared.make(&request.picture, None);
        let ahead = read_ahead(workers, "pictures", make)?;
        let trainable = Trainable::none(&store);
        Ok(Self {
            path: path.to_owned(),
            config,
            model,
            store,
            trainable,
            task,
            views,
            load_report,
            context,
            ahead,
        })
    }

    /// The model's folder, or its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The labels and what the outputs mean.
    pub fn task(&self) -> &ClassificationTask {
        &self.task
    }

    /// What became of the checkpoint's tensors.
    pub fn load_report(&self) -> &LoadReport {
        &self.load_report
    }

    /// The temperature that was fitted on validation data, if any.
    pub fn temperature(&self) -> Option<f64> {
        self.config.file.as_ref()?.get("retune")?.get("temperature")?.as_f64()
    }

    /// Reads a folder of pictures or a data file as the recipe's `[data]` section says: with targets in the model's
    /// labels, or without labels. Every picture is opened.
    ///
    /// # Errors
    /// If the data cannot be read, pictures are broken (unless they are to be left out), or, with targets, a label is
    /// one that the model does not know.
    pub fn read(&self, recipe: &Recipe, path: &Path, with_targets: bool) -> Result<ImageDataset, TrainError> {
        let options = read_options(recipe)?;
        let mut overrides =
            RoleOverrides { unlabelled: !with_targets, modality: Modality::Image, ..role_overrides(recipe) };
        if with_targets {
            overrides.target_kind = Some(self.task.problem_type.target_kind());
        }
        let (mut table, roles) = read_with_roles(path, &options, &overrides)?;
        let threads = context_threads(&self.context);
        let pictures =
            PictureOptions { on_bad_row: options.on_bad_row, threads, ..PictureOptions::default() };
        open_pictures(&mut table, &roles, &pictures)?;
        let findings = std::mem::take(&mut table.findings);
        let labels = (self.task.problem_type != ProblemType::Regression).then(|| self.task.labels.clone());
        let on_missing = OnMissing::from(recipe.data.missing_label);
        let mut dataset = ImageDataset::from_pictures(table, roles, &DatasetOptions { labels, on_missing })?;
        dataset.findings.splice(0..0, findings);
        Ok(dataset)
    }

    /// Logits [pictures, outputs] of some of a dataset's pictures, while those of `next` are made ready.
    ///
    /// # Errors
    /// If a picture cannot be opened any more.
    pub fn logits(
        &self,
        dataset: &ImageDataset,
        pictures: std::ops::Range<usize>,
        next: std::ops::Range<usize>,
    ) -> Result<Vec<f32>, TrainError> {
        let requests = |range: std::ops::Range<usize>| -> Vec<PictureRequest> {
            let request = |index: usize| {
                Some(PictureRequest { index, picture: Arc::clone(&dataset.examples.get(index)?.picture) })
            };
            range.filter_map(request).collect()
        };
        let wanted = requests(pictures);
        self.ahead.announce(&[wanted.clone(), requests(next)].concat());
        let mut pixels = Vec::with_capacity(wanted.len());
        for (request, result) in wanted.iter().zip(self.ahead.take(&wanted)) {
            pixels.push(result.map_err(|problem| {
                TrainError::Setting(format!(
                    "{} {problem}; it could be opened before",
                    dataset.origin(request.index)
                ))
            })?);
        }
        let mut forward = Forward::new(Environment::evaluation(&self.context, &self.store, &self.trainable));
        let logits = self.views.logits(&self.model, &mut forward, pixels.iter().map(Some), 0);
        Ok(logits.tensor().values().to_vec())
    }

    /// Measures logits [pictures, outputs] of a dataset that was read with targets.
    ///
    /// # Errors
    /// If a logit is not finite or there is no example.
    pub fn measure(
        &self,
        dataset: &ImageDataset,
        logits: &[f32],
        options: &EvaluationOptions,
    ) -> Result<Evaluation, TrainError> {
        let targets: Vec<&Target> = dataset.examples.iter().map(|example| &example.target).collect();
        Evaluation::measure(&self.context, &self.task, &targets, logits.to_vec(), options)
    }
}

fn no_head(path: &Path) -> TrainError {
    TrainError::Setting(format!(
        "{} has no fitted classification head: fine-tune it first with `retune fit`",
        path.display()
    ))
}

/// Labels by the recipe, else by the configuration, else `LABEL_0`, `LABEL_1`, ….
fn task_of(config: &ImageConfig, recipe: &Recipe, outputs: usize) -> Result<ClassificationTask, TrainError> {
    let labels = match (&recipe.model.labels, &config.id2label) {
        (Some(names), _) => LabelSet::of_outputs(names.iter().cloned())?,
        (None, Some(names)) => LabelSet::from_id2label(names)?,
        (None, None) => placeholder_labels(outputs)?,
    };
    Ok(configured_task(config.file.as_ref(), ProblemType::SingleLabelClassification, labels))
}
