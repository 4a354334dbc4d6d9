//! Every text family against the golden files that `fixtures/models/make_golden.py` made with `transformers`: logits,
//! loss, the gradient of every parameter, and the losses of 20 optimizer steps.

use std::path::{Path, PathBuf};

use retune_autograd::Gradients;
use retune_checkpoint::ModelConfig;
use retune_kernels::{Cpu, Isa};
use retune_models::text::{HeadOverrides, TextClassifier, TextClassifierParts, TokenBatch};
use retune_models::{LoraConfig, LoraTarget};
use retune_nn::{
    Environment, Forward, Optimizer, OptimizerConfig, OptimizerKind, ParameterBuilder, ParameterRates,
    ParameterStore, Trainable,
};
use retune_tensor::{Context, Precision, Tensor};
use retune_testing::counter_normal_like;
use serde_json::Value;

struct Golden {
    name: String,
    json: Value,
    context: Context,
    model: TextClassifier,
    store: ParameterStore,
    batch: TokenBatch,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().map(|list| list.iter().map(|v| v.as_f64().unwrap()).collect()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn counter_value(json: &Value, name: &str, shape: &[usize]) -> Vec<f32> {
    let elements = shape.iter().product();
    let scale = |key: &str| json["init"][key].as_f64().unwrap() as f32;
    if name.contains("lora_") {
        return counter_normal_like(name, elements, scale("lora_scale"));
    }
    if shape.len() > 1 {
        return counter_normal_like(name, elements, scale("matrix_scale"));
    }
    if name.ends_with("bias") {
        return counter_normal_like(name, elements, scale("bias_scale"));
    }
    counter_normal_like(name, elements, scale("norm_scale")).iter().map(|v| 1.0 + v).collect()
}

impl Golden {
    fn load(path: &Path) -> Self {
        let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let config = ModelConfig::from_object(path, json["config"].as_object().unwrap().clone());
        let lora = json.get("lora").map(|lora| {
            let adapter = &lora["adapter_config"];
            let names = adapter["target_modules"].as_array().unwrap();
            LoraConfig {
                r: adapter["r"].as_u64().unwrap() as usize,
                lora_alpha: adapter["lora_alpha"].as_f64().unwrap() as f32,
                lora_dropout: 0.0,
                target_modules: Some(LoraTarget::Names(
                    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
                )),
            }
        });
        let outputs = json["logits"][0].as_array().unwrap().len();
        let parts = TextClassifierParts { config: &config, outputs, head: HeadOverrides::default(), lora };
        let mut builder = ParameterBuilder::default();
        let model = TextClassifier::declare(&parts, &mut builder).unwrap();
        let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
        let store = builder
            .build(&context, 0, |d| Ok::<_, ()>(Some(counter_value(&json, &d.name, &d.shape))))
            .unwrap();
        let sequences: Vec<(Vec<u32>, Vec<u32>)> = json["sequences"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sequence| {
                let tokens = ids(&sequence["input_ids"]);
                let types = sequence.get("token_type_ids").map_or_else(|| vec![0; tokens.len()], ids);
                (tokens, types)
            })
            .collect();
        let samples: Vec<u32> = (0..sequences.len() as u32).collect();
        let batch = TokenBatch::pack(sequences.iter().map(|(t, y)| (t.as_slice(), y.as_slice())), &samples);
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        Self { name, json, context, model, store, batch }
    }

    fn all() -> Vec<Self> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(fixtures())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        assert!(paths.len() >= 8, "the golden files are missing");
        paths.iter().map(|path| Self::load(path)).collect()
    }

    /// What the golden file has gradients of.
    fn trainable(&self) -> Trainable {
        let golden = self.json["gradients"].as_object().unwrap();
        Trainable::new(&self.store, |_, declaration| golden.contains_key(&declaration.name))
    }

    /// Loss and logits; gradients are added.
    fn step(
        &self,
        store: &ParameterStore,
        trainable: &Trainable,
        gradients: &mut Gradients,
        gradient_checkpointing: bool,
    ) -> (f64, Tensor) {
        let environment = Environment {
            context: self.context.clone(),
            store,
            trainable,
            randomness: None,
            gradient_checkpointing,
        };
        let mut forward = Forward::new(environment);
        let logits = self.model.logits(&mut forward, &self.batch);
        let (loss, dlogits) = self.loss(logits.tensor());
        let values = logits.tensor().clone();
        forward.into_tape().backward(vec![(logits, dlogits)], gradients);
        (loss, values)
    }

    fn loss(&self, logits: &Tensor) -> (f64, Tensor) {
        let (rows, width) = (logits.rows(), logits.width());
        let cpu = self.context.kernels().unwrap();
        let weights = vec![1.0 / rows as f32; rows];
        let mut losses = vec![0.0; rows];
        let mut dlogits = vec![0.0; rows * width];
        let labels = &self.json["labels"];
        let values = logits.values();
        match &labels[0] {
            Value::Array(_) => {
                let targets: Vec<f32> =
                    labels.as_array().unwrap().iter().flat_map(floats).map(|v| v as f32).collect();
                let (losses, dlogits) = (&mut losses, Some(dlogits.as_mut_slice()));
                retune_kernels::bce_with_logits(
                    cpu, width, values, &targets, &weights, None, losses, dlogits,
                );
            }
            Value::Number(number) if number.is_f64() => {
                let targets: Vec<f32> = floats(labels).iter().map(|&v| v as f32).collect();
                let dlogits = Some(dlogits.as_mut_slice());
                retune_kernels::mse(cpu, width, values, &targets, &weights, &mut losses, dlogits);
            }
            _ => {
                let (targets, dlogits) = (ids(labels), Some(dlogits.as_mut_slice()));
                retune_kernels::cross_entropy(
                    cpu,
                    width,
                    values,
                    &targets,
                    &weights,
                    0.0,
                    &mut losses,
                    dlogits,
                );
            }
        }
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum();
        (loss, self.context.tensor([rows, width], dlogits))
    }
}

#[test]
fn logits_and_loss_equal_the_reference() {
    for golden in Golden::all() {
        let trainable = Trainable::none(&golden.store);
        let (loss, logits) = golden.step(&golden.store, &trainable, &mut Gradients::default(), false);
        let expected: Vec<f64> = golden.json["logits"].as_array().unwrap().iter().flat_map(floats).collect();
        for (ours, theirs) in logits.values().iter().zip(&expected) {
            assert!((f64::from(*ours) - theirs).abs() < 1e-5, "{}: {ours} against {theirs}", golden.name);
        }
        let expected = golden.json["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5, "{}: loss {loss} against {expected}", golden.name);
    }
}

#[test]
fn every_parameter_gradient_equals_the_reference() {
    for golden in Golden::all() {
        let trainable = golden.trainable();
        let expected = golden.json["gradients"].as_object().unwrap();
        assert_eq!(trainable.ids().len(), expected.len(), "{}: parameters differ", golden.name);
        let all = golden.json["gradient_norm"].as_f64().unwrap();
        for checkpointing in [false, true] {
            let mut gradients = Gradients::new(trainable.slot_lengths(&golden.store));
            golden.step(&golden.store, &trainable, &mut gradients, checkpointing);
            for (slot, &id) in trainable.ids().iter().enumerate() {
                let name = &golden.store.declaration(id).name;
                let gradient = gradients.slot(slot);
                let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                let expected_norm = expected[name]["norm"].as_f64().unwrap();
                let tolerance = 1e-3 * expected_norm + 1e-6 * all;
                assert!(
                    (norm - expected_norm).abs() <= tolerance,
                    "{} {name}: gradient norm {norm}, reference {expected_norm}",
                    golden.name
                );
                for (index, projection) in floats(&expected[name]["projections"]).iter().enumerate() {
                    let direction = counter_normal_like(&format!("{name}#proj{index}"), gradient.len(), 1.0);
                    let ours: f64 =
                        gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
                    assert!(
                        (ours - projection).abs() <= 2.0 * tolerance,
                        "{} {name}: projection {index} is {ours}, reference {projection}",
                        golden.name
                    );
                }
            }
        }
    }
}

impl Golden {
    /// The loss of each step of one of the golden file's curves.
    fn train(&self, curve: &str, steps: usize) -> Vec<f64> {
        let settings = &self.json["curves"][curve]["settings"];
        let setting = |key: &str, default: f64| settings[key].as_f64().unwrap_or(default);
        let kind = match curve.split('_').next().unwrap() {
            "adamw" => OptimizerKind::AdamW,
            "sgd" => OptimizerKind::Sgd,
            "rmsprop" => OptimizerKind::RmsProp,
            other => panic!("no optimizer {other}"),
        };
        let defaults = OptimizerConfig::new(kind);
        let mut optimizer = Optimizer::new(OptimizerConfig {
            momentum: setting("momentum", 0.0),
            alpha: setting("alpha", defaults.alpha),
            ..defaults
        });
        let trainable = self.trainable();
        let mut store = self.store.clone();
        optimizer.set_trainable(&store, &trainable);
        let mut gradients = Gradients::new(trainable.slot_lengths(&store));
        let decays: Vec<bool> = store.ids().map(|id| store.declaration(id).decays()).collect();
        let cpu = self.context.kernels().unwrap();
        let mut losses = Vec::new();
        for _ in 0..steps {
            gradients.clear();
            losses.push(self.step(&store, &trainable, &mut gradients, false).0);
            let norm = retune_kernels::sum_of_squares(cpu, gradients.values()).sqrt();
            let clip = (setting("max_grad_norm", f64::INFINITY) / (norm + 1e-6)).min(1.0) as f32;
            optimizer.step(cpu, &mut store, &trainable, &gradients, clip, |id| ParameterRates {
                learning_rate: setting("learning_rate", 0.0),
                weight_decay: if decays[id.index()] { setting("weight_decay", 0.0) } else { 0.0 },
            });
        }
        losses
    }
}

#[test]
fn twenty_optimizer_steps_follow_the_reference_losses() {
    for golden in Golden::all() {
        for (curve, expected) in golden.json["curves"].as_object().unwrap() {
            let expected = floats(&expected["losses"]);
            for (step, (loss, expected)) in
                golden.train(curve, expected.len()).iter().zip(&expected).enumerate()
            {
                assert!(
                    (loss - expected).abs() < 1e-3,
                    "{} {curve} step {step}: loss {loss}, reference {expected}",
                    golden.name
                );
            }
        }
    }
}

#[test]
fn losses_in_bf16_follow_the_reference_under_its_autocast() {
    let text = std::fs::read_to_string(fixtures().join("../bf16/curves.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    for (what, expected) in json["text"].as_object().unwrap() {
        let (name, curve) = what.split_once(' ').unwrap();
        let mut golden = Golden::load(&fixtures().join(format!("{name}.json")));
        golden.context = golden.context.with_precision(Precision::Bf16);
        // Two roundings of the same curve are apart by what each is off; ours may be off by what the reference's is, twice.
        let tolerance = 3.0 * expected["largest_difference"].as_f64().unwrap();
        let expected = floats(&expected["bf16"]);
        for (step, (loss, expected)) in golden.train(curve, expected.len()).iter().zip(&expected).enumerate()
        {
            let apart = (loss - expected).abs();
            assert!(apart <= tolerance, "{what} step {step}: loss {loss}, reference {expected}");
        }
    }
}

#[test]
fn every_registered_family_has_a_golden_file() {
    let goldens = Golden::all();
    for family in retune_models::text::FAMILIES {
        let model_type = family.model_type;
        assert!(
            goldens.iter().any(|golden| golden.json["config"]["model_type"] == model_type),
            "{model_type} has no golden file in fixtures/models: add a case to make_golden.py"
        );
    }
}
