//! An image network with its head.

use std::collections::HashSet;

use retune_autograd::Var;
use retune_checkpoint::{Rule, Tensor as FileTensor, Tensors, Transform, Weights};
use retune_nn::{
    AdaptableLayer, AdaptedLayer, Declaration, Environment, Forward, NormRecalibration, ParameterBuilder,
    ParameterStore, Role, Rows, Trainable,
};
use retune_tensor::Context;

use super::lora::is_adapter;
use super::{Architecture, Declare, HuggingFace, ImageBatch, ImageConfig, ImageNetwork, Layout};
use crate::{LoraConfig, ModelError, Source, StoredTensors};

/// What an image classifier is made of.
pub struct ImageClassifierParts<'a> {
    /// What the checkpoint says about itself; its `preprocessing.crop` is the size of the pictures.
    pub config: &'a ImageConfig,
    /// Size of the output layer.
    pub outputs: usize,
    /// Channels of the pictures: 3, unless the data has others.
    pub channels: usize,
    /// Dropout before the output layer, instead of the reference's.
    pub dropout: Option<f32>,
    /// Stochastic depth of the last block, instead of the reference's, in families that have it.
    pub drop_path: Option<f32>,
}

/// An image network with a classification head. Its values live in a store that is made from the [`ParameterBuilder`] it
/// was declared with.
pub struct ImageClassifier {
    architecture: &'static Architecture,
    network: Box<dyn ImageNetwork>,
    head_group: usize,
    /// The layer group that has an auxiliary head.
    auxiliary_group: Option<usize>,
    /// Whose names the checkpoint has, if it says.
    layout: Option<Layout>,
    adapted: Vec<AdaptedLayer>,
}

/// Logits, and while training those of an auxiliary head.
#[derive(Clone, Debug)]
pub struct ImageOutputs {
    /// [batch, outputs].
    pub logits: Var,
    /// [batch, outputs], whose loss counts [`AUXILIARY_WEIGHT`] times.
    pub auxiliary: Option<Var>,
}

impl ImageOutputs {
    /// What a training step's loss is of, and the share of each one's loss.
    pub fn trained(self) -> Vec<(Var, f32)> {
        let auxiliary = self.auxiliary.map(|auxiliary| (auxiliary, AUXILIARY_WEIGHT));
        [(self.logits, 1.0)].into_iter().chain(auxiliary).collect()
    }
}

/// The share of an auxiliary head's loss (Szegedy et al. 2015; the reference's training scripts).
pub const AUXILIARY_WEIGHT: f32 = 0.4;

/// Before the names of auxiliary heads.
pub(super) const AUXILIARY: &str = "AuxLogits.";

impl ImageClassifier {
    /// Declares the model's parameters and buffers.
    pub fn declare(parts: &ImageClassifierParts<'_>, builder: &mut ParameterBuilder) -> Self {
        let architecture = parts.config.architecture;
        let &ImageClassifierParts { config, outputs, channels, dropout, drop_path } = parts;
        let (size, layer_norm_eps) = (config.preprocessing.crop[0], config.layer_norm_eps);
        let mut declare = Declare { builder, outputs, channels, size, dropout, drop_path, layer_norm_eps };
        let network = (architecture.declare)(&mut declare);
        let adapted = builder.adapted_layers().to_vec();
        let is_auxiliary = |declaration: &&Declaration| declaration.name.starts_with(AUXILIARY);
        let auxiliary_group = builder.declarations().iter().find(is_auxiliary).map(|found| found.group);
        // The head is declared last.
        let (head_group, layout) = (builder.group(), config.layout);
        Self { architecture, network, head_group, auxiliary_group, layout, adapted }
    }

