//! The tape, its variables, and the walk back through it.

use retune_tensor::{Context, Shape, Tensor, ops};

use crate::Gradients;

/// A tensor on a tape: its value, and where its gradient goes.
#[derive(Clone, Debug)]
pub struct Var {
    tensor: Tensor,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Constant,
    Node(usize),
    Parameter(usize),
}

impl Var {
    /// A value that needs no gradient.
    pub fn constant(tensor: Tensor) -> Self {
        Self { tensor, source: Source::Constant }
    }

    /// A parameter whose gradient is added to the given slot of [`Gradients`].
    pub fn parameter(tensor: Tensor, slot: usize) -> Self {
        Self { tensor, source: Source::Parameter(slot) }
    }

    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Whether a gradient for it is wanted.
    pub fn needs_gradient(&self) -> bool {
        self.source != Source::Constant
    }

    /// The same values under another shape with the same innermost size.
    ///
    /// # Panics
    /// If the number of values or the innermost size differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Self {
        let tensor = self.tensor.reshape(shape);
        assert_eq!(tensor.width(), self.tensor.width(), "reshape: rows of {:?} would be cut", self.tensor);
        Self { tensor, source: self.source }
    }

    /// A parameter of any shape as one row, [1, values].
    ///
    /// # Panics
    /// If it is a value that was computed, whose gradient has its shape.
    pub fn row(&self) -> Self {
        assert!(!matches!(self.source, Source::Node(_)), "{:?} is no parameter", self.tensor);
        Self { tensor: self.tensor.reshape([1, self.tensor.elements()]), source: self.source }
    }

    /// Where its gradient goes, for a backward that does not need its value.
    pub(crate) fn target(&self) -> GradientTarget {
        GradientTarget(self.source)
    }

    /// The value, for an operation that overwrites it, and where its gradient goes.
    pub(crate) fn into_parts(self) -> (Tensor, GradientTarget) {
        (self.tensor, GradientTarget(self.source))
    }

    fn slot(&self) -> Option<usize> {
        match self.source {
            Source::Parameter(slot) => Some(slot),
            _ => None,
        }
    }
}

/// Where a variable's gradient goes, without its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GradientTarget(Source);

impl GradientTarget {
    pub(crate) fn needs_gradient(self) -> bool {
        self.0 != Source::Constant
    }
}

type BackwardFn<'s> = Box<dyn FnOnce(&mut Backward<'_>, Tensor) + 's>;

/// What one step recorded, in the order it was computed. `'s` is the lifetime of what the backward functions borrow.
pub struct Tape<'s> {
    context: Context,
    nodes: Vec<Option<BackwardFn<'s>>>,
}

impl<'s> Tape<'s> {
    /// An empty tape.
    pub fn new(context: Context) -> Self {
        Self { context, nodes: Vec::new() }
    }

    /// The context that its operations run in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The number of recorded operations.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A value whose gradient the caller wants back from [`Tape::backward`].
    pub fn leaf(&mut self, tensor: Tensor) -> Var {
        self.nodes.push(None);
        Var { tensor, source: Source::Node(self.nodes.len() - 1) }
    }

