//! Attention within windows of a map, with a learned bias for each offset between two places (Liu et al. 2021, sections 3.2
//! and 3.3). It is attention over packed sequences: one for each window, or for each part of a window that a shift has put
//! together from places that are no neighbours, so that nothing has to be masked.

use std::sync::Arc;

use retune_autograd::Var;
use retune_nn::{Forward, Initialization, Linear, ParameterBuilder, ParameterId, Rows};
use retune_tensor::Activation;
use retune_tensor::ops::AttentionShape;

use super::swin::gather_or_zero;

/// Rows and columns of a window.
const WINDOW: usize = 7;
/// Places of a window.
pub(super) const AREA: usize = WINDOW * WINDOW;
/// Offsets between two places along an axis.
const OFFSETS: usize = 2 * WINDOW - 1;

/// Query, key and value layers, the table of biases, and the projection behind them.
pub(super) struct WindowAttention {
    path: String,
    qkv: Linear,
    table: ParameterId,
    projection: Linear,
    heads: usize,
    shift: usize,
}

impl WindowAttention {
    pub fn declare(
        builder: &mut ParameterBuilder,
        path: &str,
        [width, heads]: [usize; 2],
        is_shifted: bool,
        initialization: Initialization,
    ) -> Self {
        let name = |part: &str| format!("{path}.{part}");
        let table = name("relative_position_bias_table");
        Self {
            path: path.to_owned(),
            qkv: Linear::declare(builder, &name("qkv"), width, 3 * width, initialization),
            table: builder.parameter(table, &[OFFSETS * OFFSETS, heads], initialization),
            projection: Linear::declare(builder, &name("proj"), width, width, initialization),
            heads,
            shift: if is_shifted { WINDOW / 2 } else { 0 },
        }
    }

    /// The table's row for each query and key of a window, which the reference keeps as a buffer.
    pub fn stored_index(&self) -> (String, Vec<u32>) {
        let pairs = (0..AREA).flat_map(|query| (0..AREA).map(move |key| offset(query, key) as u32));
        (format!("{}.relative_position_index", self.path), pairs.collect())
    }

    /// Attention over a map [batch, height, width, channels], by rows: [batch · height · width, channels].
    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var, pictures: &Rows) -> Var {
        let &[batch, height, width, channels] = x.tensor().shape().sizes() else { return x.clone() };
        let (heads, places) = (self.heads, height * width);
        let head_dim = channels / heads;
        let windows = Windows::new([height, width], self.shift);
        let tokens = windows.sources.len();

        let of_batch = |picture: usize| {
            let row = move |source: &Option<u32>| source.map(|place| (picture * places) as u32 + place);
            windows.sources.iter().map(row)
        };
        let sources = (0..batch).flat_map(of_batch).collect();
        let x = gather_or_zero(forward, &x.reshape([batch * places, channels]), sources);
        let qkv = self.qkv.forward(forward, &x, Activation::Identity, &pictures.spread(batch * tokens));
        drop(x);

        // A query's place, one-hot, times the biases of a key towards every query's place: the sum over both parts of a
        // head is the score with its bias. The parts are as wide as the head, so that all of them are rows of one width.
        let scale = 1.0 / (head_dim as f32).sqrt();
        let positions = self.position_parts(forward, head_dim, scale);
        let parts = 1 + AREA.div_ceil(head_dim);
        let rows = (0..batch).flat_map(|_| windows.positions.iter().copied()).collect();
        let tape = forward.tape();
        let positions = tape.gather_rows(&positions, Arc::new(rows));
        let rows = batch * tokens * 3 * heads;
        let qkv = tape.view(&qkv, [rows, head_dim]);
        let positions = tape.view(&positions, [rows, (parts - 1) * head_dim]);
        let qkv = tape.concat_channels(&[&qkv, &positions]);
        drop(positions);
        let offsets = Arc::new(windows.offsets(batch));
        let shape = AttentionShape {
            heads,
            scale,
            causal: false,
            query_offsets: Arc::clone(&offsets),
            key_offsets: offsets,
        };
        let qkv = tape.view(&qkv, [batch * tokens, 3 * heads * parts * head_dim]);
        let attended = tape.self_attention(&shape, &qkv, None, None);
        drop(qkv);

        // Back to the map's order, and of each head the part that was computed from values.
        let of_place = |picture: usize| {
            let token = move |&place: &u32| picture * tokens + place as usize;
            let row = move |token: usize| (0..heads).map(move |head| ((token * heads + head) * parts) as u32);
            windows.places.iter().map(token).flat_map(row)
        };
        let rows = (0..batch).flat_map(of_place).collect();
        let attended = tape.view(&attended, [batch * tokens * heads * parts, head_dim]);
        let attended = tape.gather_rows(&attended, Arc::new(rows));
        let attended = tape.view(&attended, [batch * places, channels]);
        self.projection.forward(forward, &attended, Activation::Identity, &pictures.spread(batch * places))
    }

    /// What stands beside queries, keys and values at each place of a window, [places, 3 · heads · columns], where
    /// columns are the places rounded up to whole parts.
    fn position_parts(&self, forward: &mut Forward<'_>, head_dim: usize, scale: f32) -> Var {
        let (heads, columns) = (self.heads, AREA.next_multiple_of(head_dim));
        let table = forward.parameter(self.table);
        let biases = OFFSETS * OFFSETS * heads;
        let tape = forward.tape();
        let constants = tape.context().tensor([2, 1], vec![0.0, 1.0 / scale]);
        let [zero, one] = [biases, biases + 1].map(|row| row as u32);
        let table = tape.view(&table, [biases, 1]);
        let values = tape.concat_rows(&[&table, &Var::constant(constants)], 1);
        let mut rows = Vec::with_capacity(AREA * 3 * heads * columns);
        for place in 0..AREA {
            for _head in 0..heads {
                rows.extend((0..columns).map(|column| if column == place { one } else { zero }));
            }
            for head in 0..heads {
                let bias = |query: usize| (offset(query, place) * heads + head) as u32;
                rows.extend((0..columns).map(|column| if column < AREA { bias(column) } else { zero }));
            }
            rows.extend(std::iter::repeat_n(zero, heads * columns));
        }
        let positions = tape.gather_rows(&values, Arc::new(rows));
        tape.view(&positions, [AREA, 3 * heads * columns])
    }
}

