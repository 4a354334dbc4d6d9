//! Attention's backward: scores and dropout masks are made again, a block of queries at a time.

use super::{Attention, block_queries};
use crate::dropout::Mask;
use crate::gemm::product::{Left, Panels};
use crate::precision::Element;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, Matrix, elementwise, math};

/// What forward left, and the gradient that arrives.
pub(super) struct Kept<'a> {
    pub out: Matrix<'a>,
    pub log_sum_exp: &'a [f32],
    pub dout: &'a [f32],
}

/// Where gradients go; rows of `heads·head_dim`.
pub(super) struct Gradients<'a> {
    pub dq: Shared<'a, f32>,
    pub dk: Shared<'a, f32>,
    pub dv: Shared<'a, f32>,
}

pub(super) fn run(cpu: &Cpu, a: &Attention, kept: Kept, gradients: Gradients) {
    let sequences = a.query_offsets.len() - 1;
    let mask = Mask::new(a.dropout.as_ref(), a.query_offsets[sequences] as usize);
    let work = kept.out.len() * a.key_offsets[sequences] as usize / sequences.max(1);
    cpu.run(sequences * a.heads, work <= elementwise::ALONE, &Backward { cpu, a, mask, kept, gradients });
}

/// A piece is one head of one sequence: it owns its rows of all three gradients.
struct Backward<'a> {
    cpu: &'a Cpu,
    a: &'a Attention<'a>,
    mask: Option<Mask<'a>>,
    kept: Kept<'a>,
    gradients: Gradients<'a>,
}

impl Task for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let a = self.a;
        let (sequence, head) = (piece / a.heads, piece % a.heads);
        let (queries, keys) = a.sequence(sequence);
        let width = a.heads * a.head_dim;
        let columns = head * a.head_dim..(head + 1) * a.head_dim;
        if queries.is_empty() {
            for row in keys {
                // SAFETY: a piece owns its rows of its head.
                unsafe {
                    let at = row * width + columns.start..row * width + columns.end;
                    self.gradients.dk.range(at.clone()).fill(0.0);
                    self.gradients.dv.range(at).fill(0.0);
                }
            }
            return;
        }
        let panels = Panels::of::<S>(a.precision);
        let (q, k, v) = ((a.q, a.q_stride), (a.k, a.k_stride), (a.v, a.v_stride));
        let dout = (Matrix::F32(self.kept.dout), width);
        let keys_for_scores = panels.keys_by_dim(s, self.cpu, a.part(k, &keys, head));
        let keys_for_dq = panels.dim_by_keys(s, self.cpu, a.part(k, &keys, head));
        let values = panels.keys_by_dim(s, self.cpu, a.part(v, &keys, head));

        let stride = keys.len().next_multiple_of(S::TILE_COLUMNS);
        let block = block_queries(S::TILE_ROWS, keys.len());
        // Tiles over keys read a little beyond the last row's end.
        let mut probabilities = self.cpu.scratch(block * stride + S::TILE_COLUMNS);
        let mut dscores = self.cpu.scratch(block * stride + S::TILE_COLUMNS);
        let mut factors = self.cpu.scratch(if self.mask.is_some() { stride } else { 0 });
        for first in queries.clone().step_by(block) {
            let rows = first..(first + block).min(queries.end);
            let query_panels = panels.rows_by_dim(s, self.cpu, a.part(q, &rows, head));
            let dout_panels = panels.rows_by_dim(s, self.cpu, a.part(dout, &rows, head));
            let score_shape = [rows.len(), stride, a.head_dim];
            panels.multiply(
                s,
                self.cpu,
                Left::Panels(&query_panels),
                &keys_for_scores,
                score_shape,
                a.scale,
                false,
                Shared::new(&mut probabilities),
                stride,
                0,
            );
            panels.multiply(
                s,
                self.cpu,
                Left::Panels(&dout_panels),
                &values,
                score_shape,
                1.0,
                false,
                Shared::new(&mut dscores),
                stride,
                0,
            );
            for (i, row) in rows.clone().enumerate() {
                let visible = a.visible(row - queries.start, queries.len(), keys.len());
                let probabilities = &mut probabilities[i * stride..][..keys.len()];
                let dscores = &mut dscores[i * stride..][..keys.len()];
                self.score_gradient(s, row, head, visible, probabilities, dscores, &mut factors);
            }

            let queries_for_dk = panels.dim_by_keys(s, self.cpu, a.part(q, &rows, head));
            let dout_for_dv = panels.dim_by_keys(s, self.cpu, a.part(dout, &rows, head));
            let later = first > queries.start;
            let from = keys.start * width + columns.start;
            panels.multiply(
                s,
                self.cpu,
                Left::Rows(&dscores, stride),
                &keys_for_dq,
                [rows.len(), a.head_dim, keys.len()],
                1.0,
                false,
                self.gradients.dq,
                width,
                rows.start * width + columns.start,
            );
            let key_shape = [keys.len(), a.head_dim, rows.len()];
            panels.multiply(
                s,
                self.cpu,
                Left::Columns(&dscores, stride),
                &queries_for_dk,
                key_shape,
                1.0,
                later,
                self.gradients.dk,
                width,
                from,
            );
            panels.multiply(
                s,
                self.cpu,
                Left::Columns(&probabilities, stride),
                &dout_for_dv,
                key_shape,
                1.0,
                later,
                self.gradients.dv,
                width,
                from,
            );
        }
    }
}

