//! Draws blossoms: petals of some number, outline and marking, in any colour, turned, tilted, half hidden, before leaves and
//! in uneven light. A picture is a function of its kind and its number alone.

use retune::data::image::Pixels;

/// Width and height of a picture.
pub const SIDE: usize = 32;
/// Points of a pixel's side that are looked at.
const SAMPLES: usize = 3;

/// A kind of blossom. Its colours say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub petals: usize,
    pub outline: Outline,
    pub marking: Marking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outline {
    Round,
    Pointed,
    Notched,
    Slim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    Plain,
    Striped,
    Ringed,
    Spotted,
}

impl Kind {
    /// All 64 kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        const OUTLINES: [Outline; 4] = [Outline::Round, Outline::Pointed, Outline::Notched, Outline::Slim];
        const MARKINGS: [Marking; 4] = [Marking::Plain, Marking::Striped, Marking::Ringed, Marking::Spotted];
        (0..64).map(|number| Self {
            petals: [4, 5, 6, 8][number / 16],
            outline: OUTLINES[number / 4 % 4],
            marking: MARKINGS[number % 4],
        })
    }

    /// `5-pointed-striped`.
    pub fn name(self) -> String {
        format!("{}-{:?}-{:?}", self.petals, self.outline, self.marking).to_lowercase()
    }
}

/// Numbers that follow from a seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(name: &str, number: usize) -> Self {
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        let start = name.bytes().fold(0xCBF2_9CE4_8422_2325, hash);
        Self(start ^ (number as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}

type Color = [f64; 3];

fn color(random: &mut Random, brightness: [f64; 2]) -> Color {
    let (hue, saturation) = (random.unit() * 6.0, random.between(0.3, 0.95));
    let value = random.between(brightness[0], brightness[1]);
    [5.0, 3.0, 1.0].map(|shift| {
        let place = (shift + hue) % 6.0;
        value * (1.0 - saturation * place.min(4.0 - place).clamp(0.0, 1.0))
    })
}

fn mix(a: Color, b: Color, share: f64) -> Color {
    [0, 1, 2].map(|channel| a[channel] + share * (b[channel] - a[channel]))
}

/// One picture of a kind.
pub fn draw(kind: Kind, random: &mut Random) -> Pixels {
    let scene = Scene::new(kind, random);
    let light = [random.between(-0.25, 0.25), random.between(-0.25, 0.25), random.between(0.8, 1.1)];
    let noise = random.between(0.01, 0.05);
    let mut data = Vec::with_capacity(SIDE * SIDE * 3);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let mut sum = [0.0; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let part = |index: usize| (index as f64 + 0.5) / SAMPLES as f64;
                let u = (x as f64 + part(sample % SAMPLES)) / SIDE as f64 * 2.0 - 1.0;
                let v = (y as f64 + part(sample / SAMPLES)) / SIDE as f64 * 2.0 - 1.0;
                let here = scene.at(u, v);
                let bright = light[2] + light[0] * u + light[1] * v;
                sum = [0, 1, 2].map(|channel| sum[channel] + here[channel] * bright);
            }
            for channel in sum {
                let value = channel / (SAMPLES * SAMPLES) as f64 + random.between(-noise, noise) * 1.7;
                data.push((value * 255.0).round().clamp(0.0, 255.0) as u8);
            }
        }
    }
    Pixels { width: SIDE, height: SIDE, channels: 3, data }
}

/// A blade of grass or a leaf: an ellipse.
struct Leaf {
    middle: [f64; 2],
    angle: f64,
    length: f64,
    width: f64,
    color: Color,
}

impl Leaf {
    fn new(random: &mut Random, widths: [f64; 2]) -> Self {
        Self {
            middle: [random.between(-1.0, 1.0), random.between(-1.0, 1.0)],
            angle: random.between(0.0, std::f64::consts::PI),
            length: random.between(0.5, 1.4),
            width: random.between(widths[0], widths[1]),
            color: color(random, [0.2, 0.7]),
        }
    }

    fn covers(&self, x: f64, y: f64) -> bool {
        let (u, v) = turned(x - self.middle[0], y - self.middle[1], self.angle);
        (u / self.length).powi(2) + (v / self.width).powi(2) < 1.0
    }
}

