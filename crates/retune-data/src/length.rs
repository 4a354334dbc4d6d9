//! What happens to a text that is longer than the model takes, and the account of it. Never silent.
#![expect(clippy::single_range_in_vec_init, reason = "a text is kept as a list of ranges, mostly of one")]

use crate::error::DataError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// What to do with a text of too many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// Keep the beginning.
    #[default]
    Truncate,
    /// Keep the end.
    Tail,
    /// Keep the first quarter and fill up with the end, the split that Sun et al. (2019, "How to Fine-Tune
    /// BERT for Text Classification?", section 5.3.1) found best.
    HeadTail,
    /// Cut it into windows; the task pools their logits.
    Window {
        /// Tokens that neighbouring windows share, as Hugging Face's `stride`.
        stride: usize,
    },
    /// Refuse it.
    Refuse,
}

/// The greatest length and what to do beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthPolicy {
    /// Tokens in a sequence at most, special tokens included.
    pub max_length: usize,
    /// What to do with longer ones.
    pub over_length: OverLength,
}

impl LengthPolicy {
    /// The room for text beside `special_tokens`.
    ///
    /// # Errors
    /// [`DataError::Setting`] when there is none, or when windows would not advance.
    pub(crate) fn budget(&self, special_tokens: usize) -> Result<usize, DataError> {
        let budget = self.max_length.saturating_sub(special_tokens);
        if budget == 0 {
            return Err(DataError::Setting(format!(
                "max_length = {} leaves no room for text beside {special_tokens} special tokens",
                self.max_length
            )));
        }
        if let OverLength::Window { stride } = self.over_length
            && stride * 2 >= budget
        {
            return Err(DataError::Setting(format!(
                "a window stride (overlap) of {stride} is too much for max_length = {}; at most {} works",
                self.max_length,
                (budget - 1) / 2
            )));
        }
        Ok(budget)
    }
}

/// The token ranges to keep of a text and of its pair.
pub(crate) type Kept = (Vec<Range<usize>>, Vec<Range<usize>>);

/// Lengths that two texts keep when cut to a budget from the longer one first, as Hugging Face's
/// `longest_first` does it in one go. Call it only when they don't fit.
pub(crate) fn longest_first(first: usize, second: usize, budget: usize) -> (usize, usize) {
    let short = first.min(second);
    let (short, long) =
        if short * 2 <= budget { (short, budget - short) } else { (budget / 2, budget - budget / 2) };
    if first <= second { (short, long) } else { (long, short) }
}

/// The windows of a text (and pair) that does not fit in `budget` tokens; one unless the policy makes several.
pub(crate) fn cut(first: usize, second: Option<usize>, budget: usize, over_length: OverLength) -> Vec<Kept> {
    if let OverLength::Window { stride } = over_length {
        return windows(first, second, budget, stride);
    }
    let (keep_first, keep_second) = match second {
        Some(second) => longest_first(first, second, budget),
        None => (budget, 0),
    };
    let part = |length: usize, keep: usize| match over_length {
        _ if keep >= length => whole(length),
        OverLength::Tail => vec![length - keep..length],
        OverLength::HeadTail => {
            let head = keep / 4;
            vec![0..head, length - (keep - head)..length]
        }
        _ => vec![0..keep],
    };
    vec![(part(first, keep_first), second.map(|second| part(second, keep_second)).unwrap_or_default())]
}

/// Slides over the longer text; the other stays whole up to half of the budget.
fn windows(first: usize, second: Option<usize>, budget: usize, stride: usize) -> Vec<Kept> {
    let over_first = second.is_none_or(|second| first >= second);
    let (long, short) = if over_first { (first, second.unwrap_or(0)) } else { (second.unwrap_or(0), first) };
    let short = short.min(budget / 2);
    let size = budget - short;
    // A pair's window can be half as wide as the stride was checked for.
    let step = size - stride.min(size - 1);
    let mut kept = Vec::new();
    let mut start = 0;
    loop {
        let window = vec![start..(start + size).min(long)];
        kept.push(if over_first { (window, whole(short)) } else { (whole(short), window) });
        if start + size >= long {
            return kept;
        }
        start += step;
    }
}

