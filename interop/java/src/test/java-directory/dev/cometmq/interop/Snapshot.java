package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertIterableEquals;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.RemotingClient;

/**
 * What a broker serves of some topics and groups, as the official client sees it. Routes are texts of permission and queue
 * counts, bounds and committed offsets are by queue, messages by place and once more by tag.
 */
record Snapshot(SortedMap<String, String> routes, SortedMap<String, String> bounds, List<StoredMessage> messages,
    SortedMap<String, List<Long>> tagged, SortedMap<String, Long> committed) {

    /** Asks the broker; {@code groups} has the topic of each group that committed an offset in all queues of it. */
    static Snapshot take(Session session, String brokerAddress, Collection<String> topics, Map<String, String> groups)
        throws Exception {
        Snapshot snapshot = new Snapshot(new TreeMap<>(), new TreeMap<>(), new ArrayList<>(), new TreeMap<>(), new TreeMap<>());
        TopicReader reader = session.reader();
        DefaultMQPullConsumer consumer = session.pullConsumer(Clients.unique("bounds"));
        for (String topic : topics) {
            snapshot.routes.put(topic, route(session, topic));
            for (MessageQueue queue : reader.queues(topic)) {
                String place = topic + " " + queue.getQueueId();
                snapshot.bounds.put(place, consumer.minOffset(queue) + ".." + consumer.maxOffset(queue));
                reader.read(queue, message -> snapshot.messages.add(StoredMessage.of(message)));
                List<Long> offsets = new ArrayList<>();
                reader.read(queue, DirectoryJourney.TAG, message -> offsets.add(message.getQueueOffset()));
                snapshot.tagged.put(place, offsets);
            }
        }
        RemotingClient client = Session.remote(session.producer()).getRemotingClient();
        for (Map.Entry<String, String> group : groups.entrySet()) {
            for (MessageQueue queue : reader.queues(group.getValue())) {
                snapshot.committed.put(queue.getTopic() + "@" + group.getKey() + " " + queue.getQueueId(),
                    Session.committed(client, brokerAddress, group.getKey(), queue));
            }
        }
        return snapshot;
    }

    /** A topic's permission and queue counts, as the name server has them from the broker. */
    static String route(Session session, String topic) throws Exception {
        var queues = Session.remote(session.producer()).getTopicRouteInfoFromNameServer(topic, 5000).getQueueDatas();
        assertEquals(1, queues.size(), "brokers of " + topic);
        var data = queues.get(0);
        return data.getBrokerName() + " perm " + data.getPerm() + " read " + data.getReadQueueNums()
            + " write " + data.getWriteQueueNums() + " flag " + data.getTopicSysFlag();
    }

    /** Fails at the first difference, which it names. */
    void assertSame(Snapshot other, String what) {
        assertEquals(routes, other.routes, what + ": topics");
        assertEquals(bounds, other.bounds, what + ": bounds of the queues");
        assertIterableEquals(messages, other.messages, what + ": messages");
        assertEquals(tagged, other.tagged, what + ": offsets of tagged messages");
        assertEquals(committed, other.committed, what + ": committed offsets");
    }
}
