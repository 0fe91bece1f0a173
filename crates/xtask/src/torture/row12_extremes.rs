//! Row 12: requests at the edge of what is allowed and beyond it, with the answers of a Java broker 5.3.3 to the same.
//!
//! Recorded with `--server java`, which checks the same table. Where Java answers with an exception of its own, both
//! answers are listed, Java's first.

use std::fmt::Write;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use cometmq_protocol::RequestCode;

use super::broker::Setup;
use super::job::{Flush, Job, Outcome, Server};
use super::vitals::{Vitals, mib};
use crate::wire::Wire;

const TOPIC: &str = "extremes";
const QUEUES: i32 = 4;
const BODY_BYTES_MAX: usize = 4 << 20;
/// Memory that all of these may cost: a frame of 16 MiB twice while its buffer grows, the 16 MiB of recent records, the
/// bytes on their way to the log, and what the allocator keeps of all of them for a while.
const GROWTH_KIB_MAX: u64 = 192 * 1024;
/// Rounds of the whole table, for the memory.
const TIMES: (u32, u32) = (1, 20);

/// A request, and how it is answered.
struct Case {
    name: &'static str,
    code: i32,
    fields: Vec<(&'static str, String)>,
    body: Bytes,
    /// Codes that count as right: Java's first.
    expected: &'static [i32],
    /// What the remark must have of Java's.
    remark: &'static str,
}

/// Sends the table.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("extreme requests");
    let settings = format!("{}maxMessageSize={BODY_BYTES_MAX}\n", Flush::Async.setting());
    let setup = Setup::new(job, &job.scratch.join("data"), &settings)?;
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    drop(wire);
    let before = broker.vitals()?;
    let mut differing = 0;
    for round in 0..job.times(TIMES.0, TIMES.1) {
        for case in cases() {
            // A connection each: one that is closed must not cost the next case its answer.
            let wire = Wire::connect(&setup.address()).await?;
            let fields: Vec<(&str, &str)> =
                case.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let asked = wire.raw(case.code, &fields, case.body.clone());
            let answer = broker.needed_by(asked).await?.with_context(|| case.name.to_owned());
            outcome.times += 1;
            let (code, remark) = match answer {
                Ok(answer) => (answer.code, answer.remark),
                Err(error) => (CLOSED, format!("{error:#}")),
            };
            if round == 0 && job.server == Server::Java {
                println!("  {}: code {code}, {remark}", case.name);
            }
            let same = case.expected.contains(&code) && remark.contains(case.remark);
            differing += u32::from(!same);
            outcome.check(same, || format!("{}: code {code}, {remark}", case.name));
        }
    }
    broker.must_live()?;
    let after = Vitals::of(broker.pid())?;
    let growth = after.peak_kib.saturating_sub(before.rss_kib);
    outcome.figure(format!("{differing} answers differ from Java's; memory grew by at most {}", mib(growth)));
    outcome.check(job.server == Server::Java || growth <= GROWTH_KIB_MAX, || {
        format!("the limit of growth is {}", mib(GROWTH_KIB_MAX))
    });
    broker.kill()?;
    Ok(outcome)
}

/// No answer but the end of the connection.
const CLOSED: i32 = -1000;
const OK: i32 = 0;
const SYSTEM_ERROR: i32 = 1;
const NOT_SUPPORTED: i32 = 3;
const ILLEGAL: i32 = 13;
const TOPIC_NOT_EXIST: i32 = 17;
const NO_MATCH: i32 = 20;
const OFFSET_MOVED: i32 = 21;
const INVALID: i32 = 29;

fn cases() -> Vec<Case> {
    let mut cases = sizes();
    cases.extend(fields());
    cases.extend(batches());
    cases.extend(others());
    cases
}

fn send(
    name: &'static str,
    change: &dyn Fn(&mut Fields),
    body: usize,
    expected: &'static [i32],
    remark: &'static str,
) -> Case {
    let mut fields = send_fields(TOPIC);
    change(&mut fields);
    let body = Bytes::from(vec![b'x'; body]);
    Case { name, code: RequestCode::SendMessage.code(), fields, body, expected, remark }
}

