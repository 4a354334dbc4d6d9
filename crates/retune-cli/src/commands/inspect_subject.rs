//! What `retune inspect` says of a model by its modality.

use retune::checkpoint::{ModelConfig, Weights};
use retune::data::image::ImagePreprocessor;
use retune::data::{LabelSet, TextTokenizer};
use retune::models::text::{HeadOverrides, TextClassifier, TextClassifierParts};
use retune::models::vision::{self, ImageClassifier, ImageClassifierParts, ImageConfig};
use retune::models::{LoadRules, Source};
use retune::nn::ParameterBuilder;
use retune::train::{Recipe, TrainError, preprocessor_of};
use serde_json::{Value, json};

use crate::console::Failure;
use crate::format::{count, counted};
use crate::inputs::ModelFiles;

/// A model of one of the modalities.
pub(super) enum Subject {
    Text {
        model: Box<TextClassifier>,
        tokenizer: Result<Tokenizer, String>,
    },
    Image {
        model: Box<ImageClassifier>,
        config: Box<ImageConfig>,
        preprocessor: Result<ImagePreprocessor, String>,
    },
}

pub(super) struct Tokenizer {
    kind: String,
    files: Vec<String>,
    vocabulary_size: usize,
    model_max_length: Option<usize>,
    problem: Option<String>,
}

impl Subject {
    /// Declares the model; also its outputs, and the labels that its configuration names.
    pub(super) fn declare(
        files: &ModelFiles,
        recipe: &Recipe,
        outputs: Option<usize>,
        builder: &mut ParameterBuilder,
    ) -> Result<(Self, usize, LabelSet), Failure> {
        let file = files.directory.join("config.json");
        let named = recipe.model.architecture.as_deref();
        let config = match named {
            None if file.is_file() => Some(ModelConfig::open(&file).map_err(TrainError::from)?),
            _ => None,
        };
        match config {
            Some(config) if !ImageConfig::describes_images(&config) => {
                Self::text(files, recipe, &config, outputs, builder)
            }
            _ => Self::image(files, recipe, named, outputs, builder),
        }
    }

    fn text(
        files: &ModelFiles,
        recipe: &Recipe,
        config: &ModelConfig,
        outputs: Option<usize>,
        builder: &mut ParameterBuilder,
    ) -> Result<(Self, usize, LabelSet), Failure> {
        let names = config.get("id2label").and_then(Value::as_object);
        let named = names.map(LabelSet::from_id2label).transpose().map_err(TrainError::from)?;
        let outputs = match (outputs, &named) {
            (Some(outputs), _) => outputs,
            (None, Some(labels)) => labels.len(),
            (None, None) => config.optional_integer("num_labels").map_err(TrainError::from)?.unwrap_or(2),
        };
        let lora = recipe.strategy.lora();
        let parts = TextClassifierParts { config, outputs, head: HeadOverrides::default(), lora };
        let model = TextClassifier::declare(&parts, builder).map_err(TrainError::from)?;
        let tokenizer = Tokenizer::open(files, config, model.sizes().vocab_size);
        Ok((Self::Text { model: Box::new(model), tokenizer }, outputs, named.unwrap_or_default()))
    }

    fn image(
        files: &ModelFiles,
        recipe: &Recipe,
        named: Option<&str>,
        outputs: Option<usize>,
        builder: &mut ParameterBuilder,
    ) -> Result<(Self, usize, LabelSet), Failure> {
        let mut config = ImageConfig::open(&files.weights, named).map_err(TrainError::from)?;
        let preprocessor = preprocessor_of(&config, recipe).map_err(|error| error.to_string());
        if let Ok(preprocessor) = &preprocessor {
            config.set_size(preprocessor.size);
        }
        let names = config.id2label.as_ref();
        let labels = names.map(LabelSet::from_id2label).transpose().map_err(TrainError::from)?;
        let outputs = match (outputs, &labels) {
            (Some(outputs), _) => outputs,
            (None, Some(labels)) => labels.len(),
            (None, None) => config.num_classes.or_else(|| weights_outputs(files, &config)).unwrap_or(2),
        };
        let channels = recipe.data.channels.map_or(config.channels, |channels| channels.count());
        let parts =
            ImageClassifierParts { config: &config, outputs, channels, dropout: None, drop_path: None };
        let model = match recipe.strategy.lora() {
            None => ImageClassifier::declare(&parts, builder),
            Some(lora) => {
                let model;
                (model, *builder) =
                    ImageClassifier::declare_adapted(&parts, &lora).map_err(TrainError::from)?;
                model
            }
        };
        let subject = Self::Image { model: Box::new(model), config: Box::new(config), preprocessor };
        Ok((subject, outputs, labels.unwrap_or_default()))
    }

