//! How fast this machine does each kind of work, measured in a fraction of a second: what plans take time from.

use std::sync::Arc;
use std::time::Instant;

use memmap2::MmapMut;
use retune_kernels::{Cpu, Precision};
use retune_tensor::ops::{self, AttentionShape, Conv2dParameters};
use retune_tensor::{Activation, Context, DropoutSpec, RowKey, Tensor, Work, WorkCounts};
use serde::Serialize;

use crate::bench::median;

/// Units of each kind of work per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MachineRates {
    /// Floating-point operations of matrix products.
    pub product: f64,
    /// Floating-point operations of matrix products with a narrow side.
    pub narrow_product: f64,
    /// Floating-point operations, by their definition, of convolutions of 3×3 with stride 1.
    pub square_convolution: f64,
    /// Floating-point operations of other convolutions.
    pub convolution: f64,
    /// Floating-point operations of convolutions channel by channel.
    pub depthwise_convolution: f64,
    /// Floating-point operations of attention.
    pub attention: f64,
    /// Values of functions such as GELU.
    pub function: f64,
    /// Random numbers.
    pub random: f64,
    /// Values of four bytes that are read or written.
    pub memory: f64,
    /// Bytes that the system hands out to a process which did not hold them yet.
    pub new_memory: f64,
}

/// Each kind is tried so often after a first time that does not count; the median counts.
const TRIES: usize = 3;

/// Seconds that work takes, the median of a few times.
fn seconds_of(mut work: impl FnMut()) -> f64 {
    work();
    let timed = |_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    median(&std::array::from_fn::<f64, TRIES, _>(timed))
}

impl MachineRates {
    /// Measures this machine with the kernels that a run will use.
    pub fn measure(cpu: &Cpu, precision: Precision) -> Self {
        let context = Context::cpu(cpu.clone()).with_precision(precision);
        let mut rates = Self {
            product: f64::INFINITY,
            narrow_product: f64::INFINITY,
            square_convolution: f64::INFINITY,
            convolution: f64::INFINITY,
            depthwise_convolution: f64::INFINITY,
            attention: f64::INFINITY,
            function: f64::INFINITY,
            random: f64::INFINITY,
            memory: f64::INFINITY,
            new_memory: new_memory(cpu.threads()),
        };
        // From the simple to the composed: what a kind needs of kinds before it is taken off its time.
        let tensor = |sizes: &[usize]| {
            context.tensor(sizes, (0..sizes.iter().product()).map(|i: usize| (i % 7) as f32 - 3.0).collect())
        };
        // Larger than most processors' last cache: what a step walks through does not fit there either.
        let values = [tensor(&[1 << 23]), tensor(&[1 << 23])];
        rates.time(&context, Work::Memory, || drop(ops::add(&context, &values[0], &values[1])));
        let some = tensor(&[1 << 10, 1 << 9]);
        rates.time(&context, Work::Function, || {
            ops::activation(&context, Activation::GeluErf, &some);
            ops::activation_backward(&context, Activation::GeluErf, &some, &some);
        });
        let keys = (0..1 << 10).map(|sample| RowKey { sample, position: 0 }).collect();
        let dropout = DropoutSpec { probability: 0.1, key: [1, 2], rows: Arc::new(keys) };
        rates.time(&context, Work::Random, || drop(ops::dropout(&context, &dropout, &some)));
        for (kind, [rows, inputs, outputs]) in
            [(Work::Product, [1 << 9, 768, 3072]), (Work::NarrowProduct, [1 << 13, 32, 192])]
        {
            let (x, weight, dy) =
                (tensor(&[rows, inputs]), tensor(&[outputs, inputs]), tensor(&[rows, outputs]));
            let mut gradient = vec![0.0; outputs * inputs];
            rates.time(&context, kind, || {
                ops::linear(&context, &x, &weight, None, Activation::Identity, false);
                ops::linear_input_gradient(&context, &dy, &weight, 1.0, None);
                ops::linear_weight_gradient(&context, &dy, &x, 1.0, &mut gradient);
            });
        }
        let shape = attention_shape();
        let q = tensor(&[4 * 128, 384]);
        rates.time(&context, Work::Attention, || {
            let (out, sums) = ops::attention(&context, &shape, &q, &q, &q, None, true);
            let Some(sums) = sums else { return };
            ops::attention_backward(&context, &shape, &q, &q, &q, None, &out, &sums, &q);
        });
        let layer = |[pictures, side, inputs]: [usize; 3], outputs: usize, stride: usize, groups: usize| {
            let (stride, padding) = ([stride; 2], [1, 1]);
            let parameters = Conv2dParameters { stride, padding, groups, ..Conv2dParameters::default() };
            let x = tensor(&[pictures, side, side, inputs]);
            (parameters, x, tensor(&[outputs, inputs / groups, 3, 3]))
        };
        let squares =
            [layer([8, 56, 64], 64, 1, 1), layer([8, 28, 128], 128, 1, 1), layer([8, 14, 256], 256, 1, 1)];
        let strided = [layer([2, 56, 64], 128, 2, 1)];
        let depthwise = [layer([4, 112, 96], 96, 2, 96), layer([4, 56, 144], 144, 1, 144)];
        for (kind, layers) in [
            (Work::SquareConvolution, &squares[..]),
            (Work::Convolution, &strided),
            (Work::DepthwiseConvolution, &depthwise),
        ] {
            rates.time(&context, kind, || layers.iter().for_each(|layer| three_products(&context, layer)));
        }
        rates
    }

