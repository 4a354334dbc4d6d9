//! Packed variable-length multi-head attention without a stored score matrix.
//!
//! After FlashAttention's variable-length interface (Dao et al. 2022, `cu_seqlens`): sequences lie one behind the
//! other, forward keeps only each query's log-sum-exp, backward recomputes probabilities and dropout masks.

mod backward;
mod forward;

use std::ops::Range;

use crate::gemm::product::Part;
use crate::scratch::Shared;
use crate::{Cpu, Dropout, Matrix, Precision};

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
    /// What the operands of the four products are rounded to, the probabilities among them; softmax is f32.
    pub precision: Precision,
    /// Queries, `query_rows` rows of which the first `heads·head_dim` columns are read.
    pub q: Matrix<'a>,
    /// Elements from one query row to the next.
    pub q_stride: usize,
    /// Keys, `key_rows` rows.
    pub k: Matrix<'a>,
    /// Elements from one key row to the next.
    pub k_stride: usize,
    /// Values, `key_rows` rows.
    pub v: Matrix<'a>,
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

    /// The rows of a sequence among queries and keys.
    fn sequence(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let range = |offsets: &[u32]| offsets[index] as usize..offsets[index + 1] as usize;
        (range(self.query_offsets), range(self.key_offsets))
    }

    /// A head's columns of some rows of queries, keys or values.
    #[inline(always)]
    fn part<'b>(&self, (data, stride): (Matrix<'b>, usize), rows: &Range<usize>, head: usize) -> Part<'b> {
        let columns = head * self.head_dim..(head + 1) * self.head_dim;
        Part { data, stride, rows: rows.clone(), columns }
    }

    /// How many keys the `query`-th of a sequence sees.
    #[inline(always)]
    fn visible(&self, query: usize, queries: usize, keys: usize) -> usize {
        if self.causal { (query + 1 + keys).saturating_sub(queries).min(keys) } else { keys }
    }
}

/// Attention into `out` `[query_rows, heads·head_dim]`.
///
/// `log_sum_exp` `[query_rows, heads]`, kept for backward, is the logarithm of each softmax's denominator. A query
/// that sees no key gets zeros and `-inf`.
pub fn attention_forward(cpu: &Cpu, a: &Attention, out: &mut [f32], log_sum_exp: Option<&mut [f32]>) {
    let (query_rows, _) = a.check();
    let width = a.heads * a.head_dim;
    assert_eq!(out.len(), query_rows * width, "attention_forward: out is not [query_rows, heads·head_dim]");
    assert!(
        log_sum_exp.as_ref().is_none_or(|l| l.len() == query_rows * a.heads),
        "attention_forward: log_sum_exp is not [query_rows, heads]"
    );
    forward::run(cpu, a, out, log_sum_exp);
}

/// Backward of [`attention_forward`], whose `out` may be kept rounded: `dq` `[query_rows, heads·head_dim]`, `dk` and `dv`
/// `[key_rows, heads·head_dim]`, all overwritten.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn attention_backward(
    cpu: &Cpu,
    a: &Attention,
    out: Matrix,
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
    backward::run(
        cpu,
        a,
        backward::Kept { out, log_sum_exp, dout },
        backward::Gradients { dq: Shared::new(dq), dk: Shared::new(dk), dv: Shared::new(dv) },
    );
}

/// Scores held at once for a block of queries, roughly: they stay in L2.
const BLOCK_SCORES: usize = 16384;

/// Queries in a block: whole tiles, by the number of keys alone.
#[inline(always)]
fn block_queries(tile_rows: usize, keys: usize) -> usize {
    (BLOCK_SCORES / keys.max(1)).clamp(1, 96).next_multiple_of(tile_rows)
}
