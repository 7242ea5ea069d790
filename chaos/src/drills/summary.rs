//! The figures of all drills, and whether they keep to their limits.

use std::fmt;

use super::{Figures, LIMITS};
use crate::report::table::Table;

/// What is printed in the end.
#[derive(Debug)]
pub struct Summary {
    table: Table,
    missed: usize,
}

impl Summary {
    /// Holds the figures against [`LIMITS`]. One that was never measured misses its limit, too.
    pub fn new(figures: &Figures) -> Self {
        let mut summary = Self {
            table: Table::new(&["drill", "figure", "count", "median", "worst", "limit", ""]),
            missed: 0,
        };
        for ((drill, figure), times) in figures {
            let limit = LIMITS.iter().find(|(of, _)| *of == (*drill, *figure)).map(|(_, limit)| *limit);
            let worst = times.worst().unwrap_or(f64::INFINITY);
            let missed = limit.is_some_and(|limit| worst > limit);
            summary.missed += usize::from(missed);
            summary.table.row([
                drill.name().to_owned(),
                figure.name().to_owned(),
                times.millis.len().to_string(),
                number(times.median().unwrap_or_default()),
                number(worst),
                limit.map(number).unwrap_or_default(),
                if missed { "MISSED" } else { "" }.to_owned(),
            ]);
        }
        let unmeasured = LIMITS.iter().filter(|(of, _)| !figures.contains_key(of));
        for ((drill, figure), limit) in unmeasured {
            summary.missed += 1;
            let cells = [drill.name(), figure.name(), "0", "", "", &number(*limit), "NOT MEASURED"];
            summary.table.row(cells.map(str::to_owned));
        }
        summary
    }

    /// Whether every limit was kept.
    pub fn passed(&self) -> bool {
        self.missed == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table)?;
        match self.missed {
            0 => writeln!(f, "\nmilliseconds, unless it says otherwise; all limits were kept"),
            missed => writeln!(f, "\nmilliseconds, unless it says otherwise; {missed} LIMITS WERE MISSED"),
        }
    }
}

fn number(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
