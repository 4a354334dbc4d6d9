//! Copies an operand into panels that the register tile reads in a straight line.
//!
//! A panel holds `width` rows of A (or columns of B) for one block of k: element `(p, r)` lies at `p · width + r`.
//! A panel beyond the operand's edge repeats its first member there; the tile does not store those sums. bf16 numbers
//! are packed as pairs of neighbours along k, a pair where an f32 would stand: what cuts and multiplies panels sees a
//! product with half the k.

use half::bf16;

use crate::precision::{self, Element};
use crate::scratch::Shared;
use crate::simd::{self, Simd, Task, lanes};
use crate::{Matrix, Precision};

/// An operand as it lies in memory, seen as members (rows of A, columns of B) by k.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub data: &'a [f32],
    pub members: usize,
    /// Elements between neighbours: across k for contiguous members, across members otherwise.
    pub stride: usize,
    /// Whether a member's elements along k are neighbours in memory (rather than those of one k across members).
    pub along_k: bool,
}

/// An operand to be packed in pairs, [`Source`] but for its numbers: they are bf16 or rounded to it.
#[derive(Clone, Copy)]
pub(crate) struct PairSource<'a> {
    pub data: Matrix<'a>,
    pub members: usize,
    pub stride: usize,
    pub along_k: bool,
    /// Numbers along k; the pair of a last odd one is zero.
    pub k: usize,
}

/// An operand in either precision.
#[derive(Clone, Copy)]
pub(crate) enum Factor<'a> {
    Singles(Source<'a>),
    Pairs(PairSource<'a>),
}

/// Steps that a tile takes over `k` numbers.
#[inline(always)]
pub(crate) fn steps(precision: Precision, k: usize) -> usize {
    match precision {
        Precision::F32 => k,
        Precision::Bf16 => k.div_ceil(2),
    }
}

impl<'a> Factor<'a> {
    /// An operand of `k` numbers by `members`.
    #[inline(always)]
    pub(crate) fn new(
        precision: Precision,
        data: Matrix<'a>,
        members: usize,
        stride: usize,
        along_k: bool,
        k: usize,
    ) -> Self {
        match precision {
            Precision::F32 => Factor::Singles(Source { data: data.singles(), members, stride, along_k }),
            Precision::Bf16 => Factor::Pairs(PairSource { data, members, stride, along_k, k }),
        }
    }

    /// The operand, if a tile can read it as it lies.
    #[inline(always)]
    pub(crate) fn as_it_lies(&self) -> Option<Source<'a>> {
        match self {
            Factor::Singles(source) => Some(*source),
            Factor::Pairs(_) => None,
        }
    }

    /// Packs panels as [`panels`] does, for steps `k0..k0 + depth`.
    #[inline(always)]
    pub(crate) fn pack<S: Simd>(
        &self,
        s: S,
        width: usize,
        first_panel: usize,
        k0: usize,
        depth: usize,
        out: &mut [f32],
    ) {
        match self {
            Factor::Singles(source) => panels(s, *source, width, first_panel, k0, depth, out),
            Factor::Pairs(source) => {
                // A call, so that this code is not in every kernel that packs.
                let task = PackPairs { source, width, first_panel, k0, depth, out: Shared::new(out) };
                simd::run(s.isa(), &task, 0);
            }
        }
    }
}

struct PackPairs<'a> {
    source: &'a PairSource<'a>,
    width: usize,
    first_panel: usize,
    k0: usize,
    depth: usize,
    out: Shared<'a, f32>,
}

impl Task for PackPairs<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, _piece: usize) {
        let &PackPairs { source, width, first_panel, k0, depth, out } = self;
        // SAFETY: the only piece, which was handed the whole slice.
        let out = unsafe { out.range(0..out.len()) };
        match source.data {
            Matrix::F32(data) => pair_panels(s, data, source, width, first_panel, k0, depth, out),
            Matrix::Bf16(data) => pair_panels(s, data, source, width, first_panel, k0, depth, out),
        }
    }
}

