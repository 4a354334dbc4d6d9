//! What a `[[stage]]` may say of what trains.

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
