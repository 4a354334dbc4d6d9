//! Rows that are nearly the same. Texts: found by MinHash and locality-sensitive hashing, then measured exactly. Pictures:
//! by their fingerprints.
//!
//! Broder 1997, "On the resemblance and containment of documents", for the similarity and its sketch; Leskovec, Rajaraman
//! and Ullman, "Mining of Massive Datasets", chapter 3, for the bands. No random generator is involved: the hash functions
//! are fixed, so that the same texts always give the same answer, whatever their order and the number of threads.

use crate::batch::mix;
use crate::check::{example_key, words};
use crate::image::{ALIKE, PictureFacts, pictures_similar_to, similar_pictures};
use crate::roles::{Modality, Roles};
use crate::table::{Table, Value};
use std::collections::{HashMap, HashSet};

/// Characters of a shingle.
const SHINGLE: usize = 5;
/// Bands of a sketch, and hashes of a band. Two texts of similarity 0.8 share a band with probability
/// 1 − (1 − 0.8⁴)³² = 0.99999995, of similarity 0.5 with 0.87; what a band proposes is measured.
const BANDS: usize = 32;
const BAND: usize = 4;
/// A text is measured against so many of those before it in a bucket. Larger buckets are boilerplate, whose members lie
/// near each other anyway.
const MEASURED: usize = 24;

/// The similarity from which on two texts count as copies.
const ALIKE_TEXTS: f64 = 0.8;

/// Two rows that are nearly or quite the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similar {
    /// The index of the earlier one.
    pub first: usize,
    /// The index of the later one.
    pub second: usize,
    /// Texts: the Jaccard similarity of their character 5-grams, case, punctuation and spacing put aside; 1 if they differ
    /// in these alone. Pictures: the share of equal bits of their fingerprints; 1 if their files are equal.
    pub similarity: f64,
}

/// What rows say, as far as it tells which of them are alike.
#[derive(Debug, Clone)]
pub enum Contents {
    /// Texts, the second of a pair behind the first.
    Texts(Vec<String>),
    /// Pictures; none where a row has none.
    Pictures(Vec<Option<PictureFacts>>),
}

impl Contents {
    /// Of the rows of a table. Pictures must have been opened.
    pub fn of_table(table: &Table, roles: &Roles) -> Self {
        match roles.modality {
            Modality::Text => {
                Self::Texts(table.rows.iter().map(|row| example_key(&row.values, roles)).collect())
            }
            Modality::Image => {
                let facts = |value: &Value| match value {
                    Value::Picture(picture) => picture.facts,
                    _ => None,
                };
                Self::Pictures(table.rows.iter().map(|row| facts(&row.values[roles.content])).collect())
            }
        }
    }

    /// These rows and then those of another table of the same modality.
    ///
    /// # Panics
    /// If the modality is another.
    pub fn joined(mut self, others: Self) -> Self {
        match (&mut self, others) {
            (Self::Texts(texts), Self::Texts(others)) => texts.extend(others),
            (Self::Pictures(pictures), Self::Pictures(others)) => pictures.extend(others),
            _ => panic!("texts and pictures are not alike"),
        }
        self
    }

    /// The similarity from which on two rows count as copies, unless told otherwise.
    pub fn usual_similarity(&self) -> f64 {
        match self {
            Self::Texts(_) => ALIKE_TEXTS,
            Self::Pictures(_) => ALIKE,
        }
    }

    /// For every row that is alike to one before it, such a pair; see [`similar_texts`] and
    /// [`similar_pictures`](crate::image::similar_pictures).
    pub fn similar(&self, similarity: f64, threads: usize) -> Vec<Similar> {
        match self {
            Self::Texts(texts) => similar_texts(texts, similarity, threads),
            Self::Pictures(pictures) => similar_pictures(pictures, similarity),
        }
    }

    /// For every row the most similar of `known`, if one is similar enough: `first` is its place there.
    ///
    /// # Panics
    /// If the modality is another.
    pub fn similar_to(&self, known: &Self, similarity: f64, threads: usize) -> Vec<Option<Similar>> {
        match (known, self) {
            (Self::Texts(known), Self::Texts(texts)) => similar_to(known, texts, similarity, threads),
            (Self::Pictures(known), Self::Pictures(pictures)) => {
                pictures_similar_to(known, pictures, similarity)
            }
            _ => panic!("texts and pictures are not alike"),
        }
    }
}

