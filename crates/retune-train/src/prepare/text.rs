//! Texts: tokenizer, text classifier and encoded splits.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use retune_checkpoint::{ModelConfig, Weights};
use retune_data::{
    EncodedDataset, LabelSet, LengthPolicy, Modality, TOKENS, TextDataset, TextExample, TextTokenizer,
    TokenCache,
};
use retune_models::text::{HeadOverrides, TextClassifier, TextClassifierParts};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::ParameterBuilder;
use retune_tasks::{ClassificationTask, ProblemType};

use super::data::{
    Tables, TrainingData, labels_of_model, make_datasets, make_task, read_tables, refuse_errors,
};
use super::paraphrases::paraphrases;
use super::stream::{self, Encoder, Streamed};
use super::{
    ModelLocation, PrepareOptions, Prepared, check_imbalance, check_metric, check_thresholds,
    context_threads, hash_inputs, make_context, record_choices,
};
use crate::TrainError;
use crate::event::Event;
use crate::modality::ModalTrainee;
use crate::recipe::{Recipe, TokenCacheMode};
use crate::stages::plan_stages;
use crate::text::{TextRows, TextSplit, TextTrainee, TextViews};
use crate::trainee::Split;

/// Texts of fewer bytes are tokenized in about a second, and their token ids not kept unless the recipe says so.
const SMALLEST_KEPT: u64 = 4 << 20;
/// Bytes of token ids on disk at most, unless the recipe says otherwise.
const TOKEN_CACHE_DISK_BYTES: u64 = 16 << 30;

/// Prepares a run on texts.
pub(super) fn prepare(
    mut recipe: Recipe,
    options: &PrepareOptions,
    location: ModelLocation,
    tell: &mut dyn FnMut(Event),
) -> Result<Prepared, TrainError> {
    refuse_image_settings(&recipe)?;
    let context = make_context(recipe.train.threads, options.isa, recipe.train.precision.of_products())?;
    let model_directory = location.path;
    let config = ModelConfig::open(&model_directory.join("config.json"))?;
    let model_type = config.string("model_type")?.to_owned();
    let family = retune_models::text::family(&config)?;

    let threads = context_threads(&context);
    let of_model = labels_of(&config);
    let cache = token_cache(&recipe, &options.resolve.cache_dir);
    let tokenizer = TextTokenizer::from_directory(&model_directory, &model_type)?;
    let policy = length_policy(&mut recipe, &tokenizer, greatest_length(&config)?)?;
    let (source, findings) = if recipe.data.stream {
        let is_kept = recipe.data.token_cache != TokenCacheMode::Off;
        let encoder = Encoder { tokenizer: &tokenizer, policy: &policy, cache: &cache, threads, is_kept };
        let (streamed, findings) =
            stream::read(&recipe, options.fold.is_some(), of_model.as_ref(), &encoder, tell)?;
        (Source::Streamed(Box::new(streamed)), findings)
    } else {
        let Tables { tables, findings } = read_tables(&recipe, Modality::Text, threads, tell)?;
        refuse_errors(&findings)?;
        let make = (TextDataset::new as fn(_, _, &_) -> _, of_model.as_ref());
        (Source::InMemory(make_datasets(&recipe, options.fold, tables, make, tell)?), findings)
    };
    let reasons = source.train().roles.reasons.clone();
    let task = make_task(&mut recipe, &source.train())?;

    check_metric(&recipe, &task)?;
    check_imbalance(&recipe, &task)?;
    check_thresholds(&recipe, options.fold.is_some(), &task)?;
    let lora = recipe.strategy.lora();
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

    tokenizer.check_against_model(model.sizes().vocab_size)?;
    record_choices(&mut recipe, &source.train(), &task);
    let (datasets, streamed, known) = match source {
        Source::InMemory(datasets) => (datasets, None, None),
        Source::Streamed(streamed) => {
            let Streamed { rows, encoded, hash, others } = *streamed;
            let rows = TextRows::Streamed(Box::new(rows));
            (others, Some(TextSplit { rows, encoded }), Some(hash))
        }
    };
    let paraphrases = paraphrases(&mut recipe, &options.resolve.cache_dir, &datasets, tell)?;
    let mut splits = encode_splits(datasets, &tokenizer, (&cache, &policy), threads, tell)?;
    splits.extend(streamed.map(|train| (Split::Train, train)));
    let lengths = splits.iter().map(|(&split, text)| (split, text.encoded.report.clone())).collect();
    let mut model_files = tokenizer.files();
    model_files.push(config.path().to_owned());
    let hashes = hash_inputs(&recipe, Some(&weights), &model_files, known)?;
    let augmentation = recipe.augmentation.to_text_augmentation();
    let varies = !augmentation.is_none() || paraphrases.is_some();
    let views = varies.then(|| TextViews { augmentation, paraphrases, tokenizer, policy });
    let workers = recipe.data.workers.unwrap_or(threads);
    let trainee = ModalTrainee::Text(Box::new(TextTrainee::new(model, splits, views, workers)?));
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

/// Data that was read.
enum Source {
    InMemory(BTreeMap<Split, TextDataset>),
    Streamed(Box<Streamed>),
}

impl Source {
    fn train(&self) -> TrainingData<'_> {
        match self {
            Self::InMemory(datasets) => TrainingData::of(&datasets[&Split::Train]),
            Self::Streamed(streamed) => {
                let texts = &streamed.rows.texts;
                TrainingData::new(&texts.about, texts.len(), texts.class_counts())
            }
        }
    }
}