    /// The checkpoint's tensors under the model's names.
    pub(super) fn source<'a>(
        &self,
        builder: &ParameterBuilder,
        weights: &'a Weights,
    ) -> Result<Source<'a>, Failure> {
        Ok(match self {
            Self::Text { .. } => weights.into(),
            Self::Image { model, config, .. } => {
                model.source(builder, config, weights).map_err(TrainError::from)?.0
            }
        })
    }

    /// What it knows about checkpoints of itself.
    pub(super) fn rules(&self) -> &dyn LoadRules {
        match self {
            Self::Text { model, .. } => model.family(),
            Self::Image { model, .. } => &**model,
        }
    }

    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Text { model, tokenizer } => {
                let (family, sizes) = (model.family(), model.sizes());
                let sizes = format!(
                    "{}, hidden {}, {}, feed-forward {}, vocabulary {}, up to {} tokens",
                    counted(sizes.layers, "block"),
                    count(sizes.hidden_size),
                    counted(sizes.heads, "head"),
                    count(sizes.intermediate_size),
                    count(sizes.vocab_size),
                    count(sizes.max_length()),
                );
                let tokenizer = match tokenizer {
                    Ok(tokenizer) => tokenizer.to_text(),
                    Err(problem) => format!("not usable: {problem}"),
                };
                vec![
                    ("family", family.model_type.to_owned()),
                    ("paper", family.paper.to_owned()),
                    ("sizes", sizes),
                    ("tokenizer", tokenizer),
                ]
            }
            Self::Image { model, preprocessor, .. } => {
                let inputs = match preprocessor {
                    Ok(preprocessor) => format!(
                        "{0} × {0} pixels, {1}, mean {2:?}, deviation {3:?}",
                        preprocessor.size,
                        counted(preprocessor.channels(), "channel"),
                        preprocessor.mean,
                        preprocessor.std,
                    ),
                    Err(problem) => format!("not usable: {problem}"),
                };
                let mut facts = vec![("network", model.architecture().name.to_owned())];
                facts.extend(family(model).map(|family| ("paper", family.paper.to_owned())));
                facts.push(("features", count(model.feature_dim())));
                facts.push(("inputs", inputs));
                facts
            }
        }
    }

    /// The keys of the JSON answer that depend on the modality.
    pub(super) fn to_json(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Text { model, tokenizer } => {
                let (family, sizes) = (model.family(), model.sizes());
                let described = json!({
                    "model_type": family.model_type,
                    "paper": family.paper,
                    "architecture": family.sequence_classification,
                });
                let sizes = json!({
                    "layers": sizes.layers,
                    "hidden_size": sizes.hidden_size,
                    "heads": sizes.heads,
                    "intermediate_size": sizes.intermediate_size,
                    "vocab_size": sizes.vocab_size,
                    "max_length": sizes.max_length(),
                });
                let tokenizer = match tokenizer {
                    Ok(tokenizer) => tokenizer.to_json(),
                    Err(problem) => json!({ "error": problem }),
                };
                vec![("family", described), ("sizes", sizes), ("tokenizer", tokenizer)]
            }
            Self::Image { model, preprocessor, .. } => {
                let family = family(model);
                let described = json!({
                    "model_type": family.map(|family| family.name),
                    "paper": family.map(|family| family.paper),
                    "architecture": model.architecture().name,
                });
                let preprocessor = match preprocessor {
                    Ok(preprocessor) => json!(preprocessor),
                    Err(problem) => json!({ "error": problem }),
                };
                let sizes = json!({ "feature_dim": model.feature_dim() });
                vec![("family", described), ("sizes", sizes), ("preprocessor", preprocessor)]
            }
        }
    }
}

fn family(model: &ImageClassifier) -> Option<&'static vision::ImageFamily> {
    let name = model.architecture().name;
    vision::architectures().find(|(_, known)| known.name == name).map(|(family, _)| family)
}

/// Outputs of the weights' own output layer, if they can be read and have one.
fn weights_outputs(files: &ModelFiles, config: &ImageConfig) -> Option<usize> {
    ImageClassifier::outputs_in(config, &Weights::open(&files.weights).ok()?).ok()?
}

impl Tokenizer {
    fn open(files: &ModelFiles, config: &ModelConfig, vocab_size: usize) -> Result<Self, String> {
        let model_type = config.string("model_type").map_err(|error| error.to_string())?;
        let tokenizer =
            TextTokenizer::from_directory(&files.directory, model_type).map_err(|error| error.to_string())?;
        let file_name = |path: &std::path::PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        let file_names: Vec<String> = tokenizer.files().iter().filter_map(file_name).collect();
        Ok(Self {
            kind: tokenizer_kind(files, &file_names),
            files: file_names,
            vocabulary_size: tokenizer.vocabulary_size(),
            model_max_length: tokenizer.model_max_length(),
            problem: tokenizer.check_against_model(vocab_size).err().map(|error| error.to_string()),
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}, {}", self.kind, counted(self.vocabulary_size, "token"));
        if let Some(length) = self.model_max_length {
            text.push_str(&format!(", made for up to {} a text", count(length)));
        }
        if let Some(problem) = &self.problem {
            text.push_str("\ndoes not fit: ");
            text.push_str(problem);
        }
        text
    }

    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind,
            "files": self.files,
            "vocabulary_size": self.vocabulary_size,
            "model_max_length": self.model_max_length,
            "problem": self.problem,
        })
    }
}

/// The algorithm, as `tokenizer.json` names it or as the vocabulary files imply it.
fn tokenizer_kind(files: &ModelFiles, file_names: &[String]) -> String {
    let has = |name: &str| file_names.iter().any(|file| file == name);
    if has("tokenizer.json") {
        let text = std::fs::read(files.directory.join("tokenizer.json")).unwrap_or_default();
        let json: Value = serde_json::from_slice(&text).unwrap_or_default();
        let kind = json["model"]["type"].as_str().unwrap_or("unnamed algorithm");
        return format!("{kind} (tokenizer.json)");
    }
    if has("vocab.txt") {
        "WordPiece (vocab.txt)".to_owned()
    } else {
        "BPE (vocab.json, merges.txt)".to_owned()
    }
}
