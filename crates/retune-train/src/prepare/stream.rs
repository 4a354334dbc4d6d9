//! Training texts that are streamed: read, tokenized and let go piece by piece. Validation and test data are in memory as
//! ever.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use retune_checkpoint::{FileHash, hash_file};
use retune_data::{
    CheckOptions, DataError, DatasetOptions, EncodedDataset, Finding, LabelSet, LengthPolicy, Modality,
    OnMissing, PIECE_ROWS, ReadOptions, RoleOverrides, Roles, SharedTexts, StreamSample, StreamSource, Table,
    TextDataset, TextStream, TextTokenizer, TokenCache, TokenStream, check_table, infer_roles, read_pieces,
    read_table,
};

use super::data::{
    labels_of_model, read_options, refuse_errors, require_labels, role_overrides, training_path,
};
use crate::TrainError;
use crate::data_check::apply_missing_policy;
use crate::event::Event;
use crate::recipe::Recipe;
use crate::text::StreamedRows;
use crate::trainee::Split;

/// What is said of a class or a column by looking at all rows, which a sample of them cannot say.
const OF_ALL_ROWS: &[&str] = &["single-class", "rare-class", "too-many-classes"];

/// Data whose training texts were streamed.
pub(super) struct Streamed {
    pub(super) rows: StreamedRows,
    pub(super) encoded: EncodedDataset,
    /// The training file's hash.
    pub(super) hash: FileHash,
    /// Validation and test data.
    pub(super) others: BTreeMap<Split, TextDataset>,
}

/// How texts become token ids.
pub(super) struct Encoder<'a> {
    pub(super) tokenizer: &'a TextTokenizer,
    pub(super) policy: &'a LengthPolicy,
    pub(super) cache: &'a TokenCache,
    pub(super) threads: usize,
    /// Whether the token ids stay for other runs.
    pub(super) is_kept: bool,
}

/// Streams the training data of a recipe and reads the other; what the checks found comes beside.
pub(super) fn read(
    recipe: &Recipe,
    is_fold: bool,
    of_model: Option<&LabelSet>,
    encoder: &Encoder<'_>,
    tell: &mut dyn FnMut(Event),
) -> Result<(Streamed, Vec<Finding>), TrainError> {
    refuse_what_needs_texts(recipe, is_fold)?;
    let (path, options) = (training_path(recipe)?, read_options(recipe)?);
    let overrides = RoleOverrides { modality: Modality::Text, ..role_overrides(recipe) };
    let on_missing = OnMissing::from(recipe.data.missing_label);
    let mut others: Vec<(Split, Table)> = Vec::new();
    for (split, path) in [(Split::Validation, &recipe.data.validation), (Split::Test, &recipe.data.test)] {
        if let Some(path) = path {
            others.push((split, read_table(Path::new(path), &options)?));
        }
    }
    let hash = hash_file(path)?;
    let begin = Begin { hash: &hash, options: &options, on_missing, encoder };
    let mut pass: Option<Pass<'_>> = None;
    let mut findings = read_pieces(path, &options, PIECE_ROWS, &mut |piece| {
        let pass = match &mut pass {
            Some(pass) => pass,
            None => pass.insert(begin.pass(&piece, &overrides, &others, tell)?),
        };
        pass.shared.iter_mut().for_each(|(_, shared)| shared.observe((&piece, &pass.roles)));
        pass.tokens.push(&pass.stream.take(piece)?)
    })?;
    let Some(pass) = pass else { unreachable!("a file without rows was refused") };
    let Pass { roles, stream, tokens, shared, others: other_roles } = pass;
    let columns = tokens.finish()?;
    let (mut texts, StreamSample { table: sample, one_in }) = stream.finish()?;
    let checked = check_table(&sample, &roles, &CheckOptions::default());
    findings
        .extend(checked.into_iter().filter(|finding| one_in == 1 || !OF_ALL_ROWS.contains(&finding.code)));
    if one_in > 1 {
        let message = format!(
            "the checks have looked at one in {one_in} of its {} rows; `retune data check` looks at all",
            texts.len()
        );
        findings.push(Finding::info("checked-in-part", path, message));
    }
    drop(sample);
    findings.append(&mut texts.about.findings);
    let mut copies = BTreeMap::new();
    for (split, shared) in shared {
        copies.insert(split, shared.finish(path, &mut findings));
    }
    let check = CheckOptions { is_training: false, ..CheckOptions::default() };
    for ((_, table), roles) in others.iter().zip(&other_roles) {
        findings.extend(check_table(table, roles, &check));
    }
    apply_missing_policy(&mut findings, recipe.data.missing_label);
    refuse_errors(&findings)?;
    if let Some(labels) = labels_of_model(of_model, &texts.about.labels) {
        texts.relabel(&labels);
    }
    let options = DatasetOptions { labels: Some(texts.about.labels.clone()), on_missing };
    let mut datasets = BTreeMap::new();
    for ((split, table), roles) in others.into_iter().zip(other_roles) {
        datasets.insert(split, TextDataset::new(table, roles, &options)?);
    }
    for finding in datasets.values().flat_map(|dataset| &dataset.findings) {
        tell(Event::warning("data", finding.to_string()));
    }
    let encoded = EncodedDataset::new(Arc::new(columns), encoder.policy);
    let rows = StreamedRows { texts, copies };
    Ok((Streamed { rows, encoded, hash, others: datasets }, findings))
}