/// Tokens that a model takes at most, before it is known how many outputs it has.
fn greatest_length(config: &ModelConfig) -> Result<usize, TrainError> {
    let head = HeadOverrides { dropout: None };
    let parts = TextClassifierParts { config, outputs: 2, head, lora: None };
    Ok(TextClassifier::declare(&parts, &mut ParameterBuilder::default())?.sizes().max_length())
}

/// Where a recipe keeps token ids. What is streamed is put down somewhere whatever the recipe says.
fn token_cache(recipe: &Recipe, cache_dir: &Path) -> TokenCache {
    let data = &recipe.data;
    let (is_kept, smallest) = match data.token_cache {
        TokenCacheMode::Auto => (true, SMALLEST_KEPT),
        TokenCacheMode::On => (true, 0),
        TokenCacheMode::Off => (false, u64::MAX),
    };
    TokenCache {
        root: cache_dir.join(TOKENS),
        limit: if is_kept || data.stream {
            data.token_cache_disk_bytes.unwrap_or(TOKEN_CACHE_DISK_BYTES)
        } else {
            0
        },
        smallest,
        model: recipe.model.name_or_path.clone(),
    }
}

/// The token ids of all splits. Splits of one file share its tokens: another seed or fold finds them all the same.
fn encode_splits(
    datasets: BTreeMap<Split, TextDataset>,
    tokenizer: &TextTokenizer,
    (cache, policy): (&TokenCache, &LengthPolicy),
    threads: usize,
    tell: &mut dyn FnMut(Event),
) -> Result<BTreeMap<Split, TextSplit>, TrainError> {
    // The training file first, so that what is wrong everywhere is said of it.
    let mut of_files: Vec<(&Path, BTreeMap<u64, &TextExample>)> = Vec::new();
    for dataset in datasets.values() {
        let rows = dataset.examples.iter().map(|example| (example.id, example));
        match of_files.iter_mut().find(|(path, _)| *path == dataset.path()) {
            Some((_, known)) => known.extend(rows),
            None => of_files.push((dataset.path(), rows.collect())),
        }
    }
    let mut encoded = BTreeMap::new();
    for (path, rows) in of_files {
        let (ids, examples): (Vec<u64>, Vec<&TextExample>) = rows.into_iter().unzip();
        let (columns, used) = cache.encode(tokenizer, path, &examples, policy, threads)?;
        if used.found {
            tell(Event::note(format!("{}: token ids found in the cache", path.display())));
        }
        used.failures.into_iter().for_each(|failure| tell(Event::warning("token-cache", failure)));
        let columns = Arc::new(columns);
        for (&split, dataset) in datasets.iter().filter(|(_, dataset)| dataset.path() == path) {
            let place = |example: &TextExample| ids.binary_search(&example.id).ok().map(|place| place as u32);
            let chosen: Vec<u32> = dataset.examples.iter().filter_map(place).collect();
            encoded.insert(split, EncodedDataset::of_some(Arc::clone(&columns), chosen, policy));
        }
    }
    let with_tokens = |(split, dataset)| {
        let encoded = encoded.remove(&split)?;
        Some((split, TextSplit { rows: TextRows::InMemory(Arc::new(dataset)), encoded }))
    };
    Ok(datasets.into_iter().filter_map(with_tokens).collect())
}

/// Refuses what has an effect on pictures only.
fn refuse_image_settings(recipe: &Recipe) -> Result<(), TrainError> {
    let data = &recipe.data;
    let set = [
        ("data.image_column", data.image_column.is_some()),
        ("data.image_size", data.image_size.is_some()),
        ("data.crop_pct", data.crop_pct.is_some()),
        ("data.interpolation", data.interpolation.is_some()),
        ("data.channels", data.channels.is_some()),
        ("data.image_mean", data.image_mean.is_some()),
        ("data.image_std", data.image_std.is_some()),
        ("stage.image_size", recipe.stage.iter().any(|stage| stage.image_size.is_some())),
        ("what is about pictures in [augmentation]", !recipe.augmentation.leaves_pictures()),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) => Err(TrainError::Setting(format!(
            "{key} is set, but the model reads text; remove it, or name an image model"
        ))),
        None => Ok(()),
    }
}

/// The labels that a configuration names.
fn labels_of(config: &ModelConfig) -> Option<LabelSet> {
    LabelSet::from_id2label(config.get("id2label")?.as_object()?).ok()
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
        _ => labels_of_model(labels_of(config).as_ref(), &task.labels).is_some(),
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