fn sizes() -> Vec<Case> {
    let properties = |bytes: usize| move |fields: &mut Fields| set(fields, "properties", property(bytes));
    vec![
        send("a small body", &|_| {}, 10, &[OK], ""),
        // Java fails on the body that is not there, after it was told that a message may be empty.
        send("an empty body", &|_| {}, 0, &[SYSTEM_ERROR, OK], ""),
        send("a body of 4 MiB", &|_| {}, BODY_BYTES_MAX, &[OK], ""),
        send("a body of 4 MiB and a byte", &|_| {}, BODY_BYTES_MAX + 1, &[ILLEGAL], "the message is illegal"),
        send("a body of 15 MiB", &|_| {}, 15 << 20, &[ILLEGAL], "the message is illegal"),
        send("properties of 32,000 bytes", &properties(32_000), 10, &[OK], ""),
        send("properties of 32,768 bytes", &properties(32_768), 10, &[ILLEGAL], "the message is illegal"),
        send("properties of 200 KiB", &properties(200 << 10), 10, &[ILLEGAL], "the message is illegal"),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        send(
            "a topic of 127 bytes",
            &|fields| set(fields, "topic", "t".repeat(127)),
            10,
            &[TOPIC_NOT_EXIST],
            "not exist",
        ),
        send(
            "a topic of 128 bytes",
            &|fields| set(fields, "topic", "t".repeat(128)),
            10,
            &[INVALID],
            "The specified topic is longer than",
        ),
        send(
            "a topic of 300 bytes",
            &|fields| set(fields, "topic", "t".repeat(300)),
            10,
            &[INVALID],
            "The specified topic is longer than",
        ),
        send(
            "a topic with a path",
            &|fields| set(fields, "topic", "../../x".to_owned()),
            10,
            &[INVALID],
            "illegal characters",
        ),
        send(
            "an empty topic",
            &|fields| set(fields, "topic", String::new()),
            10,
            &[INVALID],
            "The specified topic is blank",
        ),
        send(
            "queue 9999",
            &|fields| set(fields, "queueId", "9999".to_owned()),
            10,
            &[INVALID],
            "request queueId[9999] is illegal",
        ),
        send("queue -1", &|fields| set(fields, "queueId", "-1".to_owned()), 10, &[OK], ""),
        send(
            "queue 2^31 - 1",
            &|fields| set(fields, "queueId", i32::MAX.to_string()),
            10,
            &[INVALID],
            "request queueId[2147483647] is illegal",
        ),
        send(
            "a queue that is no number",
            &|fields| set(fields, "queueId", "one".to_owned()),
            10,
            &[SYSTEM_ERROR],
            "",
        ),
        send("no topic", &|fields| fields.retain(|(name, _)| *name != "topic"), 10, &[SYSTEM_ERROR], ""),
        send("128 fields", &|fields| more(fields, 116), 10, &[OK], ""),
        send("1,000 fields", &|fields| more(fields, 988), 10, &[OK], ""),
        send("10,000 fields", &|fields| more(fields, 9_988), 10, &[OK], ""),
    ]
}

fn batches() -> Vec<Case> {
    let batch = |name, body: Bytes, expected, remark| {
        let mut fields = send_fields(TOPIC);
        set(&mut fields, "batch", "true".to_owned());
        Case {
            name,
            code: RequestCode::SendBatchMessage.code(),
            fields: short(fields),
            body,
            expected,
            remark,
        }
    };
    let whole = batch_of(3, 10);
    vec![
        batch("a batch of 3", whole.clone(), &[OK], ""),
        batch("a batch of 1,000", batch_of(1_000, 100), &[OK], ""),
        batch("a batch of 10,000", batch_of(10_000, 100), &[OK], ""),
        batch("a batch beyond 4 MiB", batch_of(10_000, 1_000), &[SYSTEM_ERROR, ILLEGAL], ""),
        batch("a batch cut in its middle", whole.slice(..whole.len() - 5), &[SYSTEM_ERROR, ILLEGAL], ""),
        batch("an empty batch", Bytes::new(), &[SYSTEM_ERROR, ILLEGAL], ""),
    ]
}

