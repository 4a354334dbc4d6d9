//! What the kernels' tests share: contexts, inputs, and one call of every kernel.
#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

mod images;

pub use images::*;
use retune_kernels::*;
pub use retune_testing::{assert_close, counter_normal_like, counter_uniform, widen};

/// The instruction sets this machine can run, slowest first; or the one that `RETUNE_ISA` names, which it then has to.
pub fn paths() -> Vec<Isa> {
    if let Ok(name) = std::env::var("RETUNE_ISA") {
        let isa: Isa = name.parse().unwrap();
        assert!(isa.available(), "this machine cannot run {isa}");
        return vec![isa];
    }
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16]
        .into_iter()
        .filter(|isa| isa.available())
        .collect()
}

/// The last of [`paths`]: for tests that are too slow to run on all.
pub fn fastest_path() -> Isa {
    *paths().last().unwrap()
}

/// Threads of a test's context. Under Miri one: the thread pool's queue makes pointers of integers, which hides from Miri
/// what it looks for.
pub fn threads() -> usize {
    if cfg!(miri) { 1 } else { 2 }
}

/// Calls a test with a context of [`threads`] on every instruction set.
pub fn on_every_path(test: impl Fn(&Cpu)) {
    for isa in paths() {
        test(&Cpu::new(threads(), isa).unwrap());
    }
}

pub fn draw(name: &str, n: usize) -> Vec<f32> {
    counter_normal_like(name, n, 1.0)
}

/// Values that rounding to bf16 leaves alone if the precision rounds, so that its products are exact too.
pub fn draw_in(precision: Precision, name: &str, n: usize) -> Vec<f32> {
    let values = draw(name, n);
    match precision {
        Precision::F32 => values,
        Precision::Bf16 => values.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect(),
    }
}

