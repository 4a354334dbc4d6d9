//! Image families: what an image network and its head answer, and the registry.

mod cifar_resnet;
mod config;
mod convnext;
mod densenet;
mod efficientnet;
mod grad_cam;
mod inception_v3;
mod layers;
mod load;
mod lora;
mod mobilenet_v2;
mod mobilenet_v3;
mod model;
mod position_table;
mod resnet;
mod squeezenet;
mod swin;
mod timm;
mod vgg;
mod vision_transformer;
mod window_attention;

use retune_autograd::Var;
use retune_checkpoint::{ModelConfig, Transform};
use retune_nn::{Forward, ParameterBuilder, Rows};
use retune_tensor::Tensor;

pub use config::{ImageConfig, Interpolation, Layout, Preprocessing, Resize};
pub use grad_cam::HeatMap;
pub use lora::ImageAdapter;
pub use model::{AUXILIARY_WEIGHT, ImageClassifier, ImageClassifierParts, ImageOutputs};

use crate::ModelError;

/// A batch of pictures, ready for the network.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// Normalized values, [batch, height, width, channels].
    pub pixels: Tensor,
    /// One row per picture, which keys its randomness.
    pub rows: Rows,
}

impl ImageBatch {
    /// A batch; `samples` is the occurrence of each picture in the step.
    ///
    /// # Panics
    /// If `pixels` is not [batch, height, width, channels] with as many pictures as `samples`.
    pub fn new(pixels: Tensor, samples: &[u32]) -> Self {
        let sizes = pixels.shape().sizes();
        assert!(sizes.len() == 4 && sizes[0] == samples.len(), "{pixels:?} for {} pictures", samples.len());
        Self { rows: Rows::packed((0..=samples.len() as u32).collect(), samples), pixels }
    }
}

/// What a network computes before its head.
#[derive(Clone, Debug)]
pub struct Trunk {
    /// The last feature map, [batch, height, width, feature_dim].
    pub map: Var,
    /// Logits of an auxiliary head in the middle of the network, [batch, outputs], while training.
    pub auxiliary: Option<Var>,
}

impl From<Var> for Trunk {
    fn from(map: Var) -> Self {
        Self { map, auxiliary: None }
    }
}

/// What Grad-CAM differentiates.
#[derive(Clone, Debug)]
pub struct Explained {
    /// A leaf of the tape: `tokens` rows and those of the grid, picture by picture.
    pub map: Var,
    /// Rows of a picture that have no place in it.
    pub tokens: usize,
    /// Rows and columns of the map's places.
    pub grid: [usize; 2],
    /// Logits [batch, outputs].
    pub logits: Var,
}

/// An image network with its head, under the reference's parameter names.
///
/// A family implements [`ImageNetwork::trunk_groups`] and [`ImageNetwork::group`], which let frozen layer groups be
/// computed once (the feature cache): its path is cut above any of them. [`ImageNetwork::trunk`] follows from the two; a
/// family that implements it instead is cut below its head only.
pub trait ImageNetwork: Send + Sync {
    /// Everything before the head, from normalized pictures [batch, height, width, channels].
    fn trunk<'s>(&'s self, forward: &mut Forward<'s>, x: &Var, rows: &Rows) -> Trunk {
        let mut x = x.clone();
        for group in 0..self.trunk_groups() {
            x = self.group(forward, group, &x, rows);
        }
        x.into()
    }

    /// How many layer groups the trunk has: the first ones, in the order in which they are declared. 0 in a family that
    /// is not cut within its trunk.
    fn trunk_groups(&self) -> usize {
        0
    }

    /// What one layer group of the trunk makes of what the group below it made: its own parameters and nothing else's,
    /// and all of the trunk that has no parameters (a pooling behind it belongs to it, so that the cut above is small).
    /// One map must be all that groups hand on, its first axis the pictures, and a picture's values must not depend on
    /// the other pictures while the group is frozen. What the trunk has beside (an auxiliary head) is left out here.
    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, rows: &Rows) -> Var {
        let _ = (forward, group, rows);
        x.clone()
    }

    /// What the head reads of the feature map: [batch, feature_dim] where nothing stands between but pooling.
    fn head_input(&self, forward: &mut Forward<'_>, map: &Var, rows: &Rows) -> Var {
        let _ = rows;
        forward.tape().global_avg_pool(map)
    }

    /// Logits [batch, outputs] of what [`ImageNetwork::head_input`] gave.
    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var;

    /// A map whose places explain an answer, and the logits as a function of it: the last feature map, unless what the
    /// head reads has no places.
    fn explained<'s>(&'s self, forward: &mut Forward<'s>, x: &Var, rows: &Rows) -> Explained {
        let map = self.trunk(forward, x, rows).map;
        let map = forward.tape().leaf(map.tensor().clone());
        let input = self.head_input(forward, &map, rows);
        let logits = self.head(forward, &input, rows);
        let grid = match *map.tensor().shape().sizes() {
            [_, height, width, _] => [height, width],
            _ => [0; 2],
        };
        Explained { map, tokens: 0, grid, logits }
    }

    /// Channels of the feature map.
    fn feature_dim(&self) -> usize;

    /// The module paths of the layers whose output size the task chooses (`fc`).
    fn output_layers(&self) -> Vec<String>;

    /// The weight that reads the pictures (`conv1.weight`), which other numbers of channels change.
    fn input_weight(&self) -> &'static str;

    /// Whose names its parameters have.
    fn own_layout(&self) -> Layout {
        Layout::Torchvision
    }

    /// Its table of position embeddings, which other sizes of pictures change.
    fn position_table(&self) -> Option<PositionTable> {
        None
    }

    /// Whole numbers that the reference keeps among its tensors though they follow from its sizes, by their names.
    fn constants(&self) -> Vec<(String, Vec<u32>)> {
        Vec::new()
    }

    /// The name that a parameter had in earlier versions of the reference.
    fn older_name(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }
}

