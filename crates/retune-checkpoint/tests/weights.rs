//! Reading weights from every format, against files that PyTorch and safetensors wrote
//! (`fixtures/checkpoint/make_checkpoints.py`).

use std::fs;
use std::path::{Path, PathBuf};

use retune_checkpoint::{CheckpointError, Dtype, OpenOptions, Weights, WrapperRule};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/checkpoint").join(name)
}

fn refusal(path: &Path) -> String {
    Weights::open(path).unwrap_err().to_string()
}

#[test]
fn zip_legacy_and_later_protocols_hold_the_same_tensors() {
    for name in ["plain_zip.pth", "plain_legacy.pth", "plain_protocol4.pth"] {
        let weights = Weights::open(&fixture(name)).unwrap();
        let names: Vec<&str> = weights.names().collect();
        assert_eq!(names[..4], ["weight", "weight_t", "column", "tied"], "{name}");
        assert_eq!(names.len(), 17, "{name}");
        let expected: [(&str, Dtype, &[usize], &[f32]); 17] = [
            ("weight", Dtype::F32, &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            ("weight_t", Dtype::F32, &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
            ("column", Dtype::F32, &[2], &[1.0, 4.0]),
            ("tied", Dtype::F32, &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            ("half", Dtype::F16, &[2], &[1.0, -0.5]),
            ("brain", Dtype::Bf16, &[2], &[1.5, -2.0]),
            ("double", Dtype::F64, &[2], &[0.25, 1e3]),
            ("long", Dtype::I64, &[2], &[7.0, -8.0]),
            ("int", Dtype::I32, &[2], &[9.0, -10.0]),
            ("short", Dtype::I16, &[2], &[11.0, -12.0]),
            ("char", Dtype::I8, &[2], &[13.0, -14.0]),
            ("byte", Dtype::U8, &[2], &[15.0, 255.0]),
            ("flag", Dtype::Bool, &[2], &[1.0, 0.0]),
            ("scalar", Dtype::F32, &[], &[3.0]),
            ("empty", Dtype::F32, &[0, 4], &[]),
            ("parameter", Dtype::F32, &[2], &[4.0, 5.0]),
            ("expanded", Dtype::F32, &[3], &[6.0, 6.0, 6.0]),
        ];
        for (tensor, dtype, shape, values) in expected {
            let info = weights.info(tensor).unwrap();
            assert_eq!((info.dtype, info.shape.as_slice()), (dtype, shape), "{name} {tensor}");
            assert_eq!(weights.to_f32(tensor).unwrap(), values, "{name} {tensor}");
        }
        assert_eq!(weights.tied(), [["weight", "tied"]], "{name}");
        assert_eq!(weights.bytes("column").unwrap()[..4], 1f32.to_le_bytes(), "{name}");
    }
}

#[test]
fn a_training_script_s_wrapping_is_gone_through_and_listed() {
    for name in ["wrapped_zip.pth", "wrapped_legacy.pth"] {
        let weights = Weights::open(&fixture(name)).unwrap();
        let names: Vec<&str> = weights.names().collect();
        let expected = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"];
        assert_eq!(names[..2], ["0.weight", "0.bias"]);
        assert_eq!(names[2..], expected.map(|name| format!("1.{name}")));
        assert_eq!(weights.unwrapped(), ["state_dict", "module."]);
        assert_eq!(weights.metadata()["best_prec1"], "91.5");
        assert_eq!(weights.metadata()["epoch"], "12");
        assert_eq!(weights.to_f32("0.weight").unwrap(), [1.0, 1.0]);

        let keys = OpenOptions { wrappers: WrapperRule::Keys(vec!["state_dict".into()]) };
        let weights = Weights::open_with(&fixture(name), &keys).unwrap();
        assert_eq!(weights.names().next(), Some("module.0.weight"));

        let literal = OpenOptions { wrappers: WrapperRule::Literal };
        let weights = Weights::open_with(&fixture(name), &literal).unwrap();
        assert_eq!(weights.names().next(), Some("state_dict.module.0.weight"));

        let wrong = OpenOptions { wrappers: WrapperRule::Keys(vec!["weights".into()]) };
        let message = Weights::open_with(&fixture(name), &wrong).unwrap_err().to_string();
        assert!(
            message.contains("no dictionary under `weights`") && message.contains("state_dict"),
            "{message}"
        );
    }
}

#[test]
fn a_type_without_its_own_storage_class_is_read_from_the_untyped_form() {
    let weights = Weights::open(&fixture("untyped.pth")).unwrap();
    assert_eq!(weights.info("unsigned").unwrap().dtype, Dtype::U16);
    assert_eq!(weights.to_f32("unsigned").unwrap(), [1.0, 65535.0]);
}

#[test]
fn a_pickle_that_would_run_code_is_refused_by_name_and_runs_nothing() {
    for name in ["malicious_zip.pth", "malicious_legacy.pth"] {
        let error = Weights::open(&fixture(name)).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::Refused { global, .. } if global == "posix.system"),
            "{error}"
        );
        assert!(error.to_string().contains("refuses to load `posix.system`"), "{error}");
    }
    assert!(!Path::new("/tmp/retune_checkpoint_was_here").exists());
    assert!(
        refusal(&fixture("whole_module.pth")).contains("refuses to load `torch.nn.modules.linear.Linear`")
    );
    assert!(refusal(&fixture("bare.pkl")).contains("not one that torch.save wrote"));
}

#[test]
fn safetensors_from_the_reference_are_read_with_their_metadata() {
    let weights = Weights::open(&fixture("reference_mixed.safetensors")).unwrap();
    let names: String = weights.names().collect();
    assert_eq!(names, "gbfcedahjiklm");
    for name in ["b", "d", "e", "f", "g"] {
        assert_eq!(weights.to_f32(name).unwrap(), [1.0], "{name}");
    }
    for name in ["h", "i", "j", "k", "l"] {
        assert_eq!(weights.to_f32(name).unwrap(), [1.0, 2.0], "{name}");
    }
    assert_eq!(weights.to_f32("a").unwrap(), [1.0, 2.0]);
    assert_eq!(weights.metadata()["format"], "pt");
    assert_eq!(weights.files(), [fixture("reference_mixed.safetensors")]);
    assert_eq!(weights.file_hashes().unwrap()[0].sha256.len(), 64);
}

#[test]
fn a_wrong_name_is_answered_with_the_nearest_one_and_a_wrong_length_with_the_shape() {
    let weights = Weights::open(&fixture("reference.safetensors")).unwrap();
    let message = weights.to_f32("bert.linear.weight").unwrap_err().to_string();
    assert!(message.contains("the nearest name there is `linear.weight`"), "{message}");
    let message = weights.read_f32("linear.weight", &mut [0.0; 5]).unwrap_err().to_string();
    assert!(message.contains("shape [2, 3], 6 elements; room for 5"), "{message}");
}

#[test]
fn a_folder_is_searched_in_the_documented_order() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| fs::copy(fixture(from), folder.path().join(to)).unwrap();
    assert!(refusal(folder.path()).contains("holds no weights; looked for model.safetensors"));
    copy("plain_zip.pth", "net.pth");
    copy("plain_zip.pth", "optimizer.pt");
    assert_eq!(Weights::open(folder.path()).unwrap().files(), [folder.path().join("net.pth")]);
    copy("plain_zip.pth", "other.th");
    assert!(refusal(folder.path()).contains("several weight files (net.pth, other.th)"));
    // The format is told from the content: a safetensors file under a pickle's name.
    copy("reference.safetensors", "pytorch_model.bin");
    assert_eq!(Weights::open(folder.path()).unwrap().names().next(), Some("embeddings.weight"));
    copy("reference_mixed.safetensors", "model.safetensors");
    assert_eq!(Weights::open(folder.path()).unwrap().names().next(), Some("g"));
}

