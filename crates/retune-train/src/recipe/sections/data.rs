//! `[data]`: files, columns, what to do with rows that do not fit, and how a sample enters the network.

use std::collections::BTreeMap;

use retune_data::image::Interpolation;
use serde::{Deserialize, Serialize};

use super::OneOrMore;

/// `[data]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// The training file.
    pub train: Option<String>,
    /// The validation file.
    pub validation: Option<String>,
    /// The test file.
    pub test: Option<String>,
    /// The share of the training rows that becomes the validation split.
    pub validation_split: Option<f64>,
    /// A person's decisions about rows of the training file.
    pub review: Option<String>,
    /// The column of texts.
    pub text_column: Option<String>,
    /// The column of second texts, for pairs.
    pub text_pair_column: Option<String>,
    /// The column of pictures or of paths to them.
    pub image_column: Option<String>,
    /// The column of labels or numbers.
    pub label_column: Option<OneOrMore>,
    /// The character that joins several labels in one cell; found out if unset.
    pub label_separator: Option<char>,
    /// The column of names that the predictions carry.
    pub id_column: Option<String>,
    /// The column of groups that no split may cut through.
    pub group_column: Option<String>,
    /// The column of times by which the validation split is held out.
    pub time_column: Option<String>,
    /// Where near copies go when training rows are held out.
    pub near_copies: NearCopies,
    /// The columns' names, for a file without a header.
    pub columns: Option<Vec<String>>,
    /// Whether the first row is a header; found out if unset.
    pub has_header: Option<bool>,
    /// The field separator; found out if unset.
    pub delimiter: Option<String>,
    /// The character encoding; found out if unset.
    pub encoding: Option<String>,
    /// The file format; by the file's name if unset.
    pub format: Option<String>,
    /// What to do with a row that cannot be read.
    pub on_bad_row: BadRowPolicy,
    /// What to do with a row without a label.
    pub missing_label: MissingPolicy,
    /// What empty cells of a column are filled with.
    pub fill_missing: BTreeMap<String, String>,
    /// Columns whose empty cells have their row left out.
    pub drop_missing: Vec<String>,
    /// Columns whose empty cells refuse the data.
    pub refuse_missing: Vec<String>,
    /// The greatest number of tokens of a sample; the model's if unset.
    pub max_length: Option<usize>,
    /// What to do with a text that is longer.
    pub over_length: OverLength,
    /// Tokens that neighbouring windows share.
    pub stride: Option<usize>,
    /// Height and width of the network's input; the checkpoint's if unset.
    pub image_size: Option<usize>,
    /// The share of a scaled picture's shorter side that is kept in evaluation.
    pub crop_pct: Option<f64>,
    /// How pictures are scaled.
    pub interpolation: Option<Interpolation>,
    /// What pictures are converted to.
    pub channels: Option<Channels>,
    /// The mean of each channel.
    pub image_mean: Option<Vec<f32>>,
    /// The standard deviation of each channel.
    pub image_std: Option<Vec<f32>>,
    /// Threads that make pictures and views of texts ready; as many as `train.threads` if unset.
    pub workers: Option<usize>,
    /// Whether training texts are streamed.
    pub stream: bool,
    /// Whether token ids are kept for other runs.
    pub token_cache: TokenCacheMode,
    /// Bytes of token ids on disk at most, those of other runs included; 16 GiB if unset.
    pub token_cache_disk_bytes: Option<u64>,
}

/// Whether token ids are kept in Retune's cache folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenCacheMode {
    /// Those of large data.
    #[default]
    Auto,
    /// All of them.
    On,
    /// None.
    Off,
}

/// What pictures are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// One channel.
    #[serde(alias = "gray")]
    Grey,
    /// Red, green and blue.
    Rgb,
    /// Red, green, blue and opacity.
    Rgba,
}

impl Channels {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// What to do with a row that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRowPolicy {
    /// Stop.
    #[default]
    Refuse,
    /// Leave it out and count it.
    Skip,
}

/// What to do with a row without a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Stop.
    #[default]
    Refuse,
    /// Leave it out and count it.
    Drop,
}

/// Where rows that say nearly the same go when some of them are held out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NearCopies {
    /// Each to its own place.
    #[default]
    Apart,
    /// All to one side.
    Together,
}

/// What to do with a text that is longer than the greatest length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// Keep the beginning.
    #[default]
    Truncate,
    /// Keep the end.
    Tail,
    /// Keep the beginning and the end.
    HeadTail,
    /// Cut into overlapping windows and average their logits.
    Window,
    /// Stop.
    Refuse,
}
