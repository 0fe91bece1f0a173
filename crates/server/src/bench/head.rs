//! As much of a header as load generators and the null server read of every frame.

use cometmq_protocol::{Frame, Header, HeaderError, SerializeType};
use serde::Deserialize;

/// Which request a frame is, or which one it answers.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) code: i32,
    pub(super) opaque: i32,
    #[serde(default)]
    flag: i32,
}

impl Head {
    /// Reads the header of `frame`, without its fields: a third of the cost of reading it all.
    pub(super) fn read(frame: &Frame) -> Result<Head, HeaderError> {
        if frame.serialize_type == SerializeType::Json
            && let Ok(head) = serde_json::from_slice(&frame.header)
        {
            return Ok(head);
        }
        let Header { code, opaque, flag, .. } = Header::decode(frame)?;
        Ok(Head { code, opaque, flag })
    }

    /// Whether the frame answers a request.
    pub(super) fn is_response(&self) -> bool {
        self.flag & 1 != 0
    }

    /// Whether the frame is a request that waits for an answer.
    pub(super) fn wants_answer(&self) -> bool {
        self.flag == 0
    }
}

/// What a refusal says, for a person.
pub(super) fn refusal(frame: &Frame) -> String {
    let Ok(header) = Header::decode(frame) else { return "a header that cannot be read".to_owned() };
    told(header.code, header.remark.as_deref().unwrap_or_default())
}

/// A response code with its name and remark.
pub(super) fn told(code: i32, remark: &str) -> String {
    let name = cometmq_protocol::ResponseCode::from_code(code).map(|code| code.name()).unwrap_or_default();
    // Java remarks go on with a line about a FAQ.
    let remark = remark.lines().next().unwrap_or_default();
    format!("code {code} {name} {remark}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use cometmq_protocol::{FrameLimits, frame};

    fn reply(code: i32, remark: &'static str, serialize_type: SerializeType) -> Frame {
        let mut out = BytesMut::new();
        Header::response(code, 7, Some(remark.into()), None).encode_with_body(serialize_type, b"", &mut out);
        frame::cut(&mut out, FrameLimits::default()).unwrap().unwrap()
    }

    #[test]
    fn both_encodings_are_read() {
        for serialize_type in [SerializeType::Json, SerializeType::Compact] {
            let head = Head::read(&reply(17, "", serialize_type)).unwrap();
            assert_eq!(
                (head.code, head.opaque, head.is_response(), head.wants_answer()),
                (17, 7, true, false)
            );
        }
    }

    #[test]
    fn a_refusal_is_told_with_name_and_first_line() {
        let frame = reply(17, "topic[T] not exist\nSee https://rocketmq", SerializeType::Json);
        assert_eq!(refusal(&frame), "code 17 TOPIC_NOT_EXIST topic[T] not exist");
        assert_eq!(told(999, ""), "code 999");
    }
}
