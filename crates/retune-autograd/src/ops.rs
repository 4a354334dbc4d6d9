//! The coarse operations: the forward says what it keeps, the backward computes what is wanted of it.

use std::sync::Arc;

use retune_tensor::ops::{self, AttentionShape, LayerNormGradients};
use retune_tensor::{Activation, Context, DropoutSpec, Operand, Shape, Tensor};

use crate::tape::{Backward, GradientTarget, Tape, Var};

/// How the rows of a sequence become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first row (BERT's `[CLS]`).
    First,
    /// The mean of all rows.
    Mean,
    /// The greatest value of each column; has no backward, for feature extraction only.
    Max,
}

/// What a product keeps of its input.
pub(crate) struct KeptInput {
    /// The values, if the other factor wants a gradient.
    pub values: Option<Operand>,
    /// Where the input's own gradient goes.
    pub target: GradientTarget,
}

impl KeptInput {
    pub(crate) fn of(context: &Context, x: &Var, other: &Var) -> Self {
        let values = other.needs_gradient().then(|| ops::operand(context, x.tensor()));
        Self { values, target: x.target() }
    }
}

/// What a product reads of a variable: what is kept of it for backward, or just the variable.
fn factor(context: &Context, x: &Var, is_kept: bool) -> Operand {
    if is_kept { ops::operand(context, x.tensor()) } else { Operand::F32(x.tensor().clone()) }
}

/// Gradients of a linear layer's weight and input, given that of its output before the activation.
fn linear_backward(walk: &mut Backward<'_>, dy: &Tensor, x: &KeptInput, weight: &Var, scale: f32) {
    let context = walk.context().clone();
    if let (Some(dw), Some(x)) = (walk.parameter_gradient(weight), &x.values) {
        ops::linear_weight_gradient(&context, dy, x, scale, dw);
    }
    if x.target.needs_gradient() {
        let sum = walk.take_at(x.target);
        let dx = ops::linear_input_gradient(&context, dy, weight.tensor(), scale, sum);
        walk.accumulate_at(x.target, dx);
    }
}

/// `dy` behind the activation, and the bias' gradient.
fn activation_and_bias_backward(
    walk: &mut Backward<'_>,
    activation: Activation,
    pre_activation: Option<&Operand>,
    dy: Tensor,
    bias: Option<&Var>,
) -> Tensor {
    let context = walk.context().clone();
    let pre_activation = pre_activation.map(|pre| ops::widened(&context, pre));
    let bias_gradient = bias.and_then(|bias| walk.parameter_gradient(bias));
    ops::activation_backward_bias(&context, activation, pre_activation.as_ref(), dy, bias_gradient)
}

/// Hands on the gradients of a normalization's input and residual.
fn accumulate_norm(
    walk: &mut Backward<'_>,
    x: GradientTarget,
    residual: Option<GradientTarget>,
    gradients: LayerNormGradients,
) {
    if let Some(dx) = gradients.x {
        walk.accumulate_at(x, dx);
    }
    if let (Some(residual), Some(gradient)) = (residual, gradients.residual) {
        walk.accumulate_at(residual, gradient);
    }
}

