//! Image families against the golden files that `fixtures/vision/make_golden.py` made with torchvision: logits in
//! evaluation and in training, the gradient of every parameter, the losses of ten steps and the running statistics after
//! them.

use std::path::{Path, PathBuf};

use retune_autograd::Gradients;
use retune_kernels::{Cpu, Isa};
use retune_models::LoraConfig;
use retune_models::vision::{self, ImageBatch, ImageClassifier, ImageClassifierParts, ImageConfig};
use retune_nn::{
    BufferUpdates, Declaration, Environment, Forward, Optimizer, OptimizerConfig, OptimizerKind,
    ParameterBuilder, ParameterRates, ParameterStore, Randomness, Role, Trainable,
};
use retune_tensor::{Context, Precision, Tensor};
use retune_testing::counter_normal_like;
use serde_json::Value;

struct Golden {
    name: String,
    json: Value,
    context: Context,
    model: ImageClassifier,
    store: ParameterStore,
    batch: ImageBatch,
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn flat(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().flat_map(floats).collect()
}

/// The value that `fixtures/vision/networks.py` gives a parameter or buffer.
fn counter_value(json: &Value, declaration: &Declaration) -> Vec<f32> {
    let Declaration { name, shape, role, .. } = declaration;
    let elements = declaration.elements();
    let scale = |key: &str| json["init"][key].as_f64().unwrap() as f32;
    let around_one =
        |key: &str| counter_normal_like(name, elements, scale(key)).iter().map(|v| 1.0 + v).collect();
    if *role == Role::Counter {
        return vec![0.0];
    }
    if name.contains(".lora_") {
        return counter_normal_like(name, elements, scale("lora_scale"));
    }
    if name.ends_with("layer_scale") {
        return counter_normal_like(name, elements, 0.5);
    }
    if shape.len() > 1 {
        let bound = (6.0 / (elements / shape[0]) as f64).sqrt() as f32;
        let gain = json["init"]["gain"].as_f64().unwrap_or(1.0) as f32;
        return counter_normal_like(name, elements, bound).iter().map(|value| value * gain).collect();
    }
    match name.rsplit('.').next() {
        Some("running_mean") => counter_normal_like(name, elements, scale("running_mean_scale")),
        Some("running_var") => around_one("running_var_scale"),
        Some("bias") => counter_normal_like(name, elements, scale("bias_scale")),
        _ => around_one("norm_scale"),
    }
}

fn lora_config(json: &Value) -> LoraConfig {
    let number = |key: &str| json[key].as_f64().unwrap() as f32;
    let target_modules = serde_json::from_value(json["target_modules"].clone()).unwrap();
    LoraConfig {
        r: number("r") as usize,
        lora_alpha: number("lora_alpha"),
        lora_dropout: number("lora_dropout"),
        target_modules: Some(target_modules),
    }
}

/// One pass in training mode.
struct Step {
    loss: f64,
    logits: Tensor,
    updates: BufferUpdates,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision")
}

impl Golden {
    fn load(name: &str) -> Self {
        let path = folder().join(format!("{name}.json"));
        let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let number = |key: &str| json[key].as_u64().unwrap() as usize;
        let mut config =
            ImageConfig::new(vision::architecture(json["architecture"].as_str().unwrap()).unwrap());
        let (batch, size, outputs) = (number("batch"), number("size"), number("classes"));
        config.set_size(size);
        let parts = ImageClassifierParts {
            config: &config,
            outputs,
            channels: 3,
            dropout: Some(0.0),
            drop_path: Some(0.0),
        };
        let (model, builder) = match json.get("lora") {
            Some(lora) => ImageClassifier::declare_adapted(&parts, &lora_config(lora)).unwrap(),
            None => {
                let mut builder = ParameterBuilder::default();
                (ImageClassifier::declare(&parts, &mut builder), builder)
            }
        };
        let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
        let store = builder.build(&context, 0, |d| Ok::<_, ()>(Some(counter_value(&json, d)))).unwrap();
        let pixels = counter_normal_like("pixels", batch * size * size * 3, 1.0);
        let samples: Vec<u32> = (0..batch as u32).collect();
        let batch = ImageBatch::new(context.tensor([batch, size, size, 3], pixels), &samples);
        Self { name: name.to_owned(), json, context, model, store, batch }
    }

