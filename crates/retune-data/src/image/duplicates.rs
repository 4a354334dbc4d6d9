//! Pictures that stand in a table twice, or in two tables: exactly, or but for scale and compression.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::picture::{Picture, PictureFacts};
use super::pixels::Pixels;
use super::resize::{Interpolation, Region, resize};
use crate::finding::{Finding, count};
use crate::roles::Roles;
use crate::similar::Similar;
use crate::table::{Table, Value};

/// Pictures are alike from this share of equal bits of their fingerprints on: 61 of 64.
pub(crate) const ALIKE: f64 = 61.0 / 64.0;
/// Fingerprints with fewer set or unset bits are those of plain pictures, which are all alike.
const LEAST_DETAIL: u32 = 8;
/// A picture is odd if its shorter side is so many times shorter than the median …
const ODD_SIDE: f64 = 5.0;
/// … or it is so many times as long for its breadth as the median.
const ODD_SHAPE: f64 = 4.0;
/// At most this many odd pictures are named.
const ODD_EXAMPLES: usize = 3;
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
        None => repeated(training).into_iter().chain(odd_sizes(training)).chain(modes(training)).collect(),
        Some(other) => {
            shared(training, other).into_iter().chain(odd_sizes(other)).chain(modes(other)).collect()
        }
    }
}

/// Pictures far smaller or longer than the others of their table are seldom of the same thing: icons, banners, cuttings.
fn odd_sizes(of: (&Table, &Roles)) -> Vec<Finding> {
    let facts: Vec<((u64, &Picture), PictureFacts)> =
        pictures(of).filter_map(|picture| Some((picture, picture.1.facts?))).collect();
    let median = |value: fn(&PictureFacts) -> f64| -> f64 {
        let mut values: Vec<f64> = facts.iter().map(|(_, facts)| value(facts)).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(1.0)
    };
    let short = |facts: &PictureFacts| facts.width.min(facts.height) as f64;
    let long = |facts: &PictureFacts| {
        facts.width.max(facts.height) as f64 / facts.width.min(facts.height).max(1) as f64
    };
    let (usual_side, usual_shape) = (median(short), median(long));
    let is_odd =
        |facts: &PictureFacts| short(facts) * ODD_SIDE < usual_side || long(facts) > ODD_SHAPE * usual_shape;
    let odd: Vec<_> = facts.iter().filter(|(_, facts)| is_odd(facts)).collect();
    let described = odd.iter().take(ODD_EXAMPLES).map(|(picture, facts)| {
        let message = format!(
            "is {} × {} pixels, where the shorter side usually has {usual_side:.0}",
            facts.width, facts.height
        );
        about("odd-size", of.0, *picture, message).suggest("is it a picture of the same kind?")
    });
    let mut findings: Vec<Finding> = described.collect();
    if odd.len() > ODD_EXAMPLES {
        let message =
            format!("{} in all are far smaller or longer than the others", count(odd.len(), "picture"));
        findings.push(Finding::warning("odd-size", &of.0.path, message));
    }
    findings
}

