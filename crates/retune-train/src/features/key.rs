//! The key of cached features: a hash of everything that a frozen prefix computes with, beside the sample.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use retune_nn::{ParameterId, ParameterStore};
use retune_tensor::Precision;
use sha2::{Digest, Sha256};

/// Changes whenever features of the same key would be laid out or computed differently.
const GENERATION: u32 = 2;

/// A SHA-256.
pub(super) type Key = [u8; 32];

/// What the values below a cut depend on beside weights and samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    /// The layer group above the cut.
    pub cut: usize,
    /// Family and sizes.
    pub signature: &'a str,
    /// The kernels' instruction set: each has its own roundings.
    pub isa: &'a str,
    /// What the operands of products are rounded to.
    pub precision: Precision,
}

/// The key of features below a cut with the weights of a store, hashed on so many threads.
pub(super) fn key(store: &ParameterStore, setting: Setting<'_>, threads: usize) -> Key {
    let ids: Vec<ParameterId> = store.ids().filter(|&id| store.declaration(id).group < setting.cut).collect();
    let mut hasher = Sha256::new();
    hasher.update(GENERATION.to_le_bytes());
    let precision = match setting.precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    for text in [env!("CARGO_PKG_VERSION"), setting.isa, precision, setting.signature] {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hasher.update((setting.cut as u64).to_le_bytes());
    for digest in digests(store, &ids, threads) {
        hasher.update(digest);
    }
    hasher.finalize().into()
}

/// A digest of each parameter, in the order of `ids`.
fn digests(store: &ParameterStore, ids: &[ParameterId], threads: usize) -> Vec<Key> {
    let found = Mutex::new(vec![Key::default(); ids.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(&id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            let digest = digest(store, id);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = ids.iter().position(|&other| other == id) {
                found[place] = digest;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn digest(store: &ParameterStore, id: ParameterId) -> Key {
    const CHUNK: usize = 1 << 14;
    let declaration = store.declaration(id);
    let mut hasher = Sha256::new();
    hasher.update((declaration.name.len() as u64).to_le_bytes());
    hasher.update(&declaration.name);
    declaration.shape.iter().for_each(|&size| hasher.update((size as u64).to_le_bytes()));
    let mut bytes = vec![0; 4 * CHUNK];
    for values in store.tensor(id).values().chunks(CHUNK) {
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&bytes[..4 * values.len()]);
    }
    hasher.finalize().into()
}

/// A key as lower-case hexadecimal digits, shortened to 128 bits: the name of its folder.
pub(super) fn folder_name(key: &Key) -> String {
    key[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use retune_kernels::{Cpu, Isa};
    use retune_nn::{Initialization, ParameterBuilder};
    use retune_tensor::Context;

    use super::*;

    /// Two groups of 3 and 2 values.
    fn store(changed: Option<usize>) -> ParameterStore {
        let mut builder = ParameterBuilder::default();
        builder.begin_group("below");
        builder.parameter("below.weight", &[3], Initialization::Zeros);
        builder.begin_group("above");
        builder.parameter("above.weight", &[2], Initialization::Zeros);
        let context = Context::cpu(Cpu::new(1, Isa::Portable).unwrap());
        let mut store = builder.build(&context, 0, |_| Ok::<_, ()>(None)).unwrap();
        if let Some(changed) = changed {
            let id = store.ids().nth(changed).unwrap();
            store.values_mut(id)[1] = f32::from_bits(1);
        }
        store
    }

    #[test]
    fn the_key_follows_every_bit_below_the_cut_and_none_above_it() {
        let setting = Setting { cut: 1, signature: "a model", isa: "portable", precision: Precision::F32 };
        let whole = key(&store(None), setting, 1);
        assert_eq!(whole, key(&store(None), setting, 2));
        assert_eq!(whole, key(&store(Some(1)), setting, 1));
        assert_ne!(whole, key(&store(Some(0)), setting, 1));
        for other in [
            Setting { isa: "avx2", ..setting },
            Setting { precision: Precision::Bf16, ..setting },
            Setting { signature: "another", ..setting },
            Setting { cut: 0, ..setting },
        ] {
            assert_ne!(whole, key(&store(None), other, 1), "{other:?}");
        }
        assert_eq!(folder_name(&whole).len(), 32);
    }
}
