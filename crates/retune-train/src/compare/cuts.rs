//! How far the frozen backbone already solves the task, cut by cut: features of a few hundred samples, scored.

use std::sync::Arc;

use retune_data::{BatchOrder, Target};
use retune_tasks::metrics::{Interval, wilson_interval};
use serde::Serialize;

use crate::TrainError;
use crate::features::{FeatureCache, Prefix, pooled_features};
use crate::prepare::Prepared;
use crate::trainee::{Cut, Split, Trainee};
use crate::transferability::{Labelled, h_score, linear_probe, log_evidence, nearest_neighbours};

/// Samples of a split that are scored, at most: the cost grows with their cube.
const SAMPLES: usize = 320;
/// Cuts that are scored, at most.
const CUTS: usize = 8;
/// Values of a sample's features up to which the cache keeps them.
const KEPT_VALUES: usize = 1 << 16;
/// Neighbours that vote.
const NEIGHBOURS: usize = 5;

/// What the features at one cut say about the task. A sample's features are the mean of its rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CutScore {
    /// The layer group above the cut.
    pub below: String,
    /// Layer groups of the backbone above the cut: the `last_n` that trains just them.
    pub last_n: usize,
    /// Accuracy of a linear classifier on the features, on validation samples.
    pub linear_probe: f64,
    /// Its 95% interval (Wilson).
    pub linear_probe_interval: Option<Interval>,
    /// Accuracy of the vote of the five nearest training samples, on validation samples.
    pub nearest_neighbours: f64,
    /// LogME of the training samples.
    pub log_evidence: f64,
    /// The regularized H-score of the training samples, from 0 to the number of classes less one.
    pub h_score: f64,
}

/// Scores the cuts of a backbone from its input to its head. Nothing where the task is not single-label classification or
/// the modality has no cuts.
///
/// # Errors
/// If a sample cannot be read.
pub(super) fn score_cuts(prepared: &Prepared, features: &FeatureCache) -> Result<Vec<CutScore>, TrainError> {
    let Some(model) = prepared.trainee.cut() else { return Ok(Vec::new()) };
    let Some(cpu) = prepared.context.kernels() else { return Ok(Vec::new()) };
    let class_count = prepared.task.outputs();
    let groups = prepared.store.groups();
    let whole = |cut: &usize| model.is_worth_keeping(Split::Train, false, *cut);
    let cuts: Vec<usize> = (0..groups.len()).filter(whole).collect();
    let mut scores = Vec::new();
    for cut in spread(&cuts) {
        let group = &groups[cut];
        let labelled = |split| labelled(prepared, features, model, (split, cut), class_count);
        let (Some(known), Some(asked)) = (labelled(Split::Train)?, labelled(Split::Validation)?) else {
            return Ok(Vec::new());
        };
        let share = |right: &[bool]| {
            let hits = right.iter().filter(|right| **right).count();
            (hits as f64 / right.len().max(1) as f64, wilson_interval(hits as u64, right.len() as u64))
        };
        let (probe, interval) = share(&linear_probe(cpu, &known, &asked));
        scores.push(CutScore {
            below: group.name.clone(),
            last_n: groups.len() - 1 - cut,
            linear_probe: probe,
            linear_probe_interval: interval,
            nearest_neighbours: share(&nearest_neighbours(&known, &asked, NEIGHBOURS)).0,
            log_evidence: log_evidence(&known),
            h_score: h_score(&known),
        });
    }
    Ok(scores)
}

/// The features of some samples of a split with their classes; `None` if a target is no class.
fn labelled(
    prepared: &Prepared,
    features: &FeatureCache,
    model: &dyn Cut,
    (split, cut): (Split, usize),
    class_count: usize,
) -> Result<Option<Labelled>, TrainError> {
    let Prepared { trainee, store, context, recipe, .. } = prepared;
    let order =
        BatchOrder::new(vec![1; trainee.samples(split)], SAMPLES, recipe.train.seed, false, true, false);
    let chosen = order.epoch(0).batch(0);
    let classes: Option<Vec<u32>> = chosen
        .iter()
        .map(|&sample| match trainee.target(split, sample) {
            Target::Class(class) => Some(*class),
            _ => None,
        })
        .collect();
    let Some(classes) = classes.filter(|classes| !classes.is_empty()) else { return Ok(None) };
    // Maps of pictures near the input are wide: reading them back is no faster than computing them.
    let is_small = chosen.iter().all(|&sample| model.feature_len(split, sample, cut) <= KEPT_VALUES);
    let prefix = if is_small { features.below(context, (store, false), trainee, cut) } else { None };
    let prefix = prefix.unwrap_or_else(|| Arc::new(Prefix::nowhere(cut)));
    let features = pooled_features(prepared, &prefix, model, (split, &chosen))?;
    Ok(Some(Labelled { features, width: model.feature_width(cut), classes, class_count }))
}

/// At most [`CUTS`] of them, spread evenly; the last, below the head, always.
fn spread(cuts: &[usize]) -> impl Iterator<Item = usize> + '_ {
    let chosen = cuts.len().min(CUTS);
    (1..=chosen).map(move |place| cuts[place * cuts.len() / chosen - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_cuts_some_are_scored_and_always_the_heads() {
        assert_eq!(spread(&[3, 5]).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(spread(&[]).count(), 0);
        let many: Vec<usize> = (0..20).collect();
        assert_eq!(spread(&many).collect::<Vec<_>>(), [1, 4, 6, 9, 11, 14, 16, 19]);
    }
}
