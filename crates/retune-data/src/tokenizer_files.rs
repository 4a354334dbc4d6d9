//! From a checkpoint's tokenizer files to a `tokenizers` pipeline: `tokenizer.json` as it is, else the same
//! pipeline built from `vocab.txt` (WordPiece) or `vocab.json` + `merges.txt` (byte-level BPE), with the
//! settings that Hugging Face's `BertTokenizer` and `RobertaTokenizer` take from `tokenizer_config.json`.

use crate::error::DataError;
use serde_json::{Map, Value as Json, json};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Every file of a tokenizer, in any of its layouts.
pub(crate) const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
];

pub(crate) struct Loaded {
    pub tokenizer: Tokenizer,
    /// The file or folder it came from, for messages.
    pub path: PathBuf,
    pub model_max_length: Option<usize>,
}

/// Loads the tokenizer in a checkpoint folder, its own truncation and padding switched off.
pub(crate) fn load(directory: &Path, model_type: &str) -> Result<Loaded, DataError> {
    let settings = Settings::read(directory)?;
    let file = |name: &str| directory.join(name);
    let (path, json) = if file("tokenizer.json").is_file() {
        let path = file("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| DataError::reading(&path, source))?;
        (path, bytes)
    } else if file("vocab.txt").is_file() {
        let path = file("vocab.txt");
        let json = word_piece(&path, &settings)?;
        (path, json.to_string().into_bytes())
    } else if file("vocab.json").is_file() && file("merges.txt").is_file() {
        let path = file("vocab.json");
        let json = byte_level_bpe(&path, &file("merges.txt"), &settings)?;
        (path, json.to_string().into_bytes())
    } else {
        let message = if file("sentencepiece.bpe.model").is_file() {
            "sentencepiece.bpe.model alone is not supported; write a tokenizer.json beside it with \
             `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
        } else {
            "no tokenizer here: looked for tokenizer.json, vocab.txt, and vocab.json with merges.txt"
        };
        return Err(DataError::Tokenizer { path: directory.to_path_buf(), message: message.to_owned() });
    };
    let broken = |message: String| DataError::Tokenizer { path: path.clone(), message };
    let mut tokenizer =
        Tokenizer::from_bytes(&json).map_err(|error| broken(format!("cannot be read: {error}")))?;
    tokenizer.with_truncation(None).map_err(|error| broken(error.to_string()))?;
    tokenizer.with_padding(None);
    if tokenizer.get_post_processor().is_none() {
        add_family_post_processor(&mut tokenizer, model_type).map_err(broken)?;
    }
    Ok(Loaded { tokenizer, path, model_max_length: settings.model_max_length() })
}

/// A `tokenizer.json` without post-processor leaves the special tokens to the family.
fn add_family_post_processor(tokenizer: &mut Tokenizer, model_type: &str) -> Result<(), String> {
    let (cls, sep, pair_middle) = match model_type {
        "bert" | "distilbert" | "electra" => ("[CLS]", "[SEP]", 1),
        "roberta" | "xlm-roberta" | "camembert" => ("<s>", "</s>", 2),
        _ => return Ok(()),
    };
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| format!("the vocabulary lacks `{token}`, which {model_type} needs"))
    };
    let json = template(&[(cls, id(cls)?)], &[(sep, id(sep)?)], pair_middle);
    let post_processor: tokenizers::PostProcessorWrapper =
        serde_json::from_value(json).map_err(|error| error.to_string())?;
    tokenizer.with_post_processor(Some(post_processor));
    Ok(())
}

