//! Name patterns: text with `*` (one or more characters without a dot) and `**` (anything, dots included).
//!
//! What the wildcards matched in one pattern is put into another's in order, so a pattern pair is a renaming that
//! can be read backwards.

/// A name pattern such as `encoder.layer.*.attention.**`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `*`
    Segment,
    /// `**`
    Rest,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(star) = rest.find('*') {
            if star > 0 {
                pieces.push(Piece::Text(rest[..star].to_owned()));
            }
            rest = &rest[star + 1..];
            match rest.strip_prefix('*') {
                Some(after) => {
                    pieces.push(Piece::Rest);
                    rest = after;
                }
                None => pieces.push(Piece::Segment),
            }
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Self { pieces }
    }

    /// What the wildcards match in `name`, in order (the shortest match from the left); `None` where it doesn't fit.
    pub(crate) fn captures<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        let mut captures = Vec::new();
        matches(&self.pieces, name, &mut captures).then_some(captures)
    }

    /// The name that this pattern stands for with `captures` in its wildcards.
    pub(crate) fn fill(&self, captures: &[&str]) -> String {
        let mut captures = captures.iter();
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Segment | Piece::Rest => name.push_str(captures.next().copied().unwrap_or_default()),
            }
        }
        name
    }

    /// The kinds of its wildcards in order: two patterns with the same kinds can be renamed into each other.
    pub(crate) fn wildcards(&self) -> Vec<&'static str> {
        let kinds = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Segment => Some("*"),
            Piece::Rest => Some("**"),
        });
        kinds.collect()
    }
}

fn matches<'n>(pieces: &[Piece], name: &'n str, captures: &mut Vec<&'n str>) -> bool {
    let Some((first, rest)) = pieces.split_first() else {
        return name.is_empty();
    };
    if let Piece::Text(text) = first {
        return name.strip_prefix(text.as_str()).is_some_and(|name| matches(rest, name, captures));
    }
    let ends = name.char_indices().map(|(start, character)| (start + character.len_utf8(), character));
    let stops_at_dot = *first == Piece::Segment;
    for (end, character) in ends {
        if stops_at_dot && character == '.' {
            return false;
        }
        captures.push(&name[..end]);
        if matches(rest, &name[end..], captures) {
            return true;
        }
        captures.pop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_a_segment_and_two_cross_them() {
        let pattern = Pattern::new("layer.*.attention.**");
        assert_eq!(
            pattern.captures("layer.11.attention.self.query.weight"),
            Some(vec!["11", "self.query.weight"])
        );
        assert_eq!(pattern.captures("layer.1.x.attention.q"), None);
        assert_eq!(pattern.captures("layer.1.attention."), None);
        assert_eq!(pattern.fill(&["3", "q"]), "layer.3.attention.q");
        assert_eq!(Pattern::new("**").captures("a.b"), Some(vec!["a.b"]));
        assert_eq!(Pattern::new("a").captures("a"), Some(vec![]));
    }
}
