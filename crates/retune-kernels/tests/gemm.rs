use retune_kernels::*;
fn naive(g: &Gemm) -> Vec<f64> {
    let mut c = vec![0.0; g.m * g.n];
    for i in 0..g.m {
        for j in 0..g.n {
            for p in 0..g.k {
                let a = if g.layout == Layout::Tn { g.a[p * g.m + i] } else { g.a[i * g.k + p] };
                let b = if g.layout == Layout::Nt { g.b[j * g.k + p] } else { g.b[p * g.n + j] };
                c[i * g.n + j] += a as f64 * b as f64;
            }
        }
    }
    c
}
#[test]
fn x() {
    for isa in [Isa::Portable, Isa::Avx2] {
        let cpu = Cpu::new(2, isa).unwrap();
        for (m, n, k) in [
            (1, 1, 1),
            (5, 3, 7),
            (6, 16, 256),
            (7, 17, 257),
            (33, 33, 33),
            (64, 100, 600),
            (100, 1, 300),
            (1, 100, 300),
            (97, 193, 513),
            (40, 40, 0),
        ] {
            for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
                let a: Vec<f32> = (0..m * k).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5)).collect();
                let b: Vec<f32> = (0..n * k).map(|i| ((i * 7907 % 1013) as f32 / 1009.0 - 0.5)).collect();
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
                let want = naive(&g);
                let mut c = vec![f32::NAN; m * n];
                gemm(&cpu, &g, &mut c, None);
                for i in 0..m * n {
                    assert!(
                        (c[i] as f64 - want[i]).abs() < 1e-4,
                        "{isa} {layout:?} {m} {n} {k} at {i}: {} {}",
                        c[i],
                        want[i]
                    );
                }
            }
        }
    }
}
