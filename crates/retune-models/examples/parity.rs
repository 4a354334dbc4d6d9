//! Logits and gradients of a full-size checkpoint on a given batch, for `fixtures/models/compare.py`:
//!
//! ```sh
//! cargo run --release -p retune-models --example parity -- --model DIR --batch batch.json --output out.safetensors
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use retune_autograd::Gradients;
use retune_checkpoint::{ModelConfig, NamedTensor, TensorData, Weights, save_safetensors};
use retune_kernels::{Cpu, Isa};
use retune_models::text::{HeadOverrides, TextClassifier, TextClassifierParts, TokenBatch};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::{Environment, Forward, ParameterBuilder, Trainable};
use retune_tensor::Context;
use serde::Deserialize;

#[derive(Deserialize)]
struct Batch {
    sequences: Vec<Sequence>,
    labels: Vec<u32>,
}

#[derive(Deserialize)]
struct Sequence {
    input_ids: Vec<u32>,
    token_type_ids: Option<Vec<u32>>,
}

fn argument(name: &str) -> Result<PathBuf, String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(PathBuf::from).ok_or_else(|| format!("{name} is missing"))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (directory, batch, output) = (argument("--model")?, argument("--batch")?, argument("--output")?);
    let batch: Batch = serde_json::from_str(&std::fs::read_to_string(batch)?)?;
    let config = ModelConfig::open(&directory.join("config.json"))?;
    let outputs = config.get("id2label").and_then(|names| names.as_object()).map_or(2, serde_json::Map::len);
    let mut builder = ParameterBuilder::default();
    let parts = TextClassifierParts { config: &config, outputs, head: HeadOverrides::default(), lora: None };
    let model = TextClassifier::declare(&parts, &mut builder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = Cpu::new(threads, Isa::detect())?;
    let context = Context::cpu(cpu.clone());
    let weights = Weights::open(&directory)?;
    let (store, _) = load_parameters(&context, builder, model.family(), &weights, &LoadOptions::default())?;

    let trainable = Trainable::new(&store, |_, _| true);
    let mut gradients = Gradients::new(trainable.slot_lengths(&store));
    let mut forward = Forward::new(Environment::evaluation(&context, &store, &trainable));
    let sequences: Vec<(Vec<u32>, Vec<u32>)> = batch
        .sequences
        .into_iter()
        .map(|Sequence { input_ids, token_type_ids }| {
            let types = token_type_ids.unwrap_or_else(|| vec![0; input_ids.len()]);
            (input_ids, types)
        })
        .collect();
    let samples: Vec<u32> = (0..sequences.len() as u32).collect();
    let views = sequences.iter().map(|(ids, types)| (ids.as_slice(), types.as_slice()));
    let logits = model.logits(&mut forward, &TokenBatch::pack(views, &samples));
    let rows = samples.len();
    let (mut losses, mut dlogits) = (vec![0.0; rows], vec![0.0; rows * outputs]);
    let row_weights = vec![1.0 / rows as f32; rows];
    let values = logits.tensor().values().to_vec();
    retune_kernels::cross_entropy(
        &cpu,
        outputs,
        &values,
        &batch.labels,
        &row_weights,
        0.0,
        &mut losses,
        Some(&mut dlogits),
    );
    let dlogits = context.tensor([rows, outputs], dlogits);
    forward.into_tape().backward(vec![(logits, dlogits)], &mut gradients);

    let logits_shape = [rows, outputs];
    let names: Vec<String> =
        trainable.ids().iter().map(|&id| format!("grad.{}", store.declaration(id).name)).collect();
    let mut tensors =
        vec![NamedTensor { name: "logits", shape: &logits_shape, data: TensorData::F32(&values) }];
    for (slot, (name, &id)) in names.iter().zip(trainable.ids()).enumerate() {
        let shape = &store.declaration(id).shape;
        tensors.push(NamedTensor { name, shape, data: TensorData::F32(gradients.slot(slot)) });
    }
    Ok(save_safetensors(&output, &tensors, &BTreeMap::new())?)
}
