//! The sums of the f32 tile of 6 rows by 2 vectors in assembly, since 12 of 16 registers hold sums: a compiler that moves
//! loads ahead has to put some of them aside. Each step of k is 12 multiplications, which take six cycles, and 8 loads;
//! where two threads share a core and each takes in about three instructions a cycle, every one more costs time, so the
//! moving of pointers is shared by four steps where it can be.

use std::arch::asm;
use std::arch::x86_64::__m256;

use crate::gemm::tile::Operands;

pub(super) const ROWS: usize = 6;
pub(super) const VECTORS: usize = 2;
/// Elements of a packed row of B.
const WIDTH: usize = 16;
/// Steps in a turn of the longer loops.
const STEPS: usize = 4;

/// A step that finds B's two vectors and A's six elements at these addresses.
macro_rules! step {
    ($b0:expr, $b1:expr, $($a:expr, $sum0:literal, $sum1:literal;)*) => {
        concat!(
            "vmovups {x}, ymmword ptr [", $b0, "]\n",
            "vmovups {y}, ymmword ptr [", $b1, "]\n",
            $(
                "vbroadcastss {t}, dword ptr [", $a, "]\n",
                "vfmadd231ps {", $sum0, "}, {t}, {x}\n",
                "vfmadd231ps {", $sum1, "}, {t}, {y}\n",
            )*
        )
    };
}

/// A step whose elements of A are neighbours, so many bytes behind `a`, with B so many behind `b`.
macro_rules! packed_step {
    ($b0:literal, $b1:literal, $a0:literal, $a1:literal, $a2:literal, $a3:literal, $a4:literal, $a5:literal) => {
        step!(
            concat!("{b} + ", $b0), concat!("{b} + ", $b1),
            concat!("{a} + ", $a0), "s00", "s01";
            concat!("{a} + ", $a1), "s10", "s11";
            concat!("{a} + ", $a2), "s20", "s21";
            concat!("{a} + ", $a3), "s30", "s31";
            concat!("{a} + ", $a4), "s40", "s41";
            concat!("{a} + ", $a5), "s50", "s51";
        )
    };
}

/// A step whose elements of A are so many bytes behind `a` and behind rows at multiples of `row`; `d` is three of them on.
macro_rules! row_step {
    ($at:literal) => {
        step!(
            "{b}", "{b} + 32",
            concat!("{a} + ", $at), "s00", "s01";
            concat!("{a} + {row} + ", $at), "s10", "s11";
            concat!("{a} + 2*{row} + ", $at), "s20", "s21";
            concat!("{d} + ", $at), "s30", "s31";
            concat!("{d} + {row} + ", $at), "s40", "s41";
            concat!("{d} + 2*{row} + ", $at), "s50", "s51";
        )
    };
}

/// Runs a loop of `$turns` turns over the sums.
macro_rules! sum {
    ($sums:ident, $turns:expr, [$($line:expr),* $(,)?], $($operand:tt)*) => {
        asm!(
            ".p2align 5",
            "2:",
            $($line,)*
            "dec {turns}",
            "jnz 2b",
            turns = inout(reg) $turns => _,
            s00 = inout(ymm_reg) $sums[0][0], s01 = inout(ymm_reg) $sums[0][1],
            s10 = inout(ymm_reg) $sums[1][0], s11 = inout(ymm_reg) $sums[1][1],
            s20 = inout(ymm_reg) $sums[2][0], s21 = inout(ymm_reg) $sums[2][1],
            s30 = inout(ymm_reg) $sums[3][0], s31 = inout(ymm_reg) $sums[3][1],
            s40 = inout(ymm_reg) $sums[4][0], s41 = inout(ymm_reg) $sums[4][1],
            s50 = inout(ymm_reg) $sums[5][0], s51 = inout(ymm_reg) $sums[5][1],
            x = out(ymm_reg) _, y = out(ymm_reg) _, t = out(ymm_reg) _,
            $($operand)*
            options(nostack, readonly)
        )
    };
}

/// Adds the products of all steps to the sums.
///
/// # Safety
/// AVX2 and FMA. Readable: `k` steps of six rows of A and of 16 elements of B.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn accumulate(operands: &Operands, sums: &mut [[__m256; VECTORS]; ROWS]) {
    let &Operands { a, a_row, a_step, b, b_step, k } = operands;
    let bytes = |elements: usize| size_of::<f32>() * elements;
    let (mut a, mut b, mut left) = (a, b, k);
    if a_row == 1 && a_step == ROWS && b_step == WIDTH && left >= STEPS {
        // SAFETY: reads what the caller vouches for, four packed steps a turn, of which there is at least one.
        unsafe {
            sum!(sums, left / STEPS, [
                packed_step!("0", "32", "0", "4", "8", "12", "16", "20"),
                packed_step!("64", "96", "24", "28", "32", "36", "40", "44"),
                packed_step!("128", "160", "48", "52", "56", "60", "64", "68"),
                packed_step!("192", "224", "72", "76", "80", "84", "88", "92"),
                "add {a}, 96",
                "add {b}, 256",
            ], a = inout(reg) a, b = inout(reg) b,);
        }
        left %= STEPS;
    } else if a_row == 1 && left >= STEPS {
        // SAFETY: as above, wherever the next step is.
        unsafe {
            sum!(sums, left / STEPS, [
                packed_step!("0", "32", "0", "4", "8", "12", "16", "20"), "add {a}, {a_step}", "add {b}, {b_step}",
                packed_step!("0", "32", "0", "4", "8", "12", "16", "20"), "add {a}, {a_step}", "add {b}, {b_step}",
                packed_step!("0", "32", "0", "4", "8", "12", "16", "20"), "add {a}, {a_step}", "add {b}, {b_step}",
                packed_step!("0", "32", "0", "4", "8", "12", "16", "20"), "add {a}, {a_step}", "add {b}, {b_step}",
            ], a = inout(reg) a, b = inout(reg) b, a_step = in(reg) bytes(a_step), b_step = in(reg) bytes(b_step),);
        }
        left %= STEPS;
    } else if a_step == 1 && left >= STEPS {
        let next = 3 * a_row;
        // SAFETY: as above, four steps of six rows a turn.
        unsafe {
            sum!(sums, left / STEPS, [
                row_step!("0"), "add {b}, {b_step}",
                row_step!("4"), "add {b}, {b_step}",
                row_step!("8"), "add {b}, {b_step}",
                row_step!("12"), "add {b}, {b_step}",
                "add {a}, 16",
                "add {d}, 16",
            ], a = inout(reg) a, b = inout(reg) b, d = inout(reg) a.wrapping_add(next) => _, row = in(reg) bytes(a_row),
               b_step = in(reg) bytes(b_step),);
        }
        left %= STEPS;
    }
    if left > 0 {
        let next = 3 * a_row;
        // SAFETY: as above, a step of six rows a turn.
        unsafe {
            sum!(sums, left, [
                row_step!("0"),
                "add {b}, {b_step}",
                "add {a}, {a_step}",
                "add {d}, {a_step}",
            ], a = inout(reg) a => _, b = inout(reg) b => _, d = inout(reg) a.wrapping_add(next) => _,
               row = in(reg) bytes(a_row), a_step = in(reg) bytes(a_step), b_step = in(reg) bytes(b_step),);
        }
    }
}
