//! The Rust SDK: produce to and consume from CometMQ, Apache RocketMQ, and whatever else speaks their protocol.
//!
//! ```no_run
//! use cometmq_client::{Client, ClientOptions, ConsumerOptions, Message, Outcome, ProducerOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::start("127.0.0.1:9876", ClientOptions::default()).await?;
//! let producer = client.producer("my_producers", ProducerOptions::default())?;
//! let message = Message::builder("Orders").tag("paid").key("order-7").body("hello").build()?;
//! println!("stored: {:?}", producer.send(&message).await?);
//!
//! let consumer = client
//!     .push_consumer("my_consumers", ConsumerOptions::default())?
//!     .subscribe("Orders", "paid || refunded")?
//!     .start(|message| async move {
//!         println!("{:?}", message.body());
//!         Outcome::Success
//!     })
//!     .await?;
//! consumer.shutdown().await;
//! client.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Suggested reading order: [`message`] and [`received`] are what goes out and comes in; [`route`], [`subscription`]
//! and [`allocation`] decide which queue is whose; these and the verdicts of [`producer`] and [`consumer`] are plain
//! functions and values. [`session`] holds connections, routes and heartbeats; producer and consumer live on it.
//!
//! Never here: threads of its own, unbounded queues, tasks that outlive [`Client::shutdown`].

pub mod allocation;
pub mod consumer;
pub mod message;
pub mod producer;
pub mod received;
pub mod route;
pub mod session;
pub mod subscription;

pub use consumer::process_queue::CacheLimits;
pub use consumer::{ConsumeFrom, ConsumerError, ConsumerOptions, Outcome, PushConsumer, PushConsumerBuilder};
pub use message::{Message, MessageBuilder, MessageError};
pub use producer::{Producer, ProducerOptions, SendError, SendResult, SendStatus};
pub use received::{BodyError, ReceivedMessage};
pub use session::{Client, ClientError, ClientOptions};