/// Packs `panels` panels of `width` members from panel `first_panel` on, for k in `k0..k0 + depth`; panel `i` goes to
/// `out[i · width · depth..]`.
#[inline(always)]
pub(crate) fn panels<S: Simd>(
    s: S,
    source: Source,
    width: usize,
    first_panel: usize,
    k0: usize,
    depth: usize,
    out: &mut [f32],
) {
    let count = out.len() / (width * depth).max(1);
    assert_eq!(out.len(), count * width * depth);
    if depth == 0 || count == 0 {
        return;
    }
    let first = first_panel * width;
    assert!(first < source.members && (first + (count - 1) * width) < source.members);
    if source.along_k {
        assert!((source.members - 1) * source.stride + k0 + depth <= source.data.len());
        for panel in 0..count {
            let member = first + panel * width;
            let out = &mut out[panel * width * depth..][..width * depth];
            turned(s, source, width, member, k0, depth, out);
        }
    } else {
        assert!((k0 + depth - 1) * source.stride + source.members <= source.data.len());
        copied(s, source, width, first, k0, out, count, depth);
    }
}

/// One panel of members that lie along k: blocks of 8×8 turned in registers.
#[inline(always)]
fn turned<S: Simd>(
    s: S,
    source: Source,
    width: usize,
    member: usize,
    k0: usize,
    depth: usize,
    out: &mut [f32],
) {
    let start = source.data.as_ptr();
    let mut group = 0;
    while group < width {
        let count = (width - group).min(8);
        let mut rows = [start; 8];
        for (r, row) in rows.iter_mut().enumerate() {
            let own = member + group + r;
            // Members beyond the edge, and lanes beyond a narrow group, repeat the panel's first.
            let from = if own < source.members && r < count { own } else { member };
            *row = start.wrapping_add(from * source.stride + k0);
        }
        let whole = depth / 8 * 8;
        let mut p = 0;
        while p < whole {
            // SAFETY: every row is a member's, of which `depth` elements can be read from k0 on (asserted by the caller);
            // the last written is `(p + 7) · width + group + count - 1 < depth · width`.
            unsafe {
                let at = out.as_mut_ptr().add(p * width + group);
                let rows = rows.map(|row| row.add(p));
                // Counts known while compiling keep the stores free of masks.
                match count {
                    8 => s.transpose_8x8(rows, at, width, 8),
                    6 => s.transpose_8x8(rows, at, width, 6),
                    _ => s.transpose_8x8(rows, at, width, count),
                }
            }
            p += 8;
        }
        for p in whole..depth {
            for (r, row) in rows.iter().enumerate().take(count) {
                // SAFETY: as above.
                out[p * width + group + r] = unsafe { *row.add(p) };
            }
        }
        group += 8;
    }
}

/// Panels of members that lie side by side for each k: rows of `width` elements copied.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the panel's place in two memories")]
fn copied<S: Simd>(
    s: S,
    source: Source,
    width: usize,
    first: usize,
    k0: usize,
    out: &mut [f32],
    count: usize,
    depth: usize,
) {
    let reach = width.next_multiple_of(S::LANES);
    // Panels whose whole vectors lie within the line. What a vector writes beyond `width` is the next line of the same
    // panel, written next; the last line has none.
    let inner = if first + reach > source.members { 0 } else { (source.members - first - reach) / width + 1 };
    for p in 0..depth {
        let line = &source.data[(k0 + p) * source.stride..][..source.members];
        let whole = if reach == width || p + 1 < depth { inner.min(count) } else { 0 };
        let (mut from, mut to) =
            (line.as_ptr().wrapping_add(first), out.as_mut_ptr().wrapping_add(p * width));
        for _ in 0..whole {
            for v in (0..reach).step_by(S::LANES) {
                // SAFETY: whole vectors fit in the line and in the panel, as just counted.
                unsafe { s.store(to.add(v), s.load(from.add(v))) };
            }
            (from, to) = (from.wrapping_add(width), to.wrapping_add(depth * width));
        }
        for panel in whole..count {
            let (member, at) = (first + panel * width, (panel * depth + p) * width);
            for r in 0..width {
                out[at + r] = line[if member + r < source.members { member + r } else { member }];
            }
        }
    }
}

