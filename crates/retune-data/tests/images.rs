//! Pictures as people keep them: folders, lists and data files, whole and broken. Resizing against Pillow.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use retune_data::image::{
    Fit, ImageDataset, ImagePreprocessor, Interpolation, Middle, PictureOptions, Pixels, Region,
    check_pictures, open_pictures, resize, split_folders,
};
use retune_data::{
    DataError, DatasetOptions, Finding, Modality, OnBadRow, ReadOptions, RoleOverrides, Roles, Severity,
    SplitOptions, Table, TargetKind, hold_out, infer_modality, infer_roles, read_table,
};
use serde::Deserialize;

fn drawn(seed: u32, width: u32, height: u32) -> DynamicImage {
    let wave = |x: u32, y: u32, frequency: f32| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        (127.0 + 120.0 * (frequency * (u * (seed % 7) as f32 + v * 5.0) + seed as f32).sin()) as u8
    };
    let pixel = |x, y| Rgb([wave(x, y, 2.0), wave(x, y, 3.5), wave(y, x, 5.0)]);
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, pixel))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn draw(folder: &Path, name: &str, seed: u32) -> PathBuf {
    let format = ImageFormat::from_path(name).unwrap();
    write(folder, name, &encoded(&drawn(seed, 40, 30), format))
}

fn roles(table: &Table) -> Roles {
    let overrides = RoleOverrides { modality: Modality::Image, ..RoleOverrides::default() };
    infer_roles(table, &overrides).unwrap()
}

fn opened(path: &Path, on_bad_row: OnBadRow) -> Result<(Table, Roles), DataError> {
    let mut table = read_table(path, &ReadOptions::default())?;
    let roles = roles(&table);
    let options = PictureOptions { on_bad_row, threads: 2, ..PictureOptions::default() };
    open_pictures(&mut table, &roles, &options)?;
    Ok((table, roles))
}

fn dataset(path: &Path) -> ImageDataset {
    let (table, roles) = opened(path, OnBadRow::Refuse).unwrap();
    ImageDataset::from_pictures(table, roles, &DatasetOptions::default()).unwrap()
}

fn codes(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn class_folders_are_the_labels_and_hidden_folders_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (index, name) in
        ["bees/b.png", "bees/deeper/a.JPG", "ants/z.bmp", "ants/y.webp", "ants/x.tiff", "ants/w.gif"]
            .iter()
            .enumerate()
    {
        draw(root, name, index as u32);
    }
    draw(root, ".ipynb_checkpoints/c.png", 9);
    draw(root, "bees/.hidden.png", 9);
    write(root, "bees/Thumbs.db", b"x");
    write(root, "ants/notes.txt", b"look at these");
    let dataset = dataset(root);
    assert_eq!(dataset.labels.names(), ["ants", "bees"]);
    assert_eq!(dataset.class_counts(), [4, 2]);
    let names: Vec<String> = dataset
        .examples
        .iter()
        .map(|example| example.picture.path().unwrap().display().to_string())
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    assert!(dataset.origin(0).ends_with("ants/w.gif"));
    let facts = dataset.examples[1].picture.facts.unwrap();
    assert_eq!((facts.width, facts.height), (40, 30));
}

#[test]
fn labels_of_the_binary_formats_are_classes_however_many_numbers_there_are() {
    let folder = tempfile::tempdir().unwrap();
    // CIFAR-100 without a file of names: a coarse label, a fine label, 32 × 32 pixels in three planes.
    let record = |fine: u8| [vec![fine / 5, fine], vec![fine; 3 * 32 * 32]].concat();
    let cifar = write(folder.path(), "train.bin", &(0..25).flat_map(record).collect::<Vec<u8>>());
    // As EMNIST's letters: 26 pictures of one pixel, with their labels beside.
    let images = [&[0, 0, 8, 3, 0, 0, 0, 26, 0, 0, 0, 1, 0, 0, 0, 1][..], &[9; 26]].concat();
    let letters = write(folder.path(), "letters-images-idx3-ubyte", &images);
    let labels: Vec<u8> = [0, 0, 8, 1, 0, 0, 0, 26].into_iter().chain(1..=26).collect();
    write(folder.path(), "letters-labels-idx1-ubyte", &labels);
    for (path, classes) in [(cifar, 25), (letters, 26)] {
        let table = read_table(&path, &ReadOptions::default()).unwrap();
        assert_eq!(roles(&table).target_kind, Some(TargetKind::SingleLabel), "{}", path.display());
        assert_eq!(dataset(&path).labels.len(), classes);
    }
}

#[test]
fn a_file_that_is_no_picture_is_named_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    draw(folder.path(), "a/1.png", 1);
    draw(folder.path(), "b/2.png", 2);
    write(folder.path(), "a/notes.txt", b"look");
    // A picture whose name says nothing is still one.
    write(folder.path(), "b/scan", &encoded(&drawn(3, 20, 20), ImageFormat::Png));
    let (table, _) = opened(folder.path(), OnBadRow::Refuse).unwrap();
    assert_eq!(table.rows.len(), 3);
    assert_eq!(codes(&table.findings), ["other-file"]);
    assert!(table.findings[0].to_string().contains("notes.txt: warning[other-file]: is no picture"));
}

