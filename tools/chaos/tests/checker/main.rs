//! The checker itself is checked: hand-made histories that break each promise once, and random runs of a
//! simple model, unchanged and with one thing falsified.

mod by_hand;
mod example;
mod falsified;
mod generations;
mod history_file;
mod invariants;
mod losses;
mod model;
mod random;
