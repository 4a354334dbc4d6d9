//! What every registered image network promises, whatever its family.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use retune_autograd::Gradients;
use retune_kernels::{Cpu, Isa};
use retune_models::LoraConfig;
use retune_models::vision::{
    self, Architecture, ImageBatch, ImageClassifier, ImageClassifierParts, ImageConfig, Layout,
};
use retune_nn::{
    Declaration, Environment, Forward, ParameterBuilder, ParameterStore, Randomness, Role, Trainable,
};
use retune_tensor::Context;
use retune_testing::counter_normal_like;
use serde_json::Value;

const OUTPUTS: usize = 4;

fn declare(architecture: &'static Architecture, channels: usize) -> (ImageClassifier, ParameterBuilder) {
    let mut config = ImageConfig::new(architecture);
    config.set_size(step_size(architecture));
    let mut builder = ParameterBuilder::default();
    let parts = ImageClassifierParts {
        config: &config,
        outputs: OUTPUTS,
        channels,
        dropout: None,
        drop_path: Some(0.0),
    };
    (ImageClassifier::declare(&parts, &mut builder), builder)
}

fn batch(context: &Context, pictures: usize, size: usize, channels: usize) -> ImageBatch {
    let pixels = counter_normal_like("pixels", pictures * size * size * channels, 1.0);
    let samples: Vec<u32> = (0..pictures as u32).collect();
    ImageBatch::new(context.tensor([pictures, size, size, channels], pixels), &samples)
}

/// Everything trains.
fn environment<'s>(
    context: &Context,
    store: &'s ParameterStore,
    trainable: &'s Trainable,
) -> Environment<'s> {
    Environment {
        context: context.clone(),
        store,
        trainable,
        randomness: Some(Randomness { seed: 1, step: 0 }),
        gradient_checkpointing: false,
    }
}

/// Bytes and operations of a training step; on a context with numbers also which parameters got a gradient.
fn step(
    context: &Context,
    model: &ImageClassifier,
    store: &ParameterStore,
    batch: &ImageBatch,
) -> (u64, u64, Vec<bool>) {
    let trainable = Trainable::new(store, |_, _| true);
    let lengths = trainable.slot_lengths(store);
    let mut gradients =
        if context.kernels().is_some() { Gradients::new(lengths) } else { Gradients::meta(lengths) };
    let counted = context.operations();
    context.pool().reset_peak();
    let mut forward = Forward::new(environment(context, store, &trainable));
    let outputs = model.outputs(&mut forward, batch);
    let ends = [Some(outputs.logits), outputs.auxiliary].into_iter().flatten();
    let ends = ends
        .map(|end| {
            assert_eq!(end.tensor().shape().sizes(), [batch.rows.sequences(), OUTPUTS]);
            let elements = end.tensor().elements();
            let dy = context.tensor(end.tensor().shape(), counter_normal_like("dy", elements, 1.0));
            (end, dy)
        })
        .collect();
    let (tape, _updates) = forward.finish();
    tape.backward(ends, &mut gradients);
    let reached = (0..trainable.ids().len()).map(|slot| gradients.slot(slot).iter().any(|&g| g != 0.0));
    (context.pool().memory_use().peak, context.operations() - counted, reached.collect())
}

/// A small size at which a training step has statistics to normalize by, and an auxiliary head its pixels.
fn step_size(architecture: &Architecture) -> usize {
    let size = if architecture.name == "inception_v3" { 299 } else { architecture.smallest.max(33) };
    architecture.patch.map_or(size, |patch| size.next_multiple_of(patch))
}

#[test]
fn every_network_runs_without_numbers_and_its_frozen_prefix_records_nothing() {
    for (_, architecture) in vision::architectures() {
        let (model, builder) = declare(architecture, 3);
        let context = Context::meta();
        let store = builder.build_meta(&context);
        let size = step_size(architecture);
        let batch = batch(&context, 2, size, 3);
        let (peak, operations, _) = step(&context, &model, &store, &batch);
        assert!(peak > 0 && operations > 0, "{}", architecture.name);

        let groups = store.groups();
        let mut last = usize::MAX;
        // As more of the network is frozen, less is recorded; with all of it frozen, nothing.
        for first in [0, groups.len() / 2, groups.len() - 1, groups.len()] {
            let trainable = Trainable::new(&store, |_, declaration| declaration.group >= first);
            let mut forward = Forward::new(environment(&context, &store, &trainable));
            model.outputs(&mut forward, &batch);
            let recorded = forward.tape().len();
            assert!(recorded < last, "{}: {recorded} with groups from {first} on", architecture.name);
            last = recorded;
        }
        assert_eq!(last, 0, "{}", architecture.name);
    }
}

