//! The state of a run while it runs.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use common::escape::escaped;
use indicatif::{ProgressBar, ProgressStyle};

use crate::drive::{Stretch, Tally, percentile_ms};

use super::number::{count, ms, rate};

/// How often a line is written.
const EVERY: Duration = Duration::from_secs(1);

/// Shows rate, outcomes and percentiles once a second: in place on a terminal, else line by line.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Requests in all, when that is known.
    expected: Option<u64>,
    begin: Option<Instant>,
    last: Instant,
    finished: u64,
    recent: Tally,
}

impl Progress {
    /// For a run of `expected` requests, `None` if it depends on the server's speed.
    pub fn new(expected: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = expected.map_or_else(ProgressBar::no_length, ProgressBar::new);
            let template = if expected.is_some() { "  {bar:24} {msg}" } else { "  {spinner} {msg}" };
            // The templates are constants and well-formed; the default would do as well.
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        Self { bar, expected, begin: None, last: Instant::now(), finished: 0, recent: Tally::default() }
    }

    /// Takes in what a thread has counted, and shows the state when it is time.
    pub fn update(&mut self, stretch: Option<&Stretch>) {
        let now = Instant::now();
        let begin = *self.begin.get_or_insert_with(|| {
            self.last = now;
            now
        });
        if let Some((_, tally)) = stretch {
            self.finished += tally.finished;
            self.recent.merge(tally);
        }
        let passed = now - self.last;
        if passed >= EVERY {
            self.last = now;
            // It holds codes that the server chose.
            let line = escaped(&self.line(now - begin, passed)).into_owned();
            self.recent = Tally::default();
            match &self.bar {
                Some(bar) => {
                    bar.set_position(self.finished);
                    bar.set_message(line);
                }
                None => eprintln!("  {line}"),
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, since_begin: Duration, passed: Duration) -> String {
        let recent = &self.recent;
        let of = self.expected.map(|expected| format!(" of {}", count(expected))).unwrap_or_default();
        let mut line = format!(
            "{:5.1} s  {}{of}  {}/s  p50 {}  p99 {} ms ",
            since_begin.as_secs_f64(),
            count(self.finished),
            rate(recent.finished as f64 / passed.as_secs_f64()),
            ms(percentile_ms(&recent.latency_us, 50.0)),
            ms(percentile_ms(&recent.latency_us, 99.0)),
        );
        for ((status, code), answers) in &recent.answers {
            let name = if code.is_empty() { &status.to_string() } else { code };
            line.push_str(&format!(" {name} {}", count(*answers)));
        }
        let faults = recent.faults.iter().sum::<u64>();
        if faults > 0 {
            line.push_str(&format!(" faults {}", count(faults)));
        }
        line
    }
}
