//! Parts that fail: what clients are told meanwhile, and that nothing is sold twice or forgotten.

mod no_worker;
mod poison;
mod rejected;
mod servers;
mod streams;
mod versions;
mod worker_killed;
