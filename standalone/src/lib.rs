//! Everything on one machine: private Postgres and NATS servers, the API and workers, for people who
//! try the system and for tests.

pub mod programs;
pub mod servers;
pub mod stack;
