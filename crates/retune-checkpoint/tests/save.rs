//! Writing weights, against the bytes that the reference implementations write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use retune_checkpoint::{
    Dtype, NamedTensor, TensorData, Weights, save_pytorch_bin, save_safetensors, save_sharded,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/checkpoint").join(name)
}

fn format_pt() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

fn tensor<'a>(name: &'a str, shape: &'a [usize], values: &'a [f32]) -> NamedTensor<'a> {
    NamedTensor { name, shape, data: TensorData::F32(values) }
}

fn raw<'a>(name: &'a str, shape: &'a [usize], dtype: Dtype, bytes: &'a [u8]) -> NamedTensor<'a> {
    NamedTensor { name, shape, data: TensorData::Bytes(dtype, bytes) }
}

#[test]
fn a_file_equals_the_reference_library_s_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = [
        tensor("linear.weight", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        tensor("linear.bias", &[2], &[0.5, -0.5]),
        tensor("embeddings.weight", &[4, 1], &[0.0, 1.0, 2.0, 3.0]),
    ];
    save_safetensors(&path, &tensors, &format_pt()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(fixture("reference.safetensors")).unwrap());

    // 1.0 and 2.0 are 0x3f80 and 0x4000 in bfloat16, 0x3c00 and 0x4000 in half precision.
    let tensors = [
        raw("a", &[2], Dtype::Bf16, &[0x80, 0x3f, 0x00, 0x40]),
        raw("b", &[1], Dtype::I64, &[1, 0, 0, 0, 0, 0, 0, 0]),
        tensor("c", &[3], &[1.0, 2.0, 3.0]),
        raw("d", &[1], Dtype::I32, &[1, 0, 0, 0]),
        raw("e", &[1], Dtype::U32, &[1, 0, 0, 0]),
        raw("f", &[1], Dtype::F64, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
        raw("g", &[1], Dtype::U64, &[1, 0, 0, 0, 0, 0, 0, 0]),
        raw("h", &[2], Dtype::F16, &[0x00, 0x3c, 0x00, 0x40]),
        raw("i", &[2], Dtype::I16, &[1, 0, 2, 0]),
        raw("j", &[2], Dtype::U16, &[1, 0, 2, 0]),
        raw("k", &[2], Dtype::I8, &[1, 2]),
        raw("l", &[2], Dtype::U8, &[1, 2]),
        raw("m", &[2], Dtype::Bool, &[1, 0]),
    ];
    save_safetensors(&path, &tensors, &format_pt()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(fixture("reference_mixed.safetensors")).unwrap());
}

#[test]
fn tied_tensors_are_written_once_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let values = vec![1.0; 4];
    let tensors = [tensor("embeddings", &[2, 2], &values), tensor("decoder", &[2, 2], &values)];
    save_safetensors(&path, &tensors, &format_pt()).unwrap();
    let weights = Weights::open(&path).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["embeddings"]);
    assert_eq!(weights.metadata()["decoder"], "embeddings");
}

#[test]
fn shards_have_transformers_names_and_index_and_replace_an_earlier_save() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [tensor("a", &[4], &[1.0; 4]), tensor("b", &[2], &[2.0; 2]), tensor("c", &[9], &[3.0; 9])];
    let saved = save_sharded(folder.path(), &tensors, &format_pt(), 24).unwrap();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(saved.files, [shards[0], shards[1], "model.safetensors.index.json"]);
    let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    // 15 values, 60 bytes; the layout is that of fixtures/checkpoint/sharded_bert.
    let expected = r#"{
  "metadata": {
    "total_parameters": 15,
    "total_size": 60
  },
  "weight_map": {
    "a": "model-00001-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors",
    "c": "model-00002-of-00002.safetensors"
  }
}
"#;
    assert_eq!(index, expected);
    assert_eq!(Weights::open(folder.path()).unwrap().to_f32("c").unwrap(), [3.0; 9]);

    // Saved again whole: the shards and the index are gone.
    let saved = save_sharded(folder.path(), &tensors, &format_pt(), 1 << 30).unwrap();
    assert_eq!(saved.files, ["model.safetensors"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_index_has_the_layout_of_the_reference_s() {
    let reference = fs::read_to_string(fixture("sharded_bert/model.safetensors.index.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&reference).unwrap();
    assert_eq!(serde_json::to_string_pretty(&value).unwrap() + "\n", reference);
    assert_eq!(
        value["metadata"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["total_parameters", "total_size"]
    );
}

#[test]
fn a_length_that_does_not_fit_its_shape_and_a_repeated_name_are_refused_before_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let save =
        |tensors: &[NamedTensor]| save_safetensors(&path, tensors, &format_pt()).unwrap_err().to_string();
    assert!(
        save(&[tensor("a", &[2, 3], &[0.0; 5])])
            .contains("tensor `a`: has shape [2, 3] of F32, but 20 bytes")
    );
    assert!(save(&[tensor("a", &[usize::MAX, 2], &[0.0; 5])]).contains("tensor `a`"));
    assert!(save(&[tensor("a", &[1], &[0.0]), tensor("a", &[1], &[1.0])]).contains("given twice"));
    assert!(save(&[tensor("__metadata__", &[1], &[0.0])]).contains("reserves"));
    assert!(!path.exists());
}

#[test]
fn a_pytorch_file_is_read_back_with_its_ties_and_by_pytorch_where_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let values: Vec<f32> = (0..6).map(|value| value as f32).collect();
    let half = raw("half", &[1], Dtype::F16, &[0x00, 0x3c]);
    let tensors = [
        tensor("embeddings.weight", &[2, 3], &values),
        tensor("decoder.weight", &[2, 3], &values),
        half,
        tensor("scalar", &[], &[2.5]),
        tensor("empty", &[0, 4], &[]),
    ];
    save_pytorch_bin(&path, &tensors).unwrap();
    let weights = Weights::open(folder.path()).unwrap();
    let names: Vec<&str> = weights.names().collect();
    assert_eq!(names, ["embeddings.weight", "decoder.weight", "half", "scalar", "empty"]);
    assert_eq!(weights.to_f32("decoder.weight").unwrap(), values);
    assert_eq!(weights.to_f32("half").unwrap(), [1.0]);
    assert_eq!(weights.to_f32("scalar").unwrap(), [2.5]);
    assert_eq!(weights.info("empty").unwrap().shape, [0, 4]);
    assert_eq!(weights.tied(), [["embeddings.weight", "decoder.weight"]]);

    let unsigned = raw("u", &[1], Dtype::U16, &[0, 0]);
    assert!(save_pytorch_bin(&path, &[unsigned]).unwrap_err().to_string().contains("no storage class"));

    let Ok(python) = std::env::var("RETUNE_PYTHON") else {
        eprintln!("skipped: RETUNE_PYTHON names no Python with torch");
        return;
    };
    let script = "import sys, torch\n\
        state = torch.load(sys.argv[1], weights_only=True)\n\
        assert list(state) == ['embeddings.weight', 'decoder.weight', 'half', 'scalar', 'empty']\n\
        assert torch.equal(state['embeddings.weight'], torch.arange(6.).reshape(2, 3))\n\
        assert state['embeddings.weight'].data_ptr() == state['decoder.weight'].data_ptr()\n\
        assert state['half'].dtype == torch.float16 and state['half'].item() == 1 and state['scalar'].item() == 2.5\n\
        assert state['empty'].shape == (0, 4)\n\
        assert torch.equal(torch.load(sys.argv[1], mmap=True)['decoder.weight'], state['decoder.weight'])\n";
    let output = std::process::Command::new(python).args(["-c", script]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
