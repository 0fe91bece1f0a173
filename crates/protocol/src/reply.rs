//! Replies as the machines give them, and who asked.

use std::borrow::Cow;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use crate::frame::SerializeType;
use crate::header::{Fields, Header};
use crate::headers::HeaderFields;
use crate::response::ResponseCode;

/// A connection of this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Who sent a request, and through which of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The connection.
    pub connection: ConnectionId,
    /// The client's address.
    pub remote: SocketAddr,
    /// Our address as the client sees it.
    pub local: SocketAddr,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Outcome.
    pub code: ResponseCode,
    /// Text for a person; with a refusal, what to do about it.
    pub remark: Option<Cow<'static, str>>,
    /// Named values.
    pub fields: Option<Fields<'static>>,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// Done, with nothing to tell.
    pub fn success() -> Reply {
        Reply { code: ResponseCode::Success, remark: None, fields: None, body: Bytes::new() }
    }

    /// Not done; `remark` says why and what to do.
    pub fn refuse(code: ResponseCode, remark: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, remark: Some(remark.into()), fields: None, body: Bytes::new() }
    }

    /// With the fields of a typed header.
    pub fn with_fields<'a>(mut self, header: &'a impl HeaderFields<'a>) -> Reply {
        self.fields = Some(header.encode());
        self
    }

    /// With one more field.
    pub fn with_field(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Reply {
        self.fields.get_or_insert_default().push(name, value);
        self
    }

    /// With a body.
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Reply {
        self.body = body.into();
        self
    }

    /// Appends the whole frame to `out`.
    pub fn encode(&self, opaque: i32, serialize_type: SerializeType, out: &mut BytesMut) {
        let fields = self.fields.clone();
        Header::response(self.code.code(), opaque, self.remark.clone(), fields).encode_with_body(
            serialize_type,
            &self.body,
            out,
        );
    }
}
