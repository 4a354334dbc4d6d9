//! The report's charts. Each takes plain numbers and names and gives one SVG element.

mod heat_map;
mod interval;
mod line;
mod rates;
mod reliability;
mod scatter;

pub(crate) use heat_map::heat_map;
pub(crate) use interval::interval_scale;
pub(crate) use line::{LineChart, Mark, Series, smoothed};
pub(crate) use rates::{Rate, RateChart};
pub(crate) use reliability::reliability_diagram;
pub(crate) use scatter::{histogram, scatter};
