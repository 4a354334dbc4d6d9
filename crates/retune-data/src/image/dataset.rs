//! Pictures with targets: a [`Dataset`] of what [`open_pictures`](super::open_pictures) has opened.

use std::sync::Arc;

use serde_json::Value as Json;

use super::picture::Picture;
use crate::dataset::{Dataset, DatasetOptions, Example, Target};
use crate::error::DataError;
use crate::roles::Roles;
use crate::similar::Contents;
use crate::table::{Row, Table, Value};

/// One picture with its target.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageExample {
    /// The row's index in the table, counted from 0.
    pub id: u64,
    /// The row's line in its file; in a folder its number, counted from 1.
    pub line: u64,
    /// The picture.
    pub picture: Arc<Picture>,
    /// What it should be answered with.
    pub target: Target,
}

impl Example for ImageExample {
    fn id(&self) -> u64 {
        self.id
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn target(&self) -> &Target {
        &self.target
    }

    /// The SHA-256 of the picture: a copy under another name is the same picture.
    fn content(&self, feed: &mut dyn FnMut(&[u8])) {
        match &self.picture.facts {
            Some(facts) => feed(&facts.sha256),
            None => feed(self.picture.to_string().as_bytes()),
        }
    }

    fn contents(examples: &[Self]) -> Contents {
        Contents::Pictures(examples.iter().map(|example| example.picture.facts).collect())
    }

    fn content_cell(&self) -> Json {
        self.picture.to_string().into()
    }
}

/// Pictures with their targets.
pub type ImageDataset = Dataset<ImageExample>;

impl ImageDataset {
    /// Turns a table whose pictures are open into examples.
    ///
    /// # Errors
    /// As for texts: missing pictures or labels (unless dropped), labels that are not numbers in a regression, and
    /// labels that `options.labels` lacks.
    ///
    /// # Panics
    /// If the pictures were not opened.
    pub fn from_pictures(table: Table, roles: Roles, options: &DatasetOptions) -> Result<Self, DataError> {
        Dataset::build(table, roles, options, |rows, targets, roles| {
            let example = |(id, (row, target)): (u64, (&mut Row, Target))| {
                let Value::Picture(picture) = std::mem::take(&mut row.values[roles.content]) else {
                    panic!("open_pictures makes a picture of every cell that is not blank")
                };
                ImageExample { id, line: row.line, picture, target }
            };
            (0..).zip(rows.iter_mut().zip(targets)).map(example).collect()
        })
    }

    /// Where a picture comes from: its file, else the table's file and the line.
    pub fn origin(&self, index: usize) -> String {
        let example = &self.examples[index];
        match example.picture.path() {
            Some(path) => path.display().to_string(),
            None => format!("{}:{}", self.path().display(), example.line),
        }
    }
}
