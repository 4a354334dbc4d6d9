//! An invertible map between a checkpoint's names and layouts and a model's: rename, split, join, transpose, permute.
//!
//! A rule that could not be undone on the tensors at hand is refused, by name, when it is applied; so what
//! [`Transform::apply`] accepts, [`Transform::invert`] gives back exactly.

use std::collections::BTreeMap;
use std::fmt;

use crate::Result;
use crate::error::{CheckpointError, shorten};
use crate::pattern::Pattern;
use crate::report::Transformed;

/// A tensor in memory: shape, and row-major values.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// As many values as the shape's product.
    pub values: Vec<f32>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Sizes of the parts of a joined tensor along its axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// All parts equal.
    Equal,
    /// One size a part.
    Exact(Vec<usize>),
}

/// One step from checkpoint to model. Names are patterns: `*` stands for one segment, `**` for any number; every
/// name of a rule has the same wildcards, and what they match is carried over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// A tensor gets another name.
    Rename {
        /// The checkpoint's name.
        from: String,
        /// The model's name.
        to: String,
    },
    /// One tensor becomes several along an axis (a fused query-key-value weight).
    Split {
        /// The checkpoint's tensor.
        whole: String,
        /// Axis along which it is cut.
        axis: usize,
        /// The model's tensors, in order along the axis.
        parts: Vec<String>,
        /// Their sizes along the axis.
        sizes: Sizes,
    },
    /// Several tensors become one along an axis: [`Rule::Split`] backwards.
    Join {
        /// The checkpoint's tensors, in order along the axis.
        parts: Vec<String>,
        /// Their sizes along the axis.
        sizes: Sizes,
        /// Axis along which they are put together.
        axis: usize,
        /// The model's tensor.
        whole: String,
    },
    /// A matrix is transposed.
    Transpose {
        /// The tensors.
        name: String,
    },
    /// Axes are reordered: axis `i` of the result is axis `order[i]` of the checkpoint's tensor.
    Permute {
        /// The tensors.
        name: String,
        /// The new order of the axes.
        order: Vec<usize>,
    },
}

impl Rule {
    /// Renames one tensor, or all that a pattern matches.
    pub fn rename(from: &str, to: &str) -> Self {
        Self::Rename { from: from.into(), to: to.into() }
    }

    /// Puts `prefix` before every name.
    pub fn add_prefix(prefix: &str) -> Self {
        Self::rename("**", &format!("{prefix}**"))
    }

    /// Takes `prefix` off every name.
    pub fn strip_prefix(prefix: &str) -> Self {
        Self::rename(&format!("{prefix}**"), "**")
    }

    /// Replaces the beginning `from` of names by `to`.
    pub fn replace_prefix(from: &str, to: &str) -> Self {
        Self::rename(&format!("{from}**"), &format!("{to}**"))
    }

    /// The rule that undoes this one.
    pub fn inverse(&self) -> Self {
        match self.clone() {
            Self::Rename { from, to } => Self::Rename { from: to, to: from },
            Self::Split { whole, axis, parts, sizes } => Self::Join { parts, sizes, axis, whole },
            Self::Join { parts, sizes, axis, whole } => Self::Split { whole, axis, parts, sizes },
            Self::Transpose { name } => Self::Transpose { name },
            Self::Permute { name, order } => {
                let mut inverse = vec![0; order.len()];
                for (to, &from) in order.iter().enumerate() {
                    if let Some(place) = inverse.get_mut(from) {
                        *place = to;
                    }
                }
                Self::Permute { name, order: inverse }
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rename { from, to } => write!(f, "rename {from} -> {to}"),
            Self::Split { whole, axis, parts, .. } => {
                write!(f, "split {whole} along {axis} -> {}", parts.join(", "))
            }
            Self::Join { parts, axis, whole, .. } => {
                write!(f, "join {} along {axis} -> {whole}", parts.join(", "))
            }
            Self::Transpose { name } => write!(f, "transpose {name}"),
            Self::Permute { name, order } => write!(f, "permute {name} {order:?}"),
        }
    }
}

/// Rules applied one after the other, each to what the one before left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transform {
    rules: Vec<Rule>,
}

