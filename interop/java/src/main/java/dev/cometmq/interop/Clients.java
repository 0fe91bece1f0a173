package dev.cometmq.interop;

import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.ClientConfig;

/** Settings that every official client of this project needs, whatever its kind. */
final class Clients {
    private static final AtomicLong COUNTER = new AtomicLong(System.currentTimeMillis());

    private Clients() {
    }

    /** A topic, group or instance name that no other test, run or process uses. */
    static String unique(String prefix) {
        return prefix + "-" + ProcessHandle.current().pid() + "-" + Long.toString(COUNTER.incrementAndGet(), 36);
    }

    /**
     * Points a client at its name servers and gives it an instance of its own: clients of one instance name share
     * connections, routes and the name-server list, and two consumers of one group would count as one.
     */
    static <C extends ClientConfig> C separate(C client, String namesrv) {
        client.setNamesrvAddr(namesrv);
        client.setInstanceName(unique("instance"));
        return client;
    }
}
