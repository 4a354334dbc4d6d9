//! The parameter store: declarations of parameters and buffers, values, layer groups, and which parameters train.

use std::collections::HashMap;

use retune_tensor::{Context, Tensor};

use crate::forward::Site;
use crate::initialization::{Initialization, hash_name};
use crate::low_rank::{AdaptableLayer, AdaptedLayer, LowRank, LowRankPlan};

/// A handle to a parameter of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(usize);

impl ParameterId {
    /// Its place in declaration order.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a declared value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It can train.
    Parameter,
    /// It is measured and never trains (running statistics).
    Buffer,
    /// A whole number that is counted up: one `f32` in memory, exact up to 2²⁴, an int64 scalar in files.
    Counter,
}

/// What a module declares about one of its parameters or buffers.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// The reference implementation's name.
    pub name: String,
    /// Sizes, as the reference stores it.
    pub shape: Vec<usize>,
    /// How it is filled if no checkpoint has it.
    pub initialization: Initialization,
    /// The layer group it belongs to.
    pub group: usize,
    /// What it is for.
    pub role: Role,
}

impl Declaration {
    /// The number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay applies by default: to matrices, not to biases and norms.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }

    /// Whether it is a parameter, not a buffer or a counter.
    pub fn is_parameter(&self) -> bool {
        self.role == Role::Parameter
    }
}

/// A slice of the network in depth order: the unit of freezing and of learning rates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGroup {
    /// Its name, such as `embeddings`, `encoder.layer.3` or `head`.
    pub name: String,
    /// Its parameters in declaration order.
    pub parameters: Vec<ParameterId>,
    /// Its buffers and counters in declaration order.
    pub buffers: Vec<ParameterId>,
}

/// Collects declarations while a model is built.
#[derive(Debug, Default)]
pub struct ParameterBuilder {
    declarations: Vec<Declaration>,
    groups: Vec<String>,
    adaptable: Vec<AdaptableLayer>,
    plan: LowRankPlan,
    adapted: Vec<AdaptedLayer>,
}

impl ParameterBuilder {
    /// Takes declarations, and gives the layers that the plan names low-rank branches.
    pub fn adapting(plan: LowRankPlan) -> Self {
        Self { plan, ..Self::default() }
    }

    /// The layers declared so far that a low-rank branch can stand beside.
    pub fn adaptable_layers(&self) -> &[AdaptableLayer] {
        &self.adaptable
    }

    /// The layers that got one.
    pub fn adapted_layers(&self) -> &[AdaptedLayer] {
        &self.adapted
    }

    /// A branch for a layer that was just declared, if the plan names it.
    pub(crate) fn adapt(&mut self, layer: AdaptableLayer, weight: ParameterId) -> Option<LowRank> {
        let LowRankPlan { rank, scale, dropout, .. } = self.plan;
        let low_rank = self.plan.layers.contains(&layer.name).then(|| {
            let low_rank = LowRank::declare(self, &layer, rank, scale, dropout);
            let name = layer.name.clone();
            self.adapted.push(AdaptedLayer { name, weight, low_rank: low_rank.clone() });
            low_rank
        });
        self.adaptable.push(layer);
        low_rank
    }

    /// Starts the next layer group in depth order; what is declared from here on belongs to it.
    pub fn begin_group(&mut self, name: &str) {
        self.groups.push(name.to_owned());
    }

    /// The current layer group.
    pub fn group(&self) -> usize {
        self.groups.len().saturating_sub(1)
    }

    /// Declares a parameter of the current group.
    pub fn parameter(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        initialization: Initialization,
    ) -> ParameterId {
        let group = self.group();
        self.parameter_in(group, name, shape, initialization)
    }

    /// Declares a parameter of a given group (an adapter beside the layer it adapts).
    pub fn parameter_in(
        &mut self,
        group: usize,
        name: impl Into<String>,
        shape: &[usize],
        initialization: Initialization,
    ) -> ParameterId {
        self.declare(Declaration {
            name: name.into(),
            shape: shape.to_vec(),
            initialization,
            group,
            role: Role::Parameter,
        })
    }

    /// Declares a buffer of the current group.
    pub fn buffer(&mut self, name: String, shape: &[usize], initialization: Initialization) -> ParameterId {
        let group = self.group();
        self.declare(Declaration { name, shape: shape.to_vec(), initialization, group, role: Role::Buffer })
    }

    /// Declares a counter of the current group, which starts at 0.
    pub fn counter(&mut self, name: String) -> ParameterId {
        let (group, initialization) = (self.group(), Initialization::Zeros);
        self.declare(Declaration { name, shape: Vec::new(), initialization, group, role: Role::Counter })
    }

    /// Declares something that was declared elsewhere, in the group of the same number.
    pub fn declare(&mut self, declaration: Declaration) -> ParameterId {
        self.declarations.push(declaration);
        ParameterId(self.declarations.len() - 1)
    }

    /// A place of the current group that draws random numbers, named by its module path.
    pub fn site(&self, module_path: &str) -> Site {
        Site { hash: hash_name(module_path), group: self.group() }
    }

    /// Everything declared so far, in order.
    pub fn declarations(&self) -> &[Declaration] {
        &self.declarations
    }