    /// Times what is of one kind beside kinds that are known.
    fn time(&mut self, context: &Context, kind: Work, mut run: impl FnMut()) {
        let before = context.work();
        let mut times = 0;
        let seconds = seconds_of(|| {
            run();
            times += 1;
        });
        let counted = (context.work() - before).scaled(1.0 / f64::from(times));
        let known = WorkCounts::from_fn(|other| if other == kind { 0 } else { counted[other] });
        // What is known was measured by itself; together it may be faster.
        let own = (seconds - self.seconds(&known)).max(seconds / 4.0);
        *self.of_mut(kind) = counted[kind] as f64 / own;
    }

    fn of_mut(&mut self, kind: Work) -> &mut f64 {
        match kind {
            Work::Product => &mut self.product,
            Work::NarrowProduct => &mut self.narrow_product,
            Work::SquareConvolution => &mut self.square_convolution,
            Work::Convolution => &mut self.convolution,
            Work::DepthwiseConvolution => &mut self.depthwise_convolution,
            Work::Attention => &mut self.attention,
            Work::Function => &mut self.function,
            Work::Random => &mut self.random,
            Work::Memory => &mut self.memory,
        }
    }

    fn of(mut self, kind: Work) -> f64 {
        *self.of_mut(kind)
    }

    /// Seconds that work takes, one kind after the other.
    pub fn seconds(&self, work: &WorkCounts) -> f64 {
        Work::ALL.into_iter().map(|kind| work[kind] as f64 / self.of(kind)).sum()
    }
}

/// Bytes a second of which every page is touched for the first time, by as many threads as compute.
fn new_memory(threads: usize) -> f64 {
    const BYTES: usize = 1 << 26;
    const PAGE: usize = 1 << 12;
    let started = Instant::now();
    let Ok(mut pages) = MmapMut::map_anon(BYTES) else { return f64::INFINITY };
    std::thread::scope(|scope| {
        for piece in pages.chunks_mut(BYTES.div_ceil(threads)) {
            scope.spawn(|| piece.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1));
        }
    });
    BYTES as f64 / started.elapsed().as_secs_f64()
}

/// Four sequences of 128 tokens in twelve heads of 32.
fn attention_shape() -> AttentionShape {
    let offsets = Arc::new((0..=4).map(|sequence| 128 * sequence).collect::<Vec<u32>>());
    AttentionShape {
        heads: 12,
        scale: 0.18,
        causal: false,
        query_offsets: Arc::clone(&offsets),
        key_offsets: offsets,
    }
}

/// A convolution and both of its gradients.
fn three_products(context: &Context, (parameters, x, weight): &(Conv2dParameters, Tensor, Tensor)) {
    let y = ops::conv2d(context, parameters, x, weight, None);
    let sizes = [0, 1, 2, 3].map(|axis| x.shape().sizes()[axis]);
    ops::conv2d_input_gradient(context, parameters, sizes, &y, weight, None);
    let mut gradient = vec![0.0; weight.elements()];
    ops::conv2d_weight_gradient(context, parameters, &ops::operand(context, x), weight, &y, &mut gradient);
}

#[cfg(test)]
mod tests {
    use retune_kernels::Isa;

    use super::*;

    #[test]
    fn every_kind_of_work_has_a_speed_here() {
        let rates = MachineRates::measure(&Cpu::new(1, Isa::detect()).unwrap(), Precision::F32);
        for kind in Work::ALL {
            let rate = rates.of(kind);
            assert!(rate.is_finite() && rate > 0.0, "{kind:?}: {rate}");
        }
        assert!(rates.new_memory.is_finite() && rates.new_memory > 0.0, "{}", rates.new_memory);
    }

    #[test]
    fn kinds_of_work_take_their_time_one_after_the_other() {
        let rates = MachineRates {
            product: 100.0,
            narrow_product: 1.0,
            square_convolution: 1.0,
            convolution: 1.0,
            depthwise_convolution: 1.0,
            attention: 1.0,
            function: 10.0,
            random: 1.0,
            memory: 1000.0,
            new_memory: 1.0,
        };
        let work = WorkCounts::from_fn(|kind| match kind {
            Work::Product => 300,
            Work::Function => 5,
            Work::Memory => 250,
            _ => 0,
        });
        assert_eq!(rates.seconds(&work), 3.0 + 0.5 + 0.25);
    }
}