    /// Records an operation that made `value`, unless none of its `inputs` needs a gradient. `make_backward` is called
    /// only if it is recorded; its function receives the gradient of `value` and hands gradients on to the inputs.
    pub fn record<F>(&mut self, value: Tensor, inputs: &[&Var], make_backward: impl FnOnce() -> F) -> Var
    where
        F: FnOnce(&mut Backward<'_>, Tensor) + 's,
    {
        self.record_if(inputs.iter().any(|input| input.needs_gradient()), value, make_backward)
    }

    /// As [`Tape::record`], for a caller that knows whether a gradient is needed.
    pub fn record_if<F>(
        &mut self,
        needs_gradient: bool,
        value: Tensor,
        make_backward: impl FnOnce() -> F,
    ) -> Var
    where
        F: FnOnce(&mut Backward<'_>, Tensor) + 's,
    {
        if !needs_gradient {
            return Var::constant(value);
        }
        self.nodes.push(Some(Box::new(make_backward())));
        Var { tensor: value, source: Source::Node(self.nodes.len() - 1) }
    }

    /// Computes all wanted gradients from those of the outputs. Parameter gradients are added to `gradients`; what each
    /// operation kept is freed as soon as it was used.
    pub fn backward(mut self, outputs: Vec<(Var, Tensor)>, gradients: &mut Gradients) -> LeafGradients {
        let mut walk = Backward { context: &self.context, gradients, pending: vec![None; self.nodes.len()] };
        for (output, gradient) in outputs {
            walk.accumulate(&output, gradient);
        }
        while let Some(node) = self.nodes.pop() {
            if let Some(backward) = node
                && let Some(gradient) = walk.pending[self.nodes.len()].take()
            {
                backward(&mut walk, gradient);
            }
        }
        LeafGradients { pending: walk.pending }
    }
}

/// Gradients of the [leaves](Tape::leaf) of a tape.
pub struct LeafGradients {
    pending: Vec<Option<Tensor>>,
}

impl LeafGradients {
    /// The gradient of a leaf; `None` if no output depends on it.
    pub fn take(&mut self, leaf: &Var) -> Option<Tensor> {
        match leaf.source {
            Source::Node(node) => self.pending[node].take(),
            _ => None,
        }
    }
}

/// The walk back: where an operation's backward hands on its inputs' gradients.
pub struct Backward<'b> {
    context: &'b Context,
    gradients: &'b mut Gradients,
    pending: Vec<Option<Tensor>>,
}

impl Backward<'_> {
    /// The context of the tape.
    pub fn context(&self) -> &Context {
        self.context
    }

    /// The parameters' gradients, for a backward that runs a tape of its own.
    pub fn gradients(&mut self) -> &mut Gradients {
        self.gradients
    }

    /// Adds to the gradient of `var`; nothing happens if it needs none.
    pub fn accumulate(&mut self, var: &Var, gradient: Tensor) {
        self.accumulate_at(GradientTarget(var.source), gradient);
    }

    /// As [`Backward::accumulate`], for a variable whose value was overwritten.
    pub(crate) fn accumulate_at(&mut self, target: GradientTarget, gradient: Tensor) {
        match target.0 {
            Source::Constant => {}
            Source::Parameter(slot) => {
                ops::add_into(self.context, self.gradients.slot_mut(slot), &gradient);
            }
            Source::Node(node) => match &mut self.pending[node] {
                Some(sum) => ops::add_assign(self.context, sum, &gradient),
                empty => *empty = Some(gradient),
            },
        }
    }

    /// What was accumulated for a variable so far, taken out for an operation that adds to it in place.
    pub(crate) fn take_at(&mut self, target: GradientTarget) -> Option<Tensor> {
        match target.0 {
            Source::Node(node) => self.pending[node].take(),
            _ => None,
        }
    }

    /// The gradient buffer of a parameter; `None` if `var` is not a trainable parameter. Empty on `Meta`.
    pub fn parameter_gradient(&mut self, var: &Var) -> Option<&mut [f32]> {
        var.slot().map(|slot| self.gradients.slot_mut(slot))
    }

    /// The gradient buffer of a table [rows, width], for adding to the rows named and to no others; `None` if `var` is not
    /// a trainable parameter. Empty on `Meta`.
    pub fn table_gradient(&mut self, var: &Var, rows: &[u32]) -> Option<&mut [f32]> {
        let width = var.tensor().width();
        var.slot().map(|slot| self.gradients.slot_rows_mut(slot, width, rows))
    }

    /// The gradient buffers of two parameters at once.
    pub fn parameter_gradients(
        &mut self,
        first: &Var,
        second: &Var,
    ) -> (Option<&mut [f32]>, Option<&mut [f32]>) {
        self.gradients.pair_mut(first.slot(), second.slot())
    }
}
