//! Name-and-layout maps: what they do, what they refuse, and that they can be undone.

use proptest::prelude::*;
use retune_checkpoint::{Rule, Sizes, Tensor, Tensors, Transform};

fn tensors(entries: &[(&str, &[usize])]) -> Tensors {
    let make = |(index, (name, shape)): (usize, &(&str, &[usize]))| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|value| (index * 1000 + value) as f32).collect();
        ((*name).to_owned(), Tensor { shape: shape.to_vec(), values })
    };
    entries.iter().enumerate().map(make).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn split_qkv() -> Rule {
    let parts = strings(&["layer.*.query", "layer.*.key", "layer.*.value"]);
    Rule::Split { whole: "layer.*.qkv".into(), axis: 0, parts, sizes: Sizes::Equal }
}

#[test]
fn a_fused_weight_splits_along_its_axis_and_joins_again() {
    let source = tensors(&[("layer.0.qkv", &[6, 2]), ("layer.1.qkv", &[3, 1]), ("norm", &[2])]);
    let transform = Transform::new(vec![split_qkv()]);
    let (model, done) = transform.apply(source.clone()).unwrap();
    assert_eq!(model["layer.0.key"], Tensor { shape: vec![2, 2], values: vec![4.0, 5.0, 6.0, 7.0] });
    assert_eq!(model.len(), 7);
    assert_eq!((done.len(), done[0].how.as_str()), (2, "split"));
    assert_eq!(transform.invert(model).unwrap().0, source);
}

#[test]
fn a_transpose_swaps_rows_and_columns_and_a_permutation_follows_its_order() {
    let rules = vec![
        Rule::Transpose { name: "dense.*".into() },
        Rule::Permute { name: "conv".into(), order: vec![2, 0, 1] },
    ];
    let source = tensors(&[("dense.weight", &[2, 3]), ("conv", &[1, 2, 3])]);
    let (model, _) = Transform::new(rules.clone()).apply(source.clone()).unwrap();
    assert_eq!(model["dense.weight"].values, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    // Channels last: [1, 2, 3] becomes [3, 1, 2], element (k, 0, j) from (0, j, k).
    assert_eq!(model["conv"].shape, [3, 1, 2]);
    assert_eq!(model["conv"].values, [1000.0, 1003.0, 1001.0, 1004.0, 1002.0, 1005.0]);
    assert_eq!(Transform::new(rules).invert(model).unwrap().0, source);
}

#[test]
fn rules_that_cannot_be_undone_or_do_not_fit_are_refused_by_name() {
    let refusal =
        |rule: Rule, source: Tensors| Transform::new(vec![rule]).apply(source).unwrap_err().to_string();
    let message = refusal(Rule::strip_prefix("bert."), tensors(&[("bert.a", &[1]), ("head", &[1])]));
    assert_eq!(
        message,
        "rule `rename bert.** -> **`: could not be undone because of tensor `head`; narrow the rule's names"
    );
    let message = refusal(Rule::rename("a", "b"), tensors(&[("a", &[1]), ("b", &[1])]));
    assert!(message.contains("tensor `b`"), "{message}");
    let message = refusal(Rule::rename("a.*", "b"), tensors(&[("a.x", &[1])]));
    assert!(message.contains("different wildcards"), "{message}");
    let message = refusal(split_qkv(), tensors(&[("layer.0.qkv", &[4, 2])]));
    assert!(message.contains("`layer.0.qkv` has 4 along axis 0, not 3 equal parts"), "{message}");
    let message =
        refusal(split_qkv().inverse(), tensors(&[("layer.0.query", &[1]), ("layer.0.value", &[1])]));
    assert!(message.contains("`layer.0.key` is missing"), "{message}");
    let message = refusal(Rule::Transpose { name: "a".into() }, tensors(&[("a", &[1, 2, 3])]));
    assert!(message.contains("shape [1, 2, 3], not 2 axes"), "{message}");
    let message = refusal(Rule::Permute { name: "a".into(), order: vec![0, 0] }, tensors(&[("a", &[1, 2])]));
    assert!(message.contains("not an order"), "{message}");
    let exact = Rule::Split {
        whole: "a".into(),
        axis: 1,
        parts: strings(&["b", "c"]),
        sizes: Sizes::Exact(vec![1, 3]),
    };
    assert!(refusal(exact, tensors(&[("a", &[2, 3])])).contains("sizes [1, 3]"));
}

/// Names that the rules below partly match.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "(module\\.)?layer\\.[0-3]\\.(qkv|query|key|value|dense)",
        "(module\\.|bert\\.)?(embeddings|head|norm)\\.(weight|bias)",
        "[ab]{1,2}(\\.[ab]{1,2}){0,2}",
    ]
}

fn tensor() -> impl Strategy<Value = Tensor> {
    prop::collection::vec(0usize..5, 0..4).prop_flat_map(|shape| {
        let count: usize = shape.iter().product();
        prop::collection::vec(-1e3f32..1e3, count)
            .prop_map(move |values| Tensor { shape: shape.clone(), values })
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let join = |axis| Rule::Join {
        parts: strings(&["layer.*.query", "layer.*.key", "layer.*.value"]),
        sizes: Sizes::Equal,
        axis,
        whole: "layer.*.qkv".into(),
    };
    let exact = Rule::Split {
        whole: "**.dense".into(),
        axis: 1,
        parts: strings(&["**.left", "**.right"]),
        sizes: Sizes::Exact(vec![1, 2]),
    };
    prop_oneof![
        Just(Rule::add_prefix("bert.")),
        Just(Rule::strip_prefix("module.")),
        Just(Rule::replace_prefix("layer.", "encoder.layer.")),
        Just(Rule::replace_prefix("a", "b.a")),
        Just(Rule::rename("**.*", "x**.*")),
        Just(Rule::rename("*.*", "*.y.*")),
        Just(Rule::rename("a.**.b", "**.c")),
        Just(split_qkv()),
        (0usize..3).prop_map(join),
        Just(exact),
        Just(Rule::Transpose { name: "**".into() }),
        Just(Rule::Transpose { name: "layer.*.dense".into() }),
        Just(Rule::Permute { name: "**".into(), order: vec![2, 0, 1] }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_apply_accepts_invert_gives_back_exactly(
        source in prop::collection::btree_map(name(), tensor(), 0..8),
        rules in prop::collection::vec(rule(), 0..4),
    ) {
        let transform = Transform::new(rules);
        if let Ok((model, _)) = transform.apply(source.clone()) {
            let restored = transform.invert(model).map(|(tensors, _)| tensors).map_err(|error| error.to_string());
            prop_assert_eq!(restored, Ok(source));
        }
    }
}
