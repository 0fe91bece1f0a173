//! Clients and their groups: codes 34, 35, 38, 40.

use super::header_fields;

header_fields! {
    /// Takes a client out of its groups.
    UnregisterClientHeader {
        /// Client id.
        client_id: str required "clientID",
        /// Producer group to leave.
        producer_group: str optional "producerGroup",
        /// Consumer group to leave.
        consumer_group: str optional "consumerGroup",
    }

    /// Names a consumer group.
    ConsumerGroupHeader {
        /// Consumer group.
        consumer_group: str required "consumerGroup",
    }
}
