//! Retention: `storage.md` "Clean-up", and what differs on purpose.

use std::path::Path;

use cometmq_broker::retention::RetentionRules;
use cometmq_broker::{Broker, Effects};
use cometmq_protocol::{Millis, QueueId, QueueOffset};
use cometmq_store::disk::{Space, read_file};
use cometmq_store::{Disk, FlushPolicy, MemoryDisk};

use crate::direct::{Answer, ask, open};
use crate::script::overwrite;

const HOUR_MS: i64 = 3_600_000;

/// So long after the last message the first segment is 72 hours old, and no other: each takes fifty minutes.
const OLD_MS: i64 = 68 * HOUR_MS + HOUR_MS / 2;

/// As RocketMQ has them by default.
fn rules() -> RetentionRules {
    RetentionRules {
        reserved_ms: 72 * HOUR_MS,
        hours: vec![4],
        round_ms: 10_000,
        segments_per_round: 10,
        pause_ms: 100,
        used_percent: 75,
        force_percent: 85,
        refuse_percent: 90,
        force: true,
        force_unread: false,
    }
}

struct Scene {
    disk: MemoryDisk,
    broker: Broker,
    now: i64,
}

impl Scene {
    /// A broker with six segments, full of messages of topic T, one each ten minutes.
    fn new() -> Scene {
        let disk = MemoryDisk::new();
        let broker = open(&disk, FlushPolicy::Async, 0);
        let mut scene = Scene { disk, broker, now: 0 };
        while scene.broker.store().log().written().0 < 5 * 256 * 1024 + 100_000 {
            scene.send("T", "50000*x");
            scene.now += 10 * 60_000;
        }
        scene.settle();
        scene
    }

    fn settle(&self) {
        self.broker.sync(&mut Effects::default()).unwrap();
        self.broker.store().flush().unwrap();
    }

    fn ask(&self, name: &str, words: &[&str], body: &str) -> Answer {
        ask(&self.broker, self.now, name, words, body, &mut Effects::default()).unwrap()
    }

    fn send(&self, topic: &str, body: &str) {
        assert_eq!(self.ask("sendV2", &[&format!("b={topic}")], body).code, 0);
    }

    /// Group g is there, and begins with this offset.
    fn commit(&self, offset: i64) {
        self.ask("heartbeat", &["group=g"], "");
        assert_eq!(self.ask("commit", &[&format!("commitOffset={offset}")], "").code, 0);
    }

    fn full(&self, percent: u64) {
        self.disk.set_space(Space { total: 100, available: 100 - percent });
    }

    /// A round of deleting; returns how many segments are left.
    fn round(&mut self, hour: u8, rules: &RetentionRules) -> usize {
        for _ in 0..10 {
            self.now += 1000;
            self.broker.retain(Millis(self.now), hour, rules).unwrap();
        }
        self.segments()
    }

    fn segments(&self) -> usize {
        let log = self.broker.store().log();
        ((log.written().0 - log.start().0) as usize).div_ceil(256 * 1024)
    }

    fn min(&self) -> i64 {
        self.ask("min", &[], "").offset.unwrap()
    }

    fn max(&self, topic: &str) -> i64 {
        self.ask("max", &[&format!("topic={topic}")], "").offset.unwrap()
    }
}

#[test]
fn at_its_hour_goes_what_was_not_written_for_the_reserved_time() {
    let mut scene = Scene::new();
    assert_eq!(scene.segments(), 6);
    assert_eq!(scene.round(4, &rules()), 6, "nothing is that old");
    scene.now += OLD_MS;
    assert_eq!(scene.round(4, &rules()), 5, "the first segment is");
    scene.now += 10 * HOUR_MS;
    assert_eq!(scene.round(3, &rules()), 5, "not at another hour");
    assert_eq!(scene.round(4, &rules()), 1, "the last one stays");
    assert!(scene.min() > 20);
    let pulled = scene.ask("pull", &["queueOffset=0"], "");
    assert_eq!((pulled.code, &*pulled.remark), (21, "OFFSET_TOO_SMALL"));
}

#[test]
fn a_filling_disk_lets_old_segments_go_at_any_hour_and_a_full_one_younger_ones() {
    let mut scene = Scene::new();
    scene.full(75);
    assert_eq!(scene.round(0, &rules()), 6);
    scene.full(80);
    assert_eq!(scene.round(0, &rules()), 6, "filling, and nothing is old enough");
    scene.now += OLD_MS;
    assert_eq!(scene.round(0, &rules()), 5, "one is");
    scene.full(86);
    assert_eq!(scene.round(0, &RetentionRules { force: false, ..rules() }), 5);
    let one = RetentionRules { segments_per_round: 1, ..rules() };
    assert_eq!(scene.round(0, &one), 4, "one in a round");
    assert_eq!(scene.round(0, &rules()), 1);
    assert!(scene.min() > 20);
}

#[test]
fn segments_go_one_by_one_with_a_pause_between() {
    let mut scene = Scene::new();
    scene.full(86);
    let slow = RetentionRules { pause_ms: 4000, ..rules() };
    assert_eq!(scene.round(0, &slow), 3, "at once, after four and after eight seconds");
}