/// The values, stored in bf16.
pub fn halves(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

pub const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

pub fn row_keys(n: usize) -> Vec<RowKey> {
    (0..n as u32).map(|i| RowKey { sample: i / 5, position: i % 5 }).collect()
}

pub fn offsets(lengths: &[usize]) -> Vec<u32> {
    let mut total = 0;
    let mut offsets = vec![0];
    for length in lengths {
        total += *length as u32;
        offsets.push(total);
    }
    offsets
}

/// One size for [`every_kernel`].
#[derive(Clone, Debug)]
pub struct Size {
    pub width: usize,
    pub heads: usize,
    pub lengths: Vec<usize>,
    pub inner: usize,
}

pub fn sizes() -> Vec<Size> {
    let size =
        |width, heads, lengths: &[usize], inner| Size { width, heads, lengths: lengths.to_vec(), inner };
    let mut sizes = vec![
        size(8, 2, &[3, 1], 5),
        size(1, 1, &[1], 1),
        size(21, 3, &[7, 0, 13, 2], 19),
        size(4, 1, &[0], 3),
    ];
    if !cfg!(miri) {
        sizes.push(size(96, 3, &[40, 1, 33, 17], 131));
        sizes.push(size(64, 1, &[130, 300], 272));
    }
    sizes
}

/// Runs every kernel once and returns what each wrote.
pub fn every_kernel(cpu: &Cpu, size: &Size) -> Vec<(String, Vec<f32>)> {
    let mut results = Vec::new();
    let mut keep = |name: &str, values: Vec<f32>| results.push((name.to_owned(), values));
    let Size { width, heads, ref lengths, inner } = *size;
    let offsets = offsets(lengths);
    let tokens = lengths.iter().sum::<usize>();
    let elements = tokens * width;
    let (x, y) = (draw("x", elements), draw("y", elements));
    let keys = row_keys(tokens);
    let drop = Dropout { probability: 0.2, key: [11, 7], rows: &keys };
    let zeros = |n: usize| vec![f32::NAN; n];

    for (layout, precision) in
        [Layout::Nt, Layout::Nn, Layout::Tn].into_iter().flat_map(|layout| PRECISIONS.map(|p| (layout, p)))
    {
        for accumulate in [false, true] {
            let (a, b) = (draw("a", elements), draw("b", width * inner));
            let bias = draw("bias", inner);
            let mut c = draw("c", tokens * inner);
            let mut pre = zeros(tokens * inner);
            let g = Gemm {
                layout,
                m: tokens,
                n: inner,
                k: width,
                precision,
                a: (&a).into(),
                b: (&b).into(),
                accumulate,
                scale: 0.5,
                bias: Some(&bias),
                activation: Activation::GeluErf,
            };
            gemm(cpu, &g, &mut c, Some(&mut pre));
            keep(&format!("gemm {layout:?} {precision:?} {accumulate}"), c);
            keep("gemm pre", pre);
        }
    }
    // A weight gradient: the summed dimension is the long one.
    let mut c = zeros(width * width);
    let g = Gemm {
        layout: Layout::Tn,
        m: width,
        n: width,
        k: tokens,
        precision: Precision::F32,
        a: (&x).into(),
        b: (&y).into(),
        accumulate: false,
        scale: 1.0,
        bias: None,
        activation: Activation::Identity,
    };
    gemm(cpu, &g, &mut c, None);
    keep("gemm weight gradient", c);

    for act in ACTIVATIONS {
        let (mut forward, mut backward, mut dx) = (zeros(elements), zeros(elements), zeros(elements));
        let mut bias_grad = draw("bias_grad", width);
        activation_forward(cpu, act, &x, &mut forward);
        activation_backward(cpu, act, &x, &y, &mut backward);
        activation_backward_bias(cpu, act, width, Some(&x), &y, Some(&mut dx), Some(&mut bias_grad));
        keep(&format!("{act:?} forward"), forward);
        keep(&format!("{act:?} backward"), backward);
        keep(&format!("{act:?} backward with bias"), dx);
        keep(&format!("{act:?} bias"), bias_grad);
    }
    let mut out = zeros(elements);
    dropout(cpu, &drop, width, &x, &mut out);
    keep("dropout", out);
    let mut out = zeros(elements);
    add(cpu, &x, &y, &mut out);
    add_assign(cpu, &mut out, &x);
    scale_assign(cpu, &mut out, 0.3);
    keep("add, add_assign, scale_assign", out);

    let (gamma, beta) = (draw("gamma", width), draw("beta", width));
    let input = LayerNormInput {
        x: &x,
        residual: Some(&y),
        dropout: Some(drop),
        gamma: &gamma,
        beta: &beta,
        eps: 1e-5,
        width,
    };
    let (mut out, mut sum, mut mean, mut rstd) =
        (zeros(elements), zeros(elements), zeros(tokens), zeros(tokens));
    layer_norm_forward(cpu, &input, &mut out, Some(&mut sum), Some(&mut mean), Some(&mut rstd));
    let (mut dx, mut dresidual) = (zeros(elements), zeros(elements));
    let (mut dgamma, mut dbeta) = (draw("dgamma", width), draw("dbeta", width));
    let grad = LayerNormGrad {
        dx: Some(&mut dx),
        dresidual: Some(&mut dresidual),
        dgamma: Some(&mut dgamma),
        dbeta: Some(&mut dbeta),
    };
    layer_norm_backward(cpu, width, &y, &sum, &mean, &rstd, &gamma, Some(&drop), grad);
    for (name, values) in [
        ("layer norm", out),
        ("layer norm sum", sum),
        ("layer norm mean", mean),
        ("layer norm rstd", rstd),
        ("layer norm dx", dx),
        ("layer norm dresidual", dresidual),
        ("layer norm dgamma", dgamma),
        ("layer norm dbeta", dbeta),
    ] {
        keep(name, values);
    }

    let input =
        RmsNormInput { x: &x, residual: Some(&y), dropout: Some(drop), gamma: &gamma, eps: 1e-5, width };
    let (mut out, mut sum, mut rrms) = (zeros(elements), zeros(elements), zeros(tokens));
    rms_norm_forward(cpu, &input, &mut out, Some(&mut sum), Some(&mut rrms));
    let (mut dx, mut dresidual, mut dgamma) = (zeros(elements), zeros(elements), draw("dgamma", width));
    let grad = RmsNormGrad { dx: Some(&mut dx), dresidual: Some(&mut dresidual), dgamma: Some(&mut dgamma) };
    rms_norm_backward(cpu, width, &y, &sum, &rrms, &gamma, Some(&drop), grad);
    for (name, values) in [
        ("rms norm", out),
        ("rms norm sum", sum),
        ("rms norm rrms", rrms),
        ("rms norm dx", dx),
        ("rms norm dresidual", dresidual),
        ("rms norm dgamma", dgamma),
    ] {
        keep(name, values);
    }
    // Sequences as pictures of one size each.
    let norm = GroupNorm {
        batch: usize::from(tokens > 0),
        rows: tokens,
        channels: width,
        groups: heads,
        weight: &gamma,
        bias: &beta,
        eps: 1e-5,
    };
    let statistics = norm.batch * heads;
    let (mut out, mut mean, mut rstd) = (zeros(elements), zeros(statistics), zeros(statistics));
    group_norm_forward(cpu, &norm, &x, &mut out, Some(&mut mean), Some(&mut rstd));
    let (mut dx, mut dweight, mut dbias) = (zeros(elements), draw("dgamma", width), draw("dbeta", width));
    let grad = GroupNormGrad { dx: Some(&mut dx), dweight: Some(&mut dweight), dbias: Some(&mut dbias) };
    group_norm_backward(cpu, &norm, &x, &mean, &rstd, &y, grad);
    for (name, values) in [
        ("group norm", out),
        ("group norm mean", mean),
        ("group norm rstd", rstd),
        ("group norm dx", dx),
        ("group norm dweight", dweight),
        ("group norm dbias", dbias),
    ] {
        keep(name, values);
    }

    let mut rounded = vec![bf16::ZERO; elements];
    to_bf16(cpu, &x, &mut rounded);
    let mut widened = zeros(elements);
    from_bf16(cpu, &rounded, &mut widened);
    keep("rounded", widened);

    for (causal, precision) in [false, true].into_iter().flat_map(|causal| PRECISIONS.map(|p| (causal, p))) {
        let fused = draw("qkv", tokens * 3 * width);
        let fused_halves = halves(&fused);
        let third = |i: usize| -> Matrix {
            match precision {
                Precision::F32 => fused.get(i * width..).unwrap_or(&[]).into(),
                Precision::Bf16 => fused_halves.get(i * width..).unwrap_or(&[]).into(),
            }
        };
        let a = Attention {
            heads,
            head_dim: width / heads,
            scale: 0.4,
            causal,
            precision,
            q: third(0),
            q_stride: 3 * width,
            k: third(1),
            k_stride: 3 * width,
            v: third(2),
            v_stride: 3 * width,
            query_offsets: &offsets,
            key_offsets: &offsets,
            dropout: Some(drop),
        };
        let (mut out, mut log_sum_exp) = (zeros(elements), zeros(tokens * heads));
        attention_forward(cpu, &a, &mut out, Some(&mut log_sum_exp));
        let (mut dq, mut dk, mut dv) = (zeros(elements), zeros(elements), zeros(elements));
        let kept = halves(&out);
        let kept_out = if precision == Precision::Bf16 { kept.as_slice().into() } else { (&out).into() };
        attention_backward(cpu, &a, kept_out, &log_sum_exp, &y, &mut dq, &mut dk, &mut dv);
        keep(&format!("{precision:?} attention"), out);
        keep(&format!("{precision:?} attention log-sum-exp"), log_sum_exp);
        keep(&format!("{precision:?} attention dq"), dq);
        keep(&format!("{precision:?} attention dk"), dk);
        keep(&format!("{precision:?} attention dv"), dv);
    }

    let indices: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % 11).collect();
    let table = draw("table", 11 * width);
    let mut out = zeros(elements);
    embedding_forward(cpu, width, &[(&table, &indices), (&table, &indices)], &mut out);
    keep("embedding", out);
    let mut grad = table.clone();
    embedding_backward(cpu, width, &indices, &y, &mut grad);
    keep("embedding gradient", grad);
    let mut out = zeros(elements);
    gather_rows(cpu, width, &table, &indices, &mut out);
    keep("gather", out);
    let sequences = lengths.len();
    let mut pooled = zeros(sequences * width);
    mean_pool_forward(cpu, width, &x, &offsets, &mut pooled);
    let mut dx = zeros(elements);
    mean_pool_backward(cpu, width, &pooled, &offsets, &mut dx);
    keep("mean pool", pooled);
    keep("mean pool gradient", dx);
    let (mut pooled, mut argmax) = (zeros(sequences * width), vec![0; sequences * width]);
    max_pool_forward(cpu, width, &x, &offsets, &mut pooled, Some(&mut argmax));
    let mut dx = zeros(elements);
    max_pool_backward(cpu, width, &pooled, &argmax, &mut dx);
    keep("max pool", pooled);
    keep("max pool gradient", dx);

    let weights: Vec<f32> = (0..tokens).map(|i| (i % 4) as f32 * 0.5).collect();
    let targets: Vec<u32> = (0..tokens).map(|i| (i * 5 % width) as u32).collect();
    let (mut losses, mut gradient) = (zeros(tokens), zeros(elements));
    cross_entropy(cpu, width, &x, &targets, &weights, 0.1, &mut losses, Some(&mut gradient));
    keep("cross-entropy", losses.clone());
    keep("cross-entropy gradient", gradient.clone());
    cross_entropy(cpu, width, &x, &targets, &weights, 0.0, &mut losses, None);
    keep("cross-entropy without gradient", losses.clone());
    bce_with_logits(cpu, width, &x, &y, &weights, Some(&gamma), &mut losses, Some(&mut gradient));
    keep("bce", losses.clone());
    keep("bce gradient", gradient.clone());
    mse(cpu, width, &x, &y, &weights, &mut losses, Some(&mut gradient));
    keep("mse", losses);
    keep("mse gradient", gradient);
    let mut out = zeros(elements);
    softmax(cpu, width, &x, &mut out);
    keep("softmax", out);
    keep("sum of squares", vec![sum_of_squares(cpu, &x) as f32]);
    keep("all finite", vec![f32::from(u8::from(all_finite(cpu, &x)))]);

    let (mut w, mut m) = (draw("w", elements), draw("m", elements));
    let mut v: Vec<f32> = draw("v", elements).iter().map(|v| v * v).collect();
    adamw_step(cpu, &ADAMW, 0.7, &mut w, &x, &mut m, &mut v, None);
    let sgd = Sgd {
        learning_rate: 0.1,
        momentum: 0.9,
        dampening: 0.1,
        nesterov: true,
        weight_decay: 0.01,
        first: false,
    };
    sgd_step(cpu, &sgd, 0.7, &mut w, &y, Some(&mut m), None);
    let rmsprop = RmsProp { learning_rate: 0.01, alpha: 0.9, eps: 1e-8, momentum: 0.5, weight_decay: 0.01 };
    rmsprop_step(cpu, &rmsprop, 0.7, &mut w, &y, &mut v, Some(&mut m), None);
    let lion = Lion { learning_rate: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: 0.01 };
    lion_step(cpu, &lion, 0.7, &mut w, &x, &mut m, None);
    ema_update(cpu, 0.9, &mut m, &w);
    keep("optimized weights", w);
    keep("optimizer states", [m, v].concat());
    every_image_kernel(cpu, size, &mut keep);
    results
}

pub const ACTIVATIONS: [Activation; 10] = [
    Activation::Identity,
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
    Activation::Relu6,
    Activation::Sigmoid,
    Activation::Hardswish,
    Activation::Hardsigmoid,
];

pub const ADAMW: AdamW = AdamW {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
    step: 3,
    decoupled: true,
};

/// Whether two results have the same bits, NaN equal to itself.
#[track_caller]
pub fn assert_same_bits(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.to_bits() == b.to_bits(), "{what}: element {i} is {a} and {b}");
    }
}
