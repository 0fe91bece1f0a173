//! The rooms of the broker through its door: frames and time in, replies and effects out. See `script` for how to
//! read a scene.

#![allow(clippy::unwrap_used)]

mod any_frames;
mod client;
mod damage;
mod direct;
mod door;
mod flush;
mod offset;
mod order;
mod pull;
mod query;
mod retention;
mod scene_disk;
mod script;
mod send;
mod slow;
mod states;
mod topic;
mod wait;