#[test]
fn broken_pictures_are_refused_by_name_or_left_out_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let jpeg = encoded(&drawn(4, 200, 200), ImageFormat::Jpeg);
    let png = encoded(&drawn(5, 50, 50), ImageFormat::Png);
    for index in 0..4 {
        draw(root, &format!("a/{index}.png"), index);
        draw(root, &format!("b/{index}.jpg"), 10 + index);
    }
    write(root, "a/cut.jpg", &jpeg[..jpeg.len() / 2]);
    write(root, "a/empty.png", b"");
    write(root, "b/page.jpg", b"<html>404 not found</html>");
    write(root, "b/zeros.jpg", &[0; 4096]);
    let mut damaged = png.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 40].fill(0x5A);
    write(root, "b/damaged.png", &damaged);
    // A PNG that declares 60000 × 60000 pixels in its header.
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    write(root, "b/huge.png", &huge);

    let Err(DataError::Refused(findings)) = opened(root, OnBadRow::Refuse) else { panic!("not refused") };
    let named: Vec<(String, &str)> = findings
        .iter()
        .map(|finding| (finding.file.file_name().unwrap().to_string_lossy().into_owned(), finding.code))
        .collect();
    let code = |name: &str| named.iter().find(|(file, _)| file == name).map(|(_, code)| *code);
    assert_eq!(code("cut.jpg"), Some("truncated-picture"));
    assert_eq!(code("empty.png"), Some("empty-picture"));
    assert_eq!(code("page.jpg"), Some("not-a-picture"));
    assert_eq!(code("zeros.jpg"), Some("empty-picture"));
    assert_eq!(code("damaged.png"), Some("broken-picture"));
    assert!(matches!(code("huge.png"), Some("huge-picture" | "broken-picture")), "{named:?}");
    assert_eq!(named.len(), 6);

    let (table, _) = opened(root, OnBadRow::Skip).unwrap();
    assert_eq!(table.rows.len(), 8);
    assert_eq!(table.findings.len(), 7);
    assert!(table.findings.iter().all(|finding| finding.severity == Severity::Warning));
    let last = table.findings.last().unwrap().to_string();
    assert!(
        last.ends_with("warning[skipped-rows]: 6 pictures left out because they cannot be read"),
        "{last}"
    );
}

#[test]
fn a_picture_under_a_wrong_name_is_read_and_said() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a/1.jpg", &encoded(&drawn(1, 9, 9), ImageFormat::Png));
    draw(folder.path(), "b/2.jpg", 2);
    let (table, _) = opened(folder.path(), OnBadRow::Refuse).unwrap();
    assert_eq!(codes(&table.findings), ["misnamed-picture"]);
    assert!(table.findings[0].message.contains("PNG"));
}

#[test]
fn folders_without_pictures_and_classes_without_any_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("empty")).unwrap();
    let error = opened(folder.path(), OnBadRow::Refuse).unwrap_err().to_string();
    assert!(error.contains("holds no pictures"), "{error}");
    draw(folder.path(), "full/1.png", 1);
    let (table, _) = opened(folder.path(), OnBadRow::Refuse).unwrap();
    assert_eq!(codes(&table.findings), ["empty-class"]);
}

#[test]
fn a_folder_divided_into_splits_is_recognized() {
    let folder = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        draw(folder.path(), &format!("{split}/a/1.png"), 1);
    }
    let [train, validation, test] = split_folders(folder.path()).unwrap().unwrap();
    assert_eq!((train, test), (Some(folder.path().join("train")), None));
    assert_eq!(validation, Some(folder.path().join("val")));
    draw(folder.path(), "cats/1.png", 1);
    assert_eq!(split_folders(folder.path()).unwrap(), None);
}

#[test]
fn lists_name_pictures_relative_to_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    draw(root, "pictures/one.png", 1);
    draw(root, "pictures/two.png", 2);
    let csv = write(root, "list.csv", b"path,score\npictures/one.png,0.5\npictures/two.png,1.25\n");
    let dataset = dataset(&csv);
    assert_eq!(dataset.roles().target_kind, Some(TargetKind::Regression));
    assert_eq!(dataset.examples[1].line, 3);
    assert!(dataset.origin(1).ends_with("pictures/two.png"));
    assert_eq!(dataset.source_columns(0)["score"], "0.5");

    let missing = write(root, "missing.csv", b"path,score\npictures/three.png,1\n");
    let error = opened(&missing, OnBadRow::Refuse).unwrap_err().to_string();
    assert!(error.contains("three.png: error[missing-picture]: there is no such file"), "{error}");

    let metadata = b"file_name,label\none.png,x\ntwo.png,y\n";
    write(root, "pictures/metadata.csv", metadata);
    let dataset = self::dataset(&root.join("pictures"));
    assert_eq!(dataset.labels.names(), ["x", "y"]);
    let table = read_table(&csv, &ReadOptions::default()).unwrap();
    assert_eq!(infer_modality(&table), Modality::Image);
}

