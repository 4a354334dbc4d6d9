//! Splitting a dataset: by the hash of the content, stratified by class, whole groups at a time.
//!
//! No random generator is involved. A row's place depends on what it says and on the seed, not on where it
//! stands, so a file that is shuffled or appended to keeps its split.

use crate::batch::mix;
use crate::dataset::{Dataset, Example};
use crate::error::DataError;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

/// How to split.
#[derive(Debug, Clone)]
pub struct SplitOptions {
    /// Another seed gives another split.
    pub seed: u64,
    /// Keep the classes' shares. Then appending a row can move one other row of its class across the border;
    /// without, a row never moves, but the shares are met only on average.
    pub stratified: bool,
    /// Rows with equal values in this column (an author, a patient) stay together. Rows with equal content
    /// always do.
    pub group_column: Option<String>,
    /// Pairs of examples that stay together too, such as near copies; and so do those that a chain of pairs connects.
    pub together: Vec<(usize, usize)>,
}

impl Default for SplitOptions {
    fn default() -> Self {
        SplitOptions { seed: 0, stratified: true, group_column: None, together: Vec::new() }
    }
}

/// Indices of the examples on either side, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The larger part.
    pub train: Vec<usize>,
    /// The part held out.
    pub held_out: Vec<usize>,
}

/// Rows that stay together.
struct Unit {
    hash: u64,
    stratum: u32,
    rows: Vec<usize>,
}

/// Holds out a fraction of the examples, for validation or for test.
///
/// Stratified, each class puts the same share there, rounded, and at least one group on either side.
///
/// # Errors
/// [`DataError::Setting`] unless 0 < `fraction` < 1, [`DataError::UnknownColumn`], and [`DataError::Split`]
/// when a class would be missing on one side.
pub fn hold_out<E: Example>(
    dataset: &Dataset<E>,
    fraction: f64,
    options: &SplitOptions,
) -> Result<Split, DataError> {
    check_fraction(fraction)?;
    let units = units(dataset, options)?;
    let mut held_out = vec![false; dataset.len()];
    let mark = |unit: &Unit, held_out: &mut [bool]| unit.rows.iter().for_each(|&row| held_out[row] = true);
    if options.stratified {
        for stratum in strata(&units).into_values() {
            let rows: usize = stratum.iter().map(|unit| unit.rows.len()).sum();
            let wanted = (rows as f64 * fraction).round().max(1.0) as usize;
            let mut taken = 0;
            // The last unit stays in training even if it is all there is; the check below then says so.
            for unit in &stratum[..stratum.len().saturating_sub(1)] {
                if taken >= wanted {
                    break;
                }
                taken += unit.rows.len();
                mark(unit, &mut held_out);
            }
        }
    } else {
        let border = (fraction * u64::MAX as f64) as u64;
        units.iter().filter(|unit| unit.hash < border).for_each(|unit| mark(unit, &mut held_out));
    }
    let (held_out, train): (Vec<usize>, Vec<usize>) = (0..dataset.len()).partition(|&row| held_out[row]);
    let split = Split { train, held_out };
    for (side, rows) in [("training", &split.train), ("held-out", &split.held_out)] {
        check_classes(dataset, rows, side, options)?;
    }
    Ok(split)
}

/// Holds out the latest examples by a column of times: numbers, or texts whose order is that of time (ISO 8601). Examples
/// of one moment stay together, on the held-out side if the border falls among them.
///
/// # Errors
/// [`DataError::Setting`] unless 0 < `fraction` < 1, [`DataError::UnknownColumn`], and [`DataError::Split`] when a time is
/// missing, numbers and texts are mixed, or one side would be empty.
pub fn hold_out_latest<E: Example>(
    dataset: &Dataset<E>,
    fraction: f64,
    column: &str,
) -> Result<Split, DataError> {
    check_fraction(fraction)?;
    let index = dataset.column_index(column)?;
    let mut times = Vec::with_capacity(dataset.len());
    for (row, example) in dataset.examples.iter().enumerate() {
        let value = dataset.source_value(row, index).filter(|value| !value.is_blank());
        let Some(value) = value else {
            let place = format!("{}:{}", dataset.path().display(), example.line());
            return Err(DataError::Split(format!("{place}: no time in column `{column}`")));
        };
        times.push((value.as_number(), value.as_text().unwrap_or_default().trim().to_owned()));
    }
    let numbers = times.iter().filter(|(number, _)| number.is_some()).count();
    if numbers != 0 && numbers != times.len() {
        return Err(DataError::Split(format!(
            "column `{column}` of {} holds numbers and texts; one order is needed",
            dataset.path().display()
        )));
    }
    let compare = |a: usize, b: usize| match (times[a].0, times[b].0) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => times[a].1.cmp(&times[b].1),
    };
    let mut order: Vec<usize> = (0..dataset.len()).collect();
    order.sort_by(|&a, &b| compare(a, b));
    let held = (dataset.len() as f64 * fraction).round().max(1.0) as usize;
    let mut border = dataset.len().saturating_sub(held);
    while border > 0 && compare(order[border - 1], order[border]).is_eq() {
        border -= 1;
    }
    if border == 0 {
        return Err(DataError::Split(format!(
            "holding out the latest {fraction} of {} by `{column}` leaves nothing before them",
            dataset.path().display()
        )));
    }
    let (mut train, mut held_out) = (order[..border].to_vec(), order[border..].to_vec());
    train.sort_unstable();
    held_out.sort_unstable();
    Ok(Split { train, held_out })
}

