//! The buffers that parameter gradients are added to.

use std::ops::Range;

/// Gradients of the trainable parameters in one contiguous buffer, a slot for each in the order they were given.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    values: Vec<f32>,
    slots: Vec<Range<usize>>,
    holds_values: bool,
}

impl Gradients {
    /// Zeroed slots of the given lengths.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut gradients = Self::meta(lengths);
        gradients.values = vec![0.0; gradients.elements()];
        gradients.holds_values = true;
        gradients
    }

    /// Slots without memory, for a tape on `Meta`.
    pub fn meta(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let slots = lengths
            .into_iter()
            .map(|length| {
                let start = end;
                end += length;
                start..end
            })
            .collect();
        Self { values: Vec::new(), slots, holds_values: false }
    }

    /// The number of values in all slots.
    pub fn elements(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.end)
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self) {
        self.values.fill(0.0);
    }

    /// All values, slot after slot.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values for writing (restoring a checkpoint taken in mid-accumulation).
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The gradient of one slot; empty on `Meta`.
    pub fn slot(&self, slot: usize) -> &[f32] {
        if self.holds_values { &self.values[self.slots[slot].clone()] } else { &[] }
    }

    /// The gradient of one slot for writing; empty on `Meta`.
    pub fn slot_mut(&mut self, slot: usize) -> &mut [f32] {
        if self.holds_values { &mut self.values[self.slots[slot].clone()] } else { &mut [] }
    }

    /// Two different slots for writing at once.
    pub(crate) fn pair_mut(
        &mut self,
        first: Option<usize>,
        second: Option<usize>,
    ) -> (Option<&mut [f32]>, Option<&mut [f32]>) {
        if !self.holds_values {
            return (first.map(|_| &mut [][..]), second.map(|_| &mut [][..]));
        }
        match (first, second) {
            (Some(first), Some(second)) => {
                let ranges = [self.slots[first].clone(), self.slots[second].clone()];
                match self.values.get_disjoint_mut(ranges) {
                    Ok([first, second]) => (Some(first), Some(second)),
                    Err(_) => unreachable!("two slots never overlap"),
                }
            }
            (Some(first), None) => (Some(self.slot_mut(first)), None),
            (None, Some(second)) => (None, Some(self.slot_mut(second))),
            (None, None) => (None, None),
        }
    }
}
