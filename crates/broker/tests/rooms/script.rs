//! Scenes with a broker as text: commands at the margin, what comes of them behind a bar.
//!
//! ```text
//! create                           | 0, announce      a request; code of its reply, and what the shell has to do
//! send queueId=1 <- hello          | 0 queueId=1 ..   the fields that differ from the usual ones, on both sides
//! pull queueOffset=7               | 21 .. "REMARK"   what a reply has behind its fields: remark, body
//! pull queueId=1                   | 0 .. [0:hello]   or messages with their offsets
//! c2 pull sysFlag=6                | waits #5         from another connection than c1; no reply yet
//! at 15000                         | c2: #5 19 ..     time goes on; what is sent to those who did not just ask
//! ```
//!
//! `..` stands for all other fields of such a reply, see `REPLIES`; `msgId=@7` is the id of the record at 7 in the log.
//!
//! Before a request: `c2` another connection, `oneway`, `compact` the binary header. In fields and bodies `5*x` is
//! `xxxxx`; in property texts `A:1,B:2` are two properties; a field `-name` is left out.
//! The first line may change the broker's settings: `broker flush=sync autoCreate=false`.
//! Other commands: `sync`; `fail N`, the disk's N-th call from now fails; `full N`, it finds no
//! room; `gone`, the connection closes; `stopping`;
//! `cold`, the shell reads for pulls that wait for the disk (with `resident=false` in the first line nothing is in memory
//! but what was just sent); `flip AT COUNT MASK <- PATH`, bytes of a file change; `bad AT COUNT <- PATH`, they cannot be read once it is opened anew;
//! `stop`, opened anew after a clean close; `kill` and `power cut`, opened anew without; `file NAME` of `config/` shown;
//! `put NAME <- JSON` replaced; `remove PATH` in the store.
//!
//! `UPDATE_EXPECT=1 cargo test` writes down what comes of the commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cometmq_broker::{Broker, BrokerConfig, ColdPull, Effects, Turn};
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::message::batch::{self, BatchMessage};
use cometmq_protocol::message::record;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{
    ConnectionId, Fields, Frame, Header, Millis, Peer, QueueId, RequestCode, SerializeType,
};
use cometmq_store::disk::{Crash, Fault, read_file, read_full_at, write_all_at};
use cometmq_store::index::format::Shape;
use cometmq_store::{Disk, FlushPolicy, IndexOptions, MemoryDisk, Patience, StoreOptions};
use expect_test::Expect;

use crate::scene_disk::SceneDisk;

/// Plays a scene and compares what comes of it.
pub fn check(expect: Expect) {
    let lines =
        expect.data().lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('|'));
    let commands: Vec<&str> =
        lines.map(|line| line.split(" | ").next().unwrap_or_default().trim_end()).collect();
    // Longer ones stick out.
    let width = commands.iter().map(|command| command.len()).filter(|width| *width <= 56).max().unwrap_or(0);
    let mut scene = None;
    let mut text = String::new();
    for command in commands {
        if let Some(settings) = command.strip_prefix("broker ") {
            assert!(scene.is_none(), "the broker's settings stand first");
            scene = Some(Scene::new(settings));
        } else {
            scene.get_or_insert_with(|| Scene::new("")).command(command);
        }
        let outcomes: Vec<String> = scene.iter_mut().flat_map(|scene| scene.trace.drain(..)).collect();
        match outcomes.split_first() {
            None => writeln!(text, "{command}").unwrap(),
            Some((first, others)) => {
                writeln!(text, "{command:<width$} | {first}").unwrap();
                others.iter().for_each(|other| writeln!(text, "{:<width$} | {other}", "").unwrap());
            }
        }
    }
    expect.assert_eq(&text);
}

/// Settings of a broker that is on its own, as a Java broker has them by default.
pub fn config() -> BrokerConfig {
    BrokerConfig::alone("C", "b", "10.0.0.1:10911".parse().unwrap())
}

pub fn store_options(flush: FlushPolicy) -> StoreOptions {
    // Small files, real on a disk in memory.
    let index = Some(IndexOptions { shape: Shape { slots: 64, entries: 200 }, utc_offset_ms: 0 });
    StoreOptions {
        segment_bytes: 256 * 1024,
        queue_file_bytes: 2000,
        index,
        flush,
        ..StoreOptions::new("/s")
    }
}

