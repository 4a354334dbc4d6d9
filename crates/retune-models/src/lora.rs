//! LoRA (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>) under PEFT's names: which layers of a model are adapted.

use std::collections::HashSet;

use retune_nn::{AdaptableLayer, Linear, LowRankPlan, ParameterBuilder};
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// Which layers are adapted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LoraTarget {
    /// `"all-linear"`: every linear layer of a text backbone; of an image network those that are adapted by default.
    All(AllLinear),
    /// Layers whose module path ends in one of these names.
    Names(Vec<String>),
}

/// The one word that [`LoraTarget::All`] is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllLinear {
    /// Every linear layer.
    #[serde(rename = "all-linear")]
    AllLinear,
}

/// A LoRA configuration under PEFT's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The branch is scaled by `lora_alpha / r`.
    pub lora_alpha: f32,
    /// Dropout on the branch's input.
    pub lora_dropout: f32,
    /// Adapted layers; the family's usual ones if `None`.
    pub target_modules: Option<LoraTarget>,
}

impl LoraConfig {
    /// The layers' last names, as PEFT's `target_modules` lists them.
    pub fn target_names(&self, family_default: &[&str], linears: &[&Linear]) -> Vec<String> {
        match &self.target_modules {
            None => family_default.iter().map(|&name| name.to_owned()).collect(),
            Some(LoraTarget::Names(names)) => names.clone(),
            Some(LoraTarget::All(_)) => last_names(linears),
        }
    }

    /// Attaches the branches and declares their parameters.
    pub(crate) fn attach(
        &self,
        builder: &mut ParameterBuilder,
        linears: Vec<&mut Linear>,
        family_default: &[&str],
    ) -> Result<Vec<String>, ModelError> {
        let views: Vec<&Linear> = linears.iter().map(|linear| &**linear).collect();
        let targets = self.target_names(family_default, &views);
        for target in &targets {
            if !views.iter().any(|linear| matches(linear.name(), target)) {
                let known = last_names(&views).join(", ");
                return Err(ModelError::LoraTarget { target: target.clone(), known });
            }
        }
        let scale = self.lora_alpha / self.r as f32;
        for linear in linears {
            if targets.iter().any(|target| matches(linear.name(), target)) {
                let largest = linear.largest_rank();
                if self.r > largest {
                    let layer = linear.name().to_owned();
                    return Err(ModelError::LoraRank { rank: self.r, largest, layer });
                }
                linear.attach_low_rank(builder, self.r, scale, self.lora_dropout);
            }
        }
        Ok(targets)
    }
}

impl LoraConfig {
    /// Branches for those of an image network's layers that the configuration names; if it names none, for every linear
    /// layer and every convolution of at most 3×3 pixels that the rank is low for. `layers` leave out the head, and
    /// `input` is the layer that reads the pictures, whose few channels need no branch.
    ///
    /// # Errors
    /// If a name fits no layer, or the rank is not low for a layer that is named.
    pub(crate) fn plan(&self, layers: &[&AdaptableLayer], input: &str) -> Result<LowRankPlan, ModelError> {
        let names = |chosen: &mut dyn Iterator<Item = &&AdaptableLayer>| -> HashSet<String> {
            chosen.map(|layer| layer.name.clone()).collect()
        };
        let chosen = match &self.target_modules {
            Some(LoraTarget::Names(targets)) => {
                let fits = |layer: &AdaptableLayer, target: &String| matches(&layer.name, target);
                for target in targets {
                    if !layers.iter().any(|layer| fits(layer, target)) {
                        let known = layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>();
                        let (target, known) = (target.clone(), known.join(", "));
                        return Err(ModelError::LoraTarget { target, known });
                    }
                }
                let named = |layer: &&&AdaptableLayer| targets.iter().any(|target| fits(layer, target));
                let too_small = layers.iter().filter(named).find(|layer| self.r > layer.largest_rank());
                if let Some(layer) = too_small {
                    let (rank, largest, layer) = (self.r, layer.largest_rank(), layer.name.clone());
                    return Err(ModelError::LoraRank { rank, largest, layer });
                }
                names(&mut layers.iter().filter(named))
            }
            None | Some(LoraTarget::All(_)) => {
                let small = |[height, width]: [usize; 2]| height <= 3 && width <= 3;
                let usual = |layer: &&&AdaptableLayer| {
                    layer.name != input && layer.kernel.is_none_or(small) && self.r < layer.largest_rank()
                };
                names(&mut layers.iter().filter(usual))
            }
        };
        if chosen.is_empty() {
            let largest = layers.iter().max_by_key(|layer| layer.largest_rank());
            let (largest, layer) =
                largest.map_or((0, String::new()), |layer| (layer.largest_rank(), layer.name.clone()));
            return Err(ModelError::LoraRank { rank: self.r, largest, layer });
        }
        let scale = self.lora_alpha / self.r as f32;
        Ok(LowRankPlan { layers: chosen, rank: self.r, scale, dropout: self.lora_dropout })
    }
}

fn matches(path: &str, target: &str) -> bool {
    path == target || path.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// The shortest endings that tell the layers of one block apart, in the order of the block.
fn last_names(linears: &[&Linear]) -> Vec<String> {
    let ending = |path: &str, parts: usize| {
        let all: Vec<&str> = path.split('.').collect();
        all[all.len().saturating_sub(parts)..].join(".")
    };
    let behind_index =
        |path: &str| path.split('.').rev().take_while(|part| part.parse::<usize>().is_err()).count();
    let mut names: Vec<String> = Vec::new();
    for linear in linears {
        let last = ending(linear.name(), 1);
        let shared = linears.iter().any(|other| {
            let depth = behind_index(other.name());
            ending(other.name(), 1) == last
                && ending(other.name(), depth) != ending(linear.name(), behind_index(linear.name()))
        });
        let name = if shared { ending(linear.name(), behind_index(linear.name())) } else { last };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_matches_whole_path_parts_only() {
        assert!(matches("bert.encoder.layer.0.attention.self.query", "query"));
        assert!(matches("bert.encoder.layer.0.attention.self.query", "self.query"));
        assert!(!matches("bert.encoder.layer.0.attention.self.query", "uery"));
    }
}
