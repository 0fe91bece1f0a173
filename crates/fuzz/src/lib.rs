//! Fuzz targets: one small function for each decoder, with the laws that must hold for any bytes.
//!
//! Suggested reading order: [`target`] says what a target is, [`targets`] holds them by subject, [`golden`] is what
//! their inputs begin with, [`mutate`] how these are changed, [`run`] the loop, [`regression`] how a failure becomes a
//! test. [`allocation`] counts what a target takes.
//!
//! Two drivers use the targets: the program of this crate (`cargo xtask fuzz`), and libFuzzer's wrappers in `fuzz/`
//! beside the workspace.
//!
//! Never here: decoders. A law that does not hold is mended where the decoder is.

pub mod allocation;
pub mod golden;
pub mod mutate;
pub mod regression;
pub mod run;
pub mod target;
pub mod targets;

pub use target::{Bound, Outcome, Target};
pub use targets::TARGETS;