/// Samples that draw nothing; `trainable` says what trains.
fn pass<'s>(context: &Context, store: &'s ParameterStore, trainable: &'s Trainable) -> Forward<'s> {
    Forward::new(environment(context, store, trainable))
}

#[test]
fn below_a_cut_only_lower_groups_are_read_and_above_it_only_higher_ones() {
    for (_, architecture) in vision::architectures() {
        let name = architecture.name;
        let (model, builder) = declare(architecture, 3);
        let context = Context::meta();
        let store = builder.build_meta(&context);
        let size = step_size(architecture);
        let batch = batch(&context, 2, size, 3);
        let shapes = model.cut_shapes(&store, [size, size, 3]);
        let head = model.head_group();
        assert!(!model.can_cut(0) && model.can_cut(head) && shapes.len() == head + 1, "{name}");
        for cut in (1..=head).filter(|&cut| model.can_cut(cut)) {
            let above = Trainable::new(&store, |_, declaration| declaration.group >= cut);
            let mut forward = pass(&context, &store, &above);
            let x = model.below_cut(&mut forward, &batch, cut);
            assert!(!x.needs_gradient(), "{name}: below {cut} something of above is read");
            assert_eq!(Some(&x.tensor().shape().sizes()[1..]), shapes[cut].as_deref(), "{name}");
            let x = retune_autograd::Var::constant(x.tensor().clone());
            let logits = model.logits_above_cut(&mut forward, x.clone(), &batch.rows, cut);
            assert!(logits.needs_gradient(), "{name}: above {cut} nothing is read");
            // Groups between trunk and head start from the trunk's map, whichever of them trains.
            let lowest = if cut == head { cut } else { cut.min(model.network().trunk_groups()) };
            let below = Trainable::new(&store, |_, declaration| declaration.group < lowest);
            let logits = model.logits_above_cut(&mut pass(&context, &store, &below), x, &batch.rows, cut);
            assert!(!logits.needs_gradient(), "{name}: above {cut} something of below is read");
        }
    }
}

#[test]
fn logits_from_any_cut_are_those_from_the_bottom_to_the_bit() {
    for family in vision::FAMILIES {
        let elements = |architecture: &&'static Architecture| {
            declare(architecture, 3).1.declarations().iter().map(|d| d.elements()).sum::<usize>()
        };
        let Some(architecture) = family.architectures.iter().min_by_key(elements) else { continue };
        let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
        let (model, builder) = declare(architecture, 3);
        let store = builder.build(&context, 3, |_| Ok::<_, ()>(None)).unwrap();
        let size = architecture.smallest.max(33);
        let size = architecture.patch.map_or(size, |patch| size.next_multiple_of(patch));
        let batch = batch(&context, 2, size, 3);
        let head = model.head_group();
        let bits = |logits: &retune_autograd::Var| -> Vec<u32> {
            logits.tensor().values().iter().map(|value| value.to_bits()).collect()
        };
        // The frozen part of a step runs as in evaluation, what trains as in training.
        for cut in [1, head / 2, head - 1, head].into_iter().filter(|&cut| model.can_cut(cut)) {
            let trainable = Trainable::new(&store, |_, declaration| declaration.group >= cut);
            let whole = model.logits(&mut pass(&context, &store, &trainable), &batch);
            let mut forward = pass(&context, &store, &trainable);
            let x = model.below_cut(&mut forward, &batch, cut);
            let cut_logits = model.logits_above_cut(&mut forward, x, &batch.rows, cut);
            assert_eq!(bits(&whole), bits(&cut_logits), "{} at {cut}", architecture.name);
        }
    }
}

