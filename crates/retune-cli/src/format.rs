//! Numbers, sizes and tables as a person reads them on a terminal. Plain text: no colours, no control characters.

use std::fmt::{self, Write};

/// `1234567` as `1,234,567`.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 row`, `1,200 rows`.
pub fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// Three significant digits and a unit of thousands: `22.7 M`, `1.30 G`.
fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {}", units[unit]).trim_end().to_owned()
}

/// Parameters: `2.23 M`, `2.56 k`, `770`.
pub fn parameters(parameters: usize) -> String {
    scaled(parameters as f64, &["", "k", "M", "G"])
}

/// `86600000` as `86.6 MB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, &["bytes", "kB", "MB", "GB", "TB"])
}

/// Floating-point operations: `1.21 TFLOP`.
pub fn operations(operations: f64) -> String {
    scaled(operations, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"])
}

/// `0.525` as `52.5%`.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Seconds in the unit a person would choose: `42 s`, `12 min`, `3.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 100.0 => format!("{seconds:.0} s"),
        seconds if seconds < 6000.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

/// A learning rate as people write it: `5e-5`, `3.28e-5`.
pub fn learning_rate(rate: f64) -> String {
    let text = format!("{rate:.2e}");
    match text.split_once('e') {
        Some((digits, exponent)) if digits.contains('.') => {
            format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// The learning rates of the layer groups that train, lowest to highest.
pub fn learning_rates(rates: impl Iterator<Item = f64> + Clone) -> String {
    let lowest = rates.clone().fold(f64::INFINITY, f64::min);
    let highest = rates.fold(0.0, f64::max);
    if lowest >= highest {
        return learning_rate(highest);
    }
    format!("{} to {}", learning_rate(lowest), learning_rate(highest))
}

/// Which layer groups train: `all 8`, `head`, `encoder.layer.4 to head (3 of 8)`.
pub fn layer_groups(names: &[String], trainable: &[bool], adapters_only: bool) -> String {
    let chosen: Vec<usize> = (0..names.len()).filter(|&group| trainable.get(group) == Some(&true)).collect();
    let share = format!("({} of {})", chosen.len(), names.len());
    let text = match chosen.as_slice() {
        [] => "none".to_owned(),
        _ if chosen.len() == names.len() => format!("all {}", names.len()),
        [only] => names[*only].clone(),
        [first, .., last] if last - first + 1 == chosen.len() => {
            format!("{} to {} {share}", names[*first], names[*last])
        }
        [first, ..] => format!("{} and others {share}", names[*first]),
    };
    if adapters_only { format!("adapters in {text}, and the head") } else { text }
}

/// The first of some names and how many more there are.
pub fn first_names(names: &[impl AsRef<str>], shown: usize) -> String {
    let mut text = names.iter().take(shown).map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    if names.len() > shown {
        let _ = write!(text, ", {} more", count(names.len() - shown));
    }
    text
}

/// Lines of a name and what is to be said of it, the second column aligned. A value of several lines is indented.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    let indent = format!("\n{}", " ".repeat(width));
    let line = |(name, value): &(&str, String)| {
        format!("{name:<width$}{}", value.trim_end().replace('\n', &indent)).trim_end().to_owned()
    };
    pairs.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// A header and rows, shown with aligned columns.
#[derive(Clone, Debug)]
pub struct Table {
    alignments: Vec<Align>,
    lines: Vec<Vec<String>>,
}

impl Table {
    /// A table of these columns and no rows.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        let (header, alignments) = columns.into_iter().map(|(name, align)| (name.to_owned(), align)).unzip();
        Self { alignments, lines: vec![header] }
    }

    /// Adds a row with a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.lines.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |text: &String| text.chars().count();
        let width = |column: usize| {
            self.lines.iter().filter_map(|line| line.get(column)).map(length).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.alignments.len()).map(width).collect();
        for (index, line) in self.lines.iter().enumerate() {
            let cells =
                line.iter().zip(&widths).zip(&self.alignments).map(|((cell, &width), align)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                });
            let text = cells.collect::<Vec<_>>().join("  ");
            if index > 0 {
                formatter.write_char('\n')?;
            }
            formatter.write_str(text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(1200, "row"), "1,200 rows");
        assert_eq!([12, 86_600_000, 999_999].map(bytes), ["12 bytes", "86.6 MB", "1.00 MB"]);
        assert_eq!(operations(1.21e12), "1.21 TFLOP");
        assert_eq!([770, 2562, 2_226_434].map(parameters), ["770", "2.56 k", "2.23 M"]);
    }

    #[test]
    fn learning_rates_are_written_as_people_do() {
        assert_eq!([5e-5, 3.2768e-5, 1e-3, 0.0].map(learning_rate), ["5e-5", "3.28e-5", "1e-3", "0e0"]);
        assert_eq!(learning_rates([5e-5, 1e-5].into_iter()), "1e-5 to 5e-5");
        assert_eq!(learning_rates([5e-5, 5e-5].into_iter()), "5e-5");
    }

    #[test]
    fn neighbouring_layer_groups_are_named_by_their_ends() {
        let names: Vec<String> = ["embeddings", "layer.0", "layer.1", "head"].map(str::to_owned).to_vec();
        let shown = |trainable: [bool; 4]| layer_groups(&names, &trainable, false);
        assert_eq!(shown([true; 4]), "all 4");
        assert_eq!(shown([false, false, false, true]), "head");
        assert_eq!(shown([false, false, true, true]), "layer.1 to head (2 of 4)");
        assert_eq!(shown([true, false, false, true]), "embeddings and others (2 of 4)");
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new([("name", Align::Left), ("rows", Align::Right), ("file", Align::Left)]);
        table.row(["a", "1,200", "x"].map(str::to_owned));
        table.row(["é long", "5", ""].map(str::to_owned));
        assert_eq!(table.to_string(), "name     rows  file\na       1,200  x\né long      5");
        let text = fields(&[("a", "one\ntwo".to_owned()), ("long", "three".to_owned())]);
        assert_eq!(text, "a     one\n      two\nlong  three");
    }
}
