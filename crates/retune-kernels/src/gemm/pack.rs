//! Copies an operand into panels that the register tile reads in a straight line.
//!
//! A panel holds `width` rows of A (or columns of B) for one block of k: element `(p, r)` lies at `p · width + r`.
//! A panel beyond the operand's edge repeats its first member there; the tile does not store those sums.

use crate::simd::Simd;

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