/// For every text that is at least `threshold` similar to one before it, such a pair. Of equal texts each is paired with
/// the first; of similar ones with the most similar that was found. Texts without a letter or digit are left out.
///
/// Pairs of similarity 0.8 and more are found but for one in some millions, except within large groups of texts alike,
/// where a text is measured against a part of the group only.
pub fn similar_texts(texts: &[impl AsRef<str> + Sync], threshold: f64, threads: usize) -> Vec<Similar> {
    let words: Vec<String> = in_parallel(texts, threads, |text| words(text.as_ref()));
    let mut first_of: HashMap<&str, usize> = HashMap::new();
    let mut pairs = Vec::new();
    let mut different = Vec::new();
    for (index, words) in words.iter().enumerate().filter(|(_, words)| !words.is_empty()) {
        match first_of.get(words.as_str()) {
            Some(&first) => pairs.push(Similar { first, second: index, similarity: 1.0 }),
            None => {
                first_of.insert(words, index);
                different.push(index);
            }
        }
    }
    let sketches = in_parallel(&different, threads, |&index| sketch(&shingles(&words[index])));
    let mut best = Best::new(threshold);
    for band in 0..BANDS {
        let mut buckets: HashMap<&[u32], Vec<usize>> = HashMap::new();
        for (sketch, &second) in sketches.iter().zip(&different) {
            let bucket = buckets.entry(&sketch[band * BAND..(band + 1) * BAND]).or_default();
            best.measure(bucket, &words, (second, &words[second]));
            bucket.push(second);
        }
    }
    pairs.extend(best.found.into_values());
    pairs.sort_by_key(|pair| pair.second);
    pairs
}

/// For each of `texts` the most similar of `known` that was found, if it is at least `threshold` similar: `first` is its
/// place in `known`. As [`similar_texts`], which compares texts among themselves.
pub fn similar_to(
    known: &[impl AsRef<str> + Sync],
    texts: &[impl AsRef<str> + Sync],
    threshold: f64,
    threads: usize,
) -> Vec<Option<Similar>> {
    let known: Vec<String> = in_parallel(known, threads, |text| words(text.as_ref()));
    let texts: Vec<String> = in_parallel(texts, threads, |text| words(text.as_ref()));
    let mut first_of: HashMap<&str, usize> = HashMap::new();
    for (index, words) in known.iter().enumerate().filter(|(_, words)| !words.is_empty()) {
        first_of.entry(words).or_insert(index);
    }
    let mut different: Vec<usize> = first_of.values().copied().collect();
    different.sort_unstable();
    let sketches = in_parallel(&different, threads, |&index| sketch(&shingles(&known[index])));
    let sketches_of_texts = in_parallel(&texts, threads, |text| sketch(&shingles(text)));
    let mut best = Best::new(threshold);
    for band in 0..BANDS {
        let mut buckets: HashMap<&[u32], Vec<usize>> = HashMap::new();
        let hashes = band * BAND..(band + 1) * BAND;
        for (sketch, &first) in sketches.iter().zip(&different) {
            buckets.entry(&sketch[hashes.clone()]).or_default().push(first);
        }
        for (second, (sketch, text)) in sketches_of_texts.iter().zip(&texts).enumerate() {
            if let Some(bucket) = buckets.get(&sketch[hashes.clone()])
                && !first_of.contains_key(text.as_str())
            {
                best.measure(bucket, &known, (second, text));
            }
        }
    }
    let same = |text: &String| first_of.get(text.as_str()).copied();
    let found = texts.iter().enumerate().map(|(second, text)| match same(text) {
        Some(first) => Some(Similar { first, second, similarity: 1.0 }),
        None => best.found.get(&second).copied(),
    });
    found.collect()
}

/// The most similar text found so far for each.
struct Best {
    threshold: f64,
    measured: HashSet<(usize, usize)>,
    found: HashMap<usize, Similar>,
}

impl Best {
    fn new(threshold: f64) -> Self {
        Self { threshold, measured: HashSet::new(), found: HashMap::new() }
    }

    /// Measures a text against the last of a bucket.
    fn measure(&mut self, bucket: &[usize], known: &[String], (second, text): (usize, &str)) {
        for &first in bucket.iter().rev().take(MEASURED) {
            if !self.measured.insert((first, second)) {
                continue;
            }
            let similarity = jaccard(&shingles(&known[first]), &shingles(text));
            let is_better = self.found.get(&second).is_none_or(|known| similarity > known.similarity);
            if similarity >= self.threshold && is_better {
                self.found.insert(second, Similar { first, second, similarity });
            }
        }
    }
}

