//! Token ids of words that were met before.
//!
//! A WordPiece tokenizer with BERT's normalizer and pre-tokenizer reads a text word by word: each character is normalized
//! by itself or with the marks that follow it, a space always separates, and a piece never reaches over one. So a text's
//! ids are its words' ids one after the other, and natural text repeats its words. For other pipelines this does not hold
//! and nothing is remembered.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// Words that a memo holds at most: about 20 MB.
const MAX_WORDS: usize = 1 << 17;
/// Longer ones are rare and not remembered.
const MAX_WORD_BYTES: usize = 48;

/// The memos of a tokenizer's threads: each takes one and puts it back.
#[derive(Default)]
pub(crate) struct WordMemos(Mutex<Vec<WordMemo>>);

#[derive(Default)]
struct WordMemo {
    places: HashMap<Box<str>, Range<u32>>,
    ids: Vec<u32>,
}

impl WordMemos {
    /// Memos for a tokenizer, if it reads word by word.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let reads_words = matches!(tokenizer.get_model(), ModelWrapper::WordPiece(_))
            && matches!(tokenizer.get_normalizer(), Some(NormalizerWrapper::BertNormalizer(_)))
            && matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)));
        let mut added = tokenizer.get_added_tokens_decoder().into_values();
        let added_are_words = added.all(|token| !token.content.contains(char::is_whitespace));
        (reads_words && added_are_words).then(Self::default)
    }

    /// The ids of a text, given what makes ids of a word.
    pub fn ids<E>(&self, text: &str, encode: impl Fn(&str) -> Result<Vec<u32>, E>) -> Result<Vec<u32>, E> {
        let mut memo = self.lock().pop().unwrap_or_default();
        let ids = memo.ids(text, encode);
        self.lock().push(memo);
        ids
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<WordMemo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WordMemo {
    fn ids<E>(&mut self, text: &str, encode: impl Fn(&str) -> Result<Vec<u32>, E>) -> Result<Vec<u32>, E> {
        // English has about five tokens to four words of six bytes.
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if let Some(place) = self.places.get(word) {
                ids.extend_from_slice(&self.ids[place.start as usize..place.end as usize]);
                continue;
            }
            let new = encode(word)?;
            if word.len() <= MAX_WORD_BYTES && self.places.len() < MAX_WORDS {
                let start = self.ids.len() as u32;
                self.ids.extend_from_slice(&new);
                self.places.insert(word.into(), start..self.ids.len() as u32);
            }
            ids.extend(new);
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_word_is_encoded_once_and_an_overlong_one_each_time() {
        let memos = WordMemos::default();
        let calls = Cell::new(0);
        let encode = |word: &str| {
            calls.set(calls.get() + 1);
            Ok::<_, ()>(vec![word.len() as u32])
        };
        assert_eq!(memos.ids("the  cat saw the cat ", encode).unwrap(), [3, 3, 3, 3, 3]);
        assert_eq!(calls.get(), 3);
        let long = "x".repeat(MAX_WORD_BYTES + 1);
        for _ in 0..2 {
            assert_eq!(memos.ids(&long, encode).unwrap(), [MAX_WORD_BYTES as u32 + 1]);
        }
        assert_eq!(calls.get(), 5);
        assert!(memos.ids("", encode).unwrap().is_empty());
    }

    #[test]
    fn a_failing_word_fails_the_text_and_is_not_remembered() {
        let memos = WordMemos::default();
        assert_eq!(memos.ids("a b", |word| if word == "b" { Err("no") } else { Ok(vec![1]) }), Err("no"));
        assert_eq!(memos.ids("a b", |_| Ok::<_, ()>(vec![2])).unwrap(), [1, 2]);
    }
}