    fn environment<'s>(
        &self,
        store: &'s ParameterStore,
        trainable: &'s Trainable,
        gradient_checkpointing: bool,
    ) -> Environment<'s> {
        let randomness = Some(Randomness { seed: 0, step: 0 });
        Environment { context: self.context.clone(), store, trainable, randomness, gradient_checkpointing }
    }

    fn evaluate(&self, store: &ParameterStore) -> Tensor {
        let none = Trainable::none(store);
        let environment = Environment::evaluation(&self.context, store, &none);
        self.model.logits(&mut Forward::new(environment), &self.batch).tensor().clone()
    }

    /// Mean cross-entropy of row `i` as class `i`, and its gradient times `weight`.
    fn loss(&self, logits: &Tensor, weight: f32) -> (f64, Tensor) {
        let (rows, width) = (logits.rows(), logits.width());
        let targets: Vec<u32> = (0..rows as u32).map(|row| row % width as u32).collect();
        let weights = vec![weight / rows as f32; rows];
        let (mut losses, mut dlogits) = (vec![0.0; rows], vec![0.0; rows * width]);
        retune_kernels::cross_entropy(
            self.context.kernels().unwrap(),
            width,
            logits.values(),
            &targets,
            &weights,
            0.0,
            &mut losses,
            Some(&mut dlogits),
        );
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum();
        (loss, self.context.tensor([rows, width], dlogits))
    }

    fn step(
        &self,
        store: &ParameterStore,
        trainable: &Trainable,
        gradients: &mut Gradients,
        gradient_checkpointing: bool,
    ) -> Step {
        let mut forward = Forward::new(self.environment(store, trainable, gradient_checkpointing));
        let outputs = self.model.outputs(&mut forward, &self.batch);
        let logits = outputs.logits.tensor().clone();
        let (mut loss, dlogits) = self.loss(&logits, 1.0);
        let mut ends = vec![(outputs.logits, dlogits)];
        if let Some(auxiliary) = outputs.auxiliary {
            let (more, dlogits) = self.loss(auxiliary.tensor(), vision::AUXILIARY_WEIGHT);
            loss += more;
            ends.push((auxiliary, dlogits));
        }
        let (tape, updates) = forward.finish();
        tape.backward(ends, gradients);
        Step { loss, logits, updates }
    }
}

#[track_caller]
fn assert_near(what: &str, ours: &[f32], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        let apart = (f64::from(*ours) - theirs).abs();
        assert!(apart <= tolerance * largest, "{what}: {ours} against {theirs}");
    }
}

/// L2 norm, and dot products with the counter vectors of a name.
fn record(name: &str, values: &[f32], projections: usize) -> Vec<f64> {
    let norm = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let projection = |index: usize| -> f64 {
        let direction = counter_normal_like(&format!("{name}#proj{index}"), values.len(), 1.0);
        values.iter().zip(&direction).map(|(&v, &d)| f64::from(v) * f64::from(d)).sum()
    };
    [norm].into_iter().chain((0..projections).map(projection)).collect()
}

/// What the golden file has gradients of: an auxiliary head that is not computed has none.
fn trainable(golden: &Golden) -> Trainable {
    let expected = golden.json["gradients"].as_object().unwrap();
    let trainable = Trainable::new(&golden.store, |_, declaration| expected.contains_key(&declaration.name));
    assert_eq!(trainable.ids().len(), expected.len(), "{}: parameters differ", golden.name);
    trainable
}

/// Logits in evaluation.
fn check_evaluation(golden: &Golden) {
    let evaluated = golden.evaluate(&golden.store);
    assert_near(&golden.name, evaluated.values(), &flat(&golden.json["evaluation_logits"]), 1e-4);
}