/// `cls A sep` and `cls A sep [sep] B sep`. BERT (one separator between) marks B with type 1.
fn template(cls: &[(&str, u32)], sep: &[(&str, u32)], separators_between: usize) -> Json {
    let pair_type = u32::from(separators_between == 1);
    let special =
        |token: &[(&str, u32)], type_id: u32| json!({"SpecialToken": {"id": token[0].0, "type_id": type_id}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let single = vec![special(cls, 0), sequence("A", 0), special(sep, 0)];
    let mut pair = single.clone();
    pair.extend((1..separators_between).map(|_| special(sep, 0)));
    pair.extend([sequence("B", pair_type), special(sep, pair_type)]);
    let mut tokens = Map::new();
    for (token, id) in cls.iter().chain(sep) {
        tokens.insert((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

fn word_piece(path: &Path, settings: &Settings) -> Result<Json, DataError> {
    let text = std::fs::read_to_string(path).map_err(|source| DataError::reading(path, source))?;
    let mut vocabulary = Map::new();
    for (id, token) in text.split_terminator('\n').enumerate() {
        vocabulary.insert(token.trim_end_matches('\r').to_owned(), id.into());
    }
    let special = |role: &str, default: &str| settings.special(path, &vocabulary, role, default);
    let (unk, _) = special("unk_token", "[UNK]")?;
    let (cls, cls_id) = special("cls_token", "[CLS]")?;
    let (sep, sep_id) = special("sep_token", "[SEP]")?;
    let mut added = settings.added_tokens(&vocabulary, false);
    for (role, default) in [
        ("unk_token", "[UNK]"),
        ("sep_token", "[SEP]"),
        ("pad_token", "[PAD]"),
        ("cls_token", "[CLS]"),
        ("mask_token", "[MASK]"),
    ] {
        if let Ok((token, id)) = special(role, default) {
            add_special(&mut added, &token, id, settings.strips_left(role));
        }
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": sorted(added),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": settings.flag("tokenize_chinese_chars").unwrap_or(true),
            "strip_accents": settings.flag("strip_accents"),
            "lowercase": settings.flag("do_lower_case").unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template(&[(&cls, cls_id)], &[(&sep, sep_id)], 1),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }))
}

fn byte_level_bpe(path: &Path, merges_path: &Path, settings: &Settings) -> Result<Json, DataError> {
    let Json::Object(vocabulary) = read_json(path)? else {
        let message = "expected an object from tokens to ids".to_owned();
        return Err(DataError::Tokenizer { path: path.to_path_buf(), message });
    };
    let text =
        std::fs::read_to_string(merges_path).map_err(|source| DataError::reading(merges_path, source))?;
    let mut merges: Vec<Json> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || (index == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => merges.push(json!([left, right])),
            _ => {
                let message = format!("line {}: expected two tokens and a space between them", index + 1);
                return Err(DataError::Tokenizer { path: merges_path.to_path_buf(), message });
            }
        }
    }
    let special = |role: &str, default: &str| settings.special(path, &vocabulary, role, default);
    let add_prefix_space = settings.flag("add_prefix_space").unwrap_or(false);
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true});
    // RoBERTa frames a text by <s> and </s>; GPT-2, which has neither, by nothing.
    let framed = special("cls_token", "<s>").and_then(|cls| Ok((cls, special("sep_token", "</s>")?)));
    let post_processor = match &framed {
        Ok(((cls, cls_id), (sep, sep_id))) => template(&[(cls, *cls_id)], &[(sep, *sep_id)], 2),
        Err(_) => byte_level.clone(),
    };
    let mut added = settings.added_tokens(&vocabulary, true);
    for (role, default) in [
        ("cls_token", "<s>"),
        ("pad_token", "<pad>"),
        ("sep_token", "</s>"),
        ("unk_token", "<unk>"),
        ("mask_token", "<mask>"),
    ] {
        if let Ok((token, id)) = special(role, default) {
            add_special(&mut added, &token, id, settings.strips_left(role));
        }
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": sorted(added),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

fn add_special(added: &mut Vec<Json>, token: &str, id: u32, lstrip: bool) {
    if added.iter().any(|entry| entry["content"] == token) {
        return;
    }
    added.push(json!({
        "id": id, "content": token, "special": true,
        "single_word": false, "lstrip": lstrip, "rstrip": false, "normalized": false,
    }));
}

fn sorted(mut added: Vec<Json>) -> Vec<Json> {
    added.sort_by_key(|entry| entry["id"].as_u64());
    added
}

/// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, as far as they exist.
struct Settings {
    config: Map<String, Json>,
    special: Map<String, Json>,
    added: Map<String, Json>,
}

impl Settings {
    fn read(directory: &Path) -> Result<Self, DataError> {
        let read = |name: &str| -> Result<Map<String, Json>, DataError> {
            let path = directory.join(name);
            if !path.is_file() {
                return Ok(Map::new());
            }
            match read_json(&path)? {
                Json::Object(map) => Ok(map),
                _ => Err(DataError::Tokenizer { path, message: "expected a JSON object".to_owned() }),
            }
        };
        Ok(Settings {
            config: read("tokenizer_config.json")?,
            special: read("special_tokens_map.json")?,
            added: read("added_tokens.json")?,
        })
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key).and_then(Json::as_bool)
    }

    fn model_max_length(&self) -> Option<usize> {
        // "No limit" is written as 1e30.
        let length = self.config.get("model_max_length")?.as_f64()?;
        (1.0..1e9).contains(&length).then_some(length as usize)
    }

    /// Whether a special token takes the white space before it along, as RoBERTa's published `<mask>` does.
    fn strips_left(&self, role: &str) -> bool {
        let entry = self.special.get(role).or_else(|| self.config.get(role));
        entry.and_then(|entry| entry.get("lstrip")).and_then(Json::as_bool).unwrap_or(false)
    }

    /// A special token and its id.
    fn special(
        &self,
        path: &Path,
        vocabulary: &Map<String, Json>,
        role: &str,
        default: &str,
    ) -> Result<(String, u32), DataError> {
        let entry = self.special.get(role).or_else(|| self.config.get(role));
        let token = match entry {
            Some(Json::String(token)) => token.as_str(),
            Some(Json::Object(token)) => token.get("content").and_then(Json::as_str).unwrap_or(default),
            _ => default,
        };
        let id = vocabulary.get(token).or_else(|| self.added.get(token)).and_then(Json::as_u64);
        match id.and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok((token.to_owned(), id)),
            None => Err(DataError::Tokenizer {
                path: path.to_path_buf(),
                message: format!("the vocabulary lacks `{token}`, the {role}"),
            }),
        }
    }

    /// Tokens that were added to the vocabulary after training it.
    fn added_tokens(&self, vocabulary: &Map<String, Json>, byte_level: bool) -> Vec<Json> {
        let mut tokens: Vec<Json> = Vec::new();
        if let Some(Json::Object(decoder)) = self.config.get("added_tokens_decoder") {
            for (id, token) in decoder {
                let (Ok(id), Some(content)) = (id.parse::<u32>(), token["content"].as_str()) else {
                    continue;
                };
                let flag = |key: &str| token[key].as_bool().unwrap_or(false);
                tokens.push(json!({
                    "id": id, "content": content, "special": flag("special"), "single_word": flag("single_word"),
                    "lstrip": flag("lstrip"), "rstrip": flag("rstrip"), "normalized": flag("normalized"),
                }));
            }
        }
        for (token, id) in &self.added {
            let known = vocabulary.contains_key(token)
                || tokens.iter().any(|entry| entry["content"] == token.as_str());
            if let (Some(id), false) = (id.as_u64(), known) {
                tokens.push(json!({
                    "id": id, "content": token, "special": false,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": !byte_level,
                }));
            }
        }
        tokens
    }
}

fn read_json(path: &Path) -> Result<Json, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::reading(path, source))?;
    serde_json::from_slice(&bytes).map_err(|error| DataError::Tokenizer {
        path: path.to_path_buf(),
        message: format!("not valid JSON: {error}"),
    })
}
