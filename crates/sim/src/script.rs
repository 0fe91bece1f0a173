//! A broker under SYNC_FLUSH that is used step by step, without network, and the ledger of what it acknowledged.

use bytes::{Bytes, BytesMut};
use cometmq_broker::{Broker, Effects, Turn};
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::offset::UpdateConsumerOffsetHeader;
use cometmq_protocol::message::ids;
use cometmq_protocol::{Header, RequestCode, ResponseCode};
use cometmq_store::{FlushPolicy, MemoryDisk};

use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::machine::{self, Host, QUEUES};
use crate::plan::Plan;
use crate::rooms::send_fields;

/// The connection by which the script speaks.
const CONNECTION: u64 = 7;
/// Its topic.
const TOPIC: &str = "T";

/// The broker and what is known of it.
#[derive(Debug)]
pub struct Script {
    /// Its disk and settings.
    pub host: Host,
    broker: Option<Broker>,
    /// What was sent.
    pub ledger: Ledger,
    /// Sends under way: opaque and message.
    under_way: Vec<(i32, usize)>,
    opaque: i32,
    now: u64,
}

impl Script {
    /// A broker on an empty disk that was not opened yet.
    pub fn new(seed: u64) -> Script {
        let mut plan = Plan::of(&mut Chance::of(seed));
        (plan.flush, plan.segment_bytes, plan.queue_file_bytes) = (FlushPolicy::Sync, 8 * 1024, 100);
        let mut ledger = Ledger::new(seed);
        ledger.topic(TOPIC.into());
        let host = Host::new(&plan);
        Script { host, broker: None, ledger, under_way: Vec::new(), opaque: 0, now: 0 }
    }

    /// Opens the broker, ending the one before as a kill does.
    pub fn open(&mut self) -> Result<(), String> {
        self.broker = None;
        self.under_way.clear();
        self.host.disk = self.host.disk.crash(cometmq_store::disk::Crash::KeepAll);
        self.broker = Some(self.host.open_on(&self.host.disk, self.now)?);
        Ok(())
    }

    /// As [`Script::open`], on the same disk with all that is planned for it.
    pub fn reopen(&mut self) -> Result<(), String> {
        self.broker = None;
        self.under_way.clear();
        self.broker = Some(self.host.open_on(&self.host.disk, self.now)?);
        Ok(())
    }

    /// Sends a message of so many bytes.
    pub fn send(&mut self, queue: i32, body_bytes: usize) -> Result<(), String> {
        let (id, body) = self.ledger.message(0, body_bytes);
        self.under_way.push((self.opaque + 1, id));
        let properties = format!("UNIQ_KEY\u{1}{id:032X}\u{2}");
        let fields = send_fields(TOPIC, queue % QUEUES, false, &properties);
        self.ask(RequestCode::SendMessageV2.code(), fields, &body)
    }

    /// Commits an offset of a group.
    pub fn commit(&mut self, offset: i64) -> Result<(), String> {
        let header = UpdateConsumerOffsetHeader {
            consumer_group: "audit".into(),
            topic: TOPIC.into(),
            queue_id: 0,
            commit_offset: offset,
            borrows: std::marker::PhantomData,
        };
        self.ask(RequestCode::UpdateConsumerOffset.code(), header.encode(), &[])
    }

    fn ask(
        &mut self,
        code: i32,
        fields: cometmq_protocol::Fields<'static>,
        body: &[u8],
    ) -> Result<(), String> {
        self.opaque += 1;
        self.now += 1000;
        let Some(broker) = &self.broker else { return Ok(()) };
        let frame = machine::encode(&Header::request(code, self.opaque, fields), body);
        let (mut out, mut effects) = (BytesMut::new(), Effects::default());
        let mut turn = Turn::new(self.host.wall(self.now), machine::peer(CONNECTION), &mut out);
        broker.handle(&mut turn, &frame, &mut effects).map_err(|error| error.to_string())?;
        broker.finish(turn, &mut effects);
        self.replies(out.freeze())?;
        self.apply(effects)
    }

