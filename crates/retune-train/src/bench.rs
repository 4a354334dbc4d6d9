//! A training step on random input of a given shape, timed: what this machine needs for a model, beside any other engine.

use std::path::{Path, PathBuf};
use std::time::Instant;

use retune_autograd::{Gradients, Var};
use retune_checkpoint::{ModelConfig, Weights};
use retune_data::{LabelSet, Target};
use retune_kernels::{Activation, Cpu, Gemm, Isa, Layout, Precision, gemm};
use retune_models::text::{HeadOverrides, TextClassifier, TextClassifierParts, TokenBatch};
use retune_models::vision::{self, ImageBatch, ImageClassifier, ImageClassifierParts, ImageConfig};
use retune_models::{LoadOptions, load_parameters};
use retune_nn::{
    Environment, Forward, Optimizer, OptimizerConfig, OptimizerKind, ParameterBuilder, ParameterRates,
    ParameterStore, Randomness, Trainable, hash_name,
};
use retune_tasks::{ClassificationTask, ProblemType};
use retune_tensor::Context;
use serde::Serialize;

use crate::TrainError;
use crate::predict::configured_labels;
use crate::prepare::make_cpu;

/// What is timed.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// A folder with `config.json`, or of an image network also a weight file or the architecture's name; weights are read
    /// if there are any, else initialized.
    pub model: PathBuf,
    /// Samples in a batch.
    pub batch_size: usize,
    /// What the samples are.
    pub input: BenchInput,
    /// Optimizer steps.
    pub steps: usize,
    /// Worker threads; all cores if `None`.
    pub threads: Option<usize>,
    /// The kernels' instruction set.
    pub isa: Option<Isa>,
    /// What the operands of products are rounded to.
    pub precision: Precision,
    /// Whether blocks are computed again in backward.
    pub gradient_checkpointing: bool,
}

/// The random input of a benchmark.
#[derive(Clone, Debug)]
pub enum BenchInput {
    /// Sequences of these lengths, cut into batches in order; an incomplete last batch is left out. AdamW.
    Tokens(Vec<u32>),
    /// Square pictures. SGD with momentum.
    Images {
        /// Height and width.
        size: usize,
        /// The architecture of weights that have no `config.json`.
        architecture: Option<String>,
    },
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchResult {
    /// This engine.
    pub engine: String,
    /// The model's folder.
    pub model: String,
    /// Samples in a batch.
    pub batch_size: usize,
    /// The arithmetic.
    pub precision: &'static str,
    /// The kernels' instruction set.
    pub isa: String,
    /// Worker threads.
    pub threads: usize,
    /// Values that train.
    pub parameters: usize,
    /// Seconds from the call until the first step could begin, the model loaded.
    pub startup_seconds: f64,
    /// Mean cross-entropy of the first batch before training, dropout off.
    pub initial_eval_loss: f64,
    /// Loss of each step.
    pub losses: Vec<f64>,
    /// Seconds of each step.
    pub step_seconds: Vec<f64>,
    /// Their median, the first left out where there are others.
    pub median_step_seconds: f64,
    /// Samples per second at the median.
    pub samples_per_second: f64,
    /// Floating-point operations of matrix products in a step, the last one's.
    pub operations_per_step: u64,
    /// Operations per second over the rate of a 1024³ matrix product measured here.
    pub fraction_of_gemm_rate: f64,
    /// Greatest bytes of tensors alive at once in a step, parameters, gradients and optimizer state not counted.
    pub peak_activation_bytes: u64,
}

/// A number in [0, 1) of a named sequence; `fixtures/counter.py` gives the same.
fn counter_uniform(name: &str, index: u64) -> f64 {
    let mut z = hash_name(name).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f64 / f64::from(1 << 24)
}

/// A batch of random tokens, and the class of each row.
fn random_batch(lengths: &[u32], vocab_size: usize, labels: u32) -> (TokenBatch, Vec<Target>) {
    let tokens: u32 = lengths.iter().sum();
    let ids: Vec<u32> = (0..u64::from(tokens))
        .map(|index| (counter_uniform("bench.input_ids", index) * vocab_size as f64).floor() as u32)
        .collect();
    let types = vec![0; ids.len()];
    let mut start = 0;
    let sequences = lengths.iter().map(|&length| {
        let span = start..start + length as usize;
        start = span.end;
        (&ids[span.clone()], &types[span])
    });
    let samples: Vec<u32> = (0..lengths.len() as u32).collect();
    let batch = TokenBatch::pack(sequences, &samples);
    (batch, samples.iter().map(|row| Target::Class(row % labels)).collect())
}

/// A model with its input.
trait Subject {
    /// Logits of the batch of a step, with those of an auxiliary head that trains, the share of each one's loss, and the
    /// class of each row.
    fn logits<'s>(&'s self, forward: &mut Forward<'s>, step: usize) -> (Vec<(Var, f32)>, Vec<Target>);
}

struct TextSubject {
    model: TextClassifier,
    batches: Vec<(TokenBatch, Vec<Target>)>,
}

impl Subject for TextSubject {
    fn logits<'s>(&'s self, forward: &mut Forward<'s>, step: usize) -> (Vec<(Var, f32)>, Vec<Target>) {
        let (batch, targets) = &self.batches[step % self.batches.len()];
        (vec![(self.model.logits(forward, batch), 1.0)], targets.clone())
    }
}

