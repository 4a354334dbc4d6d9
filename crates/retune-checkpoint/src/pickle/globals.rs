//! The allow-list: every global that a weight file may name, and what it means here.
//!
//! None of these is a Python object; calling one builds a [`super::value::Object`]. A name that is not listed is
//! refused at once, before anything could be made of it.

use crate::dtype::Dtype;

/// A global from the allow-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    OrderedDict,
    Set,
    /// `torch._utils._rebuild_tensor(storage, offset, size, stride)`
    RebuildTensor,
    /// The same with `requires_grad`, hooks and metadata behind.
    RebuildTensorV2,
    /// The same with a dtype, over untyped storages.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter(tensor, requires_grad, hooks[, state])`
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`
    RebuildFromType,
    /// A tensor class named as the type of a rebuilt tensor.
    TensorType,
    /// A storage class; untyped without an element type.
    Storage(Option<Dtype>),
    Dtype(Dtype),
    Size,
    Device,
    /// `_codecs.encode`, how protocol 2 spells bytes.
    Encode,
}

impl Known {
    /// Looks a global up; `None` means refused.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("builtins" | "__builtin__", "set") => Self::Set,
            ("_codecs", "encode") => Self::Encode,
            ("torch._utils", "_rebuild_tensor") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Self::TensorType,
            ("torch", "Size") => Self::Size,
            ("torch", "device") => Self::Device,
            ("torch.storage" | "torch", "UntypedStorage") => Self::Storage(None),
            ("torch" | "torch.cuda", name) => return storage(name).or_else(|| dtype(name)),
            _ => return None,
        };
        Some(known)
    }
}

fn storage(name: &str) -> Option<Known> {
    let dtype = match name {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        _ => return None,
    };
    Some(Known::Storage(Some(dtype)))
}

fn dtype(name: &str) -> Option<Known> {
    let dtype = match name {
        "float32" | "float" => Dtype::F32,
        "float64" | "double" => Dtype::F64,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::Bf16,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::Bool,
        _ => return None,
    };
    Some(Known::Dtype(dtype))
}
