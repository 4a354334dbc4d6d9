//! Walking a strided view in row-major order.

/// Calls `visit` with the position of each element of a view, in row-major order of `shape`.
pub(crate) fn for_each(shape: &[usize], strides: &[usize], mut visit: impl FnMut(usize)) {
    let elements: usize = shape.iter().product();
    let mut index = vec![0; shape.len()];
    let mut position = 0;
    for _ in 0..elements {
        visit(position);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            position += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            position -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
}
