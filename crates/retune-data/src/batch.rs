//! Which samples make up which batch, as a pure function of (seed, epoch, cursor).
//!
//! A resumed run asks for batch 17 of epoch 3 and gets the very batch that the uninterrupted run had.

/// The golden-ratio increment of SplitMix64 (Steele, Lea, Flood 2014).
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function: a bijection of 64 bits that scatters its input.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// The `counter`-th random number under a key.
pub(crate) fn random(key: u64, counter: u64) -> u64 {
    mix(key.wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA)))
}

/// The order of samples over all epochs of a run.
#[derive(Debug, Clone)]
pub struct BatchOrder {
    lengths: Vec<u32>,
    batch_size: usize,
    seed: u64,
    group_by_length: bool,
    shuffle: bool,
    drop_last: bool,
    /// The samples of each class, if classes are drawn equally often.
    classes: Vec<Vec<u32>>,
}

impl BatchOrder {
    /// An order over samples of the given lengths in tokens. A `batch_size` of 0 counts as 1.
    ///
    /// With `group_by_length` samples of like length share a batch, as Hugging Face's `LengthGroupedSampler`
    /// does it: a random permutation is cut into mega-batches of up to 50 batches, and each is sorted by
    /// length. Here the batches of a mega-batch are then shuffled, so that length does not follow the step;
    /// the very longest sample is in the first batch, so that memory runs out at once or not at all.
    pub fn new(
        lengths: Vec<u32>,
        batch_size: usize,
        seed: u64,
        group_by_length: bool,
        shuffle: bool,
        drop_last: bool,
    ) -> Self {
        let (batch_size, classes) = (batch_size.max(1), Vec::new());
        BatchOrder { lengths, batch_size, seed, group_by_length, shuffle, drop_last, classes }
    }

    /// The same order with every class drawn equally often, given the class of each sample: an epoch is as long as before;
    /// of a frequent class it takes a random part, of a rare one every sample as often as it takes.
    pub fn balanced(mut self, class_of: &[u32]) -> Self {
        let mut classes: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
        for (sample, &class) in (0_u32..).zip(class_of) {
            classes.entry(class).or_default().push(sample);
        }
        self.classes = classes.into_values().collect();
        self
    }

    /// An order for evaluation: file order, nothing dropped.
    pub fn sequential(samples: usize, batch_size: usize) -> Self {
        Self::new(vec![1; samples], batch_size, 0, false, false, false)
    }

    /// Number of batches in every epoch.
    pub fn batches_per_epoch(&self) -> usize {
        let samples = self.lengths.len();
        if self.drop_last { samples / self.batch_size } else { samples.div_ceil(self.batch_size) }
    }

    /// The batches of one epoch, counted from 0.
    pub fn epoch(&self, epoch: u64) -> EpochBatches {
        let key = mix(self.seed ^ mix(epoch.wrapping_add(GOLDEN_GAMMA)));
        let mut order = self.draw(key);
        if self.shuffle {
            permute(&mut order, key);
        }
        if self.group_by_length {
            self.group(&mut order, mix(key));
        }
        EpochBatches { order, batch_size: self.batch_size, batches: self.batches_per_epoch() }
    }

    /// The samples of an epoch, not yet in order.
    fn draw(&self, key: u64) -> Vec<u32> {
        let samples = self.lengths.len();
        if self.classes.is_empty() {
            return (0..samples as u32).collect();
        }
        let (share, rest) = (samples / self.classes.len(), samples % self.classes.len());
        let mut drawn = Vec::with_capacity(samples);
        for (class, members) in self.classes.iter().enumerate() {
            let mut members = members.clone();
            permute(&mut members, random(!key, class as u64));
            drawn.extend(members.iter().cycle().take(share + usize::from(class < rest)));
        }
        drawn
    }

    fn group(&self, order: &mut [u32], key: u64) {
        let samples = order.len();
        let batches_in_mega = (samples / (self.batch_size * 4)).clamp(1, 50);
        let mega = batches_in_mega * self.batch_size;
        for (index, chunk) in order.chunks_mut(mega).enumerate() {
            // A stable sort: among equal lengths the random order stays.
            chunk.sort_by_key(|&sample| std::cmp::Reverse(self.lengths[sample as usize]));
            if !self.shuffle {
                continue;
            }
            let whole = chunk.len() / self.batch_size;
            let mut batch_order: Vec<u32> = (0..whole as u32).collect();
            permute(&mut batch_order, random(key, index as u64));
            let sorted = chunk.to_vec();
            for (to, from) in batch_order.into_iter().enumerate() {
                let (to, from) = (to * self.batch_size, from as usize * self.batch_size);
                chunk[to..to + self.batch_size].copy_from_slice(&sorted[from..from + self.batch_size]);
            }
        }
        let longest =
            (0..samples).max_by_key(|&place| (self.lengths[order[place] as usize], std::cmp::Reverse(place)));
        if let Some(place) = longest.filter(|&place| place >= self.batch_size) {
            order.swap(0, place);
        }
    }
}

