//! Scaled dot-product attention over packed sequences of any lengths.

use retune_kernels as kernels;
use retune_kernels::Attention;

use super::DropoutSpec;
use crate::{Context, Tensor};

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
    /// Multiply-adds of the two products of the forward, counted two each.
    fn operations(&self, width: usize) -> usize {
        let lengths = |offsets: &[u32]| offsets.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
        let pairs: usize = lengths(&self.query_offsets)
            .iter()
            .zip(lengths(&self.key_offsets))
            .map(|(&queries, keys)| queries as usize * keys as usize)
            .sum();
        4 * pairs * width
    }

    fn kernel<'a>(
        &'a self,
        q: &'a Tensor,
        k: &'a Tensor,
        v: &'a Tensor,
        dropout: Option<&'a DropoutSpec>,
    ) -> Attention<'a> {
        Attention {
            heads: self.heads,
            head_dim: q.width() / self.heads,
            scale: self.scale,
            causal: self.causal,
            q: q.values(),
            q_stride: q.width(),
            k: k.values(),
            k_stride: k.width(),
            v: v.values(),
            v_stride: v.width(),
            query_offsets: &self.query_offsets,
            key_offsets: &self.key_offsets,
            dropout: dropout.map(DropoutSpec::kernel),
        }
    }
}

/// `softmax(scale · q·kᵀ)·v` per head and sequence, with dropout on the probabilities: [query rows, width]; with
/// `keep` also the logarithm of each softmax's denominator, [query rows, heads].
pub fn attention(
    context: &Context,
    shape: &AttentionShape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dropout: Option<&DropoutSpec>,
    keep: bool,
) -> (Tensor, Option<Tensor>) {
    context.count(shape.operations(q.width()));
    let mut out = context.allocate(q.shape());
    let mut log_sum_exp = keep.then(|| context.allocate([q.rows(), shape.heads]));
    if let Some(cpu) = context.kernels() {
        let inputs = shape.kernel(q, k, v, dropout);
        kernels::attention_forward(cpu, &inputs, out.make_mut(), log_sum_exp.as_mut().map(Tensor::make_mut));
    }
    (out, log_sum_exp)
}

/// Gradients of `q`, `k` and `v`.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn attention_backward(
    context: &Context,
    shape: &AttentionShape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dropout: Option<&DropoutSpec>,
    out: &Tensor,
    log_sum_exp: &Tensor,
    dout: &Tensor,
) -> [Tensor; 3] {
    context.count(shape.operations(q.width()) * 5 / 2);
    let mut dq = context.allocate(q.shape());
    let mut dk = context.allocate(k.shape());
    let mut dv = context.allocate(v.shape());
    if let Some(cpu) = context.kernels() {
        kernels::attention_backward(
            cpu,
            &shape.kernel(q, k, v, dropout),
            out.values(),
            log_sum_exp.values(),
            dout.values(),
            dq.make_mut(),
            dk.make_mut(),
            dv.make_mut(),
        );
    }
    [dq, dk, dv]
}