impl Backward<'_> {
    /// From a row of scores and a row of `dO · Vᵀ`: the probabilities after dropout, and the scores' gradient.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the operands of one row")]
    fn score_gradient<S: Simd>(
        &self,
        s: S,
        row: usize,
        head: usize,
        visible: usize,
        probabilities: &mut [f32],
        dscores: &mut [f32],
        factors: &mut [f32],
    ) {
        probabilities[visible..].fill(0.0);
        dscores[visible..].fill(0.0);
        let (probabilities, dscores) = (&mut probabilities[..visible], &mut dscores[..visible]);
        let width = self.a.heads * self.a.head_dim;
        let at = row * width + head * self.a.head_dim;
        let at = at..at + self.a.head_dim;
        let dout = &self.kept.dout[at.clone()];
        let delta = s.splat(match self.kept.out {
            Matrix::F32(out) => dot(s, &out[at], dout),
            Matrix::Bf16(out) => dot(s, &out[at], dout),
        });
        let log_sum_exp = s.splat(self.kept.log_sum_exp[row * self.a.heads + head]);
        let scale = s.splat(self.a.scale);
        match &self.mask {
            Some(mask) => {
                let factors = &mut factors[..visible];
                mask.factors(s, row, head as u32, factors);
                lanes!(S, j in visible, {
                    let p = math::exp_negative(s, s.sub(s.read(probabilities, j), log_sum_exp));
                    let factor = s.read(factors, j);
                    let dp = s.sub(s.mul(s.read(dscores, j), factor), delta);
                    s.write(dscores, j, s.mul(s.mul(p, scale), dp));
                    s.write(probabilities, j, s.mul(p, factor));
                });
            }
            None => {
                lanes!(S, j in visible, {
                    let p = math::exp_negative(s, s.sub(s.read(probabilities, j), log_sum_exp));
                    let dp = s.sub(s.read(dscores, j), delta);
                    s.write(dscores, j, s.mul(s.mul(p, scale), dp));
                    s.write(probabilities, j, p);
                });
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd, E: Element>(s: S, x: &[E], y: &[f32]) -> f32 {
    let mut sum = s.zero();
    lanes!(S, j in x.len(), {
        sum = s.mul_add(E::read(s, x, j), s.read(y, j), sum);
    });
    s.reduce_add(sum)
}