    /// Makes the store: each parameter takes the values that `source` has for it, or is initialized under `seed`.
    ///
    /// # Errors
    /// Whatever `source` fails with.
    pub fn build<E>(
        self,
        context: &Context,
        seed: u64,
        mut source: impl FnMut(&Declaration) -> Result<Option<Vec<f32>>, E>,
    ) -> Result<ParameterStore, E> {
        let mut tensors = Vec::with_capacity(self.declarations.len());
        for declaration in &self.declarations {
            let values = match source(declaration)? {
                Some(values) => values,
                None => declaration.initialization.values(&declaration.name, seed, declaration.elements()),
            };
            tensors.push(context.tensor(declaration.shape.as_slice(), values));
        }
        Ok(self.finish(tensors))
    }

    /// Makes a store without values, for a context on `Meta`.
    pub fn build_meta(self, context: &Context) -> ParameterStore {
        let tensors =
            self.declarations.iter().map(|declaration| context.zeros(declaration.shape.as_slice())).collect();
        self.finish(tensors)
    }

    fn finish(self, tensors: Vec<Tensor>) -> ParameterStore {
        let by_name = self
            .declarations
            .iter()
            .enumerate()
            .map(|(index, declaration)| (declaration.name.clone(), ParameterId(index)))
            .collect();
        ParameterStore { declarations: self.declarations, tensors, by_name, groups: self.groups }
    }
}

/// The values of a model's parameters and buffers. Cloning shares them; a write to shared values copies them first.
#[derive(Clone, Debug, Default)]
pub struct ParameterStore {
    declarations: Vec<Declaration>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, ParameterId>,
    groups: Vec<String>,
}

impl ParameterStore {
    /// All handles, those of buffers too, in declaration order, which is depth order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ParameterId> + use<> {
        (0..self.declarations.len()).map(ParameterId)
    }

    /// The parameter of a name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.by_name.get(name).copied()
    }

    /// What was declared of a parameter.
    pub fn declaration(&self, id: ParameterId) -> &Declaration {
        &self.declarations[id.0]
    }

    /// The value of a parameter.
    pub fn tensor(&self, id: ParameterId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// The values of a parameter for writing.
    pub fn values_mut(&mut self, id: ParameterId) -> &mut [f32] {
        self.tensors[id.0].make_mut()
    }

    /// The layer groups in depth order.
    pub fn groups(&self) -> Vec<LayerGroup> {
        let mut groups: Vec<LayerGroup> = self
            .groups
            .iter()
            .map(|name| LayerGroup { name: name.clone(), parameters: Vec::new(), buffers: Vec::new() })
            .collect();
        for id in self.ids() {
            let declaration = self.declaration(id);
            let group = &mut groups[declaration.group];
            if declaration.is_parameter() { &mut group.parameters } else { &mut group.buffers }.push(id);
        }
        groups
    }

    /// The number of values in all parameters, buffers left out.
    pub fn elements(&self) -> usize {
        let parameters = self.declarations.iter().filter(|declaration| declaration.is_parameter());
        parameters.map(Declaration::elements).sum()
    }

    /// The number of values in all buffers and counters.
    pub fn buffer_elements(&self) -> usize {
        let buffers = self.declarations.iter().filter(|declaration| !declaration.is_parameter());
        buffers.map(Declaration::elements).sum()
    }
}

/// Which parameters train, with the gradient slot of each. Slots are in reverse depth order, as backward fills them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trainable {
    slots: Vec<Option<usize>>,
    ids: Vec<ParameterId>,
    groups: Vec<bool>,
}

impl Trainable {
    /// The parameters that `trains` picks; buffers never train.
    pub fn new(store: &ParameterStore, mut trains: impl FnMut(ParameterId, &Declaration) -> bool) -> Self {
        let mut trainable = Self {
            slots: vec![None; store.declarations.len()],
            ids: Vec::new(),
            groups: vec![false; store.groups.len()],
        };
        for id in store.ids().rev() {
            let declaration = store.declaration(id);
            if declaration.is_parameter() && trains(id, declaration) {
                trainable.slots[id.0] = Some(trainable.ids.len());
                trainable.groups[declaration.group] = true;
                trainable.ids.push(id);
            }
        }
        trainable
    }

    /// Nothing trains: evaluation.
    pub fn none(store: &ParameterStore) -> Self {
        Self::new(store, |_, _| false)
    }

    /// Trainable parameters in slot order.
    pub fn ids(&self) -> &[ParameterId] {
        &self.ids
    }

    /// The gradient slot of a parameter, if it trains.
    pub fn slot(&self, id: ParameterId) -> Option<usize> {
        self.slots[id.0]
    }

    /// Whether anything of a layer group trains. A group of which nothing does runs in evaluation mode.
    pub fn group_trains(&self, group: usize) -> bool {
        self.groups[group]
    }

    /// The lowest layer group of which anything trains: below it nothing is recorded and no gradient goes.
    pub fn deepest_group(&self) -> Option<usize> {
        self.groups.iter().position(|&trains| trains)
    }

    /// Lengths of the slots, for [`Gradients::new`](retune_autograd::Gradients::new).
    pub fn slot_lengths<'a>(&'a self, store: &'a ParameterStore) -> impl Iterator<Item = usize> + 'a {
        self.ids.iter().map(|&id| store.declaration(id).elements())
    }
}
