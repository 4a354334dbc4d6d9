//! What is kept of a tensor for the products of its backward.

use retune_kernels as kernels;
use retune_kernels::Precision;

use crate::{Context, Operand, Tensor};

/// What products read of `x`: rounded to bf16 where the context's products are, else the tensor itself. Products of one
/// tensor share what is kept.
pub fn operand(context: &Context, x: &Tensor) -> Operand {
    match context.precision() {
        Precision::F32 => Operand::F32(x.clone()),
        Precision::Bf16 => Operand::Bf16(x.rounded(|| {
            context.count_moved(x.elements() + x.elements() / 2);
            let mut buffer = context.allocate_bf16(x.elements());
            if let Some(cpu) = context.kernels() {
                kernels::to_bf16(cpu, x.values(), buffer.values_mut());
            }
            buffer
        })),
    }
}

/// What was kept, in f32, for what is no product.
pub fn widened(context: &Context, operand: &Operand) -> Tensor {
    match operand {
        Operand::F32(tensor) => tensor.clone(),
        Operand::Bf16(rounded) => {
            let mut x = context.allocate(rounded.shape());
            context.count_moved(x.elements() + x.elements() / 2);
            if let Some(cpu) = context.kernels() {
                kernels::from_bf16(cpu, rounded.values(), x.make_mut());
            }
            x
        }
    }
}
