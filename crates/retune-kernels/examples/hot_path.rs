#![allow(clippy::print_stdout, reason = "an example prints")]
//! Calls one hot path a given number of times on one thread, for `bench/instructions.py`, which counts the instructions
//! of a call. Without arguments it lists the paths.
//!
//! `cargo run --release -p retune-kernels --example hot_path -- [name calls [isa]]`

use retune_kernels::*;

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 2.0).collect()
}

const ROWS: usize = 128;
const WIDTH: usize = 384;
const HEADS: usize = 12;

fn gemm_path(cpu: &Cpu, layout: Layout, activation: Activation, calls: usize) {
    let (m, n, k) = (ROWS, 4 * WIDTH, WIDTH);
    let (a, b, bias, mut c, mut before) =
        (numbers(m * k), numbers(k * n), numbers(n), numbers(m * n), numbers(m * n));
    let fused = activation != Activation::Identity;
    let bias = fused.then_some(&bias[..]);
    let gemm_of = Gemm {
        layout,
        m,
        n,
        k,
        precision: Precision::F32,
        a: (&a).into(),
        b: (&b).into(),
        accumulate: false,
        scale: 1.0,
        bias,
        activation,
    };
    for _ in 0..calls {
        gemm(cpu, &gemm_of, &mut c, fused.then_some(&mut before[..]));
    }
}

fn attention_path(cpu: &Cpu, backward: bool, calls: usize) {
    let qkv = numbers(ROWS * 3 * WIDTH);
    let offsets = [0, ROWS as u32];
    let head_dim = WIDTH / HEADS;
    let attention = Attention {
        heads: HEADS,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        causal: false,
        precision: Precision::F32,
        q: (&qkv).into(),
        q_stride: 3 * WIDTH,
        k: (&qkv[WIDTH..]).into(),
        k_stride: 3 * WIDTH,
        v: (&qkv[2 * WIDTH..]).into(),
        v_stride: 3 * WIDTH,
        query_offsets: &offsets,
        key_offsets: &offsets,
        dropout: None,
    };
    let (mut out, mut log_sum_exp) = (numbers(ROWS * WIDTH), numbers(ROWS * HEADS));
    if !backward {
        for _ in 0..calls {
            attention_forward(cpu, &attention, &mut out, Some(&mut log_sum_exp));
        }
        return;
    }
    let dy = numbers(ROWS * WIDTH);
    let (mut dq, mut dk, mut dv) = (numbers(ROWS * WIDTH), numbers(ROWS * WIDTH), numbers(ROWS * WIDTH));
    for _ in 0..calls {
        attention_backward(cpu, &attention, (&out).into(), &log_sum_exp, &dy, &mut dq, &mut dk, &mut dv);
    }
}

fn layer_norm_path(cpu: &Cpu, probability: f32, calls: usize) {
    let (x, residual) = (numbers(ROWS * WIDTH), numbers(ROWS * WIDTH));
    let (gamma, beta, mut out) = (numbers(WIDTH), numbers(WIDTH), numbers(ROWS * WIDTH));
    let keys: Vec<RowKey> = (0..ROWS as u32).map(|position| RowKey { sample: 0, position }).collect();
    let dropout = (probability > 0.0).then_some(Dropout { probability, key: [1, 2], rows: &keys });
    let input = LayerNormInput {
        x: &x,
        residual: Some(&residual),
        dropout,
        gamma: &gamma,
        beta: &beta,
        eps: 1e-12,
        width: WIDTH,
    };
    for _ in 0..calls {
        layer_norm_forward(cpu, &input, &mut out, None, None, None);
    }
}

fn convolution_path(cpu: &Cpu, kernel: usize, depthwise: bool, calls: usize) {
    let (side, channels) = (28, 64);
    let shape = Conv2d {
        batch: 1,
        height: side,
        width: side,
        in_channels: channels,
        out_channels: channels,
        kernel: [kernel; 2],
        stride: [1, 1],
        padding: [kernel / 2; 2],
        dilation: [1, 1],
        groups: if depthwise { channels } else { 1 },
    };
    let (mut x, y) = (numbers(side * side * channels), numbers(side * side * channels));
    let mut weight = numbers(channels * channels / shape.groups * kernel * kernel);
    let mut out = numbers(side * side * channels);
    for _ in 0..calls {
        conv2d_forward(cpu, &shape, Precision::F32, &x, &weight, None, &mut out);
        conv2d_input_gradient(cpu, &shape, Precision::F32, &y, &weight, &mut x, false);
        conv2d_weight_gradient(cpu, &shape, Precision::F32, &x, &y, &mut weight);
    }
}

fn adamw_path(cpu: &Cpu, calls: usize) {
    let n = ROWS * WIDTH;
    let (mut w, g, mut m, mut v) = (numbers(n), numbers(n), vec![0.0; n], vec![0.0; n]);
    let adamw = AdamW {
        learning_rate: 1e-5,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        step: 1,
        decoupled: true,
    };
    for _ in 0..calls {
        adamw_step(cpu, &adamw, 1.0, &mut w, &g, &mut m, &mut v, None);
    }
}

fn softmax_path(cpu: &Cpu, calls: usize) {
    let (rows, classes) = (ROWS, WIDTH);
    let logits = numbers(rows * classes);
    let targets: Vec<u32> = (0..rows as u32).collect();
    let weights = vec![1.0; rows];
    let (mut losses, mut gradient) = (vec![0.0; rows], vec![0.0; rows * classes]);
    for _ in 0..calls {
        cross_entropy(cpu, classes, &logits, &targets, &weights, 0.1, &mut losses, Some(&mut gradient));
    }
}

type Path = (&'static str, fn(&Cpu, usize));

const PATHS: &[Path] = &[
    ("gemm-nt", |cpu, calls| gemm_path(cpu, Layout::Nt, Activation::Identity, calls)),
    ("gemm-nn", |cpu, calls| gemm_path(cpu, Layout::Nn, Activation::Identity, calls)),
    ("gemm-tn", |cpu, calls| gemm_path(cpu, Layout::Tn, Activation::Identity, calls)),
    ("gemm-nt-bias-gelu", |cpu, calls| gemm_path(cpu, Layout::Nt, Activation::GeluErf, calls)),
    ("attention", |cpu, calls| attention_path(cpu, false, calls)),
    ("attention-backward", |cpu, calls| attention_path(cpu, true, calls)),
    ("layer-norm-residual", |cpu, calls| layer_norm_path(cpu, 0.0, calls)),
    ("layer-norm-residual-dropout", |cpu, calls| layer_norm_path(cpu, 0.1, calls)),
    ("cross-entropy", softmax_path),
    ("convolution-3x3", |cpu, calls| convolution_path(cpu, 3, false, calls)),
    ("convolution-1x1", |cpu, calls| convolution_path(cpu, 1, false, calls)),
    ("convolution-depthwise", |cpu, calls| convolution_path(cpu, 3, true, calls)),
    ("adamw", adamw_path),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        PATHS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let calls = rest.first().ok_or("say how many calls")?.parse()?;
    let isa = rest.get(1).map_or(Ok(Isa::Avx2), |isa| isa.parse())?;
    let path = PATHS.iter().find(|(known, _)| known == name).ok_or("no such path")?.1;
    path(&Cpu::new(1, isa)?, calls);
    Ok(())
}
