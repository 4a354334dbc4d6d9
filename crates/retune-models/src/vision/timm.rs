//! timm's names of the MobileNet line, where blocks are counted within their stage and a norm has the name of its
//! convolution's place.

use retune_checkpoint::{Rule, Transform};

/// Renamings from timm's names to torchvision's, collected block by block.
#[derive(Default)]
pub(super) struct TimmNames(Vec<Rule>);

impl TimmNames {
    fn rename(&mut self, theirs: &str, ours: &str) {
        self.0.push(Rule::rename(&format!("{theirs}.*"), &format!("{ours}.*")));
    }

    /// The parts of a block, by their names there and here.
    pub(super) fn block(&mut self, theirs: &str, ours: &str, parts: &[(&str, &str)]) {
        for (from, to) in parts {
            self.rename(&format!("{theirs}.{from}"), &format!("{ours}.{to}"));
        }
    }

    /// All renamings, with the stem, the classifier and the last convolution, which is torchvision's `features.{last}`.
    pub(super) fn finish(mut self, last: usize) -> Transform {
        self.rename("conv_stem", "features.0.0");
        self.rename("bn1", "features.0.1");
        self.rename("conv_head", &format!("features.{last}.0"));
        self.rename("bn2", &format!("features.{last}.1"));
        self.rename("classifier", "classifier.1");
        Transform::new(self.0)
    }
}
