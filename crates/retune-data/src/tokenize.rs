//! Texts to token ids, by the checkpoint's own tokenizer, cut to length as the policy says.
//!
//! Stands on the `tokenizers` crate for the pipeline up to the ids. Special tokens are set here, by a layout
//! learnt once from the tokenizer's own post-processor, because a text is cut before they go around it.

use crate::dataset::{TextDataset, TextExample};
use crate::error::DataError;
use crate::in_order::in_order;
use crate::length::{Kept, LengthPercentiles, LengthPolicy, LengthReport, OverLength, cut, whole};
use crate::tokenizer_files::{Loaded, TOKENIZER_FILES, load};
use crate::tokens::{ColumnBuilder, Sequence, TokenColumns};
use crate::word_memo::WordMemos;
use arrow_array::RecordBatch;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::{Token, Tokenizer};

/// Texts at most that a thread encodes at a time …
const PIECE_TEXTS: usize = 4096;
/// … and about so many bytes of them.
const PIECE_BYTES: usize = 4 << 20;

/// The ids of one sequence, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenSequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment ids: 1 for the second text of a BERT pair, else 0.
    pub type_ids: Vec<u32>,
}

/// One encoded text or pair.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// One sequence, or several under [`OverLength::Window`].
    pub windows: Vec<TokenSequence>,
    /// Tokens before cutting, special ones included.
    pub original_length: usize,
    /// True when tokens were lost.
    pub truncated: bool,
}

/// An encoded dataset, in its order: all or some of the texts of shared columns.
#[derive(Debug, Clone)]
pub struct EncodedDataset {
    columns: Arc<TokenColumns>,
    /// The texts of the columns that are meant; all of them if `None`.
    chosen: Option<Vec<u32>>,
    /// What the length policy did.
    pub report: LengthReport,
}

impl EncodedDataset {
    /// All texts of columns.
    pub fn new(columns: Arc<TokenColumns>, policy: &LengthPolicy) -> Self {
        Self::of(columns, None, policy)
    }

    /// Some texts of columns, in the order given.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn of_some(columns: Arc<TokenColumns>, chosen: Vec<u32>, policy: &LengthPolicy) -> Self {
        Self::of(columns, Some(chosen), policy)
    }

    fn of(columns: Arc<TokenColumns>, chosen: Option<Vec<u32>>, policy: &LengthPolicy) -> Self {
        let mut encoded = EncodedDataset { columns, chosen, report: LengthReport::default() };
        encoded.report = encoded.account(policy);
        encoded
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or(self.columns.len(), Vec::len)
    }

    /// True without texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&self, index: usize) -> usize {
        self.chosen.as_ref().map_or(index, |chosen| chosen[index] as usize)
    }

    /// The sequences of a text: one, or its windows.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn sequences(&self, index: usize) -> impl Iterator<Item = Sequence<'_>> + Clone {
        self.columns.sequences(self.place(index))
    }

    /// Tokens of a text in all its sequences, special ones included.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn tokens(&self, index: usize) -> usize {
        self.columns.tokens(self.place(index))
    }

    /// The encodings of some texts, copied out.
    ///
    /// # Panics
    /// If there are no such texts.
    pub fn encodings(&self, range: Range<usize>) -> Vec<Encoding> {
        range.map(|index| self.columns.encoding(self.place(index))).collect()
    }

    fn account(&self, policy: &LengthPolicy) -> LengthReport {
        let places = || (0..self.len()).map(|index| self.place(index));
        let lengths: Vec<usize> = places().map(|text| self.columns.original_length(text)).collect();
        let windows: Vec<usize> = places().map(|text| self.columns.sequences(text).count()).collect();
        LengthReport {
            texts: self.len(),
            sequences: windows.iter().sum(),
            truncated: places().filter(|&text| self.columns.is_truncated(text)).count(),
            windowed: windows.iter().filter(|&&windows| windows > 1).count(),
            max_length: policy.max_length,
            longest: lengths.iter().copied().max().unwrap_or(0),
            tokens: places().map(|text| self.columns.tokens(text)).sum(),
            original_tokens: lengths.iter().sum(),
            percentiles: LengthPercentiles::of(lengths),
        }
    }
}

/// A checkpoint's tokenizer.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
    directory: PathBuf,
    single: Layout,
    pair: Layout,
    model_max_length: Option<usize>,
    words: Option<WordMemos>,
}

/// Where special tokens stand around one or two texts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout(Vec<Piece>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Special { id: u32, type_id: u32 },
    First { type_id: u32 },
    Second { type_id: u32 },
}