pub(crate) fn whole(length: usize) -> Vec<Range<usize>> {
    vec![0..length]
}

/// How long the texts of a dataset are, and what the policy did to them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LengthReport {
    /// Texts encoded.
    pub texts: usize,
    /// Sequences they became; more than `texts` only with windows.
    pub sequences: usize,
    /// Texts that lost tokens.
    pub truncated: usize,
    /// Texts cut into several windows.
    pub windowed: usize,
    /// The limit.
    pub max_length: usize,
    /// The longest text in tokens before cutting, special tokens included.
    pub longest: usize,
    /// Tokens in all sequences, after cutting.
    pub tokens: usize,
    /// Tokens before cutting.
    pub original_tokens: usize,
    /// Lengths before cutting that 50, 90, 95 and 99% of the texts do not exceed.
    pub percentiles: LengthPercentiles,
}

/// Nearest-rank percentiles of lengths in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LengthPercentiles {
    /// The median.
    pub p50: usize,
    /// 90 of 100 are no longer.
    pub p90: usize,
    /// 95 of 100.
    pub p95: usize,
    /// 99 of 100.
    pub p99: usize,
}

impl LengthPercentiles {
    /// From lengths in any order.
    pub(crate) fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let rank = |percent: usize| {
            let rank = (lengths.len() * percent).div_ceil(100).max(1);
            lengths.get(rank - 1).copied().unwrap_or(0)
        };
        LengthPercentiles { p50: rank(50), p90: rank(90), p95: rank(95), p99: rank(99) }
    }
}

impl fmt::Display for LengthReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} texts, {} tokens; median {}, 95% up to {}, longest {}",
            self.texts, self.tokens, self.percentiles.p50, self.percentiles.p95, self.longest
        )?;
        if self.truncated > 0 {
            let lost = 100.0 * self.original_tokens.saturating_sub(self.tokens) as f64
                / self.original_tokens.max(1) as f64;
            write!(
                formatter,
                "; {} cut to max_length = {} ({lost:.1}% of all tokens lost)",
                self.truncated, self.max_length
            )?;
        }
        if self.windowed > 0 {
            write!(formatter, "; {} read in windows ({} sequences)", self.windowed, self.sequences)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_text_is_cut_first() {
        // The cases of Hugging Face's own test, at a budget of 7.
        assert_eq!(longest_first(4, 4, 7), (3, 4));
        assert_eq!(longest_first(8, 2, 7), (5, 2));
        assert_eq!(longest_first(2, 8, 7), (2, 5));
        assert_eq!(longest_first(8, 4, 7), (4, 3));
        assert_eq!(longest_first(0, 8, 7), (0, 7));
    }

    #[test]
    fn windows_cover_the_text_and_overlap_by_the_stride() {
        let kept = windows(10, None, 4, 1);
        let ranges: Vec<_> = kept.into_iter().map(|(first, _)| first[0].clone()).collect();
        assert_eq!(ranges, [0..4, 3..7, 6..10]);
    }

    #[test]
    fn head_and_tail_keep_a_quarter_and_the_rest() {
        assert_eq!(cut(100, None, 8, OverLength::HeadTail), [(vec![0..2, 94..100], vec![])]);
        assert_eq!(cut(100, None, 8, OverLength::Tail), [(vec![92..100], vec![])]);
    }

    #[test]
    fn a_stride_that_would_not_advance_is_a_wrong_setting() {
        let policy = LengthPolicy { max_length: 10, over_length: OverLength::Window { stride: 4 } };
        assert!(policy.budget(2).unwrap_err().to_string().contains("at most 3 works"));
        assert!(policy.budget(10).is_err());
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let percentiles = LengthPercentiles::of((1..=100).rev().collect());
        assert_eq!(percentiles, LengthPercentiles { p50: 50, p90: 90, p95: 95, p99: 99 });
        assert_eq!(LengthPercentiles::of(vec![]).p99, 0);
    }
}
