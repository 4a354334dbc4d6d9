//! Attention of one head over one sequence.

/// The operands of one head: `q` `[queries, dim]`, `k` and `v` `[keys, dim]`, and the dropout factor of every
/// probability, `[queries, keys]`.
#[derive(Clone, Debug)]
pub struct Head {
    /// Columns.
    pub dim: usize,
    /// The factor on the scores.
    pub scale: f64,
    /// Whether query `i` sees keys up to `i + keys - queries` only.
    pub causal: bool,
    /// Queries.
    pub q: Vec<f64>,
    /// Keys.
    pub k: Vec<f64>,
    /// Values.
    pub v: Vec<f64>,
    /// Dropout factors.
    pub factors: Vec<f64>,
}

/// Gradients of one head.
#[derive(Clone, Debug)]
pub struct HeadGradient {
    /// Of the queries.
    pub dq: Vec<f64>,
    /// Of the keys.
    pub dk: Vec<f64>,
    /// Of the values.
    pub dv: Vec<f64>,
}

impl Head {
    fn lengths(&self) -> (usize, usize) {
        (self.q.len() / self.dim, self.k.len() / self.dim)
    }

    fn scores(&self, i: usize) -> Vec<f64> {
        let (queries, keys) = self.lengths();
        (0..keys)
            .filter(|j| !self.causal || j + queries <= i + keys)
            .map(|j| {
                self.scale
                    * (0..self.dim).map(|c| self.q[i * self.dim + c] * self.k[j * self.dim + c]).sum::<f64>()
            })
            .collect()
    }

    /// The output `[queries, dim]` and each query's log-sum-exp.
    pub fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        let (queries, keys) = self.lengths();
        let (mut out, mut log_sum_exp) = (vec![0.0; queries * self.dim], Vec::new());
        for i in 0..queries {
            let scores = self.scores(i);
            log_sum_exp.push(scores.iter().map(|s| s.exp()).sum::<f64>().ln());
            for (j, p) in super::matrix::softmax(&scores).into_iter().enumerate() {
                for c in 0..self.dim {
                    out[i * self.dim + c] += p * self.factors[i * keys + j] * self.v[j * self.dim + c];
                }
            }
        }
        (out, log_sum_exp)
    }

    /// Gradients from `dout` `[queries, dim]`, by the softmax's Jacobian written out.
    pub fn backward(&self, dout: &[f64]) -> HeadGradient {
        let (queries, keys) = self.lengths();
        let zeros = |rows: usize| vec![0.0; rows * self.dim];
        let mut gradient = HeadGradient { dq: zeros(queries), dk: zeros(keys), dv: zeros(keys) };
        for i in 0..queries {
            let p = super::matrix::softmax(&self.scores(i));
            let factor = |j: usize| self.factors[i * keys + j];
            let dp: Vec<f64> = (0..p.len())
                .map(|j| {
                    factor(j)
                        * (0..self.dim)
                            .map(|c| dout[i * self.dim + c] * self.v[j * self.dim + c])
                            .sum::<f64>()
                })
                .collect();
            for j in 0..p.len() {
                let ds: f64 = (0..p.len()).map(|l| dp[l] * p[l] * (f64::from(u8::from(l == j)) - p[j])).sum();
                for c in 0..self.dim {
                    gradient.dq[i * self.dim + c] += self.scale * ds * self.k[j * self.dim + c];
                    gradient.dk[j * self.dim + c] += self.scale * ds * self.q[i * self.dim + c];
                    gradient.dv[j * self.dim + c] += p[j] * factor(j) * dout[i * self.dim + c];
                }
            }
        }
        gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{assert_gradient, counter_normal_like, counter_uniform, widen};

    #[test]
    fn backward_is_the_gradient_of_forward() {
        for causal in [false, true] {
            let (queries, keys, dim) = (3, 5, 2);
            let draw = |name, rows: usize| widen(&counter_normal_like(name, rows * dim, 1.0));
            let factors =
                (0..15).map(|i| if counter_uniform("mask", i) < 0.3 { 0.0 } else { 1.0 / 0.7 }).collect();
            let head = Head {
                dim,
                scale: 0.7,
                causal,
                q: draw("q", queries),
                k: draw("k", keys),
                v: draw("v", keys),
                factors,
            };
            let dout = draw("dout", queries);
            let loss = |head: Head| -> f64 { head.forward().0.iter().zip(&dout).map(|(o, d)| o * d).sum() };
            let gradient = head.backward(&dout);
            assert_gradient("dq", &head.q, &gradient.dq, 1e-7, |q| {
                loss(Head { q: q.to_vec(), ..head.clone() })
            });
            assert_gradient("dk", &head.k, &gradient.dk, 1e-7, |k| {
                loss(Head { k: k.to_vec(), ..head.clone() })
            });
            assert_gradient("dv", &head.v, &gradient.dv, 1e-7, |v| {
                loss(Head { v: v.to_vec(), ..head.clone() })
            });
        }
    }
}
