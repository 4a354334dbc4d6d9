//! Token ids are those of Hugging Face's tokenizers, whichever files they are loaded from.
//! The golden files are made by `fixtures/tokenize/make_golden.py`.

use proptest::prelude::*;
use retune_data::{
    DataError, DatasetOptions, LengthPolicy, OverLength, ReadOptions, RoleOverrides, TextDataset,
    TextTokenizer, infer_roles, read_bytes,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Case {
    text: String,
    pair: Option<String>,
    max_length: Option<usize>,
    ids: Vec<u32>,
    type_ids: Vec<u32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenize").join(name)
}

fn policy(max_length: usize, over_length: OverLength) -> LengthPolicy {
    LengthPolicy { max_length, over_length }
}

fn assert_golden(folder: &str, golden: &str, model_type: &str) {
    let tokenizer = TextTokenizer::from_directory(&fixture(folder), model_type).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(fixture(golden)).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let policy = policy(case.max_length.unwrap_or(10_000), OverLength::Truncate);
        let encoding = tokenizer.encode(&case.text, case.pair.as_deref(), &policy).unwrap();
        let sequence = &encoding.windows[0];
        if sequence.ids != case.ids || sequence.type_ids != case.type_ids {
            wrong.push(format!(
                "{:?} {:?} {:?}\n  ours  {:?}\n  wants {:?}",
                case.text, case.pair, case.max_length, sequence, case.ids
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn word_piece_from_tokenizer_json_gives_hugging_faces_ids() {
    assert_golden("wordpiece/saved", "wordpiece/golden.json", "bert");
}

#[test]
fn word_piece_from_vocab_txt_gives_hugging_faces_ids() {
    assert_golden("wordpiece", "wordpiece/golden.json", "bert");
}

#[test]
fn byte_level_bpe_from_tokenizer_json_gives_hugging_faces_ids() {
    assert_golden("bytelevel/saved", "bytelevel/golden.json", "roberta");
}

#[test]
fn byte_level_bpe_from_vocab_and_merges_gives_hugging_faces_ids() {
    assert_golden("bytelevel", "bytelevel/golden.json", "roberta");
}

proptest! {
    // What the memo of words assumes: a text's ids are those of its words, whatever characters it is made of.
    #[test]
    fn a_text_is_its_words_for_word_piece(pieces in proptest::collection::vec(
        prop_oneof![
            Just(" ".to_owned()),
            Just("  ".to_owned()),
            Just("[MASK]".to_owned()),
            Just("\u{301}".to_owned()),
            Just("\u{a0}".to_owned()),
            Just("\t".to_owned()),
            Just("ΑΣ".to_owned()),
            Just("中文".to_owned()),
            "[a-zA-Z.,'é-]{1,6}",
            any::<String>(),
        ],
        0..24,
    )) {
        let text = pieces.concat();
        for folder in ["wordpiece", "wordpiece/saved"] {
            let plain = tokenizers::Tokenizer::from_file(fixture("wordpiece/saved/tokenizer.json")).unwrap();
            let whole = plain.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
            let tokenizer = TextTokenizer::from_directory(&fixture(folder), "bert").unwrap();
            let policy = policy(100_000, OverLength::Refuse);
            let ids = |text: &str| {
                let framed = tokenizer.encode(text, None, &policy).unwrap().windows.remove(0).ids;
                framed[1..framed.len() - 1].to_vec()
            };
            prop_assert_eq!(&ids(&text), &whole, "first time, {:?}", text);
            prop_assert_eq!(&ids(&text), &whole, "from memory, {:?}", text);
        }
    }
}

#[test]
fn windows_cover_every_token_and_share_the_stride() {
    let tokenizer = TextTokenizer::from_directory(&fixture("wordpiece"), "bert").unwrap();
    let text = "the quick brown fox jumps over the lazy dog and I want my money back";
    let all = tokenizer.encode(text, None, &policy(1000, OverLength::Refuse)).unwrap().windows.remove(0).ids;
    let encoding = tokenizer.encode(text, None, &policy(9, OverLength::Window { stride: 2 })).unwrap();
    assert!(encoding.windows.len() > 1 && !encoding.truncated);
    let mut joined = Vec::new();
    for (index, window) in encoding.windows.iter().enumerate() {
        assert!(window.ids.len() <= 9);
        assert_eq!((window.ids.first(), window.ids.last()), (all.first(), all.last()));
        let text_ids = &window.ids[1..window.ids.len() - 1];
        joined.extend_from_slice(if index == 0 { text_ids } else { &text_ids[2..] });
    }
    assert_eq!(joined, all[1..all.len() - 1]);
}

#[test]
fn tail_and_head_tail_keep_the_ends_they_name() {
    let tokenizer = TextTokenizer::from_directory(&fixture("wordpiece"), "bert").unwrap();
    let text = "the quick brown fox jumps over the lazy dog and I want my money back";
    let ids = |max_length, over_length| {
        tokenizer.encode(text, None, &policy(max_length, over_length)).unwrap().windows.remove(0).ids
    };
    let all = ids(1000, OverLength::Refuse);
    let last = all.len() - 1;
    let tail = ids(10, OverLength::Tail);
    assert_eq!(tail[1..9], all[last - 8..last]);
    let head_tail = ids(10, OverLength::HeadTail);
    assert_eq!(head_tail[1..3], all[1..3]);
    assert_eq!(head_tail[3..9], all[last - 6..last]);
}

#[test]
fn a_dataset_is_encoded_alike_on_any_number_of_threads_and_accounts_for_its_lengths() {
    let tokenizer = TextTokenizer::from_directory(&fixture("wordpiece"), "bert").unwrap();
    let rows: String =
        (1..=50).map(|words| format!("{},{}\n", "parcel ".repeat(words).trim(), words % 2)).collect();
    let table =
        read_bytes(Path::new("t.csv"), format!("text,label\n{rows}").into_bytes(), &ReadOptions::default())
            .unwrap();
    let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
    let dataset = TextDataset::new(table, roles, &DatasetOptions::default()).unwrap();
    let one = tokenizer.encode_dataset(&dataset, &policy(22, OverLength::Truncate), 1).unwrap();
    let three = tokenizer.encode_dataset(&dataset, &policy(22, OverLength::Truncate), 3).unwrap();
    assert_eq!(one.encodings(0..50), three.encodings(0..50));
    // "parcel" is one token: texts of 1 to 50 words have 3 to 52 tokens, and 30 of them more than 22.
    assert_eq!(
        (one.report.texts, one.report.truncated, one.report.longest, one.report.percentiles.p50),
        (50, 30, 52, 27)
    );
    let error =
        tokenizer.encode_dataset(&dataset, &policy(22, OverLength::Refuse), 2).unwrap_err().to_string();
    assert!(error.starts_with("t.csv:22: the text is 23 tokens long, more than max_length = 22"), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_is_noticed() {
    let tokenizer = TextTokenizer::from_directory(&fixture("bytelevel"), "roberta").unwrap();
    assert!(tokenizer.check_against_model(tokenizer.vocabulary_size()).is_ok());
    let error = tokenizer.check_against_model(499).unwrap_err().to_string();
    assert!(error.contains("has id 499, but the model's embedding table has 499 rows"), "{error}");
}

#[test]
fn a_folder_without_or_with_a_broken_tokenizer_is_an_error_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let load = || TextTokenizer::from_directory(folder.path(), "bert").map(|_| ()).unwrap_err();
    assert!(load().to_string().contains("no tokenizer here: looked for tokenizer.json, vocab.txt"));
    std::fs::write(folder.path().join("sentencepiece.bpe.model"), b"").unwrap();
    assert!(load().to_string().contains("save_pretrained"));
    std::fs::write(folder.path().join("vocab.txt"), "the\nparcel\n").unwrap();
    assert!(load().to_string().contains("the vocabulary lacks `[UNK]`, the unk_token"));
    std::fs::write(folder.path().join("tokenizer.json"), "{\"version\":").unwrap();
    assert!(matches!(load(), DataError::Tokenizer { .. }));
}