/// Fisher–Yates with a counter-based generator; the bias of the multiply-shift is below 2⁻³².
fn permute(order: &mut [u32], key: u64) {
    for last in (1..order.len()).rev() {
        let pick = ((u128::from(random(key, last as u64)) * (last as u128 + 1)) >> 64) as usize;
        order.swap(last, pick);
    }
}

/// The batches of one epoch.
#[derive(Debug, Clone)]
pub struct EpochBatches {
    order: Vec<u32>,
    batch_size: usize,
    batches: usize,
}

impl EpochBatches {
    /// Number of batches.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// The sample indices of a batch; empty beyond the last.
    pub fn batch(&self, index: usize) -> Vec<u32> {
        if index >= self.batches {
            return Vec::new();
        }
        let start = index * self.batch_size;
        self.order[start..(start + self.batch_size).min(self.order.len())].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_epochs_draw_every_class_equally_often_and_every_rare_sample() {
        // 90 of class 0, 9 of class 1, 1 of class 2.
        let classes: Vec<u32> = (0..100).map(|n| u32::from(n >= 90) + u32::from(n == 99)).collect();
        let order = BatchOrder::new(vec![1; 100], 8, 3, false, true, false).balanced(&classes);
        let mut seen = std::collections::HashSet::new();
        for epoch in 0..12 {
            let drawn = flat(&order.epoch(epoch));
            let count =
                |class: u32| drawn.iter().filter(|&&sample| classes[sample as usize] == class).count();
            assert_eq!([count(0), count(1), count(2)], [34, 33, 33]);
            let often = |sample: u32| drawn.iter().filter(|&&drawn| drawn == sample).count();
            assert!((90..99).all(|sample| (3..=4).contains(&often(sample))));
            assert_eq!(drawn, flat(&order.epoch(epoch)));
            seen.extend(drawn);
        }
        // A frequent class is seen in other parts each time: 12 epochs miss one of 90 with probability (56/90)¹².
        assert!(seen.len() > 95, "{}", seen.len());
        assert_ne!(flat(&order.epoch(0)), flat(&order.epoch(1)));
    }

    fn flat(epoch: &EpochBatches) -> Vec<u32> {
        (0..epoch.batches()).flat_map(|index| epoch.batch(index)).collect()
    }

    #[test]
    fn an_epoch_is_a_function_of_its_number_and_the_seed() {
        let order = |seed| BatchOrder::new(vec![1; 100], 8, seed, false, true, false);
        assert_eq!(flat(&order(1).epoch(3)), flat(&order(1).epoch(3)));
        assert_ne!(flat(&order(1).epoch(3)), flat(&order(1).epoch(4)));
        assert_ne!(flat(&order(1).epoch(3)), flat(&order(2).epoch(3)));
    }

    #[test]
    fn without_shuffling_the_order_is_the_files() {
        let epoch = BatchOrder::sequential(5, 2).epoch(9);
        assert_eq!((epoch.batch(0), epoch.batch(2), epoch.batch(3)), (vec![0, 1], vec![4], vec![]));
    }

    #[test]
    fn dropping_the_last_batch_leaves_whole_ones() {
        let order = BatchOrder::new(vec![1; 10], 4, 0, false, true, true);
        assert_eq!(order.batches_per_epoch(), 2);
        assert!((0..2).all(|index| order.epoch(0).batch(index).len() == 4));
    }

    #[test]
    fn grouping_by_length_makes_batches_of_like_lengths_with_the_longest_first() {
        let lengths: Vec<u32> = (0..1000).map(|index| (random(5, index) % 100) as u32 + 1).collect();
        let order = BatchOrder::new(lengths.clone(), 10, 1, true, true, false);
        let epoch = order.epoch(0);
        assert!(
            epoch.batch(0).iter().any(|&sample| lengths[sample as usize] == *lengths.iter().max().unwrap())
        );
        let spread = |epoch: &EpochBatches| -> u32 {
            (0..epoch.batches())
                .map(|index| epoch.batch(index).into_iter().map(|sample| lengths[sample as usize]).collect())
                .map(|lengths: Vec<u32>| lengths.iter().max().unwrap() - lengths.iter().min().unwrap())
                .sum()
        };
        let ungrouped = BatchOrder::new(lengths.clone(), 10, 1, false, true, false).epoch(0);
        assert!(spread(&epoch) * 5 < spread(&ungrouped));
    }
}
