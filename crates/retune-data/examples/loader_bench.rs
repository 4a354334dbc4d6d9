//! Pictures a second out of a folder, opened, cut, scaled, mirrored and normalized by worker threads while the caller waits:
//! `cargo run --release -p retune-data --example loader_bench -- FOLDER [--size 224] [--workers 2] [--epochs 2] [--plain]`
//! prints one JSON object. `bench/image_loader.py` puts it beside torchvision's.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use retune_data::image::{
    Augmentation, Crop, DEFAULT_MAX_PIXELS, Fit, ImageDataset, ImagePreprocessor, PictureOptions, ViewKey,
    open_pictures,
};
use retune_data::{DatasetOptions, Modality, ReadAhead, ReadOptions, RoleOverrides, infer_roles, read_table};

const BATCH: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut folder = None;
    let (mut size, mut workers, mut epochs, mut plain) = (224_usize, 2_usize, 2_u64, false);
    while let Some(argument) = arguments.next() {
        let mut number =
            || -> Result<u64, Box<dyn Error>> { Ok(arguments.next().ok_or("a number is missing")?.parse()?) };
        match argument.as_str() {
            "--size" => size = number()? as usize,
            "--workers" => workers = number()? as usize,
            "--epochs" => epochs = number()?,
            "--plain" => plain = true,
            _ => folder = Some(argument),
        }
    }
    let folder = folder.ok_or("name a folder of pictures")?;
    let mut table = read_table(folder.as_ref(), &ReadOptions::default())?;
    let overrides = RoleOverrides { modality: Modality::Image, ..RoleOverrides::default() };
    let roles = infer_roles(&table, &overrides)?;
    open_pictures(
        &mut table,
        &roles,
        &PictureOptions { threads: workers.max(1), ..PictureOptions::default() },
    )?;
    let dataset = ImageDataset::from_pictures(table, roles, &DatasetOptions::default())?;

    let preprocessor =
        ImagePreprocessor { size, fit: Fit::ShorterEdge(size * 256 / 224), ..ImagePreprocessor::default() };
    let augmentation =
        Augmentation { crop: Crop::RandomResized, horizontal_flip: 0.5, ..Augmentation::default() };
    let pictures: Vec<_> = dataset.examples.iter().map(|example| Arc::clone(&example.picture)).collect();
    let count = pictures.len();
    let to = preprocessor.clone();
    let ahead = ReadAhead::new(workers, move |&(index, step): &(usize, u64)| {
        let pixels = pictures[index].open(3, DEFAULT_MAX_PIXELS).ok()?;
        let key = ViewKey { seed: 1, step, occurrence: index as u32 };
        Some(if plain { to.fitted(&pixels) } else { augmentation.view(&pixels, &to, key) })
    })?;

    let requests: Vec<(usize, u64)> =
        (0..epochs).flat_map(|epoch| (0..count).map(move |index| (index, epoch))).collect();
    let batches: Vec<&[(usize, u64)]> = requests.chunks(BATCH).collect();
    let mut inputs = vec![0.0; BATCH * preprocessor.elements()];
    let mut sum = 0.0_f64;
    let started = Instant::now();
    for (index, batch) in batches.iter().enumerate() {
        let next = batches.get(index + 1).copied().unwrap_or_default();
        ahead.announce(&[batch, next].concat());
        let ready = ahead.take(batch);
        for (input, pixels) in inputs.chunks_exact_mut(preprocessor.elements()).zip(ready) {
            preprocessor.normalize(&pixels.ok_or("a picture could not be opened any more")?, input);
        }
        sum += f64::from(inputs[0]);
    }
    let seconds = started.elapsed().as_secs_f64();
    let pictures = requests.len();
    println!(
        "{{\"pictures\": {pictures}, \"seconds\": {seconds:.4}, \"pictures_per_second\": {:.2}, \"check\": {sum:.4}}}",
        pictures as f64 / seconds
    );
    Ok(())
}