    /// Makes durable what was written.
    pub fn sync(&mut self) -> Result<(), String> {
        let Some(broker) = &self.broker else { return Ok(()) };
        let mut effects = Effects::default();
        // A failure is told to every sender.
        let _ = broker.sync(&mut effects);
        self.apply(effects)
    }

    /// Writes the queues to their files. A failure costs time at the next start only.
    pub fn flush(&mut self) -> bool {
        self.broker.as_ref().is_some_and(|broker| broker.store().flush().is_ok())
    }

    /// Ten seconds later: states are saved.
    pub fn tick(&mut self) -> Result<(), String> {
        self.now += 10_000_000;
        let Some(broker) = &self.broker else { return Ok(()) };
        let mut effects = Effects::default();
        broker.tick(self.host.wall(self.now), &mut effects);
        self.apply(effects)
    }

    /// An orderly end.
    pub fn close(&mut self) -> bool {
        self.broker.take().is_some_and(|broker| broker.close(self.host.wall(self.now)).is_ok())
    }

    /// Everything acknowledged is read from the running broker.
    pub fn check(&mut self) -> Result<(), String> {
        let Some(broker) = &self.broker else { return Ok(()) };
        let found = self.host.audit(broker, self.now, &self.ledger)?;
        self.ledger.compare(&found, false)
    }

    /// Everything acknowledged is on this disk, and recovering twice gives the same.
    pub fn check_disk(&mut self, disk: &MemoryDisk) -> Result<(), String> {
        let broker = self.host.open_on(disk, self.now).map_err(|error| format!("DOES NOT START: {error}"))?;
        let found = self.host.audit(&broker, self.now, &self.ledger)?;
        self.ledger.compare(&found, false)?;
        drop(broker);
        let first = disk.content();
        let again = self.host.open_on(disk, self.now).map_err(|error| format!("DOES NOT START: {error}"))?;
        drop(again);
        let second = disk.content();
        match first.iter().find(|(path, bytes)| second.get(*path) != Some(bytes)) {
            Some((path, _)) => Err(format!("NOT IDEMPOTENT: recovered twice, {} differs", path.display())),
            None => Ok(()),
        }
    }

    fn apply(&mut self, effects: Effects) -> Result<(), String> {
        effects.deliveries.into_iter().try_for_each(|delivery| self.replies(delivery.frames))
    }

    fn replies(&mut self, bytes: Bytes) -> Result<(), String> {
        let mut bytes = BytesMut::from(bytes);
        while let Some(frame) = frame::cut(&mut bytes, FrameLimits::default()).map_err(|e| e.to_string())? {
            let header = Header::decode(&frame).map_err(|error| error.to_string())?;
            let Some(index) = self.under_way.iter().position(|(opaque, _)| *opaque == header.opaque) else {
                continue;
            };
            let (_, id) = self.under_way.swap_remove(index);
            let allowed = [
                ResponseCode::Success,
                ResponseCode::FlushDiskTimeout,
                ResponseCode::ServiceNotAvailable,
                ResponseCode::SystemError,
                ResponseCode::SystemBusy,
            ];
            if !allowed.iter().any(|code| code.code() == header.code) {
                return Err(format!("a send was answered with {}: {:?}", header.code, header.remark));
            }
            if header.code != ResponseCode::Success.code() {
                continue;
            }
            let number = |name: &str| header.field(name).and_then(|value| value.parse::<i64>().ok());
            let position = header.field("msgId").and_then(ids::parse_offset_id).map(|(_, offset)| offset.0);
            let place = (number("queueId"), number("queueOffset"), position);
            let (Some(queue), Some(offset), Some(position)) = place else {
                return Err("a send was answered without its place".to_owned());
            };
            self.ledger.acknowledge((0, queue as i32), offset, id, position, self.now)?;
        }
        Ok(())
    }
}
