//! Turning, shearing and moving a picture about its middle.

use super::pixels::Pixels;

/// Where in the source a target pixel comes from, both measured from the middle: `x' = a·x + b·y + c` and
/// `y' = d·x + e·y + f`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub a: f64,
    pub b: f64,
    pub c: f64,
    pub d: f64,
    pub e: f64,
    pub f: f64,
}

impl Affine {
    const IDENTITY: Self = Affine { a: 1.0, b: 0.0, c: 0.0, d: 0.0, e: 1.0, f: 0.0 };

    /// Counter-clockwise, in radians.
    pub(super) fn rotation(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Affine { a: cos, b: -sin, d: sin, e: cos, ..Self::IDENTITY }
    }

    /// Rows are moved in proportion to their distance from the first.
    pub(super) fn shear_x(by: f64, height: usize) -> Self {
        Affine { b: by, c: by * height as f64 / 2.0, ..Self::IDENTITY }
    }

    /// Columns likewise.
    pub(super) fn shear_y(by: f64, width: usize) -> Self {
        Affine { d: by, f: by * width as f64 / 2.0, ..Self::IDENTITY }
    }

    pub(super) fn translation(x: f64, y: f64) -> Self {
        Affine { c: -x, f: -y, ..Self::IDENTITY }
    }
}

/// The transformed picture in the same size, bilinear, with `fill` where there was nothing.
pub(super) fn transform(pixels: &Pixels, map: &Affine, fill: &[u8]) -> Pixels {
    let (width, height, channels) = (pixels.width, pixels.height, pixels.channels);
    let (middle_x, middle_y) = (width as f64 / 2.0, height as f64 / 2.0);
    let mut data = Vec::with_capacity(pixels.data.len());
    // Outside of the picture lies the fill.
    let sample = |x: i64, y: i64, channel: usize| -> f32 {
        let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
        f32::from(if inside { pixels.at(x as usize, y as usize)[channel] } else { fill[channel] })
    };
    for y in 0..height {
        let v = y as f64 + 0.5 - middle_y;
        for x in 0..width {
            let u = x as f64 + 0.5 - middle_x;
            let from_x = map.a * u + map.b * v + map.c + middle_x - 0.5;
            let from_y = map.d * u + map.e * v + map.f + middle_y - 0.5;
            let (left, top) = (from_x.floor(), from_y.floor());
            let (right_share, bottom_share) = ((from_x - left) as f32, (from_y - top) as f32);
            let (left, top) = (left as i64, top as i64);
            for channel in 0..channels {
                let above = sample(left, top, channel) * (1.0 - right_share)
                    + sample(left + 1, top, channel) * right_share;
                let below = sample(left, top + 1, channel) * (1.0 - right_share)
                    + sample(left + 1, top + 1, channel) * right_share;
                data.push((above * (1.0 - bottom_share) + below * bottom_share).round() as u8);
            }
        }
    }
    Pixels { width, height, channels, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Pixels {
        Pixels { width: 4, height: 4, channels: 1, data: (0..16).map(|value| value * 10).collect() }
    }

    #[test]
    fn a_quarter_turn_moves_pixels_whole() {
        let turned = transform(&picture(), &Affine::rotation(std::f64::consts::FRAC_PI_2), &[0]);
        // Counter-clockwise: the last column becomes the first row.
        assert_eq!(turned.row(0), [30, 70, 110, 150]);
        assert_eq!(transform(&picture(), &Affine::rotation(0.0), &[0]), picture());
    }

    #[test]
    fn what_comes_from_outside_is_the_fill() {
        let moved = transform(&picture(), &Affine::translation(1.0, 0.0), &[200]);
        assert_eq!(moved.row(0), [200, 0, 10, 20]);
    }
}