/// Logits in training, and gradients that are at most three times as far off as the reference's own in float32: as that
/// parameter's, and relatively as that of all together, since rounding decides where a value is at the corner of an
/// activation.
fn check_gradients(golden: &Golden) {
    let trainable = trainable(golden);
    let mut gradients = Gradients::new(trainable.slot_lengths(&golden.store));
    let step = golden.step(&golden.store, &trainable, &mut gradients, false);
    // Statistics of four small images magnify rounding, in some networks far enough that the reference's own float32
    // drifts: what it does to its losses is allowed here. In evaluation the logits are held to 1e-4.
    let tolerance = golden.json["float32_difference"]["losses"].as_f64().unwrap().max(1e-4);
    assert_near(&golden.name, step.logits.values(), &flat(&golden.json["training_logits"]), tolerance);
    let loss = golden.json["loss"].as_f64().unwrap();
    assert!((step.loss - loss).abs() < tolerance, "{}: loss {} against {loss}", golden.name, step.loss);

    let all = golden.json["gradient_norm"].as_f64().unwrap();
    // The last number of a record is how far the reference's own float32 is off.
    let float32_errors = golden.json["gradients"].as_object().unwrap().values();
    let float32_error =
        float32_errors.map(|record| floats(record).last().unwrap().powi(2)).sum::<f64>().sqrt();
    for (slot, &id) in trainable.ids().iter().enumerate() {
        let name = &golden.store.declaration(id).name;
        let theirs = floats(&golden.json["gradients"][name]);
        let (own_error, theirs) = theirs.split_last().unwrap();
        let tolerance = 3.0 * (own_error + float32_error / all * theirs[0]) + 1e-5 * theirs[0] + 1e-6 * all;
        for (ours, theirs) in record(name, gradients.slot(slot), theirs.len() - 1).iter().zip(theirs) {
            let apart = (ours - theirs).abs();
            assert!(apart <= tolerance, "{} {name}: {ours} against {theirs}", golden.name);
        }
    }
}

/// The loss of each of so many steps, and what they leave.
fn train(golden: &Golden, steps: usize) -> (Vec<f64>, ParameterStore) {
    let setting = |key: &str| golden.json["sgd"][key].as_f64().unwrap();
    let defaults = OptimizerConfig::new(OptimizerKind::Sgd);
    let mut optimizer = Optimizer::new(OptimizerConfig { momentum: setting("momentum"), ..defaults });
    let trainable = trainable(golden);
    let mut store = golden.store.clone();
    optimizer.set_trainable(&store, &trainable);
    let mut gradients = Gradients::new(trainable.slot_lengths(&store));
    let decays: Vec<bool> = store.ids().map(|id| store.declaration(id).decays()).collect();
    let cpu = golden.context.kernels().unwrap();
    let mut losses = Vec::new();
    for _ in 0..steps {
        gradients.clear();
        let done = golden.step(&store, &trainable, &mut gradients, false);
        losses.push(done.loss);
        optimizer.step(cpu, &mut store, &trainable, &gradients, 1.0, |id| ParameterRates {
            learning_rate: setting("learning_rate"),
            weight_decay: if decays[id.index()] { setting("weight_decay") } else { 0.0 },
        });
        done.updates.apply(&mut store);
    }
    (losses, store)
}

/// Losses of ten or twenty steps, and running statistics after them.
fn check_training(golden: &Golden) {
    let expected = floats(&golden.json["losses"]);
    let (losses, store) = train(golden, expected.len());
    for (step, (loss, expected)) in losses.iter().zip(&expected).enumerate() {
        let name = &golden.name;
        assert!((loss - expected).abs() < 1e-3, "{name} step {step}: loss {loss} against {expected}");
    }
    for (name, theirs) in golden.json["buffers"].as_object().unwrap() {
        let theirs = floats(theirs);
        let values = store.tensor(store.find(name).unwrap()).values();
        for (ours, expected) in record(name, values, theirs.len() - 1).iter().zip(&theirs) {
            let apart = (ours - expected).abs();
            assert!(apart <= 1e-3 * theirs[0], "{} {name}: {ours} against {expected}", golden.name);
        }
        let counter = name.rsplit_once('.').unwrap().0;
        let counter = store.find(&format!("{counter}.num_batches_tracked")).unwrap();
        assert_eq!(store.tensor(counter).values(), [losses.len() as f32]);
    }
}

