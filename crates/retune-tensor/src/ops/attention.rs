//! Scaled dot-product attention over packed sequences of any lengths.

use retune_kernels as kernels;
use retune_kernels::Attention;

use super::DropoutSpec;
use crate::{Context, Factor, Tensor, Work};

/// The form of an attention: heads, masking, and where each sequence starts.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    /// Number of heads; head `h` reads columns `h · head_dim ..`.
    pub heads: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// Row where each sequence's queries start, and the end: sequences + 1.
    pub query_offsets: std::sync::Arc<Vec<u32>>,
    /// Row where each sequence's keys start, and the end: sequences + 1.
    pub key_offsets: std::sync::Arc<Vec<u32>>,
}

impl AttentionShape {
    /// Counts so many products of all queries with all keys, and a random number for each pair under dropout.
    fn count(&self, context: &Context, width: usize, products: usize, dropout: Option<&DropoutSpec>) {
        let lengths = |offsets: &[u32]| offsets.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
        let pairs: usize = lengths(&self.query_offsets)
            .iter()
            .zip(lengths(&self.key_offsets))
            .map(|(&queries, keys)| queries as usize * keys as usize)
            .sum();
        context.count(Work::Attention, 2 * products * pairs * width);
        if dropout.is_some() {
            context.count(Work::Random, pairs * self.heads);
        }
    }

    /// The kernel's view of queries, keys and values of `width` columns: tensors, and the column at which each begins.
    fn kernel<'a>(
        &'a self,
        context: &Context,
        width: usize,
        [q, k, v]: [(Factor<'a>, usize); 3],
        dropout: Option<&'a DropoutSpec>,
    ) -> Attention<'a> {
        Attention {
            heads: self.heads,
            head_dim: width / self.heads,
            scale: self.scale,
            causal: self.causal,
            precision: context.precision(),
            q: q.0.matrix_from(q.1),
            q_stride: q.0.width(),
            k: k.0.matrix_from(k.1),
            k_stride: k.0.width(),
            v: v.0.matrix_from(v.1),
            v_stride: v.0.width(),
            query_offsets: &self.query_offsets,
            key_offsets: &self.key_offsets,
            dropout: dropout.map(DropoutSpec::kernel),
        }
    }

    fn forward(
        &self,
        context: &Context,
        width: usize,
        inputs: [(Factor<'_>, usize); 3],
        dropout: Option<&DropoutSpec>,
        keep: bool,
    ) -> (Tensor, Option<Tensor>) {
        self.count(context, width, 2, dropout);
        let rows = inputs[0].0.rows();
        let mut out = context.allocate([rows, width]);
        let mut log_sum_exp = keep.then(|| context.allocate([rows, self.heads]));
        if let Some(cpu) = context.kernels() {
            let inputs = self.kernel(context, width, inputs, dropout);
            let log_sum_exp = log_sum_exp.as_mut().map(Tensor::make_mut);
            kernels::attention_forward(cpu, &inputs, out.make_mut(), log_sum_exp);
        }
        (out, log_sum_exp)
    }

    fn backward(
        &self,
        context: &Context,
        inputs: [(Factor<'_>, usize); 3],
        dropout: Option<&DropoutSpec>,
        (out, log_sum_exp): (Factor<'_>, &Tensor),
        dout: &Tensor,
    ) -> [Tensor; 3] {
        let width = dout.width();
        self.count(context, width, 5, dropout);
        let [mut dq, mut dk, mut dv] = inputs.map(|(input, _)| context.allocate([input.rows(), width]));
        if let Some(cpu) = context.kernels() {
            kernels::attention_backward(
                cpu,
                &self.kernel(context, width, inputs, dropout),
                out.matrix(),
                log_sum_exp.values(),
                dout.values(),
                dq.make_mut(),
                dk.make_mut(),
                dv.make_mut(),
            );
        }
        [dq, dk, dv]
    }
}

/// `softmax(scale · q·kᵀ)·v` per head and sequence, with dropout on the probabilities: [query rows, width]; with
/// `keep` also the logarithm of each softmax's denominator, [query rows, heads].
pub fn attention<'a>(
    context: &Context,
    shape: &AttentionShape,
    q: impl Into<Factor<'a>>,
    k: impl Into<Factor<'a>>,
    v: impl Into<Factor<'a>>,
    dropout: Option<&DropoutSpec>,
    keep: bool,
) -> (Tensor, Option<Tensor>) {
    let q = q.into();
    shape.forward(context, q.width(), [(q, 0), (k.into(), 0), (v.into(), 0)], dropout, keep)
}

/// Gradients of `q`, `k` and `v`.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn attention_backward<'a>(
    context: &Context,
    shape: &AttentionShape,
    q: impl Into<Factor<'a>>,
    k: impl Into<Factor<'a>>,
    v: impl Into<Factor<'a>>,
    dropout: Option<&DropoutSpec>,
    out: impl Into<Factor<'a>>,
    log_sum_exp: &Tensor,
    dout: &Tensor,
) -> [Tensor; 3] {
    let inputs = [(q.into(), 0), (k.into(), 0), (v.into(), 0)];
    shape.backward(context, inputs, dropout, (out.into(), log_sum_exp), dout)
}

/// As [`attention`], of queries, keys and values that stand side by side: `q` [query rows, 3 · width], of which the first
/// `width` columns are read, and `qkv` [key rows, 3 · width], of which the others are.
pub fn fused_attention<'a>(
    context: &Context,
    shape: &AttentionShape,
    q: impl Into<Factor<'a>>,
    qkv: impl Into<Factor<'a>>,
    dropout: Option<&DropoutSpec>,
    keep: bool,
) -> (Tensor, Option<Tensor>) {
    let qkv = qkv.into();
    let width = qkv.width() / 3;
    shape.forward(context, width, [(q.into(), 0), (qkv, width), (qkv, 2 * width)], dropout, keep)
}

/// Gradients of queries [query rows, width], keys and values [key rows, width] of [`fused_attention`], which gave `out`
/// and `log_sum_exp`.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn fused_attention_backward<'a>(
    context: &Context,
    shape: &AttentionShape,
    q: impl Into<Factor<'a>>,
    qkv: impl Into<Factor<'a>>,
    dropout: Option<&DropoutSpec>,
    out: impl Into<Factor<'a>>,
    log_sum_exp: &Tensor,
    dout: &Tensor,
) -> [Tensor; 3] {
    let qkv = qkv.into();
    let width = qkv.width() / 3;
    let inputs = [(q.into(), 0), (qkv, width), (qkv, 2 * width)];
    shape.backward(context, inputs, dropout, (out.into(), log_sum_exp), dout)
}
