//! The index against its meaning: a list of messages for each key. On Java's files, and on disks that crash and fail.

#![allow(clippy::unwrap_used)]

#[path = "../golden_store/mod.rs"]
mod golden_store;
#[path = "../reading/mod.rs"]
mod reading;

mod crashes;
mod golden;
mod keyed;
mod rules;