    /// Declares the model with low-rank adapters.
    ///
    /// # Errors
    /// If they are asked for on layers that the model doesn't have, or with a rank that is not low.
    pub fn declare_adapted(
        parts: &ImageClassifierParts<'_>,
        lora: &LoraConfig,
    ) -> Result<(Self, ParameterBuilder), ModelError> {
        let mut builder = ParameterBuilder::default();
        let plain = Self::declare(parts, &mut builder);
        let input = plain.network.input_weight();
        let input = input.strip_suffix(".weight").unwrap_or(input);
        // Without training an auxiliary head is not computed.
        let in_backbone =
            |layer: &&AdaptableLayer| layer.group != plain.head_group && !layer.name.starts_with(AUXILIARY);
        let layers: Vec<&AdaptableLayer> = builder.adaptable_layers().iter().filter(in_backbone).collect();
        let mut builder = ParameterBuilder::adapting(lora.plan(&layers, input)?);
        let model = Self::declare(parts, &mut builder);
        Ok((model, builder))
    }

    /// The layers that have low-rank adapters.
    pub fn adapted_layers(&self) -> &[AdaptedLayer] {
        &self.adapted
    }

    /// The configuration's name and defaults.
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// The network.
    pub fn network(&self) -> &dyn ImageNetwork {
        &*self.network
    }

    /// The number of the head's layer group, the last.
    pub fn head_group(&self) -> usize {
        self.head_group
    }

    /// Channels of the last feature map, and the width of [`ImageClassifier::features`].
    pub fn feature_dim(&self) -> usize {
        self.network.feature_dim()
    }

    /// The parameters whose size is the number of classes: new where the checkpoint's classes are others.
    pub fn output_parameters(&self) -> HashSet<String> {
        let layers = self.network.output_layers();
        layers.iter().flat_map(|layer| [format!("{layer}.weight"), format!("{layer}.bias")]).collect()
    }

    /// Classes of the output layer that a checkpoint's weights have, before it is known for how many to declare a model.
    ///
    /// # Errors
    /// If the weights' layout does not go with the configuration.
    pub fn outputs_in(config: &ImageConfig, weights: &Weights) -> Result<Option<usize>, ModelError> {
        let mut builder = ParameterBuilder::default();
        let (outputs, channels) = (config.num_classes.unwrap_or(1), config.channels);
        let parts = ImageClassifierParts { config, outputs, channels, dropout: None, drop_path: None };
        let model = Self::declare(&parts, &mut builder);
        let (source, _) = model.source(&builder, config, weights)?;
        Ok(model.checkpoint_outputs(&source))
    }

    /// Classes of a checkpoint's output layer, if it has one.
    pub fn checkpoint_outputs(&self, source: &Source<'_>) -> Option<usize> {
        let layers = self.network.output_layers();
        source.shape(&format!("{}.weight", layers.last()?))?.first().copied()
    }

