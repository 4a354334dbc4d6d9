//! Element types of stored tensors and their conversion to `f32`. All formats read here are little-endian.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Element type of a stored tensor. Names and order are safetensors' own: its files hold later types first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Dtype {
    /// One byte, zero is false.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    Bf16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
}

impl Dtype {
    /// All types, narrow to wide.
    pub const ALL: [Self; 13] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::Bf16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// The type with this safetensors name (`"F32"`, `"BF16"`).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The safetensors name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::U16 => "U16",
            Self::I16 => "I16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::F32 => "F32",
            Self::U64 => "U64",
            Self::I64 => "I64",
            Self::F64 => "F64",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Converts little-endian `bytes` into `values`, rounding to the nearest `f32` where the type is wider.
    /// `bytes` holds exactly one element per value.
    pub(crate) fn convert(self, bytes: &[u8], values: &mut [f32]) {
        debug_assert_eq!(bytes.len(), values.len() * self.size());
        match self {
            Self::Bool => each(bytes, values, |[byte]| f32::from(u8::from(byte != 0))),
            Self::U8 => each(bytes, values, |b| f32::from(u8::from_le_bytes(b))),
            Self::I8 => each(bytes, values, |b| f32::from(i8::from_le_bytes(b))),
            Self::U16 => each(bytes, values, |b| f32::from(u16::from_le_bytes(b))),
            Self::I16 => each(bytes, values, |b| f32::from(i16::from_le_bytes(b))),
            Self::F16 => each(bytes, values, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(bytes, values, |b| bf16::from_le_bytes(b).to_f32()),
            Self::U32 => each(bytes, values, |b| u32::from_le_bytes(b) as f32),
            Self::I32 => each(bytes, values, |b| i32::from_le_bytes(b) as f32),
            Self::F32 => each(bytes, values, f32::from_le_bytes),
            Self::U64 => each(bytes, values, |b| u64::from_le_bytes(b) as f32),
            Self::I64 => each(bytes, values, |b| i64::from_le_bytes(b) as f32),
            Self::F64 => each(bytes, values, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (value, &element) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = convert(element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / dtype.size()];
        dtype.convert(bytes, &mut values);
        values
    }

    #[test]
    fn every_type_is_found_under_its_own_name() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
            assert_eq!(serde_json::to_value(dtype).unwrap(), dtype.name());
        }
        assert_eq!(Dtype::from_name("F8_E4M3"), None);
    }

    #[test]
    fn elements_convert_to_the_nearest_f32() {
        assert_eq!(converted(Dtype::Bool, &[0, 1, 2]), [0.0, 1.0, 1.0]);
        assert_eq!(converted(Dtype::I8, &[0xff, 0x80]), [-1.0, -128.0]);
        // 0x3c00 is one in half precision, 0x0001 its least subnormal, 2^-24.
        assert_eq!(converted(Dtype::F16, &[0x00, 0x3c, 0x01, 0x00]), [1.0, 2f32.powi(-24)]);
        // 0x3fc0 is the upper half of 1.5f32.
        assert_eq!(converted(Dtype::Bf16, &[0xc0, 0x3f]), [1.5]);
        assert_eq!(converted(Dtype::F64, &0.1f64.to_le_bytes()), [0.1f32]);
        assert_eq!(converted(Dtype::I64, &(-3i64).to_le_bytes()), [-3.0]);
    }
}
