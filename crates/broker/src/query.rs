//! Single messages, looked up by key, by their producer's id, or by their place in the log.
//!
//! What comes out is what was asked for: a key is compared with the message's own keys, not only by hash, and a place
//! must be one that a queue names. Bounded whatever is asked: in messages, in bytes, and in what is looked at.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use cometmq_protocol::headers::query::{QueryMessageHeader, QueryMessageReply, ViewMessageHeader};
use cometmq_protocol::message::RecordView;
use cometmq_protocol::{LogOffset, Millis, Reply, ResponseCode};
use cometmq_store::{DiskError, KeyQuery};

use crate::broker::Broker;

/// Bounds of a query by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryRules {
    /// Most messages in a reply (`maxMsgsNumBatch`).
    pub messages_max: usize,
    /// Most messages looked for by a producer's id (`defaultQueryMaxNum`).
    pub by_id_max: usize,
    /// Bytes of messages after which a reply takes no further one; the first it takes anyway.
    pub bytes_max: usize,
}

impl Default for QueryRules {
    /// RocketMQ's defaults, and as many bytes as its largest message has.
    fn default() -> QueryRules {
        QueryRules { messages_max: 64, by_id_max: 32, bytes_max: 4 * 1024 * 1024 }
    }
}

impl Broker {
    /// Code 12: the newest messages with a key, in the order of the log.
    pub(crate) fn query_message(&self, header: &QueryMessageHeader<'_>) -> Reply {
        let rules = &self.config.query;
        let wanted = match header.unique {
            Some(true) => rules.by_id_max,
            _ => usize::try_from(header.max_num).unwrap_or(0),
        };
        match self.newest_with_key(header, wanted.min(rules.messages_max)) {
            Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
            Ok(found) if found.is_empty() => {
                let remark = match self.store.index_position() {
                    None => "can not find message: messageIndexEnable=false on this broker".to_owned(),
                    Some(position) if position < self.store.confirmed() => {
                        format!(
                            "can not find message; the index is being made and goes up to log offset {position}"
                        )
                    }
                    Some(_) => "can not find message, maybe time range not correct".to_owned(),
                };
                Reply::refuse(ResponseCode::QueryNotFound, remark)
                    .with_fields(&progress(Millis(0), LogOffset(0)))
            }
            Ok(found) => {
                let mut body = BytesMut::with_capacity(found.iter().map(Bytes::len).sum());
                found.iter().rev().for_each(|record| body.extend_from_slice(record));
                let (time, offset) = self.store.index_last_entry();
                Reply::success().with_fields(&progress(time, offset)).with_body(body.freeze())
            }
        }
    }

    /// Up to `count` messages, newest first; the first one whatever its size.
    fn newest_with_key(
        &self,
        header: &QueryMessageHeader<'_>,
        count: usize,
    ) -> Result<Vec<Bytes>, DiskError> {
        let mut found = Vec::new();
        if count == 0 {
            return Ok(found);
        }
        let query = KeyQuery {
            topic: &header.topic,
            key: &header.key,
            begin: Millis(header.begin_timestamp),
            end: Millis(header.end_timestamp),
        };
        let mut bytes = 0;
        self.store.find_by_key(&query, &mut |record| {
            if bytes > 0 && bytes + record.len() > self.config.query.bytes_max {
                return ControlFlow::Break(());
            }
            bytes += record.len();
            found.push(Bytes::copy_from_slice(record));
            if found.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Code 33: the message that lies at a position of the log.
    pub(crate) fn view_message(&self, header: &ViewMessageHeader<'_>) -> Reply {
        let mut record = Vec::new();
        let found = self
            .store
            .read_at(LogOffset(header.offset), &mut record)
            .and_then(|found| Ok(found && self.is_in_its_queue(&record)?));
        match found {
            Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
            Ok(true) => Reply::success().with_body(record),
            Ok(false) => {
                let remark = format!("can not find message by the offset, {}", header.offset);
                Reply::refuse(ResponseCode::SystemError, remark)
            }
        }
    }

    /// Whether the queue that a record names has it at the place that it names. Bytes inside a message's body can look
    /// like a record; no queue knows of them.
    fn is_in_its_queue(&self, record: &[u8]) -> Result<bool, DiskError> {
        let Ok(view) = RecordView::decode(record) else { return Ok(false) };
        let Some(queue) = self.store.queue(view.topic, view.queue_id)? else { return Ok(false) };
        if view.queue_offset < queue.min() {
            return Ok(false);
        }
        let mut units = Vec::with_capacity(1);
        queue.read(view.queue_offset, 1, &mut units)?;
        Ok(units.iter().any(|unit| unit.log_offset == view.log_offset && unit.size as usize == view.total))
    }
}

fn progress(time: Millis, offset: LogOffset) -> QueryMessageReply<'static> {
    QueryMessageReply {
        index_last_update_timestamp: time.0,
        index_last_update_phyoffset: offset.0,
        borrows: std::marker::PhantomData,
    }
}
