//! What must not change a result: the number of threads, the instruction set (beyond rounding), and which other
//! rows a row is computed with.

mod common;

use common::*;
use proptest::prelude::*;
use retune_kernels::*;

#[test]
#[cfg_attr(miri, ignore = "the thread pool is not for Miri")]
fn every_kernel_has_the_same_bits_on_one_two_and_four_threads() {
    for isa in paths() {
        for size in sizes() {
            let alone = every_kernel(&Cpu::new(1, isa).unwrap(), &size);
            for threads in [2, 4] {
                let together = every_kernel(&Cpu::new(threads, isa).unwrap(), &size);
                for ((name, a), (_, b)) in alone.iter().zip(&together) {
                    assert_same_bits(&format!("{name} on {isa}, {threads} threads, {size:?}"), a, b);
                }
            }
        }
    }
}

#[test]
fn every_kernel_repeats_its_bits_when_called_again() {
    // Scratch memory holds other values the second time.
    on_every_path(|cpu| {
        for size in sizes() {
            let first = every_kernel(cpu, &size);
            for ((name, a), (_, b)) in first.iter().zip(&every_kernel(cpu, &size)) {
                assert_same_bits(name, a, b);
            }
        }
    });
}

#[test]
fn every_kernel_agrees_with_the_portable_path_and_leaves_nothing_unwritten() {
    for size in sizes() {
        let portable = every_kernel(&Cpu::new(1, Isa::Portable).unwrap(), &size);
        for (name, values) in &portable {
            assert!(values.iter().all(|v| !v.is_nan()), "{name} has a NaN at {size:?}");
        }
        for isa in paths() {
            for ((name, fast), (_, plain)) in
                every_kernel(&Cpu::new(threads(), isa).unwrap(), &size).iter().zip(&portable)
            {
                // Where exponentials are rounded to bf16, a last bit of f32 can become one of eight.
                let [relative, absolute] =
                    if name.starts_with("Bf16 attention") { [2e-2, 2e-2] } else { [2e-4, 2e-5] };
                assert_close(&format!("{name} on {isa}, {size:?}"), fast, &widen(plain), relative, absolute);
            }
        }
    }
}

fn product(
    cpu: &Cpu,
    (layout, precision): (Layout, Precision),
    a: &[f32],
    b: &[f32],
    [m, n, k]: [usize; 3],
) -> Vec<f32> {
    let mut c = vec![f32::NAN; m * n];
    let (scale, activation) = (0.25, Activation::GeluErf);
    let bias = Some(&b[..n]);
    let (a, b) = (a.into(), b.into());
    let g = Gemm { layout, m, n, k, precision, a, b, accumulate: false, scale, bias, activation };
    gemm(cpu, &g, &mut c, None);
    c
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 40 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_of_a_product_does_not_depend_on_its_neighbours(m in 1usize..150, n in 1usize..200, k in 1usize..700, pick in 0usize..150) {
        let [m, n, k] = if cfg!(miri) { [m % 9 + 1, n % 9 + 1, k % 9 + 1] } else { [m, n, k] };
        let row = pick % m;
        let (a, b) = (draw("a", m * k), draw("b", n * k));
        on_every_path(|cpu| {
            for form in [Layout::Nt, Layout::Nn].into_iter().flat_map(|layout| PRECISIONS.map(|p| (layout, p))) {
                let together = product(cpu, form, &a, &b, [m, n, k]);
                let alone = product(cpu, form, &a[row * k..(row + 1) * k], &b, [1, n, k]);
                assert_same_bits("row", &together[row * n..(row + 1) * n], &alone);
            }
            let column: Vec<f32> = (0..k).map(|p| a[p * m + row]).collect();
            for form in PRECISIONS.map(|precision| (Layout::Tn, precision)) {
                let together = product(cpu, form, &a, &b, [m, n, k]);
                assert_same_bits("row", &together[row * n..(row + 1) * n], &product(cpu, form, &column, &b, [1, n, k]));
            }
        });
    }
}

#[test]
fn a_sequence_attends_alike_alone_and_in_a_batch() {
    let (heads, head_dim) = (2, 8);
    let width = heads * head_dim;
    let lengths = if cfg!(miri) { vec![3, 5] } else { vec![5, 128, 1, 37, 300] };
    let starts = offsets(&lengths);
    let tokens = lengths.iter().sum::<usize>();
    let (q, k, v) = (draw("q", tokens * width), draw("k", tokens * width), draw("v", tokens * width));
    on_every_path(|cpu| {
        let attend = |precision, rows: std::ops::Range<usize>, offsets: &[u32]| {
            let at = rows.start * width..rows.end * width;
            let mut out = vec![f32::NAN; at.len()];
            let a = Attention {
                heads,
                head_dim,
                scale: 0.35,
                causal: false,
                precision,
                q: (&q[at.clone()]).into(),
                q_stride: width,
                k: (&k[at.clone()]).into(),
                k_stride: width,
                v: (&v[at]).into(),
                v_stride: width,
                query_offsets: offsets,
                key_offsets: offsets,
                dropout: None,
            };
            attention_forward(cpu, &a, &mut out, None);
            out
        };
        for precision in PRECISIONS {
            let together = attend(precision, 0..tokens, &starts);
            for bounds in starts.windows(2) {
                let rows = bounds[0] as usize..bounds[1] as usize;
                let alone = attend(precision, rows.clone(), &[0, bounds[1] - bounds[0]]);
                assert_same_bits("sequence", &together[rows.start * width..rows.end * width], &alone);
            }
        }
    });
}

#[test]
fn a_row_is_normalized_alike_alone_and_in_a_batch() {
    let width = 133;
    let (x, gamma, beta) = (draw("x", 70 * width), draw("gamma", width), draw("beta", width));
    on_every_path(|cpu| {
        let normalize = |x: &[f32]| {
            let mut y = vec![f32::NAN; x.len()];
            let input = LayerNormInput {
                x,
                residual: None,
                dropout: None,
                gamma: &gamma,
                beta: &beta,
                eps: 1e-12,
                width,
            };
            layer_norm_forward(cpu, &input, &mut y, None, None, None);
            y
        };
        let together = normalize(&x);
        for row in [0, 31, 69] {
            let at = row * width..(row + 1) * width;
            assert_same_bits("row", &together[at.clone()], &normalize(&x[at]));
        }
    });
}
