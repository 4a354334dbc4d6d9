//! Two-dimensional convolution and pooling of NHWC images.

/// A convolution, in the words of `torch.nn.Conv2d`; weights are `[out, in / groups, kh, kw]`.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    /// Images.
    pub batch: usize,
    /// Rows and columns of an input image.
    pub input: [usize; 2],
    /// Channels in and out.
    pub channels: [usize; 2],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Input pixels between output pixels.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Input pixels between kernel elements.
    pub dilation: [usize; 2],
    /// Independent groups of channels.
    pub groups: usize,
}

impl Convolution {
    /// Rows and columns of an output image.
    pub fn output(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            let padded = self.input[axis] + 2 * self.padding[axis];
            if padded < reach { 0 } else { (padded - reach) / self.stride[axis] + 1 }
        })
    }

    /// Calls `f(y, x, weight)` with the places of every product that the convolution sums.
    fn each_product(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([height, width], [out_height, out_width]) = (self.input, self.output());
        let [inputs, outputs] = self.channels;
        let (group_inputs, group_outputs) = (inputs / self.groups, outputs / self.groups);
        let [kernel_height, kernel_width] = self.kernel;
        for n in 0..self.batch {
            for (i, j) in (0..out_height).flat_map(|i| (0..out_width).map(move |j| (i, j))) {
                for (a, b) in (0..kernel_height).flat_map(|a| (0..kernel_width).map(move |b| (a, b))) {
                    let row = (i * self.stride[0] + a * self.dilation[0]).checked_sub(self.padding[0]);
                    let column = (j * self.stride[1] + b * self.dilation[1]).checked_sub(self.padding[1]);
                    let (Some(row), Some(column)) = (row, column) else { continue };
                    if row >= height || column >= width {
                        continue;
                    }
                    for o in 0..outputs {
                        for c in 0..group_inputs {
                            let input = o / group_outputs * group_inputs + c;
                            f(
                                ((n * out_height + i) * out_width + j) * outputs + o,
                                ((n * height + row) * width + column) * inputs + input,
                                ((o * group_inputs + c) * kernel_height + a) * kernel_width + b,
                            );
                        }
                    }
                }
            }
        }
    }

    /// The output `[batch, oh, ow, out]`.
    pub fn forward(&self, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let [height, width] = self.output();
        let mut y = bias.repeat(self.batch * height * width);
        self.each_product(|at_y, at_x, at_weight| y[at_y] += x[at_x] * weight[at_weight]);
        y
    }

    /// The gradients of `x` and of the weight.
    pub fn backward(&self, x: &[f64], weight: &[f64], dy: &[f64]) -> [Vec<f64>; 2] {
        let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        self.each_product(|at_y, at_x, at_weight| {
            dx[at_x] += dy[at_y] * weight[at_weight];
            dweight[at_weight] += dy[at_y] * x[at_x];
        });
        [dx, dweight]
    }
}

/// A pooling, in the words of `torch.nn.MaxPool2d` and `AvgPool2d`.
#[derive(Clone, Copy, Debug)]
pub struct Pooling {
    /// Images.
    pub batch: usize,
    /// Rows and columns of an input image.
    pub input: [usize; 2],
    /// Channels.
    pub channels: usize,
    /// Rows and columns of the window.
    pub kernel: [usize; 2],
    /// Input pixels between windows.
    pub stride: [usize; 2],
    /// Padding on each side.
    pub padding: [usize; 2],
    /// Whether a last window may reach beyond the padded input.
    pub ceil_mode: bool,
}