/// Networks with a golden file, a test each so that they run beside one another.
macro_rules! parity {
    ($($name:ident),*) => {
        mod equals_the_reference_in_evaluation_gradients_and_steps {
            $(#[test]
            fn $name() {
                let golden = super::Golden::load(stringify!($name));
                super::check_evaluation(&golden);
                super::check_gradients(&golden);
                super::check_training(&golden);
            })*
        }
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

parity!(
    resnet18,
    resnet50,
    cifar_resnet20,
    mobilenet_v2,
    mobilenet_v3_small,
    efficientnet_b0,
    efficientnet_v2_s,
    densenet121,
    squeezenet1_1,
    inception_v3,
    vit_tiny_patch16_224,
    deit_tiny_distilled_patch16_224,
    swin_t,
    resnet18_lora
);

#[test]
fn losses_in_bf16_follow_the_reference_under_its_autocast() {
    let text = std::fs::read_to_string(folder().join("../bf16/curves.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    for (name, expected) in json["images"].as_object().unwrap() {
        let mut golden = Golden::load(name);
        golden.context = golden.context.with_precision(Precision::Bf16);
        // Two roundings of the same curve are apart by what each is off; the reference, which rounds more than we do, is
        // off by this much.
        let tolerance = 3.0 * expected["largest_difference"].as_f64().unwrap();
        let expected = floats(&expected["bf16"]);
        for (step, (loss, expected)) in train(&golden, expected.len()).0.iter().zip(&expected).enumerate() {
            let apart = (loss - expected).abs();
            assert!(apart <= tolerance, "{name} step {step}: loss {loss} against {expected}");
        }
    }
}

#[test]
fn a_network_with_merged_adapters_answers_as_with_them() {
    let golden = Golden::load("resnet18_lora");
    let mut store = golden.store.clone();
    assert_eq!(golden.model.adapted_layers().len(), 11);
    for layer in golden.model.adapted_layers() {
        layer.low_rank.merge(golden.context.kernels().unwrap(), &mut store, layer.weight);
        assert!(store.tensor(layer.low_rank.b).values().iter().all(|&value| value == 0.0));
    }
    let merged = golden.evaluate(&store);
    assert_near("merged", merged.values(), &flat(&golden.json["evaluation_logits"]), 1e-4);
}

#[test]
fn transformers_are_explained_by_the_patches_that_their_last_attention_reads() {
    for name in ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"] {
        let golden = Golden::load(name);
        let classes = golden.json["classes"].as_u64().unwrap() as usize;
        let outputs: Vec<usize> = (0..golden.batch.rows.sequences()).map(|row| row % classes).collect();
        let maps = golden.model.grad_cam(&golden.context, &golden.store, &golden.batch, &outputs);
        let theirs = golden.json["heat_maps"].as_array().unwrap();
        assert!(theirs.iter().any(|map| !map.is_null()) && maps.len() == theirs.len());
        for (ours, theirs) in maps.iter().zip(theirs) {
            let Some(ours) = ours else { panic!("{name}: nothing for {theirs}") };
            assert_eq!([ours.height, ours.width], [theirs.as_array().unwrap().len().isqrt(); 2]);
            assert_near(name, &ours.values, &floats(theirs), 1e-4);
        }
    }
}

#[test]
fn every_family_has_a_golden_file_that_is_tested() {
    for family in vision::FAMILIES {
        // Of these even the smallest is large; fixtures/vision/check_full_size.py holds them to the reference.
        let known = ["vgg", "convnext"].contains(&family.name)
            || family.architectures.iter().any(|architecture| NAMES.contains(&architecture.name));
        assert!(known, "{} has no golden file: add a case to make_golden.py", family.name);
    }
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let golden = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    assert_eq!(golden.count(), NAMES.len(), "a golden file that no test reads");
}

#[test]
fn checkpointed_blocks_give_the_same_bits_and_count_their_statistics_once() {
    for name in ["resnet18", "mobilenet_v2", "vit_tiny_patch16_224"] {
        let golden = Golden::load(name);
        let trainable = trainable(&golden);
        let run = |gradient_checkpointing| {
            let mut gradients = Gradients::new(trainable.slot_lengths(&golden.store));
            let step = golden.step(&golden.store, &trainable, &mut gradients, gradient_checkpointing);
            let mut store = golden.store.clone();
            step.updates.apply(&mut store);
            let values = store.ids().flat_map(|id| store.tensor(id).values().to_vec());
            (gradients.values().to_vec(), values.collect::<Vec<f32>>())
        };
        assert!(run(false) == run(true), "{name}");
    }
}
