package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** The load generator counts what it sent and received, and its figures are plausible. */
@ExtendWith(SharedServer.class)
class LoadTest {
    private final Server server;

    LoadTest(Server server) {
        this.server = server;
    }

    /** Everything sent, in either mode, is received by a group that starts afterwards. */
    @Test
    void sendsAndConsumes() throws Exception {
        String topic = Clients.unique("load");
        String sync = Load.run("send", "--namesrv", server.namesrv(), "--topic", topic, "--threads", "2", "--size", "100",
            "--count", "500", "--warmup", "20", "--server-pid", server.pids());
        checkResult(sync, "sent", 500);
        assertTrue(field(sync, "server_rss_kib") > 1000, sync);
        checkResult(Load.run("send", "--namesrv", server.namesrv(), "--topic", topic, "--threads", "2", "--size", "100",
            "--count", "1000", "--async", "16"), "sent", 1000);
        assertEquals(1520, readableMessages(topic));
        checkResult(Load.run("consume", "--namesrv", server.namesrv(), "--topic", topic, "--group", Clients.unique("load"),
            "--count", "1500", "--warmup", "20"), "received", 1500);
    }

    private int readableMessages(String topic) throws Exception {
        try (TopicReader reader = new TopicReader(server.namesrv())) {
            return reader.readAll(topic).size();
        }
    }

    private static void checkResult(String line, String counted, long count) {
        assertEquals(count, field(line, counted), line);
        assertEquals(0, field(line, "failed"), line);
        assertTrue(field(line, "rate") > 0, line);
        assertTrue(field(line, "p50_us") > 0 && field(line, "p50_us") <= field(line, "p99_us")
            && field(line, "p99_us") <= field(line, "p999_us") && field(line, "p999_us") <= field(line, "max_us"), line);
    }

    private static double field(String line, String name) {
        Matcher matcher = Pattern.compile("\"" + name + "\":([0-9.]+)[,}]").matcher(line);
        assertTrue(matcher.find(), name + " in " + line);
        return Double.parseDouble(matcher.group(1));
    }
}