/// A table of position embeddings, [1, tokens + rows · columns, width].
#[derive(Clone, Copy, Debug)]
pub struct PositionTable {
    /// The parameter.
    pub name: &'static str,
    /// Tokens before the patches, whose embeddings stay.
    pub tokens: usize,
}

/// What a network is declared with.
pub struct Declare<'a> {
    /// Takes the declarations, group by group in depth order.
    pub builder: &'a mut ParameterBuilder,
    /// Size of the output layer.
    pub outputs: usize,
    /// Channels of the pictures.
    pub channels: usize,
    /// Height and width of the pictures, for which position embeddings are declared.
    pub size: usize,
    /// Dropout before the output layer, instead of the reference's.
    pub dropout: Option<f32>,
    /// Stochastic depth of the last block, instead of the reference's, in families that have it.
    pub drop_path: Option<f32>,
    /// ε of layer normalization, where the checkpoint's configuration has one of its own.
    pub layer_norm_eps: Option<f32>,
}

/// One configuration of a family.
pub struct Architecture {
    /// torchvision's name for it, or the reference's where torchvision has none.
    pub name: &'static str,
    /// timm's name for it, where timm has it.
    pub timm: Option<&'static str>,
    /// How pictures are prepared, if the checkpoint does not say.
    pub preprocessing: Preprocessing,
    /// The least height and width that the network can be computed on.
    pub smallest: usize,
    /// What the pictures' size is a multiple of, in networks that are made for one size of pictures: the patch, in those
    /// with an embedding for each patch's position.
    pub patch: Option<usize>,
    /// Declares the network.
    pub declare: fn(&mut Declare<'_>) -> Box<dyn ImageNetwork>,
    /// From timm's names and layouts to the model's; `None` where timm doesn't have the model.
    pub from_timm: fn() -> Option<Transform>,
    /// From Hugging Face's names and layouts to the model's; `None` where `transformers` doesn't have the model.
    pub from_hugging_face: fn() -> Option<Transform>,
}

/// An image family.
pub struct ImageFamily {
    /// Its name in messages.
    pub name: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// The reference implementation.
    pub reference: &'static str,
    /// Its configurations.
    pub architectures: &'static [Architecture],
    /// How `transformers` describes it, if it has the family.
    pub hugging_face: Option<HuggingFace>,
}

/// A family in `transformers`.
pub struct HuggingFace {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// What a model with a head puts before the network's names (`resnet.`).
    pub prefix: &'static str,
    /// The class for image classification, written to `architectures`.
    pub image_classification: &'static str,
    /// What parts of module paths are called in memory since `transformers` 5, which reads and writes the older names.
    pub modules: &'static [(&'static str, &'static str)],
    /// The name of the configuration that a `config.json` describes.
    pub architecture: fn(&ModelConfig) -> Result<&'static str, ModelError>,
    /// The configuration's default of `layer_norm_eps`, in families that read it.
    pub layer_norm_eps: Option<f32>,
}

impl Architecture {
    /// Refuses pictures of a size that the network cannot be computed on.
    ///
    /// # Errors
    /// If they are too small, or not whole patches.
    pub fn check_size(&self, size: usize) -> Result<(), ModelError> {
        let takes = match self.patch {
            _ if size < self.smallest => format!("at least {}", self.smallest),
            Some(patch) if !size.is_multiple_of(patch) => format!("multiples of {patch}"),
            _ => return Ok(()),
        };
        Err(ModelError::ImageSize { architecture: self.name, size, takes })
    }

    /// The family that it is of.
    pub(crate) fn family(&self) -> Option<&'static ImageFamily> {
        architectures().find(|(_, known)| known.name == self.name).map(|(family, _)| family)
    }
}

/// All image families. A new one is one file and one line here.
pub static FAMILIES: &[&ImageFamily] = &[
    &resnet::FAMILY,
    &cifar_resnet::FAMILY,
    &mobilenet_v2::FAMILY,
    &mobilenet_v3::FAMILY,
    &efficientnet::FAMILY,
    &densenet::FAMILY,
    &squeezenet::FAMILY,
    &vgg::FAMILY,
    &inception_v3::FAMILY,
    &convnext::FAMILY,
    &vision_transformer::VIT,
    &vision_transformer::DEIT,
    &swin::FAMILY,
];

/// Every registered configuration with its family.
pub fn architectures() -> impl Iterator<Item = (&'static ImageFamily, &'static Architecture)> {
    FAMILIES
        .iter()
        .flat_map(|&family| family.architectures.iter().map(move |architecture| (family, architecture)))
}

/// The configuration of a name, torchvision's or timm's (what stands behind a dot in timm's name does not count).
///
/// # Errors
/// If the name belongs to none.
pub fn architecture(name: &str) -> Result<&'static Architecture, ModelError> {
    let bare = name.split('.').next().unwrap_or(name);
    let named = |architecture: &Architecture| architecture.name == bare || architecture.timm == Some(bare);
    architectures().map(|(_, architecture)| architecture).find(|architecture| named(architecture)).ok_or_else(
        || ModelError::UnknownArchitecture {
            architecture: name.to_owned(),
            known: architectures().map(|(_, known)| known.name).collect::<Vec<_>>().join(", "),
        },
    )
}

/// The transform of a model that has the same names there.
fn same_names() -> Option<Transform> {
    Some(Transform::default())
}

/// The transform of a model that is not there.
fn not_there() -> Option<Transform> {
    None
}