impl<'s> Tape<'s> {
    /// `activation(x·weightᵀ + bias)`; `x` [rows, in], `weight` [out, in] → [rows, out].
    pub fn linear(&mut self, x: &Var, weight: &Var, bias: Option<&Var>, activation: Activation) -> Var {
        let inputs: Vec<&Var> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
        let keep = activation != Activation::Identity && inputs.iter().any(|input| input.needs_gradient());
        let context = self.context().clone();
        let bias_tensor = bias.map(Var::tensor);
        let x_factor = factor(&context, x, weight.needs_gradient());
        let (y, pre_activation) =
            ops::linear(&context, &x_factor, weight.tensor(), bias_tensor, activation, keep);
        let pre_activation = pre_activation.map(|pre| ops::operand(&context, &pre));
        drop(x_factor);
        self.record(y, &inputs, || {
            let (x, weight, bias) = (KeptInput::of(&context, x, weight), weight.clone(), bias.cloned());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dy = activation_and_bias_backward(
                    walk,
                    activation,
                    pre_activation.as_ref(),
                    dy,
                    bias.as_ref(),
                );
                drop(pre_activation);
                linear_backward(walk, &dy, &x, &weight, 1.0);
            }
        })
    }

    /// A Transformer's feed-forward, `activation(x·w1ᵀ + b1)·w2ᵀ + b2`. Keeps the hidden layer once, before its
    /// activation, which the backward computes again.
    pub fn feed_forward(
        &mut self,
        x: &Var,
        first: (&Var, &Var),
        activation: Activation,
        second: (&Var, &Var),
    ) -> Var {
        let inputs = [x, first.0, first.1, second.0, second.1];
        let keep = inputs.iter().any(|input| input.needs_gradient());
        let context = self.context().clone();
        let bias = Some(first.1.tensor());
        let x_factor = factor(&context, x, first.0.needs_gradient());
        let (hidden, pre_activation) =
            ops::linear(&context, &x_factor, first.0.tensor(), bias, activation, keep);
        drop(x_factor);
        let pre_activation = pre_activation.map(|pre| ops::operand(&context, &pre));
        let bias = Some(second.1.tensor());
        let (y, _) = ops::linear(&context, &hidden, second.0.tensor(), bias, Activation::Identity, false);
        drop(hidden);
        let Some(pre_activation) = pre_activation else { return Var::constant(y) };
        self.record(y, &inputs, || {
            let x = KeptInput::of(&context, x, first.0);
            let [w1, b1, w2, b2] = [first.0, first.1, second.0, second.1].map(Var::clone);
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dy = activation_and_bias_backward(walk, Activation::Identity, None, dy, Some(&b2));
                let context = walk.context().clone();
                if let Some(dw) = walk.parameter_gradient(&w2) {
                    let pre_activation = ops::widened(&context, &pre_activation);
                    let hidden = ops::activation(&context, activation, &pre_activation);
                    drop(pre_activation);
                    ops::linear_weight_gradient(&context, &dy, &hidden, 1.0, dw);
                }
                if x.target.needs_gradient() || [&w1, &b1].iter().any(|input| input.needs_gradient()) {
                    let dhidden = ops::linear_input_gradient(&context, &dy, w2.tensor(), 1.0, None);
                    drop(dy);
                    let dhidden = activation_and_bias_backward(
                        walk,
                        activation,
                        Some(&pre_activation),
                        dhidden,
                        Some(&b1),
                    );
                    drop(pre_activation);
                    linear_backward(walk, &dhidden, &x, &w1, 1.0);
                }
            }
        })
    }

    /// `base + scale · (dropout(x)·aᵀ)·bᵀ`: a linear layer's output with its low-rank branch (LoRA, Hu et al. 2021);
    /// `a` [rank, in], `b` [out, rank]. The dense update b·a is never formed.
    pub fn low_rank_add(
        &mut self,
        base: Var,
        x: &Var,
        a: &Var,
        b: &Var,
        scale: f32,
        dropout: Option<DropoutSpec>,
    ) -> Var {
        let context = self.context().clone();
        let x_dropped = match &dropout {
            Some(spec) => ops::dropout(&context, spec, x.tensor()),
            None => x.tensor().clone(),
        };
        // One operand at least is kept where anything is: the branch trains or its input does.
        let keep = |tensor: Tensor, other: &Var| {
            if other.needs_gradient() { ops::operand(&context, &tensor) } else { Operand::F32(tensor) }
        };
        let x_dropped = keep(x_dropped, a);
        let (low, _) = ops::linear(&context, &x_dropped, a.tensor(), None, Activation::Identity, false);
        let low = keep(low, b);
        let (mut y, base) = base.into_parts();
        ops::add_matmul(&context, &mut y, &low, b.tensor(), scale);
        let needs_gradient = base.needs_gradient() || [x, a, b].iter().any(|input| input.needs_gradient());
        self.record_if(needs_gradient, y, || {
            let (x, a, b) = (x.target(), a.clone(), b.clone());
            let x_dropped = a.needs_gradient().then_some(x_dropped);
            let low = b.needs_gradient().then_some(low);
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                if let (Some(db), Some(low)) = (walk.parameter_gradient(&b), &low) {
                    ops::linear_weight_gradient(&context, &dy, low, scale, db);
                }
                if a.needs_gradient() || x.needs_gradient() {
                    let dlow = ops::linear_input_gradient(&context, &dy, b.tensor(), scale, None);
                    if let (Some(da), Some(x_dropped)) = (walk.parameter_gradient(&a), &x_dropped) {
                        ops::linear_weight_gradient(&context, &dlow, x_dropped, 1.0, da);
                    }
                    if x.needs_gradient() {
                        let mut dx = ops::linear_input_gradient(&context, &dlow, a.tensor(), 1.0, None);
                        if let Some(spec) = &dropout {
                            dx = ops::dropout(&context, spec, &dx);
                        }
                        walk.accumulate_at(x, dx);
                    }
                }
                walk.accumulate_at(base, dy);
            }
        })
    }

    /// `base + scale · low·bᵀ` pixel by pixel: a convolution's output with its low-rank branch; `low` [.., rank], `b`
    /// [out, rank, 1, 1].
    pub fn add_product(&mut self, base: Var, low: &Var, b: &Var, scale: f32) -> Var {
        let context = self.context().clone();
        let rank = low.tensor().width();
        let matrix = b.tensor().reshape([b.tensor().elements() / rank, rank]);
        let (mut y, base) = base.into_parts();
        ops::add_matmul(&context, &mut y, &factor(&context, low, b.needs_gradient()), &matrix, scale);
        let needs_gradient = base.needs_gradient() || [low, b].iter().any(|input| input.needs_gradient());
        self.record_if(needs_gradient, y, || {
            let shape = low.tensor().shape().clone();
            let (low, b) = (KeptInput::of(&context, low, b), b.clone());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                if let (Some(db), Some(low)) = (walk.parameter_gradient(&b), &low.values) {
                    ops::linear_weight_gradient(&context, &dy, low, scale, db);
                }
                if low.target.needs_gradient() {
                    let dlow = ops::linear_input_gradient(&context, &dy, &matrix, scale, None);
                    walk.accumulate_at(low.target, dlow.reshape(&shape));
                }
                walk.accumulate_at(base, dy);
            }
        })
    }

    /// Layer normalization of `dropout(x) + residual` over each row, with weight `gamma` and bias `beta`.
    pub fn layer_norm(
        &mut self,
        x: &Var,
        residual: Option<&Var>,
        dropout: Option<DropoutSpec>,
        gamma: &Var,
        beta: &Var,
        eps: f32,
    ) -> Var {
        let inputs: Vec<&Var> = [Some(x), residual, Some(gamma), Some(beta)].into_iter().flatten().collect();
        let keep = inputs.iter().any(|input| input.needs_gradient());
        let (y, kept) = ops::layer_norm(
            self.context(),
            x.tensor(),
            residual.map(Var::tensor),
            dropout.as_ref(),
            gamma.tensor(),
            beta.tensor(),
            eps,
            keep,
        );
        let Some(kept) = kept else { return Var::constant(y) };
        self.record(y, &inputs, || {
            let (x, residual) = (x.target(), residual.map(Var::target));
            let (gamma, beta) = (gamma.clone(), beta.clone());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let (dgamma, dbeta) = walk.parameter_gradients(&gamma, &beta);
                let gradients = ops::layer_norm_backward(
                    &context,
                    &dy,
                    &kept,
                    gamma.tensor(),
                    dropout.as_ref(),
                    x.needs_gradient(),
                    residual.is_some_and(GradientTarget::needs_gradient),
                    dgamma,
                    dbeta,
                );
                accumulate_norm(walk, x, residual, gradients);
            }
        })
    }

    /// Root-mean-square normalization of `dropout(x) + residual` over each row, with weight `gamma`.
    pub fn rms_norm(
        &mut self,
        x: &Var,
        residual: Option<&Var>,
        dropout: Option<DropoutSpec>,
        gamma: &Var,
        eps: f32,
    ) -> Var {
        let inputs: Vec<&Var> = [Some(x), residual, Some(gamma)].into_iter().flatten().collect();
        let keep = inputs.iter().any(|input| input.needs_gradient());
        let (y, kept) = ops::rms_norm(
            self.context(),
            x.tensor(),
            residual.map(Var::tensor),
            dropout.as_ref(),
            gamma.tensor(),
            eps,
            keep,
        );
        let Some(kept) = kept else { return Var::constant(y) };
        self.record(y, &inputs, || {
            let (x, residual, gamma) = (x.target(), residual.map(Var::target), gamma.clone());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let gradients = ops::rms_norm_backward(
                    &context,
                    &dy,
                    &kept,
                    gamma.tensor(),
                    dropout.as_ref(),
                    x.needs_gradient(),
                    residual.is_some_and(GradientTarget::needs_gradient),
                    walk.parameter_gradient(&gamma),
                );
                accumulate_norm(walk, x, residual, gradients);
            }
        })
    }

    /// Multi-head scaled dot-product attention over packed sequences: `q` [query rows, width], `k` and `v`
    /// [key rows, width] → [query rows, width]. No matrix of scores is kept.
    pub fn attention(
        &mut self,
        shape: &AttentionShape,
        q: &Var,
        k: &Var,
        v: &Var,
        dropout: Option<DropoutSpec>,
    ) -> Var {
        let keep = [q, k, v].iter().any(|input| input.needs_gradient());
        let context = self.context().clone();
        let [q_values, k_values, v_values] = [q, k, v].map(|input| factor(&context, input, keep));
        let (out, log_sum_exp) =
            ops::attention(&context, shape, &q_values, &k_values, &v_values, dropout.as_ref(), keep);
        let Some(log_sum_exp) = log_sum_exp else { return Var::constant(out) };
        let kept_out = ops::operand(&context, &out);
        self.record(out, &[q, k, v], || {
            let (shape, targets) = (shape.clone(), [q, k, v].map(Var::target));
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let gradients = ops::attention_backward(
                    walk.context(),
                    &shape,
                    &q_values,
                    &k_values,
                    &v_values,
                    dropout.as_ref(),
                    &kept_out,
                    &log_sum_exp,
                    &dy,
                );
                drop((kept_out, log_sum_exp, dy));
                for (target, gradient) in targets.into_iter().zip(gradients) {
                    walk.accumulate_at(target, gradient);
                }
            }
        })
    }

    /// Multi-head self-attention over packed sequences whose queries, keys and values stand side by side, `qkv`
    /// [rows, 3 · width] → [query rows, width]. With `queries` only those rows ask, where `shape.query_offsets` are theirs.
    pub fn self_attention(
        &mut self,
        shape: &AttentionShape,
        qkv: &Var,
        queries: Option<Arc<Vec<u32>>>,
        dropout: Option<DropoutSpec>,
    ) -> Var {
        let context = self.context().clone();
        let q = match &queries {
            Some(rows) => ops::gather_rows(&context, qkv.tensor(), rows),
            None => qkv.tensor().clone(),
        };
        let keep = qkv.needs_gradient();
        let q = if keep { ops::operand(&context, &q) } else { Operand::F32(q) };
        let kept_qkv = factor(&context, qkv, keep);
        let (out, log_sum_exp) = ops::fused_attention(&context, shape, &q, &kept_qkv, dropout.as_ref(), keep);
        let Some(log_sum_exp) = log_sum_exp else { return Var::constant(out) };
        let kept_out = ops::operand(&context, &out);
        self.record(out, &[qkv], || {
            let (shape, target, rows) = (shape.clone(), qkv.target(), qkv.tensor().rows());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let [mut dq, dk, dv] = ops::fused_attention_backward(
                    &context,
                    &shape,
                    &q,
                    &kept_qkv,
                    dropout.as_ref(),
                    &kept_out,
                    &log_sum_exp,
                    &dy,
                );
                drop((kept_out, log_sum_exp, dy, q));
                if let Some(queries) = queries {
                    dq = ops::gather_rows_backward(&context, &dq, &queries, rows);
                }
                let dqkv = ops::concat_channels(&context, &[&dq, &dk, &dv]);
                walk.accumulate_at(target, dqkv);
            }
        })
    }

    /// The rows of all `parts` sequence by sequence, [rows of all, width]; a part has equally many rows of each of
    /// `sequences` sequences.
    pub fn concat_rows(&mut self, parts: &[&Var], sequences: usize) -> Var {
        let width = parts[0].tensor().width();
        let columns = move |elements: usize| [sequences, elements / sequences.max(1)];
        let views: Vec<Tensor> =
            parts.iter().map(|part| part.tensor().reshape(columns(part.tensor().elements()))).collect();
        let y = ops::concat_channels(self.context(), &views.iter().collect::<Vec<_>>());
        let rows = y.elements() / width;
        self.record(y.reshape([rows, width]), parts, || {
            let parts: Vec<_> =
                parts.iter().map(|part| (part.target(), part.tensor().shape().clone())).collect();
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let dy = dy.reshape(columns(dy.elements()));
                let mut start = 0;
                for (target, shape) in parts {
                    let columns = columns(shape.elements());
                    if target.needs_gradient() {
                        let gradient = ops::slice_channels(&context, &dy, start, &columns.into());
                        walk.accumulate_at(target, gradient.reshape(&shape));
                    }
                    start += columns[1];
                }
            }
        })
    }

    /// The sum of the rows that each table's indices name: `tables` [vocabulary, width] → [indices, width].
    pub fn embedding(&mut self, tables: &[(&Var, Arc<Vec<u32>>)]) -> Var {
        let tensors: Vec<(&Tensor, &[u32])> =
            tables.iter().map(|(table, indices)| (table.tensor(), indices.as_slice())).collect();
        let y = ops::embedding(self.context(), &tensors);
        let inputs: Vec<&Var> = tables.iter().map(|(table, _)| *table).collect();
        self.record(y, &inputs, || {
            let tables: Vec<(Var, Arc<Vec<u32>>)> =
                tables.iter().map(|(table, indices)| ((*table).clone(), Arc::clone(indices))).collect();
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                for (table, indices) in &tables {
                    if let Some(gradient) = walk.table_gradient(table, indices) {
                        ops::embedding_backward(&context, indices, &dy, gradient);
                    }
                }
            }
        })
    }

    /// `activation(x)`, value by value.
    pub fn activation(&mut self, x: &Var, activation: Activation) -> Var {
        if activation == Activation::Identity {
            return x.clone();
        }
        let y = ops::activation(self.context(), activation, x.tensor());
        self.record(y, &[x], || {
            let x = x.clone();
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dx = ops::activation_backward(walk.context(), activation, x.tensor(), &dy);
                walk.accumulate(&x, dx);
            }
        })
    }

    /// Dropout. Keeps nothing: the mask is computed again.
    pub fn dropout(&mut self, x: &Var, spec: Option<DropoutSpec>) -> Var {
        let Some(spec) = spec else { return x.clone() };
        let y = ops::dropout(self.context(), &spec, x.tensor());
        self.record(y, &[x], || {
            let x = x.clone();
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dx = ops::dropout(walk.context(), &spec, &dy);
                walk.accumulate(&x, dx);
            }
        })
    }

    /// The same values under another shape, whose rows may be cut or joined; where they stay, [`Var::reshape`] records
    /// nothing.
    pub fn view(&mut self, x: &Var, shape: impl Into<Shape>) -> Var {
        let y = x.tensor().reshape(shape);
        self.record(y, &[x], || {
            let (target, shape) = (x.target(), x.tensor().shape().clone());
            move |walk: &mut Backward<'_>, dy: Tensor| walk.accumulate_at(target, dy.reshape(&shape))
        })
    }

    /// The named rows of `x`.
    pub fn gather_rows(&mut self, x: &Var, rows: Arc<Vec<u32>>) -> Var {
        let y = ops::gather_rows(self.context(), x.tensor(), &rows);
        self.record(y, &[x], || {
            let x = x.clone();
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dx = ops::gather_rows_backward(walk.context(), &dy, &rows, x.tensor().rows());
                walk.accumulate(&x, dx);
            }
        })
    }

    /// One row per sequence of `x` [rows, width], whose sequences start at `offsets` → [sequences, width].
    ///
    /// # Panics
    /// For [`Pooling::Max`] if `x` needs a gradient.
    pub fn pool(&mut self, x: &Var, offsets: &Arc<Vec<u32>>, pooling: Pooling) -> Var {
        match pooling {
            Pooling::First => self.gather_rows(x, Arc::new(offsets[..offsets.len() - 1].to_vec())),
            Pooling::Max => {
                assert!(!x.needs_gradient(), "max pooling is for feature extraction and has no backward");
                Var::constant(ops::max_pool(self.context(), x.tensor(), offsets))
            }
            Pooling::Mean => {
                let y = ops::mean_pool(self.context(), x.tensor(), offsets);
                self.record(y, &[x], || {
                    let (rows, target, offsets) = (x.tensor().rows(), x.target(), Arc::clone(offsets));
                    move |walk: &mut Backward<'_>, dy: Tensor| {
                        let dx = ops::mean_pool_backward(walk.context(), &dy, &offsets, rows);
                        walk.accumulate_at(target, dx);
                    }
                })
            }
        }
    }
}
