#![allow(clippy::print_stdout, reason = "a benchmark prints")]
//! Times every kernel at the shapes of BERT-base and MiniLM against this machine's measured peaks.
//!
//! `cargo run --release -p retune-kernels --example kernel_bench -- [threads] [isa] [name filter]`

use std::hint::black_box;
use std::time::Instant;

use retune_kernels::*;

/// The shortest time of a call, in seconds: the machine may be doing other things too.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 7 || begin.elapsed().as_secs_f64() < 0.25 {
        let start = Instant::now();
        f();
        times.push(start.elapsed().as_secs_f64());
    }
    times.into_iter().fold(f64::INFINITY, f64::min)
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
            self.report(name, flops, "GFLOP/s", self.flops_peak, time(f));
        }
    }

    fn bytes(&self, name: &str, bytes: usize, f: impl FnMut()) {
        if name.contains(&self.filter) {
            self.report(name, bytes as f64, "GB/s", self.bytes_peak, time(f));
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
                    a: &a,
                    b: &b,
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
            a: &a,
            b: &b,
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

/// The rate of independent multiply-adds, as the best of matrix products that stay in L1.
fn flops_peak(cpu: &Cpu) -> f64 {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            let pieces = 64;
            let rounds = 1 << 20;
            cpu.for_each_piece(pieces, |_| {
                black_box(fused_multiply_adds(cpu.isa(), rounds));
            });
            (pieces * rounds * 24 * 8) as f64 / start.elapsed().as_secs_f64() / 1e9
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
    let seconds = time(|| add_assign(cpu, &mut y, &x));
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
    Ok(())
}
