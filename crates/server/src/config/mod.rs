//! Settings of the roles: `broker.conf` and `namesrv.conf` as RocketMQ writes them, and the flags over them.
//!
//! Each role has one table (`broker`, `namesrv`) with a row per key; the struct, its defaults, the reader,
//! the print-out and the reference page all come from it. A key of RocketMQ without a row stands in
//! `unimplemented` with the reason, and a file that sets it is answered with that reason: no key is
//! swallowed. A wrong value is an error, unlike in Java, where the default silently takes its place; all
//! errors of a file are reported at once.
//!
//! Not here: clap's flags, the environment, and what a setting does.

mod broker;
mod load;
mod namesrv;
mod problem;
mod properties;
mod rule;
mod table;
mod unimplemented;

#[cfg(test)]
mod tests;

pub(crate) use broker::{BrokerRole, BrokerSettings, FlushDiskType};
pub(crate) use load::{Loaded, Override};
pub(crate) use namesrv::NamesrvSettings;
pub(crate) use table::Settings;