struct ImageSubject {
    model: ImageClassifier,
    batch: ImageBatch,
    targets: Vec<Target>,
}

impl Subject for ImageSubject {
    fn logits<'s>(&'s self, forward: &mut Forward<'s>, _step: usize) -> (Vec<(Var, f32)>, Vec<Target>) {
        (self.model.outputs(forward, &self.batch).trained(), self.targets.clone())
    }
}

/// What is timed, its parameters, labels and optimizer.
struct Loaded {
    subject: Box<dyn Subject>,
    store: ParameterStore,
    labels: LabelSet,
    optimizer: OptimizerKind,
    rates: ParameterRates,
}

fn load_text(context: &Context, options: &BenchOptions, lengths: &[u32]) -> Result<Loaded, TrainError> {
    let config = ModelConfig::open(&options.model.join("config.json"))?;
    let labels = configured_labels(&config)?;
    let mut builder = ParameterBuilder::default();
    let parts = TextClassifierParts {
        config: &config,
        outputs: labels.len(),
        head: HeadOverrides::default(),
        lora: None,
    };
    let model = TextClassifier::declare(&parts, &mut builder)?;
    let store = if has_weights(&options.model) {
        let weights = Weights::open(&options.model)?;
        load_parameters(context, builder, model.family(), &weights, &LoadOptions::default())?.0
    } else {
        builder.build(context, 0, |_| Ok::<_, TrainError>(None))?
    };
    let sizes = model.sizes();
    let batches: Vec<&[u32]> = lengths.chunks_exact(options.batch_size.max(1)).collect();
    if batches.is_empty() {
        return Err(TrainError::Setting(format!(
            "{} lengths do not fill one batch of {}",
            lengths.len(),
            options.batch_size
        )));
    }
    if let Some(longest) = lengths.iter().max().filter(|&&longest| longest as usize > sizes.max_length()) {
        let most = sizes.max_length();
        return Err(TrainError::Setting(format!(
            "a length of {longest}, but this model takes at most {most} tokens"
        )));
    }
    let (vocab_size, classes) = (sizes.vocab_size, labels.len() as u32);
    let batches = batches.into_iter().map(|lengths| random_batch(lengths, vocab_size, classes)).collect();
    let subject = Box::new(TextSubject { model, batches });
    let rates = ParameterRates { learning_rate: 5e-5, weight_decay: 0.01 };
    Ok(Loaded { subject, store, labels, optimizer: OptimizerKind::AdamW, rates })
}

/// Classes of an image network without weights.
const IMAGE_CLASSES: usize = 1000;

fn load_images(
    context: &Context,
    options: &BenchOptions,
    size: usize,
    architecture: Option<&str>,
) -> Result<Loaded, TrainError> {
    let exists = options.model.exists();
    let name = options.model.to_string_lossy();
    let mut config = if exists {
        ImageConfig::open(&options.model, architecture)?
    } else {
        ImageConfig::new(vision::architecture(&name)?)
    };
    config.architecture.check_size(size)?;
    config.set_size(size);
    let weights = exists.then(|| Weights::open(&options.model)).transpose()?;
    let declare = |outputs: usize| {
        let mut builder = ParameterBuilder::default();
        let parts =
            ImageClassifierParts { config: &config, outputs, channels: 3, dropout: None, drop_path: None };
        (ImageClassifier::declare(&parts, &mut builder), builder)
    };
    let (mut model, mut builder) = declare(IMAGE_CLASSES);
    let store = match &weights {
        Some(weights) => {
            let (source, _) = model.source(&builder, &config, weights)?;
            if let Some(outputs) = model.checkpoint_outputs(&source) {
                (model, builder) = declare(outputs);
            }
            load_parameters(context, builder, &model, source, &LoadOptions::default())?.0
        }
        None => builder.build(context, 0, |_| Ok::<_, TrainError>(None))?,
    };
    let output = model.output_parameters().into_iter().find_map(|name| store.find(&name));
    let classes = output.map_or(IMAGE_CLASSES, |id| store.declaration(id).shape[0]);
    let samples: Vec<u32> = (0..options.batch_size as u32).collect();
    let pixels = (0..(options.batch_size * size * size * 3) as u64)
        .map(|index| (2.0 * counter_uniform("bench.pixels", index) - 1.0) as f32)
        .collect();
    let subject = Box::new(ImageSubject {
        model,
        batch: ImageBatch::new(context.tensor([options.batch_size, size, size, 3], pixels), &samples),
        targets: samples.iter().map(|row| Target::Class(row % classes as u32)).collect(),
    });
    let rates = ParameterRates { learning_rate: 1e-3, weight_decay: 1e-4 };
    let labels = LabelSet::of_outputs((0..classes).map(|class| format!("class {class}")))?;
    Ok(Loaded { subject, store, labels, optimizer: OptimizerKind::Sgd, rates })
}

