//! Losses, optimizers, embeddings, pooling and reductions against their definitions.

mod common;

use common::*;
use retune_kernels::*;
use retune_testing::reference::{loss, optimizer};

#[test]
fn losses_and_their_gradients_match_their_definitions() {
    on_every_path(|cpu| {
        for classes in [1, 2, 3, 8, 17, if cfg!(miri) { 20 } else { 1009 }] {
            let rows = 6;
            let x = counter_normal_like("logits", rows * classes, 8.0);
            let y: Vec<f32> = (0..rows * classes).map(|i| counter_uniform("targets", i as u64)).collect();
            let pos: Vec<f32> = (0..classes).map(|i| 0.5 + counter_uniform("pos", i as u64)).collect();
            let weights = [0.5, 1.0, 0.0, 2.0, 0.25, 1.0];
            let mut targets: Vec<u32> = (0..rows).map(|row| (row * 3 % classes) as u32).collect();
            targets[2] = u32::MAX; // Its row weighs nothing.
            let (mut losses, mut gradient) = (vec![f32::NAN; rows], vec![f32::NAN; rows * classes]);
            let compare = |name: &str,
                           losses: &[f32],
                           gradient: &[f32],
                           f: &dyn Fn(usize) -> (f64, Vec<f64>)| {
                for row in 0..rows {
                    let (loss, expected) =
                        if weights[row] == 0.0 { (0.0, vec![0.0; classes]) } else { f(row) };
                    let weight = f64::from(weights[row]);
                    assert_close(name, &losses[row..=row], &[weight * loss], 2e-6, 2e-6);
                    let expected: Vec<f64> = expected.iter().map(|g| g * weight).collect();
                    assert_close(name, &gradient[row * classes..(row + 1) * classes], &expected, 5e-6, 1e-6);
                }
            };
            let row = |values: &[f32], row: usize| widen(&values[row * classes..(row + 1) * classes]);
            for smoothing in [0.0, 0.1] {
                cross_entropy(
                    cpu,
                    classes,
                    &x,
                    &targets,
                    &weights,
                    smoothing,
                    &mut losses,
                    Some(&mut gradient),
                );
                compare("cross-entropy", &losses, &gradient, &|r| {
                    loss::cross_entropy(&row(&x, r), targets[r] as usize, f64::from(smoothing))
                });
            }
            bce_with_logits(cpu, classes, &x, &y, &weights, Some(&pos), &mut losses, Some(&mut gradient));
            compare("bce", &losses, &gradient, &|r| {
                loss::bce_with_logits(&row(&x, r), &row(&y, r), &widen(&pos))
            });
            mse(cpu, classes, &x, &y, &weights, &mut losses, Some(&mut gradient));
            compare("mse", &losses, &gradient, &|r| loss::mse(&row(&x, r), &row(&y, r)));
        }
    });
}