impl Pooling {
    /// Rows and columns of an output image.
    pub fn output(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            // As many windows as start within input and left padding and, without `ceil_mode`, end within the right.
            (0..)
                .take_while(|&window| {
                    let start = window * self.stride[axis];
                    let end = start + self.kernel[axis];
                    let padded = self.input[axis] + 2 * self.padding[axis];
                    let reached = start < self.input[axis] + self.padding[axis]
                        && padded >= self.kernel[axis]
                        && (window == 0 || start < padded - self.kernel[axis] + self.stride[axis]);
                    if self.ceil_mode { reached } else { end <= padded }
                })
                .count()
        })
    }

    /// Every window: the input places that exist in it, and its size with padding.
    fn windows(&self) -> Vec<(Vec<usize>, usize)> {
        let ([height, width], [out_height, out_width]) = (self.input, self.output());
        let mut windows = Vec::new();
        for n in 0..self.batch {
            for (i, j) in (0..out_height).flat_map(|i| (0..out_width).map(move |j| (i, j))) {
                for c in 0..self.channels {
                    let (mut places, mut size) = (Vec::new(), 0);
                    for (a, b) in (0..self.kernel[0]).flat_map(|a| (0..self.kernel[1]).map(move |b| (a, b))) {
                        let (row, column) = (i * self.stride[0] + a, j * self.stride[1] + b);
                        if row < height + 2 * self.padding[0] && column < width + 2 * self.padding[1] {
                            size += 1;
                        }
                        if (self.padding[0]..height + self.padding[0]).contains(&row)
                            && (self.padding[1]..width + self.padding[1]).contains(&column)
                        {
                            let (row, column) = (row - self.padding[0], column - self.padding[1]);
                            places.push(((n * height + row) * width + column) * self.channels + c);
                        }
                    }
                    windows.push((places, size));
                }
            }
        }
        windows
    }

    /// The maximum of every window, and the gradient of `x` from `dy` (to the first of equals).
    pub fn max(&self, x: &[f64], dy: &[f64]) -> [Vec<f64>; 2] {
        let (mut y, mut dx) = (Vec::new(), vec![0.0; x.len()]);
        for ((places, _), dy) in self.windows().into_iter().zip(dy) {
            let greatest = places.iter().map(|&place| x[place]).fold(f64::NEG_INFINITY, f64::max);
            let first = places.into_iter().find(|&place| x[place] == greatest);
            y.push(greatest);
            dx[first.expect("a window holds a pixel")] += dy;
        }
        [y, dx]
    }

    /// The mean of every window, and the gradient of `x` from `dy`.
    pub fn average(&self, count_include_pad: bool, x: &[f64], dy: &[f64]) -> [Vec<f64>; 2] {
        let (mut y, mut dx) = (Vec::new(), vec![0.0; x.len()]);
        for ((places, size), dy) in self.windows().into_iter().zip(dy) {
            let divisor = if count_include_pad { size } else { places.len() } as f64;
            y.push(places.iter().map(|&place| x[place]).sum::<f64>() / divisor);
            places.into_iter().for_each(|place| dx[place] += dy / divisor);
        }
        [y, dx]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{assert_gradient, counter_normal_like, widen};

    fn inner(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn a_convolution_of_one_row_is_computed_by_hand() {
        let convolution = Convolution {
            batch: 1,
            input: [1, 4],
            channels: [1, 1],
            kernel: [1, 3],
            stride: [1, 2],
            padding: [0, 1],
            dilation: [1, 1],
            groups: 1,
        };
        // Windows 0 1 2 and 2 3 4 of the input 1 2 3 4 between zeros.
        let y = convolution.forward(&[1.0, 2.0, 3.0, 4.0], &[10.0, 100.0, 1000.0], &[0.5]);
        assert_eq!(y, [2100.5, 4320.5]);
    }

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let convolution = Convolution {
            batch: 2,
            input: [4, 5],
            channels: [2, 4],
            kernel: [3, 2],
            stride: [2, 1],
            padding: [1, 2],
            dilation: [1, 2],
            groups: 2,
        };
        let [height, width] = convolution.output();
        let draw = |name, n| widen(&counter_normal_like(name, n, 1.0));
        let (x, weight, dy) = (draw("x", 80), draw("weight", 24), draw("dy", 2 * height * width * 4));
        let [dx, dweight] = convolution.backward(&x, &weight, &dy);
        let loss = |x: &[f64], weight: &[f64]| inner(&convolution.forward(x, weight, &[0.1; 4]), &dy);
        assert_gradient("dx", &x, &dx, 1e-7, |x| loss(x, &weight));
        assert_gradient("dweight", &weight, &dweight, 1e-7, |weight| loss(&x, weight));
    }

    #[test]
    fn pooling_gradients_are_those_of_the_means_and_maxima() {
        for ceil_mode in [false, true] {
            let pooling = Pooling {
                batch: 1,
                input: [5, 4],
                channels: 2,
                kernel: [3, 2],
                stride: [2, 3],
                padding: [1, 1],
                ceil_mode,
            };
            let [height, width] = pooling.output();
            let draw = |name, n| widen(&counter_normal_like(name, n, 1.0));
            let (x, dy) = (draw("x", 40), draw("dy", 2 * height * width));
            let [_, dx] = pooling.max(&x, &dy);
            assert_gradient("max", &x, &dx, 1e-7, |x| inner(&pooling.max(x, &dy)[0], &dy));
            for padded in [false, true] {
                let [_, dx] = pooling.average(padded, &x, &dy);
                assert_gradient("average", &x, &dx, 1e-7, |x| {
                    inner(&pooling.average(padded, x, &dy)[0], &dy)
                });
            }
        }
    }
}
