//! Low-rank branches beside layers (LoRA, Hu et al. 2021, <https://arxiv.org/abs/2106.09685>): which layers can have one,
//! what it is made of, and how it is added into the layer's weight.

use std::collections::HashSet;

use retune_kernels::{Activation, Cpu, Gemm, Layout, Precision, gemm};

use crate::forward::Site;
use crate::initialization::{Initialization, hash_name};
use crate::store::{ParameterBuilder, ParameterId, ParameterStore};

/// A low-rank branch beside a layer: `scale · b(a(dropout(x)))`. Beside a convolution `a` is a convolution of the same
/// window and `b` one of a single pixel.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// [rank, in], or [rank, in, kernel height, kernel width].
    pub a: ParameterId,
    /// [out, rank], or [out, rank, 1, 1].
    pub b: ParameterId,
    /// `lora_alpha / r`.
    pub scale: f32,
    /// Probability that a value of the branch's input is dropped.
    pub dropout: f32,
    pub(crate) site: Site,
}

/// A layer that a branch can stand beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptableLayer {
    /// The module path.
    pub name: String,
    /// Its layer group.
    pub group: usize,
    /// Width of its input.
    pub input: usize,
    /// Width of its output.
    pub output: usize,
    /// Rows and columns of its window, if it is a convolution.
    pub kernel: Option<[usize; 2]>,
}

impl AdaptableLayer {
    /// The greatest rank that is less work than the layer itself: the smaller of its sizes.
    pub fn largest_rank(&self) -> usize {
        self.input.min(self.output)
    }
}

/// Which layers get a branch when they are declared.
#[derive(Clone, Debug, Default)]
pub struct LowRankPlan {
    /// Their module paths.
    pub layers: HashSet<String>,
    /// Rank.
    pub rank: usize,
    /// `lora_alpha / r`.
    pub scale: f32,
    /// Probability that a value of a branch's input is dropped.
    pub dropout: f32,
}

/// A layer with its branch.
#[derive(Clone, Debug)]
pub struct AdaptedLayer {
    /// The layer's module path.
    pub name: String,
    /// The layer's weight.
    pub weight: ParameterId,
    /// Its branch.
    pub low_rank: LowRank,
}

impl LowRank {
    /// Declares `name.lora_A.weight` (Kaiming uniform, as the reference has it) and `name.lora_B.weight` (zeros, so that the
    /// layer's function is unchanged) in the layer's group.
    pub(crate) fn declare(
        builder: &mut ParameterBuilder,
        layer: &AdaptableLayer,
        rank: usize,
        scale: f32,
        dropout: f32,
    ) -> Self {
        let AdaptableLayer { name, group, input, output, kernel } = layer;
        let (mut a, mut b) = (vec![rank, *input], vec![*output, rank]);
        if let Some(kernel) = kernel {
            a.extend(kernel);
            b.extend([1, 1]);
        }
        let bound = 1.0 / (a[1..].iter().product::<usize>() as f32).sqrt();
        let uniform = Initialization::Uniform { bound };
        let a = builder.parameter_in(*group, format!("{name}.lora_A.weight"), &a, uniform);
        let b = builder.parameter_in(*group, format!("{name}.lora_B.weight"), &b, Initialization::Zeros);
        let site = Site { hash: hash_name(&format!("{name}.lora_dropout")), group: *group };
        Self { a, b, scale, dropout, site }
    }

    /// Adds the branch into the layer's weight and makes it zero: the layer computes what it did.
    pub fn merge(&self, cpu: &Cpu, store: &mut ParameterStore, weight: ParameterId) {
        let (a, b) = (store.tensor(self.a).clone(), store.tensor(self.b).clone());
        let rank = a.shape().sizes()[0];
        let product = Gemm {
            layout: Layout::Nn,
            m: b.elements() / rank,
            n: a.elements() / rank,
            k: rank,
            precision: Precision::F32,
            a: b.values().into(),
            b: a.values().into(),
            accumulate: true,
            scale: self.scale,
            bias: None,
            activation: Activation::Identity,
        };
        gemm(cpu, &product, store.values_mut(weight), None);
        store.values_mut(self.b).fill(0.0);
    }
}
