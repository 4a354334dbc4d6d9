//! Which network a checkpoint is, and how its pictures are prepared: from timm's or Hugging Face's `config.json`, or from
//! a name given beside bare weights.

use std::path::Path;

use retune_checkpoint::ModelConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Architecture, FAMILIES, architecture, architectures};
use crate::ModelError;

/// Whose names and layouts a checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// torchvision's, which are the model's own.
    Torchvision,
    /// timm's.
    Timm,
    /// Those of `transformers`.
    HuggingFace,
}

impl Layout {
    /// All of them, the model's own first.
    pub const ALL: [Self; 3] = [Self::Torchvision, Self::Timm, Self::HuggingFace];

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torchvision => "torchvision",
            Self::Timm => "timm",
            Self::HuggingFace => "Hugging Face",
        }
    }
}

/// How a picture's values between pixels are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Lanczos with a radius of 3.
    Lanczos,
    /// Linear in both directions.
    Bilinear,
    /// Cubic in both directions.
    Bicubic,
}

/// How a picture gets its size before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter edge becomes this many pixels.
    ShorterEdge(usize),
    /// Height and width become these, whatever the picture's proportions.
    Exact([usize; 2]),
}

/// How pictures are prepared for evaluation: resized, cropped at the centre, scaled to [0, 1], normalized by channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Size before the crop.
    pub resize: Resize,
    /// Height and width of the network's input.
    pub crop: [usize; 2],
    /// How it is resized.
    pub interpolation: Interpolation,
    /// Mean of red, green and blue, of values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

/// Mean and standard deviation of ImageNet's training pictures.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

impl Preprocessing {
    /// torchvision's: the shorter edge to `resize`, a square of `crop` from the centre, ImageNet's mean and deviation.
    pub const fn imagenet(resize: usize, crop: usize, interpolation: Interpolation) -> Self {
        let [mean, std] = IMAGENET;
        Self { resize: Resize::ShorterEdge(resize), crop: [crop; 2], interpolation, mean, std }
    }

    /// The same for squares of another size, the margin around the crop in proportion.
    pub fn with_size(self, size: usize) -> Self {
        let resize = match self.resize {
            Resize::ShorterEdge(edge) => {
                let scaled = edge as f64 * size as f64 / self.crop[0].max(1) as f64;
                Resize::ShorterEdge(scaled.round() as usize)
            }
            Resize::Exact(_) => Resize::Exact([size; 2]),
        };
        Self { resize, crop: [size; 2], ..self }
    }

    /// Mean and standard deviation of each of `channels` channels: three are red, green and blue; one is grey, their
    /// average; more repeat them.
    pub fn normalization(&self, channels: usize) -> (Vec<f32>, Vec<f32>) {
        let of = |values: [f32; 3]| match channels {
            1 => vec![values.iter().sum::<f32>() / 3.0],
            _ => values.into_iter().cycle().take(channels).collect(),
        };
        (of(self.mean), of(self.std))
    }
}

/// What a checkpoint says about itself.
#[derive(Clone)]
pub struct ImageConfig {
    /// The network.
    pub architecture: &'static Architecture,
    /// Whose names the weights have; `None` for bare weights, whose names tell.
    pub layout: Option<Layout>,
    /// Classes of the checkpoint's output layer, if it says.
    pub num_classes: Option<usize>,
    /// Their names by number, if it says (Hugging Face's `id2label`, timm's `label_names`).
    pub id2label: Option<Map<String, Value>>,
    /// Channels of the pictures.
    pub channels: usize,
    /// How pictures are prepared.
    pub preprocessing: Preprocessing,
    /// ε of layer normalization, if it says and the family reads it.
    pub layer_norm_eps: Option<f32>,
    /// `config.json`, if there is one.
    pub file: Option<ModelConfig>,
}

impl ImageConfig {
    /// torchvision's defaults for an architecture.
    pub fn new(architecture: &'static Architecture) -> Self {
        Self {
            architecture,
            layout: None,
            num_classes: None,
            id2label: None,
            channels: 3,
            preprocessing: architecture.preprocessing,
            layer_norm_eps: None,
            file: None,
        }
    }

    /// Sets the size of the pictures, for which a model is declared, the margin around the crop in proportion.
    pub fn set_size(&mut self, size: usize) {
        if self.preprocessing.crop != [size; 2] {
            self.preprocessing = self.preprocessing.with_size(size);
        }
    }

