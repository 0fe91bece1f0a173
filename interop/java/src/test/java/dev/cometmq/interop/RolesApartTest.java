package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.CleanupMode;
import org.junit.jupiter.api.io.TempDir;

/** A cluster as it runs in production: two name servers and two brokers, each a process of its own. */
class RolesApartTest {
    private final Software software = Software.underTest();

    /**
     * Messages of one topic spread over both brokers and a group gets all of them. When a broker and a name server are
     * killed, the producer's every send still succeeds, on the other broker, and the group gets it. So does a producer
     * that starts only then: by its second try, as a 5.x client that begins with the dead name server fails once.
     */
    @Test
    void twoNameServersAndTwoBrokers(@TempDir(cleanup = CleanupMode.NEVER) Path directory) throws Exception {
        int[] namesrvPorts = {Ports.namesrv(), Ports.namesrv()};
        int[] brokerPorts = {Ports.broker(), Ports.broker()};
        String namesrvs = "127.0.0.1:" + namesrvPorts[0] + ";127.0.0.1:" + namesrvPorts[1];
        try (ServerProcess namesrv1 = software.namesrv(folder(directory, "namesrv-1"), namesrvPorts[0], Software.Call.SUBCOMMAND);
             ServerProcess namesrv2 = software.namesrv(folder(directory, "namesrv-2"), namesrvPorts[1], Software.Call.LINK);
             ServerProcess brokerA = software.broker(folder(directory, "broker-a"), "broker-a", brokerPorts[0], namesrvs,
                 Software.Call.SUBCOMMAND);
             ServerProcess brokerB = software.broker(folder(directory, "broker-b"), "broker-b", brokerPorts[1], namesrvs,
                 Software.Call.LINK);
             Session session = new Session(namesrvs)) {
            ServerProcess.start(namesrv1, namesrv2);
            ServerProcess.start(brokerA, brokerB);
            String topic = Clients.unique("cluster");
            for (int port : brokerPorts) {
                session.createTopic("127.0.0.1:" + port, topic, Session.READ_WRITE);
            }
            awaitQueues("127.0.0.1:" + namesrvPorts[0], topic, 8);
            awaitQueues("127.0.0.1:" + namesrvPorts[1], topic, 8);

            DefaultMQProducer producer = session.producer();
            List<SendResult> sent = send(producer, topic, 80);
            Map<String, Long> spread = sent.stream()
                .collect(Collectors.groupingBy(result -> result.getMessageQueue().getBrokerName(), Collectors.counting()));
            assertEquals(Set.of("broker-a", "broker-b"), spread.keySet());
            assertTrue(spread.values().stream().allMatch(count -> count >= 20), "spread " + spread);
            Inbox inbox = new Inbox();
            session.consumer(Clients.unique("cluster"), topic, "*", inbox);
            inbox.awaitExactly(ids(sent));

            brokerB.kill();
            namesrv1.kill();
            List<SendResult> sentToOne = send(producer, topic, 80);
            assertTrue(sentToOne.stream().allMatch(result -> result.getMessageQueue().getBrokerName().equals("broker-a")));
            inbox.awaitAll(ids(sentToOne));

            DefaultMQProducer lateProducer = session.producer();
            Await.until(Duration.ofSeconds(10), () -> {
                try {
                    return lateProducer.send(new Message(topic, new byte[] {1})).getSendStatus() == SendStatus.SEND_OK ? null : "not stored";
                } catch (Exception e) {
                    return e.toString();
                }
            });
        } finally {
            Server.delete(directory);
        }
    }

    private static Path folder(Path directory, String name) throws Exception {
        return Files.createDirectory(directory.resolve(name));
    }

    private static void awaitQueues(String namesrv, String topic, int count) throws Exception {
        try (TopicReader reader = new TopicReader(namesrv)) {
            Await.until(Duration.ofSeconds(10), () -> {
                try {
                    int queues = reader.queues(topic).size();
                    return queues == count ? null : queues + " queues at " + namesrv;
                } catch (Exception e) {
                    return e.toString();
                }
            });
        }
    }

    private static List<SendResult> send(DefaultMQProducer producer, String topic, int count) throws Exception {
        List<SendResult> results = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            SendResult result = producer.send(new Message(topic, new byte[] {1}));
            assertEquals(SendStatus.SEND_OK, result.getSendStatus());
            results.add(result);
        }
        return results;
    }

    private static List<String> ids(List<SendResult> results) {
        return results.stream().map(SendResult::getMsgId).toList();
    }
}
