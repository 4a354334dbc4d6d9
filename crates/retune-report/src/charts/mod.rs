//! The report's charts. Each takes plain numbers and names and gives one SVG element.

mod cuts;
mod distribution;
mod heat_map;
mod interval;
mod line;
mod pareto;
mod rates;
mod reliability;
mod scatter;

pub(crate) use cuts::{CutRow, cut_rows};
pub(crate) use distribution::distribution;
pub(crate) use heat_map::heat_map;
pub(crate) use interval::interval_scale;
pub(crate) use line::{LineChart, Mark, Series, smoothed};
pub(crate) use pareto::{Trade, pareto};
pub(crate) use rates::{Rate, RateChart};
pub(crate) use reliability::reliability_diagram;
pub(crate) use scatter::{histogram, scatter};