/// What goes along with the pieces.
struct Pass<'a> {
    roles: Roles,
    stream: TextStream,
    tokens: TokenStream<'a>,
    shared: Vec<(Split, SharedTexts<'a>)>,
    /// The roles of the other splits' columns.
    others: Vec<Roles>,
}

/// What is known before the first piece.
struct Begin<'a> {
    hash: &'a FileHash,
    options: &'a ReadOptions,
    on_missing: OnMissing,
    encoder: &'a Encoder<'a>,
}

impl<'a> Begin<'a> {
    fn pass(
        &self,
        first: &Table,
        overrides: &RoleOverrides,
        tables: &'a [(Split, Table)],
        tell: &mut dyn FnMut(Event),
    ) -> Result<Pass<'a>, DataError> {
        let roles = infer_roles(first, overrides)?;
        require_labels(first, &roles).map_err(|error| DataError::Setting(error.to_string()))?;
        let (mut shared, mut others) = (Vec::new(), Vec::new());
        for (split, table) in tables {
            let there = roles.in_table(first, table, true)?;
            shared.push((*split, SharedTexts::new(table, there.clone())));
            others.push(there);
        }
        let tokens = self.tokens(&first.path, &roles, tell)?;
        let stream = TextStream::new(first, roles.clone(), self.on_missing);
        Ok(Pass { roles, stream, tokens, shared, others })
    }

    /// The file's token ids: found under all that decides which texts come, or begun.
    fn tokens(
        &self,
        path: &Path,
        roles: &Roles,
        tell: &mut dyn FnMut(Event),
    ) -> Result<TokenStream<'a>, DataError> {
        let Encoder { tokenizer, policy, cache, threads, is_kept } = *self.encoder;
        let columns =
            (roles.content, roles.text_pair, &roles.labels, roles.target_kind, roles.label_separator);
        let identity = format!("{} {:?} {columns:?} {:?}", self.hash.sha256, self.options, self.on_missing);
        // A token takes four bytes for about four of text, and four more where pairs have segment ids.
        let bytes = self.hash.size.saturating_mul(2);
        let source = StreamSource { identity: &identity, bytes, is_kept };
        let mut failures = Vec::new();
        let tokens = cache.stream(tokenizer, path, (policy, threads), source, &mut failures)?;
        if tokens.is_found() {
            tell(Event::note(format!("{}: token ids found in the cache", path.display())));
        }
        failures.into_iter().for_each(|failure| tell(Event::warning("token-cache", failure)));
        Ok(tokens)
    }
}

/// What cannot be had of texts that are let go.
fn refuse_what_needs_texts(recipe: &Recipe, is_fold: bool) -> Result<(), TrainError> {
    let data = &recipe.data;
    let own_file = "keep rows apart in a file of their own and name it in data.validation";
    let new_texts = "it makes other texts in every epoch";
    let set = [
        ("data.validation_split", data.validation_split.is_some(), own_file),
        ("cross-validation", is_fold, own_file),
        ("data.group_column", data.group_column.is_some(), "groups are compared in memory"),
        ("data.review", data.review.is_some(), "apply the decisions to the file first"),
        ("augmentation of texts", !recipe.augmentation.to_text_augmentation().is_none(), new_texts),
        ("augmentation by paraphrases", recipe.augmentation.has_paraphrases(), new_texts),
    ];
    match set.into_iter().find(|(_, is_set, _)| *is_set) {
        Some((key, _, why)) => Err(TrainError::Setting(format!(
            "data.stream lets training texts go once they are tokenized, so {key} cannot be had with it: {why}"
        ))),
        None => Ok(()),
    }
}
