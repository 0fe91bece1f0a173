package dev.cometmq.interop;

import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.util.concurrent.ThreadLocalRandom;
import java.util.stream.IntStream;

/**
 * Free ports below the range from which the system takes ports for outgoing connections, so that a server that is
 * restarted finds its ports still free.
 */
final class Ports {
    private Ports() {
    }

    static int namesrv() {
        return free(0, 0);
    }

    /** A port whose neighbours -2 (VIP channel) and +1 (replication) are free as well. */
    static int broker() {
        return free(-2, 1);
    }

    private static int free(int lowest, int highest) {
        while (true) {
            int port = ThreadLocalRandom.current().nextInt(15_000, 32_000);
            if (IntStream.rangeClosed(lowest, highest).allMatch(step -> isFree(port + step))) {
                return port;
            }
        }
    }

    private static boolean isFree(int port) {
        for (InetAddress address : new InetAddress[] {InetAddress.getLoopbackAddress(), new InetSocketAddress(0).getAddress()}) {
            try (ServerSocket socket = new ServerSocket()) {
                socket.bind(new InetSocketAddress(address, port));
            } catch (IOException e) {
                return false;
            }
        }
        return true;
    }
}
