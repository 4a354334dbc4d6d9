//! Rounding to bf16, and what products in it promise beside their definition.

mod common;

use common::*;
use retune_kernels::*;

/// Every upper half of an f32 with the lower halves that decide its rounding: below, at and above the tie.
fn every_kind_of_number() -> Vec<f32> {
    let step = if cfg!(miri) { 257 } else { 1 };
    (0..1u32 << 16)
        .step_by(step)
        .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(high << 16 | low)))
        .collect()
}

#[test]
fn rounding_is_to_the_nearest_with_ties_to_even_and_keeps_nan() {
    let numbers = every_kind_of_number();
    on_every_path(|cpu| {
        let mut rounded = vec![bf16::ZERO; numbers.len()];
        to_bf16(cpu, &numbers, &mut rounded);
        let mut widened = vec![0.0; numbers.len()];
        from_bf16(cpu, &rounded, &mut widened);
        for ((&number, &rounded), &widened) in numbers.iter().zip(&rounded).zip(&widened) {
            assert_eq!(widened.to_bits(), u32::from(rounded.to_bits()) << 16);
            if number.is_nan() {
                assert!(widened.is_nan() && widened.is_sign_negative() == number.is_sign_negative());
                continue;
            }
            // The two neighbours, and which of them is nearer.
            let (below, low) = (number.to_bits() >> 16, number.to_bits() & 0xffff);
            let up = low > 0x8000 || (low == 0x8000 && below & 1 == 1);
            assert_eq!(u32::from(rounded.to_bits()), below + u32::from(up), "{number:e} on {}", cpu.isa());
        }
    });
}

fn product(cpu: &Cpu, layout: Layout, [m, n, k]: [usize; 3], a: Matrix, b: Matrix) -> Vec<f32> {
    let mut c = vec![f32::NAN; m * n];
    let g = Gemm {
        layout,
        m,
        n,
        k,
        precision: Precision::Bf16,
        a,
        b,
        accumulate: false,
        scale: 1.0,
        bias: None,
        activation: Activation::Identity,
    };
    gemm(cpu, &g, &mut c, None);
    c
}

const SHAPES: &[[usize; 3]] = if cfg!(miri) {
    &[[7, 17, 9], [1, 1, 1], [3, 5, 18]]
} else {
    &[[7, 17, 9], [1, 1, 1], [33, 70, 129], [3, 100, 64], [130, 5, 515], [97, 193, 1026], [40, 40, 16]]
};

#[test]
fn an_operand_has_the_same_bits_rounded_beforehand_and_rounded_when_packed() {
    on_every_path(|cpu| {
        for &[m, n, k] in SHAPES {
            let (a, b) = (draw("a", m * k), draw("b", n * k));
            let (a_halves, b_halves) = (halves(&a), halves(&b));
            for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
                let packed = product(cpu, layout, [m, n, k], (&a).into(), (&b).into());
                let stored =
                    product(cpu, layout, [m, n, k], a_halves.as_slice().into(), b_halves.as_slice().into());
                let mixed = product(cpu, layout, [m, n, k], a_halves.as_slice().into(), (&b).into());
                let what = format!("{layout:?} {m}x{n}x{k} on {}", cpu.isa());
                assert_same_bits(&what, &packed, &stored);
                assert_same_bits(&what, &packed, &mixed);
            }
        }
    });
}

#[test]
fn products_in_bf16_have_the_same_bits_on_the_portable_path_and_in_avx2() {
    // A product of two bf16 numbers is exact, so adding it fused or not is the same.
    if !Isa::Avx2.available() {
        eprintln!("skipped: no AVX2 here");
        return;
    }
    let [portable, avx2] = [Isa::Portable, Isa::Avx2].map(|isa| Cpu::new(1, isa).unwrap());
    for &[m, n, k] in SHAPES {
        let (a, b) = (draw("a", m * k), draw("b", n * k));
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let [plain, fast] =
                [&portable, &avx2].map(|cpu| product(cpu, layout, [m, n, k], (&a).into(), (&b).into()));
            assert_same_bits(&format!("{layout:?} {m}x{n}x{k}"), &plain, &fast);
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    on_every_path(|cpu| {
        let [m, n, k] = [9, 20, 33];
        let (mut a, b) = (draw("a", m * k), draw("b", n * k));
        (a[2 * k + 32], a[5 * k]) = (f32::INFINITY, f32::NAN);
        let c = product(cpu, Layout::Nt, [m, n, k], (&a).into(), (&b).into());
        for (row, values) in c.chunks_exact(n).enumerate() {
            match row {
                2 => assert!(values.iter().all(|value| value.is_infinite()), "{values:?}"),
                5 => assert!(values.iter().all(|value| value.is_nan()), "{values:?}"),
                _ => assert!(values.iter().all(|value| value.is_finite()), "row {row}: {values:?}"),
            }
        }
    });
}

#[test]
#[should_panic(expected = "stored in bf16")]
fn a_product_in_f32_refuses_a_factor_that_was_rounded() {
    let (a, b) = (halves(&[1.0]), [1.0]);
    let g = Gemm {
        layout: Layout::Nt,
        m: 1,
        n: 1,
        k: 1,
        precision: Precision::F32,
        a: a.as_slice().into(),
        b: b.as_slice().into(),
        accumulate: false,
        scale: 1.0,
        bias: None,
        activation: Activation::Identity,
    };
    gemm(&Cpu::new(1, Isa::Portable).unwrap(), &g, &mut [0.0], None);
}