/// One end of a connection.
pub fn peer(number: u64) -> Peer {
    let address = |ip: [u8; 4], port| SocketAddr::from((ip, port));
    Peer {
        connection: ConnectionId(number),
        remote: address([10, 0, 0, 9], 50000 + number as u16),
        local: address([10, 0, 0, 1], 10911),
    }
}

struct Scene {
    disk: MemoryDisk,
    resident: bool,
    bad: Vec<(PathBuf, Range<u64>)>,
    cold: Vec<ColdPull>,
    config: BrokerConfig,
    flush: FlushPolicy,
    index: bool,
    /// None only while it is opened anew.
    broker: Option<Broker>,
    now: i64,
    /// Opaques of two-way requests that have no reply yet, with their connection.
    unanswered: BTreeMap<i32, u64>,
    opaque: i32,
    trace: Vec<String>,
}

impl Scene {
    fn new(settings: &str) -> Scene {
        let mut scene = Scene {
            disk: MemoryDisk::new(),
            resident: true,
            bad: Vec::new(),
            cold: Vec::new(),
            config: config(),
            flush: FlushPolicy::Async,
            index: true,
            broker: None,
            now: 0,
            unanswered: BTreeMap::new(),
            opaque: 0,
            trace: Vec::new(),
        };
        for (name, value) in settings.split_whitespace().map(|word| word.split_once('=').unwrap()) {
            let config = &mut scene.config;
            match name {
                "autoCreate" => config.topics.auto_create = value == "true",
                "autoCreateGroup" => config.auto_create_group = value == "true",
                "permission" => config.permission = value.parse().unwrap(),
                "maxMessageSize" => config.message_bytes_max = value.parse().unwrap(),
                "advertised" => config.advertised = value.parse().unwrap(),
                "addressDerived" => config.address_derived = value == "true",
                "longPolling" => config.long_polling = value == "true",
                "offsetSaveInterval" => config.offset_save_interval_ms = value.parse().unwrap(),
                "notify" => config.notify_members = value == "true",
                "resident" => scene.resident = value == "true",
                "index" => scene.index = value == "true",
                "queryBytes" => config.query.bytes_max = value.parse().unwrap(),
                "queryMax" => config.query.messages_max = value.parse().unwrap(),
                "memory" => config.memory_bytes = value.parse().unwrap(),
                "flush" if value == "sync" => scene.flush = FlushPolicy::Sync,
                other => panic!("no setting {other}"),
            }
        }
        scene.open();
        scene
    }