/// RocketMQ deletes at 85 % whether or not anyone has consumed it.
#[test]
fn what_a_group_has_not_consumed_stays_when_the_disk_is_full_unless_the_settings_say_otherwise() {
    let mut scene = Scene::new();
    scene.commit(7);
    scene.full(89);
    assert_eq!(scene.round(0, &rules()), 5, "the first one is consumed");
    assert!(scene.min() <= 7, "what the group wants next is there");
    scene.commit(12);
    assert_eq!(scene.round(0, &rules()), 4);
    assert!(scene.min() <= 12);
    assert_eq!(scene.round(0, &RetentionRules { force_unread: true, ..rules() }), 1);
    assert!(scene.min() > 12);
}

/// Until the entry is made anew.
#[test]
fn a_damaged_entry_does_not_make_what_a_group_has_not_consumed_go() {
    let scene = Scene::new();
    scene.commit(7);
    let Scene { disk, broker, now } = scene;
    broker.close(Millis(now)).unwrap();
    drop(broker);
    let entries = Disk::open(&disk, Path::new("/s/consumequeue/T/0/00000000000000000000"), false).unwrap();
    entries.write_at(&[0x80], 7 * 20).unwrap();
    let broker = open(&disk, FlushPolicy::Async, now);
    let mut scene = Scene { disk, broker, now };
    scene.full(89);
    assert_eq!(scene.round(0, &rules()), 6);
    let queue = scene.broker.store().queue("T", QueueId(0)).unwrap().unwrap();
    assert!(scene.broker.store().restore_entry(&queue, QueueOffset(7)).unwrap());
    assert_eq!(scene.round(0, &rules()), 5, "the first one is consumed");
    assert!(scene.min() <= 7, "what the group wants next is there");
}

#[test]
fn sends_are_refused_while_the_disk_is_too_full_and_taken_again_when_it_is_not() {
    let mut scene = Scene::new();
    scene.full(91);
    let keep = RetentionRules { force: false, ..rules() };
    scene.round(0, &keep);
    let Answer { code, remark, .. } = scene.ask("sendV2", &[], "refused");
    assert_eq!(code, 14);
    assert!(remark.contains("91 %") && remark.contains("diskSpaceWarningLevelRatio"), "{remark}");
    assert_eq!(scene.ask("pull", &["queueOffset=3"], "").code, 0, "reading goes on");
    // At the next look, whenever the next round is.
    for (percent, code) in [(90, 0), (91, 14), (90, 0)] {
        scene.full(percent);
        scene.now += 1000;
        scene.broker.retain(Millis(scene.now), 0, &keep).unwrap();
        assert_eq!(scene.ask("sendV2", &[], "x").code, code);
    }
}

#[test]
fn expired_segments_go_on_demand() {
    let mut scene = Scene::new();
    scene.now += 73 * HOUR_MS;
    assert_eq!(scene.round(0, &rules()), 6);
    assert_eq!(scene.ask("329", &[], "").code, 0);
    assert!(scene.round(0, &rules()) < 6);
}

#[test]
fn queues_of_which_nothing_is_left_go_on_demand_with_the_offsets_in_them() {
    let mut scene = Scene::new();
    scene.commit(5);
    scene.now += 73 * HOUR_MS;
    scene.send("Other", "x");
    scene.settle();
    let last = scene.max("T");
    // A segment of another topic's messages, so that nothing of T is left.
    for _ in 0..6 {
        scene.send("Other", "50000*x");
    }
    scene.now += 73 * HOUR_MS;
    for _ in 0..6 {
        scene.send("Other", "50000*x");
    }
    scene.settle();
    scene.round(4, &rules());
    assert_eq!((scene.min(), scene.max("T")), (last, last), "nothing is left");
    scene.round(0, &rules());
    assert_eq!(scene.max("T"), last, "it goes only when asked for");
    assert_eq!(scene.ask("306", &[], "").code, 0);
    scene.round(0, &rules());
    assert_eq!(scene.max("T"), 0);
    assert_eq!(scene.ask("query", &[], "").offset, Some(0), "the group begins with the new numbers");
    assert!(scene.max("Other") > 6, "what has messages stays");
}

#[test]
fn queues_of_topics_that_do_not_exist_go_on_demand() {
    let scene = Scene::new();
    scene.send("Kept", "x");
    scene.settle();
    let Scene { disk, broker, now } = scene;
    broker.close(Millis(now)).unwrap();
    drop(broker);
    // As if the topic had been deleted.
    let topics = Path::new("/s/config/topics.json");
    let saved = String::from_utf8(read_file(&disk, topics).unwrap().unwrap()).unwrap();
    let without = saved.replace("\"T\"", "\"Gone\"");
    assert_ne!(without, saved);
    overwrite(&disk, topics, without.as_bytes());
    let broker = open(&disk, FlushPolicy::Async, now);
    let mut scene = Scene { disk, broker, now };
    let has = |scene: &Scene, topic| scene.broker.store().queue(topic, QueueId(0)).unwrap().is_some();
    scene.round(0, &rules());
    assert!(has(&scene, "T") && has(&scene, "Kept"));
    assert_eq!(scene.ask("316", &[], "").code, 0);
    scene.round(0, &rules());
    assert!(!has(&scene, "T") && has(&scene, "Kept"));
}
