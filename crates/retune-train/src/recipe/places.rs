//! Where each key of a recipe was set.

use std::collections::BTreeMap;

/// Where each key was set, by path: `optimizer.learning_rate`, `stage.1.train`.
#[derive(Clone, Debug, Default)]
pub struct Places {
    source: String,
    lines: BTreeMap<String, usize>,
    overrides: BTreeMap<String, String>,
}

impl Places {
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), ..Self::default() }
    }

    pub(super) fn set_line(&mut self, path: String, line: usize) {
        self.lines.insert(path, line);
    }

    /// What the override sets as a whole was set nowhere else.
    pub(super) fn set_override(&mut self, path: String, text: &str) {
        let inside = |other: &String| {
            other.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.lines.retain(|other, _| !inside(other));
        self.overrides.retain(|other, _| !inside(other));
        self.overrides.insert(path, text.to_owned());
    }

    /// Whether the file or an override sets this very key.
    pub(super) fn has(&self, path: &str) -> bool {
        self.lines.contains_key(path) || self.overrides.contains_key(path)
    }

    /// `recipe.toml:14`, `override "seed=x"`, or, for a key that nobody set, the place of the table around it.
    pub fn of(&self, path: &str) -> String {
        let mut path = path;
        loop {
            if let Some(text) = self.overrides.get(path) {
                return format!("override \"{text}\"");
            }
            if let Some(line) = self.lines.get(path) {
                return format!("{}:{line}", self.source());
            }
            match path.rsplit_once('.') {
                Some((around, _)) => path = around,
                None => return self.source().to_owned(),
            }
        }
    }

    fn source(&self) -> &str {
        if self.source.is_empty() { "recipe" } else { &self.source }
    }
}