/// Times training steps in which everything trains, dropout as configured.
///
/// # Errors
/// If the folder has no usable configuration or the lengths do not fill one batch.
pub fn bench(options: &BenchOptions) -> Result<BenchResult, TrainError> {
    let called = Instant::now();
    let cpu = make_cpu(options.threads, options.isa)?;
    let context = Context::cpu(cpu.clone()).with_precision(options.precision);
    let Loaded { subject, mut store, labels, optimizer, rates } = match &options.input {
        BenchInput::Tokens(lengths) => load_text(&context, options, lengths)?,
        BenchInput::Images { size, architecture } => {
            load_images(&context, options, *size, architecture.as_deref())?
        }
    };
    let task = ClassificationTask::new(ProblemType::SingleLabelClassification, labels);
    let none = Trainable::none(&store);
    let all = Trainable::new(&store, |_, _| true);
    let mut optimizer = Optimizer::new(OptimizerConfig::new(optimizer));
    optimizer.set_trainable(&store, &all);
    let mut gradients = Gradients::new(all.slot_lengths(&store));
    let startup_seconds = called.elapsed().as_secs_f64();
    let (mut initial_eval_loss, mut losses, mut step_seconds, mut operations) =
        (0.0, Vec::new(), Vec::new(), 0);
    for step in 0..=options.steps {
        // The first turn evaluates, the others train.
        let trains = step > 0;
        let started = Instant::now();
        let operations_before = context.operations();
        gradients.clear();
        let mut forward = Forward::new(Environment {
            context: context.clone(),
            store: &store,
            trainable: if trains { &all } else { &none },
            randomness: trains.then_some(Randomness { seed: 0, step: step as u64 }),
            gradient_checkpointing: options.gradient_checkpointing,
        });
        let (logits, targets) = subject.logits(&mut forward, step.saturating_sub(1));
        let targets: Vec<&Target> = targets.iter().collect();
        let mut total_loss = 0.0;
        let mut ends = Vec::with_capacity(logits.len());
        for (logits, share) in logits {
            let loss = task.loss(&context, logits.tensor(), &targets, targets.len() as f32 / share);
            total_loss += loss.loss;
            ends.push((logits, loss.dlogits));
        }
        if !trains {
            initial_eval_loss = total_loss;
            drop((forward, ends));
            context.pool().reset_peak();
            continue;
        }
        let (tape, updates) = forward.finish();
        tape.backward(ends, &mut gradients);
        optimizer.step(&cpu, &mut store, &all, &gradients, 1.0, |_| rates);
        updates.apply(&mut store);
        step_seconds.push(started.elapsed().as_secs_f64());
        losses.push(total_loss);
        operations = context.operations() - operations_before;
    }
    let median_step_seconds = median(&step_seconds[usize::from(step_seconds.len() > 1)..]);
    let parameters = store.elements();
    let resting = 4 * (parameters + store.buffer_elements()) as u64;
    Ok(BenchResult {
        engine: format!("Retune {}", env!("CARGO_PKG_VERSION")),
        model: options.model.display().to_string(),
        batch_size: options.batch_size,
        precision: match options.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        },
        isa: cpu.isa().to_string(),
        threads: cpu.threads(),
        parameters,
        startup_seconds,
        initial_eval_loss,
        losses,
        samples_per_second: options.batch_size as f64 / median_step_seconds,
        operations_per_step: operations,
        fraction_of_gemm_rate: operations as f64 / median_step_seconds / gemm_rate(&cpu, options.precision),
        peak_activation_bytes: context.pool().memory_use().peak.saturating_sub(resting),
        median_step_seconds,
        step_seconds,
    })
}

fn has_weights(directory: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
        .iter()
        .any(|name| directory.join(name).is_file())
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Floating-point operations per second of a 1024³ matrix product here in a precision, the best of a few tries.
pub fn gemm_rate(cpu: &Cpu, precision: Precision) -> f64 {
    const SIZE: usize = 1024;
    let (a, b) = (vec![0.5; SIZE * SIZE], vec![0.25; SIZE * SIZE]);
    let mut c = vec![0.0; SIZE * SIZE];
    let product = Gemm {
        layout: Layout::Nt,
        m: SIZE,
        n: SIZE,
        k: SIZE,
        precision,
        a: (&a).into(),
        b: (&b).into(),
        accumulate: false,
        scale: 1.0,
        bias: None,
        activation: Activation::Identity,
    };
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let started = Instant::now();
        gemm(cpu, &product, &mut c, None);
        best = best.min(started.elapsed().as_secs_f64());
    }
    2.0 * (SIZE as f64).powi(3) / best
}
