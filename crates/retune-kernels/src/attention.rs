//! Packed variable-length multi-head attention without a stored score matrix.
//!
//! After FlashAttention's variable-length interface (Dao et al. 2022, `cu_seqlens`): sequences lie one behind the
//! other, forward keeps only each query's log-sum-exp, backward recomputes probabilities and dropout masks.

use crate::{Cpu, Dropout};

/// One attention call: `softmax(scale · Q·Kᵀ) · V` per sequence and head, dropout on the probabilities.
///
/// Head `h` is columns `h·head_dim .. (h+1)·head_dim` of a row. A sequence's query length may differ from its key
/// length (one, for example, where only `[CLS]` is needed).
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The number of heads.
    pub heads: usize,
    /// Columns per head.
    pub head_dim: usize,
    /// The factor on the scores, usually `1/sqrt(head_dim)`.
    pub scale: f32,
    /// Whether query `i` sees only the keys up to `i + key length - query length`.
    pub causal: bool,
    /// Queries, `query_rows` rows of which the first `heads·head_dim` columns are read.
    pub q: &'a [f32],
    /// Elements from one query row to the next.
    pub q_stride: usize,
    /// Keys, `key_rows` rows.
    pub k: &'a [f32],
    /// Elements from one key row to the next.
    pub k_stride: usize,
    /// Values, `key_rows` rows.
    pub v: &'a [f32],
    /// Elements from one value row to the next.
    pub v_stride: usize,
    /// Cumulative starts of the sequences among the query rows, sequences + 1 numbers.
    pub query_offsets: &'a [u32],
    /// Cumulative starts of the sequences among the key rows, sequences + 1 numbers.
    pub key_offsets: &'a [u32],
    /// Dropout on the probabilities: one row key per query row; stream = head; column = key index in its sequence.
    pub dropout: Option<Dropout<'a>>,
}

impl Attention<'_> {
    fn check(&self) -> (usize, usize) {
        let width = self.heads * self.head_dim;
        assert!(!self.query_offsets.is_empty(), "attention: query_offsets is empty");
        assert_eq!(
            self.query_offsets.len(),
            self.key_offsets.len(),
            "attention: query_offsets and key_offsets differ in length"
        );
        assert!(
            self.query_offsets.is_sorted() && self.query_offsets[0] == 0,
            "attention: query_offsets do not rise from 0"
        );
        assert!(
            self.key_offsets.is_sorted() && self.key_offsets[0] == 0,
            "attention: key_offsets do not rise from 0"
        );
        let query_rows = self.query_offsets[self.query_offsets.len() - 1] as usize;
        let key_rows = self.key_offsets[self.key_offsets.len() - 1] as usize;
        for (name, slice, stride, rows) in [
            ("q", self.q, self.q_stride, query_rows),
            ("k", self.k, self.k_stride, key_rows),
            ("v", self.v, self.v_stride, key_rows),
        ] {
            assert!(stride >= width, "attention: {name}_stride {stride} is less than heads·head_dim {width}");
            assert!(
                rows == 0 || slice.len() >= (rows - 1) * stride + width,
                "attention: {name} is shorter than its {rows} rows"
            );
        }
        assert!(
            self.dropout.is_none_or(|d| d.rows.len() == query_rows),
            "attention: dropout.rows is not [query_rows]"
        );
        (query_rows, key_rows)
    }

    fn visible(&self, query: usize, query_length: usize, key_length: usize) -> usize {
        if self.causal { (query + 1 + key_length).saturating_sub(query_length) } else { key_length }
    }

    fn score(&self, q_row: usize, k_row: usize, head: usize) -> f32 {
        let mut dot = 0.0;
        for c in 0..self.head_dim {
            let column = head * self.head_dim + c;
            dot += self.q[q_row * self.q_stride + column] * self.k[k_row * self.k_stride + column];
        }
        dot * self.scale
    }
}

