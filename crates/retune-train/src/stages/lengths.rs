//! How long each stage is.

use crate::recipe::{Recipe, RecipeError};

/// A stage's greatest length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Length {
    pub(super) epochs: f64,
    pub(super) max_steps: Option<u64>,
}

/// `total` epochs in `count` stages: whole epochs where there are enough, what does not divide at the end.
pub(super) fn equal_epochs(total: f64, count: usize) -> Vec<f64> {
    let whole = total.floor();
    if whole < count as f64 {
        return vec![total / count as f64; count];
    }
    let each = (whole / count as f64).floor();
    let longer = (whole - each * count as f64) as usize;
    let mut epochs: Vec<f64> =
        (0..count).map(|stage| if stage + longer >= count { each + 1.0 } else { each }).collect();
    if let Some(last) = epochs.last_mut() {
        *last += total - whole;
    }
    epochs
}

/// Gives each stage its epochs, or its part of `max_steps` in proportion to them.
pub(super) fn divide(epochs: &[f64], max_steps: Option<u64>) -> Vec<Length> {
    let sum: f64 = epochs.iter().sum();
    let mut passed = 0.0;
    let mut given = 0;
    let length = |&epochs: &f64| {
        passed += epochs;
        let max_steps = max_steps.map(|total| {
            let until = ((total as f64 * passed / sum).round() as u64).clamp(given, total);
            let steps = until - given;
            given = until;
            steps
        });
        Length { epochs, max_steps }
    };
    epochs.iter().map(length).collect()
}

/// The lengths of the `[[stage]]` tables: their own, else equal parts of what those leave of `[train]`'s.
pub(super) fn of_explicit_stages(recipe: &Recipe) -> Result<Vec<Length>, RecipeError> {
    let train = &recipe.train;
    let open = |index: &usize| {
        let stage = &recipe.stage[*index];
        stage.num_train_epochs.is_none() && stage.max_steps.is_none()
    };
    let open_stages: Vec<usize> = (0..recipe.stage.len()).filter(open).collect();
    let open_epochs = vec![1.0; open_stages.len()];
    let exhausted = |total: String| {
        let path = format!("stage.{}", open_stages.first().copied().unwrap_or_default());
        let problem = format!(
            "needs num_train_epochs or max_steps: the other stages leave nothing of [train]'s {total}"
        );
        recipe.error(&path, problem)
    };
    let shares = match train.max_steps {
        Some(total) => {
            let taken = recipe.stage.iter().filter_map(|stage| stage.max_steps).fold(0, u64::saturating_add);
            let left = total.saturating_sub(taken);
            if left < open_stages.len() as u64 {
                return Err(exhausted(format!("max_steps = {total}")));
            }
            divide(&open_epochs, Some(left))
        }
        None => {
            let without_steps = recipe.stage.iter().filter(|stage| stage.max_steps.is_none());
            let taken: f64 = without_steps.filter_map(|stage| stage.num_train_epochs).sum();
            let left = train.num_train_epochs - taken;
            if left <= 0.0 && !open_stages.is_empty() {
                return Err(exhausted(format!("num_train_epochs = {}", train.num_train_epochs)));
            }
            let each = left / open_stages.len().max(1) as f64;
            vec![Length { epochs: each, max_steps: None }; open_stages.len()]
        }
    };
    let mut shares = shares.into_iter();
    let own = recipe.stage.iter().map(|stage| match (stage.num_train_epochs, stage.max_steps) {
        (None, None) => shares.next().unwrap_or(Length { epochs: train.num_train_epochs, max_steps: None }),
        (epochs, max_steps) => Length { epochs: epochs.unwrap_or(train.num_train_epochs), max_steps },
    });
    Ok(own.collect())
}
