//! A convolution's weights as the right factor of its product: panels of columns, as [`crate::gemm`] packs them.

use super::Conv2d;
use super::geometry::Taps;
use crate::gemm::{Depths, tile_sides};
use crate::scratch::{Scratch, Shared};
use crate::simd::{Simd, Task};
use crate::{Cpu, elementwise};

/// Packed weights: for each group, for each block of the summed dimension, all panels one behind the other.
pub(super) struct Packed<'c> {
    data: Scratch<'c>,
    pub depths: Depths,
    /// Elements of one group.
    group: usize,
    panels: usize,
    width: usize,
}

impl Packed<'_> {
    /// One panel of one block of the summed dimension.
    #[inline(always)]
    pub(super) fn panel(&self, group: usize, block: usize, panel: usize) -> &[f32] {
        let depth = self.depths.start(block + 1) - self.depths.start(block);
        let at = group * self.group + self.width * (self.panels * self.depths.start(block) + panel * depth);
        &self.data[at..][..self.width * depth]
    }
}

/// Where a column's weights lie within a group.
pub(super) struct Columns<'a> {
    pub weight: &'a [f32],
    pub taps: &'a Taps,
    /// Channels summed for each tap.
    pub summed: usize,
    pub columns: usize,
    pub summed_stride: usize,
    pub column_stride: usize,
}

impl<'a> Columns<'a> {
    /// For the forward pass: columns are output channels, summed over taps and input channels.
    pub(super) fn forward(shape: &Conv2d, taps: &'a Taps, weight: &'a [f32]) -> Columns<'a> {
        let (inputs, elements) = (shape.group_inputs(), shape.kernel_elements());
        Columns {
            weight,
            taps,
            summed: inputs,
            columns: shape.group_outputs(),
            summed_stride: elements,
            column_stride: inputs * elements,
        }
    }

    /// For the input gradient: columns are input channels, summed over taps and output channels.
    pub(super) fn input_gradient(shape: &Conv2d, taps: &'a Taps, weight: &'a [f32]) -> Columns<'a> {
        let (inputs, elements) = (shape.group_inputs(), shape.kernel_elements());
        Columns {
            weight,
            taps,
            summed: shape.group_outputs(),
            columns: inputs,
            summed_stride: inputs * elements,
            column_stride: elements,
        }
    }
}

/// Packs all groups' columns.
pub(super) fn pack<'c>(cpu: &'c Cpu, shape: &Conv2d, columns: Columns) -> Packed<'c> {
    let (_, width) = tile_sides(cpu.isa());
    let panels = columns.columns.div_ceil(width);
    let depth = columns.taps.count() * columns.summed;
    let group = panels * width * depth;
    let mut data = cpu.scratch(shape.groups * group);
    let depths = Depths::new(depth);
    let task = Pack {
        group_weights: shape.group_inputs() * shape.group_outputs() * shape.kernel_elements(),
        columns,
        depths,
        group,
        panels,
        width,
        out: Shared::new(&mut data),
    };
    cpu.run(shape.groups * panels, shape.groups * group <= elementwise::ALONE, &task);
    Packed { data, depths, group, panels, width }
}

struct Pack<'a> {
    columns: Columns<'a>,
    /// Weights of one group.
    group_weights: usize,
    depths: Depths,
    group: usize,
    panels: usize,
    width: usize,
    out: Shared<'a, f32>,
}

impl Task for Pack<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _s: S, piece: usize) {
        let (group, panel) = (piece / self.panels, piece % self.panels);
        let columns = &self.columns;
        let weight = &columns.weight[group * self.group_weights..][..self.group_weights];
        let first = panel * self.width;
        // Columns beyond the edge repeat the panel's first; the tile does not store their sums.
        let column = |r: usize| if first + r < columns.columns { first + r } else { first };
        for block in 0..self.depths.blocks {
            let (k0, k1) = (self.depths.start(block), self.depths.start(block + 1));
            let at = group * self.group + self.width * (self.panels * k0 + panel * (k1 - k0));
            // SAFETY: a piece is a panel of a group, and panels do not overlap.
            let out = unsafe { self.out.range(at..at + self.width * (k1 - k0)) };
            for (k, line) in (k0..k1).zip(out.chunks_exact_mut(self.width)) {
                let (tap, channel) = (k / columns.summed, k % columns.summed);
                let weight = &weight[channel * columns.summed_stride + columns.taps.kernel_element(tap)..];
                if first + self.width <= columns.columns {
                    let weight = &weight[first * columns.column_stride..];
                    for (r, value) in line.iter_mut().enumerate() {
                        *value = weight[r * columns.column_stride];
                    }
                } else {
                    for (r, value) in line.iter_mut().enumerate() {
                        *value = weight[column(r) * columns.column_stride];
                    }
                }
            }
        }
    }
}
