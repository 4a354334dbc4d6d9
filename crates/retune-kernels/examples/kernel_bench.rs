#![allow(clippy::print_stdout, reason = "a benchmark prints")]
//! Times every kernel at the shapes of BERT-base, MiniLM and image models against this machine's measured peaks.
//!
//! `cargo run --release -p retune-kernels --example kernel_bench -- [threads] [isa] [name filter]`

use std::hint::black_box;
use std::time::Instant;

use retune_kernels::*;

/// The shortest time of a call, in seconds: of the wall's clock, or on one thread of the thread's own, which other work
/// on the machine does not lengthen.
fn time(threads: usize, mut f: impl FnMut()) -> f64 {
    f();
    let mut shortest = f64::INFINITY;
    let (mut calls, begin) = (0, Instant::now());
    while calls < 7 || begin.elapsed().as_secs_f64() < 0.25 {
        let start = now(threads);
        f();
        shortest = shortest.min(now(threads) - start);
        calls += 1;
    }
    shortest
}

#[cfg(unix)]
fn now(threads: usize) -> f64 {
    let clock = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists and the result has a place.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(not(unix))]
fn now(_threads: usize) -> f64 {
    static BEGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    BEGIN.elapsed().as_secs_f64()
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 2.0).collect()
}

struct Bench {
    cpu: Cpu,
    filter: String,
    flops_peak: f64,
    bytes_peak: f64,
}

impl Bench {
    fn report(&self, name: &str, amount: f64, unit: &str, peak: f64, seconds: f64) {
        let rate = amount / seconds / 1e9;
        println!(
            "{name:<44} {:>9.3} ms  {rate:>7.1} {unit:<8} {:>4.0}% of peak",
            seconds * 1e3,
            100.0 * rate / peak
        );
    }

    fn flops(&self, name: &str, flops: f64, f: impl FnMut()) {
        if name.contains(&self.filter) {
            self.report(name, flops, "GFLOP/s", self.flops_peak, time(self.cpu.threads(), f));
        }
    }

    fn bytes(&self, name: &str, bytes: usize, f: impl FnMut()) {
        if name.contains(&self.filter) {
            self.report(name, bytes as f64, "GB/s", self.bytes_peak, time(self.cpu.threads(), f));
        }
    }

    fn gemms(&self) {
        for (m, n, k) in [
            (1024, 768, 768),
            (1024, 768, 3072),
            (1024, 3072, 768),
            (2048, 384, 1536),
            (2048, 1536, 384),
            (2048, 384, 384),
            (768, 768, 1024),
            (3072, 768, 1024),
            (8, 2, 768),
            (8, 768, 768),
            (1, 768, 768),
            (32, 768, 768),
            (1024, 9, 768),
        ] {
            let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * n));
            for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
                let g = Gemm {
                    layout,
                    m,
                    n,
                    k,
                    precision: Precision::F32,
                    a: (&a).into(),
                    b: (&b).into(),
                    accumulate: false,
                    scale: 1.0,
                    bias: None,
                    activation: Activation::Identity,
                };
                self.flops(&format!("gemm {layout:?} {m}x{n}x{k}"), 2.0 * (m * n * k) as f64, || {
                    gemm(&self.cpu, &g, &mut c, None);
                });
            }
        }
        let (m, n, k) = (1024, 3072, 768);
        let (a, b, bias) = (numbers(m * k), numbers(k * n), numbers(n));
        let (mut c, mut pre) = (numbers(m * n), numbers(m * n));
        let g = Gemm {
            layout: Layout::Nt,
            m,
            n,
            k,
            precision: Precision::F32,
            a: (&a).into(),
            b: (&b).into(),
            accumulate: false,
            scale: 1.0,
            bias: Some(&bias),
            activation: Activation::GeluErf,
        };
        self.flops("gemm Nt 1024x3072x768 + bias + gelu", 2.0 * (m * n * k) as f64, || {
            gemm(&self.cpu, &g, &mut c, Some(&mut pre));
        });
    }
}

/// The shapes of one model's step: rows of `hidden`, `heads`, sequences of 128.
struct Model {
    name: &'static str,
    rows: usize,
    hidden: usize,
    heads: usize,
    parameters: usize,
}