/// The table's row for the way from a key to a query.
fn offset(query: usize, key: usize) -> usize {
    let along = |query: usize, key: usize| query + WINDOW - 1 - key;
    along(query / WINDOW, key / WINDOW) * OFFSETS + along(query % WINDOW, key % WINDOW)
}

/// How a map is cut into windows.
struct Windows {
    /// For each token, sequence by sequence, the place of the map that it is read from; none where the map is padded.
    sources: Vec<Option<u32>>,
    /// Its place in its window.
    positions: Vec<u32>,
    /// Tokens of each sequence.
    lengths: Vec<u32>,
    /// For each place of the map the token that it becomes.
    places: Vec<u32>,
}

impl Windows {
    /// Cuts a map, padded at its end to whole windows and moved up and left by `shift` where it has more than one. What
    /// leaves it comes back at the other side, into windows with places that it does not attend to.
    fn new([height, width]: [usize; 2], shift: usize) -> Self {
        let padded = [height, width].map(|edge| edge.next_multiple_of(WINDOW));
        let shift = padded.map(|edge| if edge > WINDOW { shift } else { 0 });
        let mut windows = Self {
            sources: Vec::new(),
            positions: Vec::new(),
            lengths: Vec::new(),
            places: vec![0; height * width],
        };
        for top in (0..padded[0]).step_by(WINDOW) {
            for left in (0..padded[1]).step_by(WINDOW) {
                for came_back in [[false, false], [false, true], [true, false], [true, true]] {
                    windows.add([top, left], [height, width], padded, shift, came_back);
                }
            }
        }
        windows
    }

    /// The places of a window that came back at the given sides, as a sequence.
    fn add(
        &mut self,
        corner: [usize; 2],
        map: [usize; 2],
        padded: [usize; 2],
        shift: [usize; 2],
        came_back: [bool; 2],
    ) {
        let before = self.sources.len();
        for position in 0..AREA {
            let place = [corner[0] + position / WINDOW, corner[1] + position % WINDOW];
            if [0, 1].map(|axis| place[axis] >= padded[axis] - shift[axis]) != came_back {
                continue;
            }
            let [y, x] = [0, 1].map(|axis| (place[axis] + shift[axis]) % padded[axis]);
            let source = (y < map[0] && x < map[1]).then(|| (y * map[1] + x) as u32);
            if let Some(place) = source {
                self.places[place as usize] = self.sources.len() as u32;
            }
            self.sources.push(source);
            self.positions.push(position as u32);
        }
        if self.sources.len() > before {
            self.lengths.push((self.sources.len() - before) as u32);
        }
    }

    /// Where the sequences of a batch start, and the end.
    fn offsets(&self, batch: usize) -> Vec<u32> {
        let lengths = (0..batch).flat_map(|_| self.lengths.iter());
        let ends = lengths.scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_whole_windows_is_cut_into_them() {
        let windows = Windows::new([14, 7], 0);
        assert_eq!(windows.lengths, [49, 49]);
        assert_eq!(windows.sources, (0..98).map(Some).collect::<Vec<_>>());
        assert_eq!(windows.offsets(2), [0, 49, 98, 147, 196]);
    }

    #[test]
    fn a_shift_parts_windows_where_places_are_no_neighbours() {
        // Two windows below one another: the lower one has 4 rows of its own and the first 3 of the map.
        let windows = Windows::new([14, 7], 3);
        assert_eq!(windows.lengths, [49, 28, 21]);
        let rows: Vec<u32> = windows.sources.iter().step_by(7).map(|source| source.unwrap() / 7).collect();
        assert_eq!(rows, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0, 1, 2]);
        // At both sides: one window stays whole, two are parted in two, one in four.
        assert_eq!(Windows::new([14, 14], 3).lengths, [49, 28, 21, 28, 21, 16, 12, 12, 9]);
    }

    #[test]
    fn every_place_becomes_one_token_and_edges_are_padded() {
        for (map, shift) in [([5, 9], 3), ([7, 7], 3), ([18, 15], 0), ([1, 22], 3)] {
            let windows = Windows::new(map, shift);
            let padded = map.map(|edge| edge.next_multiple_of(WINDOW));
            assert_eq!(windows.sources.len(), padded[0] * padded[1]);
            assert_eq!(windows.lengths.iter().sum::<u32>() as usize, windows.sources.len());
            for (place, &token) in windows.places.iter().enumerate() {
                assert_eq!(windows.sources[token as usize], Some(place as u32));
            }
            let found = windows.sources.iter().flatten().count();
            assert_eq!(found, map[0] * map[1]);
        }
    }

    #[test]
    fn offsets_run_from_the_key_to_the_query() {
        // The reference's first and last rows are the upper left query with the lower right key, and the reverse.
        assert_eq!((offset(0, AREA - 1), offset(AREA - 1, 0)), (0, OFFSETS * OFFSETS - 1));
        // A key one column to the right of its query.
        assert_eq!(offset(8, 9), offset(8, 8) - 1);
    }
}
