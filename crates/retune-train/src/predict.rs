//! Answers with a model folder: an artifact of Retune or of its ecosystem.

use std::path::{Path, PathBuf};

use retune_autograd::Pooling;
use retune_checkpoint::{LoadReport, ModelConfig, Weights};
use retune_data::{
    DatasetOptions, EncodedDataset, Encoding, LabelSet, LengthPolicy, OnMissing, RoleOverrides, Target,
    TextDataset, TextTokenizer, TokenSequence, infer_roles, read_table,
};
use retune_kernels::Isa;
use retune_models::text::{HeadOverrides, TextClassifier, TextClassifierParts, TokenBatch};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::{Environment, Forward, ParameterBuilder, ParameterStore, Trainable};
use retune_tasks::metrics::EvaluationOptions;
use retune_tasks::{ClassificationTask, ProblemType};
use retune_tensor::Context;

use crate::TrainError;
use crate::artifact::configured_task;
use crate::evaluate::Evaluation;
use crate::prepare::{context_threads, make_context, over_length, products_of, read_options, role_overrides};
use crate::recipe::Recipe;
use crate::text::window_logits;

/// How a model answers.
#[derive(Clone, Debug, Default)]
pub struct PredictOptions {
    /// Tokens in a sequence at most; the model's own setting if `None`.
    pub max_length: Option<usize>,
    /// What to do with longer texts; the model's own setting if `None`.
    pub over_length: Option<crate::recipe::OverLength>,
    /// Tokens that windows share; a quarter of the length if `None`.
    pub stride: Option<usize>,
    /// Which views of a picture are averaged; the model's own setting if `None`.
    pub test_time: Option<crate::recipe::TestTime>,
    /// Worker threads; all cores if `None`.
    pub threads: Option<usize>,
    /// The kernels' instruction set.
    pub isa: Option<Isa>,
    /// Whether the model is used for features only, so that it needs no fitted head.
    pub features_only: bool,
}

/// A model ready to answer.
pub struct Predictor {
    directory: PathBuf,
    config: ModelConfig,
    model: TextClassifier,
    store: ParameterStore,
    trainable: Trainable,
    tokenizer: TextTokenizer,
    task: ClassificationTask,
    policy: LengthPolicy,
    load_report: LoadReport,
    context: Context,
}

impl Predictor {
    /// Opens a model folder.
    ///
    /// # Errors
    /// If the folder holds no model, or one without a fitted classification head (unless features are all that is
    /// wanted).
    pub fn open(directory: &Path, options: &PredictOptions) -> Result<Self, TrainError> {
        let config = ModelConfig::open(&directory.join("config.json"))?;
        let family = retune_models::text::family(&config)?;
        let labels = configured_labels(&config)?;
        let default = match labels.len() {
            1 => ProblemType::Regression,
            _ => ProblemType::SingleLabelClassification,
        };
        let task = configured_task(Some(&config), default, labels);
        let mut builder = ParameterBuilder::default();
        let parts = TextClassifierParts {
            config: &config,
            outputs: task.outputs(),
            head: HeadOverrides::default(),
            lora: None,
        };
        let model = TextClassifier::declare(&parts, &mut builder)?;
        let context = make_context(options.threads, options.isa, products_of(config.get("retune")))?;
        let weights = Weights::open(directory)?;
        let how = LoadOptions::default();
        let (store, load_report) = load_parameters(&context, builder, family, &weights, &how)?;
        if !options.features_only
            && let Some(new) = load_report.newly_initialized.first()
        {
            return Err(TrainError::Setting(format!(
                "{} has no fitted classification head ({new} is missing): fine-tune it first with `retune fit`",
                directory.display()
            )));
        }
        let tokenizer = TextTokenizer::from_directory(directory, config.string("model_type")?)?;
        tokenizer.check_against_model(model.sizes().vocab_size)?;
        let policy = length_policy(&config, options, &tokenizer, model.sizes().max_length())?;
        let trainable = Trainable::none(&store);
        Ok(Self {
            directory: directory.to_owned(),
            config,
            model,
            store,
            trainable,
            tokenizer,
            task,
            policy,
            load_report,
            context,
        })
    }

    /// The model's folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The labels and what the outputs mean.
    pub fn task(&self) -> &ClassificationTask {
        &self.task
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// What happens to long texts.
    pub fn policy(&self) -> &LengthPolicy {
        &self.policy
    }

    /// What became of the checkpoint's tensors.
    pub fn load_report(&self) -> &LoadReport {
        &self.load_report
    }

    /// The temperature that was fitted on validation data, if any.
    pub fn temperature(&self) -> Option<f64> {
        self.config.get("retune")?.get("temperature")?.as_f64()
    }

    /// Width of the features.
    pub fn hidden_size(&self) -> usize {
        self.model.sizes().hidden_size
    }

    /// The model's parameters.
    pub fn store(&self) -> &ParameterStore {
        &self.store
    }

    /// Encodes a text or a pair as the model was trained to read it.
    ///
    /// # Errors
    /// If the text is too long and the policy refuses it.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoding, TrainError> {
        Ok(self.tokenizer.encode(text, pair, &self.policy)?)
    }