impl Transform {
    /// A map of these rules, in this order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The map from model to checkpoint: each rule's inverse, last first.
    pub fn inverse(&self) -> Self {
        Self { rules: self.rules.iter().rev().map(Rule::inverse).collect() }
    }

    /// Checkpoint to model. A rule that matches nothing does nothing. Returns the tensors and what was done.
    ///
    /// # Errors
    /// [`CheckpointError::Transform`] where a rule doesn't fit the tensors, two tensors would get one name, or the
    /// rule could not be undone.
    pub fn apply(&self, mut tensors: Tensors) -> Result<(Tensors, Vec<Transformed>)> {
        let mut done = Vec::new();
        for rule in &self.rules {
            tensors = apply(rule, tensors, &mut done)
                .map_err(|what| CheckpointError::Transform { rule: rule.to_string(), what })?;
        }
        Ok((tensors, done))
    }

    /// Model to checkpoint.
    ///
    /// # Errors
    /// As [`Transform::apply`].
    pub fn invert(&self, tensors: Tensors) -> Result<(Tensors, Vec<Transformed>)> {
        self.inverse().apply(tensors)
    }
}

type Step<T> = Result<T, String>;

fn apply(rule: &Rule, tensors: Tensors, done: &mut Vec<Transformed>) -> Step<Tensors> {
    check_wildcards(rule)?;
    match rule {
        Rule::Rename { from, to } => rename(from, to, tensors, done),
        Rule::Split { whole, axis, parts, sizes } => split(whole, *axis, parts, sizes, tensors, done),
        Rule::Join { parts, sizes, axis, whole } => join(parts, sizes, *axis, whole, tensors, done),
        Rule::Transpose { name } => permute(name, &[1, 0], tensors, done),
        Rule::Permute { name, order } => permute(name, order, tensors, done),
    }
}

/// Every name of a rule has the same wildcards in the same order, or what they match would be lost.
fn check_wildcards(rule: &Rule) -> Step<()> {
    let names: Vec<&String> = match rule {
        Rule::Rename { from, to } => vec![from, to],
        Rule::Split { whole, parts, .. } | Rule::Join { parts, whole, .. } => {
            parts.iter().chain([whole]).collect()
        }
        Rule::Transpose { .. } | Rule::Permute { .. } => return Ok(()),
    };
    let mut wildcards = names.iter().map(|name| Pattern::new(name).wildcards());
    let first = wildcards.next();
    if wildcards.all(|other| Some(&other) == first.as_ref()) {
        Ok(())
    } else {
        Err("its names have different wildcards".into())
    }
}

fn rename(from: &str, to: &str, tensors: Tensors, done: &mut Vec<Transformed>) -> Step<Tensors> {
    let (from, to) = (Pattern::new(from), Pattern::new(to));
    let mut renamed = Tensors::new();
    for (name, tensor) in tensors {
        let target = match from.captures(&name) {
            None if to.captures(&name).is_some() => return Err(ambiguous(&name)),
            None => name,
            Some(captures) => {
                let target = to.fill(&captures);
                if to.captures(&target).map(|captures| from.fill(&captures)).as_ref() != Some(&name) {
                    return Err(ambiguous(&name));
                }
                done.push(Transformed::new(&[&name], &[&target], "renamed"));
                target
            }
        };
        insert(&mut renamed, target, tensor)?;
    }
    Ok(renamed)
}

