//! Checkpoints that other people trained, in the folder `shared` beside the project. Where it is absent, these tests say
//! that they were skipped.

use std::path::{Path, PathBuf};

use retune_checkpoint::{LoadReport, Weights};
use retune_kernels::{Cpu, Isa};
use retune_models::vision::{ImageBatch, ImageClassifier, ImageClassifierParts, ImageConfig};
use retune_models::{LoadOptions, ModelError, load_parameters};
use retune_nn::{Environment, Forward, ParameterBuilder, ParameterStore, Trainable};
use retune_tensor::Context;

/// A file or folder of `shared`, if it is there.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

fn context() -> Context {
    Context::cpu(Cpu::new(2, Isa::detect()).unwrap())
}

fn load(
    path: &Path,
    architecture: &str,
    outputs: usize,
    how: &LoadOptions,
) -> Result<(ImageClassifier, ParameterStore, LoadReport), ModelError> {
    let config = ImageConfig::open(path, Some(architecture))?;
    let mut builder = ParameterBuilder::default();
    let parts =
        ImageClassifierParts { config: &config, outputs, channels: 3, dropout: None, drop_path: None };
    let model = ImageClassifier::declare(&parts, &mut builder);
    let weights = Weights::open(path)?;
    let (source, _) = model.source(&builder, &config, &weights)?;
    let (store, report) = load_parameters(&context(), builder, &model, source, how)?;
    Ok((model, store, report))
}

#[test]
fn a_mobilenet_with_folded_norms_loads_whole_and_is_noticed() {
    let Some(path) = shared("weights/mobilenet_v2_imagenet") else { return };
    let (_, store, report) = load(&path, "mobilenet_v2", 1000, &LoadOptions::default()).unwrap();
    assert_eq!(report.loaded.len(), 314, "{report}");
    assert!(report.unused.is_empty() && report.missing.is_empty(), "{report}");
    assert_eq!(store.uninformative_norms().len(), 52);
    // Other classes: the output layer is new, all else loads.
    let config = ImageConfig::open(&path, Some("mobilenet_v2")).unwrap();
    let mut builder = ParameterBuilder::default();
    let parts =
        ImageClassifierParts { config: &config, outputs: 2, channels: 3, dropout: None, drop_path: None };
    let model = ImageClassifier::declare(&parts, &mut builder);
    let how = LoadOptions { new_parameters: model.output_parameters(), ..LoadOptions::default() };
    let (_, _, report) = load(&path, "mobilenet_v2", 2, &how).unwrap();
    assert_eq!(report.newly_initialized, ["classifier.1.weight", "classifier.1.bias"]);
}

#[test]
fn squeezenet_features_load_under_a_new_head() {
    let Some(path) = shared("weights/squeezenet1_1_imagenet_features") else { return };
    let (_, _, report) = load(&path, "squeezenet1_1", 2, &LoadOptions::default()).unwrap();
    assert_eq!(report.newly_initialized, ["classifier.1.weight", "classifier.1.bias"]);
    assert!(report.unused.is_empty() && report.missing.is_empty(), "{report}");
}

#[test]
fn a_truncated_resnet_loads_what_it_has_when_that_is_allowed() {
    let Some(path) = shared("weights/resnet18_imagenet_conv1_to_layer3") else { return };
    let error = load(&path, "resnet18", 2, &LoadOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("layer4.0.conv1.weight"), "{error}");
    let how = LoadOptions { allow_missing: true, ..LoadOptions::default() };
    let (_, store, report) = load(&path, "resnet18", 2, &how).unwrap();
    assert!(report.missing.iter().all(|name| name.starts_with("layer4.")), "{report}");
    assert!(report.unused.is_empty(), "{report}");
    // The missing layer's norms are new, not folded, and say nothing either: the report tells them apart.
    let folded = store.uninformative_norms();
    let loaded = folded.iter().filter(|norm| report.loaded.contains(&format!("{norm}.running_mean")));
    assert_eq!(loaded.count(), 15);
}

#[test]
fn resnet20_reads_a_legacy_file_and_recognizes_degraded_cifar_pictures() {
    const PICTURES: usize = 200;
    const BYTES: usize = 1 + 3 * 32 * 32;
    let (Some(path), Some(data)) =
        (shared("weights/cifar10_resnet/resnet20-12fca82f.th"), shared("data/cifar10"))
    else {
        return;
    };
    let (model, store, report) = load(&path, "cifar_resnet20", 10, &LoadOptions::default()).unwrap();
    assert!(report.unused.is_empty() && report.missing.is_empty(), "{report}");
    let file = std::fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("test")))
        .unwrap();
    let bytes = std::fs::read(file).unwrap();
    let records: Vec<&[u8]> = bytes.chunks_exact(BYTES).take(PICTURES).collect();
    let (mean, std) = model.architecture().preprocessing.normalization(3);
    let pixels = records
        .iter()
        .flat_map(|record| {
            let planes = &record[1..];
            (0..32 * 32)
                .flat_map(move |pixel| (0..3).map(move |channel| (channel, planes[channel * 1024 + pixel])))
        })
        .map(|(channel, value)| (f32::from(value) / 255.0 - mean[channel]) / std[channel])
        .collect();
    let context = context();
    let samples: Vec<u32> = (0..records.len() as u32).collect();
    let batch = ImageBatch::new(context.tensor([records.len(), 32, 32, 3], pixels), &samples);
    let none = Trainable::none(&store);
    let mut forward = Forward::new(Environment::evaluation(&context, &store, &none));
    let logits = model.logits(&mut forward, &batch);
    let right = logits.tensor().values().chunks_exact(10).zip(&records).filter(|(logits, record)| {
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        logits[usize::from(record[0])] == greatest
    });
    let accuracy = right.count() as f64 / records.len() as f64;
    // The file's own account: about 81 % of these pictures, 92 % of undegraded ones.
    assert!((0.72..=0.95).contains(&accuracy), "accuracy {accuracy}");
}