impl Bench {
    fn step(&self, model: &Model) {
        let &Model { name, rows, hidden, heads, parameters } = model;
        let cpu = &self.cpu;
        let name = |kernel: &str| format!("{kernel} ({name})");
        let (x, y, mut out) = (numbers(rows * hidden), numbers(rows * hidden), numbers(rows * hidden));
        let row_keys: Vec<_> =
            (0..rows as u32).map(|i| RowKey { sample: i / 128, position: i % 128 }).collect();
        let drop = Dropout { probability: 0.1, key: [1, 2], rows: &row_keys };
        let bytes = rows * hidden * 4;
        self.bytes(&name("add"), 3 * bytes, || add(cpu, &x, &y, &mut out));
        self.bytes(&name("dropout"), 2 * bytes, || dropout(cpu, &drop, hidden, &x, &mut out));

        let (gamma, beta) = (numbers(hidden), numbers(hidden));
        let (mut sum, mut mean, mut rstd) = (numbers(rows * hidden), numbers(rows), numbers(rows));
        let input = LayerNormInput {
            x: &x,
            residual: Some(&y),
            dropout: Some(drop),
            gamma: &gamma,
            beta: &beta,
            eps: 1e-12,
            width: hidden,
        };
        let plain = LayerNormInput { dropout: None, ..input };
        self.bytes(&name("layer norm + residual"), 4 * bytes, || {
            layer_norm_forward(cpu, &plain, &mut out, Some(&mut sum), Some(&mut mean), Some(&mut rstd));
        });
        self.bytes(&name("layer norm + residual + dropout"), 4 * bytes, || {
            layer_norm_forward(cpu, &input, &mut out, Some(&mut sum), Some(&mut mean), Some(&mut rstd));
        });
        let (mut dx, mut dresidual) = (numbers(rows * hidden), numbers(rows * hidden));
        let (mut dgamma, mut dbeta) = (numbers(hidden), numbers(hidden));
        self.bytes(&name("layer norm backward + dropout"), 4 * bytes, || {
            let grad = LayerNormGrad {
                dx: Some(&mut dx),
                dresidual: Some(&mut dresidual),
                dgamma: Some(&mut dgamma),
                dbeta: Some(&mut dbeta),
            };
            layer_norm_backward(cpu, hidden, &y, &sum, &mean, &rstd, &gamma, Some(&drop), grad);
        });
        let wide = 4 * hidden;
        let (pre, dy, mut wide_out) = (numbers(rows * wide), numbers(rows * wide), numbers(rows * wide));
        let mut bias = numbers(wide);
        self.bytes(&name("gelu"), 2 * 4 * bytes, || {
            activation_forward(cpu, Activation::GeluErf, &pre, &mut wide_out);
        });
        self.bytes(&name("gelu backward + bias"), 3 * 4 * bytes, || {
            let (dx, bias) = (Some(&mut wide_out[..]), Some(&mut bias[..]));
            activation_backward_bias(cpu, Activation::GeluErf, wide, Some(&pre), &dy, dx, bias);
        });
        self.bytes(&name("bias gradient"), bytes, || {
            activation_backward_bias(
                cpu,
                Activation::Identity,
                hidden,
                None,
                &x,
                None,
                Some(&mut bias[..hidden]),
            );
        });

        let offsets: Vec<u32> = (0..=rows as u32 / 128).map(|i| i * 128).collect();
        let qkv = numbers(rows * 3 * hidden);
        let mut attention = Attention {
            heads,
            head_dim: hidden / heads,
            scale: 1.0 / ((hidden / heads) as f32).sqrt(),
            causal: false,
            precision: Precision::F32,
            q: (&qkv).into(),
            q_stride: 3 * hidden,
            k: (&qkv[hidden..]).into(),
            k_stride: 3 * hidden,
            v: (&qkv[2 * hidden..]).into(),
            v_stride: 3 * hidden,
            query_offsets: &offsets,
            key_offsets: &offsets,
            dropout: None,
        };
        let mut log_sum_exp = numbers(rows * heads);
        let flops = 4.0 * (rows * 128 * hidden) as f64;
        let mut dv = numbers(rows * hidden);
        for dropout in [None, Some(drop)] {
            attention.dropout = dropout;
            let kind = if dropout.is_some() { "attention + dropout" } else { "attention" };
            self.flops(&name(kind), flops, || {
                attention_forward(cpu, &attention, &mut out, Some(&mut log_sum_exp));
            });
            self.flops(&name(&format!("{kind}, backward")), 2.5 * flops, || {
                attention_backward(
                    cpu,
                    &attention,
                    (&out).into(),
                    &log_sum_exp,
                    &y,
                    &mut dx,
                    &mut dresidual,
                    &mut dv,
                );
            });
        }
        let (mut w, g) = (numbers(parameters), numbers(parameters));
        let (mut m, mut v) = (vec![0.0; parameters], vec![0.0; parameters]);
        let adamw = AdamW {
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step: 1,
            decoupled: true,
        };
        self.bytes(&name("adamw"), 7 * 4 * parameters, || {
            adamw_step(cpu, &adamw, 1.0, &mut w, &g, &mut m, &mut v, None);
        });
        self.bytes(&name("sum of squares"), 4 * parameters, || {
            black_box(sum_of_squares(cpu, &g));
        });
    }
}

