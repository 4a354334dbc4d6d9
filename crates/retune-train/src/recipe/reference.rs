//! `docs/recipe.md`, made from the table of keys.

use std::fmt::Write;

use super::keys::{self, Kind};

const INTRODUCTION: &str = "\
# Recipe reference

This page is generated from the types: `RETUNE_WRITE_DOCS=1 cargo test -p retune-train recipe_reference`.

A recipe is a TOML file. The smallest names a model and a training file; everything else has a default:

```toml
[model]
name_or_path = \"sentence-transformers/all-MiniLM-L6-v2\"

[data]
train = \"train.csv\"
```

On the command line, `key=value` after the recipe sets a key, by its last name where that is unique
(`learning_rate=3e-5`) or by its path (`schedule.name=cosine`, `strategy.group_learning_rates.head=1e-3`,
`stage.0.learning_rate=1e-4` for the first stage). Later ones win. A value is read as TOML if it is TOML, else as a
string without quotes. Unknown keys are errors.

Data files and a model's folder are looked for beside the recipe first, then in the working directory; `output_dir`
is relative to the working directory.

## Methods

A model's layer groups in depth order are its embeddings, its blocks, and its head; `retune inspect` lists them.

| `method` | what trains |
|---|---|
| `head` | the head alone, on the backbone's fixed features |
| `last_n` | the head and the `last_n` groups of the backbone next to it |
| `gradual` | first the head, then more groups from the top at each stage, everything in the last. With `gradual_epochs`, a new stage at each of those epochs; else as many stages as whole epochs, at least two, at most one per group, with the groups spread evenly over them |
| `full` | everything from the first step |
| `lora` | low-rank adapters in the backbone, and the head |
| `stages` | what the `[[stage]]` tables say, one after the other |
| `fine_tune` | fastai's: the head for `freeze_epochs` at `base_lr`, then everything for `num_train_epochs`, from half of `base_lr` at the head down to a hundredth of that at the input |
| `auto` | what a comparison on validation data chooses before the first step ([choosing a strategy](choosing-a-strategy.md)) |

A schedule spans the greatest length of its stage. A stage that stops improving (`gradual_patience`,
`early_stopping_patience`) gives way to the next, which starts its own schedule.
";

/// The recipe reference as Markdown.
pub fn render_reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (section, about) in keys::SECTIONS {
        // Writing to a string does not fail.
        let _ = write!(
            page,
            "\n## `{}`\n\n{about}\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
            keys::header(section)
        );
        for key in keys::KEYS.iter().filter(|key| key.section == *section) {
            let value = match key.kind {
                Kind::Choice(words, _) => {
                    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
                }
                kind => kind.describe().replace('"', "`"),
            };
            let default = if is_toml(key.default) {
                format!("`{}`", key.default)
            } else {
                key.default.replace('"', "`")
            };
            let _ =
                writeln!(page, "| `{}` | {value} | {default} | {} |", key.name, key.doc.replace('|', "\\|"));
        }
    }
    page
}

/// Whether a default is one TOML value rather than words.
pub(super) fn is_toml(default: &str) -> bool {
    toml::from_str::<toml::Table>(&format!("value = {default}")).is_ok()
}
