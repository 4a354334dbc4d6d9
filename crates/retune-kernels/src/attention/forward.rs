//! Attention's forward: a block of queries at a time, whose rows of scores live in scratch memory.

use std::ops::Range;

use super::{Attention, block_queries};
use crate::dropout::Mask;
use crate::gemm::product::{Left, Panels};
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise, softmax};

/// Queries of a sequence in a piece.
const PIECE_QUERIES: usize = 256;

pub(super) fn run(cpu: &Cpu, a: &Attention, out: &mut [f32], log_sum_exp: Option<&mut [f32]>) {
    let sequences = a.query_offsets.len() - 1;
    let longest = (0..sequences).map(|i| a.sequence(i).0.len()).max().unwrap_or(0);
    let chunks = longest.div_ceil(PIECE_QUERIES);
    let task = Forward {
        cpu,
        a,
        mask: Mask::new(a.dropout.as_ref(), a.query_offsets[sequences] as usize),
        chunks,
        out: Shared::new(out),
        log_sum_exp: log_sum_exp.map(Shared::new),
    };
    let work = task.out.len() * a.key_offsets[sequences] as usize / sequences.max(1);
    cpu.run(sequences * a.heads * chunks, work <= elementwise::ALONE, &task);
}

struct Forward<'a> {
    cpu: &'a Cpu,
    a: &'a Attention<'a>,
    mask: Option<Mask<'a>>,
    /// Pieces for the longest sequence; a shorter one leaves the last of them empty.
    chunks: usize,
    out: Shared<'a, f32>,
    log_sum_exp: Option<Shared<'a, f32>>,
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let a = self.a;
        let (sequence, head, chunk) =
            (piece / self.chunks / a.heads, piece / self.chunks % a.heads, piece % self.chunks);
        let (queries, keys) = a.sequence(sequence);
        let from = (queries.start + chunk * PIECE_QUERIES).min(queries.end);
        let chunk = from..(from + PIECE_QUERIES).min(queries.end);
        if chunk.is_empty() {
            return;
        }
        let panels = Panels::of::<S>(a.precision);
        let key_panels = panels.keys_by_dim(s, self.cpu, a.part((a.k, a.k_stride), &keys, head));
        let value_panels = panels.dim_by_keys(s, self.cpu, a.part((a.v, a.v_stride), &keys, head));

        let stride = keys.len().next_multiple_of(S::TILE_COLUMNS);
        let block = block_queries(S::TILE_ROWS, keys.len());
        let mut scores = self.cpu.scratch(block * stride);
        let mut factors = self.cpu.scratch(if self.mask.is_some() { stride } else { 0 });
        for first in chunk.clone().step_by(block) {
            let rows = first..(first + block).min(chunk.end);
            let query_panels = panels.rows_by_dim(s, self.cpu, a.part((a.q, a.q_stride), &rows, head));
            panels.multiply(
                s,
                self.cpu,
                Left::Panels(&query_panels),
                &key_panels,
                [rows.len(), stride, a.head_dim],
                a.scale,
                false,
                Shared::new(&mut scores),
                stride,
                0,
            );
            let mut inverses = [0.0f32; 128];
            for (i, row) in rows.clone().enumerate() {
                let visible = a.visible(row - queries.start, queries.len(), keys.len());
                let scores = &mut scores[i * stride..][..keys.len()];
                inverses[i] = self.probabilities(s, row, head, visible, scores, &mut factors);
            }
            self.output(s, rows, head, &scores, stride, keys.len(), &value_panels, &inverses);
        }
    }
}

impl Forward<'_> {
    /// Turns a row of scores into unnormalized probabilities, dropout applied, and returns the normalizing factor.
    #[inline(always)]
    fn probabilities<S: Simd>(
        &self,
        s: S,
        row: usize,
        head: usize,
        visible: usize,
        scores: &mut [f32],
        factors: &mut [f32],
    ) -> f32 {
        scores[visible..].fill(0.0);
        let scores = &mut scores[..visible];
        let greatest = softmax::greatest(s, scores);
        let total = softmax::exponentials_in_place(s, scores, greatest);
        if let Some(mask) = &self.mask {
            let factors = &mut factors[..visible];
            mask.factors(s, row, head as u32, factors);
            lanes!(S, j in visible, {
                s.write(scores, j, s.mul(s.read(scores, j), s.read(factors, j)));
            });
        }
        if let Some(out) = self.log_sum_exp {
            // SAFETY: a piece owns its rows of its head.
            unsafe { out.set(row * self.a.heads + head, greatest + total.ln()) };
        }
        if visible == 0 { 0.0 } else { 1.0 / total }
    }

    /// Rows of probabilities times the values, normalized.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the operands of a product")]
    fn output<S: Simd>(
        &self,
        s: S,
        rows: Range<usize>,
        head: usize,
        scores: &[f32],
        stride: usize,
        keys: usize,
        value_panels: &[f32],
        inverses: &[f32],
    ) {
        let width = self.a.heads * self.a.head_dim;
        Panels::of::<S>(self.a.precision).multiply(
            s,
            self.cpu,
            Left::Rows(scores, stride),
            value_panels,
            [rows.len(), self.a.head_dim, keys],
            1.0,
            false,
            self.out,
            width,
            rows.start * width + head * self.a.head_dim,
        );
        for (row, &inverse) in rows.zip(inverses) {
            let at = row * width + head * self.a.head_dim;
            // SAFETY: a piece owns its rows of its head.
            let out = unsafe { self.out.range(at..at + self.a.head_dim) };
            lanes!(S, j in out.len(), {
                s.write(out, j, s.mul(s.read(out, j), s.splat(inverse)));
            });
        }
    }
}