    /// What a checkpoint's folder or weight file says, with the architecture that the recipe names, which goes before.
    ///
    /// # Errors
    /// If nothing names a known architecture, or `config.json` has a value that cannot be used.
    pub fn open(path: &Path, named: Option<&str>) -> Result<Self, ModelError> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        let file = folder.join("config.json");
        if named.is_none() && file.is_file() {
            return Self::from_file(ModelConfig::open(&file)?, folder);
        }
        match named {
            Some(named) => Ok(Self::new(architecture(named)?)),
            None => Err(ModelError::NoArchitecture {
                path: path.display().to_string(),
                known: architectures().map(|(_, known)| known.name).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Whether a `config.json` describes an image network.
    pub fn describes_images(config: &ModelConfig) -> bool {
        let model_type = config.get("model_type").and_then(Value::as_str);
        config.get("architecture").is_some()
            || FAMILIES.iter().any(|family| {
                family.hugging_face.as_ref().is_some_and(|theirs| Some(theirs.model_type) == model_type)
            })
    }

    /// What a `config.json` says; `folder` may hold a `preprocessor_config.json` beside it.
    ///
    /// # Errors
    /// As [`ImageConfig::open`].
    pub fn from_file(file: ModelConfig, folder: &Path) -> Result<Self, ModelError> {
        let mut config = if file.get("architecture").is_some() {
            Self::from_timm(&file)?
        } else {
            Self::from_hugging_face(&file, folder)?
        };
        config.file = Some(file);
        Ok(config)
    }

    fn from_timm(file: &ModelConfig) -> Result<Self, ModelError> {
        let mut config = Self::new(architecture(file.string("architecture")?)?);
        // Artifacts made from bare weights keep the names that those had.
        let layout = file.get("retune").and_then(|retune| retune.get("layout"));
        let layout = layout.and_then(|layout| serde_json::from_value(layout.clone()).ok());
        config.layout = Some(layout.unwrap_or(Layout::Timm));
        config.num_classes = file.optional_integer("num_classes")?;
        config.id2label = file.get("id2label").and_then(Value::as_object).cloned().or_else(|| {
            let names = file.get("label_names")?.as_array()?;
            let numbered = names.iter().enumerate();
            Some(numbered.map(|(index, name)| (index.to_string(), name.clone())).collect())
        });
        if let Some(section) = file.get("pretrained_cfg").and_then(Value::as_object) {
            let section = ModelConfig::from_object(file.path(), section.clone());
            config.num_classes = config.num_classes.or(section.optional_integer("num_classes")?);
            config.read_timm_preprocessing(&section)?;
        }
        Ok(config)
    }

    fn read_timm_preprocessing(&mut self, section: &ModelConfig) -> Result<(), ModelError> {
        if let Some(size) = integers(section, "input_size")? {
            let [channels, height, width] = size[..] else {
                return Err(section.invalid("input_size", "must be [channels, height, width]").into());
            };
            (self.channels, self.preprocessing.crop) = (channels, [height, width]);
        }
        let preprocessing = &mut self.preprocessing;
        if let Some(name) = section.optional_string("interpolation")? {
            preprocessing.interpolation = match name {
                "nearest" => Interpolation::Nearest,
                "lanczos" => Interpolation::Lanczos,
                "bilinear" => Interpolation::Bilinear,
                "bicubic" => Interpolation::Bicubic,
                other => {
                    return Err(section.invalid("interpolation", format!("\"{other}\" is unknown")).into());
                }
            };
        }
        let crop_pct = section.optional_number("crop_pct")?.unwrap_or(0.875);
        preprocessing.resize = match section.optional_string("crop_mode")? {
            Some("squash") => Resize::Exact(preprocessing.crop.map(|size| larger(size, crop_pct))),
            _ => Resize::ShorterEdge(larger(preprocessing.crop[0].min(preprocessing.crop[1]), crop_pct)),
        };
        read_normalization(section, ["mean", "std"], preprocessing)
    }

    fn from_hugging_face(file: &ModelConfig, folder: &Path) -> Result<Self, ModelError> {
        let model_type = file.string("model_type")?;
        let theirs = FAMILIES.iter().filter_map(|family| family.hugging_face.as_ref());
        let mut known = theirs.clone().map(|theirs| theirs.model_type);
        let Some(theirs) = theirs.clone().find(|theirs| theirs.model_type == model_type) else {
            let known = known.by_ref().collect::<Vec<_>>().join(", ");
            return Err(ModelError::UnknownFamily { model_type: model_type.to_owned(), known });
        };
        let mut config = Self::new(architecture((theirs.architecture)(file)?)?);
        config.layout = Some(Layout::HuggingFace);
        config.channels = file.optional_integer("num_channels")?.unwrap_or(3);
        config.id2label = file.get("id2label").and_then(Value::as_object).cloned();
        config.num_classes = config.id2label.as_ref().map(Map::len);
        if let Some(size) =
            file.optional_integer("image_size")?.filter(|_| config.architecture.patch.is_some())
        {
            config.set_size(size);
        }
        if let Some(default) = theirs.layer_norm_eps {
            let eps = file.optional_number("layer_norm_eps")?.map_or(default, |eps| eps as f32);
            if !(eps.is_finite() && eps > 0.0) {
                return Err(file.invalid("layer_norm_eps", "must be a number above 0").into());
            }
            config.layer_norm_eps = Some(eps);
        }
        let preprocessor = folder.join("preprocessor_config.json");
        if preprocessor.is_file() {
            config.read_hugging_face_preprocessing(&ModelConfig::open(&preprocessor)?)?;
        }
        Ok(config)
    }

    fn read_hugging_face_preprocessing(&mut self, file: &ModelConfig) -> Result<(), ModelError> {
        let preprocessing = &mut self.preprocessing;
        if let Some(code) = file.optional_integer("resample")? {
            // Pillow's numbers.
            preprocessing.interpolation = match code {
                0 => Interpolation::Nearest,
                1 => Interpolation::Lanczos,
                2 => Interpolation::Bilinear,
                3 => Interpolation::Bicubic,
                other => return Err(file.invalid("resample", format!("{other} is not supported")).into()),
            };
        }
        let edges = |key: &str| {
            let value = file.get(key)?;
            let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
            let edge = |name: &str| value.get(name).and_then(number);
            let square = number(value).or_else(|| edge("shortest_edge")).map(Edges::Shortest);
            square.or_else(|| Some(Edges::Both([edge("height")?, edge("width")?])))
        };
        let crops = file.optional_boolean("do_center_crop")?.unwrap_or(false);
        let crop = edges("crop_size").filter(|_| crops).map(|crop| match crop {
            Edges::Shortest(size) => [size; 2],
            Edges::Both(sizes) => sizes,
        });
        match (edges("size"), crop) {
            (Some(Edges::Shortest(edge)), Some(crop)) => {
                (preprocessing.resize, preprocessing.crop) = (Resize::ShorterEdge(edge), crop);
            }
            (Some(Edges::Both(size)), crop) => {
                (preprocessing.resize, preprocessing.crop) = (Resize::Exact(size), crop.unwrap_or(size));
            }
            // ConvNeXt's processor, which ResNet uses too: from 384 pixels on nothing is cropped away.
            (Some(Edges::Shortest(size)), None) => {
                let crop_pct = file.optional_number("crop_pct")?.unwrap_or(0.875);
                preprocessing.crop = [size; 2];
                preprocessing.resize = if size < 384 {
                    Resize::ShorterEdge(larger(size, crop_pct))
                } else {
                    Resize::Exact([size; 2])
                };
            }
            (None, _) => {}
        }
        read_normalization(file, ["image_mean", "image_std"], preprocessing)
    }
}

/// A size in a preprocessor's configuration.
enum Edges {
    Shortest(usize),
    Both([usize; 2]),
}

/// The edge of which `size` is the share `crop_pct`, rounded down as the references do.
fn larger(size: usize, crop_pct: f64) -> usize {
    (size as f64 / crop_pct).floor() as usize
}

fn integers(config: &ModelConfig, key: &'static str) -> Result<Option<Vec<usize>>, ModelError> {
    let Some(value) = config.get(key) else { return Ok(None) };
    let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let list = value.as_array().and_then(|list| list.iter().map(number).collect());
    match list {
        Some(list) => Ok(Some(list)),
        None => Err(config.invalid(key, "must be a list of non-negative integers").into()),
    }
}

fn read_normalization(
    config: &ModelConfig,
    [mean, std]: [&'static str; 2],
    preprocessing: &mut Preprocessing,
) -> Result<(), ModelError> {
    for (key, target) in [(mean, &mut preprocessing.mean), (std, &mut preprocessing.std)] {
        let Some(value) = config.get(key) else { continue };
        let list: Option<Vec<f32>> =
            value.as_array().and_then(|list| list.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
        *target = match list.as_deref() {
            Some(&[red, green, blue]) => [red, green, blue],
            Some(&[grey]) => [grey; 3],
            _ => return Err(config.invalid(key, "must be a list of one or three numbers").into()),
        };
        if key == std
            && target.iter().any(|&value| value.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater))
        {
            return Err(config.invalid(key, "must be positive").into());
        }
    }
    Ok(())
}