fn split(
    whole: &str,
    axis: usize,
    parts: &[String],
    sizes: &Sizes,
    tensors: Tensors,
    done: &mut Vec<Transformed>,
) -> Step<Tensors> {
    let whole = Pattern::new(whole);
    let parts: Vec<Pattern> = parts.iter().map(|part| Pattern::new(part)).collect();
    let mut result = Tensors::new();
    for (name, tensor) in tensors {
        let Some(captures) = whole.captures(&name) else {
            if parts.iter().any(|part| part.captures(&name).is_some()) {
                return Err(ambiguous(&name));
            }
            insert(&mut result, name, tensor)?;
            continue;
        };
        let sizes = part_sizes(&name, &tensor.shape, axis, parts.len(), sizes)?;
        let names: Vec<String> = parts.iter().map(|part| part.fill(&captures)).collect();
        done.push(Transformed::new(&[&name], &names, "split"));
        for (name, part) in names.into_iter().zip(cut(&tensor, axis, &sizes)) {
            insert(&mut result, name, part)?;
        }
    }
    Ok(result)
}

fn join(
    parts: &[String],
    sizes: &Sizes,
    axis: usize,
    whole: &str,
    mut tensors: Tensors,
    done: &mut Vec<Transformed>,
) -> Step<Tensors> {
    let patterns: Vec<Pattern> = parts.iter().map(|part| Pattern::new(part)).collect();
    let whole = Pattern::new(whole);
    let part = |name: &String| patterns.iter().any(|pattern| pattern.captures(name).is_some());
    if let Some(name) = tensors.keys().find(|name| whole.captures(name).is_some() && !part(name)) {
        return Err(ambiguous(name));
    }
    // Any part found asks for the others, so that a missing one is noticed whichever it is.
    let mut groups: Vec<Vec<String>> = Vec::new();
    for name in tensors.keys() {
        if let Some(captures) = patterns.iter().find_map(|pattern| pattern.captures(name)) {
            groups.push(captures.into_iter().map(str::to_owned).collect());
        }
    }
    groups.sort();
    groups.dedup();
    for captures in groups {
        let captures: Vec<&str> = captures.iter().map(String::as_str).collect();
        let names: Vec<String> = patterns.iter().map(|pattern| pattern.fill(&captures)).collect();
        let mut found = Vec::with_capacity(names.len());
        for name in &names {
            found.push(
                tensors
                    .remove(name)
                    .ok_or_else(|| format!("tensor `{}` is missing beside the other parts", shorten(name)))?,
            );
        }
        let target = whole.fill(&captures);
        let joined = paste(&names, &found, axis)?;
        let expected = part_sizes(&target, &joined.shape, axis, found.len(), sizes)?;
        if let Some(index) = (0..found.len()).find(|&index| found[index].shape[axis] != expected[index]) {
            let (name, size) = (shorten(&names[index]), found[index].shape[axis]);
            return Err(format!(
                "tensor `{name}` has size {size} along axis {axis}, not {}",
                expected[index]
            ));
        }
        done.push(Transformed::new(&names, &[&target], "joined"));
        insert(&mut tensors, target, joined)?;
    }
    Ok(tensors)
}

fn permute(name: &str, order: &[usize], mut tensors: Tensors, done: &mut Vec<Transformed>) -> Step<Tensors> {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..order.len()) {
        return Err(format!("{order:?} is not an order of {} axes", order.len()));
    }
    let pattern = Pattern::new(name);
    for (name, tensor) in tensors.iter_mut().filter(|(name, _)| pattern.captures(name).is_some()) {
        if tensor.shape.len() != order.len() {
            return Err(format!(
                "tensor `{}` has shape {:?}, not {} axes",
                shorten(name),
                tensor.shape,
                order.len()
            ));
        }
        *tensor = permuted(tensor, order);
        done.push(Transformed::new(
            &[name],
            &[name],
            if order == [1, 0] { "transposed" } else { "permuted" },
        ));
    }
    Ok(tensors)
}

