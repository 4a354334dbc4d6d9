//! What must not change the result: threads, gradient checkpointing (to the bit), the cut into micro-batches (to
//! rounding).

use crate::workspace::Workspace;

const STAGED: &[&str] = &["strategy.method=gradual", "num_train_epochs=4", "group_by_length=true"];

/// Trains once with each of two overrides and checks that the artifacts are equal byte for byte.
#[track_caller]
fn assert_same_bits(overrides: &[&str], first: &str, second: &str) {
    let workspace = Workspace::new();
    workspace.fit("first", &[overrides, &[first]].concat());
    workspace.fit("second", &[overrides, &[second]].concat());
    for file in ["model.safetensors", "predictions/test.jsonl"] {
        let bytes = |folder: &str| workspace.bytes(&format!("{folder}/{file}"));
        assert!(bytes("first") == bytes("second"), "{file} differs between {first} and {second}");
    }
}

#[test]
fn one_thread_and_two_give_the_same_bits() {
    assert_same_bits(STAGED, "threads=1", "threads=2");
    assert_same_bits(&["strategy.method=lora"], "threads=1", "threads=2");
}

#[test]
fn gradient_checkpointing_gives_the_same_bits() {
    assert_same_bits(STAGED, "gradient_checkpointing=false", "gradient_checkpointing=true");
    assert_same_bits(
        &["strategy.method=lora"],
        "gradient_checkpointing=false",
        "gradient_checkpointing=true",
    );
}

#[test]
fn the_evaluation_batch_does_not_change_the_result() {
    assert_same_bits(&[], "per_device_eval_batch_size=1", "per_device_eval_batch_size=32");
}

#[test]
fn two_runs_of_one_recipe_are_the_same_and_another_seed_is_not() {
    assert_same_bits(&[], "seed=7", "seed=7");
    let workspace = Workspace::new();
    workspace.fit("first", &["seed=7"]);
    workspace.fit("second", &["seed=8"]);
    assert!(workspace.bytes("first/model.safetensors") != workspace.bytes("second/model.safetensors"));
}

#[test]
fn two_micro_batches_of_four_are_a_batch_of_eight() {
    let workspace = Workspace::without_dropout();
    // SGD's update is linear in the gradient; Adam's divides by it and would magnify rounding where it is near zero.
    let overrides =
        ["optimizer.name=sgd", "learning_rate=0.05", "max_steps=12", "load_best_model_at_end=false"];
    for (folder, batch, accumulation) in [("whole", 8, 1), ("halves", 4, 2)] {
        let batch = format!("per_device_train_batch_size={batch}");
        let accumulation = format!("gradient_accumulation_steps={accumulation}");
        workspace.fit(folder, &[&overrides[..], &[&batch, &accumulation]].concat());
    }
    let halves = workspace.tensors("halves/model.safetensors");
    for (name, whole) in workspace.tensors("whole/model.safetensors") {
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let pairs = || whole.iter().zip(&halves[&name]).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let difference = norm(&mut pairs().map(|(a, b)| a - b));
        let size = norm(&mut pairs().map(|(a, _)| a));
        assert!(difference <= 1e-5 * size, "{name}: off by {difference:e} of {size}");
    }
}