#[test]
fn every_network_has_its_groups_in_depth_order_and_its_head_last() {
    for (_, architecture) in vision::architectures() {
        let (model, builder) = declare(architecture, 3);
        let name = architecture.name;
        let group_of: Vec<usize> = builder.declarations().iter().map(|d| d.group).collect();
        assert!(group_of.is_sorted(), "{name}: declared out of order");
        let names: HashSet<&str> = builder.declarations().iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names.len(), builder.declarations().len(), "{name}: a name twice");
        assert!(names.contains(model.network().input_weight()), "{name}");
        let outputs = model.output_parameters();
        assert!(outputs.iter().all(|name| names.contains(name.as_str())), "{name}: {outputs:?}");
        let store = builder.build_meta(&Context::meta());
        let groups = store.groups();
        assert_eq!(groups.len(), model.head_group() + 1, "{name}");
        assert_eq!(groups.last().unwrap().name, "head", "{name}");
        assert!(groups.iter().all(|group| !group.parameters.is_empty()), "{name}");
    }
}

#[test]
fn a_gradient_reaches_every_parameter_of_the_smallest_member_of_each_family() {
    // Larger ones are held to the reference elsewhere, parameter by parameter.
    const LARGEST: usize = 12_000_000;
    for family in vision::FAMILIES {
        let elements = |architecture: &&'static Architecture| {
            declare(architecture, 3).1.declarations().iter().map(|d| d.elements()).sum::<usize>()
        };
        let smallest = family.architectures.iter().min_by_key(elements);
        let Some(architecture) = smallest.filter(|smallest| elements(smallest) < LARGEST) else { continue };
        let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
        let (model, builder) = declare(architecture, 3);
        let store = builder.build(&context, 3, |_| Ok::<_, ()>(None)).unwrap();
        let size = step_size(architecture);
        let (peak, operations, reached) = step(&context, &model, &store, &batch(&context, 2, size, 3));
        let trainable = Trainable::new(&store, |_, _| true);
        for (&id, reached) in trainable.ids().iter().zip(reached) {
            assert!(reached, "{}: no gradient of {}", architecture.name, store.declaration(id).name);
        }
        // What is planned without numbers is what the step with numbers costs.
        let meta = Context::meta();
        let (model, builder) = declare(architecture, 3);
        let store = builder.build_meta(&meta);
        let planned = step(&meta, &model, &store, &batch(&meta, 2, size, 3));
        assert_eq!((planned.0, planned.1), (peak, operations), "{}", architecture.name);
    }
}

#[test]
fn every_network_reads_pictures_of_one_and_of_five_channels() {
    for (_, architecture) in vision::architectures() {
        for channels in [1, 5] {
            let (model, builder) = declare(architecture, channels);
            let context = Context::meta();
            let store = builder.build_meta(&context);
            let none = Trainable::none(&store);
            let mut forward = Forward::new(Environment::evaluation(&context, &store, &none));
            let batch = batch(&context, 2, step_size(architecture), channels);
            let features = model.features(&mut forward, &batch);
            assert_eq!(features.tensor().shape().sizes(), [2, model.feature_dim()], "{}", architecture.name);
        }
    }
}

