//! From data files to batches: read → check → assign roles → split → encode → batch.
//!
//! Texts and pictures, behind the same findings, splits and batch order; audio will sit beside them. Nothing here knows
//! of tensors or models: what leaves are token ids and pixels.
#![forbid(unsafe_code)]

mod batch;
mod check;
mod clean;
mod csv;
mod dataset;
mod dialect;
mod encoding;
mod error;
mod export;
mod finding;
pub mod image;
mod in_order;
mod jsonl;
mod labels;
mod leakage;
mod length;
mod paraphrase;
mod parquet;
mod parquet_writer;
mod profile;
mod read;
mod read_ahead;
mod roles;
mod scan;
mod similar;
mod split;
mod stream;
mod table;
mod text_augment;
mod token_cache;
mod token_stream;
mod tokenize;
mod tokenizer_files;
mod tokens;
mod word_memo;

pub use batch::{BatchOrder, EpochBatches};
pub use check::{CheckOptions, check_table};
pub use clean::{Change, Fix, clean_table, read_repaired};
pub use dataset::{Dataset, DatasetOptions, Example, OnMissing, Target, TextDataset, TextExample};
pub use error::{DataError, nearest};
pub use export::{dataset_hash, write_delimited, write_json_lines, write_table};
pub use finding::{Finding, Severity};
pub use labels::LabelSet;
pub use leakage::{SharedTexts, check_groups, check_splits};
pub use length::{LengthPercentiles, LengthPolicy, LengthReport, OverLength};
pub use paraphrase::{ParaphraseReport, Paraphrases, paraphrase_id};
pub use parquet_writer::{FeatureColumn, write_parquet};
pub use profile::{
    Bin, ClassProfile, ColumnKind, ColumnProfile, ColumnRole, Distribution, PictureProfile, RowProfile,
    TableProfile, profile_table,
};
pub use read::{DEFAULT_MAX_FIELD_BYTES, Format, OnBadRow, ReadOptions, read_bytes, read_pieces, read_table};
pub use read_ahead::{AheadRequest, ReadAhead};
pub use roles::{Modality, RoleOverrides, Roles, TargetKind, infer_modality, infer_roles};
pub use similar::{Contents, Similar, similar_texts, similar_to};
pub use split::{Split, SplitOptions, hold_out, hold_out_latest, k_fold};
pub use stream::{PIECE_ROWS, StreamSample, StreamedTexts, TextStream};
pub use table::{Row, Table, Value};
pub use text_augment::TextAugmentation;
pub use token_cache::{TOKENS, TokenAbout, TokenCache, TokenCacheUse, TokenSet, list_tokens, tidy_tokens};
pub use token_stream::{StreamSource, TokenStream};
pub use tokenize::{EncodedDataset, Encoding, TextTokenizer, TokenSequence};
pub use tokens::{Sequence, TokenColumns, TokenFile};
