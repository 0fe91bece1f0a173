//! JSON bodies, in the dialect that Java's fastjson reads and writes.

pub mod client;
pub mod json;
pub mod registration;
pub mod route;
pub mod topic;

pub use json::BodyError;
pub use topic::{DataVersion, TopicConfig};