#[test]
fn copies_stay_on_one_side_of_a_split_and_leaks_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for index in 0..20 {
        let bytes = encoded(&drawn(index, 40, 30), ImageFormat::Png);
        let class = if index % 2 == 0 { "a" } else { "b" };
        write(root, &format!("train/{class}/{index}.png"), &bytes);
        write(root, &format!("train/{class}/{index}_copy.png"), &bytes);
    }
    let dataset = dataset(&root.join("train"));
    let split = hold_out(&dataset, 0.3, &SplitOptions::default()).unwrap();
    let sha = |&index: &usize| dataset.examples[index].picture.facts.unwrap().sha256;
    let held: Vec<_> = split.held_out.iter().map(sha).collect();
    assert!(!held.is_empty() && split.train.iter().map(sha).all(|train| !held.contains(&train)));

    draw(root, "val/a/same.png", 4);
    // The same scene, larger and through JPEG.
    let larger = drawn(5, 40, 30).resize_exact(80, 60, FilterType::Triangle);
    write(root, "val/b/large.jpg", &encoded(&larger, ImageFormat::Jpeg));
    let train = opened(&root.join("train"), OnBadRow::Refuse).unwrap();
    let val = opened(&root.join("val"), OnBadRow::Refuse).unwrap();
    let findings = check_pictures((&train.0, &train.1), Some((&val.0, &val.1)));
    assert_eq!(codes(&findings), ["leaked-picture", "leaked-near-picture"]);
    let repeated = check_pictures((&train.0, &train.1), None);
    assert_eq!(codes(&repeated), ["duplicate-picture"]);
    assert!(repeated[0].message.contains("20 pictures in all"), "{}", repeated[0]);
}

#[test]
fn what_is_opened_does_not_depend_on_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..9 {
        draw(folder.path(), &format!("{}/{index}.png", index % 2), index);
    }
    let open = |threads| {
        let mut table = read_table(folder.path(), &ReadOptions::default()).unwrap();
        let roles = roles(&table);
        open_pictures(&mut table, &roles, &PictureOptions { threads, ..PictureOptions::default() }).unwrap();
        table.rows
    };
    assert_eq!(open(1), open(4));
}

/// A case of `fixtures/images/resize.json`.
#[derive(Deserialize)]
struct Case {
    name: String,
    size: [usize; 2],
    channels: usize,
    #[serde(rename = "box")]
    region: [usize; 4],
    target: [usize; 2],
    resized: std::collections::BTreeMap<Interpolation, Vec<u8>>,
}

/// The fixture's pictures: stream `name` of `fixtures/counter.py`, the upper 8 bits of each value.
fn samples(name: &str, count: usize) -> Vec<u8> {
    let start = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let value = |index: u64| {
        let z = start.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 56) as u8
    };
    (0..count as u64).map(value).collect()
}

/// A case of `fixtures/images/middle.json`.
#[derive(Deserialize)]
struct Fitted {
    name: String,
    picture: [usize; 2],
    edge: usize,
    size: usize,
    torchvision: Vec<u8>,
    transformers: Vec<u8>,
}

#[test]
fn the_middle_is_cut_out_where_each_ecosystem_has_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images/middle.json");
    let cases: Vec<Fitted> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.iter().any(|case| case.torchvision != case.transformers));
    for Fitted { name, picture: [width, height], edge, size, torchvision, transformers } in cases {
        let picture = Pixels { width, height, channels: 3, data: samples(&name, width * height * 3) };
        for (middle, expected) in [(Middle::HalfToEven, torchvision), (Middle::HalfDown, transformers)] {
            let preprocessor = ImagePreprocessor {
                size,
                fit: Fit::ShorterEdge(edge),
                middle,
                interpolation: Interpolation::Bicubic,
                ..ImagePreprocessor::default()
            };
            assert_eq!(preprocessor.fitted(&picture).data, expected, "{name} {middle:?}");
        }
    }
}

#[test]
fn resizing_is_pillows_to_the_bit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images/resize.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let [width, height] = case.size;
        let data = samples(&case.name, width * height * case.channels);
        let pixels = Pixels { width, height, channels: case.channels, data };
        let [left, top, width, height] = case.region;
        assert_eq!(case.resized.len(), 4);
        for (interpolation, expected) in case.resized {
            let region = Region { left, top, width, height };
            let resized = resize(&pixels, region, case.target[0], case.target[1], interpolation);
            assert_eq!(resized.data, expected, "{} {interpolation:?}", case.name);
        }
    }
}