    /// Logits and auxiliary logits, to be trained.
    pub fn outputs<'s>(&'s self, forward: &mut Forward<'s>, batch: &ImageBatch) -> ImageOutputs {
        forward.set_pictures(&batch.rows);
        let pixels = Var::constant(batch.pixels.clone());
        let trunk = self.network.trunk(forward, &pixels, &batch.rows);
        let input = self.network.head_input(forward, &trunk.map, &batch.rows);
        drop(trunk.map);
        let logits = self.network.head(forward, &input, &batch.rows);
        ImageOutputs { logits, auxiliary: trunk.auxiliary }
    }

    /// Logits, [batch, outputs].
    pub fn logits<'s>(&'s self, forward: &mut Forward<'s>, batch: &ImageBatch) -> Var {
        self.outputs(forward, batch).logits
    }

    /// The last feature map, [batch, height, width, feature_dim].
    pub fn feature_map<'s>(&'s self, forward: &mut Forward<'s>, batch: &ImageBatch) -> Var {
        forward.set_pictures(&batch.rows);
        let pixels = Var::constant(batch.pixels.clone());
        self.network.trunk(forward, &pixels, &batch.rows).map
    }

    /// The last feature map averaged over each picture, [batch, feature_dim].
    pub fn features<'s>(&'s self, forward: &mut Forward<'s>, batch: &ImageBatch) -> Var {
        let map = self.feature_map(forward, batch);
        forward.tape().global_avg_pool(&map)
    }

    /// What the head reads: the cut at which features of a frozen backbone can be kept.
    pub fn head_input<'s>(&'s self, forward: &mut Forward<'s>, batch: &ImageBatch) -> Var {
        let map = self.feature_map(forward, batch);
        self.network.head_input(forward, &map, &batch.rows)
    }

    /// Logits [batch, outputs] of what [`ImageClassifier::head_input`] gave.
    pub fn head(&self, forward: &mut Forward<'_>, input: &Var, batch: &ImageBatch) -> Var {
        self.network.head(forward, input, &batch.rows)
    }

    /// Whether an auxiliary head that reads the path stands above a cut.
    pub fn has_auxiliary_above(&self, cut: usize) -> bool {
        self.auxiliary_group.is_some_and(|group| cut <= group)
    }

    /// Whether the path can be cut below a layer group, with something below.
    pub fn can_cut(&self, cut: usize) -> bool {
        let groups = self.network.trunk_groups();
        cut == self.head_group || (1..self.head_group).contains(&cut) && groups > 0
    }

    /// What the layer groups below a cut make of a batch, its first axis the pictures: a map, or below the head what the
    /// head reads.
    pub fn below_cut<'s>(&'s self, forward: &mut Forward<'s>, batch: &ImageBatch, cut: usize) -> Var {
        if cut == self.head_group {
            return self.head_input(forward, batch);
        }
        forward.set_pictures(&batch.rows);
        let mut x = Var::constant(batch.pixels.clone());
        // Groups between trunk and head read the trunk's map and are computed above any cut but the head's.
        for group in 0..cut.min(self.network.trunk_groups()) {
            x = self.network.group(forward, group, &x, &batch.rows);
        }
        x
    }

    /// Logits [batch, outputs] from what [`ImageClassifier::below_cut`] gave: the same bits as
    /// [`ImageClassifier::logits`].
    pub fn logits_above_cut<'s>(&'s self, forward: &mut Forward<'s>, x: Var, rows: &Rows, cut: usize) -> Var {
        forward.set_pictures(rows);
        let mut x = x;
        if cut < self.head_group {
            for group in cut..self.network.trunk_groups() {
                x = self.network.group(forward, group, &x, rows);
            }
            x = self.network.head_input(forward, &x, rows);
        }
        self.network.head(forward, &x, rows)
    }

    /// The shape of one picture's values at each cut, for pictures of [height, width, channels]; `None` where the path
    /// cannot be cut. `store` is without values ([`ParameterBuilder::build_meta`]).
    pub fn cut_shapes(&self, store: &ParameterStore, picture: [usize; 3]) -> Vec<Option<Vec<usize>>> {
        let context = Context::meta();
        let trainable = Trainable::none(store);
        let [height, width, channels] = picture;
        let shape = |cut: usize| {
            let environment = Environment::evaluation(&context, store, &trainable);
            let batch = ImageBatch::new(context.zeros([1, height, width, channels]), &[0]);
            let below = self.below_cut(&mut Forward::new(environment), &batch, cut);
            below.tensor().shape().sizes()[1..].to_vec()
        };
        (0..=self.head_group).map(|cut| self.can_cut(cut).then(|| shape(cut))).collect()
    }

    /// Whose names its checkpoint has, if its configuration says, else the network's own.
    pub fn layout(&self) -> Layout {
        self.layout.unwrap_or(self.network.own_layout())
    }

    pub(super) fn transform(&self, layout: Layout) -> Result<Transform, ModelError> {
        let transform = match layout {
            own if own == self.network.own_layout() => Some(Transform::default()),
            Layout::Torchvision => None,
            Layout::Timm => (self.architecture.from_timm)(),
            Layout::HuggingFace => (self.architecture.from_hugging_face)(),
        };
        transform.ok_or(ModelError::NoLayout { architecture: self.architecture.name, layout: layout.name() })
    }

    /// The transform that fits a checkpoint: Hugging Face's of a bare network lack the prefix of those with a head.
    fn transform_of(&self, layout: Layout, weights: &Weights) -> Result<Transform, ModelError> {
        let transform = self.transform(layout)?;
        let theirs = self.architecture.family().and_then(|family| family.hugging_face.as_ref());
        match theirs.filter(|_| layout == Layout::HuggingFace) {
            Some(HuggingFace { prefix, .. }) if !weights.names().any(|name| name.starts_with(prefix)) => {
                let prefixed = [Rule::add_prefix(prefix)].into_iter().chain(transform.rules().to_vec());
                Ok(Transform::new(prefixed.collect()))
            }
            _ => Ok(transform),
        }
    }

    /// A checkpoint's weights under the model's names, and whose names they had. Bare weights have those under which most
    /// of the parameters are found.
    ///
    /// # Errors
    /// If a tensor cannot be read, or the architecture is not there in the configuration's ecosystem.
    pub fn source<'a>(
        &self,
        builder: &ParameterBuilder,
        config: &ImageConfig,
        weights: &'a Weights,
    ) -> Result<(Source<'a>, Layout), ModelError> {
        if let Some(layout) = config.layout {
            return Ok((Source::transformed(weights, &self.transform_of(layout, weights)?)?, layout));
        }
        let declared: Vec<&str> = builder.declarations().iter().map(|d| d.name.as_str()).collect();
        let found = |source: &Source<'_>| declared.iter().filter(|name| source.shape(name).is_some()).count();
        let mut best = (Source::from(weights), self.network.own_layout());
        let mut most = found(&best.0);
        for layout in Layout::ALL.into_iter().filter(|&layout| layout != self.network.own_layout()) {
            // Nothing is better than everything.
            if most == declared.len() {
                break;
            }
            let Ok(transform) = self.transform_of(layout, weights) else { continue };
            let Ok(source) = Source::transformed(weights, &transform) else { continue };
            if found(&source) > most {
                most = found(&source);
                best = (source, layout);
            }
        }
        Ok(best)
    }

    /// The values as a file of an ecosystem holds them, without adapters.
    ///
    /// # Errors
    /// If the architecture is not there in that ecosystem.
    pub fn stored<'a>(
        &self,
        store: &'a ParameterStore,
        layout: Layout,
    ) -> Result<StoredTensors<'a>, ModelError> {
        let transform = self.transform(layout)?;
        if transform.rules().is_empty() {
            let stored = StoredTensors::new(store, |name| (!is_adapter(name)).then(|| name.to_owned()));
            return Ok(stored.with_integers(self.network.constants()));
        }
        let tensors = |only: Option<Role>| -> Tensors {
            let chosen = store.ids().filter(|&id| {
                let declaration = store.declaration(id);
                !is_adapter(&declaration.name) && only.is_none_or(|role| declaration.role == role)
            });
            let tensor = |id| {
                let declaration = store.declaration(id);
                let values = store.tensor(id).values().to_vec();
                (declaration.name.clone(), FileTensor { shape: declaration.shape.clone(), values })
            };
            chosen.map(tensor).collect()
        };
        let (counters, _) = transform.invert(tensors(Some(Role::Counter)))?;
        let (all, _) = transform.invert(tensors(None))?;
        Ok(StoredTensors::transformed(all, &counters.into_keys().collect()))
    }

    /// Gives the batch normalizations named in `norms` the statistics of their inputs over `batches`, with weight and bias
    /// changed so that the network computes what it did. For checkpoints whose running statistics say nothing
    /// ([`ParameterStore::uninformative_norms`]). Returns how many norms were changed.
    pub fn recalibrate(
        &self,
        context: &Context,
        store: &mut ParameterStore,
        norms: &HashSet<String>,
        batches: impl IntoIterator<Item = ImageBatch>,
    ) -> usize {
        let mut recalibration = NormRecalibration::new();
        let none = Trainable::none(store);
        for batch in batches {
            let mut forward = Forward::observing(Environment::evaluation(context, store, &none));
            self.feature_map(&mut forward, &batch);
            recalibration.observe(&forward.finish().1);
        }
        let chosen: HashSet<_> =
            norms.iter().filter_map(|norm| store.find(&format!("{norm}.weight"))).collect();
        recalibration.apply(store, |norm| chosen.contains(&norm.weight))
    }
}
