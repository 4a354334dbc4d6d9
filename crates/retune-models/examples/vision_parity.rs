//! Logits, gradients, ten SGD steps and running statistics of an image checkpoint, for
//! `fixtures/vision/check_full_size.py`:
//!
//! ```sh
//! cargo run --release -p retune-models --example vision_parity -- --architecture resnet50 --weights weights.pth \
//!     --pixels pixels.safetensors --learning-rate 1e-3 --output out.safetensors
//! ```
//!
//! Without `--architecture`, `--weights` is a folder whose `config.json` says it. `--steps` takes fewer or more than ten.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use retune_autograd::{Gradients, Var};
use retune_checkpoint::{NamedTensor, TensorData, Weights, save_safetensors};
use retune_kernels::{Cpu, Isa};
use retune_models::vision::{self, ImageBatch, ImageClassifier, ImageClassifierParts, ImageConfig};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::{
    BufferUpdates, Environment, Forward, Optimizer, OptimizerConfig, OptimizerKind, ParameterBuilder,
    ParameterRates, ParameterStore, Randomness, Role, Trainable,
};
use retune_tensor::{Context, Tensor};

const STEPS: usize = 10;

fn argument(name: &str) -> Result<String, String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).ok_or_else(|| format!("{name} is missing"))
}

/// A model with its batch.
struct Subject {
    context: Context,
    cpu: Cpu,
    model: ImageClassifier,
    batch: ImageBatch,
    outputs: usize,
}

impl Subject {
    /// Cross-entropy of row `i` as class `i`, and its gradient, `weight` times.
    fn loss(&self, logits: &Var, weight: f32) -> (f64, Tensor) {
        let (rows, width) = (logits.tensor().rows(), self.outputs);
        let targets: Vec<u32> = (0..rows as u32).map(|row| row % width as u32).collect();
        let weights = vec![weight / rows as f32; rows];
        let (mut losses, mut dlogits) = (vec![0.0; rows], vec![0.0; rows * width]);
        let values = logits.tensor().values();
        let dlogits_slice = Some(dlogits.as_mut_slice());
        retune_kernels::cross_entropy(
            &self.cpu,
            width,
            values,
            &targets,
            &weights,
            0.0,
            &mut losses,
            dlogits_slice,
        );
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum();
        (loss, self.context.tensor([rows, width], dlogits))
    }

    fn environment<'s>(&self, store: &'s ParameterStore, trainable: &'s Trainable) -> Environment<'s> {
        Environment {
            context: self.context.clone(),
            store,
            trainable,
            randomness: Some(Randomness { seed: 0, step: 0 }),
            gradient_checkpointing: false,
        }
    }

    fn evaluate(&self, store: &ParameterStore) -> Vec<f32> {
        let none = Trainable::none(store);
        let environment = Environment::evaluation(&self.context, store, &none);
        self.model.logits(&mut Forward::new(environment), &self.batch).tensor().values().to_vec()
    }

    fn step(
        &self,
        store: &ParameterStore,
        trainable: &Trainable,
        gradients: &mut Gradients,
    ) -> (f64, Vec<f32>, BufferUpdates) {
        let mut forward = Forward::new(self.environment(store, trainable));
        let outputs = self.model.outputs(&mut forward, &self.batch);
        let values = outputs.logits.tensor().values().to_vec();
        let (mut loss, dlogits) = self.loss(&outputs.logits, 1.0);
        let mut ends = vec![(outputs.logits, dlogits)];
        if let Some(auxiliary) = outputs.auxiliary {
            let (more, dlogits) = self.loss(&auxiliary, vision::AUXILIARY_WEIGHT);
            loss += more;
            ends.push((auxiliary, dlogits));
        }
        let (tape, updates) = forward.finish();
        tape.backward(ends, gradients);
        (loss, values, updates)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (path, output) = (PathBuf::from(argument("--weights")?), argument("--output")?);
    let name = argument("--architecture").ok();
    let learning_rate: f64 = argument("--learning-rate")?.parse()?;
    let steps: usize = argument("--steps").map_or(Ok(STEPS), |steps| steps.parse())?;
    let pixels = Weights::open(Path::new(&argument("--pixels")?))?;
    let shape = pixels.info("pixels").ok_or("no tensor named pixels")?.shape.clone();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = Cpu::new(threads, Isa::detect())?;
    let context = Context::cpu(cpu.clone());
    let samples: Vec<u32> = (0..shape[0] as u32).collect();
    let batch = ImageBatch::new(context.tensor(shape.as_slice(), pixels.to_f32("pixels")?), &samples);

    let weights = Weights::open(&path)?;
    let mut config = match name {
        Some(name) => ImageConfig::new(vision::architecture(&name)?),
        None => ImageConfig::open(&path, None)?,
    };
    config.set_size(shape[1]);
    let declare = |outputs: usize| {
        let mut builder = ParameterBuilder::default();
        let parts = ImageClassifierParts {
            config: &config,
            outputs,
            channels: shape[3],
            dropout: Some(0.0),
            drop_path: Some(0.0),
        };
        (ImageClassifier::declare(&parts, &mut builder), builder)
    };
    let (first, builder) = declare(1);
    let (source, _) = first.source(&builder, &config, &weights)?;
    let outputs = first.checkpoint_outputs(&source).ok_or("the weights have no output layer")?;
    let (model, builder) = declare(outputs);
    let (mut store, _) = load_parameters(&context, builder, &model, source, &LoadOptions::default())?;
    let subject = Subject { context, cpu, model, batch, outputs };

    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let logits_shape = vec![samples.len(), outputs];
    tensors.insert("evaluation_logits".to_owned(), (logits_shape.clone(), subject.evaluate(&store)));
    let trainable = Trainable::new(&store, |_, _| true);
    let mut gradients = Gradients::new(trainable.slot_lengths(&store));
    let mut optimizer =
        Optimizer::new(OptimizerConfig { momentum: 0.9, ..OptimizerConfig::new(OptimizerKind::Sgd) });
    optimizer.set_trainable(&store, &trainable);
    let mut losses = Vec::new();
    for step in 0..steps {
        gradients.clear();
        let (loss, logits, updates) = subject.step(&store, &trainable, &mut gradients);
        losses.push(loss as f32);
        if step == 0 {
            tensors.insert("training_logits".to_owned(), (logits_shape.clone(), logits));
            tensors.insert("loss".to_owned(), (vec![1], vec![loss as f32]));
            for (slot, &id) in trainable.ids().iter().enumerate() {
                let declaration = store.declaration(id);
                let gradient = gradients.slot(slot).to_vec();
                tensors.insert(format!("grad.{}", declaration.name), (declaration.shape.clone(), gradient));
            }
        }
        let rates = ParameterRates { learning_rate, weight_decay: 0.0 };
        optimizer.step(&subject.cpu, &mut store, &trainable, &gradients, 1.0, |_| rates);
        updates.apply(&mut store);
    }
    tensors.insert("losses".to_owned(), (vec![steps], losses));
    tensors.insert("learning_rate".to_owned(), (vec![1], vec![learning_rate as f32]));
    for id in store.ids().filter(|&id| store.declaration(id).role == Role::Buffer) {
        let declaration = store.declaration(id);
        let values = store.tensor(id).values().to_vec();
        tensors.insert(format!("buffer.{}", declaration.name), (declaration.shape.clone(), values));
    }
    let tensors: Vec<NamedTensor<'_>> = tensors
        .iter()
        .map(|(name, (shape, values))| NamedTensor { name, shape, data: TensorData::F32(values) })
        .collect();
    Ok(save_safetensors(Path::new(&output), &tensors, &BTreeMap::new())?)
}
