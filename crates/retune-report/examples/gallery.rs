//! Writes a synthetic run folder of every kind with its report, model card and event file, and a comparison, to look at:
//! `cargo run -p retune-report --example gallery -- /tmp/gallery`

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("give the folder to write into")?);
    for (name, write) in common::VARIANTS {
        let folder = root.join(name);
        write(&folder);
        retune_report::write_report(&folder)?;
        retune_report::write_model_card(&folder)?;
        retune_report::write_tensorboard(&folder, &folder.join("tensorboard"))?;
    }
    let folder = root.join("strategies");
    common::comparison(&folder);
    retune_report::write_comparison(&folder)?;
    Ok(())
}