/// Colour modes, where there are several.
fn modes(of: (&Table, &Roles)) -> Vec<Finding> {
    let mut modes: [(&str, usize); 3] = [("grey", 0), ("RGB", 0), ("RGBA", 0)];
    for facts in pictures(of).filter_map(|(_, picture)| picture.facts) {
        modes[match facts.channels {
            1 => 0,
            4 => 2,
            _ => 1,
        }]
        .1 += 1;
    }
    let present: Vec<String> = modes
        .iter()
        .filter(|(_, pictures)| *pictures > 0)
        .map(|(mode, pictures)| format!("{pictures} {mode}"))
        .collect();
    if present.len() < 2 {
        return Vec::new();
    }
    let message =
        format!("pictures of several colour modes: {}; all are converted to one", present.join(", "));
    vec![Finding::info("colour-modes", &of.0.path, message)]
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
    let own: Vec<(u64, &Picture)> = pictures(other).collect();
    let facts = |pictures: &[(u64, &Picture)]| -> Vec<Option<PictureFacts>> {
        pictures.iter().map(|(_, picture)| picture.facts).collect()
    };
    let (mut same, mut alike) = (Vec::new(), Vec::new());
    for pair in pictures_similar_to(&facts(&known), &facts(&own), ALIKE).into_iter().flatten() {
        let (picture, there) = (own[pair.second], known[pair.first]);
        let hash = |picture: &Picture| picture.facts.map(|facts| facts.sha256);
        let list = if hash(picture.1) == hash(there.1) { &mut same } else { &mut alike };
        list.push((picture, there));
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

/// Pictures that were met, by file and by fingerprint.
struct Known {
    exact: HashMap<[u8; 32], usize>,
    prints: Vec<(u64, usize)>,
    most_bits: u32,
}

impl Known {
    /// `pairs` are how many fingerprints will be compared; too many, and equal files alone are found.
    fn new(similarity: f64, pairs: usize) -> Self {
        // A hair more, since 61/64 of 64 must leave 3.
        let most_bits = if pairs <= MOST_PAIRS { ((1.0 - similarity) * 64.0 + 1e-9) as u32 } else { 0 };
        Self { exact: HashMap::new(), prints: Vec::new(), most_bits }
    }

    fn add(&mut self, index: usize, facts: &PictureFacts) {
        self.exact.entry(facts.sha256).or_insert(index);
        if has_detail(facts) && self.most_bits > 0 {
            self.prints.push((facts.fingerprint, index));
        }
    }

    /// The first with the same file, else the nearest by fingerprint.
    fn find(&self, second: usize, facts: &PictureFacts) -> Option<Similar> {
        if let Some(&first) = self.exact.get(&facts.sha256) {
            return Some(Similar { first, second, similarity: 1.0 });
        }
        if !has_detail(facts) {
            return None;
        }
        let distance = |&(bits, first): &(u64, usize)| ((bits ^ facts.fingerprint).count_ones(), first);
        let near = self.prints.iter().map(distance).filter(|(bits, _)| *bits <= self.most_bits).min();
        near.map(|(bits, first)| Similar { first, second, similarity: 1.0 - f64::from(bits) / 64.0 })
    }
}

fn has_detail(facts: &PictureFacts) -> bool {
    (LEAST_DETAIL..=64 - LEAST_DETAIL).contains(&facts.fingerprint.count_ones())
}

/// For every picture with the same file as one before it, or whose fingerprint has at least the share `similarity` of its
/// bits equal, such a pair. Plain pictures, which all have nearly the same fingerprint, are compared by file alone, and so
/// are all if there are very many.
pub fn similar_pictures(pictures: &[Option<PictureFacts>], similarity: f64) -> Vec<Similar> {
    let mut known = Known::new(similarity, pictures.len().saturating_mul(pictures.len()) / 2);
    let mut pairs = Vec::new();
    for (index, facts) in pictures.iter().enumerate() {
        let Some(facts) = facts else { continue };
        match known.find(index, facts) {
            Some(pair) if pair.similarity == 1.0 => pairs.push(pair),
            near => {
                pairs.extend(near);
                known.add(index, facts);
            }
        }
    }
    pairs
}

/// For each of `pictures` the most similar of `known`, if it is similar enough: `first` is its place in `known`. As
/// [`similar_pictures`], which compares pictures among themselves.
pub fn pictures_similar_to(
    known: &[Option<PictureFacts>],
    pictures: &[Option<PictureFacts>],
    similarity: f64,
) -> Vec<Option<Similar>> {
    let mut there = Known::new(similarity, known.len().saturating_mul(pictures.len()));
    for (index, facts) in known.iter().enumerate() {
        facts.iter().for_each(|facts| there.add(index, facts));
    }
    pictures.iter().enumerate().map(|(index, facts)| there.find(index, facts.as_ref()?)).collect()
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
        assert!((original ^ fingerprint(wave(90, 67, 1.0))).count_ones() <= 3);
        assert!((original ^ fingerprint(wave(200, 150, 0.8))).count_ones() <= 3);
        let mut other = wave(200, 150, 1.0);
        other.flip_horizontally();
        assert!((original ^ fingerprint(other)).count_ones() > 20);
    }

    #[test]
    fn pictures_are_alike_by_file_or_by_fingerprint_and_plain_ones_by_file_alone() {
        let facts = |file: u8, fingerprint: u64| {
            Some(PictureFacts { width: 8, height: 8, channels: 3, sha256: [file; 32], fingerprint })
        };
        let bits = 0x5555_5555_5555_5555;
        let pictures = [
            facts(1, bits),
            facts(2, bits ^ 7),
            None,
            facts(1, bits),
            facts(3, bits ^ 15),
            facts(4, 0),
            facts(5, 1),
        ];
        let pair = |first, second, similarity| Similar { first, second, similarity };
        // The fifth differs from the first in four bits and from the second in one.
        let expected = [pair(0, 1, 61.0 / 64.0), pair(0, 3, 1.0), pair(1, 4, 63.0 / 64.0)];
        assert_eq!(similar_pictures(&pictures, ALIKE), expected);
        let found = pictures_similar_to(&pictures[..1], &pictures[1..], ALIKE);
        let places: Vec<Option<usize>> = found.iter().map(|pair| pair.map(|pair| pair.second)).collect();
        assert_eq!(places, [Some(0), None, Some(2), None, None, None]);
        assert_eq!(similar_pictures(&pictures, 1.0), [pair(0, 3, 1.0)]);
    }
}
