//! A broker that is asked directly: for what a scene would not show, or would have to show too much of.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cometmq_broker::{Broker, Effects, Turn};
use cometmq_protocol::{Frame, Header, HeaderError, Millis};
use cometmq_store::{Disk, FlushPolicy};

use crate::script::{config, frame, frames, peer, store_options};

/// A broker on `disk`, with the settings that a scene has when it names none.
pub fn open(disk: &(impl Disk + Clone + 'static), flush: FlushPolicy, now: i64) -> Broker {
    Broker::open(Arc::new(disk.clone()), store_options(flush), config(), Millis(now)).unwrap().0
}

/// A reply.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub remark: String,
    /// Its field of this name.
    pub offset: Option<i64>,
    pub body: Bytes,
}

impl Answer {
    fn read(frame: &Frame) -> Answer {
        let header = Header::decode(frame).unwrap();
        let offset = header.fields.as_ref().and_then(|fields| fields.get("offset"));
        let offset = offset.map(|offset| offset.parse().unwrap());
        let remark = header.remark.map(Cow::into_owned).unwrap_or_default();
        Answer { code: header.code, remark, offset, body: frame.body.clone() }
    }
}

/// Has a frame of a connection handled in a turn of its own. Gives the reply that comes at once, if any.
pub fn handle(
    broker: &Broker,
    now: i64,
    connection: u64,
    frame: &Frame,
    effects: &mut Effects,
) -> Result<Option<Answer>, HeaderError> {
    let mut out = BytesMut::new();
    let mut turn = Turn::new(Millis(now), peer(connection), &mut out);
    let result = broker.handle(&mut turn, frame, effects);
    broker.finish(turn, effects);
    let mut answers: Vec<Answer> = frames(out.freeze()).iter().map(Answer::read).collect();
    assert!(answers.len() <= 1, "at most one reply");
    assert!(result.is_ok() || answers.is_empty(), "a header that cannot be read is not answered");
    result.map(|()| answers.pop())
}

/// The reply that comes at once to a request in the words of a scene.
pub fn ask(
    broker: &Broker,
    now: i64,
    name: &str,
    words: &[&str],
    body: &str,
    effects: &mut Effects,
) -> Option<Answer> {
    handle(broker, now, 1, &frame(name, words, body, 7), effects).unwrap()
}