impl TextTokenizer {
    /// Loads the tokenizer of a checkpoint folder: `tokenizer.json`, else built from `vocab.txt` (WordPiece, as
    /// Hugging Face's `BertTokenizer`), else from `vocab.json` + `merges.txt` (byte-level BPE, as its
    /// `RobertaTokenizer`). Truncation and padding settings inside the files are not used.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] when files are missing, broken or lack the special tokens `model_type` needs.
    pub fn from_directory(directory: &Path, model_type: &str) -> Result<Self, DataError> {
        let Loaded { tokenizer, path, model_max_length } = load(directory, model_type)?;
        let layout = |pair| {
            Layout::of(&tokenizer, pair)
                .map_err(|message| DataError::Tokenizer { path: path.clone(), message })
        };
        let (single, pair) = (layout(false)?, layout(true)?);
        let words = WordMemos::of(&tokenizer);
        Ok(TextTokenizer {
            words,
            tokenizer,
            path,
            directory: directory.to_path_buf(),
            single,
            pair,
            model_max_length,
        })
    }

    /// The tokenizer's files, which an artifact takes along.
    pub fn files(&self) -> Vec<PathBuf> {
        TOKENIZER_FILES.iter().map(|name| self.directory.join(name)).filter(|path| path.is_file()).collect()
    }

    /// The greatest length that `tokenizer_config.json` names, special tokens included.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// Number of tokens, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The token of an id, for explanations.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Special tokens around a single text, and around a pair.
    pub fn special_tokens(&self) -> (usize, usize) {
        (self.single.special_tokens(), self.pair.special_tokens())
    }

    /// Checks that every id fits in an embedding table of `vocab_size` rows.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] naming the first token that does not: tokenizer and model do not belong together.
    pub fn check_against_model(&self, vocab_size: usize) -> Result<(), DataError> {
        let vocabulary = self.tokenizer.get_vocab(true);
        let beyond =
            vocabulary.iter().filter(|(_, id)| **id as usize >= vocab_size).min_by_key(|(_, id)| **id);
        match beyond {
            None => Ok(()),
            Some((token, id)) => Err(DataError::Tokenizer {
                path: self.path.clone(),
                message: format!(
                    "token `{token}` has id {id}, but the model's embedding table has {vocab_size} rows; \
                     tokenizer and model do not belong together"
                ),
            }),
        }
    }

    /// Encodes a text, or a pair of texts.
    ///
    /// # Errors
    /// [`DataError::TooLong`] under [`OverLength::Refuse`], [`DataError::Setting`] for a policy that leaves no
    /// room, [`DataError::Tokenizer`] when the tokenizer fails.
    pub fn encode(
        &self,
        text: &str,
        pair: Option<&str>,
        policy: &LengthPolicy,
    ) -> Result<Encoding, DataError> {
        let layout = if pair.is_some() { &self.pair } else { &self.single };
        let special_tokens = layout.special_tokens();
        let budget = policy.budget(special_tokens)?;
        let first = self.ids(text)?;
        let second = pair.map(|pair| self.ids(pair)).transpose()?.unwrap_or_default();
        let length = first.len() + second.len();
        let original_length = length + special_tokens;
        if length <= budget {
            let windows = vec![layout.frame(&first, &second, &(whole(first.len()), whole(second.len())))];
            return Ok(Encoding { windows, original_length, truncated: false });
        }
        if policy.over_length == OverLength::Refuse {
            return Err(DataError::TooLong {
                sequence: "the text".to_owned(),
                length: original_length,
                max_length: policy.max_length,
            });
        }
        let kept = cut(first.len(), pair.map(|_| second.len()), budget, policy.over_length);
        let truncated = match policy.over_length {
            // Windows lose tokens only of the other text of a pair, when that is cut to half the room.
            OverLength::Window { .. } => pair.is_some() && first.len().min(second.len()) > budget / 2,
            _ => true,
        };
        let windows = kept.iter().map(|kept| layout.frame(&first, &second, kept)).collect();
        Ok(Encoding { windows, original_length, truncated })
    }

    /// Encodes all examples of a dataset on `threads` threads; the result does not depend on their number.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), with the file and line of the text.
    pub fn encode_dataset(
        &self,
        dataset: &TextDataset,
        policy: &LengthPolicy,
        threads: usize,
    ) -> Result<EncodedDataset, DataError> {
        let examples: Vec<&TextExample> = dataset.examples.iter().collect();
        let columns = self.encode_examples(dataset.path(), &examples, policy, threads)?;
        Ok(EncodedDataset::new(Arc::new(columns), policy))
    }

    /// Encodes examples of a file into columns in memory.
    ///
    /// # Errors
    /// As [`encode_dataset`](Self::encode_dataset).
    pub fn encode_examples(
        &self,
        path: &Path,
        examples: &[&TextExample],
        policy: &LengthPolicy,
        threads: usize,
    ) -> Result<TokenColumns, DataError> {
        let mut batches = Vec::new();
        self.encode_in_pieces(path, examples, policy, threads, |batch| {
            batches.push(batch);
            Ok(())
        })?;
        TokenColumns::from_batches(&batches).ok_or_else(|| self.broken("its columns do not fit each other"))
    }

