//! `cargo +nightly fuzz run recipe fuzz/corpus/recipe examples/support-tickets`
//! Any text as a recipe, its last line also as an override: a recipe that can be written and read back, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use retune_train::Recipe;

fuzz_target!(|text: &str| {
    let (text, last) = text.rsplit_once('\n').unwrap_or((text, ""));
    let overrides = if last.contains('=') { vec![last.to_owned()] } else { Vec::new() };
    if let Ok(recipe) = Recipe::parse(text, "recipe.toml", &overrides) {
        let written = recipe.to_toml().expect("a recipe that was read can be written");
        let again = Recipe::parse(&written, "recipe.lock.toml", &[]).expect("what was written can be read");
        assert_eq!(again.to_toml().ok(), Some(written));
    }
});
