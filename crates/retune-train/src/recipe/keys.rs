//! Every key of a recipe with its type, default and meaning: the one source of checks, suggestions, help and
//! `docs/recipe.md`. A test holds it against the types.

mod table;

pub use table::KEYS;

/// One key of the recipe.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its section: `model`, …, `train`, or `stage`.
    pub section: &'static str,
    /// Its name in the section.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// The default as TOML, or in words where it is not one value.
    pub default: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// An integer from the first to the second, both included.
    Integer(u64, u64),
    /// An integer from the first to the second, both included, or this word.
    IntegerOrWord(u64, u64, &'static str),
    /// A number in a range.
    Number(Range),
    /// A number in a range, or this word.
    NumberOrWord(Range, &'static str),
    /// A list of strings.
    TextList,
    /// A string, or a list of strings.
    TextOrList,
    /// A list of integers.
    IntegerList,
    /// A list of finite numbers.
    NumberList,
    /// One of these words; those of the second list are read as other spellings of them.
    Choice(&'static [&'static str], &'static [&'static str]),
    /// A table of strings by name.
    TextTable,
    /// A table of numbers in a range by name, such as learning rates by layer-group pattern.
    NumberTable(Range),
    /// One of these words, or a table of numbers of at least 0 by label.
    ChoiceOrTable(&'static [&'static str]),
    /// This word, or a list of strings.
    WordOrList(&'static str),
    /// A table with the keys of `[schedule]`.
    Schedule,
}

/// A range of finite numbers, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Any finite number.
    Finite,
    /// 0 or more.
    NonNegative,
    /// Above 0.
    Positive,
    /// 1 or more.
    AtLeastOne,
    /// From 0 to 1, both included.
    Unit,
    /// From 0 to 1, without 1.
    Probability,
    /// From 0 to 1, without 0.
    Factor,
    /// Between 0 and 1, without both.
    Between,
}

impl Range {
    /// Whether the number lies in the range.
    pub fn contains(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Finite => true,
                Self::NonNegative => value >= 0.0,
                Self::Positive => value > 0.0,
                Self::AtLeastOne => value >= 1.0,
                Self::Unit => (0.0..=1.0).contains(&value),
                Self::Probability => (0.0..1.0).contains(&value),
                Self::Factor => value > 0.0 && value <= 1.0,
                Self::Between => value > 0.0 && value < 1.0,
            }
    }

    /// The range in words, to follow "a number".
    pub fn describe(self) -> &'static str {
        match self {
            Self::Finite => "",
            Self::NonNegative => " of at least 0",
            Self::Positive => " above 0",
            Self::AtLeastOne => " of at least 1",
            Self::Unit => " from 0 to 1",
            Self::Probability => " of at least 0 and below 1",
            Self::Factor => " above 0 and at most 1",
            Self::Between => " above 0 and below 1",
        }
    }
}

impl Kind {
    /// The type in words, such as `an integer of at least 1`.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer(least, most) if most >= table::MANY => format!("an integer of at least {least}"),
            Self::Integer(least, most) => format!("an integer from {least} to {most}"),
            Self::IntegerOrWord(least, most, word) => {
                format!("{}, or \"{word}\"", Self::Integer(least, most).describe())
            }
            Self::Number(range) => format!("a number{}", range.describe()),
            Self::NumberOrWord(range, word) => format!("a number{}, or \"{word}\"", range.describe()),
            Self::TextList => "a list of strings".to_owned(),
            Self::TextOrList => "a string or a list of strings".to_owned(),
            Self::IntegerList => "a list of integers of at least 1".to_owned(),
            Self::NumberList => "a list of numbers".to_owned(),
            Self::Choice(words, _) => format!("one of {}", quoted(words)),
            Self::TextTable => "a table of strings".to_owned(),
            Self::NumberTable(range) => format!("a table of numbers{}", range.describe()),
            Self::ChoiceOrTable(words) => {
                format!("one of {}, or a table of numbers of at least 0", quoted(words))
            }
            Self::WordOrList(word) => format!("\"{word}\" or a list of strings"),
            Self::Schedule => "a table with the keys of [schedule]".to_owned(),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// The sections in the order of a recipe, with what each is for.
pub const SECTIONS: &[(&str, &str)] = &[
    ("model", "The checkpoint to start from."),
    ("data", "Files, columns, and what to do with rows that do not fit."),
    ("augmentation", "Random views of training pictures and texts, never of validation or test data."),
    ("task", "What is learned."),
    ("strategy", "Which layer groups train, when, and at which share of the learning rate."),
    ("optimizer", "The update rule."),
    ("schedule", "The learning rate over a stage. Each stage has its own schedule, warm-up included."),
    ("train", "Lengths, batches, evaluation and saving."),
    ("stage", "The explicit list of stages of `method = \"stages\"`: one `[[stage]]` table each, in order."),
];

/// The key of a section.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The keys that have this name, in any section but `[[stage]]`.
pub fn named(name: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section != "stage" && key.name == name)
}

