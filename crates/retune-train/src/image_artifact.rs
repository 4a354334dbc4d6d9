//! The artifact of an image model: the names of its checkpoint's ecosystem, and a configuration that says how pictures
//! are prepared and what the outputs mean.

use std::path::Path;

use retune_checkpoint::{ModelConfig, Weights, save_safetensors};
use retune_data::image::{Fit, ImagePreprocessor, Interpolation};
use retune_models::vision::{self, ImageAdapter, ImageClassifier, ImageClassifierParts, ImageConfig, Layout};
use retune_models::{LoadOptions, LoraConfig, load_parameters};
use retune_nn::{Environment, Forward, ParameterBuilder, ParameterStore, Trainable};
use retune_tasks::ClassificationTask;
use retune_tensor::{Context, Precision};
use serde_json::{Map, Value, json};

use crate::artifact::{Certificate, adapter_folder, peft_config, thresholds_json};
use crate::image::ImageTrainee;
use crate::trainee::Split;
use crate::{RunFolder, TrainError};

/// What the artifact is made of beside the weights.
pub(crate) struct ImageArtifact<'a> {
    pub trainee: &'a ImageTrainee,
    pub task: &'a ClassificationTask,
    pub temperature: Option<f64>,
    pub precision: Precision,
}

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";

impl ImageArtifact<'_> {
    /// Writes configuration and weights into the run folder's root.
    pub fn write(&self, folder: &RunFolder, store: &ParameterStore, model: &Path) -> Result<(), TrainError> {
        let stored = self.trainee.model.stored(store, self.trainee.layout)?;
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        save_safetensors(&folder.path(WEIGHTS), &stored.tensors(), &metadata)?;
        match self.trainee.layout {
            Layout::HuggingFace => self.write_hugging_face(folder, model),
            Layout::Torchvision | Layout::Timm => {
                let config = self.timm_config();
                Ok(ModelConfig::from_object(&folder.path(CONFIG), config).save(&folder.path(CONFIG))?)
            }
        }
    }

    /// Writes `adapter/` in PEFT's layout: the low-rank matrices, and the head under `modules_to_save`.
    pub fn write_adapter(
        &self,
        folder: &RunFolder,
        store: &ParameterStore,
        lora: &LoraConfig,
        base_model: &str,
    ) -> Result<(), TrainError> {
        let ImageAdapter { tensors, target_modules, modules_to_save } =
            self.trainee.model.adapter(store, self.trainee.layout)?;
        let path = adapter_folder(folder)?.join("adapter_model.safetensors");
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        save_safetensors(&path, &tensors.tensors(), &metadata)?;
        let config = peft_config(lora, base_model, None, &target_modules, &modules_to_save);
        folder.write_json("adapter/adapter_config.json", &config)
    }

    /// timm's `config.json`, which also says what torchvision's weights have no file for.
    fn timm_config(&self) -> Map<String, Value> {
        let ImageTrainee { model, layout, views, .. } = self.trainee;
        let architecture = model.architecture();
        let name = match layout {
            Layout::Timm => architecture.timm.unwrap_or(architecture.name),
            _ => architecture.name,
        };
        let preprocessor = &views.preprocessor;
        let (size, outputs) = (preprocessor.size, self.task.outputs());
        let (crop_mode, crop_pct) = match preprocessor.fit {
            Fit::ShorterEdge(edge) => ("center", crop_pct(size, edge)),
            Fit::Exact(edge) => ("squash", crop_pct(size, edge)),
        };
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
        set("architecture", json!(name));
        set("num_classes", json!(outputs));
        set("num_features", json!(model.feature_dim()));
        set("label_names", json!(self.task.labels.names()));
        set("id2label", Value::Object(self.task.labels.to_id2label()));
        set("label2id", Value::Object(self.task.labels.to_label2id()));
        set("problem_type", json!(self.task.problem_type));
        set(
            "pretrained_cfg",
            json!({
                "num_classes": outputs,
                "input_size": [preprocessor.channels(), size, size],
                "fixed_input_size": architecture.patch.is_some(),
                "interpolation": interpolation_name(preprocessor.interpolation),
                "crop_pct": crop_pct,
                "crop_mode": crop_mode,
                "mean": preprocessor.mean,
                "std": preprocessor.std,
            }),
        );
        set("retune", Value::Object(self.retune_section()));
        config
    }

    /// What only this program reads.
    fn retune_section(&self) -> Map<String, Value> {
        let mut section = Map::new();
        section.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        section.insert("layout".to_owned(), json!(self.trainee.layout));
        section.insert("test_time".to_owned(), json!(self.trainee.views.test_time));
        if self.precision == Precision::Bf16 {
            section.insert("precision".to_owned(), json!("bf16"));
        }
        if let Some(temperature) = self.temperature {
            section.insert("temperature".to_owned(), json!(temperature));
        }
        section.extend(thresholds_json(self.task).map(|value| ("thresholds".to_owned(), value)));
        section
    }

    /// The checkpoint's own `config.json` and `preprocessor_config.json` with what has changed.
    fn write_hugging_face(&self, folder: &RunFolder, model: &Path) -> Result<(), TrainError> {
        let empty = || ModelConfig::from_object(&folder.path(CONFIG), Map::new());
        let mut config = self.trainee.config.file.clone().unwrap_or_else(empty);
        let labels = &self.task.labels;
        let name = self.trainee.model.architecture().name;
        let family = vision::architectures().find(|(_, known)| known.name == name).map(|(family, _)| family);
        if let Some(class) =
            family.and_then(|family| Some(family.hugging_face.as_ref()?.image_classification))
        {
            config.set("architectures", json!([class]));
        }
        config.set("id2label", Value::Object(labels.to_id2label()));
        config.set("label2id", Value::Object(labels.to_label2id()));
        config.set("problem_type", json!(self.task.problem_type));
        config.set("num_channels", json!(self.trainee.views.preprocessor.channels()));
        if self.trainee.model.architecture().patch.is_some() {
            config.set("image_size", json!(self.trainee.views.preprocessor.size));
        }
        for key in ["torch_dtype", "dtype"] {
            if config.get(key).is_some() {
                config.set(key, json!("float32"));
            }
        }
        config.set("retune", Value::Object(self.retune_section()));
        config.save(&folder.path(CONFIG))?;
        let beside = model.join(PREPROCESSOR);
        let mut preprocessor = if beside.is_file() {
            ModelConfig::open(&beside)?
        } else {
            ModelConfig::from_object(&beside, Map::new())
        };
        write_preprocessor(&mut preprocessor, &self.trainee.views.preprocessor);
        Ok(preprocessor.save(&folder.path(PREPROCESSOR))?)
    }

    /// Opens the artifact as anybody would and compares its answers with the trained model's.
    pub fn certify(
        &self,
        context: &Context,
        folder: &RunFolder,
        (split, samples): (Split, &[u32]),
        trained: &[f32],
    ) -> Result<Option<Certificate>, TrainError> {
        let config = ImageConfig::open(folder.root(), None)?;
        let weights = Weights::open(&folder.path(WEIGHTS))?;
        let mut builder = ParameterBuilder::default();
        let views = &self.trainee.views;
        let parts = ImageClassifierParts {
            config: &config,
            outputs: self.task.outputs(),
            channels: views.preprocessor.channels(),
            dropout: None,
            drop_path: None,
        };
        let model = ImageClassifier::declare(&parts, &mut builder);
        let (source, _) = model.source(&builder, &config, &weights)?;
        let (store, _) = load_parameters(context, builder, &model, source, &LoadOptions::default())?;
        let none = Trainable::none(&store);
        let dataset = &self.trainee.splits[&split];
        let mut logits = Vec::with_capacity(trained.len());
        for &sample in samples {
            let Ok(pixels) = views.make(&dataset.examples[sample as usize].picture, None) else {
                return Ok(None);
            };
            let mut forward = Forward::new(Environment::evaluation(context, &store, &none));
            let answer = views.logits(&model, &mut forward, std::iter::once(Some(&pixels)), 0);
            logits.extend_from_slice(answer.tensor().values());
        }
        Ok(Some(Certificate::compare("saved and opened again", self.task.outputs(), trained, &logits)))
    }
}

