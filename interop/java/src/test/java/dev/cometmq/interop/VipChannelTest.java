package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** The broker's second port, two below the first: old producers send there without being asked to. */
@ExtendWith(SharedServer.class)
class VipChannelTest {
    private static final String ESTABLISHED = "01";

    private final Server server;

    VipChannelTest(Server server) {
        this.server = server;
    }

    /** Sends through the VIP channel are stored like any others, under the broker's main address. */
    @Test
    void sendsThroughTheVipChannel() throws Exception {
        try (Session session = new Session(server)) {
            DefaultMQProducer producer = session.newProducer();
            producer.setVipChannelEnabled(true);
            sendAndReadBack(session, session.start(producer));
            assertTrue(connected(server.brokerPort() - 2), "a connection to the VIP port");
        }
    }

    /** The default of 4.3.2 is the VIP channel, that of the later versions is not; both work untouched. */
    @Test
    void sendsThroughTheDefaultChannel() throws Exception {
        boolean old = System.getProperty("rocketmq.version").startsWith("4.3.");
        try (Session session = new Session(server)) {
            Await.until(Duration.ofSeconds(5), () -> !old && connected(server.brokerPort() - 2)
                ? "connections of the other test are still open" : null);
            DefaultMQProducer producer = session.newProducer();
            assertEquals(old, producer.isVipChannelEnabled());
            sendAndReadBack(session, session.start(producer));
            if (old) {
                assertTrue(connected(server.brokerPort() - 2), "a connection to the VIP port");
            } else {
                assertFalse(connected(server.brokerPort() - 2), "no connection to the VIP port");
            }
        }
    }

    private void sendAndReadBack(Session session, DefaultMQProducer producer) throws Exception {
        String topic = Clients.unique("vip");
        for (int i = 0; i < 50; i++) {
            SendResult result = producer.send(new Message(topic, new byte[] {(byte) i}));
            assertEquals(SendStatus.SEND_OK, result.getSendStatus());
            assertTrue(result.getOffsetMsgId().startsWith(String.format("7F000001%08X", server.brokerPort())), result.toString());
        }
        assertEquals(50, session.reader().readAll(topic).size());
    }

    /** Whether this machine has an established connection to a local server port, by the kernel's tables. */
    private static boolean connected(int port) {
        String remote = String.format(":%04X " + ESTABLISHED + " ", port);
        try {
            return Files.readString(Path.of("/proc/net/tcp")).contains(remote)
                || Files.readString(Path.of("/proc/net/tcp6")).contains(remote);
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
    }
}