    /// Reads a data file as the recipe's `[data]` section says: with targets in the model's labels, or without labels.
    ///
    /// # Errors
    /// If the file cannot be read, lacks a column, or (with targets) has a label that the model does not know.
    pub fn read(&self, recipe: &Recipe, path: &Path, with_targets: bool) -> Result<TextDataset, TrainError> {
        let table = read_table(path, &read_options(recipe)?)?;
        let mut overrides = RoleOverrides { unlabelled: !with_targets, ..role_overrides(recipe) };
        if with_targets {
            overrides.target_kind = Some(self.task.problem_type.target_kind());
        }
        let roles = infer_roles(&table, &overrides)?;
        let labels = (self.task.problem_type != ProblemType::Regression).then(|| self.task.labels.clone());
        let on_missing = OnMissing::from(recipe.data.missing_label);
        Ok(TextDataset::new(table, roles, &DatasetOptions { labels, on_missing })?)
    }

    /// Encodes a dataset's texts as the model was trained to read them.
    ///
    /// # Errors
    /// If a text is too long and the policy refuses it.
    pub fn encode_dataset(&self, dataset: &TextDataset) -> Result<EncodedDataset, TrainError> {
        let threads = context_threads(&self.context);
        Ok(self.tokenizer.encode_dataset(dataset, &self.policy, threads)?)
    }

    /// Measures logits [examples, outputs] of a dataset that was read with targets.
    ///
    /// # Errors
    /// If a logit is not finite or there is no example.
    pub fn measure(
        &self,
        dataset: &TextDataset,
        logits: &[f32],
        options: &EvaluationOptions,
    ) -> Result<Evaluation, TrainError> {
        let targets: Vec<&Target> = dataset.examples.iter().map(|example| &example.target).collect();
        Evaluation::measure(&self.context, &self.task, &targets, logits.to_vec(), options)
    }

    fn forward(&self) -> Forward<'_> {
        Forward::new(Environment::evaluation(&self.context, &self.store, &self.trainable))
    }

    /// Logits of encoded texts, [texts, outputs].
    pub fn logits(&self, encodings: &[&Encoding]) -> Vec<f32> {
        let windows: Vec<&[TokenSequence]> =
            encodings.iter().map(|encoding| encoding.windows.as_slice()).collect();
        let mut forward = self.forward();
        window_logits(&self.model, &mut forward, &windows, 0).tensor().values().to_vec()
    }

    /// Pooled features of encoded texts (of the first window of each), [texts, hidden].
    pub fn features(&self, encodings: &[&Encoding], pooling: Pooling) -> Vec<f32> {
        let sequences = encodings.iter().filter_map(|encoding| encoding.windows.first());
        let sequences = sequences.map(|sequence| (sequence.ids.as_slice(), sequence.type_ids.as_slice()));
        let samples: Vec<u32> = (0..encodings.len() as u32).collect();
        let batch = TokenBatch::pack(sequences, &samples);
        let mut forward = self.forward();
        self.model.features(&mut forward, &batch, pooling).tensor().values().to_vec()
    }
}

/// `LABEL_0`, `LABEL_1`, …: the reference's names of outputs that nobody named.
pub(crate) fn placeholder_labels(outputs: usize) -> Result<LabelSet, TrainError> {
    Ok(LabelSet::of_outputs((0..outputs).map(|index| format!("LABEL_{index}")))?)
}

/// The labels that a configuration names; `LABEL_0`, `LABEL_1`, … where it names none.
pub(crate) fn configured_labels(config: &ModelConfig) -> Result<LabelSet, TrainError> {
    if let Some(names) = config.get("id2label").and_then(|names| names.as_object()) {
        return Ok(LabelSet::from_id2label(names)?);
    }
    let outputs = config.optional_integer("num_labels")?.unwrap_or(2);
    placeholder_labels(outputs)
}

/// The caller's policy, else the one the model was trained with, else truncation at the model's greatest length.
fn length_policy(
    config: &ModelConfig,
    options: &PredictOptions,
    tokenizer: &TextTokenizer,
    model_max_length: usize,
) -> Result<LengthPolicy, TrainError> {
    let trained = config.get("retune");
    let trained_length =
        trained.and_then(|retune| retune.get("max_length")?.as_u64()).map(|length| length as usize);
    let longest =
        tokenizer.model_max_length().map_or(model_max_length, |length| length.min(model_max_length));
    let max_length = options.max_length.or(trained_length).unwrap_or(longest);
    if max_length > model_max_length {
        return Err(TrainError::Setting(format!(
            "max_length = {max_length}, but this model takes at most {model_max_length} tokens"
        )));
    }
    let trained_policy = trained.and_then(|retune| {
        let policy = serde_json::from_value(retune.get("over_length")?.clone()).ok()?;
        let stride = retune.get("stride").and_then(|stride| stride.as_u64()).map(|stride| stride as usize);
        Some(over_length(policy, stride, max_length))
    });
    let asked = options.over_length.map(|policy| over_length(policy, options.stride, max_length));
    let over_length = asked.or(trained_policy).unwrap_or_default();
    Ok(LengthPolicy { max_length, over_length })
}