/// Cuts the examples into `folds` parts; each is held out once.
///
/// # Errors
/// As [`hold_out`]; `folds` must be at least 2.
pub fn k_fold<E: Example>(
    dataset: &Dataset<E>,
    folds: usize,
    options: &SplitOptions,
) -> Result<Vec<Split>, DataError> {
    if folds < 2 {
        return Err(DataError::Setting(format!("cross-validation takes at least 2 folds, not {folds}")));
    }
    let units = units(dataset, options)?;
    let mut fold_of = vec![0; dataset.len()];
    let assign = |unit: &Unit, fold: usize, fold_of: &mut [usize]| {
        unit.rows.iter().for_each(|&row| fold_of[row] = fold);
    };
    if options.stratified {
        let mut rows_in = vec![0usize; folds];
        for stratum in strata(&units).into_values() {
            let mut of_stratum = vec![0usize; folds];
            for unit in stratum {
                // Where this class, and then the whole, has the fewest rows so far.
                let fold = (0..folds).min_by_key(|&fold| (of_stratum[fold], rows_in[fold])).unwrap_or(0);
                of_stratum[fold] += unit.rows.len();
                rows_in[fold] += unit.rows.len();
                assign(unit, fold, &mut fold_of);
            }
        }
    } else {
        for unit in &units {
            let fold = ((u128::from(unit.hash) * folds as u128) >> 64) as usize;
            assign(unit, fold, &mut fold_of);
        }
    }
    let splits: Vec<Split> = (0..folds)
        .map(|fold| {
            let (held_out, train) = (0..dataset.len()).partition(|&row| fold_of[row] == fold);
            Split { train, held_out }
        })
        .collect();
    for (fold, split) in splits.iter().enumerate() {
        check_classes(dataset, &split.train, &format!("training part of fold {}", fold + 1), options)?;
        if split.held_out.is_empty() {
            return Err(DataError::Split(format!(
                "fold {} of {folds} is empty: {} examples in {} groups are too few",
                fold + 1,
                dataset.len(),
                units.len()
            )));
        }
    }
    Ok(splits)
}

fn check_fraction(fraction: f64) -> Result<(), DataError> {
    if fraction > 0.0 && fraction < 1.0 {
        return Ok(());
    }
    Err(DataError::Setting(format!("a split takes a fraction between 0 and 1, not {fraction}")))
}

fn units<E: Example>(dataset: &Dataset<E>, options: &SplitOptions) -> Result<Vec<Unit>, DataError> {
    let group = options.group_column.as_deref().map(|name| dataset.column_index(name)).transpose()?;
    let mut by_key: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut units: Vec<Unit> = Vec::new();
    for (row, example) in dataset.examples.iter().enumerate() {
        let group_value = group
            .and_then(|column| dataset.source_value(row, column))
            .and_then(|value| value.as_text().map(|text| text.trim().to_owned()))
            .filter(|value| !value.is_empty());
        let mut hasher = Sha256::new();
        match group_value {
            Some(value) => hasher.update(value.as_bytes()),
            None => example.content(&mut |bytes| hasher.update(bytes)),
        }
        let key = hasher.finalize().to_vec();
        let hash = key.iter().take(8).fold(0u64, |hash, byte| hash << 8 | u64::from(*byte));
        let unit = *by_key.entry(key).or_insert_with(|| {
            units.push(Unit { hash: mix(hash ^ mix(options.seed)), stratum: 0, rows: Vec::new() });
            units.len() - 1
        });
        units[unit].rows.push(row);
    }
    let mut units = united(units, &options.together, dataset.len());
    let counts = dataset.class_counts();
    for unit in &mut units {
        unit.stratum = stratum(dataset, unit, &counts);
    }
    units.sort_by_key(|unit| (unit.hash, unit.rows.first().copied()));
    Ok(units)
}

