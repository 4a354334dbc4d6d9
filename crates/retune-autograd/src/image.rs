//! The operations on images [batch, height, width, channels]: what the forward keeps, and the backward of each.

use std::sync::Arc;

use retune_tensor::ops::{self, BatchNormForm, Conv2dParameters, PoolWindow};
use retune_tensor::{Activation, Tensor};

use crate::ops::{KeptInput, Pooling};
use crate::tape::{Backward, Tape, Var};

/// The four sizes of an activation.
fn sizes(x: &Var) -> [usize; 4] {
    match *x.tensor().shape().sizes() {
        [batch, height, width, channels] => [batch, height, width, channels],
        _ => panic!("images are [batch, height, width, channels], this is {:?}", x.tensor()),
    }
}

impl<'s> Tape<'s> {
    /// Convolution of `x` [batch, height, width, in] with `weight` [out, in / groups, kernel height, kernel width].
    pub fn conv2d(&mut self, x: &Var, weight: &Var, bias: Option<&Var>, parameters: Conv2dParameters) -> Var {
        let inputs: Vec<&Var> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
        let bias_tensor = bias.map(Var::tensor);
        let context = self.context().clone();
        let y = ops::conv2d(&context, &parameters, x.tensor(), weight.tensor(), bias_tensor);
        self.record(y, &inputs, || {
            let input = sizes(x);
            let (x, weight, bias) = (KeptInput::of(&context, x, weight), weight.clone(), bias.cloned());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let mut dy = dy;
                if let Some(bias) = bias.filter(Var::needs_gradient) {
                    let gradient = walk.parameter_gradient(&bias);
                    dy = ops::activation_backward_bias(&context, Activation::Identity, None, dy, gradient);
                }
                if let (Some(dweight), Some(x)) = (walk.parameter_gradient(&weight), &x.values) {
                    ops::conv2d_weight_gradient(&context, &parameters, x, weight.tensor(), &dy, dweight);
                }
                if x.target.needs_gradient() {
                    let sum = walk.take_at(x.target);
                    let weight = weight.tensor();
                    let dx = ops::conv2d_input_gradient(&context, &parameters, input, &dy, weight, sum);
                    walk.accumulate_at(x.target, dx);
                }
            }
        })
    }

    /// `activation((x - mean) / sqrt(variance + eps) · weight + bias + residual)`, channel by channel; statistics,
    /// activation and whether gradients flow through the statistics are in `form`. Keeps its input and the residual,
    /// from which the backward computes the rest again.
    pub fn batch_norm(
        &mut self,
        x: &Var,
        residual: Option<&Var>,
        form: BatchNormForm,
        weight: &Var,
        bias: &Var,
    ) -> Var {
        let inputs: Vec<&Var> = [Some(x), residual, Some(weight), Some(bias)].into_iter().flatten().collect();
        let residual_tensor = residual.map(Var::tensor);
        let context = self.context();
        let y = ops::batch_norm(context, &form, x.tensor(), residual_tensor, weight.tensor(), bias.tensor());
        self.record(y, &inputs, || {
            let (x, residual, weight, bias) = (x.clone(), residual.cloned(), weight.clone(), bias.clone());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let wants_residual = residual.as_ref().is_some_and(Var::needs_gradient);
                let (dweight, dbias) = walk.parameter_gradients(&weight, &bias);
                let gradients = ops::batch_norm_backward(
                    &context,
                    &form,
                    &dy,
                    x.tensor(),
                    residual.as_ref().map(Var::tensor),
                    [weight.tensor(), bias.tensor()],
                    x.needs_gradient(),
                    wants_residual,
                    dweight,
                    dbias,
                );
                drop(dy);
                if let Some(dx) = gradients.x {
                    walk.accumulate(&x, dx);
                }
                if let (Some(residual), Some(gradient)) = (&residual, gradients.residual) {
                    walk.accumulate(residual, gradient);
                }
            }
        })
    }

    /// Group normalization of `x` in `groups` of neighbouring channels, image by image. Keeps its input and the statistics.
    pub fn group_norm(&mut self, x: &Var, groups: usize, weight: &Var, bias: &Var, eps: f32) -> Var {
        let inputs = [x, weight, bias];
        let keep = inputs.iter().any(|input| input.needs_gradient());
        let [x_tensor, weight_tensor, bias_tensor] = inputs.map(Var::tensor);
        let (y, kept) =
            ops::group_norm(self.context(), x_tensor, groups, weight_tensor, bias_tensor, eps, keep);
        let Some(kept) = kept else { return Var::constant(y) };
        self.record(y, &inputs, || {
            let [x, weight, bias] = inputs.map(Var::clone);
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let (dweight, dbias) = walk.parameter_gradients(&weight, &bias);
                let dx = ops::group_norm_backward(
                    &context,
                    &dy,
                    x.tensor(),
                    &kept,
                    [weight.tensor(), bias.tensor()],
                    eps,
                    x.needs_gradient(),
                    dweight,
                    dbias,
                );
                if let Some(dx) = dx {
                    walk.accumulate(&x, dx);
                }
            }
        })
    }

    /// The greatest value of each window. Keeps where each was found, a byte a value.
    pub fn max_pool2d(&mut self, x: &Var, window: PoolWindow) -> Var {
        let (y, argmax) = ops::max_pool2d(self.context(), &window, x.tensor(), x.needs_gradient());
        let Some(argmax) = argmax else { return Var::constant(y) };
        self.record(y, &[x], || {
            // The values of x are not needed, so they are not kept.
            let (input, target) = (sizes(x), x.target());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dx = ops::max_pool2d_backward(walk.context(), &window, input, &dy, &argmax);
                walk.accumulate_at(target, dx);
            }
        })
    }

    /// The mean of each window; padding counts as zeros if `count_include_pad`.
    pub fn avg_pool2d(&mut self, x: &Var, window: PoolWindow, count_include_pad: bool) -> Var {
        let y = ops::avg_pool2d(self.context(), &window, count_include_pad, x.tensor());
        self.record(y, &[x], || {
            let (input, target) = (sizes(x), x.target());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dx = ops::avg_pool2d_backward(walk.context(), &window, count_include_pad, input, &dy);
                walk.accumulate_at(target, dx);
            }
        })
    }

    /// The mean over an even division of each image into `output` rows and columns.
    pub fn adaptive_avg_pool2d(&mut self, x: &Var, output: [usize; 2]) -> Var {
        let [_, height, width, _] = sizes(x);
        if output == [height, width] {
            return x.clone();
        }
        let y = ops::adaptive_avg_pool2d(self.context(), output, x.tensor());
        self.record(y, &[x], || {
            let (input, target) = (sizes(x), x.target());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dx = ops::adaptive_avg_pool2d_backward(walk.context(), output, input, &dy);
                walk.accumulate_at(target, dx);
            }
        })
    }

    /// The mean of each channel over each image: [batch, height, width, channels] → [batch, channels].
    pub fn global_avg_pool(&mut self, x: &Var) -> Var {
        let [batch, height, width, _] = sizes(x);
        let offsets = (0..=batch as u32).map(|image| image * (height * width) as u32).collect();
        self.pool(x, &Arc::new(offsets), Pooling::Mean)
    }

    /// `x` [batch, height, width, channels] times `scale` [batch, channels] (squeeze and excitation); a scale of one row
    /// holds for all images.
    pub fn scale_channels(&mut self, x: &Var, scale: &Var) -> Var {
        let y = ops::scale_channels(self.context(), x.tensor(), scale.tensor());
        self.record(y, &[x, scale], || {
            let (x, scale) = (x.clone(), scale.clone());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let [dx, dscale] = ops::scale_channels_backward(
                    walk.context(),
                    &dy,
                    x.tensor(),
                    scale.tensor(),
                    x.needs_gradient(),
                    scale.needs_gradient(),
                );
                if let Some(dx) = dx {
                    walk.accumulate(&x, dx);
                }
                if let Some(dscale) = dscale {
                    walk.accumulate(&scale, dscale);
                }
            }
        })
    }

    /// `x + y`.
    pub fn add(&mut self, x: &Var, y: &Var) -> Var {
        let sum = ops::add(self.context(), x.tensor(), y.tensor());
        self.record(sum, &[x, y], || {
            let targets = [x.target(), y.target()];
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let [first, second] = targets;
                walk.accumulate_at(first, dy.clone());
                walk.accumulate_at(second, dy);
            }
        })
    }

    /// The channels of all `parts` side by side.
    pub fn concat_channels(&mut self, parts: &[&Var]) -> Var {
        let tensors: Vec<&Tensor> = parts.iter().map(|part| part.tensor()).collect();
        let y = ops::concat_channels(self.context(), &tensors);
        self.record(y, parts, || {
            let parts: Vec<_> =
                parts.iter().map(|part| (part.target(), part.tensor().shape().clone())).collect();
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let context = walk.context().clone();
                let mut start = 0;
                for (target, shape) in parts {
                    let width = shape.sizes().last().copied().unwrap_or(1);
                    if target.needs_gradient() {
                        let gradient = ops::slice_channels(&context, &dy, start, &shape);
                        walk.accumulate_at(target, gradient);
                    }
                    start += width;
                }
            }
        })
    }

    /// Each image as one row in the reference's order, channel by channel: [batch, channels · height · width].
    pub fn flatten_images(&mut self, x: &Var) -> Var {
        let y = ops::flatten_images(self.context(), x.tensor());
        self.record(y, &[x], || {
            let (input, target) = (sizes(x), x.target());
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let dx = ops::flatten_images_backward(walk.context(), input, &dy);
                walk.accumulate_at(target, dx);
            }
        })
    }
}
