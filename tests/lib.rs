//! The system's tests: see `system/main.rs`.
