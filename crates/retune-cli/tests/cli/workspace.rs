//! A temporary folder with a tiny model and small data, and the program run in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use retune::checkpoint::{NamedTensor, TensorData, Weights, save_safetensors};
use retune_testing::{counter_normal_like, counter_uniform};
use serde_json::{Value, json};

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 64;
const LAYERS: usize = 2;
const POSITIONS: usize = 48;

const SPECIAL: &[&str] = &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Each topic's own words. A text has two of its topic and several of those that say nothing.
const TOPICS: &[(&str, &[&str])] = &[
    ("animals", &["cat", "dog", "horse", "cow", "sheep", "goat"]),
    ("food", &["bread", "cheese", "apple", "soup", "rice", "cake"]),
    ("travel", &["train", "plane", "hotel", "ticket", "beach", "map"]),
];
const FILLERS: &[&str] =
    &["the", "a", "my", "we", "saw", "liked", "some", "old", "new", "with", "today", "again", "and", "very"];

/// What the tests' recipe says unless a test overrides it: 60 training rows in 8 batches an epoch.
const RECIPE: &str = r#"
[data]
train = "train.csv"
validation = "validation.csv"
test = "test.csv"
text_column = "message"
label_column = "topic"
max_length = 24

[optimizer]
learning_rate = 2e-3

[train]
num_train_epochs = 2
per_device_train_batch_size = 8
logging_steps = 1
threads = 2
output_dir = "run"
"#;

/// A temporary folder with `model/`, `train.csv`, `validation.csv`, `test.csv` and `recipe.toml`.
pub struct Workspace {
    folder: tempfile::TempDir,
}

