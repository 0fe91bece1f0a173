//! Producers and consumers against a cluster in memory, over real sockets.

#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cometmq_client::{
    Client, ClientOptions, ConsumeFrom, ConsumerError, ConsumerOptions, Message, Outcome, Producer,
    ProducerOptions, PushConsumer, SendError, SendStatus,
};
use cometmq_protocol::ResponseCode;
use fake::Cluster;

fn message(topic: &str, body: impl ToString) -> Message {
    Message::builder(topic).body(body.to_string()).build().unwrap()
}

async fn client(cluster: &Cluster) -> Client {
    let options = ClientOptions { route_interval: Duration::from_millis(200), ..ClientOptions::default() };
    Client::start(&cluster.name_server, options).await.unwrap()
}

fn producer(client: &Client) -> Producer {
    client.producer("producers", ProducerOptions::default()).unwrap()
}

fn options() -> ConsumerOptions {
    ConsumerOptions {
        from: ConsumeFrom::First,
        retry_delay: Duration::from_millis(100),
        commit_interval: Duration::from_millis(50),
        ..ConsumerOptions::default()
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What listeners got: bodies with how often they came.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, usize>>>);

impl Seen {
    fn bodies(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Consumes `topic`; a body beginning with `twice` is done at the second time only.
    async fn consume(
        &self,
        client: &Client,
        group: &str,
        topic: &str,
        tags: &str,
        options: ConsumerOptions,
    ) -> PushConsumer {
        let seen = self.0.clone();
        let builder = client.push_consumer(group, options).unwrap().subscribe(topic, tags).unwrap();
        let listener = move |message: cometmq_client::ReceivedMessage| {
            let body = String::from_utf8(message.body().unwrap().to_vec()).unwrap();
            let again = body.starts_with("twice") && message.reconsume_times == 0;
            *seen.lock().unwrap().entry(body).or_default() += 1;
            async move { if again { Outcome::RetryLater } else { Outcome::Success } }
        };
        builder.start(listener).await.unwrap()
    }
}

#[tokio::test]
async fn messages_go_round_the_queues_and_the_result_tells_where() {
    let cluster = Cluster::start(&["broker-a", "broker-b"], &[("T", 2)]);
    let client = client(&cluster).await;
    let producer = producer(&client);
    let mut queues = BTreeSet::new();
    for number in 0..4 {
        let result = producer.send(&message("T", number)).await.unwrap();
        assert_eq!((result.status, result.queue_offset.0, result.msg_id.len()), (SendStatus::Ok, 0, 32));
        queues.insert((result.broker_name, result.queue_id.0));
    }
    assert_eq!(queues.len(), 4);
    producer.send_oneway(&message("T", "oneway")).await.unwrap();
    until(|| cluster.state().sends == 5).await;
    let batch: Vec<Message> = (0..3).map(|number| message("T", number)).collect();
    let result = producer.send_batch(&batch).await.unwrap();
    assert_eq!(result.msg_id.split(',').count(), 3);
    assert!(matches!(producer.send_batch(&[]).await, Err(SendError::Batch(_))));
    assert!(matches!(
        producer.send_batch(&[message("T", 1), message("U", 1)]).await,
        Err(SendError::Batch(_))
    ));
    assert_eq!(cluster.state().queues.values().map(Vec::len).sum::<usize>(), 8);
    producer.shutdown().await;
    assert_eq!(cluster.state().unregistered, 2);
    client.shutdown().await;
    until(|| cluster.state().connections.is_empty()).await;
}

#[tokio::test]
async fn messages_of_a_batch_arrive_with_the_ids_that_the_sender_was_told() {
    let cluster = Cluster::start(&["broker-a"], &[("T", 1)]);
    let client = client(&cluster).await;
    let batch: Vec<Message> = (0..3).map(|number| message("T", number)).collect();
    let result = producer(&client).send_batch(&batch).await.unwrap();
    let ids = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = ids.clone();
    let builder = client.push_consumer("g", options()).unwrap().subscribe("T", "*").unwrap();
    let listener = move |message: cometmq_client::ReceivedMessage| {
        seen.lock().unwrap().insert(message.message_id());
        async { Outcome::Success }
    };
    let consumer = builder.start(listener).await.unwrap();
    until(|| ids.lock().unwrap().len() == 3).await;
    assert_eq!(*ids.lock().unwrap(), result.msg_id.split(',').map(str::to_owned).collect());
    consumer.shutdown().await;
}

#[tokio::test]
async fn an_unknown_topic_is_created_from_the_template_or_its_absence_told() {
    let cluster = Cluster::start(&["broker-a"], &[("TBW102", 8)]);
    let client = client(&cluster).await;
    let producer = producer(&client);
    let queues: BTreeSet<i32> = {
        let mut queues = BTreeSet::new();
        for number in 0..8 {
            queues.insert(producer.send(&message("New", number)).await.unwrap().queue_id.0);
        }
        queues
    };
    assert_eq!(queues, (0..4).collect());
    cluster.state().topics.clear();
    let error = producer.send(&message("Other", 1)).await.unwrap_err().to_string();
    assert!(error.contains("no route for topic Other") && error.contains(&cluster.name_server), "{error}");
}

#[tokio::test]
async fn a_send_that_fails_goes_to_another_broker_if_that_can_help() {
    let mut cluster = Cluster::start(&["broker-a", "broker-b"], &[("T", 1)]);
    let client = client(&cluster).await;
    let producer = producer(&client);
    cluster.state().refuse.insert("broker-a".into(), ResponseCode::SystemBusy);
    for number in 0..4 {
        assert_eq!(producer.send(&message("T", number)).await.unwrap().broker_name, "broker-b");
    }
    assert_eq!(cluster.state().sends, 6, "every other send was refused once");
    cluster.state().refuse =
        ["broker-a", "broker-b"].map(|name| (name.to_owned(), ResponseCode::MessageIllegal)).into();
    let error = producer.send(&message("T", 1)).await.unwrap_err();
    assert!(error.to_string().contains("code 13: told to refuse"), "{error}");
    assert_eq!(cluster.state().sends, 7, "no broker would take it, so only one was asked");
    cluster.state().refuse.clear();
    cluster.kill("broker-a").await;
    for number in 0..4 {
        assert_eq!(producer.send(&message("T", number)).await.unwrap().broker_name, "broker-b");
    }
}

#[tokio::test]
async fn one_name_server_that_answers_is_enough_and_none_is_told() {
    let cluster = Cluster::start(&["broker-a"], &[("T", 1)]);
    let list = format!("127.0.0.1:1;{};127.0.0.1:1", cluster.name_server);
    let client = Client::start(&list, ClientOptions::default()).await.unwrap();
    producer(&client).send(&message("T", 1)).await.unwrap();
    let client = Client::start("127.0.0.1:1", ClientOptions::default()).await.unwrap();
    let error = producer(&client).send(&message("T", 1)).await.unwrap_err().to_string();
    assert!(error.contains("no name server answers") && error.contains("127.0.0.1:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_gets_what_it_subscribed_to_and_commits_what_is_done() {
    let cluster = Cluster::start(&["broker-a", "broker-b"], &[("T", 2)]);
    let client = client(&cluster).await;
    let producer = producer(&client);
    for number in 0..300 {
        let tag = ["Aa", "BB", "C"][number % 3];
        producer
            .send(&Message::builder("T").tag(tag).body(format!("{tag}{number}")).build().unwrap())
            .await
            .unwrap();
    }
    let (all, picky) = (Seen::default(), Seen::default());
    let one = all.consume(&client, "all", "T", "*", options()).await;
    let two = picky.consume(&client, "picky", "T", "Aa", options()).await;
    until(|| all.count() == 300 && picky.count() == 100).await;
    assert!(picky.bodies().iter().all(|body| body.starts_with("Aa")));
    producer.send(&message("T", "twice")).await.unwrap();
    until(|| all.0.lock().unwrap().get("twice") == Some(&2)).await;
    one.shutdown().await;
    two.shutdown().await;
    let state = cluster.state();
    let committed =
        |group: &str| state.offsets.iter().filter(|((g, _), _)| g == group).map(|(_, o)| o).sum::<i64>();
    assert_eq!((committed("all"), committed("picky")), (301, 301));
    assert!(all.0.lock().unwrap().iter().all(|(body, times)| *times == 1 || body == "twice"));
    assert!(state.members.values().all(BTreeMap::is_empty));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_the_queues_and_take_over_from_each_other() {
    let cluster = Cluster::start(&["broker-a", "broker-b"], &[("T", 4)]);
    let (first, second) = (client(&cluster).await, client(&cluster).await);
    let producer = producer(&first);
    let seen = Seen::default();
    let one = seen.consume(&first, "g", "T", "*", options()).await;
    until(|| one.queues().len() == 8).await;
    let two = seen.consume(&second, "g", "T", "*", options()).await;
    until(|| one.queues().len() == 4 && two.queues().len() == 4).await;
    for number in 0..200 {
        producer.send(&message("T", number)).await.unwrap();
    }
    until(|| seen.count() == 200).await;
    one.shutdown().await;
    until(|| two.queues().len() == 8).await;
    for number in 200..300 {
        producer.send(&message("T", number)).await.unwrap();
    }
    until(|| seen.count() == 300).await;
    assert!(matches!(
        second
            .push_consumer("g", options())
            .unwrap()
            .subscribe("T", "*")
            .unwrap()
            .start(|_| async { Outcome::Success })
            .await,
        Err(ConsumerError::AlreadyConsuming(_))
    ));
    two.shutdown().await;
    first.shutdown().await;
    second.shutdown().await;
    until(|| cluster.state().connections.is_empty()).await;
}

#[tokio::test]
async fn a_new_group_begins_where_it_was_told_and_an_old_one_where_it_stood() {
    let cluster = Cluster::start(&["broker-a"], &[("T", 1)]);
    let client = client(&cluster).await;
    let producer = producer(&client);
    producer.send(&message("T", "old")).await.unwrap();
    let seen = Seen::default();
    let last = ConsumerOptions { from: ConsumeFrom::Last, ..options() };
    let consumer = seen.consume(&client, "g", "T", "*", last).await;
    until(|| consumer.queues().len() == 1).await;
    producer.send(&message("T", "new")).await.unwrap();
    until(|| seen.count() == 1).await;
    consumer.shutdown().await;
    producer.send(&message("T", "newer")).await.unwrap();
    let consumer = seen.consume(&client, "g", "T", "*", options()).await;
    until(|| seen.count() == 2).await;
    assert_eq!(seen.bodies(), ["new", "newer"].map(str::to_owned).into());
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_consumer_survives_lost_connections_expired_messages_and_panics() {
    let cluster = Cluster::start(&["broker-a"], &[("T", 1), ("Late", 1)]);
    cluster.state().topics.remove("Late");
    let client = client(&cluster).await;
    let producer = producer(&client);
    for body in ["expired", "kept"] {
        producer.send(&message("T", body)).await.unwrap();
    }
    cluster.state().first.insert(("broker-a".into(), "T".into(), 0), 1);
    let seen = Seen::default();
    let bodies = seen.0.clone();
    let builder = client.push_consumer("g", options()).unwrap();
    let builder = builder.subscribe("T", "*").unwrap().subscribe("Late", "*").unwrap();
    let consumer = builder
        .start(move |message| {
            let body = String::from_utf8(message.body().unwrap().to_vec()).unwrap();
            let bodies = bodies.clone();
            async move {
                assert!(body != "panic" || message.reconsume_times > 0, "a listener that panics");
                *bodies.lock().unwrap().entry(body).or_default() += 1;
                Outcome::Success
            }
        })
        .await
        .unwrap();
    until(|| seen.count() == 1).await;
    let connections = cluster.state().connections.clone();
    connections.iter().for_each(|connection| connection.close(cometmq_remoting::CloseReason::Local));
    until(|| {
        cluster.state().connections.iter().all(|now| connections.iter().all(|old| old.peer() != now.peer()))
    })
    .await;
    for body in ["after", "panic"] {
        producer.send(&message("T", body)).await.unwrap();
    }
    until(|| seen.count() == 3).await;
    assert_eq!(seen.bodies(), ["after", "kept", "panic"].map(str::to_owned).into());
    cluster.state().topics.insert("Late".into(), 1);
    producer.send(&message("Late", "late")).await.unwrap();
    until(|| seen.count() == 4).await;
    consumer.shutdown().await;
    assert_eq!(cluster.state().offsets[&("g".into(), ("broker-a".into(), "T".into(), 0))], 4);
}
