//! The targets, by subject: [`wire`] frames and headers, [`record`] what the log and batches hold, [`store`] the files
//! beside the log, [`index`] the index of keys, [`json`] bodies and config files, [`namesrv`] registrations,
//! [`properties_file`] settings.
//!
//! To add one: write a function here, add its row to [`TARGETS`], and a wrapper of one line in `fuzz/fuzz_targets/`.

pub mod index;
pub mod json;
pub mod namesrv;
pub mod properties_file;
pub mod record;
pub mod store;
pub mod wire;

use crate::golden::Golden;
use crate::target::{Bound, Outcome, Target};

/// Every target, in the order in which they run.
pub const TARGETS: &[Target] = &[
    target("frame", wire::frame, wire::frames, Bound { base: 1024, per_byte: 40 }),
    target("header_json", wire::header_json, wire::json_headers, HEADER),
    target("header_compact", wire::header_compact, wire::compact_headers, HEADER),
    target("request", wire::request, wire::request_headers, HEADER),
    target("previous", wire::previous, wire::requests_in_a_row, HEADER),
    target("record", record::record, record::records, Bound { base: 1024, per_byte: 8 }),
    target("properties", record::properties, record::property_texts, Bound { base: 1024, per_byte: 32 }),
    target("batch", record::batch, record::batches, Bound { base: 1024, per_byte: 16 }),
    target("tags", record::tag_expression, record::tag_expressions, Bound { base: 1024, per_byte: 32 }),
    target("offset_id", record::offset_id, record::offset_ids, Bound { base: 1024, per_byte: 0 }),
    target("queue_unit", store::queue_unit, store::queue_units, Bound { base: 1024, per_byte: 0 }),
    target("batch_queue", store::batch_queue, store::batch_queues, DISK),
    target("checkpoint", store::checkpoint, store::checkpoints, Bound { base: 64 * 1024, per_byte: 8 }),
    target("index_file", index::format, index::files, Bound { base: 1024, per_byte: 0 }),
    target("index", index::lookup, index::laid_out, Bound { base: 4 * 1024 * 1024, per_byte: 64 }),
    target("recovery", store::recovery, store::logs, Bound { base: 4 * 1024 * 1024, per_byte: 64 }),
    target("config_json", json::any, json::config_files, JSON),
    target("topics", json::topics, json::topic_files, JSON),
    target("groups", json::groups, json::group_files, JSON),
    target("offsets", json::offsets, json::offset_files, JSON),
    target("heartbeat", json::heartbeat, json::heartbeats, JSON),
    target("locks", json::locks, json::lock_bodies, JSON),
    target("route", json::route, json::routes, JSON),
    target("registration", namesrv::plain, namesrv::plain_bodies, JSON),
    target("registration_zlib", namesrv::compressed, namesrv::compressed_bodies, ZLIB),
    target("registration_blocks", namesrv::blocks, namesrv::inflated_bodies, ZLIB),
    target("properties_file", properties_file::entries, properties_file::files, PROPERTIES_FILE),
];

/// The disk in memory keeps whole blocks and its own tables.
const DISK: Bound = Bound { base: 64 * 1024, per_byte: 16 };
/// A list of fields, the frame written again, and strings that had to be unescaped. The shortest field, of six bytes,
/// becomes 48 in a vector that has doubled, in each of the two lists that are compared.
const HEADER: Bound = Bound { base: 8 * 1024, per_byte: 64 };
/// The shortest value, `0,`, becomes 32 bytes in a vector that has doubled, several times over.
const JSON: Bound = Bound { base: 16 * 1024, per_byte: 256 };
/// A byte of a zlib stream may stand for a thousand, and the encoder has tables.
const ZLIB: Bound = Bound { base: 2 * 1024 * 1024, per_byte: 1032 * 64 };
/// An entry `a` of two bytes has two strings, its number and a place in vectors that double; the parser's patterns are
/// made once.
const PROPERTIES_FILE: Bound = Bound { base: 1024 * 1024, per_byte: 256 };

const fn target(
    name: &'static str,
    run: fn(&[u8]) -> Outcome,
    seeds: fn(&Golden) -> Vec<Vec<u8>>,
    bound: Bound,
) -> Target {
    Target { name, run, seeds, bound }
}
