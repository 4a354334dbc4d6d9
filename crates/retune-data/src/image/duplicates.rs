//! Pictures that stand in a table twice, or in two tables: exactly, or but for scale and compression.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::picture::Picture;
use super::pixels::Pixels;
use super::resize::{Interpolation, Region, resize};
use crate::finding::{Finding, count};
use crate::roles::Roles;
use crate::table::{Table, Value};

/// Pictures whose fingerprints differ in at most this many of 64 bits are alike.
const ALIKE_BITS: u32 = 3;
/// Fingerprints with fewer set or unset bits are those of plain pictures, which are all alike.
const LEAST_DETAIL: u32 = 8;
/// Fingerprints are compared each with each up to this many pairs: a second's work.
const MOST_PAIRS: usize = 200_000_000;

/// Whether each of 8 × 8 means of luma is brighter than the one right of it (Krawetz 2013).
pub(super) fn fingerprint(pixels: Pixels) -> u64 {
    let grey = pixels.with_channels(1);
    let small = resize(&grey, Region::whole(&grey), 9, 8, Interpolation::Bilinear);
    let mut bits = 0;
    for y in 0..8 {
        for pair in small.row(y).windows(2) {
            bits = bits << 1 | u64::from(pair[0] > pair[1]);
        }
    }
    bits
}

/// What the pictures of a table, and of a table beside the training table, have in common. `roles` belong to the table
/// beside them; pictures must have been opened.
pub fn check_pictures(training: (&Table, &Roles), other: Option<(&Table, &Roles)>) -> Vec<Finding> {
    match other {
        None => repeated(training),
        Some(other) => shared(training, other),
    }
}

fn pictures<'t>((table, roles): (&'t Table, &Roles)) -> impl Iterator<Item = (u64, &'t Picture)> {
    let content = roles.content;
    table.rows.iter().filter_map(move |row| match &row.values[content] {
        Value::Picture(picture) => Some((row.line, &**picture)),
        _ => None,
    })
}

/// SHA-256 of a table's pictures in order, with the names that they have in its folder, in hexadecimal: it changes when a
/// picture is changed, renamed, added or removed. Pictures must have been opened.
pub fn pictures_hash(table: &Table, roles: &Roles) -> String {
    let mut hasher = Sha256::new();
    for (line, picture) in pictures((table, roles)) {
        let name = picture.path().map(|path| path.strip_prefix(&table.path).unwrap_or(path));
        let name = name.map_or_else(|| line.to_string(), |name| name.display().to_string());
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(picture.facts.map(|facts| facts.sha256).unwrap_or_default());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A picture's file, or the table's file with the line.
fn about(code: &'static str, table: &Table, (line, picture): (u64, &Picture), message: String) -> Finding {
    match picture.path() {
        Some(path) => Finding::warning(code, path, message),
        None => Finding::warning(code, &table.path, message).at_line(line),
    }
}

fn name((line, picture): (u64, &Picture)) -> String {
    picture.path().map_or_else(|| format!("row {line}"), |path| path.display().to_string())
}

fn repeated(of: (&Table, &Roles)) -> Vec<Finding> {
    let (table, roles) = of;
    let mut first: HashMap<[u8; 32], (u64, &Picture)> = HashMap::new();
    let labels: HashMap<u64, Vec<&Value>> = table
        .rows
        .iter()
        .map(|row| (row.line, roles.labels.iter().map(|&column| &row.values[column]).collect()))
        .collect();
    let (mut same, mut conflicting) = (Vec::new(), Vec::new());
    for picture in pictures(of) {
        let Some(facts) = picture.1.facts else { continue };
        let before = *first.entry(facts.sha256).or_insert(picture);
        if before.0 == picture.0 {
            continue;
        }
        let list = if labels[&before.0] == labels[&picture.0] { &mut same } else { &mut conflicting };
        list.push((picture, before));
    }
    let mut findings = Vec::new();
    if let Some(&(picture, before)) = conflicting.first() {
        let message = format!(
            "is {} again, with another label ({} in all)",
            name(before),
            count(conflicting.len(), "picture")
        );
        let finding = about("conflicting-labels", table, picture, message);
        findings.push(finding.suggest("decide which is right, or remove both"));
    }
    if let Some(&(picture, before)) = same.first() {
        let message = format!("is {} again ({} in all)", name(before), count(same.len(), "picture"));
        let finding = about("duplicate-picture", table, picture, message);
        let advice = "copies count more than once in training and in every metric";
        findings.push(finding.suggest(advice));
    }
    findings
}

fn shared(training: (&Table, &Roles), other: (&Table, &Roles)) -> Vec<Finding> {
    let known: Vec<(u64, &Picture)> = pictures(training).collect();
    let exact: HashMap<[u8; 32], (u64, &Picture)> =
        known.iter().rev().filter_map(|&picture| Some((picture.1.facts?.sha256, picture))).collect();
    let detailed = |bits: u64| (LEAST_DETAIL..=64 - LEAST_DETAIL).contains(&bits.count_ones());
    let prints: Vec<(u64, usize)> = known
        .iter()
        .enumerate()
        .filter_map(|(index, picture)| Some((picture.1.facts?.fingerprint, index)))
        .filter(|&(bits, _)| detailed(bits))
        .collect();
    let compare = prints.len().saturating_mul(other.0.rows.len()) <= MOST_PAIRS;
    let (mut same, mut alike) = (Vec::new(), Vec::new());
    for picture in pictures(other) {
        let Some(facts) = picture.1.facts else { continue };
        if let Some(&there) = exact.get(&facts.sha256) {
            same.push((picture, there));
        } else if compare && detailed(facts.fingerprint) {
            let near = prints.iter().find(|(bits, _)| (bits ^ facts.fingerprint).count_ones() <= ALIKE_BITS);
            alike.extend(near.map(|&(_, index)| (picture, known[index])));
        }
    }
    let total = other.0.rows.len();
    let advice = "the metrics on them measure memory; remove them from one side";
    let mut findings = Vec::new();
    if let Some(&(picture, there)) = same.first() {
        let message = format!(
            "is the training picture {} ({} of {total} here are shared)",
            name(there),
            count(same.len(), "picture")
        );
        findings.push(about("leaked-picture", other.0, picture, message).suggest(advice));
    }
    if let Some(&(picture, there)) = alike.first() {
        let message = format!(
            "looks like the training picture {} ({} of {total} here look like one)",
            name(there),
            count(alike.len(), "picture")
        );
        findings.push(about("leaked-near-picture", other.0, picture, message).suggest(advice));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_outlives_scaling_and_brightness() {
        let wave = |width: usize, height: usize, gain: f64| {
            let sample = |x: usize, y: usize| {
                let (u, v) = (x as f64 / width as f64, y as f64 / height as f64);
                (gain * (110.0 + 70.0 * (9.0 * u + 2.0 * v).sin() + 40.0 * (11.0 * v - 3.0 * u).cos())) as u8
            };
            let data = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| sample(x, y));
            Pixels { width, height, channels: 1, data: data.collect() }
        };
        let original = fingerprint(wave(200, 150, 1.0));
        assert!((original ^ fingerprint(wave(90, 67, 1.0))).count_ones() <= ALIKE_BITS);
        assert!((original ^ fingerprint(wave(200, 150, 0.8))).count_ones() <= ALIKE_BITS);
        let mut other = wave(200, 150, 1.0);
        other.flip_horizontally();
        assert!((original ^ fingerprint(other)).count_ones() > 20);
    }
}