/// What a finished run of the program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Workspace {
    pub fn new() -> Self {
        Self::with_config(json!({}))
    }

    /// Dropout is off everywhere, so that a step is the same function however it is cut into batches.
    pub fn without_dropout() -> Self {
        Self::with_config(json!({ "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0 }))
    }

    fn with_config(changes: Value) -> Self {
        let workspace = Self { folder: tempfile::tempdir().unwrap() };
        workspace.write_model(&changes);
        workspace.write("train.csv", &rows("train", 60));
        workspace.write("validation.csv", &rows("validation", 20));
        workspace.write("test.csv", &rows("test", 25));
        let model = json!(workspace.path("model"));
        workspace.write("recipe.toml", &format!("[model]\nname_or_path = {model}\n{RECIPE}"));
        workspace
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    pub fn json_lines(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn tensors(&self, name: &str) -> BTreeMap<String, Vec<f32>> {
        let weights = Weights::open(&self.path(name)).unwrap();
        weights.names().map(|name| (name.to_owned(), weights.to_f32(name).unwrap())).collect()
    }

    /// The program with these arguments, in this folder and without a network.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_retune"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HF_HUB_OFFLINE", "1")
            .env("RETUNE_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("huggingface"));
        command
    }

    pub fn retune(&self, arguments: &[&str]) -> Said {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Trains into `folder` and expects success.
    pub fn fit(&self, folder: &str, overrides: &[&str]) -> Said {
        let output = format!("output_dir={folder}");
        let arguments: Vec<&str> =
            ["fit", "recipe.toml", &output].into_iter().chain(overrides.iter().copied()).collect();
        self.retune(&arguments).succeeded()
    }

    /// Makes all words of the model alike.
    pub fn blank_embeddings(&self) {
        let path = self.path("model/model.safetensors");
        let weights = Weights::open(&path).unwrap();
        let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = weights
            .names()
            .map(|name| {
                let shape = weights.info(name).unwrap().shape.clone();
                (name.to_owned(), shape, weights.to_f32(name).unwrap())
            })
            .collect();
        let words = tensors.iter_mut().find(|(name, ..)| name.ends_with("word_embeddings.weight")).unwrap();
        words.2.fill(0.0);
        let named: Vec<NamedTensor<'_>> = tensors
            .iter()
            .map(|(name, shape, values)| NamedTensor { name, shape, data: TensorData::F32(values) })
            .collect();
        save_safetensors(&path, &named, &BTreeMap::from([("format".to_owned(), "pt".to_owned())])).unwrap();
    }

    fn write_model(&self, changes: &Value) {
        let folder = self.path("model");
        std::fs::create_dir(&folder).unwrap();
        let words = TOPICS.iter().flat_map(|(_, words)| words.iter()).chain(FILLERS);
        let vocabulary: Vec<&str> = SPECIAL.iter().chain(words).copied().collect();
        let mut config = json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "intermediate_size": INTERMEDIATE,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "vocab_size": vocabulary.len(),
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        self.write("model/config.json", &config.to_string());
        self.write("model/vocab.txt", &format!("{}\n", vocabulary.join("\n")));
        let tokenizer = json!({ "tokenizer_class": "BertTokenizer", "do_lower_case": true });
        self.write("model/tokenizer_config.json", &tokenizer.to_string());
        let shapes = parameter_shapes(vocabulary.len());
        let values: Vec<Vec<f32>> = shapes.iter().map(|(name, shape)| initial_values(name, shape)).collect();
        let tensors: Vec<NamedTensor<'_>> = shapes
            .iter()
            .zip(&values)
            .map(|((name, shape), values)| NamedTensor { name, shape, data: TensorData::F32(values) })
            .collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save_safetensors(&folder.join("model.safetensors"), &tensors, &metadata).unwrap();
    }
}

impl Said {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }

    #[track_caller]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "standard error:\n{}\nstandard output:\n{}",
            self.stderr,
            self.stdout
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Checks that every one of these stands in the message.
    #[track_caller]
    pub fn saying(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "\"{word}\" is missing in:\n{}", self.stderr);
        }
        self
    }
}

/// Names and shapes of `BertForSequenceClassification` without its classifier, as `transformers` has them.
fn parameter_shapes(vocabulary: usize) -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    add("bert.embeddings.word_embeddings.weight".into(), &[vocabulary, HIDDEN]);
    add("bert.embeddings.position_embeddings.weight".into(), &[POSITIONS, HIDDEN]);
    add("bert.embeddings.token_type_embeddings.weight".into(), &[2, HIDDEN]);
    let mut norms = vec!["bert.embeddings.LayerNorm".to_owned()];
    let mut linears = vec![("bert.pooler.dense".to_owned(), HIDDEN, HIDDEN)];
    for layer in 0..LAYERS {
        let path = format!("bert.encoder.layer.{layer}");
        for name in ["self.query", "self.key", "self.value", "output.dense"] {
            linears.push((format!("{path}.attention.{name}"), HIDDEN, HIDDEN));
        }
        linears.push((format!("{path}.intermediate.dense"), INTERMEDIATE, HIDDEN));
        linears.push((format!("{path}.output.dense"), HIDDEN, INTERMEDIATE));
        norms.push(format!("{path}.attention.output.LayerNorm"));
        norms.push(format!("{path}.output.LayerNorm"));
    }
    for (name, outputs, inputs) in linears {
        add(format!("{name}.weight"), &[outputs, inputs]);
        add(format!("{name}.bias"), &[outputs]);
    }
    for name in norms {
        add(format!("{name}.weight"), &[HIDDEN]);
        add(format!("{name}.bias"), &[HIDDEN]);
    }
    shapes
}

fn initial_values(name: &str, shape: &[usize]) -> Vec<f32> {
    let elements = shape.iter().product();
    if shape.len() > 1 {
        return counter_normal_like(name, elements, 0.3);
    }
    let center = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
    counter_normal_like(name, elements, 0.1).iter().map(|value| center + value).collect()
}

/// A CSV of `count` rows `ticket,message,topic`, drawn under `name`.
pub fn rows(name: &str, count: usize) -> String {
    let mut csv = String::from("ticket,message,topic\n");
    let mut drawn = 0;
    let mut draw = |choices: usize| {
        drawn += 1;
        (counter_uniform(name, drawn) * choices as f32) as usize
    };
    for index in 0..count {
        let (topic, words) = TOPICS[index % TOPICS.len()];
        let mut text: Vec<&str> = (0..3 + draw(9)).map(|_| FILLERS[draw(FILLERS.len())]).collect();
        for _ in 0..2 {
            let place = draw(text.len());
            text.insert(place, words[draw(words.len())]);
        }
        csv.push_str(&format!("{name}-{index},{},{topic}\n", text.join(" ")));
    }
    csv
}

/// The names of all files below a folder, relative to it and sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}