/// [`panels`] of pairs; `data` is the source's.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the panels' place in two memories")]
fn pair_panels<S: Simd, E: Element>(
    s: S,
    data: &[E],
    source: &PairSource,
    width: usize,
    first_panel: usize,
    k0: usize,
    depth: usize,
    out: &mut [f32],
) {
    let count = out.len() / (width * depth).max(1);
    assert_eq!(out.len(), count * width * depth);
    if depth == 0 || count == 0 {
        return;
    }
    let first = first_panel * width;
    assert!(first < source.members && (first + (count - 1) * width) < source.members);
    assert!(2 * (k0 + depth) <= source.k + 1);
    if source.along_k {
        for panel in 0..count {
            let out = &mut out[panel * width * depth..][..width * depth];
            turned_pairs(s, data, source, width, first + panel * width, k0, out);
        }
    } else {
        joined_pairs(s, data, source, width, first, k0, out, depth);
    }
}

/// Sixteen numbers of a row, of which eight vectors' worth are turned at once.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Row([bf16; 16]);

/// One panel of pairs of members that lie along k: rows are rounded to bf16, then their pairs are turned in blocks of
/// 8×8.
#[inline(always)]
fn turned_pairs<S: Simd, E: Element>(
    s: S,
    data: &[E],
    source: &PairSource,
    width: usize,
    member: usize,
    k0: usize,
    out: &mut [f32],
) {
    let depth = out.len() / width;
    let mut block = [Row([bf16::ZERO; 16]); 8];
    for group in (0..width).step_by(8) {
        let count = (width - group).min(8);
        for p in (0..depth).step_by(8) {
            let words = (depth - p).min(8);
            let k = 2 * (k0 + p);
            let numbers = (2 * words).min(source.k - k);
            for (r, row) in block.iter_mut().enumerate().take(count) {
                let own = member + group + r;
                let from = if own < source.members { own } else { member } * source.stride + k;
                let from = &data[from..from + numbers];
                if numbers < 16 {
                    row.0 = [bf16::ZERO; 16];
                }
                lanes!(S, i in from.len(), {
                    precision::write(s, &mut row.0, i, E::read_rounded(s, from, i));
                });
            }
            let out = &mut out[p * width + group..];
            if words == 8 {
                let rows = std::array::from_fn(|r| block[r].0.as_ptr().cast());
                assert!(out.len() >= 7 * width + count);
                // SAFETY: a row's eight pairs are eight aligned f32; the assertion bounds what is written.
                unsafe {
                    match count {
                        8 => s.transpose_8x8(rows, out.as_mut_ptr(), width, 8),
                        6 => s.transpose_8x8(rows, out.as_mut_ptr(), width, 6),
                        _ => s.transpose_8x8(rows, out.as_mut_ptr(), width, count),
                    }
                }
            } else {
                for word in 0..words {
                    for (r, row) in block.iter().enumerate().take(count) {
                        out[word * width + r] = pair(row.0[2 * word], row.0[2 * word + 1]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pair(low: bf16, high: bf16) -> f32 {
    f32::from_bits(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16)
}

/// Panels of pairs of members that lie side by side for each k: two lines joined.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the panels' place in two memories")]
fn joined_pairs<S: Simd, E: Element>(
    s: S,
    data: &[E],
    source: &PairSource,
    width: usize,
    first: usize,
    k0: usize,
    out: &mut [f32],
    depth: usize,
) {
    let reach = width.next_multiple_of(S::LANES);
    let count = out.len() / (width * depth);
    for p in 0..depth {
        let k = 2 * (k0 + p);
        let line = |k: usize| &data[k * source.stride..][..source.members];
        let low = line(k);
        let high = if k + 1 < source.k { line(k + 1) } else { &[] };
        for panel in 0..count {
            let (member, at) = (first + panel * width, (panel * depth + p) * width);
            // What a vector writes beyond the width is the panel's next line, written next; the last line has none.
            let whole = member + reach <= source.members && (reach == width || p + 1 < depth);
            if whole {
                let out = &mut out[at..at + reach];
                for v in (0..reach).step_by(S::LANES) {
                    let low = E::read_rounded(s, low, member + v);
                    let high = if high.is_empty() { s.zero() } else { E::read_rounded(s, high, member + v) };
                    s.write(out, v, s.join_halves(low, high));
                }
            } else {
                for (r, out) in out[at..at + width].iter_mut().enumerate() {
                    let own = if member + r < source.members { member + r } else { member };
                    let high = high.get(own).copied().unwrap_or(E::ZERO);
                    *out = pair(low[own].rounded(), high.rounded());
                }
            }
        }
    }
}