/// The hashes of a text's character 5-grams, sorted, each once; of a shorter text its own.
fn shingles(words: &str) -> Vec<u32> {
    let characters: Vec<char> = words.chars().collect();
    let hash = |window: &[char]| {
        let hash = window.iter().fold(0x5bd1_e995_u64, |hash, &c| mix(hash ^ u64::from(u32::from(c))));
        (hash >> 32) as u32
    };
    let mut shingles: Vec<u32> = if characters.len() < SHINGLE {
        vec![hash(&characters)]
    } else {
        characters.windows(SHINGLE).map(hash).collect()
    };
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

/// The least value of each of the hash functions over a text's shingles.
fn sketch(shingles: &[u32]) -> Vec<u32> {
    (0..(BANDS * BAND) as u64)
        .map(|function| {
            let salt = mix(function ^ 0x9e37_79b9_7f4a_7c15);
            let (xor, factor) = (salt as u32, (salt >> 32) as u32 | 1);
            let hash = |&shingle: &u32| {
                let hash = (shingle ^ xor).wrapping_mul(factor);
                (hash ^ hash >> 15).wrapping_mul(0x85eb_ca6b)
            };
            shingles.iter().map(hash).min().unwrap_or(u32::MAX)
        })
        .collect()
}

/// Shared values over all values of two sorted sets.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                shared += 1;
                i += 1;
                j += 1;
            }
        }
    }
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}

/// The results of a function for each item, in order, computed on several threads.
fn in_parallel<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(|| chunk.iter().map(&work).collect::<Vec<R>>()))
            .collect();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str =
        "Your parcel was handed to the carrier on Monday and should arrive within three working days.";

    #[test]
    fn texts_that_differ_in_dress_only_are_the_same() {
        let texts = ["Hello, world!", "something else entirely", "hello   WORLD", "…", "…"];
        let pairs = similar_texts(&texts, 0.8, 1);
        assert_eq!(pairs, [Similar { first: 0, second: 2, similarity: 1.0 }]);
    }

    #[test]
    fn the_similarity_is_that_of_the_sets_of_five_grams() {
        // "abcdefg": abcde bcdef cdefg; "abcdefh": abcde bcdef cdefh. Two shared of four.
        let pairs = similar_texts(&["abcdefg", "abcdefh"], 0.5, 1);
        assert_eq!(pairs, [Similar { first: 0, second: 1, similarity: 0.5 }]);
        assert!(similar_texts(&["abcdefg", "abcdefh"], 0.51, 1).is_empty());
    }

    #[test]
    fn a_changed_word_in_a_long_text_is_found_and_another_text_is_not() {
        let changed = LONG.replace("Monday", "Tuesday");
        let other = "Your invoice could not be paid because the card has expired; please name another one.";
        let texts = [other, LONG, &changed];
        let pairs = similar_texts(&texts, 0.8, 2);
        assert_eq!(pairs.iter().map(|pair| (pair.first, pair.second)).collect::<Vec<_>>(), [(1, 2)]);
    }

    #[test]
    fn a_text_is_found_again_in_another_list() {
        let changed = LONG.replace("Monday", "Tuesday");
        let known = ["first", LONG, "Second!"];
        let found = similar_to(&known, &["second", "third", &changed, "?"], 0.8, 2);
        let places: Vec<Option<usize>> = found.iter().map(|pair| pair.map(|pair| pair.first)).collect();
        assert_eq!(places, [Some(2), None, Some(1), None]);
        assert_eq!(found[0].map(|pair| pair.similarity), Some(1.0));
    }

    #[test]
    fn nothing_depends_on_the_number_of_threads() {
        let texts: Vec<String> = (0..60)
            .map(|n| format!("{LONG} Order {} of customer {}.", n / 3, n % 7 * 1000 + n / 20))
            .collect();
        let pairs = similar_texts(&texts, 0.8, 1);
        assert!(pairs.len() > 50);
        assert_eq!(pairs, similar_texts(&texts, 0.8, 3));
        assert!(similar_texts(&[] as &[&str], 0.8, 2).is_empty());
    }

    /// Every pair is measured and compared with what the bands found.
    #[test]
    fn no_similar_text_is_missed_among_many() {
        let texts: Vec<String> = (0..200_u64)
            .map(|n| {
                let word = |place: u64| format!("w{:x}", mix(n / 4 * 31 + place) % 5000);
                let mut words: Vec<String> = (0..25).map(word).collect();
                words[(n % 25) as usize] = format!("own{n}");
                words.join(" ")
            })
            .collect();
        let sets: Vec<Vec<u32>> = texts.iter().map(|text| shingles(&words(text))).collect();
        let has_similar =
            |second: usize| (0..second).any(|first| jaccard(&sets[first], &sets[second]) >= 0.8);
        let expected: Vec<usize> = (0..texts.len()).filter(|&second| has_similar(second)).collect();
        assert!(expected.len() >= 100, "{}", expected.len());
        let found: Vec<usize> = similar_texts(&texts, 0.8, 2).iter().map(|pair| pair.second).collect();
        assert_eq!(found, expected);
    }
}