/// The share that gives `edge` again when `size` is divided by it and rounded down, as readers do.
fn crop_pct(size: usize, edge: usize) -> f64 {
    let share = size as f64 / edge as f64;
    if (size as f64 / share).floor() as usize == edge { share } else { size as f64 / (edge as f64 + 0.5) }
}

fn interpolation_name(interpolation: Interpolation) -> &'static str {
    match interpolation {
        Interpolation::Nearest => "nearest",
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
        Interpolation::Lanczos => "lanczos",
    }
}

/// Hugging Face's keys. Where a middle is cut out, it is said with `crop_size`; `ConvNextImageProcessor` has a key of its
/// own for it.
fn write_preprocessor(config: &mut ModelConfig, preprocessor: &ImagePreprocessor) {
    let size = preprocessor.size;
    let square = |edge: usize| json!({"height": edge, "width": edge});
    let kind = config.get("image_processor_type").or_else(|| config.get("feature_extractor_type"));
    let conv_next = kind.and_then(Value::as_str).is_some_and(|kind| kind.starts_with("ConvNext"));
    match preprocessor.fit {
        Fit::ShorterEdge(edge) if conv_next && size < 384 => {
            config.set("size", json!({"shortest_edge": size}));
            config.set("crop_pct", json!(crop_pct(size, edge)));
        }
        Fit::ShorterEdge(edge) => {
            config.set("do_center_crop", json!(true));
            config.set("size", json!({"shortest_edge": edge}));
            config.set("crop_size", square(size));
        }
        Fit::Exact(edge) if edge == size => config.set("size", square(size)),
        Fit::Exact(edge) => {
            config.set("do_center_crop", json!(true));
            config.set("size", square(edge));
            config.set("crop_size", square(size));
        }
    }
    let resample = match preprocessor.interpolation {
        Interpolation::Nearest => 0,
        Interpolation::Lanczos => 1,
        Interpolation::Bilinear => 2,
        Interpolation::Bicubic => 3,
    };
    for (key, value) in [
        ("resample", json!(resample)),
        ("do_resize", json!(true)),
        ("do_rescale", json!(true)),
        ("rescale_factor", json!(1.0 / 255.0)),
        ("do_normalize", json!(true)),
        ("image_mean", json!(preprocessor.mean)),
        ("image_std", json!(preprocessor.std)),
    ] {
        config.set(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_is_read_back_from_its_share() {
        for size in [8, 32, 224, 299, 384] {
            for edge in size..2 * size {
                assert_eq!((size as f64 / crop_pct(size, edge)).floor() as usize, edge, "{size} of {edge}");
            }
        }
        assert_eq!(crop_pct(224, 256), 0.875);
    }
}