#[test]
fn every_layout_gives_back_what_it_was_made_from() {
    for (_, architecture) in vision::architectures() {
        let (model, builder) = declare(architecture, 3);
        // A number of its own for every tensor is enough to tell them apart.
        let mut number = 0.0;
        let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
        let declared: Vec<_> = builder.declarations().to_vec();
        if declared.iter().map(|d| d.elements()).sum::<usize>() > 30_000_000 {
            continue;
        }
        let store = builder
            .build(&context, 0, |declaration| {
                number += 1.0;
                Ok::<_, ()>(Some(vec![number; declaration.elements()]))
            })
            .unwrap();
        for layout in Layout::ALL {
            let Ok(stored) = model.stored(&store, layout) else { continue };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.safetensors");
            retune_checkpoint::save_safetensors(&path, &stored.tensors(), &Default::default()).unwrap();
            let weights = retune_checkpoint::Weights::open(&path).unwrap();
            let counters = weights.names().filter(|name| name.ends_with("num_batches_tracked"));
            for name in counters {
                assert_eq!(weights.info(name).unwrap().dtype, retune_checkpoint::Dtype::I64);
            }
            // Bare weights: their names tell whose they are.
            let (model, builder) = declare(architecture, 3);
            let config = ImageConfig::new(architecture);
            let (source, found) = model.source(&builder, &config, &weights).unwrap();
            let name = architecture.name;
            let (loaded, report) = retune_models::load_parameters(
                &context,
                builder,
                &model,
                source,
                &retune_models::LoadOptions::default(),
            )
            .unwrap_or_else(|error| panic!("{name} from {layout:?}, read as {found:?}: {error}"));
            assert_eq!(report.loaded.len(), declared.len(), "{name} from {layout:?}: {report}");
            for id in store.ids() {
                let expected = store.tensor(id).values();
                assert_eq!(loaded.tensor(id).values(), expected, "{}", store.declaration(id).name);
            }
        }
    }
}

/// Names with `*` for the numbers in them, with what they stand for.
fn patterns<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut patterns = BTreeMap::new();
    for name in names {
        let parts = name.split('.').map(|part| if part.parse::<u32>().is_ok() { "*" } else { part });
        *patterns.entry(parts.collect::<Vec<_>>().join(".")).or_default() += 1;
    }
    patterns
}

#[test]
fn adapters_have_the_names_that_peft_gives_those_of_each_library_and_no_others() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images/adapter_names.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut expected: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for case in golden.as_array().unwrap() {
        let library = case["library"].as_str().unwrap().split(' ').next().unwrap();
        expected.entry((library, case["architecture"].as_str().unwrap())).or_default().push(case);
    }
    for ((library, name), versions) in expected {
        let layout = match library {
            "torchvision" => Layout::Torchvision,
            "timm" => Layout::Timm,
            _ => Layout::HuggingFace,
        };
        let config = ImageConfig::new(vision::architecture(name).unwrap());
        let parts =
            ImageClassifierParts { config: &config, outputs: 3, channels: 3, dropout: None, drop_path: None };
        let lora = LoraConfig { r: 4, lora_alpha: 8.0, lora_dropout: 0.0, target_modules: None };
        let (model, builder) = ImageClassifier::declare_adapted(&parts, &lora).unwrap();
        let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
        let zeros = |declaration: &Declaration| Ok::<_, ()>(Some(vec![0.0; declaration.elements()]));
        let store = builder.build(&context, 0, zeros).unwrap();
        let adapter = model.adapter(&store, layout).unwrap();
        let tensors = adapter.tensors.tensors();
        let ours = patterns(tensors.iter().map(|tensor| tensor.name));
        let mut known = HashSet::new();
        for version in versions {
            let names: Vec<&str> =
                version["names"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let found: usize = names.iter().filter_map(|&name| ours.get(name)).sum();
            assert_eq!(found as u64, version["tensors"], "{name} of {}", version["library"]);
            known.extend(names);
        }
        let unknown: Vec<_> = ours.keys().filter(|&name| !known.contains(&**name)).collect();
        assert!(unknown.is_empty(), "{name} of {library}: {unknown:?}");
        let branches: HashSet<&str> = tensors
            .iter()
            .filter_map(|tensor| {
                tensor.name.strip_prefix("base_model.model.")?.strip_suffix(".lora_A.weight")
            })
            .collect();
        assert_eq!(branches, adapter.target_modules.iter().map(|module| &**module).collect());
    }
}

