//! Single figures with the target that each must reach, as rows for `docs/benchmarks.md`.

use super::machine;
use super::report::thousands;
use crate::table::Table;

/// What a figure must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// One figure.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    name: String,
    /// What was measured; a figure that could not be has none.
    value: Option<f64>,
    unit: &'static str,
    target: Option<Target>,
    remark: String,
    load: String,
}

impl Figure {
    /// A figure with its unit, measured now.
    pub(super) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        let load = machine::load_average();
        Figure { name: name.into(), value: Some(value), unit, target: None, remark: String::new(), load }
    }

    /// A figure that this machine does not allow to measure, and why.
    pub(super) fn not_measured(name: impl Into<String>, why: impl Into<String>) -> Figure {
        Figure { value: None, remark: why.into(), ..Figure::new(name, 0.0, "") }
    }

    /// The target: so much or more.
    pub(super) fn at_least(self, target: f64) -> Figure {
        Figure { target: Some(Target::AtLeast(target)), ..self }
    }

    /// The target: so much or less.
    pub(super) fn at_most(self, target: f64) -> Figure {
        Figure { target: Some(Target::AtMost(target)), ..self }
    }

    /// What it was made of.
    pub(super) fn from(self, remark: impl Into<String>) -> Figure {
        Figure { remark: remark.into(), ..self }
    }

    /// Whether the target was reached, if there is one.
    fn reached(&self) -> Option<bool> {
        let value = self.value?;
        self.target.map(|target| match target {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
        })
    }

    /// The cells of its row, behind the name of the scenario.
    fn cells(&self) -> [String; 6] {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let target = match self.target {
            None => String::new(),
            Some(Target::AtLeast(value)) => format!("≥ {}{unit}", number(value)),
            Some(Target::AtMost(value)) => format!("≤ {}{unit}", number(value)),
        };
        let reached = match self.reached() {
            None => "",
            Some(true) => "yes",
            Some(false) => "**no**",
        };
        let value = self.value.map_or("not measured".to_owned(), |value| format!("{}{unit}", number(value)));
        [self.name.clone(), value, target, reached.to_owned(), self.load.clone(), self.remark.clone()]
    }
}

/// All figures of a run, each with its scenario, as Markdown.
pub(super) fn markdown(figures: &[(&'static str, Figure)]) -> String {
    let mut table = Table::new(["scenario", "figure", "measured", "target", "reached", "load", "from"]);
    for (scenario, figure) in figures {
        let cells = figure.cells();
        table.row(std::iter::once((*scenario).to_owned()).chain(cells));
    }
    table.markdown()
}

/// Three digits that count.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => thousands(value.round() as u64),
        middle if middle >= 10.0 => trimmed(format!("{value:.1}")),
        _ => trimmed(format!("{value:.2}")),
    }
}

fn trimmed(digits: String) -> String {
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_figure_target_and_verdict() {
        let ratio = Figure { load: "1.00".to_owned(), ..Figure::new("ratio", 14.26, "×") };
        let figures = [
            ("backlog", ratio.clone().at_least(15.0).from("a, b")),
            ("backlog", ratio.at_most(15.0)),
            ("memory", Figure { load: "2.00".to_owned(), ..Figure::not_measured("peak", "no group") }),
        ];
        let markdown = markdown(&figures);
        let rows: Vec<&str> = markdown.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| backlog | ratio | 14.3 × | ≥ 15 × | **no** | 1.00 | a, b |",
                "| backlog | ratio | 14.3 × | ≤ 15 × | yes | 1.00 |  |",
                "| memory | peak | not measured |  |  | 2.00 | no group |",
            ]
        );
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown: Vec<_> = [0.0, 0.814, 2.0, 12.34, 99.0, 123.4, 1_234_567.0].map(number).into();
        assert_eq!(shown, ["0", "0.81", "2", "12.3", "99", "123", "1 234 567"]);
    }
}
