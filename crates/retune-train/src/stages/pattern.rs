//! Layer-group names and patterns.

use retune_nn::LayerGroup;

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