/// A convolution's name, images, input side, channels in and out, kernel side, stride and groups.
type Layer = (&'static str, usize, usize, [usize; 2], usize, usize, usize);

/// Layers of ResNet-18, ResNet-50, VGG-16 and MobileNetV2 on pictures of 224².
const LAYERS: [Layer; 22] = [
    ("stem 3>64@224 7x7/2", 8, 224, [3, 64], 7, 2, 1),
    ("64@56 3x3", 8, 56, [64, 64], 3, 1, 1),
    ("128@28 3x3", 8, 28, [128, 128], 3, 1, 1),
    ("256@14 3x3", 8, 14, [256, 256], 3, 1, 1),
    ("512@7 3x3", 8, 7, [512, 512], 3, 1, 1),
    ("128@56 3x3/2", 8, 56, [128, 128], 3, 2, 1),
    ("256@28 3x3/2", 8, 28, [256, 256], 3, 2, 1),
    ("64>256@56 1x1", 8, 56, [64, 256], 1, 1, 1),
    ("256>64@56 1x1", 8, 56, [256, 64], 1, 1, 1),
    ("512>128@28 1x1", 8, 28, [512, 128], 1, 1, 1),
    ("256>1024@14 1x1", 8, 14, [256, 1024], 1, 1, 1),
    ("2048>512@7 1x1", 8, 7, [2048, 512], 1, 1, 1),
    ("256>512@56 1x1/2", 8, 56, [256, 512], 1, 2, 1),
    ("3>64@224 3x3", 4, 224, [3, 64], 3, 1, 1),
    ("64@224 3x3", 2, 224, [64, 64], 3, 1, 1),
    ("256@56 3x3", 4, 56, [256, 256], 3, 1, 1),
    ("512@28 3x3", 4, 28, [512, 512], 3, 1, 1),
    ("24>144@56 1x1", 16, 56, [24, 144], 1, 1, 1),
    ("32@112 3x3 depthwise", 16, 112, [32, 32], 3, 1, 32),
    ("96@112 3x3/2 depthwise", 16, 112, [96, 96], 3, 2, 96),
    ("144@56 3x3 depthwise", 16, 56, [144, 144], 3, 1, 144),
    ("384@14 3x3 depthwise", 16, 14, [384, 384], 3, 1, 384),
];

impl Bench {
    /// Convolutions in the arithmetic of their definition: Winograd's do less and may exceed the peak.
    fn convolutions(&self) {
        let cpu = &self.cpu;
        for (name, batch, side, [in_channels, out_channels], kernel, stride, groups) in LAYERS {
            let shape = Conv2d {
                batch,
                height: side,
                width: side,
                in_channels,
                out_channels,
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding: [kernel / 2; 2],
                dilation: [1, 1],
                groups,
            };
            let pixels = shape.output_height() * shape.output_width();
            let mut x = numbers(batch * side * side * in_channels);
            let mut y = numbers(batch * pixels * out_channels);
            let mut weight = numbers(out_channels * in_channels / groups * kernel * kernel);
            let flops = 2.0 * shape.multiply_adds() as f64;
            self.flops(&format!("conv {name}"), flops, || {
                conv2d_forward(cpu, &shape, Precision::F32, &x, &weight, None, &mut y);
            });
            self.flops(&format!("conv {name}, dX"), flops, || {
                conv2d_input_gradient(cpu, &shape, Precision::F32, &y, &weight, &mut x, false);
            });
            self.flops(&format!("conv {name}, dW"), flops, || {
                weight.fill(0.0);
                conv2d_weight_gradient(cpu, &shape, Precision::F32, &x, &y, &mut weight);
            });
        }
    }

    fn normalizations(&self) {
        let cpu = &self.cpu;
        for (rows, channels, with_residual) in [
            (8 * 56 * 56, 64, false),
            (8 * 56 * 56, 256, true),
            (8 * 14 * 14, 1024, true),
            (16 * 56 * 56, 24, false),
        ] {
            let n = rows * channels;
            let (x, dy, sum) = (numbers(n), numbers(n), numbers(n));
            let (mut y, mut dx, mut dresidual) = (numbers(n), numbers(n), numbers(n));
            let (weight, bias) = (numbers(channels), numbers(channels));
            let (mut mean, mut variance) = (numbers(channels), numbers(channels));
            batch_norm_statistics(cpu, &x, channels, &mut mean, &mut variance);
            let norm = BatchNorm {
                rows,
                channels,
                mean: &mean,
                variance: &variance,
                weight: &weight,
                bias: &bias,
                eps: 1e-5,
                activation: Activation::Relu,
            };
            let residual = with_residual.then_some(&sum[..]);
            let kind = if with_residual { " + residual" } else { "" };
            let extra = usize::from(with_residual);
            let (mut own_mean, mut own_variance) = (numbers(channels), numbers(channels));
            self.bytes(&format!("batch norm {rows}x{channels} + relu{kind}"), (3 + extra) * 4 * n, || {
                batch_norm_statistics(cpu, &x, channels, &mut own_mean, &mut own_variance);
                batch_norm_forward(cpu, &norm, &x, residual, &mut y);
            });
            let (mut dweight, mut dbias) = (numbers(channels), numbers(channels));
            self.bytes(
                &format!("batch norm {rows}x{channels} + relu{kind}, backward"),
                (5 + 2 * extra) * 4 * n,
                || {
                    let dresidual = with_residual.then_some(&mut dresidual[..]);
                    let (dx, dweight, dbias) =
                        (Some(&mut dx[..]), Some(&mut dweight[..]), Some(&mut dbias[..]));
                    batch_norm_backward(cpu, &norm, true, &dy, &x, residual, dx, dresidual, dweight, dbias);
                },
            );
        }
        let pool = Pool2d {
            batch: 8,
            height: 112,
            width: 112,
            channels: 64,
            kernel: [3, 3],
            stride: [2, 2],
            padding: [1, 1],
            ceil_mode: false,
        };
        let (inputs, outputs) = (8 * 112 * 112 * 64, 8 * 56 * 56 * 64);
        let (x, dy) = (numbers(inputs), numbers(outputs));
        let (mut y, mut dx, mut argmax) = (numbers(outputs), numbers(inputs), vec![0; outputs]);
        self.bytes("max pool 64@112 3x3/2", 4 * inputs + 5 * outputs, || {
            max_pool2d_forward(cpu, &pool, &x, &mut y, Some(&mut argmax));
        });
        self.bytes("max pool 64@112 3x3/2, backward", 4 * inputs + 5 * outputs, || {
            max_pool2d_backward(cpu, &pool, &dy, &argmax, &mut dx);
        });
    }
}

/// The rate of independent multiply-adds, as the best of matrix products that stay in L1.
fn flops_peak(cpu: &Cpu) -> f64 {
    (0..20)
        .map(|_| {
            let start = now(cpu.threads());
            let pieces = 64;
            let rounds = 1 << 17;
            cpu.for_each_piece(pieces, |_| {
                black_box(fused_multiply_adds(cpu.isa(), rounds));
            });
            (pieces * rounds * 24 * 8) as f64 / (now(cpu.threads()) - start) / 1e9
        })
        .fold(0.0, f64::max)
}

#[cfg(target_arch = "x86_64")]
fn fused_multiply_adds(isa: Isa, rounds: usize) -> f32 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx2,fma")]
    fn run(rounds: usize) -> f32 {
        let factor = _mm256_set1_ps(black_box(0.5));
        let mut sums = [_mm256_set1_ps(1.0); 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b)).expect("twelve sums");
        _mm256_cvtss_f32(total)
    }
    if isa == Isa::Portable {
        return 0.0;
    }
    // SAFETY: every other path needs AVX2 and FMA, and a `Cpu` was made for it.
    unsafe { run(rounds) }
}

