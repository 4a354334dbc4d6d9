//! What a `[[stage]]` may say of what trains.

use retune_nn::LayerGroup;

/// One entry of a stage's `train`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StageTarget {
    /// `all`: everything.
    All,
    /// `head`: the last layer group.
    Head,
    /// `last:N`: the head and N groups of the backbone.
    Last(usize),
    /// A layer group's name, where `*` stands for any text.
    Pattern(String),
}

impl StageTarget {
    /// Reads an entry; the error says what is wrong with it.
    pub(crate) fn parse(written: &str) -> Result<Self, String> {
        match written.trim() {
            "" => Err("an entry is empty; write \"all\", \"head\", \"last:N\" or layer groups".to_owned()),
            "all" => Ok(Self::All),
            "head" => Ok(Self::Head),
            name => {
                match name.strip_prefix("last:") {
                    None => Ok(Self::Pattern(name.to_owned())),
                    Some(count) => count.trim().parse().map(Self::Last).map_err(|_| {
                        format!("\"{name}\" must be \"last:\" and a number, such as \"last:2\"")
                    }),
                }
            }
        }
    }
}

/// Whether a name fits a pattern, in which `*` stands for any text.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(end) = parts.next_back() else {
        return rest.is_empty();
    };
    // The earliest fit of each part leaves most for the next; the last must stand at the end.
    for part in parts {
        match rest.find(part) {
            Some(start) => rest = &rest[start + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(end)
}

/// What follows the name of a group that is not there.
pub(super) fn no_such_group(groups: &[LayerGroup]) -> String {
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    format!("fits no layer group of the model; they are {}", names.join(", "))
}
