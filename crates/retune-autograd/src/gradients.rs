//! The buffers that parameter gradients are added to.

use std::ops::Range;

/// Where a slot may hold something other than zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Nowhere.
    #[default]
    Nothing,
    /// In the live rows of a table whose rows have `width` values.
    Rows {
        /// Values of a row.
        width: usize,
        /// Whether each row is live.
        live: Vec<bool>,
    },
    /// Anywhere.
    Everything,
}

/// Gradients of the trainable parameters in one contiguous buffer, a slot for each in the order they were given.
///
/// The gradient of an embedding table is as dense as any to whoever reads it. But which of its rows were added to is known,
/// so that no other row needs to be cleared or visited by the optimizer, nor, on most systems, gets memory.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    values: Vec<f32>,
    slots: Vec<Range<usize>>,
    reach: Vec<Reach>,
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
        let slots: Vec<Range<usize>> = lengths
            .into_iter()
            .map(|length| {
                let start = end;
                end += length;
                start..end
            })
            .collect();
        let reach = vec![Reach::Nothing; slots.len()];
        Self { values: Vec::new(), slots, reach, holds_values: false }
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
        for (slot, reach) in self.slots.iter().zip(&mut self.reach) {
            // On `Meta` there is nothing to clear.
            let values = self.values.get_mut(slot.clone()).unwrap_or_default();
            match reach {
                Reach::Nothing => {}
                Reach::Rows { width, live } => {
                    let rows = values.chunks_exact_mut(*width).zip(live.iter());
                    rows.filter(|(_, live)| **live).for_each(|(row, _)| row.fill(0.0));
                }
                Reach::Everything => values.fill(0.0),
            }
            *reach = Reach::Nothing;
        }
    }

    /// Where a slot may hold something other than zero since it was last cleared.
    pub fn reach(&self, slot: usize) -> &Reach {
        &self.reach[slot]
    }

    /// All values, slot after slot.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values for writing (restoring a checkpoint taken in mid-accumulation).
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.reach.fill(Reach::Everything);
        &mut self.values
    }

    /// The gradient of one slot; empty on `Meta`.
    pub fn slot(&self, slot: usize) -> &[f32] {
        if self.holds_values { &self.values[self.slots[slot].clone()] } else { &[] }
    }

    /// The gradient of one slot for writing; empty on `Meta`.
    pub fn slot_mut(&mut self, slot: usize) -> &mut [f32] {
        self.reach[slot] = Reach::Everything;
        if self.holds_values { &mut self.values[self.slots[slot].clone()] } else { &mut [] }
    }

    /// The gradient of a table whose rows have `width` values, for adding to the rows named; empty on `Meta`.
    pub fn slot_rows_mut(&mut self, slot: usize, width: usize, rows: &[u32]) -> &mut [f32] {
        let range = self.slots[slot].clone();
        let reach = &mut self.reach[slot];
        if *reach == Reach::Nothing {
            *reach = Reach::Rows { width, live: vec![false; range.len() / width.max(1)] };
        }
        match reach {
            Reach::Rows { width: known, live } if *known == width => {
                rows.iter().for_each(|&row| live[row as usize] = true);
            }
            _ => *reach = Reach::Everything,
        }
        if self.holds_values { &mut self.values[range] } else { &mut [] }
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
                [first, second].into_iter().for_each(|slot| self.reach[slot] = Reach::Everything);
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