#[test]
fn optimizer_steps_match_their_definitions() {
    let n = if cfg!(miri) { 19 } else { 20_011 };
    let (w, g, m) = (draw("w", n), draw("g", n), draw("m", n));
    let v: Vec<f32> = m.iter().map(|m| m * m + 0.01).collect();
    let clip = 0.5f32;
    let at = |values: &[f32], i: usize| f64::from(values[i]);
    let gradient = |i: usize| at(&g, i) * f64::from(clip);
    let check = |name: &str, actual: &[f32], expected: &dyn Fn(usize) -> f64| {
        assert_close(name, actual, &(0..n).map(expected).collect::<Vec<_>>(), 2e-6, 1e-7);
    };
    on_every_path(|cpu| {
        for (step, decoupled) in [(1u64, true), (7, false)] {
            let p = AdamW { step, decoupled, ..ADAMW };
            let (mut w2, mut m2, mut v2) = (w.clone(), m.clone(), v.clone());
            adamw_step(cpu, &p, clip, &mut w2, &g, &mut m2, &mut v2, None);
            let after = |i: usize| {
                let state = [at(&w, i), at(&m, i), at(&v, i)];
                let AdamW { learning_rate, beta1, beta2, eps, weight_decay, .. } = p;
                optimizer::adamw(
                    state,
                    gradient(i),
                    learning_rate,
                    [beta1, beta2],
                    eps,
                    weight_decay,
                    step as i32,
                    decoupled,
                )
            };
            check("adamw w", &w2, &|i| after(i)[0]);
            check("adamw m", &m2, &|i| after(i)[1]);
            check("adamw v", &v2, &|i| after(i)[2]);
        }
        for (momentum, nesterov, first) in
            [(0.0, false, false), (0.9, false, true), (0.9, false, false), (0.9, true, false)]
        {
            let p = Sgd {
                learning_rate: 0.1,
                momentum,
                dampening: if nesterov { 0.0 } else { 0.2 },
                nesterov,
                weight_decay: 0.01,
                first,
            };
            let (mut w2, mut m2) = (w.clone(), m.clone());
            sgd_step(cpu, &p, clip, &mut w2, &g, (momentum != 0.0).then_some(&mut m2), None);
            let after = |i: usize| {
                optimizer::sgd(
                    [at(&w, i), at(&m, i)],
                    gradient(i),
                    0.1,
                    momentum,
                    p.dampening,
                    nesterov,
                    0.01,
                    first,
                )
            };
            check("sgd w", &w2, &|i| after(i)[0]);
            check("sgd buffer", &m2, &|i| after(i)[1]);
        }
        for momentum in [0.0, 0.5] {
            let p = RmsProp { learning_rate: 0.01, alpha: 0.99, eps: 1e-8, momentum, weight_decay: 0.01 };
            let (mut w2, mut m2, mut v2) = (w.clone(), m.clone(), v.clone());
            rmsprop_step(cpu, &p, clip, &mut w2, &g, &mut v2, Some(&mut m2), None);
            let after = |i: usize| {
                optimizer::rmsprop(
                    [at(&w, i), at(&v, i), at(&m, i)],
                    gradient(i),
                    0.01,
                    0.99,
                    1e-8,
                    momentum,
                    0.01,
                )
            };
            check("rmsprop w", &w2, &|i| after(i)[0]);
            check("rmsprop average", &v2, &|i| after(i)[1]);
            check("rmsprop buffer", &m2, &|i| after(i)[2]);
        }
        let p = Lion { learning_rate: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
        let (mut w2, mut m2) = (w.clone(), m.clone());
        lion_step(cpu, &p, clip, &mut w2, &g, &mut m2, None);
        let after = |i: usize| optimizer::lion([at(&w, i), at(&m, i)], gradient(i), 0.01, [0.9, 0.99], 0.1);
        check("lion w", &w2, &|i| after(i)[0]);
        check("lion m", &m2, &|i| after(i)[1]);
        let mut average = m.clone();
        ema_update(cpu, 0.9, &mut average, &w);
        check("ema", &average, &|i| 0.9 * at(&m, i) + 0.1 * at(&w, i));
    });
}

/// A step on weights and two states.
type Step<'a> = &'a dyn Fn(&mut [f32], &mut [f32], &mut [f32]);

#[test]
fn a_step_over_live_rows_gives_the_bits_of_a_step_over_all() {
    let (rows, width) = if cfg!(miri) { (5, 9) } else { (1_003, 37) };
    let live: Vec<bool> = (0..rows).map(|row| row % 7 == 3 || row == 0).collect();
    let masked = |name: &str| -> Vec<f32> {
        let values = draw(name, rows * width).into_iter().enumerate();
        values.map(|(i, value)| if live[i / width] { value } else { 0.0 }).collect()
    };
    let (w, g, m) = (draw("w", rows * width), masked("g"), masked("m"));
    let v: Vec<f32> = m.iter().map(|m| m * m).collect();
    let some = Some(LiveRows { width, live: &live });
    on_every_path(|cpu| {
        let run = |rows: Option<LiveRows>, decay: f64| {
            let mut all = Vec::new();
            let mut step = |step: Step| {
                let (mut w, mut m, mut v) = (w.clone(), m.clone(), v.clone());
                step(&mut w, &mut m, &mut v);
                all.extend([w, m, v].concat().into_iter().map(f32::to_bits));
            };
            for decoupled in [true, false] {
                let p = AdamW { step: 3, decoupled, weight_decay: decay, ..ADAMW };
                step(&|w, m, v| adamw_step(cpu, &p, 0.7, w, &g, m, v, rows));
            }
            let p = Sgd {
                learning_rate: 0.1,
                momentum: 0.9,
                dampening: 0.0,
                nesterov: true,
                weight_decay: decay,
                first: false,
            };
            step(&|w, m, _| sgd_step(cpu, &p, 0.7, w, &g, Some(m), rows));
            let p =
                RmsProp { learning_rate: 0.01, alpha: 0.99, eps: 1e-8, momentum: 0.5, weight_decay: decay };
            step(&|w, m, v| rmsprop_step(cpu, &p, 0.7, w, &g, v, Some(m), rows));
            let p = Lion { learning_rate: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: decay };
            step(&|w, m, _| lion_step(cpu, &p, 0.7, w, &g, m, rows));
            all
        };
        for decay in [0.0, 0.1] {
            assert!(run(some, decay) == run(None, decay), "weight decay {decay}");
        }
    });
}

#[test]
fn lion_stands_still_without_gradient_or_momentum() {
    on_every_path(|cpu| {
        let (mut w, mut m) = ([1.0, -1.0, 0.5], [0.0; 3]);
        let p = Lion { learning_rate: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: 0.0 };
        lion_step(cpu, &p, 1.0, &mut w, &[0.0; 3], &mut m, None);
        assert_eq!(w, [1.0, -1.0, 0.5]);
    });
}

#[test]
fn embeddings_add_their_tables_and_their_gradients() {
    on_every_path(|cpu| {
        let width = 13;
        let (words, positions) = (draw("words", 5 * width), draw("positions", 3 * width));
        let (word, position) = ([4, 0, 4, 4], [0, 1, 2, 0]);
        let mut out = vec![f32::NAN; 4 * width];
        embedding_forward(cpu, width, &[(&words, &word), (&positions, &position)], &mut out);
        for row in 0..4 {
            for j in 0..width {
                let expected =
                    words[word[row] as usize * width + j] + positions[position[row] as usize * width + j];
                assert_eq!(out[row * width + j], expected);
            }
        }
        let mut grad = vec![1.0; 5 * width];
        embedding_backward(cpu, width, &word, &out, &mut grad);
        for j in 0..width {
            assert_eq!(grad[j], 1.0 + out[width + j]);
            assert_eq!(grad[width + j], 1.0);
            assert_eq!(grad[4 * width + j], 1.0 + out[j] + out[2 * width + j] + out[3 * width + j]);
        }
    });
}

#[test]
#[should_panic(expected = "row 5 is beyond a table")]
fn an_index_beyond_the_table_panics_instead_of_reading() {
    let cpu = Cpu::new(1, Isa::Portable).unwrap();
    gather_rows(&cpu, 2, &[0.0; 10], &[5], &mut [0.0; 2]);
}

#[test]
fn pooling_takes_each_sequence_for_itself() {
    on_every_path(|cpu| {
        let x = [1.0, 5.0, 3.0, -1.0, 7.0, -2.0];
        let offsets = [0, 2, 2, 3];
        let mut out = [f32::NAN; 6];
        mean_pool_forward(cpu, 2, &x, &offsets, &mut out);
        assert_eq!(out, [2.0, 2.0, 0.0, 0.0, 7.0, -2.0]);
        let mut dx = [f32::NAN; 6];
        mean_pool_backward(cpu, 2, &[2.0, 4.0, 9.0, 9.0, 1.0, 3.0], &offsets, &mut dx);
        assert_eq!(dx, [1.0, 2.0, 1.0, 2.0, 1.0, 3.0]);
        let mut argmax = [0; 6];
        max_pool_forward(cpu, 2, &x, &offsets, &mut out, Some(&mut argmax));
        assert_eq!(out, [3.0, 5.0, 0.0, 0.0, 7.0, -2.0]);
        assert_eq!(argmax, [1, 0, u32::MAX, u32::MAX, 2, 2]);
        max_pool_backward(cpu, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &argmax, &mut dx);
        assert_eq!(dx, [0.0, 2.0, 1.0, 0.0, 5.0, 6.0]);
    });
}

#[test]
fn reductions_see_every_element() {
    on_every_path(|cpu| {
        for n in [0, 1, 17, if cfg!(miri) { 100 } else { 200_003 }] {
            let x = draw("x", n);
            let expected: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((sum_of_squares(cpu, &x) - expected).abs() <= 1e-12 * expected);
            assert!(all_finite(cpu, &x));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, n / 2, n.saturating_sub(1)] {
                    let mut x = x.clone();
                    if let Some(value) = x.get_mut(at) {
                        *value = bad;
                        assert!(!all_finite(cpu, &x), "{bad} at {at} of {n}");
                    }
                }
            }
        }
    });
}
