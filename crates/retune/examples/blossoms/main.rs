//! Pretraining and fine-tuning on pictures that this program draws itself, with nothing downloaded:
//! `cargo run --release -p retune --example blossoms`
//!
//! A CIFAR ResNet-20 learns to tell 24 kinds of blossoms, then 6 others from a dozen pictures of each, and the same 6 from
//! random weights. The recipes are in `examples/blossoms`; pictures and runs go to `runs/blossoms`, or to a folder that is
//! named.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "an example prints")]

mod draw;

use std::error::Error;
use std::path::{Path, PathBuf};

use draw::{Kind, Random, draw};
use retune::checkpoint::hub::ResolveOptions;
use retune::data::image::thumbnail;
use retune::train::{Event, FitOptions, PrepareOptions, Recipe, RunSummary, StopFlag, fit};

/// The small task: kinds that were not seen before.
const NEW: [usize; 6] = [1, 14, 23, 35, 44, 58];
/// Pictures of a kind.
const LARGE: [(&str, usize); 2] = [("train", 200), ("val", 10)];
const SMALL: [(&str, usize); 3] = [("train", 12), ("val", 8), ("test", 40)];
const SEEDS: [u64; 3] = [1, 2, 3];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("runs/blossoms"), PathBuf::from);
    let kinds: Vec<Kind> = Kind::all().collect();
    let new = NEW.map(|number| kinds[number]);
    let others = kinds.iter().copied().filter(|kind| !new.contains(kind));
    // Two of five: every number of petals, every outline and every marking is among them.
    let learned: Vec<Kind> =
        others.enumerate().filter(|(number, _)| number % 5 < 2).map(|(_, kind)| kind).collect();
    println!("drawing {} + {} kinds of blossoms into {}", learned.len(), new.len(), folder.display());
    draw_all(&folder.join("large"), &learned, &LARGE)?;
    draw_all(&folder.join("small"), &new, &SMALL)?;

    let data = |name: &str| format!("data.train={:?}", folder.join(name));
    let output = |name: &str| format!("output_dir={:?}", folder.join(name));
    let pretrained = run("pretrain.toml", &[data("large"), output("pretrained")])?;
    println!("pretrained: {} on kinds it has learned", percent(&pretrained, "eval_accuracy"));

    let mut table = Vec::new();
    for (name, recipe) in [("fine-tuned", "fine-tune"), ("from random weights", "scratch")] {
        let mut accuracies = Vec::new();
        for seed in SEEDS {
            let mut overrides =
                vec![data("small"), output(&format!("{recipe}-{seed}")), format!("train.seed={seed}")];
            if recipe == "fine-tune" {
                overrides.push(format!("name_or_path={:?}", folder.join("pretrained")));
            }
            let summary = run(&format!("{recipe}.toml"), &overrides)?;
            println!("{name}, seed {seed}: {}", percent(&summary, "test_accuracy"));
            accuracies.extend(summary.metrics.get("test_accuracy").and_then(|value| value.as_f64()));
        }
        let mean = accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64;
        table.push(format!("{name:20} {:5.1}%  (mean of {} seeds)", 100.0 * mean, accuracies.len()));
    }
    println!("\ntest accuracy on {} pictures of {} new kinds:", SMALL[2].1 * NEW.len(), NEW.len());
    table.iter().for_each(|line| println!("{line}"));
    println!("report: {}", folder.join("fine-tune-1/report.html").display());
    Ok(())
}

/// Draws a folder for each kind in a folder for each split.
fn draw_all(folder: &Path, kinds: &[Kind], splits: &[(&str, usize)]) -> Result<(), Box<dyn Error>> {
    for &(split, each) in splits {
        for kind in kinds {
            let folder = folder.join(split).join(kind.name());
            std::fs::create_dir_all(&folder)?;
            for number in 0..each {
                let mut random = Random::new(&format!("{split}/{}", kind.name()), number);
                let picture = draw(*kind, &mut random);
                let bytes = thumbnail(&picture, draw::SIDE).ok_or("a picture could not be written")?;
                std::fs::write(folder.join(format!("{number:03}.jpg")), bytes)?;
            }
        }
    }
    Ok(())
}

/// Fits a recipe of `examples/blossoms`.
fn run(recipe: &str, overrides: &[String]) -> Result<RunSummary, Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/blossoms").join(recipe);
    let recipe = Recipe::load(&path, overrides)?;
    let resolve = ResolveOptions::from_environment(|name| std::env::var(name).ok());
    let options = FitOptions { prepare: PrepareOptions::new(resolve), stop: StopFlag::default(), loss: None };
    let mut tell = |event: &Event| {
        if let Event::EvalEnded { epoch, metrics, .. } = event
            && let Some(accuracy) = metrics.get("accuracy").and_then(|value| value.as_f64())
        {
            println!("  epoch {epoch:.0}: validation accuracy {:.1}%", 100.0 * accuracy);
        }
    };
    Ok(fit(&recipe, &options, vec![&mut tell])?)
}

fn percent(summary: &RunSummary, metric: &str) -> String {
    let value = summary.metrics.get(metric).and_then(|value| value.as_f64());
    value.map_or_else(|| "unknown".to_owned(), |value| format!("{:.1}%", 100.0 * value))
}
