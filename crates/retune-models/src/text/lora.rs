//! LoRA on a text model (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>), under PEFT's names.

use retune_nn::{Linear, ParameterBuilder};
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// Which linear layers are adapted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LoraTarget {
    /// `"all-linear"`: every linear layer of the backbone.
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
    pub(super) fn attach(
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