fn turned(x: f64, y: f64, angle: f64) -> (f64, f64) {
    let (sin, cos) = angle.sin_cos();
    (cos * x + sin * y, cos * y - sin * x)
}

struct Scene {
    kind: Kind,
    ground: [Color; 4],
    behind: Vec<Leaf>,
    before: Vec<Leaf>,
    middle: [f64; 2],
    radius: f64,
    angle: f64,
    /// Direction and amount by which the blossom is turned away.
    tilt: [f64; 2],
    petal: Color,
    mark: Color,
    heart: Color,
    heart_radius: f64,
}

impl Scene {
    fn new(kind: Kind, random: &mut Random) -> Self {
        let leaves = |random: &mut Random, most: f64, widths| {
            (0..random.between(0.0, most) as usize).map(|_| Leaf::new(random, widths)).collect()
        };
        let petal = color(random, [0.45, 1.0]);
        // A marking that can be told from the petal, lighter or darker.
        let bright = petal.iter().sum::<f64>() / 3.0;
        let contrast = if bright > 0.5 { [0.05; 3] } else { [0.95; 3] };
        let share = random.between(0.45, 0.8);
        Self {
            kind,
            ground: std::array::from_fn(|_| color(random, [0.1, 0.75])),
            behind: leaves(random, 6.0, [0.05, 0.3]),
            before: leaves(random, 2.6, [0.02, 0.06]),
            middle: [random.between(-0.2, 0.2), random.between(-0.2, 0.2)],
            radius: random.between(0.6, 0.95),
            angle: random.between(0.0, std::f64::consts::TAU),
            tilt: [random.between(0.0, std::f64::consts::PI), random.between(0.68, 1.0)],
            petal,
            mark: mix(petal, contrast, share),
            heart: color(random, [0.2, 1.0]),
            heart_radius: random.between(0.12, 0.22),
        }
    }

    fn at(&self, x: f64, y: f64) -> Color {
        if let Some(leaf) = self.before.iter().find(|leaf| leaf.covers(x, y)) {
            return leaf.color;
        }
        if let Some(color) = self.blossom(x, y) {
            return color;
        }
        if let Some(leaf) = self.behind.iter().find(|leaf| leaf.covers(x, y)) {
            return leaf.color;
        }
        let (right, down) = (x.mul_add(0.5, 0.5), y.mul_add(0.5, 0.5));
        let [a, b, c, d] = self.ground;
        mix(mix(a, b, right), mix(c, d, right), down)
    }

    fn blossom(&self, x: f64, y: f64) -> Option<Color> {
        let (x, y) = turned(x - self.middle[0], y - self.middle[1], self.tilt[0]);
        let (x, y) = turned(x, y / self.tilt[1], self.angle);
        let distance = x.hypot(y) / self.radius;
        if distance < self.heart_radius {
            return Some(self.heart);
        }
        let half = std::f64::consts::PI / self.kind.petals as f64;
        let petal = (y.atan2(x) / (2.0 * half)).round();
        // From -1 to 1 across a petal.
        let across = (y.atan2(x) - petal * 2.0 * half) / half;
        let edge = across.abs();
        let reach = match self.kind.outline {
            Outline::Round => 0.5 + 0.5 * (1.0 - edge.powi(4)).max(0.0).sqrt(),
            Outline::Pointed => 1.0 - 0.6 * edge.powf(0.8),
            Outline::Notched => {
                0.5 + 0.5 * (1.0 - edge.powi(4)).max(0.0).sqrt() - 0.3 * (1.0 - edge / 0.45).max(0.0)
            }
            Outline::Slim if edge < 0.45 => 1.0 - 0.9 * edge.powi(2),
            Outline::Slim => 0.0,
        };
        if distance > reach {
            return None;
        }
        let marked = match self.kind.marking {
            Marking::Plain => false,
            Marking::Striped => edge < 0.16,
            Marking::Ringed => (0.42..0.6).contains(&distance),
            Marking::Spotted => (distance - 0.68).hypot(across * half * distance) < 0.13,
        };
        // Petals are darker towards the middle, and no two are quite alike.
        let shade = 0.75 + 0.25 * distance + 0.05 * (petal * 2.4).sin();
        let color = if marked { self.mark } else { self.petal };
        Some(color.map(|channel| channel * shade))
    }
}