/// Units joined where a pair connects them. A joined unit has the least of their hashes, so that it does not depend on the
/// order of rows.
fn united(units: Vec<Unit>, pairs: &[(usize, usize)], rows: usize) -> Vec<Unit> {
    if pairs.is_empty() {
        return units;
    }
    let mut unit_of = vec![0; rows];
    for (index, unit) in units.iter().enumerate() {
        unit.rows.iter().for_each(|&row| unit_of[row] = index);
    }
    let mut root: Vec<usize> = (0..units.len()).collect();
    fn find(root: &mut [usize], mut unit: usize) -> usize {
        while root[unit] != unit {
            root[unit] = root[root[unit]];
            unit = root[unit];
        }
        unit
    }
    for &(a, b) in pairs.iter().filter(|(a, b)| *a < rows && *b < rows) {
        let (a, b) = (find(&mut root, unit_of[a]), find(&mut root, unit_of[b]));
        root[a.max(b)] = a.min(b);
    }
    let mut joined: BTreeMap<usize, Unit> = BTreeMap::new();
    for (index, unit) in units.into_iter().enumerate() {
        match joined.entry(find(&mut root, index)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(unit);
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                let other = place.get_mut();
                other.hash = other.hash.min(unit.hash);
                other.rows.extend(unit.rows);
            }
        }
    }
    joined.into_values().collect()
}

/// The unit's rarest class, which is the one that most needs care; without classes one stratum holds all.
fn stratum<E: Example>(dataset: &Dataset<E>, unit: &Unit, counts: &[usize]) -> u32 {
    let classes = unit.rows.iter().flat_map(|&row| dataset.examples[row].target().classes());
    classes.copied().min_by_key(|&class| (counts[class as usize], class)).unwrap_or(u32::MAX)
}

/// Units by stratum, each in hash order.
fn strata(units: &[Unit]) -> BTreeMap<u32, Vec<&Unit>> {
    let mut strata: BTreeMap<u32, Vec<&Unit>> = BTreeMap::new();
    for unit in units {
        strata.entry(unit.stratum).or_default().push(unit);
    }
    strata
}