/// Attention into `out` `[query_rows, heads·head_dim]`.
///
/// `log_sum_exp` `[query_rows, heads]`, kept for backward, is the logarithm of each softmax's denominator. A query
/// that sees no key gets zeros and `-inf`.
pub fn attention_forward(_cpu: &Cpu, a: &Attention, out: &mut [f32], mut log_sum_exp: Option<&mut [f32]>) {
    let (query_rows, _) = a.check();
    let width = a.heads * a.head_dim;
    assert_eq!(out.len(), query_rows * width, "attention_forward: out is not [query_rows, heads·head_dim]");
    assert!(
        log_sum_exp.as_ref().is_none_or(|l| l.len() == query_rows * a.heads),
        "attention_forward: log_sum_exp is not [query_rows, heads]"
    );
    out.fill(0.0);
    for sequence in 0..a.query_offsets.len() - 1 {
        let (q0, q1) = (a.query_offsets[sequence] as usize, a.query_offsets[sequence + 1] as usize);
        let (k0, k1) = (a.key_offsets[sequence] as usize, a.key_offsets[sequence + 1] as usize);
        for q_row in q0..q1 {
            let visible = a.visible(q_row - q0, q1 - q0, k1 - k0);
            for head in 0..a.heads {
                let scores: Vec<f32> = (0..visible).map(|j| a.score(q_row, k0 + j, head)).collect();
                let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f32 = scores.iter().map(|s| (s - greatest).exp()).sum();
                let lse = if visible == 0 { f32::NEG_INFINITY } else { greatest + total.ln() };
                for (j, score) in scores.iter().enumerate() {
                    let p = (score - lse).exp() * a.dropout.map_or(1.0, |d| d.factor(q_row, j, head as u32));
                    for c in 0..a.head_dim {
                        out[q_row * width + head * a.head_dim + c] +=
                            p * a.v[(k0 + j) * a.v_stride + head * a.head_dim + c];
                    }
                }
                if let Some(log_sum_exp) = log_sum_exp.as_deref_mut() {
                    log_sum_exp[q_row * a.heads + head] = lse;
                }
            }
        }
    }
}

/// Backward of [`attention_forward`]: `dq` `[query_rows, heads·head_dim]`, `dk` and `dv`
/// `[key_rows, heads·head_dim]`, all overwritten.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn attention_backward(
    _cpu: &Cpu,
    a: &Attention,
    out: &[f32],
    log_sum_exp: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (query_rows, key_rows) = a.check();
    let width = a.heads * a.head_dim;
    assert_eq!(out.len(), query_rows * width, "attention_backward: out is not [query_rows, heads·head_dim]");
    assert_eq!(
        dout.len(),
        query_rows * width,
        "attention_backward: dout is not [query_rows, heads·head_dim]"
    );
    assert_eq!(
        log_sum_exp.len(),
        query_rows * a.heads,
        "attention_backward: log_sum_exp is not [query_rows, heads]"
    );
    assert_eq!(dq.len(), query_rows * width, "attention_backward: dq is not [query_rows, heads·head_dim]");
    assert_eq!(dk.len(), key_rows * width, "attention_backward: dk is not [key_rows, heads·head_dim]");
    assert_eq!(dv.len(), key_rows * width, "attention_backward: dv is not [key_rows, heads·head_dim]");
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    for sequence in 0..a.query_offsets.len() - 1 {
        let (q0, q1) = (a.query_offsets[sequence] as usize, a.query_offsets[sequence + 1] as usize);
        let (k0, k1) = (a.key_offsets[sequence] as usize, a.key_offsets[sequence + 1] as usize);
        for q_row in q0..q1 {
            let visible = a.visible(q_row - q0, q1 - q0, k1 - k0);
            for head in 0..a.heads {
                let columns = head * a.head_dim..(head + 1) * a.head_dim;
                let delta: f32 =
                    columns.clone().map(|c| out[q_row * width + c] * dout[q_row * width + c]).sum();
                for j in 0..visible {
                    let k_row = k0 + j;
                    let factor = a.dropout.map_or(1.0, |d| d.factor(q_row, j, head as u32));
                    let p = (a.score(q_row, k_row, head) - log_sum_exp[q_row * a.heads + head]).exp();
                    let dp: f32 =
                        columns.clone().map(|c| dout[q_row * width + c] * a.v[k_row * a.v_stride + c]).sum();
                    let ds = p * (dp * factor - delta) * a.scale;
                    for c in columns.clone() {
                        dv[k_row * width + c] += p * factor * dout[q_row * width + c];
                        dq[q_row * width + c] += ds * a.k[k_row * a.k_stride + c];
                        dk[k_row * width + c] += ds * a.q[q_row * a.q_stride + c];
                    }
                }
            }
        }
    }
}
