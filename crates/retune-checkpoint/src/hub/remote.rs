//! Fetching a model from the hub: list its files, choose those that are needed, download and verify each.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;

use super::cache::Slot;
use super::http::Client;
use super::{Origin, ResolveOptions, Resolved};
use crate::error::Bytes;
use crate::side_files::{ARTIFACT_FILES, POOLING_FILES};
use crate::{index, weights};

/// The part of the hub's answer about a model that matters here.
#[derive(Deserialize)]
struct ModelFacts {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Fetches a model into its slot. The reason for a failure is one line for the user.
pub(super) fn fetch(
    name: &str,
    options: &ResolveOptions,
    slot: &Slot,
    on_message: &mut dyn FnMut(&str),
) -> Result<Resolved, String> {
    let client = Client::new(
        &options.hub_endpoint,
        options.token.as_ref().map(|token| token.0.as_str()),
        options.connect_timeout,
    );
    let revision = options.revision.replace('/', "%2F");
    let answer =
        client.text(&format!("/api/models/{name}/revision/{revision}")).map_err(|failure| failure.reason)?;
    let facts: ModelFacts = serde_json::from_str(&answer)
        .map_err(|error| format!("its answer about the model cannot be read: {error}"))?;
    if facts.sha.is_empty() || !facts.sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("its answer names no commit".into());
    }
    let there: BTreeSet<&str> = facts.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    if !there.contains("config.json") {
        return Err("the model has no config.json there, so it is not in a layout this tool reads".into());
    }

    let partial = slot.partial(&facts.sha);
    let mut download = |file: &str| -> Result<(), String> {
        let target = partial.join(file);
        let path = format!("/{name}/resolve/{}/{file}", facts.sha);
        let file_facts = client.facts(&path).map_err(|failure| failure.reason)?;
        // Finished by an earlier attempt that broke off later.
        let there = target.metadata().map(|metadata| metadata.len()).ok();
        if there.is_some() && there == file_facts.size && file_facts.sha256.is_some() {
            let hash = crate::hash::hash_file(&target).map_err(|error| error.to_string())?;
            if Some(hash.sha256) == file_facts.sha256 {
                return Ok(());
            }
        }
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)
                .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        }
        if let Some(size) = file_facts.size.filter(|&size| size > 1_000_000) {
            on_message(&format!("{name}: fetching {file}, {}", Bytes(size)));
        }
        client.download(&path, &file_facts, &target, on_message).map_err(|failure| failure.reason)
    };

    // safetensors in any form before pickles in any form.
    let weights = weights::FOLDER_FILES.into_iter().find(|file| there.contains(file));
    let Some(weights_file) = weights else {
        return Err("the model has neither model.safetensors nor pytorch_model.bin there".into());
    };
    download("config.json")?;
    download(weights_file)?;
    if weights_file.ends_with(".index.json") {
        let map = index::read(&partial.join(weights_file)).map_err(|error| error.to_string())?;
        let shards: BTreeSet<&String> = map.values().collect();
        for shard in shards {
            download(shard)?;
        }
    }
    for file in ARTIFACT_FILES.into_iter().chain(POOLING_FILES).filter(|file| there.contains(file)) {
        download(file)?;
    }
    let origin = Origin::Hub { endpoint: options.hub_endpoint.clone(), commit: facts.sha.clone() };
    slot.publish(&partial, origin).map_err(|error| error.to_string())
}
