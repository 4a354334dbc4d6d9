//! Addition and scaling of whole slices.

use crate::Cpu;

/// `out = x + y`.
pub fn add(_cpu: &Cpu, x: &[f32], y: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "add: x and y differ in length");
    assert_eq!(x.len(), out.len(), "add: x and out differ in length");
    for i in 0..x.len() {
        out[i] = x[i] + y[i];
    }
}

/// `x += y`.
pub fn add_assign(_cpu: &Cpu, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add_assign: x and y differ in length");
    for i in 0..x.len() {
        x[i] += y[i];
    }
}

/// `x *= s`.
pub fn scale_assign(_cpu: &Cpu, x: &mut [f32], s: f32) {
    for value in x {
        *value *= s;
    }
}
