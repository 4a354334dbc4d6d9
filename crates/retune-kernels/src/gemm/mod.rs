//! Matrix multiplication with bias and activation in its epilogue.
//!
//! After Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): operands are packed
//! into panels, a register tile runs over them, blocks of k are added in ascending order. How k is cut depends on
//! k alone and every element is summed by the same tile, so a row's bits do not depend on its neighbours.
//! In bf16 operands are rounded as they are packed, and sums are f32.

mod driver;
pub(crate) mod pack;
pub(crate) mod product;
pub(crate) mod tile;

pub(crate) use driver::{Depths, K_BLOCK, tile_sides};

use crate::{Activation, Cpu, Matrix, Precision};

/// Which operand is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `A[m, k] · B[n, k]ᵀ`: a linear layer's forward.
    Nt,
    /// `A[m, k] · B[k, n]`: a linear layer's input gradient.
    Nn,
    /// `A[k, m]ᵀ · B[k, n]`: a linear layer's weight gradient.
    Tn,
}

/// One matrix multiplication: `C = activation(scale · A·B + bias)`, or added to `C`.
#[derive(Clone, Copy, Debug)]
pub struct Gemm<'a> {
    /// How `a` and `b` are stored.
    pub layout: Layout,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// The summed dimension.
    pub k: usize,
    /// What the operands are rounded to.
    pub precision: Precision,
    /// The left operand, `m · k` elements.
    pub a: Matrix<'a>,
    /// The right operand, `k · n` elements.
    pub b: Matrix<'a>,
    /// Whether the product is added to what `C` holds, before bias and activation.
    pub accumulate: bool,
    /// The factor on the product.
    pub scale: f32,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// Multiplies matrices into `c` `[m, n]`.
///
/// `pre_activation` `[m, n]`, if given, receives what the activation was applied to.
/// A row's bits depend on its own row of `A` and on `B` alone, not on `m` nor on where the row stands.
pub fn gemm(cpu: &Cpu, g: &Gemm, c: &mut [f32], pre_activation: Option<&mut [f32]>) {
    let &Gemm { m, n, k, .. } = g;
    assert_eq!(g.a.len(), m * k, "gemm: a has not m·k elements");
    assert_eq!(g.b.len(), k * n, "gemm: b has not k·n elements");
    assert_eq!(c.len(), m * n, "gemm: c has not m·n elements");
    assert!(g.bias.is_none_or(|bias| bias.len() == n), "gemm: bias is not [n]");
    assert!(
        pre_activation.as_ref().is_none_or(|pre| pre.len() == m * n),
        "gemm: pre_activation is not [m, n]"
    );
    driver::multiply(cpu, g, c, pre_activation);
}