fn insert(tensors: &mut Tensors, name: String, tensor: Tensor) -> Step<()> {
    match tensors.entry(name) {
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(tensor);
            Ok(())
        }
        std::collections::btree_map::Entry::Occupied(place) => {
            Err(format!("two tensors would be named `{}`", shorten(place.key())))
        }
    }
}

fn ambiguous(name: &str) -> String {
    format!("could not be undone because of tensor `{}`; narrow the rule's names", shorten(name))
}

fn part_sizes(name: &str, shape: &[usize], axis: usize, parts: usize, sizes: &Sizes) -> Step<Vec<usize>> {
    let name = shorten(name);
    let Some(&length) = shape.get(axis) else {
        return Err(format!("tensor `{name}` has shape {shape:?}, no axis {axis}"));
    };
    match sizes {
        Sizes::Equal if parts > 0 && length % parts == 0 => Ok(vec![length / parts; parts]),
        Sizes::Exact(sizes) if sizes.len() == parts && sizes.iter().sum::<usize>() == length => {
            Ok(sizes.clone())
        }
        Sizes::Equal => {
            Err(format!("tensor `{name}` has {length} along axis {axis}, not {parts} equal parts"))
        }
        Sizes::Exact(sizes) => Err(format!(
            "tensor `{name}` has {length} along axis {axis}, not {parts} parts of sizes {sizes:?}"
        )),
    }
}

/// Cuts a tensor along an axis into pieces whose sizes sum to its length there.
fn cut(tensor: &Tensor, axis: usize, sizes: &[usize]) -> Vec<Tensor> {
    let inner: usize = tensor.shape[axis + 1..].iter().product();
    let row = tensor.shape[axis] * inner;
    let mut start = 0;
    let mut pieces = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let mut shape = tensor.shape.clone();
        shape[axis] = size;
        let mut values = Vec::with_capacity(shape.iter().product());
        if row > 0 {
            for outer in tensor.values.chunks_exact(row) {
                values.extend_from_slice(&outer[start * inner..(start + size) * inner]);
            }
        }
        pieces.push(Tensor { shape, values });
        start += size;
    }
    pieces
}

/// Puts tensors together along an axis; their other dimensions agree.
fn paste(names: &[String], parts: &[Tensor], axis: usize) -> Step<Tensor> {
    let without_axis = |shape: &[usize]| {
        let mut shape = shape.to_vec();
        (axis < shape.len()).then(|| {
            shape.remove(axis);
            shape
        })
    };
    let first = parts.first().and_then(|part| without_axis(&part.shape));
    for (name, part) in names.iter().zip(parts) {
        if first.is_none() || without_axis(&part.shape) != first {
            return Err(format!(
                "tensor `{}` has shape {:?}, which doesn't fit the other parts",
                shorten(name),
                part.shape
            ));
        }
    }
    let Some(mut shape) = parts.first().map(|part| part.shape.clone()) else {
        return Err("it has no parts".into());
    };
    shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
    let outer: usize = shape[..axis].iter().product();
    let mut values = Vec::with_capacity(shape.iter().product());
    for index in 0..outer {
        for part in parts {
            let row = part.shape[axis..].iter().product::<usize>();
            values.extend_from_slice(&part.values[index * row..(index + 1) * row]);
        }
    }
    Ok(Tensor { shape, values })
}

fn permuted(tensor: &Tensor, order: &[usize]) -> Tensor {
    let mut strides = vec![1; tensor.shape.len()];
    for axis in (1..strides.len()).rev() {
        strides[axis - 1] = strides[axis] * tensor.shape[axis];
    }
    let shape: Vec<usize> = order.iter().map(|&axis| tensor.shape[axis]).collect();
    let strides: Vec<usize> = order.iter().map(|&axis| strides[axis]).collect();
    let mut values = Vec::with_capacity(tensor.values.len());
    crate::strided::for_each(&shape, &strides, |element| values.push(tensor.values[element]));
    Tensor { shape, values }
}