fn check_classes<E: Example>(
    dataset: &Dataset<E>,
    rows: &[usize],
    side: &str,
    options: &SplitOptions,
) -> Result<(), DataError> {
    if rows.is_empty() {
        return Err(DataError::Split(format!("{}: the {side} part is empty", dataset.path().display())));
    }
    let mut present = vec![false; dataset.labels.len()];
    for &row in rows {
        let classes = dataset.examples[row].target().classes();
        classes.iter().for_each(|&class| present[class as usize] = true);
    }
    let counts = dataset.class_counts();
    let missing: Vec<String> = (0..present.len())
        .filter(|&class| !present[class] && counts[class] > 0)
        .map(|class| {
            format!(
                "`{}` ({} in all)",
                dataset.labels.names()[class],
                crate::finding::count(counts[class], "example")
            )
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let grouped = match &options.group_column {
        Some(column) => format!(", since rows of one `{column}` stay together"),
        None if !options.together.is_empty() => ", since near copies stay together".to_owned(),
        None => String::new(),
    };
    Err(DataError::Split(format!(
        "{}: the {side} part would have no example of {}{grouped}; add examples, drop the class, or give a \
         validation file",
        dataset.path().display(),
        missing.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{DatasetOptions, TextDataset};
    use crate::read::{ReadOptions, read_bytes};
    use crate::roles::{RoleOverrides, infer_roles};
    use std::path::Path;

    fn dataset(rows: &[(String, &str, &str)]) -> TextDataset {
        let mut text = "author,text,label\n".to_owned();
        for (message, label, author) in rows {
            text.push_str(&format!("{author},{message},{label}\n"));
        }
        let table = read_bytes(Path::new("t.csv"), text.into_bytes(), &ReadOptions::default()).unwrap();
        let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
        TextDataset::new(table, roles, &DatasetOptions::default()).unwrap()
    }

    fn rows(from: usize, to: usize) -> Vec<(String, &'static str, &'static str)> {
        let authors = ["ann", "bob", "cid", "dan", "eve", "fay", "gus"];
        (from..to)
            .map(|row| {
                (format!("message {row}"), if row % 4 == 0 { "rare" } else { "common" }, authors[row % 7])
            })
            .collect()
    }

    #[test]
    fn every_class_gives_its_share() {
        let dataset = dataset(&rows(0, 200));
        let split = hold_out(&dataset, 0.1, &SplitOptions::default()).unwrap();
        assert_eq!((split.train.len(), split.held_out.len()), (180, 20));
        assert_eq!(dataset.select(&split.held_out).class_counts(), [15, 5]);
    }

    #[test]
    fn appended_rows_leave_an_unstratified_split_as_it_was_and_move_few_of_a_stratified_one() {
        let (before, after) = (dataset(&rows(0, 200)), dataset(&rows(0, 210)));
        let hashed = SplitOptions { stratified: false, ..Default::default() };
        let held = |dataset: &TextDataset, options: &SplitOptions| {
            let split = hold_out(dataset, 0.1, options).unwrap();
            split.held_out.into_iter().filter(|row| *row < 200).collect::<Vec<_>>()
        };
        assert_eq!(held(&before, &hashed), held(&after, &hashed));
        let (before, after) = (held(&before, &Default::default()), held(&after, &Default::default()));
        let moved = before.iter().filter(|row| !after.contains(row)).count();
        assert!(moved <= 10, "{moved} rows moved");
    }

    #[test]
    fn groups_and_equal_texts_stay_together() {
        let grouped = SplitOptions { group_column: Some("author".into()), ..Default::default() };
        let all = rows(0, 140);
        let dataset = dataset(&all);
        let split = hold_out(&dataset, 0.3, &grouped).unwrap();
        assert!(split.held_out.iter().all(|&a| split.train.iter().all(|&b| all[a].2 != all[b].2)));
    }

    #[test]
    fn pairs_stay_together_through_chains_and_classes() {
        let dataset = dataset(&rows(0, 60));
        // 3, 17 and 41 by a chain; 8 is rare and 9 common.
        let together = vec![(41, 17), (17, 3), (8, 9)];
        for stratified in [true, false] {
            let options = SplitOptions { together: together.clone(), stratified, ..Default::default() };
            let folds = k_fold(&dataset, 4, &options).unwrap();
            let fold_of = |row: usize| folds.iter().position(|fold| fold.held_out.contains(&row));
            assert_eq!((fold_of(3), fold_of(8)), (fold_of(41), fold_of(9)));
            assert_eq!(fold_of(3), fold_of(17));
            let apart = SplitOptions { stratified, ..Default::default() };
            let before = k_fold(&dataset, 4, &apart).unwrap();
            assert_ne!(before, folds);
        }
    }

    #[test]
    fn the_latest_are_held_out_and_one_moment_is_not_cut() {
        let times = ["2024-03-01", "2024-01-01", "2024-02-01", "2024-03-01", "2023-12-24"];
        let rows: Vec<(String, &str, &str)> =
            times.iter().enumerate().map(|(n, &time)| (format!("text {n}"), "a", time)).collect();
        let dataset = dataset(&rows);
        let split = hold_out_latest(&dataset, 0.2, "author").unwrap();
        assert_eq!((split.train, split.held_out), (vec![1, 2, 4], vec![0, 3]));
        let one_day: Vec<(String, &str, &str)> =
            rows.iter().map(|(text, label, _)| (text.clone(), *label, "2024-01-01")).collect();
        let error = hold_out_latest(&super::tests::dataset(&one_day), 0.5, "author").unwrap_err().to_string();
        assert!(error.contains("nothing before"), "{error}");
    }

    #[test]
    fn a_class_of_one_would_vanish_and_is_an_error() {
        let mut all = rows(0, 40);
        all.push(("the only one".into(), "lonely", "ann"));
        let error = hold_out(&dataset(&all), 0.2, &SplitOptions::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            "t.csv: the held-out part would have no example of `lonely` (1 example in all); add examples, drop \
             the class, or give a validation file"
        );
    }

    #[test]
    fn folds_partition_the_rows_with_even_classes() {
        let dataset = dataset(&rows(0, 103));
        let folds = k_fold(&dataset, 5, &SplitOptions::default()).unwrap();
        let mut all: Vec<usize> = folds.iter().flat_map(|fold| fold.held_out.clone()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
        for fold in &folds {
            let counts = dataset.select(&fold.held_out).class_counts();
            assert!((15..=16).contains(&counts[0]) && (5..=6).contains(&counts[1]), "{counts:?}");
        }
    }
}