#[cfg(not(target_arch = "x86_64"))]
fn fused_multiply_adds(_isa: Isa, _rounds: usize) -> f32 {
    0.0
}

/// Bytes read and written by a copy that does not fit in cache.
fn bytes_peak(cpu: &Cpu) -> f64 {
    let len = 32 << 20;
    let (x, mut y) = (numbers(len), vec![0.0f32; len]);
    scale_assign(cpu, &mut y, 1.0);
    let seconds = time(cpu.threads(), || add_assign(cpu, &mut y, &x));
    (len * 12) as f64 / seconds / 1e9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(2), |a| a.parse())?;
    let isa = arguments.next().map_or(Ok(Isa::detect()), |a| a.parse())?;
    let cpu = Cpu::new(threads, isa)?;
    let (flops_peak, bytes_peak) = (flops_peak(&cpu), bytes_peak(&cpu));
    println!("{threads} threads, {isa}: {flops_peak:.1} GFLOP/s in f32, {bytes_peak:.1} GB/s from memory");
    let bench = Bench { cpu, filter: arguments.next().unwrap_or_default(), flops_peak, bytes_peak };
    bench.gemms();
    bench.convolutions();
    bench.normalizations();
    bench.step(&Model {
        name: "BERT-base 8x128",
        rows: 1024,
        hidden: 768,
        heads: 12,
        parameters: 109_000_000,
    });
    bench.step(&Model { name: "MiniLM 16x128", rows: 2048, hidden: 384, heads: 12, parameters: 22_700_000 });
    Ok(())
}