#[test]
fn torchvisions_transformer_reads_the_names_of_timm_and_of_hugging_face() {
    const TIMM: &[(&str, &str)] = &[
        ("cls_token", "class_token"),
        ("pos_embed", "encoder.pos_embedding"),
        ("patch_embed.proj.weight", "conv_proj.weight"),
        ("blocks.11.norm1.bias", "encoder.layers.encoder_layer_11.ln_1.bias"),
        ("blocks.11.attn.qkv.weight", "encoder.layers.encoder_layer_11.self_attention.in_proj_weight"),
        ("blocks.11.attn.qkv.bias", "encoder.layers.encoder_layer_11.self_attention.in_proj_bias"),
        ("blocks.11.attn.proj.weight", "encoder.layers.encoder_layer_11.self_attention.out_proj.weight"),
        ("blocks.11.norm2.weight", "encoder.layers.encoder_layer_11.ln_2.weight"),
        ("blocks.11.mlp.fc1.weight", "encoder.layers.encoder_layer_11.mlp.0.weight"),
        ("blocks.11.mlp.fc2.bias", "encoder.layers.encoder_layer_11.mlp.3.bias"),
        ("norm.weight", "encoder.ln.weight"),
        ("head.bias", "heads.head.bias"),
    ];
    // Query, key and value become one.
    const HUGGING_FACE: &[(&str, &str)] = &[
        ("embeddings.cls_token", "class_token"),
        ("embeddings.position_embeddings", "encoder.pos_embedding"),
        ("embeddings.patch_embeddings.projection.bias", "conv_proj.bias"),
        ("encoder.layer.3.layernorm_before.bias", "encoder.layers.encoder_layer_3.ln_1.bias"),
        (
            "encoder.layer.3.attention.attention.query.weight",
            "encoder.layers.encoder_layer_3.self_attention.in_proj_weight",
        ),
        (
            "encoder.layer.3.attention.attention.key.weight",
            "encoder.layers.encoder_layer_3.self_attention.in_proj_weight",
        ),
        (
            "encoder.layer.3.attention.attention.value.weight",
            "encoder.layers.encoder_layer_3.self_attention.in_proj_weight",
        ),
        (
            "encoder.layer.3.attention.output.dense.weight",
            "encoder.layers.encoder_layer_3.self_attention.out_proj.weight",
        ),
        ("encoder.layer.3.layernorm_after.weight", "encoder.layers.encoder_layer_3.ln_2.weight"),
        ("encoder.layer.3.intermediate.dense.weight", "encoder.layers.encoder_layer_3.mlp.0.weight"),
        ("encoder.layer.3.output.dense.weight", "encoder.layers.encoder_layer_3.mlp.3.weight"),
        ("layernorm.bias", "encoder.ln.bias"),
    ];
    let architecture = vision::architecture("vit_b_16").unwrap();
    let (model, builder) = declare(architecture, 3);
    let declared: HashSet<&str> = builder.declarations().iter().map(|d| d.name.as_str()).collect();
    let prefixed: Vec<(String, &str)> =
        HUGGING_FACE.iter().map(|(theirs, ours)| (format!("vit.{theirs}"), *ours)).collect();
    let prefixed: Vec<(&str, &str)> =
        prefixed.iter().map(|(theirs, ours)| (theirs.as_str(), *ours)).collect();
    for (layout, names) in
        [(Layout::Timm, TIMM), (Layout::HuggingFace, HUGGING_FACE), (Layout::HuggingFace, &prefixed)]
    {
        // Values of its own for each: what shares memory is one tensor in a file.
        let (shape, values) = ([1], vec![[0.5]; names.len()]);
        let tensors: Vec<retune_checkpoint::NamedTensor<'_>> = names
            .iter()
            .zip(&values)
            .map(|((name, _), values)| retune_checkpoint::NamedTensor {
                name,
                shape: &shape,
                data: retune_checkpoint::TensorData::F32(values),
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        retune_checkpoint::save_safetensors(&path, &tensors, &Default::default()).unwrap();
        let weights = retune_checkpoint::Weights::open(&path).unwrap();
        let config = ImageConfig { layout: Some(layout), ..ImageConfig::new(architecture) };
        let (source, _) = model.source(&builder, &config, &weights).unwrap();
        let found: HashSet<&str> = source.names().collect();
        let expected: HashSet<&str> = names.iter().map(|(_, ours)| *ours).collect();
        assert_eq!(found, expected, "{layout:?}");
        assert!(expected.is_subset(&declared));
    }
}

#[test]
fn a_recalibrated_network_computes_what_it_did_and_has_true_statistics() {
    let architecture = vision::architecture("resnet18").unwrap();
    let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
    let (model, builder) = declare(architecture, 3);
    // Initialized, its running statistics are mean 0 and variance 1: those of a folded checkpoint.
    let mut store = builder.build(&context, 3, |_| Ok::<_, ()>(None)).unwrap();
    let norms: HashSet<String> = store.uninformative_norms().into_iter().collect();
    let all = store.ids().filter(|&id| store.declaration(id).name.ends_with("running_mean")).count();
    assert_eq!(norms.len(), all);
    let batch = batch(&context, 4, 48, 3);
    let logits = |store: &ParameterStore| {
        let none = Trainable::none(store);
        let environment = Environment::evaluation(&context, store, &none);
        model.logits(&mut Forward::new(environment), &batch).tensor().values().to_vec()
    };
    let before = logits(&store);
    assert_eq!(model.recalibrate(&context, &mut store, &norms, [batch.clone()]), all);
    assert!(store.uninformative_norms().is_empty());
    let after = logits(&store);
    let largest = before.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
    for (before, after) in before.iter().zip(&after) {
        assert!((before - after).abs() < 1e-4 * largest, "{before} became {after}");
    }
    // In training mode on the same pictures the function is the same up to the bias of the variance.
    let trainable = Trainable::new(&store, |_, _| true);
    let mut forward = Forward::new(environment(&context, &store, &trainable));
    let training = model.logits(&mut forward, &batch).tensor().values().to_vec();
    for (before, training) in before.iter().zip(&training) {
        assert!((before - training).abs() < 0.2 * largest, "{before} is {training} in training");
    }
}

#[test]
fn a_frozen_norm_keeps_its_statistics_and_a_training_one_moves_them() {
    let architecture = vision::architecture("resnet18").unwrap();
    let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
    let (model, builder) = declare(architecture, 3);
    let mut store = builder.build(&context, 3, |_| Ok::<_, ()>(None)).unwrap();
    let before = store.clone();
    let first = 5;
    let trainable = Trainable::new(&store, |_, declaration| declaration.group >= first);
    let batch = batch(&context, 2, 33, 3);
    let mut forward = Forward::new(environment(&context, &store, &trainable));
    model.outputs(&mut forward, &batch);
    let (_, updates) = forward.finish();
    updates.apply(&mut store);
    for id in store.ids() {
        let declaration = store.declaration(id);
        let moved = store.tensor(id).values() != before.tensor(id).values();
        let trains = declaration.role != Role::Parameter && declaration.group >= first;
        assert_eq!(moved, trains, "{}", declaration.name);
    }
}

/// Where nothing but a mean stands between map and output layer, the weight of a channel is that of the output layer, and
/// Grad-CAM is the class activation map of Zhou et al. (2016).
#[test]
fn heat_maps_of_a_network_with_pooling_and_one_layer_are_class_activation_maps() {
    let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
    let (model, builder) = declare(vision::architecture("cifar_resnet20").unwrap(), 3);
    let store = builder.build(&context, 7, |_| Ok::<_, ()>(None)).unwrap();
    let batch = batch(&context, 2, 32, 3);
    let outputs = [2, 0];
    let maps = model.grad_cam(&context, &store, &batch, &outputs);
    let none = Trainable::none(&store);
    let evaluation = Environment::evaluation(&context, &store, &none);
    let map = model.feature_map(&mut Forward::new(evaluation), &batch).tensor().clone();
    let weight = store.tensor(store.find("linear.weight").unwrap()).clone();
    let channels = model.feature_dim();
    for (picture, (heat, output)) in maps.iter().zip(outputs).enumerate() {
        let weights = &weight.values()[output * channels..(output + 1) * channels];
        let places = &map.values()[picture * 64 * channels..(picture + 1) * 64 * channels];
        let sums: Vec<f32> = places
            .chunks(channels)
            .map(|place| {
                place.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f32>().max(0.0)
            })
            .collect();
        let greatest = sums.iter().copied().fold(0.0, f32::max);
        let heat = heat.as_ref().unwrap();
        assert_eq!((heat.height, heat.width), (8, 8));
        for (ours, sum) in heat.values.iter().zip(&sums) {
            assert!((ours - sum / greatest).abs() < 1e-4, "{ours} for {}", sum / greatest);
        }
    }
}
