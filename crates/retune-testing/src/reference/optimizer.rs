//! One element's optimizer steps, transcribed from the update rules in PyTorch's documentation.

/// Adam and AdamW (`torch.optim.AdamW`): `[w, m, v]` after step `step`.
#[expect(clippy::too_many_arguments, reason = "the hyperparameters")]
pub fn adamw(
    [w, m, v]: [f64; 3],
    g: f64,
    learning_rate: f64,
    [beta1, beta2]: [f64; 2],
    eps: f64,
    weight_decay: f64,
    step: i32,
    decoupled: bool,
) -> [f64; 3] {
    let (w, g) =
        if decoupled { (w - learning_rate * weight_decay * w, g) } else { (w, g + weight_decay * w) };
    let m = beta1 * m + (1.0 - beta1) * g;
    let v = beta2 * v + (1.0 - beta2) * g * g;
    let (m_hat, v_hat) = (m / (1.0 - beta1.powi(step)), v / (1.0 - beta2.powi(step)));
    [w - learning_rate * m_hat / (v_hat.sqrt() + eps), m, v]
}

/// Stochastic gradient descent (`torch.optim.SGD`): `[w, buffer]`.
#[expect(clippy::too_many_arguments, reason = "the hyperparameters")]
pub fn sgd(
    [w, buffer]: [f64; 2],
    g: f64,
    learning_rate: f64,
    momentum: f64,
    dampening: f64,
    nesterov: bool,
    weight_decay: f64,
    first: bool,
) -> [f64; 2] {
    let g = g + weight_decay * w;
    if momentum == 0.0 {
        return [w - learning_rate * g, buffer];
    }
    let buffer = if first { g } else { momentum * buffer + (1.0 - dampening) * g };
    let direction = if nesterov { g + momentum * buffer } else { buffer };
    [w - learning_rate * direction, buffer]
}

/// RMSprop, not centered (`torch.optim.RMSprop`): `[w, square average, buffer]`.
pub fn rmsprop(
    [w, average, buffer]: [f64; 3],
    g: f64,
    learning_rate: f64,
    alpha: f64,
    eps: f64,
    momentum: f64,
    weight_decay: f64,
) -> [f64; 3] {
    let g = g + weight_decay * w;
    let average = alpha * average + (1.0 - alpha) * g * g;
    let update = g / (average.sqrt() + eps);
    if momentum == 0.0 {
        return [w - learning_rate * update, average, buffer];
    }
    let buffer = momentum * buffer + update;
    [w - learning_rate * buffer, average, buffer]
}

/// Lion (Chen et al. 2023, algorithm 2): `[w, m]`.
pub fn lion(
    [w, m]: [f64; 2],
    g: f64,
    learning_rate: f64,
    [beta1, beta2]: [f64; 2],
    weight_decay: f64,
) -> [f64; 2] {
    let direction = beta1 * m + (1.0 - beta1) * g;
    let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
    [w - learning_rate * (sign + weight_decay * w), beta2 * m + (1.0 - beta2) * g]
}