/// A key's path as a message names it: `"precision" in [train]`, `"train" in [[stage]] 2`.
pub fn spoken(path: &str) -> String {
    let mut parts = path.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("stage"), Some(index), rest) => {
            let number =
                index.parse::<usize>().map_or_else(|_| index.to_owned(), |index| (index + 1).to_string());
            match rest {
                Some(key) => format!("\"{key}\" in [[stage]] {number}"),
                None => format!("[[stage]] {number}"),
            }
        }
        (Some(section), Some(key), None) => format!("\"{key}\" in [{section}]"),
        (Some(section), Some(key), Some(rest)) => format!("\"{rest}\" of \"{key}\" in [{section}]"),
        _ => header(path),
    }
}

/// What people call a key elsewhere, and where it is here.
const KNOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("batch_size", "train.per_device_train_batch_size"),
    ("bf16", "train.precision"),
    ("auto_augment", "augmentation.policy"),
    ("dropout", "model.classifier_dropout"),
    ("early_stopping", "train.early_stopping_patience"),
    ("epochs", "train.num_train_epochs"),
    ("eval_strategy", "train.eval_steps"),
    ("evaluation_strategy", "train.eval_steps"),
    ("fp16", "train.precision"),
    ("freeze", "strategy.method"),
    ("grad_clip", "optimizer.max_grad_norm"),
    ("hflip", "augmentation.horizontal_flip"),
    ("image", "data.image_column"),
    ("img_size", "data.image_size"),
    ("input_size", "data.image_size"),
    ("label", "data.label_column"),
    ("lora_r", "strategy.r"),
    ("lr", "optimizer.learning_rate"),
    ("lr_scheduler_type", "schedule.name"),
    ("max_grad", "optimizer.max_grad_norm"),
    ("max_seq_length", "data.max_length"),
    ("model_name_or_path", "model.name_or_path"),
    ("num_workers", "data.workers"),
    ("optim", "optimizer.name"),
    ("output", "train.output_dir"),
    ("path", "model.name_or_path"),
    ("rank", "strategy.r"),
    ("reprob", "augmentation.random_erasing"),
    ("save_strategy", "train.save_steps"),
    ("target", "data.label_column"),
    ("test_file", "data.test"),
    ("text", "data.text_column"),
    ("train_file", "data.train"),
    ("validation_file", "data.validation"),
    ("vflip", "augmentation.vertical_flip"),
];

/// What follows "unknown key …": the key that was probably meant, first in its section, then in others.
pub fn suggestion(section: Option<&str>, name: &str) -> String {
    let spelled = name.to_lowercase().replace('-', "_");
    let elsewhere = |key: &Key| match section {
        Some(_) => format!("; \"{}\" belongs in {}", key.name, header(key.section)),
        None => format!("; did you mean \"{}.{}\"?", key.section, key.name),
    };
    let here = || KEYS.iter().filter(|key| section.is_none_or(|section| key.section == section));
    if let Some(section) = section {
        if find(section, &spelled).is_some() {
            return format!("; did you mean \"{spelled}\"?");
        }
        if let Some(key) = KEYS.iter().find(|key| key.name == spelled) {
            return elsewhere(key);
        }
    }
    if let Some((_, path)) = KNOWN_ELSEWHERE.iter().find(|(known, _)| *known == spelled) {
        return format!("; did you mean {}?", spoken(path));
    }
    if let Some(near) = nearest(&spelled, here().map(|key| key.name)) {
        return match section {
            Some(_) => format!("; did you mean \"{near}\"?"),
            None => match here().find(|key| key.name == near) {
                Some(key) => elsewhere(key),
                None => String::new(),
            },
        };
    }
    if let Some(key) = nearest(&spelled, KEYS.iter().map(|key| key.name))
        .and_then(|near| KEYS.iter().find(|key| key.name == near))
    {
        return format!("; did you mean \"{}\" in {}?", key.name, header(key.section));
    }
    match section {
        Some(section) => {
            let names: Vec<&str> = here().map(|key| key.name).collect();
            format!("; the keys of {} are {}", header(section), names.join(", "))
        }
        None => "; docs/recipe.md lists every key".to_owned(),
    }
}

/// `[train]`, `[[stage]]`.
pub(super) fn header(section: &str) -> String {
    if section == "stage" { "[[stage]]".to_owned() } else { format!("[{section}]") }
}

/// The candidate nearest to `name`, if near enough to be a slip of the keyboard.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    candidates
        .map(|candidate| (strsim::jaro_winkler(&name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
