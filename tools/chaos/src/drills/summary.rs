//! The figures of all drills, and whether they keep to their limits.

use std::fmt;

use super::{Drill, Figures, LIMITS, REPETITION};
use crate::report::table::Table;

/// What is printed in the end.
#[derive(Debug)]
pub struct Summary {
    table: Table,
    missed: usize,
}

impl Summary {
    /// Holds the figures of so many repetitions against [`LIMITS`]. One that a repetition did not measure misses
    /// its limit, too: an API that stays ready while a server is frozen has no time after which it was unready.
    pub fn new(figures: &Figures, repeats: u32) -> Self {
        let mut summary = Self {
            table: Table::new(&["drill", "figure", "count", "median", "worst", "limit", ""]),
            missed: 0,
        };
        for ((drill, figure), times) in figures {
            let limit = LIMITS.iter().find(|(of, _)| *of == (*drill, *figure)).map(|(_, limit)| *limit);
            let worst = times.worst().unwrap_or(f64::INFINITY);
            let flag = match limit {
                Some(_) if times.millis.len() < expected(*drill, repeats) => "NOT ALWAYS MEASURED",
                Some(limit) if worst > limit => "MISSED",
                _ => "",
            };
            summary.missed += usize::from(!flag.is_empty());
            summary.table.row([
                drill.name().to_owned(),
                figure.name().to_owned(),
                times.millis.len().to_string(),
                number(times.median().unwrap_or_default()),
                number(worst),
                limit.map(number).unwrap_or_default(),
                flag.to_owned(),
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

/// How many values so many repetitions give of each figure of a drill.
fn expected(drill: Drill, repeats: u32) -> usize {
    REPETITION.iter().filter(|of| **of == drill).count() * repeats as usize
}

fn number(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_only_if_every_repetition_measured_it() {
        let repeats = 3;
        let mut figures = Figures::new();
        for ((drill, figure), limit) in LIMITS {
            let times = figures.entry((*drill, *figure)).or_default();
            times.millis = vec![*limit; expected(*drill, repeats)];
        }
        assert!(Summary::new(&figures, repeats).passed());
        for (of, limit) in LIMITS {
            let mut slow = figures.clone();
            slow.entry(*of).or_default().millis[0] = limit + 1.0;
            let mut missing = figures.clone();
            missing.entry(*of).or_default().millis.pop();
            let mut never = figures.clone();
            never.remove(of);
            for (figures, flag) in
                [(slow, "MISSED"), (missing, "NOT ALWAYS MEASURED"), (never, "NOT MEASURED")]
            {
                let summary = Summary::new(&figures, repeats);
                assert!(!summary.passed() && summary.to_string().contains(flag), "{of:?}:\n{summary}");
            }
        }
    }
}