    fn open(&mut self) {
        self.broker = None;
        let (disk, resident) = (self.disk.clone(), self.resident);
        let disk = Arc::new(SceneDisk { disk, resident, bad: self.bad.clone(), hangs: Arc::default() });
        let mut options = store_options(self.flush);
        options.index = options.index.filter(|_| self.index);
        let opened = Broker::open(disk, options, self.config.clone(), Millis(self.now));
        let broker = opened.unwrap().0;
        if self.resident {
            // One that cannot be loaded is tried again by who wants it.
            let _ = broker.store().queues();
        }
        self.broker = Some(broker);
        self.unanswered.clear();
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    fn command(&mut self, line: &str) {
        let mut effects = Effects::default();
        let (words, body) = line.split_once(" <- ").unwrap_or((line, ""));
        let mut words = words.split_whitespace().peekable();
        let connection =
            words.next_if(|word| is_connection(word)).map_or(1, |word| word[1..].parse().unwrap());
        match words.next().unwrap() {
            "at" => {
                self.now = words.next().unwrap().parse().unwrap();
                self.broker().tick(Millis(self.now), &mut effects);
            }
            "sync" => {
                if let Err(error) = self.broker().sync(&mut effects) {
                    self.trace.push(error.to_string());
                }
            }
            "fail" => self.disk.fail_nth(words.next().unwrap().parse().unwrap(), Fault::Io),
            "full" => self.disk.fail_nth(words.next().unwrap().parse().unwrap(), Fault::Full),
            "gone" => {
                self.unanswered.retain(|_, asker| *asker != connection);
                self.broker().disconnected(ConnectionId(connection), &mut effects);
            }
            "cold" => {
                for cold in std::mem::take(&mut self.cold) {
                    self.broker().read_cold(cold, &mut effects);
                }
            }
            "flip" | "bad" => self.harm(line, body),
            "stopping" => self.broker().stopping(&mut effects),
            "stop" => {
                self.broker().close(Millis(self.now)).unwrap();
                self.open();
            }
            "kill" => {
                self.disk = self.disk.crash(Crash::KeepAll);
                self.open();
            }
            "power" => {
                self.disk = self.disk.crash(Crash::LoseAll);
                self.open();
            }
            "file" => {
                let path = Path::new("/s/config").join(words.next().unwrap());
                let bytes = read_file(&self.disk, &path).unwrap().unwrap_or_default();
                let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                // A number that tells nothing here.
                value.as_object_mut().and_then(|object| object.remove("cometmqChecksum"));
                self.trace.push(value.to_string());
            }
            "remove" => self.disk.remove_file(&Path::new("/s").join(words.next().unwrap())).unwrap(),
            "put" => {
                let path = Path::new("/s/config").join(words.next().unwrap());
                overwrite(&self.disk, &path, body.as_bytes());
            }
            first => {
                let mut words = std::iter::once(first).chain(words).peekable();
                let oneway = words.next_if(|word| *word == "oneway").is_some();
                let compact = words.next_if(|word| *word == "compact").is_some();
                let serialize_type = if compact { SerializeType::Compact } else { SerializeType::Json };
                let asked = request(words.next().unwrap(), &words.collect::<Vec<_>>(), body);
                self.ask(connection, oneway, serialize_type, asked, &mut effects);
            }
        }
        self.show(effects);
    }

    /// Changes bytes of the file `path`, or lets nobody read them.
    fn harm(&mut self, line: &str, path: &str) {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map_while(|word| match word {
                "flip" | "bad" => Some(0),
                number => number.parse().ok(),
            })
            .skip(1)
            .collect();
        let (path, at, count) = (Path::new("/s").join(path), numbers[0], numbers[1]);
        let Some(mask) = numbers.get(2) else {
            return self.bad.push((path, at..at + count));
        };
        let file = self.disk.open(&path, false).unwrap();
        let mut bytes = vec![0; count as usize];
        read_full_at(&*file, &mut bytes, at).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= *mask as u8);
        write_all_at(&*file, &bytes, at).unwrap();
    }