#[test]
fn shards_are_joined_by_their_index_and_its_lies_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("reference.safetensors"), folder.path().join("model-00001-of-00002.safetensors"))
        .unwrap();
    fs::copy(fixture("plain_zip.pth"), folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let index = |map: &str| {
        let text = format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{map}}}"#);
        fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
    };
    index(r#"{"linear.bias":"model-00001-of-00002.safetensors","half":"model-00002-of-00002.safetensors"}"#);
    let weights = Weights::open(folder.path()).unwrap();
    assert_eq!(weights.to_f32("linear.bias").unwrap(), [0.5, -0.5]);
    assert_eq!(weights.to_f32("half").unwrap(), [1.0, -0.5]);
    assert_eq!(weights.files().len(), 3);

    index(r#"{"gone":"model-00001-of-00002.safetensors"}"#);
    assert!(
        refusal(folder.path()).contains("tensor `gone`: is said to be in model-00001-of-00002.safetensors")
    );
    index(r#"{"w":"../../etc/passwd"}"#);
    assert!(refusal(folder.path()).contains("not a file name of the index's folder"));
    index(r#"{"w":"missing.safetensors"}"#);
    assert!(refusal(folder.path()).contains("missing.safetensors"));
    fs::copy(fixture("reference.safetensors"), folder.path().join("model-00002-of-00002.safetensors"))
        .unwrap();
    index(
        r#"{"linear.bias":"model-00001-of-00002.safetensors","linear.weight":"model-00002-of-00002.safetensors"}"#,
    );
    assert!(refusal(folder.path()).contains("is also in"));
    index("[]");
    assert!(refusal(folder.path()).contains("not valid JSON"));
}

/// Real files: legacy checkpoints of ResNets and the same weights as safetensors.
#[test]
fn real_legacy_checkpoints_equal_their_safetensors_twins() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/weights/cifar10_resnet");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    for name in ["resnet20-12fca82f", "resnet56-4bfd9763"] {
        let legacy = Weights::open(&folder.join(format!("{name}.th"))).unwrap();
        let twin = Weights::open(&folder.join(format!("{name}.safetensors"))).unwrap();
        assert_eq!(legacy.unwrapped(), ["state_dict", "module."]);
        assert!(legacy.metadata().contains_key("best_prec1"));
        for tensor in twin.names() {
            assert_eq!(legacy.info(tensor), twin.info(tensor), "{name} {tensor}");
            assert_eq!(legacy.bytes(tensor).unwrap(), twin.bytes(tensor).unwrap(), "{name} {tensor}");
        }
        assert_eq!(legacy.names().len(), twin.names().len());
    }
}

/// The header's length, 640, begins with the bytes 0x80 0x02, as a pickle of protocol 2 does.
#[test]
fn a_safetensors_file_is_not_taken_for_a_pickle_whatever_its_header_s_length() {
    for length in [640usize, 0x0480, 0x0580] {
        let header = format!("{:<length$}", r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        let mut file = (length as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend(1.5f32.to_le_bytes());
        let weights = Weights::from_bytes("x", file, &OpenOptions::default()).unwrap();
        assert_eq!(weights.to_f32("w").unwrap(), [1.5]);
        assert_eq!(weights.to_tensors().unwrap()["w"].shape, [1]);
    }
}

#[test]
fn a_git_lfs_pointer_is_told_from_weights() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa51172d14\nsize 90868376\n";
    let error =
        Weights::from_bytes("model.safetensors", pointer.into(), &OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("is a Git LFS pointer"), "{error}");
}