fn others() -> Vec<Case> {
    let pull = |name, change: &dyn Fn(&mut Fields), expected, remark| {
        let mut fields = pull_fields();
        change(&mut fields);
        Case { name, code: RequestCode::PullMessage.code(), fields, body: Bytes::new(), expected, remark }
    };
    let code = |name, code, expected, remark| Case {
        name,
        code,
        fields: Vec::new(),
        body: Bytes::new(),
        expected,
        remark,
    };
    vec![
        pull(
            "a pull of 2^31 - 1 messages",
            &|fields| set(fields, "maxMsgNums", i32::MAX.to_string()),
            &[OK],
            "",
        ),
        pull("a pull of -1 messages", &|fields| set(fields, "maxMsgNums", "-1".to_owned()), &[OK], ""),
        pull(
            "a pull at 2^63 - 1",
            &|fields| set(fields, "queueOffset", i64::MAX.to_string()),
            &[OFFSET_MOVED],
            "",
        ),
        pull("a pull at -1", &|fields| set(fields, "queueOffset", "-1".to_owned()), &[OFFSET_MOVED], ""),
        pull(
            "a pull of queue 9999",
            &|fields| set(fields, "queueId", "9999".to_owned()),
            &[INVALID],
            "queueId[9999] is illegal",
        ),
        pull(
            "a subscription of 30 KiB",
            &|fields| set(fields, "subscription", "tag || ".repeat(4_400)),
            &[NO_MATCH],
            "",
        ),
        pull("no group", &|fields| fields.retain(|(name, _)| *name != "consumerGroup"), &[SYSTEM_ERROR], ""),
        code("an unknown code", 99_999, &[NOT_SUPPORTED], "not supported"),
        code("a negative code", -5, &[NOT_SUPPORTED], "not supported"),
        code("a send without any field", RequestCode::SendMessage.code(), &[SYSTEM_ERROR], ""),
    ]
}

type Fields = Vec<(&'static str, String)>;

fn send_fields(topic: &str) -> Fields {
    let mut fields = Vec::new();
    for (name, value) in [
        ("producerGroup", "extremes"),
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "0"),
        ("sysFlag", "0"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "0"),
        ("properties", ""),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
        ("batch", "false"),
    ] {
        fields.push((name, value.to_owned()));
    }
    fields
}

/// The one-letter names of codes 310 and 320.
fn short(fields: Fields) -> Fields {
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "m"];
    letters.into_iter().zip(fields).map(|(letter, (_, value))| (letter, value)).collect()
}

fn pull_fields() -> Fields {
    let mut fields = Vec::new();
    for (name, value) in [
        ("consumerGroup", "extremes"),
        ("topic", TOPIC),
        ("queueId", "0"),
        ("queueOffset", "0"),
        ("maxMsgNums", "1"),
        ("sysFlag", "4"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "0"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ] {
        fields.push((name, value.to_owned()));
    }
    fields
}

fn set(fields: &mut Fields, name: &str, value: String) {
    fields.iter_mut().filter(|(field, _)| *field == name).for_each(|field| field.1.clone_from(&value));
}

/// Fields that nobody knows.
fn more(fields: &mut Fields, count: usize) {
    const NAMES: [&str; 8] = ["x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8"];
    // The same name again is one more field of the frame, and one value of the map.
    fields.extend((0..count).map(|number| (NAMES[number % NAMES.len()], number.to_string())));
}

/// A property text of this length, of one property.
fn property(bytes: usize) -> String {
    let mut text = String::from("k\u{1}");
    text.extend(std::iter::repeat_n('v', bytes - 3));
    let _ = text.write_char('\u{2}');
    text
}

fn batch_of(count: usize, body: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(count * (22 + body));
    for _ in 0..count {
        out.put_u32((22 + body) as u32);
        out.put_bytes(0, 12);
        out.put_u32(body as u32);
        out.put_bytes(b'b', body);
        out.put_u16(0);
    }
    out.freeze()
}