    fn ask(
        &mut self,
        connection: u64,
        oneway: bool,
        serialize_type: SerializeType,
        (code, fields, body): (i32, Fields<'static>, Bytes),
        effects: &mut Effects,
    ) {
        self.opaque += 1;
        let opaque = self.opaque;
        let is_new = self.resident && !self.is_queue_at_hand(&fields);
        let header = match oneway {
            true => Header::oneway(code, opaque, fields),
            false => Header::request(code, opaque, fields),
        };
        let frame = encode(&header, serialize_type, &body);
        if !oneway {
            self.unanswered.insert(opaque, connection);
        }
        let mut out = BytesMut::new();
        let mut turn = Turn::new(Millis(self.now), peer(connection), &mut out);
        let broker = self.broker.as_ref().unwrap();
        broker.handle(&mut turn, &frame, effects).unwrap();
        broker.finish(turn, effects);
        for frame in frames(out.freeze()) {
            assert_eq!(frame.serialize_type, serialize_type, "answered as asked");
            let line = self.reply(connection, &frame, opaque);
            self.trace.push(line);
        }
        // Where the disk makes nobody wait, the shell finds out at once that there is no such queue.
        while is_new && !effects.cold.is_empty() {
            for cold in std::mem::take(&mut effects.cold) {
                self.broker().read_cold(cold, effects);
            }
            for own in effects.deliveries.extract_if(.., |delivery| delivery.connection.0 == connection) {
                for frame in frames(own.frames) {
                    let line = self.reply(connection, &frame, opaque);
                    self.trace.push(line);
                }
            }
        }
        let waits = |delivered: &cometmq_broker::Delivery| {
            frames(delivered.frames.clone())
                .iter()
                .all(|frame| Header::decode(frame).unwrap().opaque != opaque)
        };
        if self.unanswered.contains_key(&opaque) && effects.deliveries.iter().all(waits) {
            self.trace.push(format!("waits #{opaque}"));
        }
    }

    /// Whether the broker knows the queue that a request is about without looking at the disk.
    fn is_queue_at_hand(&self, fields: &Fields<'_>) -> bool {
        let field = |name| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        let id = field("queueId").and_then(|id| id.parse().ok()).map(QueueId);
        let (Some(topic), Some(id)) = (field("topic"), id) else { return true };
        let store = self.broker().store();
        let is_known = |topic| store.queue_patiently(&topic, id, Patience::Resident).is_some();
        TopicName::parse(topic).map_or(true, is_known)
    }

    /// What a connection gets, as a line; `asked` is the request that it needs no number for.
    fn reply(&mut self, connection: u64, frame: &Frame, asked: i32) -> String {
        let header = Header::decode(frame).unwrap();
        let mut line = String::new();
        if header.is_response() {
            let asker = self.unanswered.remove(&header.opaque);
            assert_eq!(asker, Some(connection), "#{} is answered once, to who asked", header.opaque);
            if header.opaque != asked {
                write!(line, "#{} ", header.opaque).unwrap();
            }
            write!(line, "{}", header.code).unwrap();
        } else {
            assert!(header.is_oneway());
            write!(line, "{}", RequestCode::from_code(header.code).unwrap().name()).unwrap();
        }
        line.push_str(&show_fields(&header.fields.iter().flat_map(Fields::iter).collect::<Vec<_>>()));
        if let Some(remark) = &header.remark {
            write!(line, " {remark:?}").unwrap();
        }
        if !frame.body.is_empty() {
            write!(line, " {}", show_body(&frame.body)).unwrap();
        }
        line
    }

    fn show(&mut self, mut effects: Effects) {
        let close = effects.close.iter().map(|connection| format!("close c{}", connection.0));
        let sync = effects.sync_wanted.then(|| "sync wanted".to_owned());
        let cold = effects.cold.iter().map(|cold| format!("cold c{}", cold.connection().0));
        let announce = effects.announce.then(|| "announce".to_owned());
        let duties: Vec<String> = close.chain(sync).chain(cold).chain(announce).collect();
        if !duties.is_empty() {
            self.trace = vec![self.trace.drain(..).chain(duties).collect::<Vec<_>>().join(", ")];
        }
        self.cold.append(&mut effects.cold);
        effects.deliveries.sort_by_key(|delivery| delivery.connection);
        for delivery in effects.deliveries {
            let connection = delivery.connection.0;
            for frame in frames(delivery.frames) {
                let line = self.reply(connection, &frame, 0);
                self.trace.push(format!("c{connection}: {line}"));
            }
        }
    }
}

/// Gives a file another content.
pub fn overwrite(disk: &MemoryDisk, path: &Path, content: &[u8]) {
    let file = disk.open(path, true).unwrap();
    file.set_len(0).unwrap();
    write_all_at(&*file, content, 0).unwrap();
}

fn is_connection(word: &str) -> bool {
    word.strip_prefix('c')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

pub fn frames(bytes: Bytes) -> Vec<Frame> {
    let mut bytes = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        frames.push(frame::cut(&mut bytes, FrameLimits::default()).unwrap().expect("whole frames only"));
    }
    frames
}

/// Fields of the replies that most scenes have, in their order, with the values that are not worth showing.
const REPLIES: &[&str] = &[
    "msgId queueId=0 queueOffset transactionId=U MSG_REGION=DefaultRegion TRACE_ON=true",
    "MSG_REGION=DefaultRegion TRACE_ON=true",
    "suggestWhichBrokerId=0 nextBeginOffset minOffset=0 maxOffset offsetDelta=0 topicSysFlag=0 groupSysFlag=0",
    "IS_SUPPORT_HEART_BEAT_V2=true IS_SUB_CHANGE=true",
    "indexLastUpdateTimestamp=0 indexLastUpdatePhyoffset=0",
];

/// What message ids begin with at the address that `config` gives the broker; then comes a place in the log.
const MESSAGE_ID_HOST: &str = "0A00000100002A9F";

/// Fields as ` name=value`; of a reply that has exactly those of one in `REPLIES`, those with other values, and `..`.
fn show_fields(fields: &[(&str, &str)]) -> String {
    let is_alike = |usual: &&&str| {
        let names = usual.split(' ').map(|field| field.split('=').next().unwrap());
        names.eq(fields.iter().map(|(name, _)| *name))
    };
    let usual: BTreeSet<&str> =
        REPLIES.iter().find(is_alike).iter().flat_map(|usual| usual.split(' ')).collect();
    let shorten_id = |id: &str| match id.strip_prefix(MESSAGE_ID_HOST) {
        Some(place) => format!("@{}", u64::from_str_radix(place, 16).unwrap()),
        None => id.to_owned(),
    };
    let (mut shown, mut rest) = (String::new(), "");
    for (name, value) in fields {
        if usual.contains(&*format!("{name}={value}")) {
            rest = " ..";
        } else if *name == "msgId" {
            let ids: Vec<String> = value.split(',').map(shorten_id).collect();
            write!(shown, " {name}={}", ids.join(",")).unwrap();
        } else {
            write!(shown, " {name}={value}").unwrap();
        }
    }
    shown + rest
}

/// Records as `[offset:message ...]`, anything else as text.
fn show_body(body: &[u8]) -> String {
    let records: Result<Vec<_>, _> = record::records(body).collect();
    let Ok(records) = records else { return String::from_utf8_lossy(body).into_owned() };
    let shown = records.iter().map(|record| {
        record.check_body().unwrap();
        format!("{}:{}", record.queue_offset, shorten(&String::from_utf8_lossy(record.body)))
    });
    format!("[{}]", shown.collect::<Vec<_>>().join(" "))
}

fn shorten(text: &str) -> String {
    let kinds: BTreeSet<char> = text.chars().collect();
    match kinds.first() {
        Some(only) if kinds.len() == 1 && text.len() > 9 => format!("{}*{only}", text.len()),
        _ => text.to_owned(),
    }
}

/// `5*x` as `xxxxx`.
fn expand(text: &str) -> String {
    match text.split_once('*') {
        Some((count, unit)) if !unit.is_empty() => match count.parse() {
            Ok(count) => unit.repeat(count),
            Err(_) => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

/// `A:1,B:2` as a property text.
fn properties(text: &str) -> String {
    let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once(':').unwrap());
    pairs.map(|(name, value)| format!("{name}\u{1}{}\u{2}", expand(value))).collect()
}

/// Code, default fields and their names by which a scene knows a request.
pub const REQUESTS: &[(&str, i32, &str)] = &[
    (
        "send",
        10,
        "producerGroup=p topic=T defaultTopic=TBW102 defaultTopicQueueNums=4 queueId=0 sysFlag=0 bornTimestamp=1 flag=0 properties=UNIQ_KEY:U",
    ),
    ("sendV2", 310, "a=p b=T c=TBW102 d=4 e=0 f=0 g=1 h=0 i=UNIQ_KEY:U"),
    ("batch", 320, "a=p b=T c=TBW102 d=4 e=0 f=0 g=1 h=0 i=UNIQ_KEY:U m=true"),
    (
        "pull",
        11,
        "consumerGroup=g topic=T queueId=0 queueOffset=0 maxMsgNums=32 sysFlag=4 commitOffset=0 suspendTimeoutMillis=15000 subscription=* subVersion=1",
    ),
    (
        "litePull",
        361,
        "consumerGroup=g topic=T queueId=0 queueOffset=0 maxMsgNums=32 sysFlag=20 commitOffset=0 suspendTimeoutMillis=15000 subscription=* subVersion=1",
    ),
    ("byKey", 12, "topic=T key=K maxNum=32 beginTimestamp=0 endTimestamp=9223372036854775807"),
    ("query", 14, "consumerGroup=g topic=T queueId=0"),
    ("commit", 15, "consumerGroup=g topic=T queueId=0 commitOffset=0"),
    ("search", 29, "topic=T queueId=0 timestamp=0"),
    ("max", 30, "topic=T queueId=0"),
    ("min", 31, "topic=T queueId=0"),
    ("earliest", 32, "topic=T queueId=0"),
    ("view", 33, "offset=0"),
    (
        "create",
        17,
        "topic=T defaultTopic=TBW102 readQueueNums=2 writeQueueNums=2 perm=6 topicFilterType=SINGLE_TAG topicSysFlag=0 order=false",
    ),
    ("topic", 351, "topic=T"),
    ("heartbeat", 34, ""),
    ("unregister", 35, ""),
    ("members", 38, "consumerGroup=g"),
    ("lock", 41, ""),
    ("unlock", 42, ""),
    ("check", 46, ""),
];

pub fn request(name: &str, words: &[&str], body: &str) -> (i32, Fields<'static>, Bytes) {
    let (code, defaults) = match REQUESTS.iter().find(|(known, _, _)| *known == name) {
        Some((_, code, defaults)) => (*code, *defaults),
        None => (name.parse().unwrap_or_else(|_| panic!("no request {name}")), ""),
    };
    let split = |word: &&str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut values: Vec<(String, String)> =
        defaults.split_whitespace().filter_map(|word| split(&word)).collect();
    for word in words {
        let name = word.split('=').next().unwrap().trim_start_matches('-');
        values.retain(|(known, _)| known != name);
        values.extend(split(word));
    }
    let value = |name: &str, default: &str| {
        let given = values.iter().find(|(known, _)| known == name);
        given.map_or_else(|| default.to_owned(), |(_, value)| value.clone())
    };
    let json = match name {
        "heartbeat" => Some(heartbeat(value)),
        "lock" | "unlock" => Some(locks(value)),
        "check" => Some(check_config(value)),
        _ => None,
    };
    if let Some(json) = json {
        return (code, Fields::default(), Bytes::from(json.to_string()));
    }
    let body = if name == "batch" { batch_body(body) } else { Bytes::from(expand(body)) };
    let mut fields = Fields::default();
    for (name, value) in values {
        let text = if name == "i" || name == "properties" { properties(&value) } else { expand(&value) };
        fields.push(name, text);
    }
    (code, fields, body)
}

/// A request as a frame.
pub fn frame(name: &str, words: &[&str], body: &str, opaque: i32) -> Frame {
    let (code, fields, body) = request(name, words, body);
    encode(&Header::request(code, opaque, fields), SerializeType::Json, &body)
}

pub fn encode(header: &Header<'_>, serialize_type: SerializeType, body: &[u8]) -> Frame {
    let mut bytes = BytesMut::new();
    header.encode_with_body(serialize_type, body, &mut bytes);
    frames(bytes.freeze()).remove(0)
}

/// `one;two{TAGS:A}` as a batch of two messages.
fn batch_body(text: &str) -> Bytes {
    let mut out = BytesMut::new();
    for message in text.split(';').filter(|message| !message.is_empty()) {
        let (body, text) = message.trim_end_matches('}').split_once('{').unwrap_or((message, ""));
        let (body, text) = (expand(body), properties(text));
        batch::encode(
            &BatchMessage { flag: 7, body: body.as_bytes(), properties: text.as_bytes() },
            &mut out,
        );
    }
    out.freeze()
}

/// `id=a group=g sub=T:TagA||TagB;U:* version=2` as a heartbeat; several groups are separated by `;`.
fn heartbeat(value: impl Fn(&str, &str) -> String) -> serde_json::Value {
    let subscriptions: Vec<_> = value("sub", "T:*")
        .split(';')
        .filter_map(|subscription| subscription.split_once(':'))
        .map(|(topic, expression)| {
            serde_json::json!({
                "topic": topic, "subString": expression, "subVersion": value("version", "1").parse::<i64>().unwrap(),
                "expressionType": value("type", "TAG"), "tagsSet": [], "codeSet": [], "classFilterMode": false,
            })
        })
        .collect();
    let groups = |name: &str| {
        value(name, "").split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let consumers: Vec<_> = groups("group")
        .iter()
        .map(|group| {
            serde_json::json!({
                "groupName": expand(group), "messageModel": value("model", "CLUSTERING"), "consumeType": "CONSUME_PASSIVELY",
                "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "subscriptionDataSet": subscriptions, "unitMode": false,
            })
        })
        .collect();
    let producers: Vec<_> =
        groups("producer").iter().map(|group| serde_json::json!({ "groupName": group })).collect();
    serde_json::json!({
        "clientID": value("id", "a"), "consumerDataSet": consumers, "producerDataSet": producers,
        "heartbeatFingerprint": 0, "withoutSub": value("withoutSub", "false") == "true",
    })
}

/// `id=a queues=0,1` as a request for locks.
fn locks(value: impl Fn(&str, &str) -> String) -> serde_json::Value {
    let queues: Vec<_> = value("queues", "0")
        .split(',')
        .map(|id| serde_json::json!({ "brokerName": "b", "queueId": id.parse::<i32>().unwrap(), "topic": "T" }))
        .collect();
    serde_json::json!({
        "clientId": value("id", "a"), "consumerGroup": value("group", "g"), "mqSet": queues, "onlyThisBroker": false,
    })
}

/// `type=TAG sub=A||B` as a question whether that is served.
fn check_config(value: impl Fn(&str, &str) -> String) -> serde_json::Value {
    let subscription = serde_json::json!({
        "topic": "T", "subString": value("sub", "*"), "subVersion": 1, "expressionType": value("type", "TAG"),
    });
    serde_json::json!({ "clientId": "a", "group": "g", "subscriptionData": subscription })
}