    /// Encodes examples of a file piece by piece and hands the pieces on in order; only a few are in memory.
    pub(crate) fn encode_in_pieces(
        &self,
        path: &Path,
        examples: &[&TextExample],
        policy: &LengthPolicy,
        threads: usize,
        take: impl FnMut(RecordBatch) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let pieces = cut_into_pieces(examples);
        let encode_piece = |piece: usize| {
            let mut builder = ColumnBuilder::default();
            for example in &examples[pieces[piece].clone()] {
                let encoding = self.encode(&example.text, example.text_pair.as_deref(), policy);
                builder.push(&encoding.map_err(|error| match error {
                    DataError::TooLong { length, max_length, .. } => {
                        let sequence = format!("{}:{}: the text", path.display(), example.line);
                        DataError::TooLong { sequence, length, max_length }
                    }
                    other => other,
                })?);
            }
            builder.finish().map_err(|error| self.broken(&error.to_string()))
        };
        in_order(pieces.len(), threads, encode_piece, take)
    }

    /// A hash of all that decides what a text is encoded to, beside the length policy.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the pipeline cannot be written down.
    pub fn fingerprint(&self) -> Result<[u8; 32], DataError> {
        let pipeline = self.tokenizer.to_string(false).map_err(|error| self.broken(&error.to_string()))?;
        let layouts = format!("{:?} {:?} ", self.single, self.pair);
        Ok(Sha256::new().chain_update(layouts).chain_update(pipeline).finalize().into())
    }

    fn broken(&self, message: &str) -> DataError {
        DataError::Tokenizer { path: self.path.clone(), message: message.to_owned() }
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encode = |text: &str| match self.tokenizer.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => {
                let excerpt = crate::finding::excerpt(text, 40);
                Err(self.broken(&format!("cannot encode “{excerpt}”: {error}")))
            }
        };
        match &self.words {
            Some(words) => words.ids(text, encode),
            None => encode(text),
        }
    }
}

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TextTokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Layout {
    /// Learns the layout by sending one sentinel per text through the post-processor.
    fn of(tokenizer: &Tokenizer, pair: bool) -> Result<Self, String> {
        const FIRST: u32 = u32::MAX;
        const SECOND: u32 = u32::MAX - 1;
        let sentinel =
            |id| tokenizers::Encoding::from_tokens(vec![Token::new(id, "x".to_owned(), (0, 1))], 0);
        let framed = tokenizer
            .post_process(sentinel(FIRST), pair.then(|| sentinel(SECOND)), true)
            .map_err(|error| format!("its post-processor fails: {error}"))?;
        let pieces: Vec<Piece> = framed
            .get_ids()
            .iter()
            .zip(framed.get_type_ids())
            .map(|(&id, &type_id)| match id {
                FIRST => Piece::First { type_id },
                SECOND => Piece::Second { type_id },
                id => Piece::Special { id, type_id },
            })
            .collect();
        let has = |wanted: fn(&Piece) -> bool| pieces.iter().filter(|piece| wanted(piece)).count() == 1;
        if !has(|piece| matches!(piece, Piece::First { .. }))
            || (pair && !has(|piece| matches!(piece, Piece::Second { .. })))
        {
            return Err("its post-processor drops or repeats the text".to_owned());
        }
        Ok(Layout(pieces))
    }

    fn special_tokens(&self) -> usize {
        self.0.iter().filter(|piece| matches!(piece, Piece::Special { .. })).count()
    }

    fn frame(&self, first: &[u32], second: &[u32], kept: &Kept) -> TokenSequence {
        let mut sequence = TokenSequence::default();
        for piece in &self.0 {
            let type_id = match *piece {
                Piece::Special { id, type_id } => {
                    sequence.ids.push(id);
                    type_id
                }
                Piece::First { type_id } => {
                    kept.0.iter().for_each(|range| sequence.ids.extend_from_slice(&first[range.clone()]));
                    type_id
                }
                Piece::Second { type_id } => {
                    kept.1.iter().for_each(|range| sequence.ids.extend_from_slice(&second[range.clone()]));
                    type_id
                }
            };
            sequence.type_ids.resize(sequence.ids.len(), type_id);
        }
        sequence
    }
}

/// Cuts texts into pieces for threads, by the texts alone.
fn cut_into_pieces(examples: &[&TextExample]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, example) in examples.iter().enumerate() {
        bytes += example.text.len() + example.text_pair.as_ref().map_or(0, String::len);
        if index + 1 - start == PIECE_TEXTS || bytes >= PIECE_BYTES || index + 1 == examples.len() {
            pieces.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
        }
    }
    pieces
}
